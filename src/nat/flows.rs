//! What a worker remembers of the flows it serves: the decision made once, until it may have changed.
//!
//! An entry saves the lookups and every shared write: packets are counted here and added to the binding later.

use super::slots::Usage;
use super::verdict::Realm;
use crate::time::Time;
use crate::wire::{Address, Rewrite};

/// Entries a worker; direct-mapped.
const ENTRIES: usize = 4096;
/// How long a decision stands before it is made again (milliseconds). Bounds how stale a last-used time, a contact or a
/// counter can be.
const STANDS: u64 = 4_000;

/// The decision about a flow: all packets between two addresses in one direction.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// What to write.
    pub rewrite: Rewrite,
    /// Where the packet goes.
    pub to: Realm,
    /// The binding of the terminal that sends, if one does.
    pub caller: Option<SlotRef>,
    /// The binding of the terminal that receives, if one does. Both, where one terminal calls another (hairpin).
    pub callee: Option<SlotRef>,
}

/// Names a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRef {
    /// Number of the table.
    pub table: u16,
    /// Slot in it.
    pub index: u32,
}

/// A flow of one worker, with what has passed since it was last noted.
#[derive(Clone, Copy)]
struct Entry {
    from: Realm,
    source: Address,
    destination: Address,
    flow: Flow,
    epoch: u64,
    decided: Time,
    packets: u64,
    opened: u32,
}

/// See the module.
pub struct Flows {
    entries: Box<[Option<Entry>]>,
    /// Entries that have something to note.
    dirty: Vec<u16>,
}

/// Packets of a flow that a worker has counted and that are still to be noted in its bindings.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    caller: Option<SlotRef>,
    callee: Option<SlotRef>,
    packets: u64,
    opened: u32,
}

impl Tally {
    /// What to add to which binding.
    pub fn usages(&self) -> impl Iterator<Item = (SlotRef, Usage)> {
        let out = Usage { packets_out: self.packets, ..Usage::default() };
        let inward = Usage { packets_in: self.packets, callbacks: self.opened, ..Usage::default() };
        self.caller.map(|slot| (slot, out)).into_iter().chain(self.callee.map(|slot| (slot, inward)))
    }
}

impl Flows {
    /// Nothing remembered.
    pub fn new() -> Self {
        Self { entries: vec![None; ENTRIES].into_boxed_slice(), dirty: Vec::with_capacity(ENTRIES) }
    }

    /// The decision about a packet, if it still stands; counts the packet.
    pub fn hit(
        &mut self,
        from: Realm,
        source: Address,
        destination: Address,
        epoch: u64,
        now: Time,
        opens: bool,
    ) -> Option<Flow> {
        let at = place(from, source, destination);
        let entry = self.entries.get_mut(at)?.as_mut()?;
        let stands = entry.source == source
            && entry.destination == destination
            && entry.from == from
            && entry.epoch == epoch
            && (now - entry.decided).as_millis() < u128::from(STANDS);
        if !stands {
            return None;
        }
        if entry.packets == 0 {
            self.dirty.push(u16::try_from(at).unwrap_or_default());
        }
        entry.count(opens);
        Some(entry.flow)
    }

    /// Remembers a decision and counts its first packet. Returns what the entry it replaces had still to note.
    #[expect(clippy::too_many_arguments, reason = "one call, each argument another type")]
    pub fn learn(
        &mut self,
        from: Realm,
        source: Address,
        destination: Address,
        flow: Flow,
        epoch: u64,
        now: Time,
        opens: bool,
    ) -> Option<Tally> {
        let at = place(from, source, destination);
        let place = self.entries.get_mut(at)?;
        let before = place.as_ref().filter(|entry| entry.packets > 0).map(Entry::tally);
        let mut entry = Entry { from, source, destination, flow, epoch, decided: now, packets: 0, opened: 0 };
        entry.count(opens);
        *place = Some(entry);
        if before.is_none() {
            self.dirty.push(u16::try_from(at).unwrap_or_default());
        }
        before
    }

    /// Hands over everything not yet noted.
    pub fn drain(&mut self, mut note: impl FnMut(Tally)) {
        for at in self.dirty.drain(..) {
            if let Some(Some(entry)) = self.entries.get_mut(usize::from(at))
                && entry.packets > 0
            {
                note(entry.tally());
                (entry.packets, entry.opened) = (0, 0);
            }
        }
    }

    /// Whether [`Flows::drain`] has anything to hand over.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }
}

impl Entry {
    fn count(&mut self, opens: bool) {
        self.packets += 1;
        self.opened += u32::from(opens);
    }

    fn tally(&self) -> Tally {
        let Flow { caller, callee, .. } = self.flow;
        Tally { caller, callee, packets: self.packets, opened: self.opened }
    }
}

/// A quick mix of both addresses. Nothing but speed depends on it: a collision costs a lookup.
fn place(from: Realm, source: Address, destination: Address) -> usize {
    let realm = match from {
        Realm::Outside => u64::MAX,
        Realm::Inside(inside) => u64::from(inside),
    };
    #[allow(clippy::cast_possible_truncation, reason = "both halves are mixed in")]
    let halves = |address: Address| (address.bits() as u64) ^ ((address.bits() >> 64) as u64).rotate_left(29);
    let mixed = (halves(source) ^ realm)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(32)
        .wrapping_add(halves(destination))
        .wrapping_mul(0xd6e8_feb8_6659_fd93);
    #[allow(clippy::cast_possible_truncation, reason = "12 bits are left")]
    let place = (mixed >> 52) as usize;
    place % ENTRIES
}
