//! A gateway as a firewall sees it: what comes from where, and goes where.

use super::host::Host;
use super::ruleset::{CONNTRACK, Chain, Ruleset};
use super::walk::{Ends, Fate, Goal, Packets, State};
use crate::config::Config;
use crate::wire::AddressRange;
use ipnet::IpNet;
use std::collections::BTreeSet;

pub struct Gateway<'a> {
    pub config: &'a Config,
    pub host: &'a Host,
    /// Addresses of terminals, where there are virtual IPs for them.
    pub terminals: Vec<IpNet>,
    /// Addresses that no peer has.
    not_peers: Vec<AddressRange>,
    /// `{tun}-nat`, by which terminals call each other's virtual IPs.
    pub device: String,
    /// For each inside its device where packets may come in by that: several insides have equal addresses.
    devices: Vec<Option<String>>,
    /// What a rule keeps from connection tracking: ways, from, to, and whether it is IPv4.
    untracked: BTreeSet<(PacketKind, String, String, bool)>,
}

/// What travels from one interface to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PacketKind {
    Call,
    Answer,
    Callback,
}

impl PacketKind {
    pub const ALL: [Self; 3] = [Self::Call, Self::Answer, Self::Callback];

    pub fn words(self) -> &'static str {
        match self {
            Self::Call => "calls of terminals",
            Self::Answer => "answers",
            Self::Callback => "callbacks",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Passage<'g> {
    pub kind: PacketKind,
    pub from: &'g str,
    pub to: &'g str,
}

/// Where a chain sees a passage.
enum Seat<'g> {
    /// At the interfaces themselves: whether kernel or user space translates, packets have the terminal's own address.
    Routed,
    /// At what is below one of them. The outside's translation is above it.
    Below { ports: Vec<&'g str>, is_translated: bool },
}

impl<'a> Gateway<'a> {
    pub fn new(config: &'a Config, host: &'a Host, sources: &[IpNet], ruleset: &Ruleset) -> Self {
        let has_pool = |is_v4: bool| config.pools.iter().any(|pool| pool.range.is_v4() == is_v4);
        let is_forwarded = |net: &&IpNet| match net {
            IpNet::V4(net) => !net.addr().is_link_local(),
            IpNet::V6(net) => !net.addr().is_unicast_link_local(),
        };
        let used = sources.iter().filter(is_forwarded).filter(|net| has_pool(net.addr().is_ipv4()));
        let terminals = IpNet::aggregate(&used.copied().collect());
        let pools = config.pools.iter().map(|pool| pool.range);
        let others = terminals.iter().chain(&config.exempt).copied().map(AddressRange::from);
        let distinct: BTreeSet<&IpNet> = sources.iter().collect();
        let is_doubled = config.insides.len() > 1 && distinct.len() < sources.len();
        let device = |number| is_doubled.then(|| format!("{}-in{number}", config.tun));
        let mut gateway = Self {
            config,
            host,
            not_peers: others
                .chain(pools)
                .filter(|range| range.prefixes().iter().all(|net| net.prefix_len() > 0))
                .collect(),
            terminals,
            device: format!("{}-nat", config.tun),
            devices: (0..config.insides.len()).map(device).collect(),
            untracked: BTreeSet::new(),
        };
        gateway.untracked = gateway.untracked_by(ruleset);
        gateway
    }

    /// What a chain before connection tracking keeps from it, whatever its port.
    fn untracked_by(&self, ruleset: &Ruleset) -> BTreeSet<(PacketKind, String, String, bool)> {
        let is_early = |chain: &Chain| chain.hook == "prerouting" && chain.priority < CONNTRACK;
        let mut untracked = BTreeSet::new();
        for chain in ruleset.base_chains().filter(is_early) {
            for passage in PacketKind::ALL.iter().flat_map(|kind| self.passages(*kind)) {
                for packets in self.packets(&chain, passage).into_iter().flatten() {
                    if ruleset.follow(&chain, &packets, Goal::Untrack) == Fate::Reached {
                        untracked.insert((passage.kind, passage.from.to_owned(), passage.to.to_owned(), packets.is_v4));
                    }
                }
            }
        }
        untracked
    }

