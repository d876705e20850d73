//! Counters of one worker. It alone writes them, so that counting needs no locked instruction; anybody may read.

use super::binding::Realm;
use super::drops::DropBook;
use super::reason::DropReason;
use crate::time::Time;
use crate::wire::Address;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one worker has counted since the start.
#[repr(align(128))]
pub struct Counters {
    /// Packets and bytes from inside to outside.
    pub out: Traffic,
    /// Packets and bytes from outside to inside.
    pub inward: Traffic,
    /// Connections opened by peers.
    pub callbacks: Counter,
    /// Bindings made.
    pub created: Counter,
    drops: [Counter; DropReason::ALL.len()],
    /// What was dropped by whom. Only who reads takes it from the worker for a moment.
    pub book: Option<Mutex<DropBook>>,
}

/// Packets and bytes.
#[derive(Debug, Default)]
pub struct Traffic {
    pub packets: Counter,
    pub bytes: Counter,
}

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the worker that owns the counter may.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// What it stands at.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// With a book of what is dropped.
    pub fn with_book(book: DropBook) -> Self {
        Self { book: Some(Mutex::new(book)), ..Self::default() }
    }

    /// The counter of a drop reason.
    pub fn drops(&self, reason: DropReason) -> &Counter {
        #[allow(clippy::indexing_slicing, reason = "the array has a place for every variant, in their order")]
        &self.drops[reason as usize]
    }
}

impl Traffic {
    /// Counts a packet.
    pub fn add(&self, bytes: usize) {
        self.packets.add(1);
        self.bytes.add(bytes as u64);
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            out: Traffic::default(),
            inward: Traffic::default(),
            callbacks: Counter::default(),
            created: Counter::default(),
            drops: std::array::from_fn(|_| Counter::default()),
            book: None,
        }
    }
}

impl Counters {
    /// Writes a dropped packet down: never waits, a packet that comes while the book is read is only counted.
    pub fn write_down(&self, reason: DropReason, from: Realm, ends: Option<(Address, Address)>, now: Time) {
        if let Some(mut book) = self.book.as_ref().and_then(|book| book.try_lock()) {
            // From an inside, the destination is the peer.
            let ends = ends.map(|(source, destination)| match from {
                Realm::Inside(_) => (destination, source),
                Realm::Outside => (source, destination),
            });
            book.write(reason, from, ends, now);
        }
    }

    /// Writes down packets that were lost after they had been translated.
    pub fn write_down_lost(&self, reason: DropReason, packets: u64) {
        if let Some(mut book) = self.book.as_ref().filter(|_| packets > 0).and_then(|book| book.try_lock()) {
            book.write_lost(reason, packets);
        }
    }
}
