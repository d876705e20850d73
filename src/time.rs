//! Time as the core sees it: a number handed in by the caller.

use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time: milliseconds since the Unix epoch, as read once when the gateway first started and advanced by clocks
/// that only go forward from there, so that steps of the wall clock do not move it. Who shows it adds what the wall clock
/// is ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// The point `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The point `secs` seconds after the epoch.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The point `millis` milliseconds later, or earlier.
    pub const fn shifted(self, millis: i64) -> Self {
        Self(self.0.saturating_add_signed(millis))
    }

    /// Whole seconds since the epoch, saturating in the year 2106.
    pub const fn as_secs(self) -> u32 {
        let secs = self.0 / 1000;
        if secs > u32::MAX as u64 {
            u32::MAX
        } else {
            #[allow(clippy::cast_possible_truncation, reason = "compared with the maximum just above")]
            let secs = secs as u32;
            secs
        }
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, rhs: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Time {
    type Output = Duration;

    /// The span from `rhs` to `self`; zero if `rhs` is later.
    fn sub(self, rhs: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(rhs.0))
    }
}
