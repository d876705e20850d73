//! Addresses of both families in one word, and ranges of them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The upper 96 bits of an IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2).
const MAPPED: u128 = 0xffff_0000_0000;

/// An IPv4 or IPv6 address in one 128-bit word; IPv4 as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2).
///
/// One word compares, hashes and stores faster than the two-armed [`IpAddr`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(u128);

impl Address {
    /// From the 128-bit word.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// From four bytes in network order.
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        Self(MAPPED | u32::from_be_bytes(octets) as u128)
    }

    /// From sixteen bytes in network order.
    pub const fn from_v6(octets: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(octets))
    }

    /// The 128-bit word.
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The upper and the lower half of the word.
    #[allow(clippy::cast_possible_truncation, reason = "each half is taken on purpose")]
    pub const fn halves(self) -> (u64, u64) {
        ((self.0 >> 64) as u64, self.0 as u64)
    }

    /// Whether this is an IPv4 address.
    pub const fn is_v4(self) -> bool {
        self.0 >> 32 == MAPPED >> 32
    }

    /// Bytes of an IPv4 address in network order (of an IPv6 address: its last four).
    pub const fn v4_octets(self) -> [u8; 4] {
        let [.., a, b, c, d] = self.0.to_be_bytes();
        [a, b, c, d]
    }

    /// Bytes of an IPv6 address in network order.
    pub const fn v6_octets(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The first `bits` bits of the address, counted as its own family counts them; the rest zero.
    pub const fn truncate(self, bits: u8) -> Self {
        let from_end = if self.is_v4() {
            32 - if bits > 32 { 32 } else { bits }
        } else {
            128 - if bits > 128 { 128 } else { bits }
        };
        if from_end >= 128 { Self(0) } else { Self(self.0 >> from_end << from_end) }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(a: Ipv4Addr) -> Self {
        Self::from_v4(a.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(a: Ipv6Addr) -> Self {
        Self::from_v6(a.octets())
    }
}

impl From<IpAddr> for Address {
    fn from(a: IpAddr) -> Self {
        match a {
            IpAddr::V4(a) => a.into(),
            IpAddr::V6(a) => a.into(),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(a: Address) -> Self {
        if a.is_v4() { IpAddr::V4(Ipv4Addr::from(a.v4_octets())) } else { IpAddr::V6(Ipv6Addr::from(a.v6_octets())) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A run of addresses of one family, both ends included.
///
/// Written as a prefix (`198.18.0.0/16`), a range (`198.18.0.10-198.18.0.50`) or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AddressRange {
    first: Address,
    last: Address,
}

/// Why a text is not an [`AddressRange`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRangeError {
    /// Neither a prefix nor a range nor an address.
    #[error("'{0}' is neither a prefix (198.18.0.0/16), a range (198.18.0.10-198.18.0.50) nor an address")]
    Syntax(String),
    /// The prefix has bits set behind its length.
    #[error("'{0}' has host bits set; did you mean {1}?")]
    HostBits(String, String),
    /// The two ends belong to different families.
    #[error("'{0}' starts and ends in different address families")]
    MixedFamilies(String),
    /// The range ends before it starts.
    #[error("'{0}' ends before it starts")]
    Reversed(String),
}

impl AddressRange {
    /// The range from `first` to `last`, both included; `None` if they differ in family or are out of order.
    pub fn new(first: Address, last: Address) -> Option<Self> {
        (first.is_v4() == last.is_v4() && first <= last).then_some(Self { first, last })
    }

    /// The first address.
    pub const fn first(&self) -> Address {
        self.first
    }

    /// The last address.
    pub const fn last(&self) -> Address {
        self.last
    }

    /// How many addresses; saturates for the whole of IPv6.
    pub const fn size(&self) -> u128 {
        (self.last.bits() - self.first.bits()).saturating_add(1)
    }

    /// Whether it is a range of IPv4 addresses.
    pub const fn is_v4(&self) -> bool {
        self.first.is_v4()
    }

    /// Whether `address` is one of them.
    pub fn contains(&self, address: Address) -> bool {
        self.first <= address && address <= self.last
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &AddressRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The prefixes that cover exactly this range, as a routing table wants them.
    pub fn prefixes(&self) -> Vec<ipnet::IpNet> {
        match (IpAddr::from(self.first), IpAddr::from(self.last)) {
            (IpAddr::V4(a), IpAddr::V4(b)) => ipnet::Ipv4Subnets::new(a, b, 0).map(ipnet::IpNet::V4).collect(),
            (IpAddr::V6(a), IpAddr::V6(b)) => ipnet::Ipv6Subnets::new(a, b, 0).map(ipnet::IpNet::V6).collect(),
            _ => Vec::new(),
        }
    }
}

impl From<ipnet::IpNet> for AddressRange {
    fn from(net: ipnet::IpNet) -> Self {
        Self { first: net.network().into(), last: net.broadcast().into() }
    }
}

impl FromStr for AddressRange {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<Self, ParseRangeError> {
        let syntax = || ParseRangeError::Syntax(text.to_owned());
        if let Some((first, last)) = text.split_once('-') {
            let first: IpAddr = first.trim().parse().map_err(|_| syntax())?;
            let last: IpAddr = last.trim().parse().map_err(|_| syntax())?;
            if first.is_ipv4() != last.is_ipv4() {
                return Err(ParseRangeError::MixedFamilies(text.to_owned()));
            }
            return Self::new(first.into(), last.into()).ok_or_else(|| ParseRangeError::Reversed(text.to_owned()));
        }
        if text.contains('/') {
            let net: ipnet::IpNet = text.trim().parse().map_err(|_| syntax())?;
            if net.addr() != net.network() {
                return Err(ParseRangeError::HostBits(text.to_owned(), net.trunc().to_string()));
            }
            return Ok(net.into());
        }
        let one: IpAddr = text.trim().parse().map_err(|_| syntax())?;
        Ok(Self { first: one.into(), last: one.into() })
    }
}

impl TryFrom<String> for AddressRange {
    type Error = ParseRangeError;

    fn try_from(text: String) -> Result<Self, ParseRangeError> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> String {
        range.to_string()
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefixes().as_slice() {
            _ if self.first == self.last => write!(f, "{}", self.first),
            [one] => write!(f, "{one}"),
            _ => write!(f, "{}-{}", self.first, self.last),
        }
    }
}
