//! The book about the flows in the kernel: which there are, whose they are, what they have carried.

use super::program::FlowMaps;
use crate::nat::{Carried, Nat, Offer, Realm, SlotRef};
use crate::time::Time;
use crate::wire::Address;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

/// A flow that carries nothing for so long makes room.
const IDLE: Duration = Duration::from_secs(120);

/// Names a flow.
type Key = (Realm, Address, Address);

/// A flow in the kernel.
struct Entry {
    offer: Offer,
    carried: Carried,
    moved: Time,
    /// When it was entered, or taken over.
    entered: Time,
    /// When the rate was last told, and what had been carried then.
    measured: (Time, Carried),
    /// Packets and bytes a second.
    rate: (u64, u64),
    /// Tells it from an earlier one of the same name.
    serial: u64,
}

/// A flow in the kernel, as it was when it was last looked at.
#[derive(Clone, Copy, Debug)]
pub struct KernelFlow {
    /// What was decided.
    pub offer: Offer,
    /// What it has carried.
    pub carried: Carried,
    /// When it was entered, or taken over from a predecessor.
    pub entered: Time,
    /// When it was last seen to have carried something.
    pub moved: Time,
    /// Packets a second, between two looks.
    pub packets_a_second: u64,
    /// Bytes a second.
    pub bytes_a_second: u64,
}

impl Entry {
    /// Tells the rate anew, once a second at most: less time tells nothing.
    fn measure(&mut self, now: Time) {
        let (then, before) = self.measured;
        let millis = u64::try_from((now - then).as_millis()).unwrap_or(u64::MAX);
        if millis < 1000 {
            return;
        }
        let a_second = |all: u64, before: u64| all.wrapping_sub(before).saturating_mul(1000) / millis;
        self.rate = (a_second(self.carried.packets, before.packets), a_second(self.carried.bytes, before.bytes));
        self.measured = (now, self.carried);
    }

    fn told(&self) -> KernelFlow {
        let Self { offer, carried, moved, entered, rate, .. } = *self;
        let (packets_a_second, bytes_a_second) = rate;
        KernelFlow { offer, carried, entered, moved, packets_a_second, bytes_a_second }
    }
}

/// Every flow in the kernel, in the order in which it is looked at.
pub struct FlowBook {
    flows: FlowMaps,
    entries: HashMap<Key, Entry>,
    of_binding: HashMap<SlotRef, HashSet<Key>>,
    /// In which order to look at them.
    round: VecDeque<(Key, u64)>,
    serial: u64,
    hits: u64,
    closed: bool,
    /// Whether the log has been told of a flow that stays: there may be as many as packets.
    complained: bool,
}

impl FlowBook {
    /// A book in which no flow is entered.
    pub fn new(flows: FlowMaps) -> Self {
        let (entries, of_binding, round) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Self { flows, entries, of_binding, round, serial: 0, hits: 0, closed: false, complained: false }
    }

    /// Whether to enter no flow from now on; returns whether it was so before.
    pub fn close(&mut self, closed: bool) -> bool {
        std::mem::replace(&mut self.closed, closed)
    }

    /// Enters a flow, unless it is there or there is no room.
    pub fn enter(&mut self, offer: &Offer, now: Time) {
        let key = (offer.from, offer.source, offer.destination);
        if self.closed || self.entries.contains_key(&key) || self.flows.insert(offer).is_err() {
            return;
        }
        self.write_down(*offer, Carried::default(), now);
    }

    fn write_down(&mut self, offer: Offer, carried: Carried, now: Time) {
        let key = (offer.from, offer.source, offer.destination);
        self.serial += 1;
        let serial = self.serial;
        let entry = Entry { offer, carried, moved: now, entered: now, measured: (now, carried), rate: (0, 0), serial };
        self.entries.insert(key, entry);
        self.of_binding.entry(offer.binding).or_default().insert(key);
        self.round.push_back((key, self.serial));
    }

    /// Enters the flows that are in the kernel already and that `nat` would decide alike; takes out the others. Returns
    /// how many of each.
    pub fn take_over(&mut self, nat: &Nat, now: Time) -> (usize, usize) {
        let (mut kept, mut dropped) = (0, 0);
        for (from, source, destination, address, carried) in self.flows.all() {
            match nat.offer_again(from, source, destination, address, now) {
                Some(offer) => {
                    kept += 1;
                    self.write_down(offer, carried, now);
                }
                None => {
                    dropped += 1;
                    self.take_out((from, source, destination));
                }
            }
        }
        (kept, dropped)
    }

    /// Takes out every flow of a binding.
    pub fn revoke(&mut self, binding: SlotRef) {
        for key in self.of_binding.remove(&binding).unwrap_or_default() {
            self.take_out(key);
        }
    }

    /// Takes out every flow.
    pub fn revoke_all(&mut self) {
        for key in self.entries.keys().copied().collect::<Vec<_>>() {
            self.take_out(key);
        }
        self.of_binding.clear();
        self.round.clear();
    }

    /// Looks at the next `most` flows, notes what they have carried, and takes out those that would be decided
    /// otherwise now or have been idle.
    pub fn look(&mut self, nat: &Nat, most: usize, now: Time) {
        for _ in 0..most.min(self.round.len()) {
            let Some((key, serial)) = self.round.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.serial == serial) else { continue };
            let (from, source, destination) = key;
            let all = self.flows.carried(from, source, destination).unwrap_or(entry.carried);
            let new = Carried {
                packets: all.packets.wrapping_sub(entry.carried.packets),
                bytes: all.bytes.wrapping_sub(entry.carried.bytes),
                opened: all.opened.wrapping_sub(entry.carried.opened),
            };
            entry.carried = all;
            entry.measure(now);
            self.hits += new.packets;
            if new.packets > 0 {
                entry.moved = now;
            }
            if nat.note_carried(&entry.offer, new, now) && now - entry.moved < IDLE {
                self.round.push_back((key, serial));
            } else {
                let binding = entry.offer.binding;
                if let Some(keys) = self.of_binding.get_mut(&binding) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.of_binding.remove(&binding);
                    }
                }
                self.take_out(key);
            }
        }
    }

    /// Flows number `first` to `first + most`, in the order in which they are looked at; says how many there are. While
    /// nobody looks at them their numbers stay, though some may go and others come behind.
    pub fn part(&self, first: usize, most: usize, each: &mut dyn FnMut(KernelFlow)) -> usize {
        for (key, serial) in self.round.iter().skip(first).take(most) {
            if let Some(entry) = self.entries.get(key).filter(|entry| entry.serial == *serial) {
                each(entry.told());
            }
        }
        self.round.len()
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Packets carried, as far as noted.
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// How many packets went the slow way, by reason.
    pub fn slow(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.flows.slow()
    }

    /// How many packets the kernel has dropped, or let pass as they were, by reason.
    pub fn noted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.flows.noted()
    }

    fn take_out(&mut self, (from, source, destination): Key) {
        self.entries.remove(&(from, source, destination));
        if let Err(error) = self.flows.remove(from, source, destination)
            && !std::mem::replace(&mut self.complained, true)
        {
            log::error!("a flow of {source} cannot be taken out of the kernel: {error}");
        }
    }
}
