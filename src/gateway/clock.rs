//! The one clock of the process.

use crate::store::{Moment, Opened, Reading};
use crate::time::Time;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Begins where the last process was, and counts on from there by the monotonic clock: steps of the wall clock do not move
/// it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Time,
    since: Instant,
    boot: u128,
}

impl Clock {
    /// A clock that goes on from what a state file says.
    pub fn resume(opened: &Opened) -> Self {
        let boot = boot();
        let Moment { time: start, reading } = opened.resumed(read(boot));
        Self { start, since: Instant::now(), boot: reading.boot }
    }

    /// What it says.
    pub fn now(&self) -> Time {
        self.start + self.since.elapsed()
    }

    /// What it says, and what the machine's clocks say.
    pub fn moment(&self) -> Moment {
        Moment { time: self.now(), reading: read(self.boot) }
    }

    /// How long it has been running.
    pub fn uptime(&self) -> Duration {
        self.since.elapsed()
    }
}

/// What the machine's clocks say.
pub fn reading() -> Reading {
    read(boot())
}

fn read(boot: u128) -> Reading {
    let since_boot = clock_gettime(ClockId::Boottime);
    Reading {
        boot,
        since_boot: Duration::try_from(since_boot).unwrap_or_default(),
        wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        is_synchronised: is_synchronised(),
    }
}

/// A number that the kernel makes up whenever it starts; zero where it does not tell.
fn boot() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

/// Whether a time service keeps the wall clock right, as the kernel has been told (adjtimex(2)); no where that is not
/// to be read.
#[allow(unsafe_code, reason = "nobody wraps it")]
fn is_synchronised() -> bool {
    // SAFETY: all zeros are a valid `timex`, a plain structure; its `modes` zero: nothing is set.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `timex` to where it is told, which is one.
    let state = unsafe { libc::clock_adjtime(libc::CLOCK_REALTIME, &mut timex) };
    state >= 0 && timex.status & libc::STA_UNSYNC == 0
}
