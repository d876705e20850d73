//! What a caller wants to know of flows in the kernel: which there are, and why one is not among them.

use super::explain::protocol_number;
use super::parameters::pairs;
use super::refusal::{Refusal, bad};
use super::{Admin, FastPathStatus};
use crate::nat::{InsideNumber, Nat, Question, Realm};
use crate::time::Time;
use crate::wire::{Address, protocol};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

/// Flows that are told unless more are asked for.
const LIMIT: usize = 50;
/// The most that are told at once: each is some 200 bytes of memory while the answer is made.
const MOST: usize = 10_000;

/// A flow that the kernel carries: all packets between two addresses in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CarriedFlow {
    /// Bytes a second, between two looks some seconds apart.
    pub bytes_a_second: u64,
    /// Bytes in all, IP headers included.
    pub bytes: u64,
    /// Packets in all; a super-packet counts once.
    pub packets: u64,
    /// Packets a second.
    pub packets_a_second: u64,
    /// Its own address.
    pub terminal: Address,
    /// Its virtual IP.
    pub virtual_ip: Address,
    /// A host outside.
    pub peer: Address,
    /// Which inside the terminal is in.
    pub inside: InsideNumber,
    /// Whether they go from the terminal to the peer.
    pub is_outward: bool,
    /// When the kernel took it over.
    pub entered: Time,
    /// When it was last seen to have carried something.
    pub moved: Time,
}

/// Which flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowsRequest {
    /// Those of this terminal, virtual IP or peer.
    pub address: Option<IpAddr>,
    /// Those between it and this one.
    pub other: Option<IpAddr>,
    /// Of which protocol the packets are that are asked about.
    pub protocol: Option<u8>,
    /// Their port at the peer or, of a callback, at the terminal.
    pub port: Option<u16>,
    /// So many at most.
    pub limit: Option<usize>,
}

/// Answer to `GET /v1/flows`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// `tc`, `redirect`, `xdp` or `off`.
    pub way: String,
    /// Flows in the kernel.
    pub all: u64,
    /// Those asked for, also those that are not told.
    pub found: u64,
    /// Those that carry most first.
    pub flows: Vec<FlowLine>,
    /// Where one pair of addresses is asked for and its packets take the slow path, in one direction or in both: why, in
    /// sentences.
    #[serde(default)]
    pub why: Vec<String>,
}

/// A flow in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowLine {
    /// The terminal's own address.
    pub terminal: IpAddr,
    /// Which inside it is in.
    pub realm: String,
    /// Its virtual IP.
    pub virtual_ip: IpAddr,
    /// A host outside.
    pub peer: IpAddr,
    /// `out`: to the peer, or `in`.
    pub direction: String,
    /// Seconds since the kernel took it over.
    pub age_seconds: u64,
    /// Seconds since it was last seen to have carried something; looked at every five seconds at least.
    pub idle_seconds: u64,
    /// What it has carried; a super-packet counts once.
    pub packets: u64,
    /// Likewise, IP headers included.
    pub bytes: u64,
    /// Of late.
    pub packets_per_second: u64,
    /// Of late.
    pub bytes_per_second: u64,
}

impl FlowsRequest {
    /// As a query string, with its question mark; empty if it asks for everything.
    pub fn to_query(&self) -> String {
        let one = |key: &str, value: Option<String>| value.map(|value| format!("{key}={value}"));
        let all = [
            one("address", self.address.map(|address| address.to_string())),
            one("other", self.other.map(|address| address.to_string())),
            one("protocol", self.protocol.map(|number| number.to_string())),
            one("port", self.port.map(|port| port.to_string())),
            one("limit", self.limit.map(|limit| limit.to_string())),
        ];
        let all: Vec<String> = all.into_iter().flatten().collect();
        if all.is_empty() { String::new() } else { format!("?{}", all.join("&")) }
    }

    pub(super) fn parse(query: &str) -> Result<Self, Refusal> {
        let mut request = Self::default();
        for pair in pairs(query) {
            let (key, value) = pair?;
            let wrong = |what: &str| bad(format!("{key} takes {what}, not '{value}'"));
            match key {
                "address" => request.address = Some(value.parse().map_err(|_| wrong("an address"))?),
                "other" => request.other = Some(value.parse().map_err(|_| wrong("an address"))?),
                "protocol" => {
                    request.protocol = Some(protocol_number(&value).ok_or_else(|| wrong("a protocol such as tcp"))?);
                }
                "port" => request.port = Some(value.parse().map_err(|_| wrong("a port"))?),
                "limit" => request.limit = Some(value.parse().map_err(|_| wrong("a number"))?),
                _ => {
                    let keys = "address, other, protocol, port and limit";
                    return Err(bad(format!("no parameter '{key}'; there are {keys}")));
                }
            }
        }
        match (request.address, request.other) {
            (None, Some(_)) => Err(bad("other needs an address".to_owned())),
            (Some(one), Some(other)) if one.is_ipv4() != other.is_ipv4() => {
                Err(bad(format!("{one} and {other} are of different address families")))
            }
            _ => Ok(request),
        }
    }

