//! How the gateway's time goes on from one process to the next.
//!
//! Rows have times of the gateway's own: it counts on while a process runs, and the next process goes on where the last
//! one was. The wall clock is where it begins, and tells how long the machine was off, if it is known to be right; nothing
//! else depends on it, so that nothing is lost when it is set.

use crate::time::Time;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::time::Duration;

/// The gateway's time begins no later than this, so that seconds since 1970 fit into their 32 bits: 2072.
const LATEST: Time = Time::from_secs(0xc000_0000);
/// A machine that starts again, on a clock that may be wrong, is believed to have been off for so long at most. It is less
/// than what the shortest hold time of a binding (RFC 5382 REQ-5) could lose by.
const REBOOT: Duration = Duration::from_secs(600);

/// What the machine's clocks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The boot that the next is of; zero if unknown.
    pub boot: u128,
    /// Time since then, sleep included.
    pub since_boot: Duration,
    /// Time since the Unix epoch.
    pub wall: Duration,
    /// Whether the kernel knows that to be right.
    pub is_synchronised: bool,
}

/// The gateway's time, and what the clocks said then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The gateway's time.
    pub time: Time,
    /// What the clocks said.
    pub reading: Reading,
}

impl Reading {
    /// How much time has passed from this reading to a later one; no more than is certain.
    fn until(&self, later: &Self) -> Duration {
        if self.boot == later.boot && self.boot != 0 {
            return later.since_boot.saturating_sub(self.since_boot);
        }
        let passed = later.wall.saturating_sub(self.wall);
        let is_believed = self.is_synchronised && (later.is_synchronised || passed <= REBOOT);
        if is_believed { passed } else { Duration::ZERO }
    }
}

impl Moment {
    /// The gateway's time now, when the clocks say `now`, after a process that has noted `last`. It is never before
    /// `newest`, the latest time there is in the rows: after a power cut the note may be older.
    pub fn resumed(last: Option<Self>, newest: Time, now: Reading) -> Self {
        let wall = Time::default() + now.wall;
        let time = match last {
            Some(last) => (last.time + last.reading.until(&now)).max(newest),
            None if now.is_synchronised => wall,
            None => wall.max(newest),
        };
        Self { time: time.min(LATEST), reading: now }
    }

    /// By how many milliseconds the wall clock is ahead of the gateway's time.
    pub fn ahead(&self) -> i64 {
        let wall = i64::try_from(self.reading.wall.as_millis()).unwrap_or(i64::MAX);
        wall.saturating_sub_unsigned(self.time.as_millis())
    }

    /// The same in whole seconds, for times that are no more exact. That the clock was adjusted by less than two is not
    /// worth a difference.
    pub fn seconds_ahead(&self) -> i64 {
        let seconds = self.ahead().saturating_add(500).div_euclid(1000);
        if seconds.abs() < 2 { 0 } else { seconds }
    }

    /// The sum of its row.
    pub(super) fn sum(&self) -> i64 {
        let mut hasher = SipHasher13::new();
        hasher.write_u64(self.time.as_millis());
        hasher.write_u128(self.reading.boot);
        hasher.write_u64(millis(self.reading.since_boot));
        hasher.write_u64(millis(self.reading.wall));
        hasher.write_u8(self.reading.is_synchronised.into());
        hasher.finish().cast_signed()
    }
}

/// As it is stored.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
