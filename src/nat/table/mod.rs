//! The table: terminal → slot by an index, virtual IP → slot by its number. Looking up takes no lock either way.
//!
//! Order of locks: a region of the index, then the ledger. Never two regions at once.

use self::index::Index;
use self::ledger::{Counts, Ledger, Stamp};
use self::pools::{TablePool, TablePools};
use self::slot_bits::SlotBits;
use self::slots::{Slot, Slots, Usage};
use super::settings::Lifetimes;
use crate::nat::binding::BindingState;
use crate::nat::numbers::InsideNumber;
use crate::time::Time;
use crate::wire::Address;
use parking_lot::Mutex;
use siphasher::sip::SipHasher13;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(super) mod free_slots;
pub(super) mod index;
pub(super) mod ledger;
pub(super) mod pools;
mod restore;
pub(super) mod slot_bits;
pub(super) mod slots;

pub use restore::Misplaced;

/// One slot in so many in use makes a table dense: most small pages have one of them by then.
const DENSE: u64 = 64;
/// How long a binding that nobody has answered stays reserved for its terminal, at most: who sends once and hears nothing is
/// not held on to for days.
const UNANSWERED_DORMANT: Duration = Duration::from_secs(3600);
/// Terminals looked up side by side: as many as a processor has outstanding reads of memory.
const SIDE_BY_SIDE: usize = 16;

/// The bindings of one or more pools that serve the same peers.
pub struct Table {
    parts: TablePools,
    slots: Slots,
    unrecorded: SlotBits,
    woken: SlotBits,
    index: Index,
    ledger: Mutex<Ledger>,
    hasher: SipHasher13,
    lifetimes: Lifetimes,
    is_dense: AtomicBool,
}

/// A binding found or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its slot number.
    pub index: u32,
    pub slot: Slot,
}

/// What [`Table::pin`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    pub found: Found,
    /// The one that the terminal had before, if it was another.
    pub moved: Option<Found>,
    /// Whether the binding was made now.
    pub is_new: bool,
}

/// Why a binding cannot be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinError {
    /// The address is in no pool, reserved, or occupied by another host.
    Reserved,
    /// The slot is another's.
    Taken(Found),
}

/// What [`Table::age`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aged {
    /// It went dormant.
    Dormant(Found),
    /// It ended.
    Released(Found),
    /// Its virtual IP is free.
    Freed(Found),
}

