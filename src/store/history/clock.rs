//! What the wall clock said while the history was written.
//!
//! Entries have times that only go on. A stretch is a time in which the wall clock was ahead of them by one difference; where
//! an operator sets the clock, or the machine starts anew, another begins. So a time on the wall can be found however
//! often the clock was set: at one moment, at several (it was set back), or at none (it was set over it, or the machine
//! was off).

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
pub struct Stretches {
    all: Vec<Stretch>,
    /// What each is told by: see [`Stretches::of`].
    told: Vec<(i64, ClockState)>,
}

impl Stretches {
    /// Of stretches in order. Where the clock was set right later in the same boot, the right clock's difference counts: the
    /// history's time has gone on as time does.
    pub fn of(all: Vec<Stretch>) -> Self {
        let mut told = Vec::with_capacity(all.len());
        let mut right: Option<Stretch> = None;
        for stretch in all.iter().rev() {
            if stretch.is_synchronised {
                right = Some(*stretch);
            }
            right = right.filter(|right| right.boot == stretch.boot && (right == stretch || stretch.boot != 0));
            told.push(match right {
                _ if stretch.is_synchronised => (stretch.ahead, ClockState::Synchronised),
                Some(right) => (right.ahead, ClockState::SetLater),
                None => (stretch.ahead, ClockState::Unsynchronised),
            });
        }
        told.reverse();
        Self { all, told }
    }

    /// The last.
    pub fn last(&self) -> Option<Stretch> {
        self.all.last().copied()
    }

    /// The time on the wall at a moment of the history.
    pub fn wall(&self, moment: u64) -> (u64, ClockState) {
        let behind = self.all.partition_point(|stretch| stretch.since <= moment);
        let (ahead, state) = self.difference(behind.saturating_sub(1));
        (moment.saturating_add_signed(ahead), state)
    }

    /// The moments at which the wall clock showed `wall`; at least one, unless nothing is known of any clock.
    pub fn moments(&self, wall: u64) -> Vec<(u64, ClockState)> {
        let mut found = Vec::new();
        for number in 0..self.all.len() {
            let (ahead, state) = self.difference(number);
            let (from, to) = self.bounds(number);
            let moment = i128::from(wall) - i128::from(ahead);
            if (from..to).contains(&moment) {
                found.push((u64::try_from(moment).unwrap_or(0), state));
            }
        }
        if found.is_empty() {
            // It begins before and goes on behind: somewhere it was passed over.
            let over = (1..self.all.len()).find(|number| {
                let (since, _) = self.bounds(*number);
                i128::from(wall) < since + i128::from(self.difference(*number).0)
                    && i128::from(wall) >= since + i128::from(self.difference(number - 1).0)
            });
            found.extend(over.and_then(|number| Some((self.all.get(number)?.since, ClockState::PassedOver))));
        }
        found
    }

    /// The moments at which the wall clock showed `since` or later and less than `until`: from each first to before each
    /// second, in order and apart. A clock that was set makes several of one.
    pub fn within(&self, since: Option<u64>, until: Option<u64>) -> Vec<(u64, u64)> {
        let mut found: Vec<(u64, u64)> = Vec::new();
        for number in 0..self.all.len().max(1) {
            let (ahead, _) = self.difference(number);
            let (from, to) = self.bounds(number);
            // The wall clock's times begin with 0, whatever it was ahead.
            let low =
                since.filter(|since| *since > 0).map_or(from, |since| from.max(i128::from(since) - i128::from(ahead)));
            let high = until.map_or(to, |until| to.min(i128::from(until) - i128::from(ahead)));
            let moment = |moment: i128| u64::try_from(moment.max(0)).unwrap_or(u64::MAX);
            let (low, high) = (moment(low), moment(high));
            match found.last_mut() {
                _ if low >= high => {}
                Some(last) if last.1 == low => last.1 = high,
                _ => found.push((low, high)),
            }
        }
        found
    }

    /// From when to before when a stretch was, for the first and the last without an end.
    fn bounds(&self, number: usize) -> (i128, i128) {
        let since = |number: usize| self.all.get(number).map(|stretch| i128::from(stretch.since));
        let from = if number == 0 { i128::MIN } else { since(number).unwrap_or(i128::MIN) };
        (from, since(number + 1).unwrap_or(i128::MAX))
    }

    fn difference(&self, number: usize) -> (i64, ClockState) {
        self.told.get(number).copied().unwrap_or((0, ClockState::Unsynchronised))
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
        Stretches::of(all.iter().map(stretch).collect())
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

    #[test]
    fn every_time_that_a_clock_showed_is_within_and_no_other() {
        let far = 100_000;
        // Set on and back again, twice: what was passed over first was shown, or passed over again, later.
        let clock = stretches(&[
            (1000, 0, true, 1),
            (1100, far, true, 1),
            (1200, 0, true, 1),
            (1300, far, true, 1),
            (2000, -1500, true, 1),
            (3000, 0, false, 2),
        ]);
        for (since, until) in [(50_000, 50_001), (0, 50_000), (1250, 50_000), (1150, 101_150), (600, 700), (2900, 3100)]
        {
            let within = clock.within(Some(since), Some(until));
            for moment in 0..4000 {
                let is_shown = (since..until).contains(&clock.wall(moment).0);
                let is_within = within.iter().any(|(from, to)| (*from..*to).contains(&moment));
                assert_eq!(is_within, is_shown, "{moment} for {since} to {until}: {within:?}");
            }
        }
        assert_eq!(clock.within(None, None), [(0, u64::MAX)]);
        assert_eq!(Stretches::default().within(None, None), [(0, u64::MAX)]);
    }
}
