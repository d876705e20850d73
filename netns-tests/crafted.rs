//! Packets made byte by byte, put onto a wire as they are. Checksums are pnet's, not kamei's.

use crate::lab::Host;
use pnet::datalink::{self, Channel, Config, DataLinkSender, MacAddr, NetworkInterface};
use pnet::packet::ip::IpNextHeaderProtocol;
use pnet::util::{checksum, ipv4_checksum, ipv6_checksum};
use std::net::IpAddr;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// The end of a wire: frames are written to one interface, for the neighbour behind it.
pub struct Line {
    raw: Raw,
    from: MacAddr,
    to: MacAddr,
}

/// An interface on which whole frames are written.
pub struct Raw(Box<dyn DataLinkSender>);

impl Raw {
    pub fn open(host: &Host, interface: &str) -> Self {
        host.inside(|| {
            let interface = interface_named(interface);
            let Ok(Channel::Ethernet(sender, _)) = datalink::channel(&interface, Config::default()) else {
                panic!("no packet socket on {}", interface.name)
            };
            Self(sender)
        })
    }

    pub fn send_frame(&mut self, frame: &[u8]) {
        self.0.send_to(frame, None).unwrap().unwrap();
    }
}

impl Line {
    /// From `host` out of `interface` to the neighbour's interface.
    pub fn new(host: &Host, interface: &str, neighbour: &Host, its_interface: &str) -> Self {
        let to = neighbour.inside(|| interface_named(its_interface)).mac.unwrap();
        let from = host.inside(|| interface_named(interface)).mac.unwrap();
        Self { raw: Raw::open(host, interface), from, to }
    }

    pub fn send(&mut self, packet: &[u8]) {
        let kind: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let frame = [&self.to.octets()[..], &self.from.octets(), &kind, packet].concat();
        self.raw.send_frame(&frame);
    }
}

/// The Ethernet address of a host's interface.
pub fn mac(host: &Host, interface: &str) -> MacAddr {
    host.inside(|| interface_named(interface)).mac.unwrap()
}

fn interface_named(name: &str) -> NetworkInterface {
    let found = datalink::interfaces().into_iter().find(|interface| interface.name == name);
    found.unwrap_or_else(|| panic!("no interface {name}"))
}

/// A packet, field by field. [`Ip::bytes`] writes it down.
#[derive(Clone, Debug)]
pub struct Ip {
    pub from: IpAddr,
    pub to: IpAddr,
    /// What the payload is (behind the extension headers).
    pub protocol: u8,
    pub hops: u8,
    /// DSCP and ECN.
    pub class: u8,
    /// Flow label (IPv6 only).
    pub label: u32,
    /// Identification (IPv4 only).
    pub id: u16,
    /// Flags and fragment offset (IPv4 only).
    pub fragment: u16,
    /// Options (IPv4), padded to a multiple of four bytes.
    pub options: Vec<u8>,
    /// Extension headers (IPv6) without their first byte's meaning: (type, bytes); the next-header bytes are filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Offset of the transport checksum in the payload, to be filled in when the packet is written down.
    pub checksum: Option<usize>,
    pub payload: Vec<u8>,
}

