//! ICMP errors: what they quote, whether they are intact, and how to send one.

use super::{Address, Headers, Unreadable, checksum, pseudo_header};
use etherparse::{PacketBuilder, TcpHeaderSlice};
use std::net::IpAddr;

/// Length of the ICMP header in front of the quote (RFC 792, RFC 4443).
const HEADER: usize = 8;
/// TTL of what the gateway sends itself (RFC 1122 §3.2.1.7).
const OWN_TTL: u8 = 64;

/// The packet an ICMP error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Where the quoted IP header starts.
    pub at: usize,
    /// What it says; its offsets count from `at`.
    pub headers: Headers,
}

/// Kinds of "unreachable" that the gateway sends itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// IPv4 type 3 code 13, IPv6 type 1 code 1.
    Prohibited,
    /// IPv4 type 3 code 1, IPv6 type 1 code 3.
    Host,
    /// IPv4 type 3 code 3, IPv6 type 1 code 4.
    Port,
}

impl Quote {
    /// The quote in the ICMP error `bytes` with `headers`; only the addresses need be there.
    pub fn read(bytes: &[u8], headers: &Headers) -> Result<Self, Unreadable> {
        let at = headers.transport + HEADER;
        let quote = bytes.get(at..headers.end).ok_or(Unreadable::Malformed)?;
        let inner = Headers::parse_quoted(quote)?;
        if inner.source.is_v4() != headers.source.is_v4() {
            return Err(Unreadable::Malformed);
        }
        Ok(Self { at, headers: inner })
    }
}

/// Whether the checksum of a whole ICMP message is right (RFC 5508 REQ-3).
pub fn is_intact(bytes: &[u8], headers: &Headers) -> bool {
    let Some(message) = bytes.get(headers.transport..headers.end) else { return false };
    let initial = if headers.source.is_v4() {
        0
    } else {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        pseudo_header(headers.source, headers.destination, headers.protocol, length)
    };
    checksum(initial, message) == 0
}

/// What an ICMP error says that packets may be long at most: "fragmentation needed" (RFC 1191 §4), "packet too big"
/// (RFC 4443 §3.2). `None`: it is another error.
pub(crate) fn told_mtu(bytes: &[u8], headers: &Headers) -> Option<u32> {
    match (headers.source.is_v4(), bytes.get(headers.transport..headers.transport + HEADER)?) {
        (true, [3, 4, _, _, _, _, high, low]) => Some(u16::from_be_bytes([*high, *low]).into()),
        (false, [2, _, _, _, a, b, c, d]) => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// An ICMP "unreachable" about `original`, from `source` to its sender, with as much of it as may be quoted
/// (IPv4: 576 bytes in all, RFC 1812 §4.3.2.3; IPv6: 1,280, RFC 4443 §3.1).
pub fn unreachable(original: &[u8], headers: &Headers, source: Address, refusal: Refusal) -> Option<Box<[u8]>> {
    let mut packet = Vec::new();
    let original = original.get(..headers.end).unwrap_or(original);
    match (IpAddr::from(source), IpAddr::from(headers.source)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let code = match refusal {
                Refusal::Prohibited => 13,
                Refusal::Host => 1,
                Refusal::Port => 3,
            };
            let quote = original.get(..576 - 20 - HEADER).unwrap_or(original);
            let builder = PacketBuilder::ipv4(from.octets(), to.octets(), OWN_TTL).icmpv4_raw(3, code, [0; 4]);
            builder.write(&mut packet, quote).ok()?;
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let code = match refusal {
                Refusal::Prohibited => 1,
                Refusal::Host => 3,
                Refusal::Port => 4,
            };
            let quote = original.get(..1280 - 40 - HEADER).unwrap_or(original);
            let builder = PacketBuilder::ipv6(from.octets(), to.octets(), OWN_TTL).icmpv6_raw(1, code, [0; 4]);
            builder.write(&mut packet, quote).ok()?;
        }
        _ => return None,
    }
    Some(packet.into_boxed_slice())
}

/// A TCP reset in answer to the SYN `original`, in the name of the side that it called (RFC 9293 §3.5.2).
pub fn reset(original: &[u8], headers: &Headers) -> Option<Box<[u8]>> {
    let segment = TcpHeaderSlice::from_slice(original.get(headers.transport..)?).ok()?;
    let acknowledged = segment.sequence_number().wrapping_add(1);
    let (from, to) = (IpAddr::from(headers.destination), IpAddr::from(headers.source));
    let ip = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), OWN_TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), OWN_TTL),
        _ => return None,
    };
    let tcp = ip.tcp(segment.destination_port(), segment.source_port(), 0, 0).rst().ack(acknowledged);
    let mut packet = Vec::new();
    tcp.write(&mut packet, &[]).ok()?;
    Some(packet.into_boxed_slice())
}
