//! What the guard lets pass, and why it drops the rest.

use ipnet::IpNet;
use std::net::Ipv6Addr;

/// The ways that the guard lets packets of an inside take. Interfaces are given by their indices; each has one part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Of each realm. What comes in by one of them leaves by another of the same realm.
    pub insides: Vec<Vec<u32>>,
    /// Where packets are translated as they leave.
    pub outsides: Vec<u32>,
    /// The gateway's own devices.
    pub devices: Vec<u32>,
    /// Interfaces of others that can have no packet of an inside: what comes in by them passes. Others are looked at.
    pub others: Vec<u32>,
    /// What is sent here is not translated, and leaves by any interface, under IPsec too.
    pub exempt: Vec<IpNet>,
    /// The prefixes of the insides: no packet from or to them leaves by an interface that is none of these.
    pub hidden: Vec<IpNet>,
    /// The gateway's own addresses: no inside may send from them. For IPv4 the kernel sees to that.
    pub own_v6: Vec<Ipv6Addr>,
}

/// Why a packet of an inside is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its source is an address of the gateway.
    OwnSource,
    /// IPsec would transform it before it could be translated.
    Ipsec,
    /// It would leave by an inside interface of another realm.
    OtherRealm,
    /// It would leave by an interface that the configuration does not name.
    UndeclaredWay,
    /// It is from a terminal's address, came in by no inside interface, and would leave by one of others.
    ForeignSource,
    /// It is for a terminal's address, and would leave by an interface of others.
    InsideDestination,
    /// Its route would put it into a tunnel of the route's own. Rules of nf_tables cannot ask for that.
    Encapsulated,
}

/// How many there are.
pub const REASONS: usize = Reason::ALL.len();

impl Reason {
    /// In the order in which `guard.bpf.c` has them.
    pub const ALL: [Self; 7] = [
        Self::OwnSource,
        Self::Ipsec,
        Self::OtherRealm,
        Self::UndeclaredWay,
        Self::ForeignSource,
        Self::InsideDestination,
        Self::Encapsulated,
    ];

    /// In counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::OwnSource => "own_source",
            Self::Ipsec => "ipsec",
            Self::OtherRealm => "other_realm",
            Self::UndeclaredWay => "undeclared_way",
            Self::ForeignSource => "foreign_source",
            Self::InsideDestination => "inside_destination",
            Self::Encapsulated => "encapsulated",
        }
    }
}
