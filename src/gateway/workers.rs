//! How the workers and other threads meet: wake, count, rest while the state is replaced, stop.

use crate::control::{Taps, WorkerStatus};
use crate::nat::{Counter, Nat};
use parking_lot::{Condvar, Mutex};
use rustix::event::EventfdFlags;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a thread that looks at bindings waits for busy workers.
const COUNT_WITHIN: Duration = Duration::from_millis(100);
/// How long a worker may take until it rests for a reload.
const REST_WITHIN: Duration = Duration::from_secs(2);

/// The workers, as other threads meet them.
pub struct Workers {
    /// A descriptor for each worker: readable when it shall look up.
    pub(super) wakers: Vec<OwnedFd>,
    /// Set when the workers shall stop.
    pub(super) stopping: AtomicBool,
    /// Counts the calls of [`Workers::sync_counts`].
    pub(super) asked: AtomicU64,
    /// For each worker, the last such call it has heeded.
    pub(super) synced: Vec<AtomicU64>,
    /// Where callers watch packets.
    pub taps: Arc<Taps>,
    /// For each worker, what it has done.
    pub loads: Vec<Load>,
    /// Where workers rest while the state that they share is replaced.
    pub(super) gate: Gate,
    /// Packets the kernel would not take.
    pub write_errors: AtomicU64,
    /// Events that housekeeping had no time to hear of, since it last asked.
    pub events_lost: AtomicU64,
    /// Packets longer than 1,500 bytes that were read: super-packets.
    pub super_packets: AtomicU64,
}

/// What one worker has done; it alone writes it.
#[repr(align(128))]
#[derive(Default)]
pub struct Load {
    pub(super) reads: Counter,
    pub(super) writes: Counter,
    pub(super) wakeups: Counter,
    pub(super) full_turns: Counter,
    /// Whether it may have packets in hand.
    pub(super) is_serving: AtomicBool,
}

impl Load {
    /// As numbers.
    pub fn view(&self) -> WorkerStatus {
        WorkerStatus {
            reads: self.reads.get(),
            writes: self.writes.get(),
            wakeups: self.wakeups.get(),
            full_turns: self.full_turns.get(),
        }
    }
}

impl Workers {
    /// For so many workers.
    pub fn new(workers: usize) -> io::Result<Self> {
        let waker = |_| rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self {
            wakers: (0..workers).map(waker).collect::<Result<_, _>>()?,
            stopping: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            synced: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            taps: Arc::default(),
            loads: (0..workers).map(|_| Load::default()).collect(),
            gate: Gate::default(),
            write_errors: AtomicU64::new(0),
            events_lost: AtomicU64::new(0),
            super_packets: AtomicU64::new(0),
        })
    }

    /// Tells the workers to stop.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    /// Has every worker note what it has counted, so that the caller sees true numbers next. Gives up on a worker that
    /// is too busy to look up.
    pub fn sync_counts(&self) {
        let asked = self.ask();
        let deadline = Instant::now() + COUNT_WITHIN;
        while !self.has_synced(asked) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Has every worker rest until the returned value is dropped. `None` if one is too busy to look up.
    pub fn rest(&self) -> Option<Rest<'_>> {
        let rest = Rest { gate: &self.gate };
        self.gate.state.lock().closed = true;
        self.wake();
        let deadline = Instant::now() + REST_WITHIN;
        let mut state = self.gate.state.lock();
        while state.resting < self.wakers.len() {
            if self.gate.changed.wait_until(&mut state, deadline).timed_out() {
                drop(state);
                return None;
            }
        }
        drop(state);
        Some(rest)
    }

    /// Has every worker look up; says by which number to know that all have.
    pub fn ask(&self) -> u64 {
        let asked = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake();
        asked
    }

    /// Whether every worker has looked up since it was asked so.
    pub fn has_synced(&self, asked: u64) -> bool {
        self.synced.iter().all(|synced| synced.load(Ordering::Acquire) >= asked)
    }

    /// Has every worker look up.
    pub fn wake(&self) {
        for waker in &self.wakers {
            let _ = rustix::io::write(waker, &1u64.to_ne_bytes()); // full: it is to wake anyhow
        }
    }
}

/// Closed while the workers rest ([`Workers::rest`]).
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct GateState {
    closed: bool,
    /// Workers that wait for the gate to open.
    resting: usize,
    /// What workers go on with.
    nat: Option<Arc<Nat>>,
}

/// The workers rest as long as this lives.
pub struct Rest<'a> {
    pub(super) gate: &'a Gate,
}

impl Rest<'_> {
    /// Has the workers go on with another state.
    pub fn end_with(self, nat: &Arc<Nat>) {
        self.gate.state.lock().nat = Some(Arc::clone(nat));
    }
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        self.gate.state.lock().closed = false;
        self.gate.changed.notify_all();
    }
}

impl Gate {
    /// Waits while the gate is closed; then gives the state to go on with, unless it was open anyway.
    pub(super) fn pass(&self) -> Option<Arc<Nat>> {
        let mut state = self.state.lock();
        if !state.closed {
            return None;
        }
        state.resting += 1;
        self.changed.notify_all();
        while state.closed {
            self.changed.wait(&mut state);
        }
        state.resting -= 1;
        state.nat.clone()
    }
}
