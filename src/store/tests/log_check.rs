//! Damage in the log, which SQLite takes for the log's end.

use super::*;
use crate::store::log_check::torn;
use crate::testkit::fuzzed::{Fuzzed, cases};
use std::os::unix::fs::FileExt;

const FRAME: u64 = 24 + 4096;

/// A state directory as a gateway leaves it that is killed after so many commits of a binding each.
fn killed_after(calls: u32) -> tempfile::TempDir {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    (1..=calls).for_each(|terminal| _ = scene.record(terminal));
    let copy = private_directory();
    for name in ["kamei.db", "kamei.db-wal"] {
        std::fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
    }
    copy
}

fn flip(directory: &Path, at: u64) {
    let log = std::fs::OpenOptions::new().read(true).write(true).open(directory.join("kamei.db-wal")).unwrap();
    let mut byte = [0];
    log.read_exact_at(&mut byte, at).unwrap();
    log.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

fn length(directory: &Path) -> u64 {
    std::fs::metadata(directory.join("kamei.db-wal")).unwrap().len()
}

#[test]
fn damage_in_the_middle_of_the_log_is_said_once() {
    let directory = killed_after(40);
    let middle = 32 + (length(directory.path()) - 32) / FRAME / 2 * FRAME;
    flip(directory.path(), middle + 100);
    for _ in 0..2 {
        let found = look(directory.path(), "kamei", &Progress::default()).unwrap();
        let said = found.damage.expect("to look takes nothing away").to_string();
        assert!(said.contains("commits of its log cannot be read and are lost"), "{said}");
        assert!((1..40).contains(&found.bindings.len()));
    }
    let scene = Scene::on(directory.path());
    assert!(scene.said.len() == 1 && scene.said[0].contains("at least "), "{:?}", scene.said);
    drop(scene);
    assert_eq!(Scene::on(directory.path()).said.len(), 0);
}

#[test]
fn a_damaged_header_of_the_log_is_said() {
    let directory = killed_after(3);
    flip(directory.path(), 20);
    let said = Scene::on(directory.path()).said;
    assert!(said.len() == 1 && said[0].contains("its log cannot be read"), "{said:?}");
}

#[test]
fn a_last_commit_that_was_cut_off_is_no_damage() {
    let directory = killed_after(5);
    let log = std::fs::OpenOptions::new().write(true).open(directory.path().join("kamei.db-wal")).unwrap();
    for cut in [1, 4096, 4097, FRAME, FRAME + 1] {
        log.set_len(length(directory.path()) - cut).unwrap();
        assert!(look(directory.path(), "kamei", &Progress::default()).unwrap().damage.is_none(), "{cut}");
    }
    assert_eq!(Scene::on(directory.path()).said, [""; 0]);
}

#[test]
fn what_an_earlier_log_left_behind_the_end_is_no_damage() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    (1..=40).for_each(|terminal| _ = scene.record(terminal));
    // The log starts again at its beginning.
    scene.store.with_backend(|backend| state_file(backend).restart_log()).unwrap();
    (41..=44).for_each(|terminal| _ = scene.record(terminal));
    assert_eq!(torn(&directory.path().join("kamei.db")).unwrap(), None);
    assert!(length(directory.path()) > 40 * FRAME);
}

#[test]
fn a_log_of_any_bytes_is_looked_at_without_a_panic() {
    use proptest::prelude::*;
    let directory = killed_after(4);
    let sound = std::fs::read(directory.path().join("kamei.db-wal")).unwrap();
    let path = directory.path().join("kamei.db");
    let (fuzzed, cases) = (Fuzzed::new("log of the state file"), cases(200));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases, ..ProptestConfig::default() });
    let damage = (prop::collection::vec((0..sound.len(), any::<u8>()), 0..6), 0..=sound.len());
    let done = runner.run(&damage, |(changes, cut)| {
        let mut bytes = sound.clone();
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        bytes.truncate(cut);
        fuzzed.case(bytes.len());
        std::fs::write(directory.path().join("kamei.db-wal"), bytes).unwrap();
        let _ = torn(&path).unwrap();
        Ok(())
    });
    done.unwrap();
}
