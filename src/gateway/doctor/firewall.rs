//! What an nftables rule set would do to a gateway's packets, as far as reading can tell.
//!
//! Whoever translates, every hook sees a packet with the terminal's own address, from the real inside interface to the
//! real outside interface or back: the source changes after postrouting, the destination before prerouting.

use super::Finding;
use super::advice::Rule;
use super::ruleset::{Chain, Ends, Fate, Goal, Packets, Ruleset, State};
use crate::config::Config;
use crate::nat::Hairpin;
use crate::wire::AddressRange;
use ipnet::IpNet;
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

/// A gateway as a firewall sees it.
struct Gateway<'a> {
    config: &'a Config,
    /// Addresses of terminals, where there are virtual IPs for them.
    terminals: Vec<IpNet>,
    /// Addresses that no peer has.
    not_peers: Vec<AddressRange>,
    /// `{tun}-nat`, by which terminals call each other's virtual IPs.
    device: String,
    /// For each inside its device where packets may come in by that: several insides have equal addresses.
    devices: Vec<Option<String>>,
}

/// What travels from one interface to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Call,
    Answer,
    Callback,
}

impl Way {
    fn words(self) -> &'static str {
        match self {
            Self::Call => "calls of terminals",
            Self::Answer => "answers",
            Self::Callback => "callbacks",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Passage<'g> {
    way: Way,
    from: &'g str,
    to: &'g str,
    state: State,
}

impl<'a> Gateway<'a> {
    fn new(config: &'a Config, sources: &[IpNet]) -> Self {
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

    fn has_outside(&self, name: &str) -> bool {
        self.config.outsides.iter().any(|outside| outside == name)
    }

    /// From where to where the packets of a way go.
    fn passages(&self, way: Way) -> Vec<Passage<'_>> {
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
    fn packets<'g>(&'g self, chain: &Chain, passage: Passage<'g>) -> Vec<Packets<'g>> {
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

    fn terminals_of(&self, is_v4: bool) -> Vec<AddressRange> {
        self.terminals.iter().filter(|net| net.addr().is_ipv4() == is_v4).map(|net| (*net).into()).collect()
    }
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

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const INSIDE: &str = "10.0.0.0/24";

    fn config() -> Config {
        let text = "inside = [\"eth1\"]\noutside = [\"eth0\"]\nexempt = [\"10.9.0.0/16\"]\n[[pool]]\nrange = \"198.18.0.0/16\"";
        Config::parse(text).unwrap()
    }

    fn judged(entries: &[Value], grade: Grade) -> Vec<String> {
        let findings = judge(&json!({"nftables": entries}).to_string(), &config(), &[INSIDE.parse().unwrap()]);
        findings.into_iter().filter(|finding| finding.grade == grade).map(|finding| finding.text).collect()
    }

    fn chain(hook: &str, kind: &str, policy: &str, rules: &[Value]) -> Vec<Value> {
        let base = json!({"family": "inet", "table": "t", "name": "c", "type": kind, "hook": hook, "policy": policy});
        let mut entries = vec![json!({ "chain": base })];
        entries.extend(rules.iter().map(|expr| rule("c", expr)));
        entries
    }

    fn rule(chain: &str, expr: &Value) -> Value {
        json!({"rule": {"family": "inet", "table": "t", "chain": chain, "expr": expr}})
    }

    /// What is wrong with a forward chain that drops what these rules do not accept.
    fn forward(rules: &[Value]) -> Vec<String> {
        judged(&chain("forward", "filter", "drop", rules), Grade::Wrong)
    }

    fn postrouting(rules: &[Value]) -> Vec<String> {
        judged(&chain("postrouting", "nat", "accept", rules), Grade::Wrong)
    }

    fn is(key: &str, right: &str) -> Value {
        json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}})
    }

    fn ct_state(right: Value) -> Value {
        json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": right}})
    }

    fn from(right: Value) -> Value {
        json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": right}})
    }

    fn way(from: &str, to: &str) -> Value {
        json!([is("iifname", from), is("oifname", to), {"accept": null}])
    }

    fn established() -> Value {
        json!([ct_state(json!(["established", "related"])), {"accept": null}])
    }

    const CALLS: &str = r#"nft insert rule inet t c iifname "eth1" oifname "eth0" accept"#;
    const ANSWERS: &str = "nft insert rule inet t c ct state established,related accept";
    const CALLBACKS: &str = r#"nft insert rule inet t c iifname "eth0" oifname "eth1" accept"#;

