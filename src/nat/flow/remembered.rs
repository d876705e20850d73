//! What a worker remembers of the flows it serves: the decision made once, until it may have changed.
//!
//! An entry saves the lookups and every shared write: packets are counted here and added to the binding later. Entries
//! are found by sets of eight tags, each set one cache line, and lie close together in the order in which they were
//! needed. So memory grows with the flows that there have been, by 128 bytes each, and ends at 36 MB a worker.

use super::carrier::Offer;
use crate::nat::binding::Realm;
use crate::nat::binding::SlotRef;
use crate::nat::fold::fold;
use crate::nat::table::slots::Usage;
use crate::time::Time;
use crate::wire::{Address, Delta, Headers, Kind, Patch, Rewrite};
use siphasher::sip::SipHasher13;
use zerocopy::FromZeros;

/// Sets; a power of two.
const SETS: usize = 1 << 15;
/// Entries of a set. With 100,000 flows, fewer than 1 in 100 finds its set full.
const PER_SET: usize = 8;
/// How long a decision stands before it is made again (milliseconds). Bounds how stale a last-used time, a contact or a
/// counter can be.
const DECISION_TIME: u64 = 4_000;
/// A flow goes on as long as less than this lies between its packets (milliseconds): nobody who carries flows elsewhere
/// keeps an idle one for longer.
const GOES_ON: u64 = 120_000;

/// The decision about a flow: all packets of one realm from one address to another, whatever their protocol and ports.
///
/// A rule that needs ports is no part of the key. The helpers of `nat/alg` look at each packet after the decision, and the
/// eBPF programs leave TCP packets with a helper's port to the workers.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// What to write.
    pub rewrite: Rewrite,
    /// Where the packet goes.
    pub to: Realm,
    /// The binding of the terminal that sends; `None`: a peer sends, or the prefix of the sender is translated as a whole.
    pub sender: Option<SlotRef>,
    /// The binding of the terminal that receives; `None`: a peer receives, or the prefix of the receiver is translated as a
    /// whole. Both are given where one terminal calls another (hairpin).
    pub receiver: Option<SlotRef>,
}

/// When a packet came, and by what was decided until then: see [`super::carrier::Epoch`].
#[derive(Clone, Copy)]
pub struct When {
    pub epoch: u64,
    pub now: Time,
}

/// What to do with a packet of a flow that is known.
#[derive(Clone, Copy)]
pub struct Hit {
    /// What to write.
    pub patch: Patch,
    /// Where the packet goes.
    pub to: Realm,
}

/// A flow of one worker, with what has passed since it was last noted.
#[repr(align(64))]
struct Entry {
    source: Address,
    destination: Address,
    // The patch in its parts: as one it would take four bytes more than there are.
    new_source: Address,
    new_destination: Address,
    delta: Delta,
    from: Realm,
    to: Realm,
    sender: Option<SlotRef>,
    receiver: Option<SlotRef>,
    epoch: u64,
    decided: Time,
    packets: u32,
    opened: u32,
    bytes: u64,
}

const _: () = assert!(size_of::<Entry>() <= 128, "an entry is two cache lines");

/// Tags of flows (zero is nobody's), and for each the number of its entry.
#[derive(FromZeros)]
#[repr(C, align(64))]
struct Set {
    tags: [u32; PER_SET],
    entries: [u32; PER_SET],
}

/// The flows that one worker remembers, found by realm, source and destination.
pub struct RememberedFlows {
    sets: Box<[Set]>,
    entries: Vec<Entry>,
    /// For each entry, whether packets of its flow have been noted before: it goes on.
    go_on: Vec<bool>,
    /// Entries that have something to note.
    dirty: Vec<u32>,
    key: [u64; 4],
}

/// Packets of a flow that a worker has counted and that are still to be noted in its bindings.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    sender: Option<SlotRef>,
    receiver: Option<SlotRef>,
    packets: u32,
    bytes: u64,
    opened: u32,
    /// The source address that the receiver sees.
    peer: Address,
    goes_on: bool,
}

impl Hit {
    /// What a decision says to do with a packet.
    pub fn new(headers: &Headers, flow: &Flow) -> Self {
        Self { patch: Patch::new(headers.source, headers.destination, flow.rewrite), to: flow.to }
    }
}

