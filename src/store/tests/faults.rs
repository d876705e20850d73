//! Ends and errors at every write, and files that were damaged: no binding whose packet left is lost or another's.

use super::*;
use crate::testkit::fuzzed::{Fuzzed, cases};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// Directory in which a copy of this test program shall record bindings.
const CHILD: &str = "KAMEI_TEST_RECORDS";
/// Set if a sync has failed in it before its end.
const DOUBT: &str = "KAMEI_TEST_DOUBTS";
/// Terminals that call in it.
const CALLS: u32 = 12;
/// What the store does to its files.
const WRITES: [&str; 4] = ["pwrite64", "fdatasync", "fsync", "ftruncate"];

/// Records in the child; in the parent it is no test of its own.
#[test]
fn the_child_records_bindings_and_says_which_packets_leave() {
    use std::io::Write;
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let mut out = io::stderr();
    let Ok(mut scene) = Scene::try_on(Path::new(&directory)) else { return };
    for terminal in 1..=CALLS {
        let virtual_ip = match scene.try_call(terminal) {
            Some(virtual_ip) => virtual_ip,
            None => continue, // refused: the disk takes nothing
        };
        if let Ok(recorded) = scene.store.record(&[virtual_ip]) {
            scene.store.mark_recorded(&recorded);
            // The packet leaves.
            writeln!(out, "left {terminal} {virtual_ip}").unwrap();
        }
        if terminal == CALLS / 2 {
            let _ = scene.try_keep().map(Writer::stop);
        }
    }
    if std::env::var_os(DOUBT).is_some() {
        scene.store.fail(&StoreError::not_synced(scene.store.path(), &io::Error::from_raw_os_error(5)));
    }
    let _ = scene.try_keep().map(Writer::stop);
    writeln!(out, "done").unwrap();
}

/// Runs the child under strace, with a sync that failed if `in_doubt`; the packets that left, and whether it came to its end.
pub fn child(directory: &Path, inject: &str, in_doubt: bool) -> (BTreeMap<u32, IpAddr>, bool) {
    let test = "store::tests::faults::the_child_records_bindings_and_says_which_packets_leave";
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={inject}")])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, directory)
        .envs(in_doubt.then_some((DOUBT, "1")))
        .output()
        .expect("strace is needed: run scripts/setup");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() || output.status.signal() == Some(9) || output.status.code() == Some(137),
        "{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
    let left = said.lines().filter_map(|line| {
        let (terminal, virtual_ip) = line.strip_prefix("left ")?.split_once(' ')?;
        Some((terminal.parse().ok()?, virtual_ip.parse().ok()?))
    });
    (left.collect(), said.lines().any(|line| line == "done"))
}

/// What the file says: each packet that left has its binding, and no virtual IP is another's.
pub fn assert_all_there(directory: &Path, left: &BTreeMap<u32, IpAddr>, how: &str) {
    let scene = Scene::on(directory);
    assert!(scene.said.is_empty(), "{how}: {:?}", scene.said);
    let there: BTreeMap<IpAddr, IpAddr> =
        scene.bindings().into_iter().map(|binding| (binding.virtual_ip, binding.terminal)).collect();
    for (terminal, virtual_ip) in left {
        let [_, b, c, d] = terminal.to_be_bytes();
        assert_eq!(there.get(virtual_ip), Some(&IpAddr::from([10, b, c, d])), "{how}");
    }
}

#[test]
fn n3_killed_at_any_write_no_binding_whose_packet_left_is_lost() {
    for call in WRITES {
        for when in 1.. {
            let directory = private_directory();
            let how = format!("{call}:signal=KILL:when={when}");
            let (left, done) = child(directory.path(), &how, false);
            assert_all_there(directory.path(), &left, &how);
            if done {
                break; // it has no more such calls
            }
        }
    }
}

#[test]
fn n3_whatever_write_fails_no_packet_leaves_without_its_binding() {
    for call in WRITES {
        for (error, when) in
            [("ENOSPC", "1"), ("EIO", "9"), ("ENOSPC", "20+"), ("EIO", "20+"), ("ENOSPC", "31"), ("EROFS", "40+")]
        {
            let directory = private_directory();
            let how = format!("{call}:error={error}:when={when}");
            let (left, _) = child(directory.path(), &how, false);
            assert_all_there(directory.path(), &left, &how);
        }
    }
}

#[test]
fn a_full_disk_refuses_new_bindings_until_there_is_room() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    let known = scene.record(1);
    let store = Arc::clone(&scene.store);
    let limit_pages = |pages| store.with_backend(|backend| state_file(backend).limit_pages(pages)).unwrap();
    limit_pages(4);
    let mut first = None;
    for terminal in 2..2000 {
        let Some(virtual_ip) = scene.try_call(terminal) else { break };
        if scene.store.record(&[virtual_ip]).is_err() {
            first = Some((terminal, virtual_ip));
        }
    }
    let (refused, virtual_ip) = first.expect("the disk is full at some time");
    assert!(scene.store.status().failing.is_some_and(|why| why.contains("full")));
    assert_eq!(scene.try_call(refused), Some(virtual_ip), "its packets wait for the store still");
    assert_eq!(scene.try_call(5000), None, "others get no binding");
    limit_pages(1 << 30);
    scene.keep().stop();
    assert_eq!(scene.store.status().failing, None);
    scene.record(5000);
    drop((scene.store, store));
    let after = Scene::on(directory.path());
    let there = |virtual_ip| after.bindings().iter().any(|binding| binding.virtual_ip == virtual_ip);
    assert!(there(known) && there(virtual_ip), "what waited was written");
}

