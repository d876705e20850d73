//! What the eBPF program and this process read and write alike; `kamei.bpf.c` has the other half.

#![allow(unsafe_code, reason = "saying that these types are plain bytes")]

use super::PrefixKind;
use crate::nat::{Carried, Offer, Realm};
use crate::wire::Address;
use aya::Pod;

/// Number of this layout: flows left by a program of another one are not understood. Counts up with every change here.
pub const LAYOUT: u32 = 6;

/// TCP ports of control connections that the program can tell.
pub const CONTROL_PORTS: usize = 8;

/// What a program knows of the interface it is attached to.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Constants {
    /// 0: outside; n + 1: inside n.
    pub realm: u32,
    /// Index of the gateway's device.
    pub device: u32,
    /// By which programs know what they have told each other of a packet.
    pub token: [u32; 2],
    /// In network order; the rest is zero.
    pub control_ports: [u16; CONTROL_PORTS],
    /// The interface's own Ethernet address.
    pub hardware: [u8; 6],
    /// Bytes before the IP header.
    pub link_header: u8,
    /// Whether TCP SYNs get another segment size.
    pub clamps: u8,
    /// Whether known flows are translated in the kernel.
    pub carries: u8,
    /// Whether they leave at once, past netfilter and all else on the kernel's way.
    pub redirects: u8,
    /// Whether TCP SYNs lose the options of Multipath TCP.
    pub strips: u8,
    /// So that no byte is left undefined.
    pub unused: u8,
}

/// What all programs of one gateway share, and those of its successors.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SharedValue {
    /// Of ways; the programs count it up.
    pub last_number: u32,
    /// As in every program: while programs are exchanged one by one, those before and those after know each other's packets.
    pub token: [u32; 2],
}

/// What the programs know of an interface of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// Numbered as in [`Constants`].
    pub realm: u32,
    /// 1 if its driver sends what XDP hands it, else 0.
    pub takes_frames: u32,
}

impl Interface {
    /// Of an index that no interface of the gateway has.
    pub const NONE: Self = Self { realm: 0, takes_frames: 0 };
}

/// What the programs know of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PrefixValue {
    kind: u32,
    /// The inside of a terminal, numbered as in [`Constants`].
    realm: u32,
}

/// Names an IPv4 flow; addresses in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Key4 {
    realm: u32,
    source: [u8; 4],
    destination: [u8; 4],
}

/// Names an IPv6 flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Key6 {
    realm: u32,
    source: [u8; 16],
    destination: [u8; 16],
}

/// What was carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counts {
    packets: u64,
    bytes: u64,
    opened: u64,
}

/// An IPv4 flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow4 {
    /// What was carried.
    pub counts: Counts,
    address: [u8; 4],
    delta: u16,
    to: u16,
    visited: u32,
    unused: u32,
}

/// An IPv6 flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow6 {
    /// What was carried.
    pub counts: Counts,
    address: [u8; 16],
    delta: u16,
    to: u16,
    visited: u32,
}

// SAFETY: each is `repr(C)`, made of integers and arrays of them only, and has no padding: the compiler counts below.
unsafe impl Pod for Constants {}
// SAFETY: as above.
unsafe impl Pod for Interface {}
// SAFETY: as above.
unsafe impl Pod for SharedValue {}
// SAFETY: as above.
unsafe impl Pod for PrefixValue {}
// SAFETY: as above.
unsafe impl Pod for Key4 {}
// SAFETY: as above.
unsafe impl Pod for Key6 {}
// SAFETY: as above.
unsafe impl Pod for Flow4 {}
// SAFETY: as above.
unsafe impl Pod for Flow6 {}

const _: () = assert!(size_of::<Constants>() == 16 + 2 * CONTROL_PORTS + 12);
const _: () = assert!(size_of::<Key4>() == 12 && size_of::<Key6>() == 36);
const _: () = assert!(size_of::<Flow4>() == 24 + 16 && size_of::<Flow6>() == 24 + 24);

impl Key4 {
    /// Where packets come from, their source and destination.
    pub fn parts(&self) -> Option<(Realm, Address, Address)> {
        let (source, destination) = (Address::from_v4(self.source), Address::from_v4(self.destination));
        Some((Realm::of_number(self.realm)?, source, destination))
    }

    /// The key of what comes from `from`.
    pub fn new(from: Realm, source: Address, destination: Address) -> Self {
        Self { realm: from.number(), source: source.v4_octets(), destination: destination.v4_octets() }
    }
}

impl Key6 {
    /// Where packets come from, their source and destination.
    pub fn parts(&self) -> Option<(Realm, Address, Address)> {
        let (source, destination) = (Address::from_v6(self.source), Address::from_v6(self.destination));
        Some((Realm::of_number(self.realm)?, source, destination))
    }

    /// The key of what comes from `from`.
    pub fn new(from: Realm, source: Address, destination: Address) -> Self {
        Self { realm: from.number(), source: source.v6_octets(), destination: destination.v6_octets() }
    }
}

impl Flow4 {
    /// The address to write.
    pub fn address(&self) -> Address {
        Address::from_v4(self.address)
    }

    /// Nothing carried yet.
    pub fn new(offer: &Offer) -> Self {
        Self {
            counts: Counts::default(),
            address: offer.address.v4_octets(),
            delta: delta(offer),
            to: to(offer),
            visited: 0,
            unused: 0,
        }
    }
}

impl Flow6 {
    /// The address to write.
    pub fn address(&self) -> Address {
        Address::from_v6(self.address)
    }

    /// Nothing carried yet.
    pub fn new(offer: &Offer) -> Self {
        Self {
            counts: Counts::default(),
            address: offer.address.v6_octets(),
            delta: delta(offer),
            to: to(offer),
            visited: 0,
        }
    }
}

impl From<Counts> for Carried {
    fn from(counts: Counts) -> Self {
        Self { packets: counts.packets, bytes: counts.bytes, opened: counts.opened }
    }
}

/// The program adds words as they lie in memory.
fn delta(offer: &Offer) -> u16 {
    offer.delta().sum().to_be()
}

/// There are far fewer insides; a number that does not fit is of no exit.
fn to(offer: &Offer) -> u16 {
    u16::try_from(offer.to.number()).unwrap_or(u16::MAX)
}

impl From<PrefixKind> for PrefixValue {
    /// The numbers of `kind` in the program.
    fn from(kind: PrefixKind) -> Self {
        let (kind, realm) = match kind {
            PrefixKind::Pool => (1, 0),
            PrefixKind::Inside(inside) => (2, Realm::Inside(inside).number()),
            PrefixKind::Unclear => (3, 0),
            PrefixKind::OwnOutside => (4, 0),
            PrefixKind::OwnInside => (5, 0),
            PrefixKind::Exempt => (6, 0),
        };
        Self { kind, realm }
    }
}

/// Why packets took the slow path, in the order of their counters; `why` in the program, which counts them in `WHYS`.
pub const SLOW_REASONS: [&str; 8] =
    ["unknown_flow", "malformed", "options", "fragment", "protocol", "clamped", "control_connection", "off"];

/// What else the programs count, behind those; `noted` in the program.
pub const NOTED: [&str; 8] = [
    "unwritable",
    "foreign_source",
    "unclear_source",
    "own_inside_source",
    "inside_destination",
    "untranslated",
    "lost_way",
    "masqueraded",
];
