//! The ledger of a table: what is free, what falls due when, how many bindings are in which state.
//! Everything in it is changed under the lock of the table's ledger.

use super::free_slots::FreeSlots;
use crate::nat::binding::BindingState;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Notes about dormant bindings looked at in one go: each may be a read far away, and others wait for the lock.
const NOTES_AT_ONCE: usize = 64;

/// A slot at a certain version: if the slot has another version now, the note about it is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub index: u32,
    pub version: u16,
}

/// How many bindings of a part are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In use.
    pub active: u64,
    /// Idle.
    pub dormant: u64,
    /// Ended, not yet free.
    pub quarantined: u64,
}

/// Free slots, reminders and counts of one table.
pub struct Ledger {
    /// Slots that can be given.
    pub free_slots: FreeSlots,
    /// Slots that are not given, for other hosts have their virtual IPs; and whether each would be free otherwise.
    pub occupied: BTreeMap<u32, bool>,
    counts: Vec<Counts>,
    due: BTreeMap<u32, Vec<Stamp>>,
    /// Bindings that went dormant without an answer, and all others.
    unanswered: Sleepers,
    answered: Sleepers,
}

/// Notes about bindings that went dormant, the oldest first. Those ahead of them that a sweep has confirmed are in `swept`,
/// until it is through.
#[derive(Default)]
struct Sleepers {
    dormant: VecDeque<Stamp>,
    swept: VecDeque<Stamp>,
}

impl Ledger {
    /// A ledger for `len` slots in `parts` parts.
    pub fn new(len: u32, parts: usize) -> Self {
        Self {
            free_slots: FreeSlots::new(len),
            occupied: BTreeMap::new(),
            counts: vec![Counts::default(); parts],
            due: BTreeMap::new(),
            unanswered: Sleepers::default(),
            answered: Sleepers::default(),
        }
    }

    /// Exactly these slots are occupied: they are not given. One that is in use is kept when it is free.
    pub fn set_occupied(&mut self, slots: &BTreeSet<u32>) {
        for (slot, would_be_vacant) in self.occupied.extract_if(.., |slot, _| !slots.contains(slot)) {
            if would_be_vacant {
                self.free_slots.give(slot);
            }
        }
        for slot in slots {
            if !self.occupied.contains_key(slot) {
                self.occupied.insert(*slot, self.free_slots.take(*slot));
            }
        }
    }

    /// The slot is in use no more: it can be given, unless it is occupied.
    pub fn vacate(&mut self, slot: u32) {
        match self.occupied.get_mut(&slot) {
            Some(would_be_vacant) => *would_be_vacant = true,
            None => drop(self.free_slots.give(slot)),
        }
    }

    /// How many of the slots from the first to before the second are occupied, and would be free otherwise.
    pub fn count_occupied(&self, (first, behind): (u32, u32)) -> u64 {
        self.occupied.range(first..behind).filter(|(_, would_be_vacant)| **would_be_vacant).count() as u64
    }

    /// Look at `stamp` again in second `at`.
    pub fn remind(&mut self, at: u32, stamp: Stamp) {
        self.due.entry(at).or_default().push(stamp);
    }

    /// One reminder that is due, the earliest first.
    pub fn take_due(&mut self, now: u32) -> Option<Stamp> {
        loop {
            let mut first = self.due.first_entry().filter(|first| *first.key() <= now)?;
            if let Some(stamp) = first.get_mut().pop() {
                return Some(stamp);
            }
            first.remove();
        }
    }

    /// Notes that a binding went dormant, so that the oldest is known when the pool is full.
    pub fn queue_dormant(&mut self, stamp: Stamp, answered: bool) {
        self.sleepers(answered).dormant.push_back(stamp);
    }

    /// The binding that has been dormant longest, of those that were answered or of the others, if `is_current` confirms
    /// it. Notes about bindings that woke are dropped on the way; if there are very many, it may take several calls to find
    /// it.
    pub fn oldest_dormant(&mut self, answered: bool, mut is_current: impl FnMut(Stamp) -> bool) -> Option<Stamp> {
        let Sleepers { dormant, swept } = self.sleepers(answered);
        let mut notes = std::iter::from_fn(|| swept.pop_front().or_else(|| dormant.pop_front()));
        notes.by_ref().take(NOTES_AT_ONCE).find(|stamp| is_current(*stamp))
    }