#[test]
fn contacts_that_cannot_be_written_are_written_later() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    let virtual_ip = scene.record(1);
    assert_eq!(scene.try_call_peer(1, 2), Some(virtual_ip));
    scene.nat.let_go(virtual_ip);
    let store = Arc::clone(&scene.store);
    let (taken, looks) = (Arc::new(Mutex::new(None)), AtomicU64::new(0));
    let now = {
        let (store, taken) = (Arc::clone(&store), Arc::clone(&taken));
        // The file is away from the first turn on.
        move || {
            if looks.fetch_add(1, Ordering::Relaxed) == 1 {
                *taken.lock() = store.take_backend();
            }
            moment(NOW)
        }
    };
    let writer = Writer::start(Arc::clone(&store), Duration::from_secs(3600), now, || ()).unwrap();
    while store.status().failing.is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    store.put_backend(taken.lock().take());
    writer.stop();
    assert_eq!(store.status().failing, None);
    drop((scene, store));
    assert_eq!(Scene::on(directory.path()).bindings()[0].contacts.len(), 2);
}

/// A sound file of some size, with everything in it and no log beside it.
fn sound_file() -> (Vec<u8>, Vec<StoredBinding>) {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    for terminal in 1..=400 {
        scene.record(terminal);
    }
    scene.keep().stop();
    drop(scene);
    let scene = Scene::on(directory.path());
    let bindings = scene.bindings();
    drop(scene);
    (std::fs::read(directory.path().join("kamei.db")).unwrap(), bindings)
}

/// Opens a damaged file: what it gives is a part of what was there, and a loss is said.
fn assert_no_invention(bytes: &[u8], sound: &BTreeMap<IpAddr, StoredBinding>) {
    let directory = private_directory();
    std::fs::write(directory.path().join("kamei.db"), bytes).unwrap();
    let Ok(scene) = Scene::try_on(directory.path()) else { return };
    let found = scene.bindings();
    for binding in &found {
        let was = sound.get(&binding.virtual_ip).unwrap_or_else(|| panic!("{binding:?} was never there"));
        assert!(binding.contacts.iter().all(|contact| was.contacts.contains(contact)), "{binding:?}");
        assert_eq!(StoredBinding { contacts: was.contacts.clone(), ..binding.clone() }, *was);
    }
    assert!(found.len() == sound.len() || !scene.said.is_empty() || bytes.is_empty(), "a silent loss");
}

#[test]
fn a_damaged_file_never_panics_and_never_invents_a_binding() {
    let (fuzzed, cases) = (Fuzzed::new("state file"), cases(200));
    let (bytes, bindings) = sound_file();
    let sound: BTreeMap<IpAddr, StoredBinding> =
        bindings.into_iter().map(|binding| (binding.virtual_ip, binding)).collect();
    let flip = (0..bytes.len(), 0..8_u8);
    let damage = (prop::collection::vec(flip, 0..6), prop::option::of(0..bytes.len()));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases, ..ProptestConfig::default() });
    let done = runner.run(&damage, |(flips, cut)| {
        let mut bytes = bytes.clone();
        for (at, bit) in flips {
            bytes[at] ^= 1 << bit;
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        fuzzed.case(bytes.len());
        assert_no_invention(&bytes, &sound);
        Ok(())
    });
    done.unwrap();
}

#[test]
fn of_a_file_with_a_hole_all_but_the_hole_is_kept() {
    let (mut bytes, bindings) = sound_file();
    let pages = bytes.len() / 4096;
    let hole = (pages / 2) * 4096;
    bytes[hole..hole + 4096].fill(0xa5);
    let directory = private_directory();
    std::fs::write(directory.path().join("kamei.db"), &bytes).unwrap();
    let scene = Scene::on(directory.path());
    let kept = scene.bindings().len();
    assert!(kept < bindings.len() || !scene.said.is_empty());
    assert!(kept > bindings.len() / 2, "{kept} of {}", bindings.len());
}

#[test]
fn whatever_the_lines_an_import_gives_all_or_one_error() {
    let (_, mut bindings) = sound_file();
    bindings[0].callback = Some(CallbackPolicy::Prefixes(vec!["192.0.2.0/24".parse().unwrap()]));
    bindings.truncate(5);
    let mut text = Vec::new();
    write_lines(&bindings, &mut text).unwrap();
    assert_eq!(read_lines(&mut text.as_slice()).unwrap(), bindings);
    let text = String::from_utf8(text).unwrap();
    let error = |from: &str, to: &str| read_lines(&mut text.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
    assert_eq!(
        error("\"version\":1", "\"version\":7"),
        "1: version 7 is not known here; the first line must be {\"kamei\":\"bindings\",\"version\":1}"
    );
    assert_eq!(
        error("\"active\"", "\"lost\""),
        "2: unknown variant `lost`, expected one of `active`, `dormant`, `quarantined`"
    );
    assert_eq!(error("\"terminal\"", "\"nobody\"").split(',').next(), Some("2: unknown field `nobody`"));
    assert!(error("\"terminal\":\"10.", "\"terminal\":\"fe80::10.").starts_with("2: "));
    let twice = format!("{text}{}\n", text.lines().nth(2).unwrap());
    assert!(read_lines(&mut twice.as_bytes()).unwrap_err().to_string().starts_with("7: 198.18."));
    let (fuzzed, cases) = (Fuzzed::new("import lines"), cases(500));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases, ..ProptestConfig::default() });
    let change = (0..text.len(), prop::collection::vec(any::<u8>(), 0..4), 0..9_usize);
    let done = runner.run(&change, |(at, bytes, gone)| {
        let mut changed = text.clone().into_bytes();
        changed.splice(at..(at + gone).min(text.len()), bytes);
        fuzzed.case(changed.len());
        let _ = read_lines(&mut changed.as_slice());
        Ok(())
    });
    done.unwrap();
}