impl Ip {
    pub fn new(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Self {
        let checksum = match protocol {
            TCP => Some(16),
            UDP => Some(6),
            ICMP | ICMPV6 => Some(2),
            _ => None,
        };
        Self {
            from,
            to,
            protocol,
            hops: 64,
            class: 0,
            label: 0,
            id: 0x4b4d,
            fragment: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            checksum,
            payload: payload.to_owned(),
        }
    }

    pub fn udp(from: IpAddr, to: IpAddr, ports: (u16, u16), data: &[u8]) -> Self {
        let length = u16::try_from(8 + data.len()).unwrap();
        let head = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
        Self::new(from, to, UDP, &[&head[..], data].concat())
    }

    pub fn tcp(from: IpAddr, to: IpAddr, ports: (u16, u16), sequence: u32, flags: u8, data: &[u8]) -> Self {
        let mut head = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
        head.extend(sequence.to_be_bytes());
        head.extend([0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        Self::new(from, to, TCP, &[&head[..], data].concat())
    }

    /// ICMP of the family of the addresses: type, code, the four bytes behind the checksum, and the rest.
    pub fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, word: [u8; 4], rest: &[u8]) -> Self {
        let protocol = if from.is_ipv4() { ICMP } else { ICMPV6 };
        Self::new(from, to, protocol, &[&[kind, code, 0, 0][..], &word, rest].concat())
    }

    /// The same packet as it comes out of `gateways` gateways with other addresses.
    pub fn translated(&self, from: IpAddr, to: IpAddr, gateways: u8) -> Self {
        Self { from, to, hops: self.hops - gateways, ..self.clone() }
    }

    /// The packet in pieces with at most `size` bytes of payload each (a multiple of eight), as a sender cuts it.
    pub fn fragments(&self, size: usize) -> Vec<Ip> {
        assert!(size.is_multiple_of(8));
        let whole = self.sealed_payload();
        let count = whole.len().div_ceil(size);
        (0..).zip(whole.chunks(size)).map(|(n, piece)| self.fragment_of(piece, n * size, n + 1 < count)).collect()
    }

    /// A piece of a packet at `offset`.
    pub fn fragment_of(&self, piece: &[u8], offset: usize, more: bool) -> Ip {
        let mut fragment = Self { payload: piece.to_owned(), checksum: None, ..self.clone() };
        let offset = u16::try_from(offset).unwrap();
        if self.from.is_ipv4() {
            fragment.fragment = (offset / 8) | (u16::from(more) << 13);
        } else {
            let [high, low] = (offset | u16::from(more)).to_be_bytes();
            let id = u32::from(self.id).to_be_bytes();
            fragment.extensions.push((44, [&[0, 0, high, low][..], &id].concat()));
        }
        fragment
    }

    /// The packet as on the wire, every checksum filled in.
    pub fn bytes(&self) -> Vec<u8> {
        let payload = self.sealed_payload();
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = 20 + self.options.len();
                let total = u16::try_from(header + payload.len()).unwrap();
                let mut bytes = vec![0x40 | u8::try_from(header / 4).unwrap(), self.class];
                bytes.extend([total.to_be_bytes(), self.id.to_be_bytes(), self.fragment.to_be_bytes()].concat());
                bytes.extend([self.hops, self.protocol, 0, 0]);
                bytes.extend([from.octets(), to.octets()].concat());
                bytes.extend(&self.options);
                let sum = checksum(&bytes, 5);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                bytes.extend(payload);
                bytes
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let first_word = 6 << 28 | u32::from(self.class) << 20 | self.label;
                let chain = self.chain();
                let length = u16::try_from(chain.len() + payload.len()).unwrap();
                let next = self.extensions.first().map_or(self.protocol, |(kind, _)| *kind);
                let mut bytes = first_word.to_be_bytes().to_vec();
                bytes.extend(length.to_be_bytes());
                bytes.extend([next, self.hops]);
                bytes.extend([from.octets(), to.octets()].concat());
                bytes.extend(chain);
                bytes.extend(payload);
                bytes
            }
            _ => panic!("two families in one packet"),
        }
    }

    fn chain(&self) -> Vec<u8> {
        let following = self.extensions.iter().skip(1).map(|(kind, _)| *kind).chain([self.protocol]);
        let with_next = self.extensions.iter().zip(following).map(|((_, bytes), next)| {
            let mut bytes = bytes.clone();
            bytes[0] = next;
            bytes
        });
        with_next.collect::<Vec<_>>().concat()
    }

    fn sealed_payload(&self) -> Vec<u8> {
        let mut payload = self.payload.clone();
        let Some(at) = self.checksum else { return payload };
        let protocol = IpNextHeaderProtocol(self.protocol);
        let mut sum = match (self.from, self.to) {
            (IpAddr::V4(_), _) if self.protocol == ICMP => checksum(&payload, at / 2),
            (IpAddr::V4(from), IpAddr::V4(to)) => ipv4_checksum(&payload, at / 2, &[], &from, &to, protocol),
            (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_checksum(&payload, at / 2, &[], &from, &to, protocol),
            _ => panic!("two families in one packet"),
        };
        if sum == 0 && self.protocol == UDP {
            sum = 0xffff;
        }
        payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        payload
    }
}
