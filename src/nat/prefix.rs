//! IPv6 prefix translation (RFC 6296): stateless, one prefix for another, so that every checksum stays right.

use super::numbers::InsideNumber;
use super::settings::{PoolKind, PoolSettings};
use crate::nat::reason::DropReason;
use crate::wire::{Address, Headers};
use ipnet::{IpNet, Ipv6Net};
use std::net::IpAddr;

/// One pair of prefixes.
#[derive(Clone, Debug)]
pub struct Prefix {
    pub inside: InsideNumber,
    internal: Ipv6Net,
    external: Ipv6Net,
    destinations: Vec<IpNet>,
    /// What the sum of the internal prefix is more than that of the external one, in ones' complement.
    adjustment: u16,
}

/// All pairs.
#[derive(Clone, Debug, Default)]
pub struct Prefixes(Vec<Prefix>);

/// Words 0 to 7 of an address.
type Words = [u16; 8];

/// The word that is adjusted where the prefixes leave it free (RFC 6296 §3.4).
const SUBNET_WORD: usize = 3;

impl Prefixes {
    /// The pairs among the pools.
    pub fn new(pools: &[PoolSettings]) -> Self {
        let pair = |pool: &PoolSettings| match (&pool.kind, pool.range.prefixes().as_slice()) {
            (PoolKind::Prefix { internal, inside }, [IpNet::V6(external)]) => {
                Some(Prefix::new(*internal, *external, *inside, pool.destinations.clone()))
            }
            _ => None,
        };
        Self(pools.iter().filter_map(pair).collect())
    }

    /// The pair whose external prefix has `address`.
    pub fn of_virtual_ip(&self, address: Address) -> Option<&Prefix> {
        self.0.iter().find(|prefix| has(&prefix.external, address))
    }

    /// The external address of an inside one towards `peer`, if a pair translates it. `inside` is the realm it is in,
    /// where that is known.
    pub fn outward(
        &self,
        inside: Option<InsideNumber>,
        address: Address,
        peer: Address,
    ) -> Option<Result<Address, DropReason>> {
        let prefix = self.0.iter().find(|prefix| {
            inside.is_none_or(|inside| inside == prefix.inside)
                && has(&prefix.internal, address)
                && (prefix.destinations.is_empty()
                    || prefix.destinations.iter().any(|destination| destination.contains(&IpAddr::from(peer))))
        })?;
        Some(prefix.outward(address))
    }

    /// Whether an ICMP error with `headers` that quotes `quoted` is about a packet that a pair has translated.
    pub fn concerns(&self, headers: &Headers, quoted: &Headers) -> bool {
        !self.0.is_empty()
            && (self.of_virtual_ip(headers.destination).is_some()
                || self.outward(None, quoted.destination, headers.destination).is_some())
    }
}

impl Prefix {
    fn new(internal: Ipv6Net, external: Ipv6Net, inside: InsideNumber, destinations: Vec<IpNet>) -> Self {
        let adjustment = subtract(sum(words(internal.network().into())), sum(words(external.network().into())));
        Self { inside, internal, external, destinations, adjustment }
    }

    /// The external address of an internal one.
    pub fn outward(&self, address: Address) -> Result<Address, DropReason> {
        self.map(address, &self.external, self.adjustment)
    }

    /// The internal address of an external one.
    pub fn inward(&self, address: Address) -> Result<Address, DropReason> {
        self.map(address, &self.internal, subtract(0, self.adjustment))
    }

    fn map(&self, address: Address, to: &Ipv6Net, adjustment: u16) -> Result<Address, DropReason> {
        // Both prefixes count as if they were as long as the longer one (RFC 6296 §3.2).
        let length = u32::from(self.internal.prefix_len().max(self.external.prefix_len()));
        let host = u128::MAX.checked_shr(length).unwrap_or(0);
        let mut mapped = words(Address::from_bits(u128::from(to.network()) | (address.bits() & host)));
        let place = if length <= 48 {
            SUBNET_WORD
        } else {
            // The first word of the interface identifier that is not all ones (§3.5); one of zeros is anycast.
            if address.bits() & u128::from(u64::MAX) == 0 {
                return Err(DropReason::PrefixUnmappable);
            }
            (4..8).find(|place| mapped.get(*place) != Some(&0xffff)).ok_or(DropReason::PrefixUnmappable)?
        };
        let word = mapped.get_mut(place).filter(|word| **word != 0xffff).ok_or(DropReason::PrefixUnmappable)?;
        *word = match add(*word, adjustment) {
            0xffff => 0, // §3.4: the other zero
            sum => sum,
        };
        Ok(Address::from_bits(mapped.iter().fold(0, |bits, word| bits << 16 | u128::from(*word))))
    }
}

fn has(net: &Ipv6Net, address: Address) -> bool {
    !address.is_v4() && net.contains(&std::net::Ipv6Addr::from(address.v6_octets()))
}

fn words(address: Address) -> Words {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(address.v6_octets().as_chunks::<2>().0) {
        *word = u16::from_be_bytes(*bytes);
    }
    words
}

fn sum(words: Words) -> u16 {
    words.into_iter().fold(0, add)
}

fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

fn subtract(a: u16, b: u16) -> u16 {
    add(a, !b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{checksum, pseudo_header};
    use proptest::prelude::*;

    fn pair(internal: &str, external: &str) -> Prefix {
        Prefix::new(internal.parse().unwrap(), external.parse().unwrap(), InsideNumber::new(0), Vec::new())
    }

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn rfc6296_the_example_of_section_3_1_comes_out() {
        let prefix = pair("fd01:203:405::/48", "2001:db8:1::/48");
        let (inside, outside) = (address("fd01:203:405:1::1234"), address("2001:db8:1:d550::1234"));
        assert_eq!(prefix.outward(inside), Ok(outside));
        assert_eq!(prefix.inward(outside), Ok(inside));
    }

    #[test]
    fn rfc6296_what_cannot_be_mapped_is_refused() {
        let prefix = pair("fd01:203:405::/48", "2001:db8:1::/48");
        assert_eq!(prefix.outward(address("fd01:203:405:ffff::1")), Err(DropReason::PrefixUnmappable));
        let prefix = pair("fd01:203:405:1::/64", "2001:db8:1:2::/64");
        assert_eq!(prefix.outward(address("fd01:203:405:1::")), Err(DropReason::PrefixUnmappable));
        let ones = address("fd01:203:405:1:ffff:ffff:ffff:ffff");
        assert_eq!(prefix.outward(ones), Err(DropReason::PrefixUnmappable));
    }

    proptest! {
        #[test]
        fn rfc6296_there_and_back_is_the_same_and_no_checksum_changes(
            host: u128, internal: u128, external: u128, internal_length in 16u8..=64, external_length in 16u8..=64
        ) {
            let net = |bits: u128, length| Ipv6Net::new(bits.into(), length).unwrap().trunc();
            let (internal, external) = (net(internal, internal_length), net(external, external_length));
            let prefix = Prefix::new(internal, external, InsideNumber::new(0), Vec::new());
            let free = u128::MAX >> internal_length.max(external_length);
            let inside = Address::from_bits(u128::from(internal.network()) | (host & free));
            if let Ok(outside) = prefix.outward(inside) {
                prop_assert!(has(&external, outside));
                prop_assert_eq!(prefix.inward(outside), Ok(inside));
                let peer = address("2001:db8::1");
                let sum = |address| checksum(pseudo_header(address, peer, 6, 20), &[7; 20]);
                prop_assert_eq!(sum(inside), sum(outside));
            }
        }
    }
}
