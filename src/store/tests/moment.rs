//! A clock that is set loses nothing.

use super::*;
use proptest::prelude::*;

const DAY: Duration = Duration::from_secs(86_400);

/// What the clocks say in boot `boot`, `minutes` after its start.
fn at(boot: u128, minutes: u64, wall: Time, is_synchronised: bool) -> Reading {
    let wall = Duration::from_millis(wall.as_millis());
    Reading { boot, since_boot: Duration::from_secs(60 * minutes), wall, is_synchronised }
}

/// How much of the gateway's time passes between two processes.
fn passes(before: Reading, after: Reading) -> Duration {
    let last = Moment { time: NOW, reading: before };
    Moment::resumed(Some(last), Time::default(), after).time - NOW
}

#[test]
fn a_clock_that_is_set_is_no_time_that_passes() {
    let since_1970 = Time::from_secs(20);
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    for (before, after, passed) in [
        // In one boot, whatever the wall clock says.
        (at(1, 1, since_1970, false), at(1, 4, NOW, true), minutes(3)),
        (at(1, 1, NOW, true), at(1, 4, NOW + 2 * DAY, true), minutes(3)),
        (at(1, 1, NOW + 2 * DAY, true), at(1, 4, NOW, true), minutes(3)),
        (at(1, 4, NOW, true), at(1, 1, NOW, true), minutes(0)),
        // In another, where both clocks are right.
        (at(1, 1, NOW, true), at(2, 1, NOW + DAY, true), DAY),
        (at(1, 1, NOW, true), at(0, 1, NOW + DAY, true), DAY),
        (at(0, 1, NOW, true), at(0, 9, NOW + DAY, true), DAY),
        (at(1, 1, NOW + DAY, true), at(2, 1, NOW, true), minutes(0)),
        // Where one of them may be wrong.
        (at(1, 1, since_1970, false), at(2, 1, NOW, true), minutes(0)),
        (at(1, 1, NOW, false), at(2, 1, NOW + 2 * DAY, true), minutes(0)),
        (at(1, 1, NOW, true), at(2, 1, since_1970, false), minutes(0)),
        (at(1, 1, NOW, true), at(2, 1, NOW + 2 * DAY, false), minutes(0)),
        (at(1, 1, NOW, true), at(2, 1, NOW + minutes(1), false), minutes(1)),
    ] {
        assert_eq!(passes(before, after), passed, "{before:?} {after:?}");
    }
}

#[test]
fn time_goes_on_behind_the_newest_row_and_a_first_start_goes_by_the_wall_clock() {
    let newest = NOW + DAY;
    let begun = |wall, is_synchronised| Moment::resumed(None, newest, at(1, 0, wall, is_synchronised)).time;
    assert_eq!(begun(NOW, true), NOW);
    assert_eq!(begun(Time::from_secs(20), false), newest, "rows of a kamei that noted no time");
    let last = Moment { time: NOW, reading: at(1, 1, NOW, true) };
    assert_eq!(Moment::resumed(Some(last), newest, at(1, 2, NOW, true)).time, newest);
    let far = Moment::resumed(None, Time::default(), at(1, 0, Time::from_millis(u64::MAX), true));
    assert!(far.time.as_secs() < u32::MAX, "there is room for it to go on");
}

#[test]
fn times_are_shown_as_the_wall_clock_has_them() {
    let ahead = |time, wall| Moment { time, reading: at(1, 1, wall, true) }.seconds_ahead();
    assert_eq!(ahead(NOW, NOW + Duration::from_millis(1400)), 0);
    assert_eq!(ahead(NOW, NOW + Duration::from_millis(2600)), 3);
    assert_eq!(ahead(NOW + 2 * DAY, NOW), -172_800);
    assert_eq!(ahead(Time::from_secs(20), NOW), 1_800_000_000 - 20);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_was_noted_is_read_again_and_nothing_else(
        time: u64, boot: u128, since_boot: u64, wall: u64, is_synchronised: bool, other: i64
    ) {
        let directory = private_directory();
        let store = Database::open(&directory.path().join("kamei.db")).unwrap();
        prop_assert_eq!(store.moment().unwrap(), None);
        let (since_boot, wall) = (Duration::from_millis(since_boot), Duration::from_millis(wall));
        let moment =
            Moment { time: Time::from_millis(time), reading: Reading { boot, since_boot, wall, is_synchronised } };
        store.note(&moment).unwrap();
        prop_assert_eq!(store.moment().unwrap(), Some(moment));
        let (far, now) = (Reading { wall: Duration::MAX, ..moment.reading }, moment.reading);
        Moment::resumed(Some(moment), Time::default(), far); // whatever it says
        Moment::resumed(Some(Moment { time: moment.time, reading: far }), Time::default(), now).seconds_ahead();
        let by_hand = rusqlite::Connection::open(directory.path().join("kamei.db")).unwrap();
        for damage in [
            format!("UPDATE clock SET time = {other}, sum = sum + (time = {other})"),
            "UPDATE clock SET boot = x'00'".to_owned(),
            "UPDATE clock SET synchronised = 7".to_owned(),
        ] {
            by_hand.execute_batch(&damage).unwrap();
            prop_assert_eq!(store.moment().unwrap(), None);
        }
    }
}

