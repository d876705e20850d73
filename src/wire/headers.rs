//! One look at a packet: which addresses, which transport, where its checksum is.

mod fields;
mod plain;

pub use fields::{Fragment, Headers, Kind, Unreadable, protocol};

use super::{Address, checksum::Stored};
use etherparse::{Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6Header, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice};
use fields::kind_of_tcp;

impl Headers {
    /// Reads the headers of a packet that must be complete.
    pub fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        plain::read(bytes).map_or_else(|| read(bytes, Extent::Complete), Ok)
    }

    /// Reads the headers of a complete TCP or UDP packet without options, extension headers and fragments, which is
    /// most of them. `None` says nothing about a packet but that it takes [`Headers::parse`].
    #[inline(always)]
    pub fn parse_plain(bytes: &[u8]) -> Option<Self> {
        plain::read(bytes)
    }

    /// Reads the headers of a packet quoted in an ICMP error: the quote may end anywhere behind the addresses.
    pub fn parse_quoted(bytes: &[u8]) -> Result<Self, Unreadable> {
        read(bytes, Extent::Quoted)
    }

    /// How the transport checksum is stored, given where the sender of the packet said that a checksum is still to be
    /// computed from (`csum_start` of the virtio header).
    #[inline]
    pub fn stored(&self, checksum_start: Option<usize>) -> Stored {
        match self.protocol {
            _ if checksum_start == Some(self.transport) => Stored::PseudoHeader,
            // UDP-Lite may not send zero either (RFC 3828 §3.1): receivers drop it.
            protocol::UDP | protocol::UDP_LITE => Stored::FullOrNone,
            _ => Stored::Full,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Complete,
    Quoted,
}

fn read(bytes: &[u8], extent: Extent) -> Result<Headers, Unreadable> {
    match bytes.first().map(|b| b >> 4) {
        Some(4) => read_v4(bytes, extent),
        Some(6) => read_v6(bytes, extent),
        Some(_) => Err(Unreadable::Version),
        None => Err(Unreadable::Malformed),
    }
}

fn read_v4(bytes: &[u8], extent: Extent) -> Result<Headers, Unreadable> {
    let ip = Ipv4HeaderSlice::from_slice(bytes).map_err(|_| Unreadable::Malformed)?;
    let header = ip.slice().len();
    let total = usize::from(ip.total_len());
    let end = match extent {
        Extent::Complete if total < header || total > bytes.len() => return Err(Unreadable::Malformed),
        Extent::Complete => total,
        Extent::Quoted => total.clamp(header, bytes.len().max(header)),
    };
    if has_source_route(ip.options()) {
        return Err(Unreadable::SourceRoute);
    }
    if extent == Extent::Complete && records_addresses(ip.options()) {
        return Err(Unreadable::RecordsAddresses);
    }
    let fragment = match (ip.fragments_offset().value(), ip.more_fragments()) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        (1, _) if ip.protocol().0 == protocol::TCP => return Err(Unreadable::OverlappingFragment),
        _ => Fragment::Later,
    };
    finish(
        Headers {
            source: Address::from_v4(ip.source()),
            destination: Address::from_v4(ip.destination()),
            protocol: ip.protocol().0,
            transport: header,
            end,
            fragment,
            kind: Kind::Other,
            checksum: None,
        },
        bytes,
        extent,
    )
}

/// Loose and strict source route (RFC 791): type 131 and 137, with an address still to visit.
fn has_source_route(options: &[u8]) -> bool {
    any_option(options, |option| match option {
        [131 | 137, length, pointer, ..] => pointer <= length,
        [131 | 137, ..] => true,
        _ => false,
    })
}

/// Record route (type 7), and timestamps (type 68) with addresses (any flag but 0): every host that handles the packet,
/// the terminal first, writes an address of its own into it (RFC 791).
fn records_addresses(options: &[u8]) -> bool {
    any_option(options, |option| match option {
        [7, ..] => true,
        [68, _, _, flag, ..] => flag & 0xf != 0,
        _ => false,
    })
}

/// Whether `is_it` says so of what starts at any of the options.
fn any_option(mut options: &[u8], is_it: impl Fn(&[u8]) -> bool) -> bool {
    loop {
        match options {
            [] | [0, ..] => return false,
            [1, rest @ ..] => options = rest,
            _ if is_it(options) => return true,
            [_, length, ..] => match options.get(usize::from((*length).max(2))..) {
                Some(rest) => options = rest,
                None => return false,
            },
            [_] => return false,
        }
    }
}