impl Tally {
    /// One packet of a flow that is not remembered.
    pub fn of_one(source: Address, flow: &Flow, opened: bool, bytes: usize) -> Self {
        let Flow { sender, receiver, rewrite, .. } = *flow;
        let peer = rewrite.source.unwrap_or(source);
        Self { sender, receiver, packets: 1, bytes: bytes as u64, opened: opened.into(), peer, goes_on: false }
    }

    /// Packets of a flow that its carrier (the kernel) has translated.
    pub fn of_carried(offer: &Offer, packets: u32, bytes: u64, opened: u32) -> Self {
        let (sender, receiver) = match offer.from {
            Realm::Inside(_) => (Some(offer.binding), None),
            Realm::Outside => (None, Some(offer.binding)),
        };
        Self { sender, receiver, packets, bytes, opened, peer: offer.source, goes_on: true }
    }

    /// Whether there was more than one packet, now or before: of a question and its answer there is one each way.
    pub fn is_in_use(&self) -> bool {
        self.packets > 1 || self.goes_on
    }

    /// The binding whose terminal a peer has called, and that peer.
    pub fn callback(&self) -> Option<(SlotRef, Address)> {
        self.receiver.filter(|_| self.opened > 0).map(|receiver| (receiver, self.peer))
    }

    /// What to add to which binding.
    pub fn usages(&self) -> impl Iterator<Item = (SlotRef, Usage)> {
        let (packets, bytes) = (self.packets.into(), self.bytes);
        let out = Usage { packets_out: packets, bytes_out: bytes, ..Usage::default() };
        let inward = Usage { packets_in: packets, bytes_in: bytes, callbacks: self.opened, ..Usage::default() };
        self.sender.map(|slot| (slot, out)).into_iter().chain(self.receiver.map(|slot| (slot, inward)))
    }
}

impl RememberedFlows {
    /// Nothing remembered. Which flows share a set follows from `secret` and is not to be guessed: who could choose
    /// flows of one set would make their decisions anew with every packet.
    pub fn new(secret: &[u8; 16], worker: u64) -> Self {
        let hasher = SipHasher13::new_with_key(secret);
        let key = [0, 1, 2, 3].map(|part: u64| hasher.hash(&(worker << 2 | part).to_le_bytes()));
        // Untouched until used; no machine that runs a worker has no address space for it.
        let sets = <[Set]>::new_box_zeroed_with_elems(SETS).unwrap_or_default();
        Self {
            sets,
            entries: Vec::with_capacity(SETS * PER_SET),
            go_on: Vec::with_capacity(SETS * PER_SET),
            dirty: Vec::with_capacity(SETS * PER_SET),
            key,
        }
    }

    /// What to do with a packet, if a decision about its flow still stands; counts the packet.
    #[inline(always)] // what it returns shall stay in registers
    pub fn hit(&mut self, from: Realm, headers: &Headers, when: When, opens: bool, bytes: usize) -> Option<Hit> {
        let (set, tag) = self.place(from, headers.source, headers.destination);
        let number = self.sets.get(set)?.find(tag)?;
        let entry = self.entries.get_mut(number as usize)?;
        let stands = entry.is_of(from, headers)
            && entry.epoch == when.epoch
            && when.now.as_millis().saturating_sub(entry.decided.as_millis()) < DECISION_TIME;
        if !stands {
            return None;
        }
        if entry.packets == 0 {
            self.dirty.push(number);
        }
        entry.count(opens, bytes);
        Some(Hit { patch: entry.patch(), to: entry.to })
    }