    pub(super) fn answer(&self, admin: &dyn Admin) -> Flows {
        admin.sync_counts();
        let wanted: Vec<Address> = [self.address, self.other].into_iter().flatten().map(Address::from).collect();
        let limit = self.limit.unwrap_or(LIMIT).min(MOST);
        let (mut found, mut ways) = (0, [false; 2]);
        let mut most = BinaryHeap::new();
        admin.for_each_flow(&mut |flow| {
            let CarriedFlow { terminal, virtual_ip, peer, is_outward, .. } = flow;
            if !wanted.iter().all(|address| [terminal, virtual_ip, peer].contains(address)) {
                return;
            }
            found += 1;
            ways[usize::from(is_outward)] = true;
            most.push(Reverse(flow));
            if most.len() > limit {
                most.pop();
            }
        });
        let (nat, now, status) = (admin.nat(), admin.now(), admin.status().fast_path);
        let flows = most.into_sorted_vec().into_iter().map(|Reverse(flow)| FlowLine::new(&flow, &nat, now)).collect();
        let why = match (self.address, self.other) {
            (Some(one), Some(other)) => {
                let asked = Asked { one, other, protocol: self.protocol, port: self.port };
                asked.why(ways, &status, admin.taps().bypass_fast_path(), &nat, now)
            }
            _ => Vec::new(),
        };
        Flows { way: status.mode, all: status.flows, found, flows, why }
    }
}

/// The packets that a caller asks about.
struct Asked {
    one: IpAddr,
    other: IpAddr,
    protocol: Option<u8>,
    port: Option<u16>,
}

impl Asked {
    /// `ways`: whether the kernel knows what comes in, and what goes out.
    fn why(
        &self,
        [inward, outward]: [bool; 2],
        status: &FastPathStatus,
        is_bypassed: bool,
        nat: &Nat,
        now: Time,
    ) -> Vec<String> {
        let (mode, slow) = (status.mode.as_str(), &status.slow);
        let mut why = Vec::new();
        let mut say = |sentence: String| why.push(sentence);
        if mode == "off" {
            say("The fast path is off (fast-path = \"off\"): all packets go through user space.".to_owned());
            return why;
        }
        if is_bypassed {
            say("A trace or capture with --bypass-fast-path runs: until it ends all packets go through user space."
                .to_owned());
            return why;
        }
        let number = self.protocol.unwrap_or(protocol::TCP);
        if !matches!(number, protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6) {
            say(format!("Protocol {number} always goes through user space; TCP, UDP and echoes need not."));
            return why;
        }
        if number == protocol::TCP && self.port.is_some_and(|port| nat.control_ports().any(|control| control == port)) {
            say("A helper looks into connections to this port (alg): they go through user space.".to_owned());
            return why;
        }
        if inward && outward {
            let counted = slow.iter().filter(|(name, count)| *name != "unknown_flow" && **count > 0);
            let counted: Vec<String> = counted.map(|(name, count)| format!("{name} {count}")).collect();
            let counted = if counted.is_empty() { "none so far".to_owned() } else { counted.join(", ") };
            say(format!("Single packets go through user space all the same, of all flows by reason: {counted}."));
            return why;
        }
        let (source, destination) = (self.one, self.other);
        let question = Question { realm: None, source, destination, protocol: number, opens: true };
        let explained = nat.explain(&question, now);
        match (explained.reason, explained.to, explained.binding) {
            (Some(reason), ..) => say(format!(
                "A packet from {source} to {destination} that opens a connection would be dropped: {reason}; see kamei \
                 explain {source} {destination}."
            )),
            (None, Some(to), _) if to != "outside" && explained.from != "outside" => {
                say("One terminal calls another (hairpin): that always goes through user space.".to_owned());
            }
            (None, _, None) => say(
                "No binding is there: its terminal has sent nothing yet, or the addresses are of a pool of prefixes, which \
                 user space translates."
                    .to_owned(),
            ),
            _ => {
                let missing = match (outward, inward) {
                    (false, false) => "Neither direction is",
                    (true, _) => "What comes in is not",
                    (_, true) => "What goes out is not",
                };
                say(format!(
                    "{missing} in the kernel: it takes a direction over from its second packet on, within a second, and drops it \
                     after two minutes without one; or there is no room for more flows (fast-path-flows)."
                ));
            }
        }
        why
    }
}

impl FlowLine {
    fn new(flow: &CarriedFlow, nat: &Nat, now: Time) -> Self {
        Self {
            terminal: flow.terminal.into(),
            realm: nat.realm_name(Realm::Inside(flow.inside)).to_owned(),
            virtual_ip: flow.virtual_ip.into(),
            peer: flow.peer.into(),
            direction: if flow.is_outward { "out" } else { "in" }.to_owned(),
            age_seconds: (now - flow.entered).as_secs(),
            idle_seconds: (now - flow.moved).as_secs(),
            packets: flow.packets,
            bytes: flow.bytes,
            packets_per_second: flow.packets_a_second,
            bytes_per_second: flow.bytes_a_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_survives_the_query() {
        let address = Some(IpAddr::from([192, 0, 2, 1]));
        let all = FlowsRequest { address, other: address, protocol: Some(17), port: Some(53), limit: Some(7) };
        for request in [all, FlowsRequest::default(), FlowsRequest { address, ..FlowsRequest::default() }] {
            let query = request.to_query();
            assert_eq!(FlowsRequest::parse(query.trim_start_matches('?')), Ok(request));
        }
        for wrong in [
            "address=me",
            "other=192.0.2.1",
            "address=192.0.2.1&other=2001:db8::1",
            "protocol=tpc",
            "port=70000",
            "limit=-1",
            "colour=red",
        ] {
            assert!(FlowsRequest::parse(wrong).is_err(), "{wrong}");
        }
    }
}
