//! What an nftables rule set would do to a gateway's packets, as far as reading can tell.
//!
//! Whoever translates, every hook sees a packet with the terminal's own address, from the real inside interface to the
//! real outside interface or back: the source changes after postrouting, the destination before prerouting.

mod advice;
mod gateway;
mod ruleset;

#[cfg(test)]
mod tests;

use super::Finding;
use crate::config::Config;
use crate::nat::Hairpin;
use crate::wire::AddressRange;
use advice::Rule;
use gateway::{Gateway, Passage, Way};
use ipnet::IpNet;
use ruleset::{Chain, Ends, Fate, Goal, Packets, Ruleset, State};
use std::collections::BTreeSet;

/// Tables of gateways: what keeps inside packets from leaving by undeclared interfaces.
const GUARD: &str = "kamei-guard-";
/// The table of firewalld, which writes it anew whenever it reloads.
const FIREWALLD: &str = "firewalld";
const BY_POLICY: &str =
    " (and for good, by firewall-cmd: a policy between the zones of these interfaces, with target ACCEPT)";
/// Prefixes that a rule names; instead of more, it names their interfaces.
const MOST_PREFIXES: usize = 16;

/// Judges the output of `nft -j list ruleset`. `sources` are the prefixes of the insides.
pub fn judge(text: &str, config: &Config, sources: &[IpNet]) -> Vec<Finding> {
    let Some(ruleset) = Ruleset::parse(text) else {
        return vec![Finding::note("nft said what cannot be read, so firewall rules were not looked at")];
    };
    let gateway = Gateway::new(config, sources);
    if gateway.terminals.is_empty() {
        return vec![Finding::note("no prefix of an inside is known, so firewall rules were not looked at")];
    }
    let is_on_the_way = |chain: &Chain| {
        let at_outside = chain.devices.is_empty() || chain.devices.iter().any(|name| gateway.has_outside(name));
        matches!(chain.family, "ip" | "ip6" | "inet" | "netdev")
            && match chain.hook {
                "prerouting" | "forward" | "postrouting" => true,
                "ingress" | "egress" => at_outside,
                _ => false,
            }
            && !chain.table.starts_with(GUARD)
    };
    let chains: Vec<Chain> = ruleset.base_chains().filter(is_on_the_way).collect();
    let mut findings: Vec<Finding> = Vec::new();
    for chain in &chains {
        findings.extend(drops(&ruleset, chain, &gateway));
        findings.extend(drops_hairpins(&ruleset, chain, &gateway));
        findings.extend(masquerades(&ruleset, chain, &gateway));
    }
    if findings.is_empty() {
        let what = "lets calls, answers and callbacks pass";
        findings.push(Finding::fine(format!("nftables, with {} chains on the way, {what}", chains.len())));
    }
    findings
}

/// A chain that lets nothing of a way pass.
fn drops(ruleset: &Ruleset, chain: &Chain, gateway: &Gateway) -> Option<Finding> {
    if chain.kind != "filter" {
        return None;
    }
    let ways: &[Way] = match chain.hook {
        "prerouting" | "ingress" => &[Way::Callback],
        "egress" => &[Way::Call],
        _ => &[Way::Call, Way::Answer, Way::Callback],
    };
    let is_at = |passage: &Passage| {
        chain.devices.is_empty() || chain.devices.iter().any(|name| [passage.from, passage.to].contains(name))
    };
    let mut lost = Lost::default();
    for passage in ways.iter().flat_map(|way| gateway.passages(*way)).filter(is_at) {
        for packets in gateway.packets(chain, passage) {
            lost.add(ruleset.follow(chain, &packets, Goal::Accept), passage, packets.is_v4);
        }
    }
    if lost.passages.is_empty() {
        return None;
    }
    let knows_device = chain.family != "netdev" || !chain.devices.is_empty();
    let add = lost.commands(chain, gateway);
    let (name, words) = (full_name(chain), lost.words(chain));
    Some(if !lost.is_certain || !knows_device {
        Finding::note(format!(
            "kamei doctor cannot read all that the firewall's chain `{name}` asks; unless it lets {words} pass, add: {add}"
        ))
    } else if chain.hook == "forward" {
        Finding::wrong(format!("the firewall's chain `{name}` drops {words}; add: {add}"))
    } else {
        Finding::wrong(format!(
            "the firewall's chain `{name}` drops {words}: packets have the terminal's own address there; add: {add}"
        ))
    })
}

/// What a chain may lose.
#[derive(Default)]
struct Lost<'g> {
    passages: BTreeSet<(Way, &'g str, &'g str)>,
    families: BTreeSet<bool>,
    is_certain: bool,
}

impl<'g> Lost<'g> {
    fn add(&mut self, fate: Fate, passage: Passage<'g>, is_v4: bool) {
        if fate == Fate::Reached {
            return;
        }
        self.is_certain |= fate == Fate::Missed;
        self.passages.insert((passage.way, passage.from, passage.to));
        self.families.insert(is_v4);
    }

    fn words(&self, chain: &Chain) -> String {
        if matches!(chain.hook, "prerouting" | "ingress") {
            return "answers and callbacks".to_owned();
        }
        let ways: BTreeSet<Way> = self.passages.iter().map(|(way, ..)| *way).collect();
        let words: Vec<&str> = ways.iter().map(|way| way.words()).collect();
        words.join(", ")
    }

    /// What adds the rules that the chain lacks.
    fn commands(&self, chain: &Chain, gateway: &'g Gateway) -> String {
        let rules = [Way::Call, Way::Answer, Way::Callback].into_iter().flat_map(|way| self.rules(way, chain, gateway));
        let commands = rules.flat_map(|rule| rule.commands(chain)).collect::<Vec<_>>().join("; ");
        if chain.table == FIREWALLD { commands + BY_POLICY } else { commands }
    }