    #[track_caller]
    fn assert_asks(said: &[String], rules: &[&str]) {
        let [said] = said else { panic!("{said:?}") };
        for rule in [CALLS, ANSWERS, CALLBACKS] {
            assert_eq!(said.contains(rule), rules.contains(&rule), "{rule}: {said}");
        }
    }

    #[test]
    fn a_forward_chain_that_drops_must_accept_calls_answers_and_callbacks() {
        let (calls, callbacks) = (way("eth1", "eth0"), way("eth0", "eth1"));
        assert_asks(&forward(&[]), &[CALLS, ANSWERS, CALLBACKS]);
        assert_asks(
            &judged(&chain("forward", "filter", "accept", &[json!([{"drop": null}])]), Grade::Wrong),
            &[CALLS, ANSWERS, CALLBACKS],
        );
        let invalid = json!([ct_state(json!("invalid")), {"drop": null}]);
        assert_asks(&forward(&[invalid.clone(), established()]), &[CALLS, CALLBACKS]);
        assert_asks(&forward(&[invalid.clone(), established(), calls.clone()]), &[CALLBACKS]);
        assert_asks(&forward(&[established(), callbacks.clone()]), &[CALLS]);
        assert!(forward(&[invalid, established(), calls.clone(), callbacks.clone()]).is_empty());
        assert!(forward(&[calls, callbacks]).is_empty());
        assert!(forward(&[json!([{"accept": null}])]).is_empty());
        assert!(forward(&[json!([{"flow": {"op": "add", "flowtable": "@ft"}}]), json!([{"accept": null}])]).is_empty());
        assert!(judged(&chain("forward", "filter", "accept", &[]), Grade::Wrong).is_empty());
        assert!(judged(&chain("input", "filter", "drop", &[]), Grade::Wrong).is_empty());
    }

