//! Packets of bindings that are not on record yet, or not as they are now, wait here: until the end of the worker's turn, or
//! (`durability = "strict"`) until a new binding is on disk. What follows between the same two hosts waits behind them,
//! though another worker may have recorded the binding meanwhile: no packet overtakes another.

use crate::store::{NotRecorded, Recorded, Store};
use crate::wire::Address;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

/// Packets of a worker that wait for the disk at one time.
const MOST: usize = 1024;

/// One worker's packets that wait for the store.
pub struct Parking {
    store: Arc<Store>,
    virtual_ips: Vec<IpAddr>,
    /// Of this turn.
    packets: Vec<Parked>,
    /// Recorded, not yet on disk.
    waiting: VecDeque<(Recorded, Vec<Parked>)>,
    /// How many packets those are.
    held: usize,
}

/// Source and destination.
pub type HostPair = [Address; 2];

/// A packet that waits.
pub struct Parked {
    /// Whether its binding is not on record at all.
    pub is_of_a_new_binding: bool,
    /// Between whom it goes, once it is translated.
    pub ends: Option<HostPair>,
    /// The number of the device that takes it.
    pub device: usize,
    /// The frame, virtio header and all.
    pub frame: Box<[u8]>,
}

impl Parking {
    /// Nothing waits.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, virtual_ips: Vec::new(), packets: Vec::new(), waiting: VecDeque::new(), held: 0 }
    }

    /// The binding of `virtual_ip` is to be recorded, and the packets are to wait for that. Says how many of them there
    /// was no room for.
    pub fn park(&mut self, virtual_ip: IpAddr, packets: impl Iterator<Item = Parked>) -> u64 {
        if !self.virtual_ips.contains(&virtual_ip) {
            self.virtual_ips.push(virtual_ip);
        }
        self.queue(packets)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty() && self.waiting.is_empty()
    }

    /// Whether packets between these two wait.
    pub fn holds(&self, ends: Option<HostPair>) -> bool {
        let mut waiting = self.waiting.iter().flat_map(|(_, packets)| packets).chain(&self.packets);
        waiting.any(|packet| packet.ends == ends)
    }

    /// The packets are to wait behind what waits between the same two. Says how many of them there was no room for.
    pub fn queue(&mut self, packets: impl Iterator<Item = Parked>) -> u64 {
        let mut refused = 0;
        for mut packet in packets {
            if self.held + self.packets.len() >= MOST {
                refused += 1;
                continue;
            }
            let is_like = |other: &Parked| other.ends == packet.ends;
            if let Some((_, others)) = self.waiting.iter_mut().rev().find(|(_, others)| others.iter().any(is_like)) {
                others.push(packet);
                self.held += 1;
            } else {
                packet.is_of_a_new_binding |=
                    self.packets.iter().any(|other| is_like(other) && other.is_of_a_new_binding);
                self.packets.push(packet);
            }
        }
        refused
    }

    /// Records what was parked in this turn. Gives the packets that may leave now, and says how many never may.
    pub fn record(&mut self) -> (Vec<Parked>, u64) {
        if self.virtual_ips.is_empty() {
            return (Vec::new(), 0);
        }
        let packets = std::mem::take(&mut self.packets);
        let result = self.store.record(&self.virtual_ips);
        self.virtual_ips.clear();
        match result {
            Ok(mut recorded) if self.store.is_strict() => {
                self.store.mark_recorded(&recorded.take_known());
                let (new, mut leave) = divide(packets);
                if !new.is_empty() {
                    self.held += new.len();
                    self.waiting.push_back((recorded, new));
                }
                leave.extend(self.release());
                (leave, 0)
            }
            Ok(recorded) => {
                self.store.mark_recorded(&recorded);
                (packets, 0)
            }
            Err(NotRecorded) => {
                let (new, leave) = divide(packets);
                (leave, new.len() as u64)
            }
        }
    }

    /// The packets whose bindings have reached the disk, or need not.
    pub fn release(&mut self) -> Vec<Parked> {
        let mut packets = Vec::new();
        while let Some((recorded, some)) =
            self.waiting.pop_front_if(|(recorded, _)| self.store.may_leave(recorded.commit))
        {
            self.store.mark_recorded(&recorded);
            self.held -= some.len();
            packets.extend(some);
        }
        packets
    }
}

/// Packets of new bindings, and the others.
fn divide(packets: Vec<Parked>) -> (Vec<Parked>, Vec<Parked>) {
    packets.into_iter().partition(|packet| packet.is_of_a_new_binding)
}
