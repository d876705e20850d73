//! What the translator is told: checked settings, no nonsense left in them.

use crate::wire::AddressRange;
use ipnet::IpNet;
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
    /// Who may call a virtual IP.
    pub callback: CallbackPolicy,
    /// How long things live.
    pub lifetimes: Lifetimes,
    /// How fast a group of terminals may ask for new bindings.
    pub creation: CreationLimit,
    /// What a terminal hears when no virtual IP is left.
    pub exhausted: Exhausted,
    /// The gateway's own addresses on the outside, both families.
    pub own_outside: Vec<IpAddr>,
    /// Key of the address hash; the same key gives terminals the same first choice after a restart.
    pub hash_key: [u8; 16],
    /// Whether to give back the hop that the way into the gateway's device took from TTL or hop limit, so that
    /// the gateway is one hop, not two. On behind TUN, off where packets come from memory.
    pub restore_hop: bool,
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
}

/// Who may open a connection to a virtual IP (RFC 4787 REQ-8, RFC 5382 REQ-3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CallbackPolicy {
    /// Only a peer that this terminal has called (address-dependent filtering).
    #[default]
    Contacted,
    /// Every peer (endpoint-independent filtering).
    Anyone,
    /// Peers in these prefixes, and those that this terminal has called.
    Prefixes(Vec<IpNet>),
}

/// How long things live. See the life of a binding in the README.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Idle time after which an active binding goes dormant. Default 24 h, never under 7,440 s (RFC 5382 REQ-5).
    pub hold: Duration,
    /// Time after which a dormant binding is released. Default 14 days.
    pub dormant: Duration,
    /// Time for which a released virtual IP belongs to nobody. Default and minimum 120 s (RFC 6888 REQ-8).
    pub quarantine: Duration,
    /// Idle time after which a contact no longer allows a callback. Default 24 h.
    pub contact: Duration,
    /// Contacts remembered per binding; the oldest goes first. Default 1,024.
    pub contacts_per_binding: u32,
}

impl Default for Lifetimes {
    fn default() -> Self {
        const HOUR: u64 = 3600;
        Self {
            hold: Duration::from_secs(24 * HOUR),
            dormant: Duration::from_secs(14 * 24 * HOUR),
            quarantine: Duration::from_secs(120),
            contact: Duration::from_secs(24 * HOUR),
            contacts_per_binding: 1024,
        }
    }
}

/// How fast new bindings may be made: a token bucket for each prefix of terminals (RFC 6888 REQ-4).
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
}

impl Default for CreationLimit {
    fn default() -> Self {
        Self { per_second: 1000, burst: 2000, prefix_v4: 24, prefix_v6: 64 }
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