    #[test]
    fn conditions_of_a_forward_chain_are_read() {
        let only = |conditions: &[Value]| {
            let mut expr = conditions.to_vec();
            expr.push(json!({"accept": null}));
            forward(&[established(), json!(expr)])
        };
        assert!(only(&[is("nfproto", "ipv4")]).is_empty());
        assert!(only(&[is("iifname", "eth*")]).is_empty());
        assert_asks(&only(&[from(json!({"prefix": {"addr": "10.0.0.0", "len": 24}}))]), &[CALLBACKS]);
        assert!(only(&[from(json!({"prefix": {"addr": "203.0.113.0", "len": 24}}))])[0].contains(CALLS));
        assert_asks(&only(&[is("nfproto", "ipv6")]), &[CALLS, CALLBACKS]);
        assert_asks(&only(&[is("l4proto", "icmp")]), &[CALLS, CALLBACKS]);
        let status = json!({"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}});
        assert_asks(&only(&[status]), &[CALLS, CALLBACKS]);
        let exempt = json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}},
            "right": {"prefix": {"addr": "10.9.0.0", "len": 16}}}});
        assert_asks(&only(&[exempt]), &[CALLS, CALLBACKS]);
        let not =
            json!({"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["eth0", "eth2"]}}});
        assert_asks(&only(&[not]), &[CALLBACKS]);
        // A port that is open is what somebody wanted.
        let port =
            json!({"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}});
        assert!(only(&[port]).is_empty());
        // Whether peers have addresses of these too, and who sets a mark, nobody can say: notes.
        let private = json!([from(json!({"prefix": {"addr": "10.0.0.0", "len": 8}})), {"accept": null}]);
        let rules = chain("forward", "filter", "drop", &[established(), private]);
        assert_asks(&judged(&rules, Grade::Note)[..1], &[CALLBACKS]);
        let marked = json!([{"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 1}}, {"accept": null}]);
        let rules = chain("forward", "filter", "drop", &[established(), marked]);
        assert!(judged(&rules, Grade::Wrong).is_empty());
        assert_asks(&judged(&rules, Grade::Note)[..1], &[CALLS, CALLBACKS]);
    }

    #[test]
    fn maps_of_verdicts_sets_with_names_and_chains_of_their_own_are_followed() {
        let states = json!([{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [
            ["invalid", {"drop": null}], ["established", {"accept": null}], ["related", {"accept": null}]]}}}]);
        let by_name = |data: Value| {
            let pair = json!({"concat": [{"meta": {"key": "iifname"}}, {"meta": {"key": "oifname"}}]});
            json!([{"vmap": {"key": pair, "data": data}}])
        };
        let calls = json!([[{"concat": ["eth1", "eth0"]}, {"jump": {"target": "calls"}}]]);
        let map = json!({"map": {"family": "inet", "table": "t", "name": "ways", "elem": calls}});
        let accept = rule("calls", &json!([{"counter": {"packets": 0}}, {"accept": null}]));
        let mut entries = chain("forward", "filter", "drop", &[states.clone(), by_name(json!("@ways"))]);
        entries.extend([map.clone(), accept]);
        assert_asks(&judged(&entries, Grade::Wrong), &[CALLBACKS]);
        let mut entries = chain("forward", "filter", "drop", &[states.clone(), by_name(json!({ "set": calls }))]);
        entries.push(rule("calls", &json!([{"return": null}])));
        entries.push(rule("calls", &json!([{"accept": null}])));
        assert_asks(&judged(&entries, Grade::Wrong), &[CALLS, CALLBACKS]);
        let pairs = json!({"set": {"family": "inet", "table": "t", "name": "pairs", "elem": [
            {"concat": ["eth0", "eth1"]}, {"elem": {"val": {"concat": ["eth1", "eth0"]}, "comment": "calls"}}]}});
        let left = json!({"concat": [{"meta": {"key": "iifname"}}, {"meta": {"key": "oifname"}}]});
        let listed = json!([{"match": {"op": "==", "left": left, "right": "@pairs"}}, {"accept": null}]);
        let mut entries = chain("forward", "filter", "drop", &[states, listed]);
        entries.push(pairs);
        assert!(judged(&entries, Grade::Wrong).is_empty());
        let mut round = chain("forward", "filter", "drop", &[json!([{"jump": {"target": "a"}}])]);
        round.push(rule("a", &json!([{"jump": {"target": "a"}}])));
        assert_asks(&judged(&round, Grade::Wrong), &[CALLS, ANSWERS, CALLBACKS]);
    }

    #[test]
    fn rules_that_iptables_has_made_are_read_as_far_as_nft_tells() {
        let conntrack = json!({"xt": {"type": "match", "name": "conntrack"}});
        let by_state = json!([conntrack, {"accept": null}]);
        let calls = json!([is("iifname", "eth1"), {"xt": {"type": "match", "name": "comment"}}, {"accept": null}]);
        assert_asks(&forward(&[by_state, calls.clone()]), &[CALLBACKS]);
        let back = json!([is("iifname", "eth0"), is("oifname", "eth1"), conntrack, {"accept": null}]);
        let rules = chain("forward", "filter", "drop", &[back, calls]);
        assert!(judged(&rules, Grade::Wrong).is_empty());
        assert_asks(&judged(&rules, Grade::Note)[..1], &[CALLBACKS]);
        let masquerade = json!([is("oifname", "eth0"), {"xt": {"type": "target", "name": "MASQUERADE"}}]);
        assert_eq!(postrouting(&[masquerade]).len(), 1);
    }

    #[test]
    fn reverse_path_filters_flowtables_and_the_gateways_own_guard_are_fine() {
        let fib = json!({"match": {"op": "==", "left": {"fib": {"result": "oif", "flags": ["saddr", "mark", "iif"]}}, "right": false}});
        assert!(
            judged(&chain("prerouting", "filter", "accept", &[json!([fib, {"drop": null}])]), Grade::Wrong).is_empty()
        );
        let mut guard = chain("forward", "filter", "drop", &[]);
        guard[0]["chain"]["table"] = json!("kamei-guard-kamei");
        assert_eq!(judged(&guard, Grade::Fine).len(), 1);
    }

    #[test]
    fn a_filter_of_private_addresses_must_let_terminals_pass() {
        let private = json!({"prefix": {"addr": "10.0.0.0", "len": 8}});
        let to =
            json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": private}});
        let bogons = [json!([is("iifname", "eth0"), to, {"drop": null}])];
        let said = judged(&chain("prerouting", "filter", "accept", &bogons), Grade::Wrong);
        let expected = "insert rule inet t c iifname \"eth0\" ip daddr 10.0.0.0/24 accept";
        assert!(said.len() == 1 && said[0].contains(expected), "{said:?}");
        let leaks = [json!([is("oifname", "eth0"), from(private), {"drop": null}])];
        let said = judged(&chain("postrouting", "filter", "accept", &leaks), Grade::Wrong);
        let expected = "insert rule inet t c ip saddr 10.0.0.0/24 oifname \"eth0\" accept";
        assert!(said.len() == 1 && said[0].contains(expected), "{said:?}");
        let base = |device: Value| {
            let chain = json!({"family": "netdev", "table": "t", "name": "c", "hook": "ingress", "dev": device});
            let mut drop = rule("c", &json!([to, {"drop": null}]));
            drop["rule"]["family"] = json!("netdev");
            [json!({ "chain": chain }), drop]
        };
        assert_eq!(judged(&base(json!("eth0")), Grade::Wrong).len(), 1);
        assert_eq!(judged(&base(json!(["eth7", "eth0"])), Grade::Wrong).len(), 1);
        assert_eq!(judged(&base(json!("eth7")), Grade::Wrong).len(), 0);
        assert_eq!(judged(&base(Value::Null), Grade::Note).len(), 1);
    }

    #[test]
    fn terminals_may_call_each_other_by_the_gateways_device() {
        let rules = chain("forward", "filter", "drop", &[established(), way("eth1", "eth0"), way("eth0", "eth1")]);
        let said = judged(&rules, Grade::Note);
        assert!(said[0].contains(r#"inet t c iifname "eth1" oifname "kamei-nat" accept"#), "{said:?}");
        assert!(said[0].contains(r#"inet t c iifname "kamei-nat" oifname "eth1" accept"#), "{said:?}");
    }

    #[test]
    fn masquerading_must_leave_the_inside_alone() {
        let inside = json!({"prefix": {"addr": "10.0.0.0", "len": 24}});
        let masquerade = json!([is("oifname", "eth0"), {"masquerade": null}]);
        let said = postrouting(std::slice::from_ref(&masquerade));
        assert!(said[0].contains("insert rule inet t c ip saddr 10.0.0.0/24 oifname \"eth0\" accept"), "{said:?}");
        let except = json!([from(inside.clone()), is("oifname", "eth0"), {"accept": null}]);
        assert!(postrouting(&[except, masquerade.clone()]).is_empty());
        assert!(postrouting(&[json!([is("oifname", "ppp*"), {"masquerade": null}])]).is_empty());
        let others = json!([from(json!({"prefix": {"addr": "192.168.0.0", "len": 16}})), {"masquerade": null}]);
        assert!(postrouting(&[others]).is_empty());
        let range = json!([from(json!({"range": ["10.0.0.7", "10.0.0.9"]})), {"snat": {"addr": "192.0.2.1"}}]);
        assert_eq!(postrouting(&[range]).len(), 1);
        let exempt = json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}},
            "right": {"prefix": {"addr": "10.9.0.0", "len": 16}}}});
        assert!(postrouting(&[json!([exempt, {"masquerade": null}])]).is_empty());
        // Pools are no longer seen there.
        let pool = json!([from(json!({"prefix": {"addr": "198.18.0.0", "len": 16}})), {"accept": null}]);
        assert_eq!(postrouting(&[pool, masquerade]).len(), 1);
        let marked =
            json!([{"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 1}}, {"masquerade": null}]);
        assert!(postrouting(std::slice::from_ref(&marked)).is_empty());
        assert_eq!(judged(&chain("postrouting", "nat", "accept", &[marked]), Grade::Note).len(), 1);
    }

    #[test]
    fn insides_with_equal_addresses_are_entered_by_their_devices() {
        let text = "outside = [\"eth0\"]\n[[inside]]\nname = \"a\"\ninterfaces = [\"eth1\"]\n[[inside]]\nname = \"b\"\ninterfaces = [\"eth2\"]\n[[pool]]\nrange = \"198.18.0.0/16\"";
        let config = Config::parse(text).unwrap();
        let entries =
            chain("forward", "filter", "drop", &[established(), json!([is("oifname", "eth0"), {"accept": null}])]);
        let sources: IpNet = INSIDE.parse().unwrap();
        let said = judge(&json!({"nftables": entries}).to_string(), &config, &[sources, sources]);
        assert!(
            said[0].text.contains(r#"iifname { "eth0", "kamei-in0", "kamei-in1" } oifname { "eth1", "eth2" } accept"#),
            "{said:?}"
        );
    }

    proptest! {
        #[test]
        fn whatever_nft_says_it_is_judged(text in "\\PC{0,80}", hook in "(forward|postrouting)", expr in "\\PC{0,20}") {
            judge(&text, &config(), &[INSIDE.parse().unwrap()]);
            let odd = json!([{"match": {"left": {"meta": {"key": "oifname"}}, "right": expr}}, {"accept": null}]);
            judged(&chain(&hook, "filter", "drop", &[odd]), Grade::Wrong);
        }
    }
}
