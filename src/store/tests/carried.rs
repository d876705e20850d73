//! A history that is older or younger than its bindings, large, moved elsewhere, or made of moments that are close together.

use super::*;
use crate::config::parse_callback;
use history::{Checked, Entry, Incoming, Outgoing};

const HOUR: Duration = Duration::from_secs(3600);

fn all(scene: &Scene) -> Vec<Entry> {
    scene.store.history(&HistoryQuestion { limit: Some(1000), ..HistoryQuestion::default() }).unwrap().entries
}

fn events(scene: &Scene) -> Vec<(Happened, String)> {
    all(scene).into_iter().map(|entry| (entry.event, entry.by)).collect()
}

fn anyone() -> CallbackPolicy {
    parse_callback(&["anyone".to_owned()]).unwrap()
}

/// With two bindings that were made before any history was kept.
fn older_than_the_history(directory: &Path) -> (Scene, [IpAddr; 2]) {
    let without = StoreSettings { history: None, ..SETTINGS };
    let mut scene = Scene::try_with(directory, moment(NOW).reading, without).unwrap();
    let virtual_ips = [scene.record(1), scene.record(2)];
    scene.pass(HOUR);
    let writer = scene.keep();
    writer.stop();
    let reading = scene.reading;
    drop(scene);
    (Scene::at(directory, reading), virtual_ips)
}

fn by(events: &[(Happened, &str)]) -> Vec<(Happened, String)> {
    events.iter().map(|(what, by)| (*what, (*by).to_owned())).collect()
}

#[test]
fn what_is_done_to_a_binding_that_is_older_than_the_history_is_in_it() {
    let directory = private_directory();
    let (mut scene, [first, second]) = older_than_the_history(directory.path());
    let writer = scene.keep();
    let operator = By::Operator(1000);
    scene.pass(HOUR);
    scene.nat.set_callback(&first.into(), Some(&anyone()), scene.now).unwrap();
    scene.store.record_and_sync(&[first], Happened::Callback, operator).unwrap();
    assert_eq!(all(&scene)[0].callback.as_deref(), Some("anyone"));
    scene.nat.pin("10.0.0.2".parse().unwrap(), second, scene.now).unwrap();
    scene.store.record_and_sync(&[second], Happened::Pinned, operator).unwrap();
    assert_eq!(events(&scene), by(&[(Happened::Callback, "command"), (Happened::Pinned, "command")]));
    drop(writer);
}

#[test]
fn who_may_call_again_as_the_pool_has_it_is_in_the_history_and_an_old_pin_is_no_news() {
    let directory = private_directory();
    let without = StoreSettings { history: None, ..SETTINGS };
    let mut scene = Scene::try_with(directory.path(), moment(NOW).reading, without).unwrap();
    let virtual_ip = scene.record(1);
    scene.nat.pin("10.0.0.1".parse().unwrap(), virtual_ip, scene.now).unwrap();
    scene.nat.set_callback(&virtual_ip.into(), Some(&anyone()), scene.now).unwrap();
    scene.store.record(&[virtual_ip]).unwrap();
    scene.pass(HOUR);
    scene.keep().stop();
    let reading = scene.reading;
    drop(scene);
    let mut scene = Scene::at(directory.path(), reading);
    let writer = scene.keep();
    scene.pass(HOUR);
    scene.nat.set_callback(&virtual_ip.into(), None, scene.now).unwrap();
    scene.store.record_and_sync(&[virtual_ip], Happened::Callback, By::Operator(0)).unwrap();
    assert_eq!(events(&scene), by(&[(Happened::Callback, "command")]));
    drop(writer);
}

#[test]
fn a_binding_that_is_kept_aside_is_in_the_history_with_its_policy_however_old_it_is() {
    let directory = private_directory();
    let (mut scene, [older, _]) = older_than_the_history(directory.path());
    let writer = scene.keep();
    let younger = scene.record(3);
    scene.nat.set_callback(&younger.into(), Some(&anyone()), scene.now).unwrap();
    scene.store.record_and_sync(&[younger], Happened::Callback, By::Operator(0)).unwrap();
    scene.pass(HOUR);
    let aside = |virtual_ip: IpAddr| scene.nat.find(virtual_ip, scene.now)[0].to_store();
    scene.store.note_aside([aside(older), aside(younger)].into_iter(), By::Reload);
    let all = all(&scene);
    let last: Vec<_> =
        all[2..].iter().map(|entry| (entry.virtual_ip, entry.event, entry.callback.as_deref())).collect();
    assert_eq!(last, [(older, Happened::KeptAside, None), (younger, Happened::KeptAside, Some("anyone"))]);
    drop(writer);
}

