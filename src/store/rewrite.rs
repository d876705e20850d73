//! Another state file in place of one that a sync has failed for.
//!
//! When a sync fails, the system may have dropped what it could not write and take it for written: the next sync says
//! that all is well, though it is not (Rebello and others, "Can Applications Recover from fsync Failures?", USENIX ATC
//! 2020). So the file is trusted no more. Another is written from the table, which is the truth, with those rows of the
//! old one that the table does not know, and then takes its place:
//!
//! 1. `kamei.db.new` is written and synced, and becomes `kamei.db.whole`. From here on it is the state file.
//! 2. The old file's log goes, and `kamei.db.whole` becomes `kamei.db`.
//!
//! A process that is killed in step 1 leaves the old file in force; in step 2, the next start carries it out.

use super::StoreError;
use super::files::{beside, finish, remove_with_log};
use super::state_file::{AT_ONCE, Database, Salvaged};
use crate::nat::Nat;
use std::fs::File;
use std::path::Path;

impl Database {
    /// Step 1; this is a connection to the file in doubt. What changes meanwhile is marked by those who cannot record it.
    pub(super) fn write_whole_file(&self, nat: &Nat) -> Result<(), StoreError> {
        let path = &self.path;
        let (new, whole) = (beside(path, ".new"), beside(path, ".whole"));
        remove_with_log(&new).map_err(|error| StoreError::of_file(path, error))?;
        let mut store = Database::open(&new)?;
        let mut write = |some: &mut Vec<_>| {
            store.write_whole(some)?;
            some.clear();
            store.shorten_log()
        };
        let mut some = Vec::new();
        for binding in nat.stored_bindings() {
            some.push(binding);
            if some.len() >= AT_ONCE {
                write(&mut some)?;
            }
        }
        let salvaged = self.salvage(|binding| {
            if nat.stored(binding.virtual_ip).is_none() {
                some.push(binding);
            }
        });
        write(&mut some)?;
        if let Ok(Some(moment)) = self.moment() {
            store.note(&moment)?;
        }
        if salvaged != Salvaged::default() {
            log::error!("{}: some bindings that were kept aside cannot be read any more", path.display());
        }
        store.empty_log()?;
        drop(store);
        File::open(&new).and_then(|file| file.sync_all()).map_err(|error| StoreError::not_synced(path, &error))?;
        std::fs::rename(&new, &whole).map_err(|error| StoreError::of_file(path, error))
    }

    /// Step 2, and opens the file.
    pub(super) fn open_anew(path: &Path) -> Result<Self, StoreError> {
        finish(path).map_err(|error| StoreError::of_file(path, error))?;
        Self::open(path)
    }
}
