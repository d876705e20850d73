//! Rules to add to a firewall, as commands to type.

use super::ruleset::Chain;
use crate::wire::AddressRange;
use std::collections::BTreeSet;

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
        if is_of_iptables(chain) { self.by_iptables(chain) } else { vec![self.by_nft(chain)] }
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

    fn by_iptables(&self, chain: &Chain) -> Vec<String> {
        let program = if chain.family == "ip" { "iptables" } else { "ip6tables" };
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

/// A chain that iptables has made, which would not list it any more with rules that it cannot write itself.
fn is_of_iptables(chain: &Chain) -> bool {
    matches!(chain.family, "ip" | "ip6")
        && matches!(chain.table, "raw" | "mangle" | "nat" | "filter" | "security")
        && matches!(chain.name, "PREROUTING" | "FORWARD" | "POSTROUTING")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(names: [&'static str; 3]) -> Chain<'static> {
        let [family, table, name] = names;
        Chain { family, table, name, kind: "filter", hook: "forward", devices: Vec::new(), drops: true }
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
