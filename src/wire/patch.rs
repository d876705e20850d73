//! A rewrite made ready for the packets of one flow: what it does to their checksums is summed once.

use super::{Address, Delta, Headers, Rewrite, Stored};

/// What a hop given back does to the header checksum: TTL is the upper byte of its word.
const HOP: Delta = Delta::of_word(0, 0x0100);

/// Both addresses as they go out, and the change of every sum that covers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    /// The source it leaves with.
    pub(crate) source: Address,
    /// The destination it leaves with.
    pub(crate) destination: Address,
    /// What they change in a sum.
    pub(crate) delta: Delta,
}

impl Patch {
    /// For packets between `source` and `destination`, as they come in.
    pub(crate) fn new(source: Address, destination: Address, rewrite: Rewrite) -> Self {
        let new_source = rewrite.source.unwrap_or(source);
        let new_destination = rewrite.destination.unwrap_or(destination);
        Self {
            source: new_source,
            destination: new_destination,
            delta: Delta::of_address(source, new_source).and(Delta::of_address(destination, new_destination)),
        }
    }

    /// What it writes over a packet with these headers.
    pub(crate) fn rewrite(&self, headers: &Headers) -> Rewrite {
        let if_other = |old: Address, new: Address| (old != new).then_some(new);
        Rewrite {
            source: if_other(headers.source, self.source),
            destination: if_other(headers.destination, self.destination),
        }
    }

    /// Writes the addresses and mends the checksums; gives a hop back where `gives_hop`, unless TTL or hop limit is as large as can be.
    #[inline(always)]
    pub(crate) fn apply(&self, bytes: &mut [u8], headers: &Headers, stored: Stored, gives_hop: bool) {
        if headers.source.is_v4() {
            let Some(ip) = bytes.first_chunk_mut::<20>() else { return };
            let [.., ttl, _, c0, c1, s0, s1, s2, s3, d0, d1, d2, d3] = ip;
            [*s0, *s1, *s2, *s3] = self.source.v4_octets();
            [*d0, *d1, *d2, *d3] = self.destination.v4_octets();
            let mut delta = self.delta;
            if gives_hop && *ttl < u8::MAX {
                *ttl += 1;
                delta = delta.and(HOP);
            }
            [*c0, *c1] = delta.apply(u16::from_be_bytes([*c0, *c1]), Stored::Full).to_be_bytes();
        } else {
            let Some(ip) = bytes.first_chunk_mut::<40>() else { return };
            let [_, _, _, _, _, _, _, hop_limit, addresses @ ..] = ip;
            let (halves, _) = addresses.as_chunks_mut::<16>();
            if let [source, destination] = halves {
                *source = self.source.v6_octets();
                *destination = self.destination.v6_octets();
            }
            *hop_limit = hop_limit.saturating_add(u8::from(gives_hop));
        }
        if let Some(field) = headers.checksum.and_then(|at| bytes.get_mut(at..)?.first_chunk_mut::<2>()) {
            *field = self.delta.apply(u16::from_be_bytes(*field), stored).to_be_bytes();
        }
    }
}
