//! Bindings of an earlier run, put back where they were.

use super::{Found, Slot, Stamp, Table, Usage, begun};
use crate::nat::binding::BindingState;
use crate::time::Time;

/// Why a binding cannot be put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misplaced {
    /// Its virtual IP is in none of the pools, or reserved now.
    NotGiven,
    /// Another binding has its slot.
    Taken,
    /// The terminal has this binding already.
    Twice(Found),
}

impl Table {
    /// Puts a binding back, with what it has left of its time; a quarantine whose beginning is not known starts again. Dormant bindings are told to
    /// [`Table::queue`] in their order afterwards.
    pub fn restore(&self, slot: Slot, last_used: u32, usage: Usage, now: Time) -> Result<Found, Misplaced> {
        let (index, part) = self.parts.slot_of(slot.virtual_ip).ok_or(Misplaced::NotGiven)?;
        if part.is_reserved(slot.virtual_ip) {
            return Err(Misplaced::NotGiven);
        }
        let hash = self.hash(slot.inside, slot.terminal);
        let region = self.index.lock(hash);
        let mut ledger = self.ledger.lock();
        let before = self.find(hash, slot.inside, slot.terminal);
        if let Some(before) = before.filter(|_| slot.state != BindingState::Quarantined) {
            return Err(Misplaced::Twice(before));
        }
        if !ledger.free_slots.take(index) {
            // Of two that had the virtual IP one after the other, the later one counts.
            let ended = self.slots.read(index).filter(|held| held.state == BindingState::Quarantined);
            let ended = ended.filter(|held| held.created < slot.created).ok_or(Misplaced::Taken)?;
            ledger.recount(self.parts.of_slot(index).map_or(0, |(part, _)| part), Some(ended.state), None);
        }
        let last_used = last_used.min(now.as_secs());
        self.slots.start_usage(index, last_used);
        self.slots.add_usage(index, usage);
        let ended = match slot.state {
            BindingState::Quarantined if slot.ended > 0 => slot.ended.min(begun(now)),
            BindingState::Quarantined => begun(now),
            _ => 0,
        };
        let slot = Slot { ended, ..slot };
        let idle = Time::from_secs(last_used.into());
        let left = match slot.state {
            BindingState::Active => idle + self.hold(&slot) - now,
            BindingState::Dormant => idle + self.hold(&slot) + self.reserve(&slot) - now,
            BindingState::Quarantined => Time::from_secs(ended.into()) + self.lifetimes.quarantine - now,
        };
        ledger.recount(self.parts.of_slot(index).map_or(0, |(part, _)| part), None, Some(slot.state));
        let found = self.put(&mut ledger, index, slot, now, left);
        if slot.state != BindingState::Quarantined {
            region.insert(hash, index);
        }
        Ok(found)
    }

    /// The binding `found` is known elsewhere as `other`, which was last used in second `last_used` there. Unless it has
    /// ended here, it is from now on as of the later use of both, pinned or answered if it is either there or here.
    /// `None` if it has ended, or is not what it was any more.
    pub fn join(&self, found: &Found, other: &Slot, last_used: u32, now: Time) -> Option<Found> {
        let mut ledger = self.ledger.lock();
        let slot = self.slots.read(found.index).filter(|slot| slot.version == found.slot.version)?;
        if slot.state == BindingState::Quarantined {
            return None;
        }
        self.slots.touch(found.index, last_used.min(now.as_secs()));
        let is_awake = slot.state == BindingState::Active || other.state == BindingState::Active;
        let joined = Slot {
            state: if is_awake { BindingState::Active } else { slot.state },
            pinned: slot.pinned || other.pinned,
            answered: slot.answered || other.answered,
            ..slot
        };
        if joined == slot {
            return Some(Found { slot, ..*found });
        }
        let part = self.parts.of_slot(found.index)?.0;
        ledger.recount(part, Some(slot.state), Some(joined.state));
        let idle = Time::from_secs(self.slots.last_used(found.index).into());
        Some(self.put(&mut ledger, found.index, joined, now, idle + self.hold(&joined) - now))
    }

    /// Notes dormant bindings that were restored, the oldest first.
    pub fn queue(&self, dormant: impl Iterator<Item = Stamp>) {
        let mut ledger = self.ledger.lock();
        for stamp in dormant {
            let answered = self.slots.read(stamp.index).is_none_or(|slot| slot.answered);
            ledger.queue_dormant(stamp, answered);
        }
    }

    /// Keeps a virtual IP from being given: it is that of a terminal whose inside is not served today.
    pub fn keep_back(&self, virtual_ip: crate::wire::Address) {
        if let Some((index, _)) = self.parts.slot_of(virtual_ip) {
            self.ledger.lock().free_slots.take(index);
        }
    }

    /// Whether a slot's binding is still unrecorded.
    pub fn is_unrecorded(&self, index: u32) -> bool {
        self.unrecorded.contains(index)
    }

    /// Whether what is on record of a slot's binding says that it is dormant, and it is not.
    pub fn is_woken(&self, index: u32) -> bool {
        self.woken.contains(index)
    }

    /// No packet waits any more until the binding's waking is on record.
    pub fn let_go(&self, index: u32) {
        self.woken.clear(index);
    }

    /// Notes that what the slot said at `stamp` is on record.
    pub fn mark_recorded(&self, stamp: Stamp) {
        let _ledger = self.ledger.lock();
        if self.is_current(stamp) {
            self.unrecorded.clear(stamp.index);
            self.woken.clear(stamp.index);
        }
    }
}