/// A table with nothing in it could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl Table {
    /// An empty table.
    pub fn new(parts: TablePools, hash_key: &[u8; 16], lifetimes: Lifetimes) -> Result<Self, TooLarge> {
        let len = parts.len();
        let mut ledger = Ledger::new(len, parts.iter().count());
        for slot in parts.reserved_slots() {
            ledger.free_slots.take(slot);
        }
        Ok(Self {
            slots: Slots::new(len).ok_or(TooLarge)?,
            unrecorded: SlotBits::new(len).ok_or(TooLarge)?,
            woken: SlotBits::new(len).ok_or(TooLarge)?,
            index: Index::new(len).ok_or(TooLarge)?,
            ledger: Mutex::new(ledger),
            hasher: SipHasher13::new_with_key(hash_key),
            lifetimes,
            is_dense: AtomicBool::new(false),
            parts,
        })
    }

    /// The binding of a terminal.
    pub fn of_terminal(&self, inside: InsideNumber, terminal: Address) -> Option<Found> {
        self.find(self.hash(inside, terminal), inside, terminal)
    }

    /// The bindings of many terminals of one inside, in their order: the reads of memory that each needs go on side by
    /// side, which in a table far larger than the caches costs a fraction of asking for one after the other.
    pub fn of_terminals(&self, inside: InsideNumber, terminals: &[Address], mut each: impl FnMut(Option<Found>)) {
        let mut hashes = [0; SIDE_BY_SIDE];
        let mut slots = [None; SIDE_BY_SIDE];
        for terminals in terminals.chunks(SIDE_BY_SIDE) {
            for (hash, terminal) in hashes.iter_mut().zip(terminals) {
                *hash = self.hash(inside, *terminal);
            }
            let hashes = hashes.get(..terminals.len()).unwrap_or_default();
            for (slot, hash) in slots.iter_mut().zip(hashes) {
                *slot = self.index.peek(*hash);
            }
            for slot in slots.iter().take(terminals.len()).flatten() {
                self.slots.touch_memory(*slot);
            }
            for (hash, terminal) in hashes.iter().zip(terminals) {
                each(self.find(*hash, inside, *terminal));
            }
        }
    }

    /// The binding of a virtual IP.
    pub fn of_virtual_ip(&self, virtual_ip: Address) -> Option<Found> {
        self.at(self.parts.slot_of(virtual_ip)?.0).filter(|found| found.slot.virtual_ip == virtual_ip)
    }

    /// The binding in a slot.
    pub fn at(&self, index: u32) -> Option<Found> {
        Some(Found { index, slot: self.slots.read(index)? })
    }

    /// The binding of a terminal, made now if there is none (then `true`); `None` if no virtual IP is left. In that case
    /// the binding that has been dormant longest ends, so that its virtual IP is free after the quarantine.
    pub fn create(&self, inside: InsideNumber, terminal: Address, now: Time) -> (Option<(Found, bool)>, Option<Found>) {
        let hash = self.hash(inside, terminal);
        let region = self.index.lock(hash);
        if let Some(found) = self.find(hash, inside, terminal) {
            return (Some((found, false)), None);
        }
        let mut ledger = self.ledger.lock();
        let Some(index) = self.choose_free(&ledger, hash) else {
            drop(region);
            let oldest = self.retire(&mut ledger);
            drop(ledger);
            return (None, oldest.and_then(|stamp| self.end(stamp, now)));
        };
        let Some(slot) = self.new_slot(index, hash, inside, terminal, now) else { return (None, None) };
        ledger.free_slots.take(index);
        let found = self.put_in_use(&mut ledger, index, slot, now);
        drop(ledger);
        region.insert(hash, index);
        (Some((found, true)), None)
    }

    /// The binding that [`Table::create`] would make now for a terminal that has none.
    pub fn preview(&self, inside: InsideNumber, terminal: Address, now: Time) -> Option<Found> {
        let hash = self.hash(inside, terminal);
        let index = self.choose_free(&self.ledger.lock(), hash)?;
        Some(Found { index, slot: self.new_slot(index, hash, inside, terminal, now)? })
    }

    /// Wakes a dormant binding; `None` if it is not what it was any more.
    pub fn wake(&self, found: Found, now: Time) -> Option<Found> {
        let mut ledger = self.ledger.lock();
        let slot = self.slots.read(found.index)?;
        if slot.version != found.slot.version || slot.state != BindingState::Dormant {
            return None;
        }
        self.slots.touch(found.index, now.as_secs());
        self.woken.set(found.index);
        let slot = Slot { state: BindingState::Active, ..slot };
        let part = self.parts.of_slot(found.index)?.0;
        ledger.recount(part, Some(BindingState::Dormant), Some(BindingState::Active));
        Some(self.put(&mut ledger, found.index, slot, now, self.hold(&slot)))
    }

    /// Notes that a peer which the terminal has called has sent something back: from now on the binding is held for long.
    /// False if that was known, or the binding is not what it was any more.
    pub fn mark_answered(&self, found: &Found) -> bool {
        let _ledger = self.ledger.lock();
        let slot = self.slots.read(found.index).filter(|slot| slot.version == found.slot.version);
        let is_new = slot.is_some_and(|slot| !slot.answered && slot.state != BindingState::Quarantined);
        if is_new {
            // The reminder of the short hold stands, and finds the long one.
            self.slots.set_answered(found.index);
        }
        is_new
    }

    /// How many virtual IPs can be given now.
    pub fn free(&self) -> u64 {
        let ledger = self.ledger.lock();
        let of = |(number, part): (usize, &TablePool)| {
            part.capacity().saturating_sub(ledger.counts(number).all() + ledger.count_occupied(part.slots()))
        };
        self.parts.iter().enumerate().filter(|(_, part)| !part.is_draining()).map(of).sum()
    }

    /// Ties `terminal` to `virtual_ip`.
    /// `force`: even if the virtual IP is in quarantine after another terminal's use.
    pub fn pin(
        &self,
        inside: InsideNumber,
        terminal: Address,
        virtual_ip: Address,
        force: bool,
        now: Time,
    ) -> Result<Pinned, PinError> {
        let (index, part) = self.parts.slot_of(virtual_ip).ok_or(PinError::Reserved)?;
        if part.is_reserved(virtual_ip) {
            return Err(PinError::Reserved);
        }
        let hash = self.hash(inside, terminal);
        let region = self.index.lock(hash);
        let mut ledger = self.ledger.lock();
        if ledger.occupied.contains_key(&index) {
            return Err(PinError::Reserved);
        }
        let held = self.slots.read(index);
        let own = |slot: &Slot| slot.terminal == terminal && slot.inside == inside && slot.virtual_ip == virtual_ip;
        let is_free = |slot: &Slot| own(slot) || (force && slot.state == BindingState::Quarantined);
        if let Some(slot) = held.filter(|slot| !is_free(slot)) {
            return Err(PinError::Taken(Found { index, slot }));
        }
        let before = self.find(hash, inside, terminal);
        let moved = before.filter(|before| before.index != index);
        if let Some(moved) = moved {
            region.remove(hash, moved.index);
            self.quarantine(&mut ledger, moved, now);
        }
        let created = match held {
            Some(slot) if slot.state != BindingState::Quarantined => slot.created,
            // Never that of the one that has ended: it tells them apart.
            ended => ended.map_or(0, |slot| slot.created.saturating_add(1)).max(now.as_secs()),
        };
        let (state, answered) = (BindingState::Active, true);
        let slot = Slot { version: 0, state, pinned: true, answered, inside, terminal, virtual_ip, created, ended: 0 };
        let found = if before.is_some() && moved.is_none() {
            let part = self.parts.of_slot(index).map_or(0, |(part, _)| part);
            ledger.recount(part, held.map(|slot| slot.state), Some(BindingState::Active));
            self.put(&mut ledger, index, slot, now, self.hold(&slot))
        } else {
            if let (Some(slot), Some((part, _))) = (held, self.parts.of_slot(index)) {
                ledger.recount(part, Some(slot.state), None);
            }
            ledger.free_slots.take(index);
            let found = self.put_in_use(&mut ledger, index, slot, now);
            region.insert(hash, index);
            found
        };
        Ok(Pinned { found, moved, is_new: before.is_none() || moved.is_some() })
    }

    /// Takes in a binding from elsewhere, in the state that it has, with what it has left of its time. `None` if its virtual IP
    /// cannot be given here or is another's, or if its terminal has one here already.
    pub fn take_in(&self, slot: Slot, usage: Usage, last_used: Time, now: Time) -> Option<Found> {
        let found = self.restore(slot, last_used.as_secs(), usage, now).ok()?;
        if slot.state == BindingState::Dormant {
            self.queue(std::iter::once(found.stamp()));
        }
        Some(found)
    }

    /// Ends a binding: its virtual IP goes into quarantine. `None` if it is not what it was any more.
    pub fn end(&self, stamp: Stamp, now: Time) -> Option<Found> {
        let slot = self.slots.read(stamp.index)?;
        let hash = self.hash(slot.inside, slot.terminal);
        let region = self.index.lock(hash);
        let mut ledger = self.ledger.lock();
        let slot = self.slots.read(stamp.index)?;
        if slot.version != stamp.version || slot.state == BindingState::Quarantined {
            return None;
        }
        if !region.remove(hash, stamp.index) {
            return None;
        }
        let found = Found { index: stamp.index, slot };
        self.quarantine(&mut ledger, found, now);
        Some(found)
    }

    /// Looks at up to `budget` bindings that may have come of age, and tells `sink` what became of them.
    /// Returns whether all that was due was seen.
    pub fn age(&self, now: Time, budget: usize, sink: &mut dyn FnMut(Aged)) -> bool {
        for _ in 0..budget {
            let Some(stamp) = self.ledger.lock().take_due(now.as_secs()) else { return true };
            if let Some(aged) = self.age_one(stamp, now) {
                sink(aged);
            }
        }
        false
    }

    /// Adds the use of a binding that a worker has counted.
    pub fn add_usage(&self, index: u32, usage: Usage) {
        self.slots.add_usage(index, usage);
    }

    /// Notes that the binding is in use.
    pub fn touch(&self, index: u32, now: Time) {
        self.slots.touch(index, now.as_secs());
    }

    /// Use and last use of a binding.
    pub fn usage(&self, index: u32) -> (Usage, Time) {
        (self.slots.usage(index), Time::from_secs(self.slots.last_used(index).into()))
    }

    /// Time until a binding goes dormant, is released, or its virtual IP is free, if nothing uses it; `None` if it is pinned.
    pub fn left(&self, found: &Found, now: Time) -> Option<Duration> {
        let slot = &found.slot;
        let idle = Time::from_secs(self.slots.last_used(found.index).into());
        let at = match slot.state {
            BindingState::Active if slot.pinned => return None,
            BindingState::Active => idle + self.hold(slot),
            BindingState::Dormant => idle + self.hold(slot) + self.reserve(slot),
            BindingState::Quarantined => Time::from_secs(slot.ended.into()) + self.lifetimes.quarantine,
        };
        Some(at - now)
    }

    /// The binding that a terminal had, if its virtual IP is still in quarantine. Looks at all slots.
    pub fn ended_of(&self, inside: InsideNumber, terminal: Address) -> Option<Found> {
        if self.counts().iter().all(|counts| counts.quarantined == 0) {
            return None;
        }
        let mut from = 0;
        while let Some(found) = self.next_at(from) {
            let Slot { state, .. } = found.slot;
            if state == BindingState::Quarantined && found.slot.terminal == terminal && found.slot.inside == inside {
                return Some(found);
            }
            from = found.index.checked_add(1)?;
        }
        None
    }

    /// The pools.
    pub fn pools(&self) -> &TablePools {
        &self.parts
    }

    /// The part a slot belongs to.
    pub fn part(&self, index: u32) -> Option<&TablePool> {
        self.parts.of_slot(index).map(|(_, part)| part)
    }

    /// How many slots.
    pub fn len(&self) -> u32 {
        self.slots.len()
    }

    /// The first binding at or after slot `from`. Holds the ledger's lock for some microseconds at most.
    pub fn next_at(&self, mut from: u32) -> Option<Found> {
        loop {
            let next = self.ledger.lock().free_slots.next_taken(from)?;
            match next {
                Ok(index) => match self.at(index) {
                    Some(found) => return Some(found),
                    None => from = index.checked_add(1)?, // reserved, or freed just now
                },
                Err(resume) => from = resume,
            }
        }
    }

    /// The memory of the table, told once: when so much of it is in use that it may as well be taken whole.
    pub fn dense_memory(&self) -> Option<[Range<*const u8>; 3]> {
        let in_use: u64 = self.counts().iter().map(Counts::all).sum();
        if in_use * DENSE < u64::from(self.len()).max(1) || self.is_dense.swap(true, Ordering::Relaxed) {
            return None;
        }
        let [slots, bytes] = self.slots.memory();
        Some([slots, bytes, self.index.memory()])
    }

    /// Hands every binding to `each`, in the order of the slots.
    pub fn each(&self, each: &mut dyn FnMut(Found)) {
        let mut next = 0;
        while let Some(found) = self.next_at(next) {
            each(found);
            next = found.index + 1;
        }
    }

    /// Keeps exactly those of these virtual IPs that lie here from being given, until it is told otherwise; in a sparse pool
    /// their whole slots. Bindings that have them go on.
    pub fn set_occupied(&self, virtual_ips: impl Iterator<Item = Address>) {
        let slot = |virtual_ip| {
            let (slot, part) = self.parts.slot_of(virtual_ip)?;
            (!part.is_reserved(virtual_ip)).then_some(slot)
        };
        self.ledger.lock().set_occupied(&virtual_ips.filter_map(slot).collect());
    }

    /// How many virtual IPs of each part are occupied, and would be free otherwise.
    pub fn count_occupied(&self) -> Vec<u64> {
        let ledger = self.ledger.lock();
        self.parts.iter().map(|part| ledger.count_occupied(part.slots())).collect()
    }

    /// How many bindings each part has, by state.
    pub fn counts(&self) -> Vec<Counts> {
        let ledger = self.ledger.lock();
        (0..self.parts.iter().count()).map(|part| ledger.counts(part)).collect()
    }

    fn age_one(&self, stamp: Stamp, now: Time) -> Option<Aged> {
        let slot = self.slots.read(stamp.index).filter(|slot| slot.version == stamp.version)?;
        match slot.state {
            BindingState::Active => {
                let mut ledger = self.ledger.lock();
                let slot = self.slots.read(stamp.index).filter(|slot| slot.version == stamp.version)?;
                let hold = seconds(self.hold(&slot));
                let used = if slot.pinned { now.as_secs() } else { self.slots.last_used(stamp.index) };
                let idle_at = used.saturating_add(hold);
                if idle_at > now.as_secs() {
                    ledger.remind(idle_at, stamp);
                    return None;
                }
                let part = self.parts.of_slot(stamp.index)?.0;
                ledger.recount(part, Some(BindingState::Active), Some(BindingState::Dormant));
                let slot = Slot { state: BindingState::Dormant, ..slot };
                let found = self.put(&mut ledger, stamp.index, slot, now, self.reserve(&slot));
                ledger.queue_dormant(found.stamp(), slot.answered);
                ledger.sweep_dormant(slot.answered, |stamp| self.is_current(*stamp));
                Some(Aged::Dormant(found))
            }
            BindingState::Dormant => self.end(stamp, now).map(Aged::Released),
            BindingState::Quarantined => {
                let mut ledger = self.ledger.lock();
                let slot = self.slots.read(stamp.index).filter(|slot| slot.version == stamp.version)?;
                self.slots.write(stamp.index, None);
                ledger.vacate(stamp.index);
                ledger.recount(self.parts.of_slot(stamp.index)?.0, Some(BindingState::Quarantined), None);
                Some(Aged::Freed(Found { index: stamp.index, slot }))
            }
        }
    }

    /// The dormant binding to end because the pool is full; none while enough addresses are in quarantine already. Those
    /// that were never answered go first, and more of them at a time.
    fn retire(&self, ledger: &mut Ledger) -> Option<Stamp> {
        let is_scarce = |share: u64| ledger.quarantined() < (u64::from(self.len()) / share).max(1);
        let (few, fewer) = (is_scarce(8), is_scarce(64));
        let mut oldest = |answered| ledger.oldest_dormant(answered, |stamp| self.is_current(stamp));
        few.then(|| oldest(false)).flatten().or_else(|| fewer.then(|| oldest(true)).flatten())
    }

    /// How long a binding is held while it is idle.
    fn hold(&self, slot: &Slot) -> Duration {
        if slot.answered { self.lifetimes.hold } else { self.lifetimes.unanswered.min(self.lifetimes.hold) }
    }

    /// How long it is reserved for its terminal after that.
    fn reserve(&self, slot: &Slot) -> Duration {
        if slot.answered { self.lifetimes.dormant } else { self.lifetimes.dormant.min(UNANSWERED_DORMANT) }
    }

    fn is_current(&self, stamp: Stamp) -> bool {
        self.slots.read(stamp.index).is_some_and(|slot| slot.version == stamp.version)
    }

    /// Writes a new binding into its slot.
    fn put_in_use(&self, ledger: &mut Ledger, index: u32, slot: Slot, now: Time) -> Found {
        self.unrecorded.set(index);
        self.slots.start_usage(index, now.as_secs());
        let part = self.parts.of_slot(index).map_or(0, |(part, _)| part);
        ledger.recount(part, None, Some(slot.state));
        self.put(ledger, index, slot, now, self.hold(&slot))
    }

    fn quarantine(&self, ledger: &mut Ledger, found: Found, now: Time) {
        let part = self.parts.of_slot(found.index).map_or(0, |(part, _)| part);
        ledger.recount(part, Some(found.slot.state), Some(BindingState::Quarantined));
        let slot = Slot { state: BindingState::Quarantined, pinned: false, ended: begun(now), ..found.slot };
        self.put(ledger, found.index, slot, now, self.lifetimes.quarantine);
    }

    fn put(&self, ledger: &mut Ledger, index: u32, slot: Slot, now: Time, look_again: Duration) -> Found {
        let version = self.slots.write(index, Some(slot));
        let found = Found { index, slot: Slot { version, ..slot } };
        ledger.remind(begun(now).saturating_add(seconds(look_again)), found.stamp());
        found
    }

    fn find(&self, hash: u64, inside: InsideNumber, terminal: Address) -> Option<Found> {
        self.index.find(hash, |index| {
            let found = self.at(index)?;
            // One that ends at this moment stands in the index for some nanoseconds more.
            let Slot { state, .. } = found.slot;
            let is_it = found.slot.terminal == terminal && found.slot.inside == inside;
            (is_it && state != BindingState::Quarantined).then_some(found)
        })
    }

    /// A slot to give: the hash's own choice, or the next one that is free, in a pool that is not draining.
    fn choose_free(&self, ledger: &Ledger, hash: u64) -> Option<u32> {
        let mut from = self.parts.first_choice(hash);
        for _ in 0..=self.parts.iter().count() {
            let index = ledger.free_slots.next(from)?;
            let (_, part) = self.parts.of_slot(index)?;
            if !part.is_draining() {
                return Some(index);
            }
            from = part.slots().1 % self.len();
        }
        None
    }

    fn new_slot(&self, index: u32, hash: u64, inside: InsideNumber, terminal: Address, now: Time) -> Option<Slot> {
        let virtual_ip = self.parts.address(index, hash)?;
        let (state, created) = (BindingState::Active, now.as_secs());
        let (pinned, answered, ended) = (false, false, 0);
        Some(Slot { version: 0, state, pinned, answered, inside, terminal, virtual_ip, created, ended })
    }

    fn hash(&self, inside: InsideNumber, terminal: Address) -> u64 {
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&terminal.bits().to_le_bytes());
        bytes[16..].copy_from_slice(&inside.get().to_le_bytes());
        self.hasher.hash(&bytes)
    }
}

impl Found {
    /// The slot at its present version.
    pub fn stamp(&self) -> Stamp {
        Stamp { index: self.index, version: self.slot.version }
    }
}

/// The second from which a time counts, rounded up: a quarantine must not end within its last second.
fn begun(now: Time) -> u32 {
    now.as_secs().saturating_add(u32::from(!now.as_millis().is_multiple_of(1000)))
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
