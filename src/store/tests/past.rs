//! Who had which virtual IP when, across ends, floods, clocks that are set, and files that are damaged.

use super::*;
use history::{ClockState, Owner};

const HOUR: Duration = Duration::from_secs(3600);

fn directory_of(scene: Scene, directory: &Path) -> tempfile::TempDir {
    // Nothing is closed in order: what the system has is all there is.
    std::mem::forget(scene.store);
    let copy = private_directory();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if !name.to_string_lossy().ends_with("-shm") {
            std::fs::copy(entry.path(), copy.path().join(name)).unwrap();
        }
    }
    copy
}

/// The time on the wall, so long after the begin.
fn after(begin: Duration) -> u64 {
    (NOW + begin).as_millis()
}

fn owners(scene: &Scene, virtual_ip: IpAddr, at: u64) -> Vec<Owner> {
    let question = HistoryQuestion { virtual_ip: Some(virtual_ip), at: Some(at), ..HistoryQuestion::default() };
    scene.store.history(&question).unwrap().owners
}

/// The last number of the terminal that had it, and whether that nobody had is certain.
fn owner(scene: &Scene, virtual_ip: IpAddr, at: u64) -> Result<u8, bool> {
    let owners = owners(scene, virtual_ip, at);
    assert_eq!(owners.len(), 1, "{owners:?}");
    owners[0].owner.as_ref().map(|owner| last_number(owner.terminal)).ok_or(owners[0].certain)
}

fn last_number(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    }
}

fn events(scene: &Scene, question: HistoryQuestion) -> Vec<(Happened, String)> {
    let answer = scene.store.history(&question).unwrap();
    answer.entries.into_iter().map(|entry| (entry.event, entry.by)).collect()
}

#[test]
fn who_had_a_virtual_ip_is_known_for_every_time_and_after_a_kill() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    scene.pass(HOUR);
    let virtual_ip = scene.record(1);
    scene.pass(HOUR);
    scene.nat.release(virtual_ip, scene.now).unwrap();
    let store = Arc::clone(&scene.store);
    let writer = scene.keep();
    store.record_and_sync(&[virtual_ip], Happened::Released, By::Operator(1000)).unwrap();
    scene.pass(HOUR);
    while scene.nat.stored(virtual_ip).is_some() {
        let now = scene.now;
        scene.nat.tick(now, &mut |event| store.mark(event.virtual_ip.into(), By::Itself));
        scene.pass(HOUR);
    }
    scene.nat.pin("10.0.0.2".parse().unwrap(), virtual_ip, scene.now).unwrap();
    store.record_and_sync(&[virtual_ip], Happened::Pinned, By::Operator(0)).unwrap();
    let given = scene.now;
    scene.pass(HOUR);
    let check = |scene: &Scene, how: &str| {
        let minute = Duration::from_secs(60);
        assert_eq!(owner(scene, virtual_ip, after(HOUR / 2)), Err(true), "{how}: nobody yet");
        assert_eq!(owner(scene, virtual_ip, after(HOUR)), Ok(1), "{how}");
        assert_eq!(owner(scene, virtual_ip, after(2 * HOUR - minute)), Ok(1), "{how}");
        assert_eq!(owner(scene, virtual_ip, after(2 * HOUR + minute)), Err(true), "{how}: quarantined");
        assert_eq!(owner(scene, virtual_ip, given.as_millis() - 1), Err(true), "{how}");
        assert_eq!(owner(scene, virtual_ip, given.as_millis() + 1), Ok(2), "{how}");
        let before = owner(scene, virtual_ip, after(HOUR / 2) - after(Duration::ZERO));
        assert_eq!(before, Err(false), "{how}: no history yet, so nobody can say");
        let first = owners(scene, virtual_ip, after(HOUR)).remove(0);
        let had = first.owner.unwrap();
        assert_eq!((had.since, had.until), (after(HOUR), Some(after(2 * HOUR))), "{how}");
        assert_eq!((had.ended_by.as_deref(), had.ended_by_uid), (Some("command"), Some(1000)), "{how}");
        assert_eq!(first.clock, ClockState::Synchronised);
        let all = events(scene, HistoryQuestion { virtual_ip: Some(virtual_ip), ..HistoryQuestion::default() });
        let of = |by: &str, what| (what, by.to_owned());
        let expected = [
            of("gateway", Happened::Made),
            of("command", Happened::Released),
            of("command", Happened::Made),
            of("command", Happened::Pinned),
        ];
        assert_eq!(all, expected, "{how}");
        let of_terminal = HistoryQuestion { terminal: Some("10.0.0.2@inside".parse().unwrap()), ..Default::default() };
        assert_eq!(events(scene, of_terminal.clone()).len(), 2, "{how}");
        let at = Some(given.as_millis() + 1);
        let had = scene.store.history(&HistoryQuestion { at, ..of_terminal }).unwrap().owners;
        assert_eq!(had.iter().map(|owner| owner.virtual_ip).collect::<Vec<_>>(), [virtual_ip], "{how}");
    };
    check(&scene, "running");
    drop(store);
    std::mem::forget(writer);
    let reading = scene.reading;
    let copy = directory_of(scene, directory.path());
    let again = Scene::at(copy.path(), reading);
    check(&again, "after a kill");
    drop(again);
    let question =
        HistoryQuestion { virtual_ip: Some(virtual_ip), at: Some(after(HOUR)), ..HistoryQuestion::default() };
    let found = history::look(copy.path(), "kamei", &question).unwrap();
    assert_eq!(last_number(found.owners[0].owner.as_ref().unwrap().terminal), 1, "while none runs");
}

