//! Rules to add to a firewall, as commands to type.

use super::gateway::PacketKind;
use super::ruleset::Chain;
use crate::wire::AddressRange;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

pub const OWNED: &str = "only the program that has made it can change it";

/// A rule that accepts.
#[derive(Default)]
pub struct Rule<'a> {
    /// Interfaces; any, if there are none.
    pub from: BTreeSet<&'a str>,
    /// The same.
    pub to: BTreeSet<&'a str>,
    /// Addresses of one family.
    pub sources: Vec<AddressRange>,
    /// The same.
    pub destinations: Vec<AddressRange>,
    /// Whether it is for connections that exist.
    pub is_established: bool,
}

impl Rule<'_> {
    /// What puts it before all other rules of the chain.
    pub fn commands(&self, chain: &Chain) -> Vec<String> {
        match chain.family {
            program if program.contains("tables") => self.by_iptables(program, chain),
            "ip" if is_of_iptables(chain) => self.by_iptables("iptables", chain),
            "ip6" if is_of_iptables(chain) => self.by_iptables("ip6tables", chain),
            _ => vec![self.by_nft(chain)],
        }
    }

    fn by_nft(&self, chain: &Chain) -> String {
        let mut rule = format!("nft insert rule {} {} {}", chain.family, chain.table, chain.name);
        let mut add = |what: &str, elements: Vec<String>| match elements.as_slice() {
            [] => {}
            [one] => rule.extend([" ", what, " ", one]),
            several => rule.extend([" ", what, " { ", &several.join(", "), " }"]),
        };
        add("iifname", self.from.iter().map(|name| format!("\"{name}\"")).collect());
        for (ranges, field) in [(&self.sources, "saddr"), (&self.destinations, "daddr")] {
            let family = if ranges.iter().all(AddressRange::is_v4) { "ip" } else { "ip6" };
            add(&format!("{family} {field}"), ranges.iter().map(ToString::to_string).collect());
        }
        add("oifname", self.to.iter().map(|name| format!("\"{name}\"")).collect());
        if self.is_established {
            rule.push_str(" ct state established,related");
        }
        rule + " accept"
    }

    fn by_iptables(&self, program: &str, chain: &Chain) -> Vec<String> {
        let table = if chain.table == "filter" { String::new() } else { format!(" -t {}", chain.table) };
        let each = |option: &str, names: &BTreeSet<&str>| match names.is_empty() {
            true => vec![String::new()],
            false => names.iter().map(|name| format!(" {option} {name}")).collect(),
        };
        let mut rest = String::new();
        for (ranges, option) in [(&self.sources, " -s "), (&self.destinations, " -d ")] {
            let prefixes: Vec<String> =
                ranges.iter().flat_map(AddressRange::prefixes).map(|net| net.to_string()).collect();
            if !prefixes.is_empty() {
                rest.extend([option, &prefixes.join(",")]);
            }
        }
        if self.is_established {
            rest.push_str(" -m conntrack --ctstate ESTABLISHED,RELATED");
        }
        let mut commands = Vec::new();
        for from in each("-i", &self.from) {
            commands.extend(
                each("-o", &self.to)
                    .iter()
                    .map(|to| format!("{program}{table} -I {}{from}{to}{rest} -j ACCEPT", chain.name)),
            );
        }
        commands
    }
}

/// What lets packets go from interface to interface where ufw has the rules, which writes them anew at each reload. It lets
/// answers pass by itself.
pub fn by_ufw<'a>(passages: impl Iterator<Item = (PacketKind, &'a str, &'a str)>) -> String {
    let commands: Vec<String> =
        passages.map(|(_, from, to)| format!("ufw route allow in on {from} out on {to}")).collect();
    format!("type: {}", commands.join("; "))
}

/// What lets packets go from interface to interface where firewalld has the rules, which it writes anew at each reload, and
/// which from its release 2.0 on nobody else may change.
pub fn by_zones<'a>(
    passages: impl Iterator<Item = (PacketKind, &'a str, &'a str)> + Clone,
    zones: &'a BTreeMap<String, String>,
) -> String {
    if let Some(first) = zoneless(passages.clone().flat_map(|(_, from, to)| [from, to]), zones) {
        return first;
    }
    let pairs: BTreeSet<(PacketKind, &String, &String)> =
        passages.map(|(kind, from, to)| (kind, &zones[from], &zones[to])).collect();
    let one = |(number, (kind, from, to)): (usize, (PacketKind, &String, &String))| {
        if from == to {
            return vec![format!("--zone={from} --add-forward")];
        }
        // Names of policies have 17 letters at most.
        let what = if kind == PacketKind::Callback { "callbacks" } else { "calls" };
        let policy = if number < 2 { format!("kamei-{what}") } else { format!("kamei-{what}-{number}") };
        let settings =
            [format!("--add-ingress-zone={from}"), format!("--add-egress-zone={to}"), "--set-target=ACCEPT".to_owned()];
        let made = std::iter::once(format!("--new-policy={policy}"));
        made.chain(settings.map(|setting| format!("--policy={policy} {setting}"))).collect()
    };
    by_firewalld(pairs.into_iter().enumerate().flat_map(one).collect())
}

