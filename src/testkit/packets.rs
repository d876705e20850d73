//! Packets of every kind for properties, made and judged without the code under test: checksums are pnet's.

use pnet::packet::ip::IpNextHeaderProtocol;
use pnet::util;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is to be known of a packet, but for its addresses.
#[derive(Clone, Debug)]
pub struct Spec {
    pub transport: Transport,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers.
    pub extensions: Vec<Extension>,
    pub hop_limit: u8,
    pub traffic_class: u8,
    pub identification: u16,
    pub ports: [u8; 4],
    pub payload: Vec<u8>,
    pub sum: Sum,
    /// What to add to the right checksum of the IPv4 header.
    pub header_error: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        flags: u8,
    },
    Udp,
    UdpLite,
    Dccp,
    Echo {
        reply: bool,
    },
    Mobility,
    /// SCTP, GRE, ESP and others: nothing covers the addresses.
    Other(u8),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop (only in front), destination options, or a routing header that is through.
    Options { number: u8, blocks: u8 },
    /// A fragment header of a packet that is whole (RFC 6946).
    AtomicFragment,
}

/// What the transport checksum is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    Right,
    /// Off by so much.
    Wrong(u16),
    /// None (UDP).
    None,
    /// The pseudo-header only, left for the NIC to complete.
    Partial,
}

/// A packet and where its parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    pub bytes: Vec<u8>,
    pub transport: usize,
    pub protocol: u8,
    /// Offset of the transport checksum.
    pub checksum: Option<usize>,
}

impl Transport {
    fn protocol(self, v4: bool) -> u8 {
        match self {
            Transport::Tcp { .. } => 6,
            Transport::Udp => 17,
            Transport::UdpLite => 136,
            Transport::Dccp => 33,
            Transport::Echo { .. } if v4 => 1,
            Transport::Echo { .. } => 58,
            Transport::Mobility if v4 => 55,
            Transport::Mobility => 135,
            Transport::Other(protocol) => protocol,
        }
    }

    /// Offset of the checksum in the header, and whether the pseudo-header is part of it.
    fn checksum(self, v4: bool) -> Option<(usize, bool)> {
        match self {
            Transport::Tcp { .. } => Some((16, true)),
            Transport::Udp | Transport::UdpLite | Transport::Dccp => Some((6, true)),
            Transport::Echo { .. } => Some((2, !v4)),
            Transport::Mobility if !v4 => Some((4, true)),
            _ => None,
        }
    }

    fn header(self, ports: [u8; 4], length: usize, v4: bool) -> Vec<u8> {
        let mut header = ports.to_vec();
        match self {
            Transport::Tcp { flags } => {
                header.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 4, 0, 0, 0, 0, 0]);
            }
            Transport::Udp => {
                header.extend(u16::try_from(length + 8).unwrap().to_be_bytes());
                header.extend([0, 0]);
            }
            Transport::UdpLite => header.extend([0, 0, 0, 0]), // a coverage of 0: everything
            Transport::Dccp => header.extend([4, 0, 0, 0, 0, 0, 0, 9]),
            Transport::Echo { reply } => {
                let number = match (v4, reply) {
                    (true, false) => 8,
                    (true, true) => 0,
                    (false, false) => 128,
                    (false, true) => 129,
                };
                header.splice(0..0, [number, 0, 0, 0]);
            }
            Transport::Mobility => header = vec![59, 0, 1, 0, 0, 0, 0, 0],
            Transport::Other(_) => {}
        }
        header
    }
}

