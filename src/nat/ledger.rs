//! The ledger of a table: what is vacant, what falls due when, how many bindings are in which state.
//! Everything in it is changed under the lock of the table's pool.

use super::admin::BindingState;
use super::vacancy::Vacancy;
use std::collections::{BTreeMap, VecDeque};

/// A slot at a certain version: if the slot has another version now, the note about it is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The slot.
    pub index: u32,
    /// Its version.
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

/// See the module.
pub struct Ledger {
    /// Slots that can be given.
    pub vacancy: Vacancy,
    counts: Vec<Counts>,
    due: BTreeMap<u32, Vec<Stamp>>,
    dormant: VecDeque<Stamp>,
}

impl Ledger {
    /// A ledger for `len` slots in `parts` parts.
    pub fn new(len: u32, parts: usize) -> Self {
        Self {
            vacancy: Vacancy::new(len),
            counts: vec![Counts::default(); parts],
            due: BTreeMap::new(),
            dormant: VecDeque::new(),
        }
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
    pub fn queue_dormant(&mut self, stamp: Stamp) {
        self.dormant.push_back(stamp);
    }

    /// The binding that has been dormant longest, if `is_current` confirms it. Notes about bindings that woke are
    /// dropped on the way.
    pub fn oldest_dormant(&mut self, mut is_current: impl FnMut(Stamp) -> bool) -> Option<Stamp> {
        while let Some(stamp) = self.dormant.pop_front() {
            if is_current(stamp) {
                return Some(stamp);
            }
        }
        None
    }

    /// Whether the notes about dormant bindings have grown well past the bindings that are.
    pub fn has_stale_dormant(&self) -> bool {
        let dormant: u64 = self.counts.iter().map(|counts| counts.dormant).sum();
        self.dormant.len() as u64 > 2 * dormant + 64
    }

    /// Drops the notes that `is_current` does not confirm.
    pub fn prune_dormant(&mut self, is_current: impl FnMut(&Stamp) -> bool) {
        self.dormant.retain(is_current);
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