    fn state(&self, passage: Passage, is_v4: bool) -> State {
        let is_untracked = |kind: PacketKind, from: &str, to: &str| {
            self.untracked.contains(&(kind, from.to_owned(), to.to_owned(), is_v4))
        };
        let first = if self.has_outside(passage.to) { PacketKind::Callback } else { PacketKind::Call };
        match passage.kind {
            kind if is_untracked(kind, passage.from, passage.to) => State::Untracked,
            // What it answers has not been seen.
            PacketKind::Answer if is_untracked(first, passage.to, passage.from) => State::New,
            PacketKind::Answer => State::Established,
            PacketKind::Call | PacketKind::Callback => State::New,
        }
    }

    pub fn has_outside(&self, name: &str) -> bool {
        self.config.outsides.iter().any(|outside| outside == name)
    }

    /// From where to where the packets of a kind go.
    pub fn passages(&self, kind: PacketKind) -> Vec<Passage<'_>> {
        let mut passages = Vec::new();
        for (inside, device) in self.config.insides.iter().zip(&self.devices) {
            for interface in &inside.interfaces {
                for outside in &self.config.outsides {
                    if kind != PacketKind::Callback {
                        passages.push(Passage { kind, from: interface, to: outside });
                    }
                    if kind != PacketKind::Call {
                        passages.push(Passage { kind, from: outside, to: interface });
                    }
                }
                if kind != PacketKind::Call {
                    passages.extend(device.iter().map(|device| Passage { kind, from: device, to: interface }));
                }
            }
        }
        passages
    }

    /// The packets of a passage as the chain sees them, for each family that concerns it; several of a family where they
    /// come by one of several ports.
    pub fn packets<'g>(&'g self, chain: &Chain, passage: Passage<'g>) -> Vec<Vec<Packets<'g>>> {
        let families = [true, false].into_iter().filter(|is_v4| chain.has_family(*is_v4));
        let Some(seat) = self.seat(chain, passage) else { return Vec::new() };
        let (is_arriving, is_leaving) = (chain.is_before_routing(), chain.hook == "egress");
        let packets = |is_v4| {
            let terminals = self.terminals_of(is_v4);
            if terminals.is_empty() {
                return None;
            }
            let is_translated = matches!(seat, Seat::Below { is_translated: true, .. });
            let terminals = Ends::These(if is_translated { self.pools(is_v4) } else { terminals });
            let peers = Ends::AllBut(self.not_peers.clone());
            let is_outward = self.has_outside(passage.to);
            let (sources, destinations) = if is_outward { (terminals, peers) } else { (peers, terminals) };
            let one = |from: Option<&'g str>, to: Option<&'g str>, state: Option<State>| Packets {
                is_v4,
                sources: sources.clone(),
                destinations: destinations.clone(),
                from,
                to,
                state,
            };
            let state = chain.is_tracked().then(|| self.state(passage, is_v4));
            Some(match &seat {
                Seat::Routed => {
                    vec![one((!is_leaving).then_some(passage.from), (!is_arriving).then_some(passage.to), state)]
                }
                Seat::Below { ports, .. } if is_arriving => {
                    ports.iter().map(|port| one(Some(port), None, None)).collect()
                }
                Seat::Below { ports, .. } => ports.iter().map(|port| one(None, Some(port), None)).collect(),
            })
        };
        families.filter_map(packets).collect()
    }

    /// `None` where the passage does not come by.
    fn seat<'g>(&'g self, chain: &Chain, passage: Passage<'g>) -> Option<Seat<'g>> {
        let near = if chain.is_before_routing() { passage.from } else { passage.to };
        let below = || self.host.below.get(near).into_iter().flatten().map(String::as_str);
        let is_translated = self.has_outside(near);
        match chain.hook {
            _ if chain.family == "bridge" => {
                let ports: Vec<&str> = below().collect();
                (!ports.is_empty()).then_some(Seat::Below { ports, is_translated })
            }
            // Older nft does not tell where.
            "ingress" | "egress" if chain.devices.is_empty() || chain.devices.contains(&near) => Some(Seat::Routed),
            "ingress" | "egress" => {
                let ports: Vec<&str> = below().collect();
                let is_all = !ports.is_empty() && ports.iter().all(|port| chain.devices.contains(port));
                is_all.then_some(Seat::Below { ports, is_translated })
            }
            _ => Some(Seat::Routed),
        }
    }

    pub fn terminals_of(&self, is_v4: bool) -> Vec<AddressRange> {
        self.terminals.iter().filter(|net| net.addr().is_ipv4() == is_v4).map(|net| (*net).into()).collect()
    }

    pub fn pools(&self, is_v4: bool) -> Vec<AddressRange> {
        self.config.pools.iter().map(|pool| pool.range).filter(|range| range.is_v4() == is_v4).collect()
    }
}