    /// Remembers a decision and counts its first packet. Returns what to do with it, and what the entry that gave way
    /// had still to note.
    pub fn learn(
        &mut self,
        from: Realm,
        headers: &Headers,
        flow: &Flow,
        when: When,
        bytes: usize,
    ) -> (Hit, Option<Tally>) {
        let When { epoch, now } = when;
        let (source, destination) = (headers.source, headers.destination);
        let hit = Hit::new(headers, flow);
        let Patch { source: new_source, destination: new_destination, delta } = hit.patch;
        let Flow { to, sender, receiver, .. } = *flow;
        let mut new = Entry {
            source,
            destination,
            new_source,
            new_destination,
            delta,
            from,
            to,
            sender,
            receiver,
            epoch,
            decided: now,
            packets: 0,
            opened: 0,
            bytes: 0,
        };
        new.count(headers.kind == Kind::TcpSyn, bytes);
        let (at, tag) = self.place(from, source, destination);
        let Some(set) = self.sets.get_mut(at) else { return (hit, None) };
        let position = match set.position_of(tag).or_else(|| set.position_of(0)) {
            Some(position) => position,
            None => set.oldest(&self.entries),
        };
        let (Some(place), Some(number)) = (set.tags.get_mut(position), set.entries.get_mut(position)) else {
            return (hit, None);
        };
        if *place == 0 {
            *number = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
            *place = tag;
            self.dirty.push(*number);
            self.entries.push(new);
            self.go_on.push(false);
            return (hit, None);
        }
        *place = tag;
        let Some(entry) = self.entries.get_mut(*number as usize) else { return (hit, None) };
        let before = (entry.packets > 0).then(|| entry.tally(false));
        if before.is_none() {
            self.dirty.push(*number);
        }
        if let Some(goes_on) = self.go_on.get_mut(*number as usize) {
            let age = now.as_millis().saturating_sub(entry.decided.as_millis());
            *goes_on = (*goes_on || before.is_some()) && entry.is_of(from, headers) && age < DECISION_TIME + GOES_ON;
        }
        *entry = new;
        (hit, before)
    }

    /// Hands over what is not yet noted, of up to `most` flows, with the decision if a carrier may keep it.
    pub fn drain(&mut self, most: usize, mut note: impl FnMut(Tally, Option<Offer>)) {
        for number in self.dirty.drain(self.dirty.len().saturating_sub(most)..) {
            if let Some((entry, goes_on)) =
                self.entries.get_mut(number as usize).zip(self.go_on.get_mut(number as usize))
                && entry.packets > 0
            {
                note(entry.tally(*goes_on), entry.offer());
                (entry.packets, entry.opened, entry.bytes, *goes_on) = (0, 0, 0, true);
            }
        }
    }

    /// Whether [`RememberedFlows::drain`] has anything to hand over.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The set and the tag of a flow: a multiply-and-fold hash under a key nobody outside knows.
    #[inline(always)]
    fn place(&self, from: Realm, source: Address, destination: Address) -> (usize, u32) {
        let [low, high, across, last] = self.key;
        let realm = u64::from(from.number());
        let (source, destination) = (source.halves(), destination.halves());
        let lower = fold(source.1 ^ low, destination.1 ^ across);
        let upper = fold(source.0 ^ high, destination.0 ^ last);
        let hash = lower ^ upper.rotate_left(32) ^ realm.wrapping_mul(last | 1);
        #[allow(clippy::cast_possible_truncation, reason = "different bits are taken for each on purpose")]
        (hash as usize % SETS, (hash >> 32) as u32 | 1)
    }
}

impl Set {
    /// The entry with this tag.
    #[inline]
    fn find(&self, tag: u32) -> Option<u32> {
        self.entries.get(self.position_of(tag)?).copied()
    }

    #[inline]
    fn position_of(&self, tag: u32) -> Option<usize> {
        self.tags.iter().position(|other| *other == tag)
    }

    /// The position of the entry whose decision was made first.
    fn oldest(&self, entries: &[Entry]) -> usize {
        let decided = |number: &u32| entries.get(*number as usize).map(|entry| entry.decided);
        let ages = self.entries.iter().map(decided).enumerate();
        ages.min_by_key(|(_, decided)| *decided).map_or(0, |(position, _)| position)
    }
}

impl Entry {
    #[inline]
    fn is_of(&self, from: Realm, headers: &Headers) -> bool {
        self.source == headers.source && self.destination == headers.destination && self.from == from
    }

    #[inline]
    fn count(&mut self, opens: bool, bytes: usize) {
        self.packets = self.packets.saturating_add(1);
        self.opened += u32::from(opens);
        self.bytes += bytes as u64;
    }

    #[inline]
    fn patch(&self) -> Patch {
        Patch { source: self.new_source, destination: self.new_destination, delta: self.delta }
    }

    /// The decision, where it is about one binding and one address.
    fn offer(&self) -> Option<Offer> {
        let (binding, address) = match (self.from, self.to, self.sender, self.receiver) {
            (Realm::Inside(_), Realm::Outside, Some(sender), None) => (sender, self.new_source),
            (Realm::Outside, Realm::Inside(_), None, Some(receiver)) => (receiver, self.new_destination),
            _ => return None,
        };
        let Self { source, destination, from, to, epoch, .. } = *self;
        Some(Offer { from, source, destination, address, to, binding, epoch })
    }