    fn rules(&self, way: Way, chain: &Chain, gateway: &'g Gateway) -> Vec<Rule<'g>> {
        let of_way = || self.passages.iter().filter(|(this, ..)| *this == way);
        if of_way().next().is_none() {
            return Vec::new();
        }
        let from = || of_way().map(|(_, from, _)| *from).collect();
        let to = || of_way().map(|(.., to)| *to).collect();
        match chain.hook {
            "forward" | "postrouting" if way == Way::Answer => {
                return vec![Rule { is_established: true, ..Rule::default() }];
            }
            "forward" => return vec![Rule { from: from(), to: to(), ..Rule::default() }],
            _ => {}
        }
        let of_family = |is_v4: &bool| {
            let terminals = gateway.terminals_of(*is_v4);
            let (sources, destinations) =
                if way == Way::Call { (terminals, Vec::new()) } else { (Vec::new(), terminals) };
            let mut rule = Rule { sources, destinations, ..Rule::default() };
            match chain.hook {
                // It is at one interface alone.
                _ if chain.family == "netdev" => {}
                "prerouting" | "ingress" => rule.from = from(),
                _ => rule.to = to(),
            }
            rule
        };
        self.families.iter().map(of_family).collect()
    }
}

/// A terminal's call to another's virtual IP goes by the gateway's device, and crosses the forward hook on both sides of it.
fn drops_hairpins(ruleset: &Ruleset, chain: &Chain, gateway: &Gateway) -> Option<Finding> {
    if chain.hook != "forward" || chain.kind != "filter" || gateway.config.hairpin == Hairpin::Off {
        return None;
    }
    let pools = |is_v4: bool| {
        let ranges = gateway.config.pools.iter().map(|pool| pool.range);
        Ends::These(ranges.filter(|range| range.is_v4() == is_v4).collect())
    };
    let interfaces = gateway.config.insides.iter().flat_map(|inside| &inside.interfaces);
    let device = gateway.device.as_str();
    let mut lost = Lost::default();
    for interface in interfaces {
        let state = State::New;
        let out = Passage { way: Way::Call, from: interface, to: device, state };
        for packets in gateway.packets(chain, out) {
            let (terminals, pools) = (packets.destinations.clone(), pools(packets.is_v4));
            let there = Packets { sources: terminals.clone(), destinations: pools.clone(), ..packets.clone() };
            lost.add(ruleset.follow(chain, &there, Goal::Accept), out, packets.is_v4);
            let back = Passage { way: Way::Callback, from: device, to: interface, state };
            let here = Packets { from: Some(back.from), to: Some(back.to), sources: pools, ..packets };
            lost.add(ruleset.follow(chain, &here, Goal::Accept), back, here.is_v4);
        }
    }
    if !lost.is_certain {
        return None;
    }
    Some(Finding::note(format!(
        "the firewall's chain `{}` drops what terminals send to each other's virtual IPs; if they are to, add: {}",
        full_name(chain),
        lost.commands(chain, gateway)
    )))
}

/// Netfilter's own translation would put this machine's address in place of the terminal's, before the gateway can.
fn masquerades(ruleset: &Ruleset, chain: &Chain, gateway: &Gateway) -> Option<Finding> {
    if chain.hook != "postrouting" || chain.kind != "nat" {
        return None;
    }
    let (mut hidden, mut exits) = (Vec::new(), BTreeSet::new());
    let mut is_certain = false;
    for terminals in &gateway.terminals {
        for passage in gateway.passages(Way::Call) {
            let is_v4 = terminals.addr().is_ipv4();
            let Some(packets) = gateway.packets(chain, passage).into_iter().find(|packets| packets.is_v4 == is_v4)
            else {
                continue;
            };
            let sources = Ends::These(vec![(*terminals).into()]);
            match ruleset.follow(chain, &Packets { sources, ..packets }, Goal::Masquerade) {
                Fate::Missed => continue,
                Fate::Reached => is_certain = true,
                Fate::Doubtful => {}
            }
            exits.insert(passage.to);
            if hidden.last() != Some(terminals) {
                hidden.push(*terminals);
            }
        }
    }
    if hidden.is_empty() {
        return None;
    }
    let of_family = |is_v4: bool| -> Vec<AddressRange> {
        hidden.iter().filter(|net| net.addr().is_ipv4() == is_v4).map(|net| (*net).into()).collect()
    };
    let rules = if hidden.len() > MOST_PREFIXES {
        let interfaces = gateway.config.insides.iter().flat_map(|inside| &inside.interfaces);
        vec![Rule { from: interfaces.map(String::as_str).collect(), to: exits, ..Rule::default() }]
    } else {
        let sources = [true, false].into_iter().map(of_family).filter(|sources| !sources.is_empty());
        sources.map(|sources| Rule { sources, to: exits.clone(), ..Rule::default() }).collect()
    };
    let add = rules.iter().flat_map(|rule| rule.commands(chain)).collect::<Vec<_>>().join("; ");
    let name = full_name(chain);
    Some(if is_certain {
        Finding::wrong(format!(
            "the firewall's chain `{name}` hides terminals behind this machine's own address before the gateway can give \
             them virtual IPs, so nobody can call them back; add: {add}"
        ))
    } else {
        Finding::note(format!(
            "kamei doctor cannot read all that the firewall's chain `{name}` asks; if it masquerades terminals, add: {add}"
        ))
    })
}

fn full_name(chain: &Chain) -> String {
    format!("{} {} {}", chain.family, chain.table, chain.name)
}