#[test]
fn what_a_killed_process_has_not_come_to_write_is_found_by_the_next() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    scene.pass(HOUR);
    let (kept, released) = (scene.record(1), scene.record(2));
    scene.pass(HOUR);
    scene.store.history(&HistoryQuestion::default()).unwrap();
    scene.nat.release(released, scene.now).unwrap();
    let late = scene.record(3);
    scene.store.record(&[released]).unwrap();
    let reading = scene.reading;
    let copy = directory_of(scene, directory.path());
    let mut again = Scene::at(copy.path(), reading);
    again.pass(HOUR);
    assert_eq!(owner(&again, kept, after(2 * HOUR)), Ok(1));
    assert_eq!(owner(&again, late, after(5 * HOUR / 2)), Ok(3));
    assert_eq!(
        (owner(&again, released, after(3 * HOUR / 2)), owner(&again, released, after(3 * HOUR))),
        (Ok(2), Err(true))
    );
}

#[test]
fn a_flood_of_bindings_that_nobody_answers_pushes_out_its_own_history_only() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    let honest = scene.record(1);
    let mut bytes = Vec::new();
    let IpAddr::V4(to) = honest else { panic!("{honest}") };
    let packet = etherparse::PacketBuilder::ipv4([192, 0, 2, 1], to.octets(), 64).udp(53, 5000);
    packet.write(&mut bytes, b"answer").unwrap();
    let verdict = scene.translator.translate(&mut Packet::new(&mut bytes), Realm::Outside, scene.now);
    assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
    scene.translator.flush(scene.now);
    assert!(scene.nat.stored(honest).unwrap().0.answered);
    scene.pass(HOUR);
    let flood: Vec<IpAddr> = (2..3000).map(|terminal| scene.record(terminal)).collect();
    scene.pass(2 * HOUR);
    for virtual_ip in &flood {
        scene.nat.release(*virtual_ip, scene.now).unwrap();
        scene.store.record(&[*virtual_ip]).unwrap();
    }
    scene.pass(2 * HOUR);
    scene.turn_history();
    let is_owned = owner(&scene, honest, after(HOUR));
    let status = scene.store.history_status();
    assert!(status.entries <= 1000 && status.removed > 4000, "{status:?}");
    assert_eq!(is_owned, Ok(1));
    let of_honest = HistoryQuestion { virtual_ip: Some(honest), ..HistoryQuestion::default() };
    assert_eq!(events(&scene, of_honest), [(Happened::Made, "gateway".to_owned())]);
    let mut unknown = flood.iter().filter(|virtual_ip| owner(&scene, **virtual_ip, after(2 * HOUR)) == Err(true));
    assert_eq!(unknown.next(), None, "who was pushed out is not said to be nobody");
}

#[test]
fn a_clock_that_is_set_back_has_two_answers_and_is_not_taken_for_right() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    scene.pass(HOUR);
    let virtual_ip = scene.record(1);
    scene.pass(HOUR);
    let writer = scene.keep();
    scene.nat.release(virtual_ip, scene.now).unwrap();
    scene.store.record_and_sync(&[virtual_ip], Happened::Released, By::Operator(0)).unwrap();
    writer.stop();
    scene.pass(HOUR);
    scene.reading.wall -= 2 * HOUR;
    scene.reading.is_synchronised = false;
    scene.pass(Duration::ZERO);
    assert_eq!(owners(&scene, virtual_ip, after(HOUR / 2)).len(), 1);
    scene.pass(HOUR);
    let twice = owners(&scene, virtual_ip, after(3 * HOUR / 2));
    let told: Vec<_> = twice.iter().map(|owner| (owner.owner.is_some(), owner.clock)).collect();
    assert_eq!(told, [(true, ClockState::Synchronised), (false, ClockState::Unsynchronised)]);
}

