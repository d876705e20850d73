//! Why a packet is dropped.

use crate::wire::Unreadable;

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped. Every reason has a counter of its own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// The name in counters, JSON and logs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $name,)+
                }
            }

            /// One sentence for people.
            pub const fn explain(self) -> &'static str {
                match self {
                    $(DropReason::$variant => concat!($($doc,)+).trim_ascii(),)+
                }
            }
        }
    };
}

drop_reasons! {
    /// Too short, or its lengths contradict each other.
    Malformed = "malformed",
    /// Neither IPv4 nor IPv6.
    UnknownVersion = "unknown_version",
    /// A first fragment that ends before the transport checksum (RFC 1858).
    TinyFragment = "tiny_fragment",
    /// A TCP fragment at offset 8, which would overwrite the flags of the first one (RFC 3128).
    OverlappingFragment = "overlapping_fragment",
    /// A source route with hops left to visit (RFC 5095, RFC 7126).
    SourceRoute = "source_route",
    /// An IPv4 record-route or timestamp option, in which inside addresses would be written down (RFC 7126 §4.6, §4.7).
    RecordsAddresses = "records_addresses",
    /// An IPv6 packet with an IPv4-mapped address, which no wire may carry (RFC 4291 §2.5.5.2).
    MappedAddress = "mapped_address",
    /// The virtual IP belongs to nobody.
    NoBinding = "no_binding",
    /// The terminal of this virtual IP has been idle too long; it must call first.
    Dormant = "dormant",
    /// The network of this virtual IP's terminal is not inside any more.
    InsideGone = "inside_gone",
    /// The peer may not call this virtual IP.
    NotContacted = "not_contacted",
    /// The terminal has called this peer, and since then so many others that the peer is forgotten.
    ContactForgotten = "contact_forgotten",
    /// The peer may call only once it has answered the terminal, and it has not.
    NotAnswered = "not_answered",
    /// The destination is not a virtual IP.
    NotVirtual = "not_virtual",
    /// A packet that cannot make a binding (a TCP segment that is no SYN, a non-first fragment, an ICMP reply) from a terminal that has none.
    NotAFirstPacket = "not_a_first_packet",
    /// No virtual IP was left in the pool.
    PoolExhausted = "pool_exhausted",
    /// A new binding could not be written to the state file; the log says why.
    CannotRecord = "cannot_record",
    /// No pool serves this destination or address family.
    NoPool = "no_pool",
    /// The terminal's prefix asked for new bindings too fast.
    CreationRate = "creation_rate",
    /// The terminal's prefix, or the gateway, holds as many bindings as it may.
    Quota = "quota",
    /// Half of what the pool has left, or as many as may be, is held by terminals of this inside that nobody has answered yet.
    Unanswered = "unanswered",
    /// An address that prefix translation cannot map (RFC 6296 §3.4, §3.5).
    PrefixUnmappable = "prefix_unmappable",
    /// The source is in none of the inside prefixes.
    SourceNotInside = "source_not_inside",
    /// The source is a virtual IP, an inside address that came from outside, or one that no packet may come from.
    SpoofedSource = "spoofed_source",
    /// An ICMP error about a packet that was not translated here.
    IcmpErrorUnrelated = "icmp_error_unrelated",
    /// An ICMP error too short to say what it is about.
    IcmpErrorTruncated = "icmp_error_truncated",
    /// More ICMP errors in a second from hosts outside that the terminal has not called than are let through (RFC 5927).
    IcmpErrorRate = "icmp_error_rate",
    /// An ICMP error from outside that tells of a path narrower than any may be (RFC 791 §3.2: 68 bytes, RFC 8201 §4: 1,280).
    IcmpErrorMtu = "icmp_error_mtu",
    /// An ICMP error with a wrong checksum (RFC 5508 REQ-3).
    IcmpChecksum = "icmp_checksum",
    /// An ICMP error from an inside host without a virtual IP, and no address of the gateway's own is known to show instead.
    NoOwnAddress = "no_own_address",
    /// The peer belongs to another pool than the virtual IP it called.
    WrongPool = "wrong_pool",
    /// A terminal called a virtual IP of this gateway, and hairpinning is switched off or cannot serve it.
    Hairpin = "hairpin",
    /// A control connection of an application announces an address that is not its sender's own, a port below 1024, or
    /// nothing that can be understood (RFC 2577 §3).
    AlgRefused = "alg_refused",
    /// A segment of a control connection that cannot be looked into yet: a fragment, or ahead of a gap. TCP sends it again.
    AlgSegment = "alg_segment",
    /// More control connections than can be remembered.
    AlgFull = "alg_full",
    /// IPsec AH protects the addresses; translating would break it (RFC 3948 §1).
    AuthenticationHeader = "authentication_header",
    /// Multicast, broadcast or link-local: never translated.
    NotUnicast = "not_unicast",
}

impl From<Unreadable> for DropReason {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Version => DropReason::UnknownVersion,
            Unreadable::Malformed => DropReason::Malformed,
            Unreadable::TinyFragment => DropReason::TinyFragment,
            Unreadable::OverlappingFragment => DropReason::OverlappingFragment,
            Unreadable::SourceRoute => DropReason::SourceRoute,
            Unreadable::RecordsAddresses => DropReason::RecordsAddresses,
            Unreadable::Mapped => DropReason::MappedAddress,
        }
    }
}