/// What a gateway finds that starts on the state file of the last one, when the clocks say `reading`; it runs for
/// `minutes`, in which the wall clock becomes `set`.
fn run(directory: &Path, reading: Reading, minutes: u64, set: Option<Time>) -> (Vec<StoredBinding>, Moment) {
    let state = StateFile::take(directory, "kamei").unwrap();
    let opened = state.open(jiff::Timestamp::UNIX_EPOCH, &mut |line| panic!("{line}")).unwrap();
    let start = opened.resumed(reading);
    let nat = nat();
    let (store, _) = Store::start(opened, Arc::clone(&nat), SETTINGS, move || start);
    let found = nat.stored_bindings().collect();
    let passed = Duration::from_secs(60 * minutes);
    let wall = set.map_or(reading.wall + passed, |set| Duration::from_millis(set.as_millis()));
    let end = Moment {
        time: start.time + passed,
        reading: Reading {
            since_boot: reading.since_boot + passed,
            wall,
            is_synchronised: reading.is_synchronised || set.is_some(),
            ..reading
        },
    };
    Writer::start(Arc::clone(&store), Duration::from_secs(3600), move || end, || ()).unwrap().stop();
    (found, end)
}

/// A gateway has run on a machine whose clock was wrong, and its terminal has called.
fn called(directory: &Path, wrong: Time) -> (Vec<StoredBinding>, Time) {
    let reading = at(1, 1, wrong, false);
    run(directory, reading, 0, None);
    let mut scene = Scene::at(directory, reading);
    scene.record(1);
    let (bindings, now) = (scene.bindings(), scene.now);
    scene.keep().stop();
    (bindings, now)
}

#[test]
fn bindings_and_contacts_of_a_machine_whose_clock_was_not_set_are_as_they_were_when_it_is() {
    for wrong in [Time::from_secs(20), Time::from_millis(NOW.as_millis() - 172_800_000), NOW + 2 * DAY] {
        let directory = private_directory();
        let (before, began) = called(directory.path(), wrong);
        assert_eq!((before[0].state, before[0].contacts.len()), (BindingState::Active, 1));
        // The clock is set while it runs; then it is started again, in the same boot and in others.
        let (found, set) = run(directory.path(), at(1, 2, wrong, false), 1, Some(NOW));
        assert_eq!(found, before, "{wrong:?}");
        let again = at(1, 4, NOW + Duration::from_secs(60), true);
        let (found, moment) = run(directory.path(), again, 1, None);
        assert_eq!((found, moment.time - set.time), (before.clone(), Duration::from_secs(120)));
        // As it is shown, it was made when it was.
        let exported = look(directory.path(), "kamei", &Progress::default()).unwrap().bindings;
        let age = moment.reading.wall - Duration::from_secs(exported[0].created.into());
        assert!(age.abs_diff(moment.time - Time::from_secs(before[0].created.into())) < Duration::from_secs(2));
        // It is started again, and the clock is as wrong as at first.
        let (found, moment) = run(directory.path(), at(2, 0, wrong, false), 1, None);
        assert_eq!(found, before);
        assert!(moment.time - began < Duration::from_secs(3600), "{moment:?}");
    }
}

#[test]
fn a_file_that_is_written_anew_or_salvaged_keeps_the_time() {
    let directory = private_directory();
    called(directory.path(), Time::from_secs(20));
    let (_, end) = run(directory.path(), at(1, 2, Time::from_secs(80), false), 1, Some(NOW));
    let file = rusqlite::Connection::open(directory.path().join("kamei.db")).unwrap();
    file.execute_batch("UPDATE bindings SET callbacks = 77").unwrap();
    drop(file);
    let state = StateFile::take(directory.path(), "kamei").unwrap();
    let opened = state.open(jiff::Timestamp::UNIX_EPOCH, &mut |_| ()).unwrap();
    assert_eq!(opened.resumed(end.reading).time, end.time);
    drop(opened);
    // What is imported has times of the wall clock.
    StateFile::take(directory.path(), "kamei").unwrap().replace(&[]).unwrap();
    let opened = StateFile::take(directory.path(), "kamei").unwrap();
    let opened = opened.open(jiff::Timestamp::UNIX_EPOCH, &mut |line| panic!("{line}")).unwrap();
    assert_eq!(opened.resumed(end.reading).time, NOW);
}
