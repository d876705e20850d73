//! Writing into a packet: addresses, hops, checksums.

use super::{Address, Delta, Headers, Stored};

/// A packet to translate in place.
///
/// ```
/// use kamei::wire::{Kind, Headers, Packet};
/// let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 11, 192, 0, 2, 1, 0, 9, 0, 9, 0, 8, 0, 0];
/// let packet = Packet::new(&mut bytes);
/// assert_eq!(Headers::parse(packet.bytes).unwrap().kind, Kind::Datagram);
/// ```
#[derive(Debug)]
pub struct Packet<'a> {
    /// From the first byte of the IP header on.
    pub bytes: &'a mut [u8],
    /// Where the kernel or a NIC will start to sum for a checksum that is not complete yet (`csum_start` of a virtio
    /// header with `VIRTIO_NET_HDR_F_NEEDS_CSUM`); `None` for a packet as on a wire.
    pub checksum_start: Option<usize>,
}

impl<'a> Packet<'a> {
    /// A packet as on a wire.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, checksum_start: None }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Source,
    Destination,
}

/// Addresses to write into a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Over the source, if any.
    pub source: Option<Address>,
    /// Over the destination, if any.
    pub destination: Option<Address>,
}

impl Rewrite {
    /// The source alone.
    pub fn source(address: Address) -> Self {
        Self { source: Some(address), destination: None }
    }

    /// The destination alone.
    pub fn destination(address: Address) -> Self {
        Self { source: None, destination: Some(address) }
    }
}

/// Writes `rewrite` into the IP header at `at`, and mends the IPv4 header checksum and the transport checksum. Returns
/// what this changed in the sum of all bytes written: the checksum of an ICMP error that quotes this header changes by it.
pub(crate) fn set_addresses(bytes: &mut [u8], at: usize, headers: &Headers, stored: Stored, rewrite: Rewrite) -> Delta {
    let mut changed = Delta::NONE;
    for (field, address) in [(Field::Source, rewrite.source), (Field::Destination, rewrite.destination)] {
        if let Some(address) = address {
            changed = changed.and(set_address(bytes, at, headers, stored, (field, address)));
        }
    }
    changed
}

/// Offset of the header checksum of IPv4.
const V4_CHECKSUM: usize = 10;

fn set_address(
    bytes: &mut [u8],
    at: usize,
    headers: &Headers,
    stored: Stored,
    (field, new): (Field, Address),
) -> Delta {
    let old = match field {
        Field::Source => headers.source,
        Field::Destination => headers.destination,
    };
    let delta = Delta::of_address(old, new);
    // Of a quoted packet only the part that an address has changed counts: its header checksum moves the other way.
    let mut quoted = delta;
    if old.is_v4() {
        let start = at + if field == Field::Source { 12 } else { 16 };
        put(bytes, start, &new.v4_octets());
        quoted = quoted.and(mend(bytes, at + V4_CHECKSUM, delta, Stored::Full));
    } else {
        let start = at + if field == Field::Source { 8 } else { 24 };
        put(bytes, start, &new.v6_octets());
    }
    if let Some(checksum) = headers.checksum {
        let changed = mend(bytes, at + checksum, delta, stored);
        // A checksum at an odd offset of the quote cannot be: all headers are multiples of two bytes long.
        quoted = quoted.and(changed);
    }
    quoted
}

/// Applies `delta` to the checksum at `at`; returns the change of that word itself.
pub(crate) fn mend(bytes: &mut [u8], at: usize, delta: Delta, stored: Stored) -> Delta {
    let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) else { return Delta::NONE };
    let old = u16::from_be_bytes(*field);
    let new = delta.apply(old, stored);
    *field = new.to_be_bytes();
    Delta::of_word(old, new)
}

/// Adds one to TTL or hop limit, unless it is as large as can be.
pub(crate) fn give_back_hop(bytes: &mut [u8]) {
    match bytes {
        [version, _, _, _, _, _, _, hop_limit, ..] if *version >> 4 == 6 => *hop_limit = hop_limit.saturating_add(1),
        [_, _, _, _, _, _, _, _, ttl, protocol, ..] if *ttl < u8::MAX => {
            let old = u16::from_be_bytes([*ttl, *protocol]);
            *ttl += 1;
            let new = u16::from_be_bytes([*ttl, *protocol]);
            mend(bytes, V4_CHECKSUM, Delta::of_word(old, new), Stored::Full);
        }
        _ => {}
    }
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    if let Some(field) = bytes.get_mut(at..at + new.len()) {
        field.copy_from_slice(new);
    }
}