/// What is to be done first with interfaces that have no zone of their own.
fn zoneless<'a>(names: impl Iterator<Item = &'a str>, zones: &BTreeMap<String, String>) -> Option<String> {
    let names: BTreeSet<&str> = names.filter(|name| !zones.contains_key(*name)).collect();
    let listed = names.iter().copied().collect::<Vec<_>>().join(" and ");
    (!names.is_empty()).then(|| {
        format!(
            "give {listed} a zone (firewall-cmd --permanent --zone=ZONE --change-interface=INTERFACE; firewall-cmd --reload), \
             and ask kamei doctor again"
        )
    })
}

/// What keeps firewalld from hiding terminals where they leave.
pub fn unmasked(exits: &BTreeSet<&str>, terminals: &[IpNet], zones: &BTreeMap<String, String>) -> String {
    if let Some(first) = zoneless(exits.iter().copied(), zones) {
        return first;
    }
    let zones: BTreeSet<&String> = exits.iter().map(|exit| &zones[*exit]).collect();
    let of_zone = |zone: &String| {
        let mut commands = vec![format!("--zone={zone} --remove-masquerade")];
        // Others than these go on to be hidden. Of several, a rule each would hide those of the others.
        if let [net] = terminals {
            let family = if net.addr().is_ipv4() { "ipv4" } else { "ipv6" };
            let rule = format!("rule family=\"{family}\" source not address=\"{net}\" masquerade");
            commands.push(format!("--zone={zone} --add-rich-rule='{rule}'"));
        }
        commands
    };
    by_firewalld(zones.into_iter().flat_map(of_zone).collect())
}

fn by_firewalld(mut commands: Vec<String>) -> String {
    commands.dedup();
    let commands: String =
        commands.into_iter().map(|command| format!("firewall-cmd --permanent {command}; ")).collect();
    format!("type: {commands}firewall-cmd --reload")
}

/// A chain that iptables has made, which would not list it any more with rules that it cannot write itself.
fn is_of_iptables(chain: &Chain) -> bool {
    matches!(chain.family, "ip" | "ip6")
        && matches!(chain.table, "raw" | "mangle" | "nat" | "filter" | "security")
        && matches!(chain.name, "PREROUTING" | "FORWARD" | "POSTROUTING")
}

#[cfg(test)]
mod tests {
    use super::super::ruleset::Maker;
    use super::*;

    fn chain(names: [&'static str; 3]) -> Chain<'static> {
        let [family, table, name] = names;
        let (devices, priority) = (Vec::new(), 0);
        Chain {
            family,
            table,
            name,
            kind: "filter",
            hook: "forward",
            devices,
            priority,
            drops: true,
            maker: Maker::Any,
        }
    }

    #[test]
    fn a_rule_is_written_for_the_program_that_has_made_the_chain() {
        let ranges = ["10.0.0.0/24", "10.1.0.0/24"].map(|range| range.parse().unwrap());
        let rule = Rule {
            from: ["eth0", "eth2"].into(),
            to: ["eth1"].into(),
            destinations: ranges.to_vec(),
            is_established: true,
            ..Rule::default()
        };
        let nft = "nft insert rule inet t c iifname { \"eth0\", \"eth2\" } ip daddr { 10.0.0.0/24, 10.1.0.0/24 } oifname \
                   \"eth1\" ct state established,related accept";
        assert_eq!(rule.commands(&chain(["inet", "t", "c"])), [nft]);
        let rest = "-o eth1 -d 10.0.0.0/24,10.1.0.0/24 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT";
        let expected = ["eth0", "eth2"].map(|name| format!("iptables -I FORWARD -i {name} {rest}"));
        assert_eq!(rule.commands(&chain(["ip", "filter", "FORWARD"])), expected);
        let all = Rule::default().commands(&chain(["ip6", "nat", "POSTROUTING"]));
        assert_eq!(all, ["ip6tables -t nat -I POSTROUTING -j ACCEPT"]);
    }
}