#[test]
fn a_history_that_is_damaged_or_cannot_be_written_costs_no_binding() {
    let directory = private_directory();
    let path = directory.path().join("kamei.history");
    let mut scene = Scene::on(directory.path());
    let virtual_ip = scene.record(1);
    drop(scene);
    std::fs::write(&path, vec![0x5a; 40_000]).unwrap();
    let scene = Scene::on(directory.path());
    assert_eq!(scene.bindings().len(), 1);
    assert!(directory.path().join("kamei.history.damaged").exists());
    let question =
        HistoryQuestion { virtual_ip: Some(virtual_ip), at: Some(after(HOUR)), ..HistoryQuestion::default() };
    let found = scene.store.history(&question).unwrap().owners.remove(0).owner.unwrap();
    assert_eq!(last_number(found.terminal), 1, "the binding is there, and says since when");
    drop(scene);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let mut scene = Scene::on(directory.path());
    scene.record(2);
    assert!(scene.store.history(&question).is_err());
    assert!(scene.store.history_status().failing.is_some());
}

#[test]
fn a_row_that_is_not_what_was_written_is_left_out_and_counted() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    scene.record(1);
    scene.record(2);
    scene.store.history(&HistoryQuestion::default()).unwrap();
    let file = rusqlite::Connection::open(directory.path().join("kamei.history")).unwrap();
    file.execute("UPDATE history SET terminal = x'0a090909' WHERE id = (SELECT min(id) FROM history)", []).unwrap();
    let answer = scene.store.history(&HistoryQuestion::default()).unwrap();
    assert_eq!((answer.entries.len(), answer.damaged), (1, 1));
}

#[test]
fn pages_go_back_without_a_gap() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    for terminal in 1..=25 {
        scene.record(terminal);
    }
    let (mut before, mut seen) = (None, Vec::new());
    loop {
        let question = HistoryQuestion { before, limit: Some(10), ..HistoryQuestion::default() };
        let answer = scene.store.history(&question).unwrap();
        seen.splice(0..0, answer.entries.iter().map(|entry| last_number(entry.terminal)));
        before = answer.more;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen, (1..=25).collect::<Vec<u8>>());
}

#[test]
fn a_history_that_is_switched_off_goes() {
    let directory = private_directory();
    drop(Scene::on(directory.path()));
    assert!(directory.path().join("kamei.history").exists());
    let off = StoreSettings { history: None, ..SETTINGS };
    let mut scene = Scene::try_with(directory.path(), moment(NOW).reading, off).unwrap();
    scene.record(1);
    assert!(!directory.path().join("kamei.history").exists());
    let said = scene.store.history(&HistoryQuestion::default()).unwrap_err();
    assert!(said.contains("this gateway keeps none"), "{said}");
}

#[test]
fn an_import_ends_what_it_replaces_and_says_who_did_it() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    scene.pass(HOUR);
    let virtual_ip = scene.record(1);
    let before = scene.bindings();
    scene.pass(HOUR);
    scene.keep().stop();
    let reading = scene.reading;
    drop(scene);
    let other = StoredBinding { terminal: "10.0.0.7".parse().unwrap(), ..before[0].clone() };
    let state = StateFile::take(directory.path(), "kamei").unwrap();
    let path = state.path().to_owned();
    state.replace(std::slice::from_ref(&other)).unwrap();
    let later = Reading { wall: reading.wall + HOUR, since_boot: reading.since_boot + HOUR, ..reading };
    history::note_import(&path, &before, &[other], later, 0).unwrap();
    let mut scene = Scene::at(directory.path(), later);
    scene.pass(HOUR);
    assert_eq!(owner(&scene, virtual_ip, after(5 * HOUR / 2)), Ok(1));
    assert_eq!(owner(&scene, virtual_ip, after(7 * HOUR / 2)), Ok(7));
    let all = events(&scene, HistoryQuestion { virtual_ip: Some(virtual_ip), ..HistoryQuestion::default() });
    let by: Vec<_> = all.iter().map(|(what, by)| (*what, by.as_str())).collect();
    assert_eq!(by, [(Happened::Made, "gateway"), (Happened::Released, "import"), (Happened::Made, "import")]);
}
