//! What the translator is told: checked settings, no nonsense left in them.

use super::callback::CallbackPolicy;
use super::numbers::InsideNumber;
use crate::wire::AddressRange;
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// Everything the translator needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The inside realms; a [`super::Realm::Inside`] is an index into them.
    pub insides: Vec<InsideSettings>,
    /// The pools, of both families; names and ranges do not overlap.
    pub pools: Vec<PoolSettings>,
    /// How bindings are made, kept and called.
    pub policy: Policy,
    /// The gateway's own addresses on the outside, both families.
    pub own_outside: Vec<IpAddr>,
    /// Key of the address hash; the same key gives terminals the same first choice after a restart.
    pub hash_key: [u8; 16],
    /// Whether a packet that comes from inside and goes back inside gets back one hop: the kernel forwards it twice.
    pub restore_hop: bool,
}

/// How bindings are made, kept and called, and what is changed in packets besides addresses: the same for all pools, but
/// for what a pool says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Who may call a virtual IP.
    pub callback: CallbackPolicy,
    /// How long things live.
    pub lifetimes: Lifetimes,
    /// How fast a group of terminals may ask for new bindings, and how many it may hold.
    pub creation: CreationLimit,
    /// What a terminal hears when no virtual IP is left.
    pub exhausted: Exhausted,
    /// Whether terminals may call each other's virtual IPs.
    pub hairpin: Hairpin,
    /// Whether packets from outside keep a binding alive.
    pub inbound_refresh: InboundRefresh,
    /// What a peer hears that calls in vain.
    pub unsolicited: Unsolicited,
    /// The largest TCP segment that both sides are told to send, in bytes (RFC 9293 §3.7.1); `None`: as they say.
    pub mss: Option<u16>,
    /// Whether terminals and peers may agree on Multipath TCP.
    pub mptcp: Multipath,
    /// The applications whose text is looked into, each with the port of its control connections; none by default.
    pub alg: Vec<AlgSettings>,
}

/// What becomes of Multipath TCP (RFC 8684), with which an end tells the other its further addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Multipath {
    /// It is taken out of SYNs: the connection goes on as plain TCP, and no inside address is told.
    #[default]
    Strip,
    /// It passes, and whatever addresses terminals tell in it.
    Pass,
}

/// An application that carries addresses in its text (RFC 4787 REQ-10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alg {
    /// FTP (RFC 959, RFC 2428), active and passive.
    Ftp,
}

/// Where an application is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlgSettings {
    /// Whose text carries addresses.
    pub alg: Alg,
    /// Port of the server's end of its control connections.
    pub port: u16,
}

impl Alg {
    /// Every application that is known.
    pub const ALL: &'static [Alg] = &[Alg::Ftp];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Alg::Ftp => "ftp",
        }
    }

    /// The port it has unless told otherwise (IANA).
    pub const fn port(self) -> u16 {
        match self {
            Alg::Ftp => 21,
        }
    }
}

/// One inside realm.
#[derive(Clone, Debug)]
pub struct InsideSettings {
    /// Its name in listings and logs.
    pub name: String,
    /// The prefixes whose addresses may get a binding.
    pub sources: Vec<IpNet>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Its name; unique.
    pub name: String,
    /// The virtual IPs; ranges of one family.
    pub range: AddressRange,
    /// Addresses of the range that are never given (the gateway's own, a network's broadcast).
    pub reserved: Vec<IpAddr>,
    /// The peers this pool is for; empty: every peer that no other pool names. The longest prefix wins.
    pub destinations: Vec<IpNet>,
    /// Overrides the general policy for this pool.
    pub callback: Option<CallbackPolicy>,
    /// Whether it keeps the bindings that it has and makes no new ones.
    pub draining: bool,
    /// How its addresses are given.
    pub kind: PoolKind,
}

/// How the addresses of a pool are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PoolKind {
    /// To terminals, one each, remembered as bindings.
    #[default]
    Bindings,
    /// As another prefix for the terminals' own, without memory (RFC 6296). Everyone may call.
    Prefix {
        /// The terminals' prefix.
        internal: Ipv6Net,
        /// The inside they are in.
        inside: InsideNumber,
    },
}