    /// Drops some of the notes that `is_current` does not confirm, if there are many such. The others keep their order.
    /// To be called for each binding that is noted.
    pub fn sweep_dormant(&mut self, answered: bool, is_current: impl FnMut(&Stamp) -> bool) {
        let all: u64 = self.counts.iter().map(|counts| counts.dormant).sum();
        let Sleepers { dormant, swept } = self.sleepers(answered);
        let notes = (swept.len() + dormant.len()) as u64;
        if swept.is_empty() && notes <= 2 * all + NOTES_AT_ONCE as u64 {
            return;
        }
        let some = dormant.len().min(NOTES_AT_ONCE);
        swept.extend(dormant.drain(..some).filter(is_current));
        if dormant.is_empty() {
            std::mem::swap(swept, dormant);
        }
    }

    /// Counts a binding of `part` out of one state and into another.
    pub fn recount(&mut self, part: usize, from: Option<BindingState>, to: Option<BindingState>) {
        let Some(counts) = self.counts.get_mut(part) else { return };
        if let Some(from) = from {
            let count = counts.of(from);
            *count = count.saturating_sub(1);
        }
        if let Some(to) = to {
            *counts.of(to) += 1;
        }
    }

    /// The counts of `part`.
    pub fn counts(&self, part: usize) -> Counts {
        self.counts.get(part).copied().unwrap_or_default()
    }

    /// How many are quarantined in all.
    pub fn quarantined(&self) -> u64 {
        self.counts.iter().map(|counts| counts.quarantined).sum()
    }

    fn sleepers(&mut self, answered: bool) -> &mut Sleepers {
        if answered { &mut self.answered } else { &mut self.unanswered }
    }
}

impl Counts {
    /// In whichever state.
    pub fn all(&self) -> u64 {
        self.active + self.dormant + self.quarantined
    }

    fn of(&mut self, state: BindingState) -> &mut u64 {
        match state {
            BindingState::Active => &mut self.active,
            BindingState::Dormant => &mut self.dormant,
            BindingState::Quarantined => &mut self.quarantined,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slot_that_is_occupied_is_vacant_again_if_nothing_else_keeps_it() {
        let mut ledger = Ledger::new(4, 1);
        for taken in [0, 1, 2] {
            ledger.free_slots.take(taken);
        }
        ledger.set_occupied(&BTreeSet::from([1, 2, 3]));
        assert_eq!((ledger.free_slots.next(0), ledger.count_occupied((0, 4))), (None, 1));
        ledger.vacate(2);
        assert_eq!((ledger.free_slots.next(0), ledger.count_occupied((0, 4))), (None, 2));
        ledger.set_occupied(&BTreeSet::from([3]));
        assert_eq!((ledger.free_slots.next(0), ledger.free_slots.contains(1)), (Some(2), false));
        ledger.set_occupied(&BTreeSet::new());
        assert!(ledger.free_slots.contains(3) && ledger.count_occupied((0, 4)) == 0);
    }

    proptest! {
        #[test]
        fn the_dormant_keep_their_order_while_some_wake(
            wakes in prop::collection::vec(prop::bool::weighted(0.01), 0..2000),
        ) {
            let mut ledger = Ledger::new(1, 1);
            let mut asleep = BTreeSet::new();
            for (index, wakes) in (0..).zip(wakes) {
                ledger.queue_dormant(Stamp { index, version: 0 }, true);
                asleep.insert(index);
                if wakes {
                    asleep.retain(|index| index % 7 == 0);
                }
                ledger.counts[0].dormant = asleep.len() as u64;
                ledger.sweep_dormant(true, |stamp| asleep.contains(&stamp.index));
            }
            for _ in 0..100 {
                ledger.sweep_dormant(true, |stamp| asleep.contains(&stamp.index));
            }
            prop_assert!(ledger.answered.dormant.len() + ledger.answered.swept.len() <= 2 * asleep.len() + NOTES_AT_ONCE);
            while let Some(index) = asleep.pop_first() {
                let is_it = |stamp: Stamp| stamp.index == index || asleep.contains(&stamp.index);
                let oldest = (0..100).find_map(|_| ledger.oldest_dormant(true, is_it));
                prop_assert_eq!(oldest.map(|stamp| stamp.index), Some(index));
            }
        }
    }
}
