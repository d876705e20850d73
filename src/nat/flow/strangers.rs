//! ICMP errors from hosts outside that a terminal has not called: routers on the way, and forgers who guess which flows
//! there are (RFC 5927). How many a terminal hears in a second, and how many all terminals do.

use crate::nat::binding::SlotRef;
use crate::nat::reason::DropReason;
use crate::time::Time;

/// Errors a second for one terminal: enough for several traceroutes at once.
const PER_TERMINAL: u8 = 100;
/// Errors a second of one worker for all terminals, as many as Linux sends by default (`icmp_msgs_per_sec`).
const PER_WORKER: u32 = 1000;
/// Terminals are counted in so many places; two that share one share its limit, for a second.
const PLACES: usize = 1024;

/// What one worker has let through in this second.
pub(in crate::nat) struct Strangers {
    second: u32,
    all: u32,
    places: Box<[u8; PLACES]>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self { second: 0, all: 0, places: Box::new([0; PLACES]) }
    }
}

impl Strangers {
    /// Counts in an error for the terminal in `slot`, unless there have been too many.
    pub(in crate::nat) fn admit(&mut self, slot: SlotRef, now: Time) -> Result<(), DropReason> {
        if self.second != now.as_secs() {
            (self.second, self.all) = (now.as_secs(), 0);
            self.places.fill(0);
        }
        let index = usize::try_from(slot.index()).unwrap_or_default().wrapping_add(usize::from(slot.table().get()));
        let Some(heard) = self.places.get_mut(index % PLACES) else { return Err(DropReason::IcmpErrorRate) };
        if *heard >= PER_TERMINAL || self.all >= PER_WORKER {
            return Err(DropReason::IcmpErrorRate);
        }
        *heard += 1;
        self.all += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_errors_of_strangers_are_limited_for_a_terminal_and_for_all() {
        let mut strangers = Strangers::default();
        let mut admitted = |index: u32, second: u32| {
            (0..300)
                .filter(|_| {
                    strangers.admit(SlotRef::new(Default::default(), index), Time::from_secs(second.into())).is_ok()
                })
                .count()
        };
        assert_eq!((admitted(1, 7), admitted(1, 7), admitted(2, 7)), (100, 0, 100));
        assert_eq!((3..40).map(|index| admitted(index, 7)).sum::<usize>(), 800);
        assert_eq!(admitted(1, 8), 100);
    }
}