fn read_v6(bytes: &[u8], extent: Extent) -> Result<Headers, Unreadable> {
    let ip = Ipv6HeaderSlice::from_slice(bytes).map_err(|_| Unreadable::Malformed)?;
    let total = Ipv6Header::LEN + usize::from(ip.payload_length());
    let end = match extent {
        Extent::Complete if total > bytes.len() => return Err(Unreadable::Malformed),
        _ => total.min(bytes.len()),
    };
    let mut headers = Headers {
        source: Address::from_v6(ip.source()),
        destination: Address::from_v6(ip.destination()),
        protocol: ip.next_header().0,
        transport: Ipv6Header::LEN,
        end,
        fragment: Fragment::Whole,
        kind: Kind::Other,
        checksum: None,
    };
    if headers.source.is_v4() || headers.destination.is_v4() {
        return Err(Unreadable::Mapped);
    }
    while headers.fragment != Fragment::Later {
        let rest = bytes.get(headers.transport..end).unwrap_or_default();
        let (next, length) = match headers.protocol {
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING => {
                let Ok(extension) = Ipv6RawExtHeaderSlice::from_slice(rest) else { break };
                // The fourth byte of a routing header counts the hops left (RFC 8200 §4.4).
                if headers.protocol == protocol::ROUTING && rest.get(3).is_some_and(|left| *left > 0) {
                    return Err(Unreadable::SourceRoute);
                }
                (extension.next_header().0, extension.slice().len())
            }
            protocol::FRAGMENT => {
                let Ok(extension) = Ipv6FragmentHeaderSlice::from_slice(rest) else { break };
                headers.fragment = match (extension.fragment_offset().value(), extension.more_fragments()) {
                    (0, false) => headers.fragment, // an atomic fragment (RFC 6946) is a whole packet
                    (0, true) => Fragment::First,
                    _ => Fragment::Later,
                };
                (extension.next_header().0, extension.slice().len())
            }
            _ => return finish(headers, bytes, extent),
        };
        headers.protocol = next;
        headers.transport += length;
    }
    match (headers.fragment, extent) {
        (Fragment::Later, _) => finish(headers, bytes, extent),
        (_, Extent::Quoted) => Ok(headers), // the quote ends inside the chain
        (Fragment::First, Extent::Complete) => Err(Unreadable::TinyFragment),
        (Fragment::Whole, Extent::Complete) => Err(Unreadable::Malformed),
    }
}

/// Looks at the transport header: what kind of packet, and where the checksum is.
fn finish(mut headers: Headers, bytes: &[u8], extent: Extent) -> Result<Headers, Unreadable> {
    if headers.fragment == Fragment::Later {
        headers.kind = Kind::LaterFragment;
        return Ok(headers);
    }
    let transport = bytes.get(headers.transport..headers.end).unwrap_or_default();
    let v4 = headers.source.is_v4();
    // Least length of the transport header, and where in it the checksum over the pseudo-header is.
    let (least, checksum) = match headers.protocol {
        protocol::TCP => (20, Some(16)),
        protocol::UDP | protocol::UDP_LITE => (8, Some(6)),
        protocol::DCCP => (12, Some(6)),
        protocol::ICMP if v4 => (8, None),
        protocol::ICMPV6 if !v4 => (8, Some(2)),
        // Looks like an extension header, but nothing follows it, and its checksum covers the addresses (RFC 6275 §6.1.1).
        protocol::MOBILITY if !v4 => (8, Some(4)),
        _ => (0, None),
    };
    if extent == Extent::Complete && transport.len() < least {
        return Err(match headers.fragment {
            Fragment::Whole => Unreadable::Malformed,
            _ => Unreadable::TinyFragment,
        });
    }
    headers.checksum = checksum.filter(|at| at + 2 <= transport.len()).map(|at| headers.transport + at);
    headers.kind = match headers.protocol {
        protocol::TCP => transport.get(13).map_or(Kind::Tcp, |flags| kind_of_tcp(*flags)),
        protocol::UDP | protocol::UDP_LITE => Kind::Datagram,
        protocol::ICMP if v4 => match transport.first() {
            Some(8 | 13 | 15 | 17) => Kind::IcmpQuery,
            Some(3 | 4 | 11 | 12) => Kind::IcmpError,
            Some(5) => Kind::IcmpRedirect,
            _ => Kind::IcmpOther,
        },
        protocol::ICMPV6 if !v4 => match transport.first() {
            Some(128) => Kind::IcmpQuery,
            Some(0..=127) => Kind::IcmpError,
            Some(133..=137) => Kind::IcmpRedirect,
            _ => Kind::IcmpOther,
        },
        protocol::AH => Kind::Authentication,
        _ => Kind::Other,
    };
    Ok(headers)
}

#[cfg(test)]
mod tests;