#[test]
fn a_virtual_ip_that_is_given_anew_within_a_second_has_each_owner_at_his_time() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    let writer = scene.keep();
    scene.pass(HOUR);
    let virtual_ip = scene.record(1);
    let tenth = Duration::from_millis(100);
    scene.pass(3 * tenth);
    let released = scene.now.as_millis();
    scene.nat.release(virtual_ip, scene.now).unwrap();
    scene.store.record_and_sync(&[virtual_ip], Happened::Released, By::Operator(0)).unwrap();
    scene.pass(3 * tenth);
    let given = scene.now.as_millis();
    scene.nat.pin_named(&"10.0.0.2".parse().unwrap(), virtual_ip, true, scene.now).unwrap();
    scene.store.record_and_sync(&[virtual_ip], Happened::Pinned, By::Operator(0)).unwrap();
    scene.pass(tenth);
    let at = |at: u64| {
        let question = HistoryQuestion { virtual_ip: Some(virtual_ip), at: Some(at), ..HistoryQuestion::default() };
        let owner = scene.store.history(&question).unwrap().owners.remove(0).owner?;
        Some((owner.terminal.to_string(), owner.since, owner.until))
    };
    let (first, second) = ("10.0.0.1".to_owned(), "10.0.0.2".to_owned());
    assert_eq!(at(released - 1), Some((first, released - 300, Some(released))));
    assert_eq!(at(released + 1), None);
    assert_eq!(at(given + 1), Some((second, given, None)), "not since before the other's end");
    drop(writer);
}

/// A history of so many bindings, all of one terminal.
fn large(directory: &Path, number: u32) {
    let mut scene = Scene::on(directory);
    scene.record(1);
    let one = StoredBinding { contacts: Vec::new(), ..scene.bindings().remove(0) };
    drop(scene);
    let bindings = (0..number).map(|number| {
        let virtual_ip = std::net::Ipv4Addr::from_bits(0xc613_0000 + number).into();
        StoredBinding { virtual_ip, ..one.clone() }
    });
    let bindings: Vec<StoredBinding> = bindings.collect();
    let later = moment(NOW + HOUR).reading;
    let later = Reading { since_boot: later.since_boot + HOUR, ..later };
    history::note_import(&directory.join("kamei.db"), &[], &bindings, later, 0).unwrap();
}

#[test]
fn no_question_reads_more_than_a_bounded_part_and_the_next_goes_on_from_there() {
    let directory = private_directory();
    large(directory.path(), 12_000);
    let look = |question: &HistoryQuestion| history::look(directory.path(), "kamei", question).unwrap();
    let terminal = |named: &str| Some(named.parse().unwrap());
    let elsewhere = HistoryQuestion { terminal: terminal("10.0.0.1@south"), ..HistoryQuestion::default() };
    let first = look(&elsewhere);
    assert!(first.entries.is_empty() && first.more.is_some(), "{first:?}");
    let second = look(&HistoryQuestion { before: first.more, ..elsewhere });
    assert!(second.entries.is_empty() && second.more.is_none(), "{second:?}");
    let at = Some((NOW + 2 * HOUR).as_millis());
    let had = look(&HistoryQuestion { terminal: terminal("10.0.0.1"), at, ..HistoryQuestion::default() });
    assert!(had.left_out && (900..=1000).contains(&had.owners.len()), "{} of all", had.owners.len());
}

#[test]
fn what_is_removed_from_a_large_history_is_given_back_to_the_disk() {
    let directory = private_directory();
    large(directory.path(), 12_000);
    let size = || std::fs::metadata(directory.path().join("kamei.history")).unwrap().len();
    let before = size();
    let scene = Scene::on(directory.path());
    scene.turn_history();
    assert!(all(&scene).len() <= 1000);
    drop(scene);
    assert!(size() < before / 3, "{} of {before} bytes", size());
}

fn lines(state_file: &Path) -> (Vec<u8>, Checked) {
    let mut text = Vec::new();
    let checked = Outgoing::look(state_file).unwrap().unwrap().write(&mut text).unwrap();
    (text, checked)
}

fn read(state_file: &Path, text: &[u8]) -> Result<Option<u64>, String> {
    let mut incoming = Incoming::new(state_file);
    text.split_inclusive(|byte| *byte == b'\n').try_for_each(|line| incoming.line(line))?;
    incoming.finish()
}

