//! What a worker remembers of the flows it serves: the decision made once, until it may have changed.
//!
//! An entry saves the lookups and every shared write: packets are counted here and added to the binding later.

use super::slots::Usage;
use super::verdict::Realm;
use crate::time::Time;
use crate::wire::{Address, Field};

/// Entries a worker; direct-mapped.
const ENTRIES: usize = 4096;
/// How long a decision stands before it is made again (milliseconds). Bounds how stale a last-used time, a contact or a
/// counter can be.
const STANDS: u64 = 4_000;

/// The decision about a flow: all packets between two addresses in one direction.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Which address to write.
    pub field: Field,
    /// What to write there.
    pub address: Address,
    /// Where the packet goes.
    pub to: Realm,
    /// Table of the binding.
    pub table: u16,
    /// Slot of the binding.
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
    usage: Usage,
}

/// See the module.
pub struct Flows {
    entries: Box<[Option<Entry>]>,
    /// Entries that have something to note.
    dirty: Vec<u16>,
}

/// Something a worker has counted, to be noted in the table.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    /// Table of the binding.
    pub table: u16,
    /// Slot of the binding.
    pub index: u32,
    /// What to add.
    pub usage: Usage,
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
        if entry.usage == Usage::default() {
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
        let before = place.as_ref().filter(|entry| entry.usage != Usage::default()).map(Entry::tally);
        let mut entry = Entry { from, source, destination, flow, epoch, decided: now, usage: Usage::default() };
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
                && entry.usage != Usage::default()
            {
                note(entry.tally());
                entry.usage = Usage::default();
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
        match self.from {
            Realm::Inside(_) => self.usage.packets_out += 1,
            Realm::Outside => {
                self.usage.packets_in += 1;
                self.usage.callbacks += u32::from(opens);
            }
        }
    }

    fn tally(&self) -> Tally {
        Tally { table: self.flow.table, index: self.flow.index, usage: self.usage }
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
