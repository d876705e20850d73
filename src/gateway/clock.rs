//! The one clock of the process.

use crate::time::Time;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Reads the wall clock once, when made, and counts on from there by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Time,
    since: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Time::from_millis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)), since: Instant::now() }
    }

    /// What it says.
    pub fn now(&self) -> Time {
        self.start + self.since.elapsed()
    }

    /// How long it has been running.
    pub fn uptime(&self) -> std::time::Duration {
        self.since.elapsed()
    }
}