#[test]
fn a_history_is_the_same_after_export_and_import_elsewhere() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    let virtual_ip = scene.record(1);
    scene.pass(HOUR);
    let writer = scene.keep();
    scene.nat.set_callback(&virtual_ip.into(), Some(&anyone()), scene.now).unwrap();
    scene.store.record_and_sync(&[virtual_ip], Happened::Callback, By::Operator(1000)).unwrap();
    scene.nat.release(virtual_ip, scene.now).unwrap();
    scene.store.record_and_sync(&[virtual_ip], Happened::Released, By::Operator(0)).unwrap();
    // Set back meanwhile, so that a time is there twice.
    scene.pass(HOUR);
    scene.reading.wall -= 3 * HOUR / 2;
    scene.pass(Duration::ZERO);
    let before = all(&scene);
    let question = |at: Duration| HistoryQuestion {
        virtual_ip: Some(virtual_ip),
        at: Some((NOW + at).as_millis()),
        ..HistoryQuestion::default()
    };
    let owners = scene.store.history(&question(HOUR / 2)).unwrap().owners;
    assert_eq!((before.len(), owners.len()), (3, 2));
    let state_file = directory.path().join("kamei.db");
    let (text, checked) = lines(&state_file);
    assert_eq!(checked, Checked { entries: 3, damaged: 0 });
    drop(writer);
    let elsewhere = private_directory();
    let mut other = Scene::on(elsewhere.path());
    other.record(7);
    drop(other);
    let there = elsewhere.path().join("kamei.db");
    assert_eq!(read(&there, &text), Ok(Some(3)));
    assert_eq!(lines(&there), (text, checked));
    let former = elsewhere.path().join("kamei.history.before-import");
    assert!(former.exists() && !elsewhere.path().join("kamei.history.import").exists());
    let old = std::time::SystemTime::now() - Duration::from_secs(181 * 86_400);
    std::fs::File::options().write(true).open(&former).unwrap().set_modified(old).unwrap();
    // Another machine, much later.
    let reading = Reading { boot: 2, wall: scene.reading.wall + 100 * HOUR, ..scene.reading };
    let other = Scene::at(elsewhere.path(), reading);
    other.turn_history();
    let again = all(&other);
    assert_eq!(again[..3], before);
    assert_eq!(other.store.history(&question(HOUR / 2)).unwrap().owners, owners);
    assert!(!former.exists(), "no entry is kept for longer than the history is");
}

#[test]
fn a_history_of_which_one_line_is_wrong_changes_nothing() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    scene.record(1);
    scene.record(2);
    scene.store.history(&HistoryQuestion::default()).unwrap();
    drop(scene);
    let state_file = directory.path().join("kamei.db");
    let (text, _) = lines(&state_file);
    let text = String::from_utf8(text).unwrap();
    let last = text.lines().last().unwrap();
    for (from, to, why) in [
        ("\"version\":1", "\"version\":2", "version 2"),
        ("\"event\":\"made\"", "\"event\":\"mad\"", "unknown variant"),
        ("\"by\":\"gateway\"", "\"by\":\"command\"", "lacks a uid"),
        ("\"terminal\":\"10.0.0.2\"", "\"terminal\":\"fd00::1\"", "families"),
        ("\"inside\":\"inside\"", "\"inside\":\"in side\"", "name of an inside"),
        ("{\"clock\"", "{\"cluck\"", "unknown variant"),
        ("\"time\":", "\"time\":99999", "too far away"),
        (last, &format!("{last}\n{last}"), "is not behind"),
        (last, &last[..last.len() / 2], "while parsing"),
    ] {
        let error = read(&state_file, text.replacen(from, to, 1).as_bytes()).unwrap_err();
        assert!(error.contains(why), "{error} for {to}");
        assert_eq!(lines(&state_file).0, text.as_bytes(), "{why}");
    }
    assert_eq!(read(&state_file, b""), Ok(None));
    let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    assert!(names.iter().all(|name| !name.contains("import")), "{names:?}");
    let mut both = Vec::new();
    write_lines(&[], &mut both).unwrap();
    both.extend(text.bytes());
    let mut seen = 0;
    let bindings = read_lines_with(&mut both.as_slice(), &mut |_| {
        seen += 1;
        Ok(())
    });
    assert_eq!((bindings.unwrap(), seen), (Vec::new(), text.lines().count()));
}
