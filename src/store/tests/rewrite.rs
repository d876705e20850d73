//! After a failed sync: nothing that the file held counts, and all of it is written again.

use super::faults::{assert_all_there, child};
use super::*;
use std::os::unix::fs::FileExt;

fn failed_sync(scene: &Scene) {
    scene.store.fail(&StoreError::not_synced(scene.store.path(), &io::Error::from_raw_os_error(5)));
}

#[test]
fn after_a_failed_sync_all_is_written_again_though_the_system_has_lost_it() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    (1..=300).for_each(|terminal| _ = scene.record(terminal));
    failed_sync(&scene);
    assert_eq!(scene.try_call(301), None, "nobody new meanwhile");
    // Some file systems give back what was on disk before.
    for name in ["kamei.db", "kamei.db-wal"] {
        let path = directory.path().join(name);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
        file.write_all_at(&vec![0; length.saturating_sub(4096)], 4096).unwrap();
    }
    scene.keep().stop();
    assert_eq!(scene.store.status().failing, None);
    scene.record(301);
    drop(scene.store);
    let after = Scene::on(directory.path());
    assert_eq!((after.restored.kept, after.said), (301, Vec::new()));
}

#[test]
fn what_was_kept_aside_is_written_again_too() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    let virtual_ip = scene.record(1);
    scene.keep().stop();
    let mut aside = scene.bindings().remove(0);
    assert_eq!((aside.virtual_ip, aside.contacts.len()), (virtual_ip, 1));
    drop(scene);
    aside.virtual_ip = "203.0.113.7".parse().unwrap();
    StateFile::take(directory.path(), "kamei").unwrap().replace(std::slice::from_ref(&aside)).unwrap();
    let mut scene = Scene::on(directory.path());
    assert_eq!(scene.restored.misfits.len(), 1);
    let virtual_ip = scene.record(2);
    failed_sync(&scene);
    scene.keep().stop();
    drop(scene);
    let held = look(directory.path(), "kamei", &Progress::default()).unwrap().bindings;
    assert!(held.contains(&aside) && held.iter().any(|binding| binding.virtual_ip == virtual_ip), "{held:?}");
}

#[test]
fn n3_killed_while_another_file_takes_the_place_of_one_in_doubt_no_binding_is_lost() {
    for (call, step) in [("/^rename", 1), ("/^unlink", 1), ("ftruncate", 1), ("fsync", 1), ("pwrite64", 7)] {
        for when in (1..).step_by(step) {
            let directory = private_directory();
            let how = format!("{call}:signal=KILL:when={when}");
            let (left, done) = child(directory.path(), &how, true);
            assert_all_there(directory.path(), &left, &how);
            if done {
                break; // it has no more such calls
            }
        }
    }
}