impl Spec {
    /// The packet from `source` to `destination`.
    pub fn build(&self, source: IpAddr, destination: IpAddr) -> Built {
        let v4 = source.is_ipv4();
        let protocol = self.transport.protocol(v4);
        let mut body = self.transport.header(self.ports, self.payload.len(), v4);
        body.extend(&self.payload);
        let checksum = self.transport.checksum(v4);
        if let Some((at, pseudo)) = checksum {
            let right = sum((source, destination), protocol, &body, at, pseudo);
            let value = match self.sum {
                Sum::Right => right,
                Sum::None if self.transport == Transport::Udp => 0,
                Sum::None => right,
                Sum::Wrong(by) => right.wrapping_add(by),
                Sum::Partial if pseudo => pseudo_header(source, destination, protocol, body.len()),
                Sum::Partial => 0,
            };
            body[at..at + 2].copy_from_slice(&value.to_be_bytes());
        }
        let mut bytes = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.header_v4(source, destination, protocol, body.len()),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.header_v6(source, destination, protocol, body.len()),
            _ => panic!("mixed families"),
        };
        let transport = bytes.len();
        bytes.extend(body);
        Built { bytes, transport, protocol, checksum: checksum.map(|(at, _)| transport + at) }
    }

    fn header_v4(&self, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, body: usize) -> Vec<u8> {
        let length = 20 + self.options.len();
        let mut bytes = vec![0x40 | u8::try_from(length / 4).unwrap(), self.traffic_class];
        bytes.extend(u16::try_from(length + body).unwrap().to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        bytes.extend([0x40, 0, self.hop_limit, protocol, 0, 0]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        bytes.extend(&self.options);
        let value = util::checksum(&bytes, 5).wrapping_add(self.header_error);
        bytes[10..12].copy_from_slice(&value.to_be_bytes());
        bytes
    }

    fn header_v6(&self, source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, body: usize) -> Vec<u8> {
        let numbers: Vec<u8> = self.extensions.iter().map(Extension::number).chain([protocol]).collect();
        let mut chain = Vec::new();
        for (extension, next) in self.extensions.iter().zip(&numbers[1..]) {
            match extension {
                Extension::Options { number: 43, blocks } => {
                    chain.extend([*next, *blocks, 4, 0, 0, 0, 0, 0]);
                    chain.extend(vec![0x77; usize::from(*blocks) * 8]);
                }
                Extension::Options { blocks, .. } => {
                    let padding = usize::from(*blocks) * 8 + 4;
                    chain.extend([*next, *blocks, 1, u8::try_from(padding).unwrap()]);
                    chain.extend(vec![0; padding]);
                }
                Extension::AtomicFragment => chain.extend([*next, 0, 0, 0, 1, 2, 3, 4]),
            }
        }
        let class = self.traffic_class;
        let mut bytes = vec![0x60 | class >> 4, class << 4, 0xab, 0xcd];
        bytes.extend(u16::try_from(chain.len() + body).unwrap().to_be_bytes());
        bytes.extend([numbers[0], self.hop_limit]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        bytes.extend(chain);
        bytes
    }
}

impl Extension {
    fn number(&self) -> u8 {
        match self {
            Extension::Options { number, .. } => *number,
            Extension::AtomicFragment => 44,
        }
    }
}

impl Built {
    pub fn addresses(&self) -> (IpAddr, IpAddr) {
        addresses(&self.bytes)
    }

    /// The transport checksum as it is.
    pub fn sum(&self) -> Option<u16> {
        self.checksum.map(|at| u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]))
    }

    /// The transport checksum as it should be.
    pub fn right_sum(&self) -> Option<u16> {
        let (source, destination) = self.addresses();
        let at = self.checksum? - self.transport;
        Some(sum((source, destination), self.protocol, &self.bytes[self.transport..], at, self.protocol != 1))
    }

    /// What a checksum left to the NIC should hold.
    pub fn pseudo_header(&self) -> u16 {
        let (source, destination) = self.addresses();
        pseudo_header(source, destination, self.protocol, self.bytes.len() - self.transport)
    }

    /// Whether the checksum of the IP header is right; IPv6 has none.
    pub fn header_is_right(&self) -> bool {
        let length = usize::from(self.bytes[0] & 0xf) * 4;
        self.bytes[0] >> 4 == 6
            || util::checksum(&self.bytes[..length], 5) == u16::from_be_bytes([self.bytes[10], self.bytes[11]])
    }

    /// The same packet seen from the other end: addresses swapped, which no checksum notices.
    pub fn reversed(mut self) -> Self {
        let (at, length) = if self.bytes[0] >> 4 == 4 { (12, 4) } else { (8, 16) };
        let (source, destination) = self.bytes[at..at + 2 * length].split_at_mut(length);
        source.swap_with_slice(destination);
        self
    }

    /// The packet in two fragments, the first with the whole transport header.
    pub fn in_fragments(&self) -> Option<[Vec<u8>; 2]> {
        let body = &self.bytes[self.transport..];
        let first = (body.len() / 2).next_multiple_of(8).max(24);
        if self.bytes[0] >> 4 != 4 || body.len() <= first {
            return None;
        }
        Some([(0, &body[..first], 0x20), (first / 8, &body[first..], 0)].map(|(offset, part, more)| {
            let mut bytes = self.bytes[..self.transport].to_vec();
            bytes[2..4].copy_from_slice(&u16::try_from(self.transport + part.len()).unwrap().to_be_bytes());
            bytes[6..8].copy_from_slice(&u16::try_from(offset).unwrap().to_be_bytes());
            bytes[6] |= more;
            bytes[10..12].copy_from_slice(&[0, 0]);
            let sum = util::checksum(&bytes, 5);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes.extend(part);
            bytes
        }))
    }
}

/// An ICMP error from `sender` to the source of what it quotes; `padding` to follow the quote.
pub fn error_about(quote: &[u8], sender: IpAddr, to: IpAddr, padding: &[u8]) -> Vec<u8> {
    let mut body = if sender.is_ipv4() { vec![3, 13] } else { vec![1, 1] };
    body.extend([0; 6]);
    body.extend(quote);
    body.extend(padding);
    let protocol = if sender.is_ipv4() { 1 } else { 58 };
    let value = sum((sender, to), protocol, &body, 2, protocol == 58);
    body[2..4].copy_from_slice(&value.to_be_bytes());
    let spec = Spec { sum: Sum::Right, ..Spec::plain(Transport::Other(protocol), Vec::new()) };
    let mut bytes = match (sender, to) {
        (IpAddr::V4(sender), IpAddr::V4(to)) => spec.header_v4(sender, to, protocol, body.len()),
        (IpAddr::V6(sender), IpAddr::V6(to)) => spec.header_v6(sender, to, protocol, body.len()),
        _ => panic!("mixed families"),
    };
    bytes.extend(body);
    bytes
}

