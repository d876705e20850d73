//! The quick look at what nearly every packet is: TCP or UDP right behind an IP header without options, whole.
//!
//! Anything else, and anything that is wrong, is left to the full reader: both say the same of what this one reads.

use super::fields::{Fragment, Headers, Kind, kind_of_tcp, protocol};
use crate::wire::Address;

/// Version 4, five words of header.
const V4_PLAIN: u8 = 0x45;
/// Of the word at offset 6: "more fragments" and the fragment offset (RFC 791).
const V4_FRAGMENT: u16 = 0x3fff;

#[inline(always)]
pub(super) fn read(bytes: &[u8]) -> Option<Headers> {
    match bytes.first()? {
        &V4_PLAIN => read_v4(bytes),
        version if version >> 4 == 6 => read_v6(bytes),
        _ => None,
    }
}

#[inline(always)]
fn read_v4(bytes: &[u8]) -> Option<Headers> {
    let (ip, transport) = bytes.split_first_chunk::<20>()?;
    let [_, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *ip;
    let end = usize::from(u16::from_be_bytes([l0, l1]));
    if end > bytes.len() || u16::from_be_bytes([f0, f1]) & V4_FRAGMENT != 0 {
        return None;
    }
    let (source, destination) = (Address::from_v4([s0, s1, s2, s3]), Address::from_v4([d0, d1, d2, d3]));
    finish((source, destination), protocol, 20, transport, end)
}

#[inline(always)]
fn read_v6(bytes: &[u8]) -> Option<Headers> {
    let (ip, transport) = bytes.split_first_chunk::<40>()?;
    let [_, _, _, _, l0, l1, protocol, _, addresses @ ..] = *ip;
    let end = 40 + usize::from(u16::from_be_bytes([l0, l1]));
    let ([source, destination], []) = addresses.as_chunks::<16>() else { return None };
    let (source, destination) = (Address::from_v6(*source), Address::from_v6(*destination));
    if end > bytes.len() || source.is_v4() || destination.is_v4() {
        return None;
    }
    finish((source, destination), protocol, 40, transport, end)
}

#[inline(always)]
fn finish(
    (source, destination): (Address, Address),
    protocol: u8,
    at: usize,
    transport: &[u8],
    end: usize,
) -> Option<Headers> {
    let (least, checksum, kind) = match protocol {
        protocol::TCP => (20, 16, kind_of_tcp(*transport.get(13)?)),
        protocol::UDP => (8, 6, Kind::Datagram),
        _ => return None,
    };
    if end < at + least {
        return None;
    }
    Some(Headers {
        source,
        destination,
        protocol,
        transport: at,
        end,
        fragment: Fragment::Whole,
        kind,
        checksum: Some(at + checksum),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::headers::{self, Extent};
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    /// A whole packet of either family and transport.
    fn packet(v4: bool, tcp: bool, payload: &[u8]) -> Vec<u8> {
        let ip = if v4 {
            PacketBuilder::ipv4([10, 0, 0, 1], [192, 0, 2, 1], 64)
        } else {
            PacketBuilder::ipv6([1; 16], [2; 16], 64)
        };
        let mut bytes = Vec::new();
        if tcp {
            ip.tcp(1000, 80, 7, 1024).syn().write(&mut bytes, payload).unwrap();
        } else {
            ip.udp(1000, 80).write(&mut bytes, payload).unwrap();
        }
        bytes
    }

    #[test]
    fn a_plain_packet_is_read_by_the_quick_look() {
        for (v4, tcp) in [(true, true), (true, false), (false, true), (false, false)] {
            assert!(read(&packet(v4, tcp, b"text")).is_some());
        }
    }

    proptest! {
        #[test]
        fn it_says_what_the_full_reader_says(
            v4: bool,
            tcp: bool,
            payload in prop::collection::vec(any::<u8>(), 0..40),
            changes in prop::collection::vec((0usize..64, any::<u8>()), 0..4),
            cut in 0usize..100,
            padding in 0usize..3,
        ) {
            let mut bytes = packet(v4, tcp, &payload);
            bytes.resize(bytes.len() + padding, 0);
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            bytes.truncate(bytes.len() - cut.saturating_sub(60).min(bytes.len()));
            if let Some(quick) = read(&bytes) {
                prop_assert_eq!(headers::read(&bytes, Extent::Complete), Ok(quick));
            }
        }
    }
}