/// Whether terminals may call each other's virtual IPs, and their own (RFC 4787 REQ-9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hairpin {
    /// Where the callback policy lets the caller's virtual IP call.
    #[default]
    Policy,
    /// Always.
    Anyone,
    /// Never.
    Off,
}

/// Whether packets from outside keep a binding alive (RFC 4787 REQ-6, RFC 7857 §7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InboundRefresh {
    /// Only what the terminal sends does.
    #[default]
    Ignored,
    /// They do as well.
    Refreshes,
}

/// What a peer hears whose SYN reaches nobody (RFC 5382 REQ-4). Never sooner than 6 s after the SYN, and nothing if the
/// terminal has called the peer by then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unsolicited {
    /// Nothing.
    #[default]
    Silent,
    /// ICMP port unreachable.
    Unreachable,
    /// A TCP reset.
    Reset,
}

/// How long things live. See the life of a binding in the README.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Idle time after which an active binding goes dormant. Default 24 h, never under 7,440 s (RFC 5382 REQ-5).
    pub hold: Duration,
    /// The same for a binding that nobody has answered yet. Default 5 min (RFC 4787 REQ-5),
    /// never under 240 s (RFC 5382 REQ-5, transitory).
    pub unanswered: Duration,
    /// Time after which a dormant binding is released. Default 14 days.
    pub dormant: Duration,
    /// Time for which a released virtual IP belongs to nobody. Default and minimum 120 s (RFC 6888 REQ-8).
    pub quarantine: Duration,
    /// Idle time after which a contact no longer allows a callback. Default 24 h.
    pub contact: Duration,
    /// Contacts remembered per binding; the oldest goes first. Default 1,024.
    pub contacts_per_binding: u32,
}

impl Lifetimes {
    /// Those that bindings have, contacts apart.
    pub(super) fn of_bindings(&self) -> [Duration; 4] {
        [self.hold, self.unanswered, self.dormant, self.quarantine]
    }
}

impl Default for Lifetimes {
    fn default() -> Self {
        const HOUR: u64 = 3600;
        Self {
            hold: Duration::from_secs(24 * HOUR),
            unanswered: Duration::from_secs(300),
            dormant: Duration::from_secs(14 * 24 * HOUR),
            quarantine: Duration::from_secs(120),
            contact: Duration::from_secs(24 * HOUR),
            contacts_per_binding: 1024,
        }
    }
}

/// How fast new bindings may be made, and how many, for each prefix of terminals (RFC 6888 REQ-4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreationLimit {
    /// New bindings a second for each prefix.
    pub per_second: u32,
    /// How many at once after a pause.
    pub burst: u32,
    /// Length of the prefix that shares a bucket, IPv4. Default 24.
    pub prefix_v4: u8,
    /// The same for IPv6. Default 64.
    pub prefix_v6: u8,
    /// Bindings that an IPv4 prefix may hold at one time; `None`: as many as the pools have.
    pub per_prefix: Option<u32>,
    /// The same for an IPv6 prefix.
    pub per_prefix_v6: Option<u32>,
    /// Bindings in all; `None`: as many as the pools have.
    pub total: Option<u64>,
    /// Bindings made within the last four minutes and not answered yet that the terminals of an inside may have, and never
    /// more than half of what the pool has left; `None`: as many as the pools have.
    pub unanswered: Option<u32>,
}

impl Default for CreationLimit {
    fn default() -> Self {
        Self {
            per_second: 1000,
            burst: 2000,
            prefix_v4: 24,
            prefix_v6: 64,
            per_prefix: None,
            per_prefix_v6: None,
            total: None,
            unanswered: None,
        }
    }
}

/// What a terminal hears when it cannot get a virtual IP (RFC 5508 REQ-8, RFC 6888 REQ-11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exhausted {
    /// ICMP type 3 code 13, IPv6 type 1 code 1: communication administratively prohibited.
    #[default]
    Prohibited,
    /// ICMP type 3 code 1, IPv6 type 1 code 3: host or address unreachable.
    Unreachable,
    /// Nothing.
    Silent,
}
