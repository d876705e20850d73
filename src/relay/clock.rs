//! Time as a relay reads it.

use crate::time::Time;
use std::time::{Duration, Instant, SystemTime};

/// Time since the start, of a clock that only goes forward.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now(&self) -> Time {
        Time::from_millis(0) + self.0.elapsed()
    }

    pub fn uptime(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The wall clock, for what is kept: certificates, invitations.
pub fn wall() -> SystemTime {
    SystemTime::now()
}
