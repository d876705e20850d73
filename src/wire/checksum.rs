//! The Internet checksum (RFC 1071) and how it changes when a few words change (RFC 1624).

use super::Address;

/// What a change of header words does to any checksum that covers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta(u16);

/// How a transport checksum is stored in the packet at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The complement of the sum over everything, as on a wire.
    Full,
    /// As [`Stored::Full`], but zero says that there is none (UDP over IPv4, RFC 768).
    FullOrNone,
    /// The sum of the pseudo-header alone, not complemented: the kernel or a NIC will add the rest
    /// (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    PseudoHeader,
}

impl Delta {
    /// Nothing changes.
    pub const NONE: Delta = Delta(0);

    /// The words of `old` give way to those of `new`, both of one family.
    pub fn of_address(old: Address, new: Address) -> Self {
        // ~m + m' (RFC 1624 eqn. 3). The upper words of two mapped IPv4 addresses are equal and cancel out.
        Self(fold(u64::from(!sum_u128(old.bits())) + u64::from(sum_u128(new.bits()))))
    }

    /// One 16-bit word gives way to another.
    pub const fn of_word(old: u16, new: u16) -> Self {
        Self(fold(!old as u64 + new as u64))
    }

    /// The change as a number: to be added to the sum, in network order, without losing the carry.
    pub const fn sum(self) -> u16 {
        self.0
    }

    /// Both changes.
    #[inline]
    pub fn and(self, other: Delta) -> Self {
        Self(self.add(other.0))
    }

    /// The checksum `old` after the change. A wrong checksum stays wrong.
    #[inline(always)]
    pub fn apply(self, old: u16, stored: Stored) -> u16 {
        match stored {
            Stored::Full => !self.add(!old),
            Stored::FullOrNone if old == 0 => 0,
            // RFC 768: a sum that comes out as zero is sent as all ones, for zero means "none".
            Stored::FullOrNone => match !self.add(!old) {
                0 => 0xffff,
                sum => sum,
            },
            Stored::PseudoHeader => self.add(old),
        }
    }

    #[inline(always)]
    fn add(self, sum: u16) -> u16 {
        let (sum, carry) = sum.overflowing_add(self.0);
        sum + u16::from(carry) // after a carry the sum is below 0xffff
    }
}

/// The checksum of `bytes` behind a pseudo-header (or other earlier part) that sums to `initial`.
pub fn checksum(initial: u16, bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut sum = u64::from(initial);
    for word in words {
        sum += u64::from(u16::from_be_bytes(*word));
    }
    if let [last] = rest {
        sum += u64::from(u16::from_be_bytes([*last, 0]));
    }
    !fold(sum)
}

/// The sum of the pseudo-header (RFC 8200 §8.1; for IPv4 RFC 768 and RFC 9293, which sum alike).
pub fn pseudo_header(source: Address, destination: Address, protocol: u8, length: u32) -> u16 {
    // The mapped prefix of two IPv4 addresses adds 2 × 0xffff, which is zero in this arithmetic.
    fold(
        u64::from(sum_u128(source.bits()))
            + u64::from(sum_u128(destination.bits()))
            + u64::from(protocol)
            + u64::from(length >> 16)
            + u64::from(length & 0xffff),
    )
}

fn sum_u128(value: u128) -> u16 {
    let mask = 0xffff_ffff_u128;
    let limb = |shift: u32| u64::try_from((value >> shift) & mask).unwrap_or_default();
    fold(limb(96) + limb(64) + limb(32) + limb(0))
}

const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff); // 33 bits
    let sum = (sum >> 16) + (sum & 0xffff); // 18 bits
    let sum = (sum >> 16) + (sum & 0xffff); // 17 bits
    #[allow(clippy::cast_possible_truncation, reason = "a carry of one leaves 16 bits")]
    let folded = ((sum >> 16) + (sum & 0xffff)) as u16;
    folded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_1624_section_4_example() {
        assert_eq!(Delta::of_word(0x5555, 0x3285).apply(0xdd2f, Stored::Full), 0x0000);
    }

    #[test]
    fn s_a_zero_udp_checksum_stays_zero_and_a_computed_zero_is_sent_as_ones() {
        let delta = Delta::of_word(0x5555, 0x3285);
        assert_eq!(delta.apply(0, Stored::FullOrNone), 0);
        assert_eq!(delta.apply(0xdd2f, Stored::FullOrNone), 0xffff);
    }

    proptest! {
        #[test]
        fn a_delta_says_what_summing_again_says(mut bytes in prop::collection::vec(any::<u8>(), 20..200), old: u32, new: u32) {
            let (old, new) = (Address::from_v4(old.to_be_bytes()), Address::from_v4(new.to_be_bytes()));
            bytes[0] |= 1; // an all-zero message has two checksums
            bytes[4..8].copy_from_slice(&old.v4_octets());
            let before = checksum(0, &bytes);
            bytes[4..8].copy_from_slice(&new.v4_octets());
            prop_assert_eq!(Delta::of_address(old, new).apply(before, Stored::Full), checksum(0, &bytes));
        }

        #[test]
        fn sums_agree_with_pnet(bytes in prop::collection::vec(any::<u8>(), 0..300), src: u128, dst: u128, protocol: u8) {
            let (src6, dst6) = (std::net::Ipv6Addr::from(src), std::net::Ipv6Addr::from(dst));
            let length = u32::try_from(bytes.len()).unwrap();
            let ours = checksum(pseudo_header(Address::from_bits(src), Address::from_bits(dst), protocol, length), &bytes);
            let theirs = pnet::util::ipv6_checksum(&bytes, bytes.len(), &[], &src6, &dst6, pnet::packet::ip::IpNextHeaderProtocol(protocol));
            prop_assert_eq!(ours, theirs);
        }
    }
}
