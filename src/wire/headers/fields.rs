//! What is known of a packet after one look.

use crate::wire::Address;

/// IP protocol numbers (IANA) that translation has to know.
pub mod protocol {
    #![allow(missing_docs, reason = "the names are IANA's")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const DCCP: u8 = 33;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION_OPTIONS: u8 = 60;
    pub const SCTP: u8 = 132;
    pub const MOBILITY: u8 = 135;
    pub const UDP_LITE: u8 = 136;
}

/// What the headers of one packet say. Holds offsets, not borrows, so that the bytes can be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Protocol of the transport (behind all extension headers).
    pub protocol: u8,
    /// Offset of the transport header, or of the payload of a later fragment.
    pub transport: usize,
    /// Where the packet ends; bytes behind it are padding.
    pub end: usize,
    /// Whether this is a fragment.
    pub fragment: Fragment,
    /// What kind of packet it is to a translator.
    pub kind: Kind,
    /// Offset of the transport checksum, if it covers the addresses.
    pub checksum: Option<usize>,
}

/// Whether a packet is a fragment, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Not a fragment.
    Whole,
    /// The first one: it has the transport header.
    First,
    /// A later one: addresses only.
    Later,
}

/// What kind of packet it is to a translator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP SYN without ACK: a connection request.
    TcpSyn,
    /// Any other TCP segment.
    Tcp,
    /// A UDP or UDP-Lite datagram.
    Datagram,
    /// An ICMP query: echo, timestamp, information or address mask request (RFC 792, RFC 950).
    IcmpQuery,
    /// An ICMP reply, or an ICMP message that is neither query nor error.
    IcmpOther,
    /// An ICMP error: it quotes the packet it is about.
    IcmpError,
    /// An ICMP redirect or neighbour discovery (RFC 4861): about the local network only, never translated.
    IcmpRedirect,
    /// IPsec AH: the addresses are signed.
    Authentication,
    /// Another protocol.
    Other,
    /// A later fragment: nothing is known but the addresses.
    LaterFragment,
}

/// Why bytes are not a packet that can be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Neither IPv4 nor IPv6.
    Version,
    /// Too short, or lengths that contradict each other.
    Malformed,
    /// A first fragment that ends before the transport checksum (RFC 1858).
    TinyFragment,
    /// A TCP fragment at offset 8 (RFC 3128): it would overwrite the flags of the first one.
    OverlappingFragment,
    /// A source route with hops left to visit (RFC 5095, RFC 7126): the addresses are not the ends.
    SourceRoute,
    /// An option in which hosts and routers on the way write their addresses down (RFC 7126 §4.6, §4.7).
    RecordsAddresses,
    /// An IPv6 header with an IPv4-mapped address (RFC 4291 §2.5.5.2): [`Address`] writes IPv4 like that, and no wire
    /// may carry it (draft-itojun-v6ops-v4mapped-harmful-02).
    Mapped,
}

/// What the fourteenth byte of a TCP header makes of the segment.
pub(super) fn kind_of_tcp(flags: u8) -> Kind {
    match flags & 0b01_0110 {
        0b00_0010 => Kind::TcpSyn, // SYN, and neither ACK nor RST
        _ => Kind::Tcp,
    }
}
