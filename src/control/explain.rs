//! What a caller wants explained: a packet that is only talked about.

use super::parameters::{encode, pairs};
use super::refusal::{Refusal, bad};
use crate::nat::{Nat, Question, Realm};
use crate::wire::protocol;
use std::net::IpAddr;

/// A question as it is asked, with names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainRequest {
    /// `outside`, the name of an inside, or `inside` where there is one only; by default as the source suggests.
    pub realm: Option<String>,
    /// Of either side.
    pub source: IpAddr,
    /// Of the same family as the source.
    pub destination: IpAddr,
    /// Its protocol number.
    pub protocol: u8,
    /// Whether it would open a connection.
    pub opens: bool,
}

impl ExplainRequest {
    /// As a query string, with its question mark.
    pub fn to_query(&self) -> String {
        let Self { source, destination, protocol, opens, .. } = self;
        let realm = self.realm.as_ref().map(|realm| format!("&realm={}", encode(realm))).unwrap_or_default();
        format!("?source={source}&destination={destination}&protocol={protocol}&opens={opens}{realm}")
    }

    pub(super) fn parse(query: &str) -> Result<Self, Refusal> {
        let (mut source, mut destination, mut protocol, mut opens, mut realm) = (None, None, protocol::TCP, true, None);
        for pair in pairs(query) {
            let (key, value) = pair?;
            let address = || value.parse().map_err(|_| bad(format!("{key} takes an address, not '{value}'")));
            match key {
                "source" => source = Some(address()?),
                "destination" => destination = Some(address()?),
                "protocol" => {
                    protocol = protocol_number(&value).ok_or_else(|| bad(format!("there is no protocol '{value}'")))?;
                }
                "opens" => opens = value.parse().map_err(|_| bad("opens takes true or false".to_owned()))?,
                "realm" => realm = Some(value),
                _ => {
                    let keys = "source, destination, protocol, opens and realm";
                    return Err(bad(format!("no parameter '{key}'; there are {keys}")));
                }
            }
        }
        match (source, destination) {
            (Some(source), Some(destination)) => Ok(Self { realm, source, destination, protocol, opens }),
            _ => Err(bad("name a source and a destination".to_owned())),
        }
    }

    pub(super) fn question(&self, nat: &Nat) -> Result<Question, Refusal> {
        let Self { source, destination, protocol, opens, .. } = *self;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(bad(format!("{source} and {destination} are of different address families")));
        }
        let realm = self.realm.as_ref().map(|name| realm(nat, name)).transpose()?;
        Ok(Question { realm, source, destination, protocol, opens })
    }
}

fn realm(nat: &Nat, name: &str) -> Result<Realm, Refusal> {
    if let Some(inside) = nat.inside(name) {
        return Ok(Realm::Inside(inside));
    }
    let insides: Vec<&str> = nat.inside_names().filter(|inside| !inside.is_empty()).collect();
    let named = match (name, insides.as_slice()) {
        ("outside", _) => Some(Realm::Outside),
        ("inside", [only]) => nat.inside(only).map(Realm::Inside),
        _ => None,
    };
    named.ok_or_else(|| bad(format!("there is no realm '{name}'; there are outside, {}", insides.join(", "))))
}

/// By name or number (IANA).
pub fn protocol_number(text: &str) -> Option<u8> {
    Some(match text {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "udp-lite" => protocol::UDP_LITE,
        "icmp" => protocol::ICMP,
        "icmpv6" => protocol::ICMPV6,
        "sctp" => protocol::SCTP,
        "dccp" => protocol::DCCP,
        "ah" => protocol::AH,
        "gre" => 47,
        "esp" => 50,
        number => number.parse().ok()?,
    })
}
