//! A gateway as a firewall sees it: what comes from where, and goes where.

use super::ruleset::{Chain, Ends, Packets, State};
use crate::config::Config;
use crate::wire::AddressRange;
use ipnet::IpNet;
use std::collections::BTreeSet;

/// A gateway as a firewall sees it.
pub struct Gateway<'a> {
    pub config: &'a Config,
    /// Addresses of terminals, where there are virtual IPs for them.
    pub terminals: Vec<IpNet>,
    /// Addresses that no peer has.
    not_peers: Vec<AddressRange>,
    /// `{tun}-nat`, by which terminals call each other's virtual IPs.
    pub device: String,
    /// For each inside its device where packets may come in by that: several insides have equal addresses.
    devices: Vec<Option<String>>,
}

/// What travels from one interface to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Call,
    Answer,
    Callback,
}

impl Way {
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
    pub way: Way,
    pub from: &'g str,
    pub to: &'g str,
    pub state: State,
}

impl<'a> Gateway<'a> {
    pub fn new(config: &'a Config, sources: &[IpNet]) -> Self {
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
        Self {
            config,
            not_peers: others
                .chain(pools)
                .filter(|range| range.prefixes().iter().all(|net| net.prefix_len() > 0))
                .collect(),
            terminals,
            device: format!("{}-nat", config.tun),
            devices: (0..config.insides.len()).map(device).collect(),
        }
    }

    pub fn has_outside(&self, name: &str) -> bool {
        self.config.outsides.iter().any(|outside| outside == name)
    }

    /// From where to where the packets of a way go.
    pub fn passages(&self, way: Way) -> Vec<Passage<'_>> {
        let state = if way == Way::Answer { State::Established } else { State::New };
        let mut passages = Vec::new();
        for (inside, device) in self.config.insides.iter().zip(&self.devices) {
            for interface in &inside.interfaces {
                for outside in &self.config.outsides {
                    if way != Way::Callback {
                        passages.push(Passage { way, from: interface, to: outside, state });
                    }
                    if way != Way::Call {
                        passages.push(Passage { way, from: outside, to: interface, state });
                    }
                }
                if way != Way::Call {
                    passages.extend(device.iter().map(|device| Passage { way, from: device, to: interface, state }));
                }
            }
        }
        passages
    }

    /// The packets of a passage as the chain sees them, for each family that concerns it.
    pub fn packets<'g>(&'g self, chain: &Chain, passage: Passage<'g>) -> Vec<Packets<'g>> {
        let families = [true, false].into_iter().filter(|is_v4| match chain.family {
            "ip" => *is_v4,
            "ip6" => !is_v4,
            _ => true,
        });
        let is_outward = self.has_outside(passage.to);
        let is_routed = !matches!(chain.hook, "prerouting" | "ingress");
        let packets = |is_v4| {
            let terminals = self.terminals_of(is_v4);
            if terminals.is_empty() {
                return None;
            }
            let (terminals, peers) = (Ends::These(terminals), Ends::AllBut(self.not_peers.clone()));
            let (sources, destinations) = if is_outward { (terminals, peers) } else { (peers, terminals) };
            Some(Packets {
                is_v4,
                sources,
                destinations,
                from: (chain.hook != "egress").then_some(passage.from),
                to: is_routed.then_some(passage.to),
                state: (is_routed && chain.hook != "egress").then_some(passage.state),
            })
        };
        families.filter_map(packets).collect()
    }

    pub fn terminals_of(&self, is_v4: bool) -> Vec<AddressRange> {
        self.terminals.iter().filter(|net| net.addr().is_ipv4() == is_v4).map(|net| (*net).into()).collect()
    }
}
