//! What the wall clock said while the history was written.
//!
//! Entries have times that only go on. A stretch is a time in which the wall clock was ahead of them by one difference; where
//! somebody sets the clock, or the machine starts anew, another begins. So a time on the wall can be found however often the
//! clock was set: at one moment, at several (it was set back), or at none (it was set over it, or the machine was off).

use serde::{Deserialize, Serialize};

/// A time in which the wall clock ran on without being set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// When it began, in milliseconds of the history's own time.
    pub since: u64,
    /// By how many milliseconds the wall clock was ahead.
    pub ahead: i64,
    /// Whether the kernel knew the wall clock to be right.
    pub is_synchronised: bool,
    /// The boot that it was in; zero if unknown.
    pub boot: u128,
}

/// How a time was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockState {
    /// By a clock that was known to be right.
    Synchronised,
    /// By a clock that was set right later, without a reboot in between: the time is what it would have shown.
    SetLater,
    /// By a clock that nobody has vouched for.
    Unsynchronised,
    /// The clock never showed that time: it was set over it, or the machine was off.
    PassedOver,
}

/// Every stretch, in order.
#[derive(Clone, Debug, Default)]
pub struct Stretches(pub Vec<Stretch>);

impl Stretches {
    /// The time on the wall at a moment of the history.
    pub fn wall(&self, moment: u64) -> (u64, ClockState) {
        let behind = self.0.partition_point(|stretch| stretch.since <= moment);
        let (ahead, state) = self.true_difference(behind.saturating_sub(1));
        (moment.saturating_add_signed(ahead), state)
    }

    /// The moments at which the wall clock showed `wall`; at least one, unless nothing is known of any clock.
    pub fn moments(&self, wall: u64) -> Vec<(u64, ClockState)> {
        let mut found = Vec::new();
        for number in 0..self.0.len() {
            let (ahead, state) = self.true_difference(number);
            let from = if number == 0 { i128::MIN } else { self.since(number) };
            let to = if number + 1 == self.0.len() { i128::MAX } else { self.since(number + 1) };
            let moment = i128::from(wall) - i128::from(ahead);
            if (from..to).contains(&moment) {
                found.push((u64::try_from(moment).unwrap_or(0), state));
            }
        }
        if found.is_empty() {
            // It begins before and goes on behind: somewhere it was passed over.
            let over = (1..self.0.len()).find(|number| {
                i128::from(wall) < self.since(*number) + i128::from(self.true_difference(*number).0)
                    && i128::from(wall) >= self.since(*number) + i128::from(self.true_difference(number - 1).0)
            });
            found.extend(over.and_then(|number| Some((self.0.get(number)?.since, ClockState::PassedOver))));
        }
        found
    }

    fn since(&self, number: usize) -> i128 {
        self.0.get(number).map_or(0, |stretch| stretch.since.into())
    }

    /// The difference of a stretch. Where the clock was set right later in the same boot, the right clock's: the history's
    /// time has gone on as time does.
    fn true_difference(&self, number: usize) -> (i64, ClockState) {
        let Some(stretch) = self.0.get(number) else { return (0, ClockState::Unsynchronised) };
        if stretch.is_synchronised {
            return (stretch.ahead, ClockState::Synchronised);
        }
        let later = self.0.iter().skip(number + 1).take_while(|later| later.boot == stretch.boot && later.boot != 0);
        match later.into_iter().find(|later| later.is_synchronised) {
            Some(right) => (right.ahead, ClockState::SetLater),
            None => (stretch.ahead, ClockState::Unsynchronised),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches(all: &[(u64, i64, bool, u128)]) -> Stretches {
        let stretch = |(since, ahead, is_synchronised, boot): &(u64, i64, bool, u128)| Stretch {
            since: *since,
            ahead: *ahead,
            is_synchronised: *is_synchronised,
            boot: *boot,
        };
        Stretches(all.iter().map(stretch).collect())
    }

    #[test]
    fn a_clock_that_is_set_back_shows_a_time_twice_and_one_set_on_passes_some_over() {
        use ClockState::{PassedOver, Synchronised};
        let back = stretches(&[(1000, 0, true, 1), (2000, -500, true, 1)]);
        assert_eq!(back.moments(1600), [(1600, Synchronised), (2100, Synchronised)]);
        assert_eq!((back.moments(1400), back.moments(2400)), (vec![(1400, Synchronised)], vec![(2900, Synchronised)]));
        assert_eq!((back.wall(1600), back.wall(2100)), ((1600, Synchronised), (1600, Synchronised)));
        let on = stretches(&[(1000, 0, true, 1), (2000, 500, true, 2)]);
        assert_eq!(on.moments(2200), [(2000, PassedOver)]);
        assert_eq!((on.moments(1999), on.moments(2500)), (vec![(1999, Synchronised)], vec![(2000, Synchronised)]));
    }

    #[test]
    fn times_before_a_clock_was_set_right_are_what_it_would_have_shown() {
        use ClockState::{SetLater, Synchronised, Unsynchronised};
        // A router without a clock of its own begins years back.
        let late = stretches(&[(1000, -900, false, 1), (2000, 5000, true, 1), (3000, 5000, false, 1)]);
        assert_eq!(late.moments(6500), [(1500, SetLater)]);
        assert_eq!((late.wall(1500), late.wall(2500)), ((6500, SetLater), (7500, Synchronised)));
        assert_eq!(late.wall(3500), (8500, Unsynchronised), "it was right, and nobody says so any more");
        let other_boot = stretches(&[(1000, -900, false, 1), (2000, 5000, true, 2)]);
        assert_eq!(other_boot.wall(1500), (600, Unsynchronised));
        assert_eq!(Stretches::default().moments(5), []);
    }
}
