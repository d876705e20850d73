//! Commits: which the system has, and which are on disk.

use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts commits, and wakes the threads that wait for the disk.
#[derive(Default)]
pub struct Commits {
    /// Counts them.
    made: AtomicU64,
    /// The last that is on disk.
    on_disk: Mutex<u64>,
    /// Signalled when a thread waits for the disk.
    wanted: Condvar,
    /// Signalled when commits are on disk.
    arrived: Condvar,
}

impl Commits {
    /// One more: its number.
    pub fn add(&self) -> u64 {
        self.made.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The last one.
    pub fn last(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    /// The last one that is on disk.
    pub fn on_disk(&self) -> u64 {
        *self.on_disk.lock()
    }

    /// All up to `commit` are on disk.
    pub fn arrive(&self, commit: u64) {
        *self.on_disk.lock() = commit;
        self.arrived.notify_all();
    }

    /// A thread wants the disk to have them.
    pub fn want(&self) {
        self.wanted.notify_all();
    }

    /// Waits until `commit` is on disk, or that takes too long; whether it is.
    pub fn wait(&self, commit: u64, patience: Duration) -> bool {
        let mut on_disk = self.on_disk.lock();
        self.wanted.notify_one();
        !self.arrived.wait_while_for(&mut on_disk, |on_disk| *on_disk < commit, patience).timed_out()
    }

    /// Rests until a thread wants the disk, for this time at most. Not at all if `is_busy` says so of whether some are
    /// not on disk.
    pub fn rest(&self, time: Duration, is_busy: impl FnOnce(bool) -> bool) {
        let mut on_disk = self.on_disk.lock();
        if !is_busy(*on_disk < self.last()) {
            self.wanted.wait_for(&mut on_disk, time);
        }
    }
}