    fn tally(&self, goes_on: bool) -> Tally {
        let Self { sender, receiver, packets, bytes, opened, new_source, .. } = *self;
        Tally { sender, receiver, packets, bytes, opened, peer: new_source, goes_on }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn when(epoch: u64, now: Time) -> When {
        When { epoch, now }
    }

    const NOW: Time = Time::from_secs(1000);

    fn headers(n: u32) -> Headers {
        let mut bytes = Vec::new();
        let ends = ((10 << 24 | n).to_be_bytes(), [192, 0, 2, 1]);
        etherparse::PacketBuilder::ipv4(ends.0, ends.1, 64).udp(1, 2).write(&mut bytes, b"").unwrap();
        Headers::parse(&bytes).unwrap()
    }

    fn flow(n: u32) -> Flow {
        Flow {
            rewrite: Rewrite::source(Address::from_v4((172 << 24 | n).to_be_bytes())),
            to: Realm::Outside,
            sender: Some(SlotRef::new(Default::default(), n)),
            receiver: None,
        }
    }

    #[test]
    fn a_hundred_thousand_flows_are_remembered_all_but_a_few() {
        let mut flows = RememberedFlows::new(&[7; 16], 0);
        let mut left = 0;
        for n in 0..100_000 {
            left += u32::from(flows.learn(Realm::inside(0), &headers(n), &flow(n), when(1, NOW), 60).1.is_some());
        }
        let known = (0..100_000)
            .filter(|n| {
                let hit = flows.hit(Realm::inside(0), &headers(*n), when(1, NOW), false, 60);
                hit.inspect(|hit| assert_eq!(hit.patch.rewrite(&headers(*n)), flow(*n).rewrite)).is_some()
            })
            .count();
        assert!(known > 99_000, "{known}");
        // Not one packet is lost, whichever entry gave way: a tally handed back, or still to be noted.
        let mut noted = 0;
        flows.drain(usize::MAX, |tally, _| {
            assert_eq!(tally.bytes, u64::from(tally.packets) * 60);
            noted += u64::from(tally.packets);
        });
        assert_eq!(noted + u64::from(left), 100_000 + known as u64);
        assert!(!flows.is_dirty());
    }

    #[test]
    fn a_flow_is_in_use_from_its_second_packet_on_however_far_apart_they_are() {
        for pause in [1, 1_000, DECISION_TIME, 60_000, GOES_ON + DECISION_TIME] {
            let mut flows = RememberedFlows::new(&[7; 16], 0);
            let mut in_use = |n: u32, now: u64| {
                let now = Time::from_millis(NOW.as_millis() + now);
                if flows.hit(Realm::inside(0), &headers(n), when(1, now), false, 60).is_none() {
                    flows.learn(Realm::inside(0), &headers(n), &flow(n), when(1, now), 60);
                }
                let mut in_use = Vec::new();
                flows.drain(usize::MAX, |tally, _| in_use.push(tally.is_in_use()));
                in_use
            };
            assert_eq!(in_use(1, 0), [false]);
            assert_eq!(in_use(2, 0), [false], "another flow");
            assert_eq!(in_use(1, pause), [pause < GOES_ON + DECISION_TIME], "{pause}");
        }
    }

    #[test]
    fn a_decision_is_for_its_realm_and_epoch_and_some_seconds() {
        let mut flows = RememberedFlows::new(&[7; 16], 0);
        flows.learn(Realm::inside(3), &headers(1), &flow(1), when(5, NOW), 60);
        let mut knows = |realm, epoch, millis| {
            let now = Time::from_millis(NOW.as_millis() + millis);
            flows.hit(realm, &headers(1), when(epoch, now), false, 60).is_some()
        };
        assert!(knows(Realm::inside(3), 5, DECISION_TIME - 1));
        assert!(!knows(Realm::inside(3), 5, DECISION_TIME));
        assert!(!knows(Realm::inside(3), 6, 0));
        assert!(!knows(Realm::inside(4), 5, 0) && !knows(Realm::Outside, 5, 0));
    }
}