impl Spec {
    /// The simplest packet of its kind.
    pub fn plain(transport: Transport, payload: Vec<u8>) -> Self {
        Self {
            transport,
            options: Vec::new(),
            extensions: Vec::new(),
            hop_limit: 64,
            traffic_class: 0,
            identification: 7,
            ports: [0x9c, 0x40, 1, 0xbb],
            payload,
            sum: Sum::Right,
            header_error: 0,
        }
    }
}

/// The addresses of the IP header that `bytes` start with.
pub fn addresses(bytes: &[u8]) -> (IpAddr, IpAddr) {
    if bytes[0] >> 4 == 4 {
        let at = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap()).into();
        (at(12), at(16))
    } else {
        let at = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap()).into();
        (at(8), at(24))
    }
}

/// Whether two checksums mean the same: both zeros of one's complement do (RFC 1624 §3).
pub fn same_sum(one: u16, other: u16) -> bool {
    one == other || (one.wrapping_add(1) <= 1 && other.wrapping_add(1) <= 1)
}

fn sum((source, destination): (IpAddr, IpAddr), protocol: u8, body: &[u8], at: usize, pseudo: bool) -> u16 {
    let next = IpNextHeaderProtocol(protocol);
    let value = match (source, destination) {
        _ if !pseudo => util::checksum(body, at / 2),
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            util::ipv4_checksum(body, at / 2, &[], &source, &destination, next)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            util::ipv6_checksum(body, at / 2, &[], &source, &destination, next)
        }
        _ => panic!("mixed families"),
    };
    // RFC 768, RFC 3828 §3.1.
    if value == 0 && matches!(protocol, 17 | 136) { 0xffff } else { value }
}

fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    !match sum((source, destination), protocol, &vec![0; length], length, true) {
        0xffff if matches!(protocol, 17 | 136) => 0,
        value => value,
    }
}

/// Any packet.
pub fn spec() -> impl Strategy<Value = Spec> {
    let transport = prop_oneof![
        4 => any::<u8>().prop_map(|flags| Transport::Tcp { flags }),
        4 => Just(Transport::Udp),
        1 => Just(Transport::UdpLite),
        1 => Just(Transport::Dccp),
        2 => any::<bool>().prop_map(|reply| Transport::Echo { reply }),
        1 => Just(Transport::Mobility),
        1 => prop::sample::select(vec![132_u8, 47, 50, 4, 41, 89, 200, 253]).prop_map(Transport::Other),
    ];
    let option = prop::sample::select(vec![
        vec![1, 1, 1, 1],
        vec![148, 4, 0, 0],
        vec![68, 8, 9, 0, 0, 0, 0, 1],
        vec![0x9e, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        vec![130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    ]);
    let options = prop::collection::vec(option, 0..4).prop_map(|options| {
        let mut all = options.concat();
        all.truncate(40);
        all
    });
    let extension = prop_oneof![
        (prop::sample::select(vec![60_u8, 43]), 0u8..4)
            .prop_map(|(number, blocks)| Extension::Options { number, blocks }),
        Just(Extension::AtomicFragment),
    ];
    let extensions = (any::<bool>(), prop::collection::vec(extension, 0..4)).prop_map(|(hop_by_hop, mut all)| {
        if hop_by_hop {
            all.insert(0, Extension::Options { number: 0, blocks: 0 });
        }
        all
    });
    let sum = prop_oneof![
        6 => Just(Sum::Right),
        2 => (1u16..0xfffe).prop_map(Sum::Wrong),
        1 => Just(Sum::None),
        1 => Just(Sum::Partial),
    ];
    let header =
        (any::<u8>(), any::<u8>(), any::<u16>(), any::<[u8; 4]>(), prop_oneof![4 => Just(0), 1 => 1u16..0xfffe]);
    let payload = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..80),
        1 => prop::collection::vec(any::<u8>(), 1200..1500),
    ];
    (transport, options, extensions, header, payload, sum).prop_map(
        |(transport, options, extensions, header, payload, sum)| {
            let (hop_limit, traffic_class, identification, ports, header_error) = header;
            Spec {
                transport,
                options,
                extensions,
                hop_limit,
                traffic_class,
                identification,
                ports,
                payload,
                sum,
                header_error,
            }
        },
    )
}

/// A terminal and a peer of one family.
pub fn ends() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let v4 = (0u32..1 << 24, 0x0b00_0000_u32..0x7e00_0000)
        .prop_map(|(low, peer)| (Ipv4Addr::from(10 << 24 | low).into(), Ipv4Addr::from(peer).into()));
    let v6 = (any::<u64>(), any::<u128>()).prop_map(|(low, peer)| {
        let terminal = 0xfd00_0001_u128 << 96 | u128::from(low);
        (Ipv6Addr::from(terminal).into(), Ipv6Addr::from(1 << 125 | peer >> 3).into())
    });
    prop_oneof![v4, v6]
}
