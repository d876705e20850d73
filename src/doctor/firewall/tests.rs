use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

const INSIDE: &str = "10.0.0.0/24";

fn config() -> Config {
    let text =
        "inside = [\"eth1\"]\noutside = [\"eth0\"]\nexempt = [\"10.9.0.0/16\"]\n[[pool]]\nrange = \"198.18.0.0/16\"";
    Config::parse(text).unwrap()
}

fn of(text: &str, config: &Config, sources: &[IpNet], host: &Host) -> Vec<Finding> {
    Ruleset::parse(text).map_or_else(Vec::new, |ruleset| judge(&ruleset, config, sources, host))
}

fn judged(entries: &[Value], grade: Grade) -> Vec<String> {
    let findings =
        of(&json!({"nftables": entries}).to_string(), &config(), &[INSIDE.parse().unwrap()], &Host::default());
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

fn kind(from: &str, to: &str) -> Value {
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
    let (calls, callbacks) = (kind("eth1", "eth0"), kind("eth0", "eth1"));
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
    let not = json!({"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["eth0", "eth2"]}}});
    assert_asks(&only(&[not]), &[CALLBACKS]);
    // A port that is open is what the operator wanted.
    let port = json!({"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}});
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
    assert!(judged(&chain("prerouting", "filter", "accept", &[json!([fib, {"drop": null}])]), Grade::Wrong).is_empty());
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

fn of_ruleset(ruleset: &Ruleset, config: &Config, host: &Host) -> Vec<Finding> {
    judge(ruleset, config, &[INSIDE.parse().unwrap()], host)
}

#[test]
fn where_an_older_nft_does_not_tell_the_devices_its_words_are_read() {
    let private = json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}},
        "right": {"prefix": {"addr": "10.0.0.0", "len": 8}}}});
    let entries = |name: &str| {
        let rule = json!({"family": "netdev", "table": "t", "chain": name, "expr": [private, {"drop": null}]});
        let chain = json!({"family": "netdev", "table": "t", "name": name, "hook": "ingress"});
        [json!({ "chain": chain }), json!({ "rule": rule })]
    };
    let entries = [entries("a"), entries("b")].concat();
    let text = json!({ "nftables": entries }).to_string();
    let mut ruleset = Ruleset::parse(&text).unwrap();
    assert!(ruleset.lacks_devices());
    let host = Host::default();
    assert_eq!(of_ruleset(&ruleset, &config(), &host).iter().filter(|one| one.grade == Grade::Note).count(), 2);
    ruleset.add_devices(
        "table netdev t {\n\tchain a {\n\t\ttype filter hook ingress devices = { \"eth7\", \"eth0\" } priority 0; policy \
         accept;\n\t}\n\tchain b {\n\t\ttype filter hook ingress device \"eth7\" priority 0; policy accept;\n\t}\n}\n",
    );
    assert!(!ruleset.lacks_devices());
    let said = of_ruleset(&ruleset, &config(), &host);
    assert!(said.len() == 1 && said[0].text.contains("netdev t a`"), "{said:?}");
}

/// A chain that drops what is for an address, at a hook of a family, with what is below the outside.
fn below(family: &str, hook: &str, device: Value, field: &str, net: (&str, u8)) -> Vec<Finding> {
    let condition = json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": field}},
        "right": {"prefix": {"addr": net.0, "len": net.1}}}});
    let base = json!({"family": family, "table": "t", "name": "c", "type": "filter", "hook": hook, "dev": device});
    let rule = json!({"family": family, "table": "t", "chain": "c", "expr": [condition, {"drop": null}]});
    let ruleset = Ruleset::parse(&json!({"nftables": [{"chain": base}, {"rule": rule}]}).to_string()).unwrap();
    let ports = |names: [&str; 2]| names.map(str::to_owned).to_vec();
    let below = [("eth0".to_owned(), ports(["p0", "p1"])), ("eth1".to_owned(), ports(["p2", "p3"]))];
    of_ruleset(&ruleset, &config(), &Host { below: below.into(), ..Host::default() })
}

#[test]
fn below_the_outside_packets_have_virtual_ips_and_below_the_inside_their_own_addresses() {
    let (pool, inside) = (("198.18.0.0", 15), ("10.0.0.0", 8));
    let wrong = |findings: Vec<Finding>| {
        let mut wrong = findings.into_iter().filter(|finding| finding.grade == Grade::Wrong);
        wrong.next().map_or_else(String::new, |finding| finding.text)
    };
    let bond = || json!(["p0", "p1"]);
    let said = wrong(below("netdev", "ingress", bond(), "daddr", pool));
    assert!(said.contains("packets have virtual IPs there"), "{said}");
    assert!(said.ends_with("nft insert rule netdev t c ip daddr 198.18.0.0/16 accept"), "{said}");
    assert!(wrong(below("netdev", "egress", bond(), "saddr", pool)).contains("ip saddr 198.18.0.0/16 accept"));
    assert_eq!(wrong(below("netdev", "ingress", bond(), "daddr", inside)), "");
    assert_eq!(wrong(below("netdev", "ingress", json!("p0"), "daddr", pool)), "", "the other one of the bond has none");
    for (hook, field) in [("prerouting", "daddr"), ("input", "daddr"), ("output", "saddr"), ("postrouting", "saddr")] {
        let said = wrong(below("bridge", hook, Value::Null, field, pool));
        assert!(said.ends_with(&format!("nft insert rule bridge t c ip {field} 198.18.0.0/16 accept")), "{said}");
    }
    let said = wrong(below("bridge", "postrouting", Value::Null, "daddr", inside));
    assert!(said.ends_with("nft insert rule bridge t c ip daddr 10.0.0.0/24 accept"), "{said}");
    assert_eq!(wrong(below("bridge", "forward", Value::Null, "daddr", inside)), "");
}

#[test]
fn what_is_kept_from_connection_tracking_is_no_answer_for_it() {
    let raw = |rule: Value| {
        let base = json!({"family": "inet", "table": "raw", "name": "c", "type": "filter", "hook": "prerouting", "prio": -300});
        let rule = json!({"family": "inet", "table": "raw", "chain": "c", "expr": rule});
        let mut entries = chain("forward", "filter", "drop", &[established(), kind("eth1", "eth0")]);
        entries.extend([json!({ "chain": base }), json!({ "rule": rule })]);
        judged(&entries, Grade::Wrong)
    };
    let untracked =
        |said: &[String]| said.len() == 1 && said[0].contains("answers, callbacks") && !said[0].contains(ANSWERS);
    assert!(untracked(&raw(json!([{"notrack": null}]))));
    assert!(untracked(&raw(json!([is("iifname", "eth0"), {"notrack": null}, {"accept": null}]))));
    assert!(untracked(&raw(json!([is("iifname", "eth1"), {"notrack": null}]))), "what they answer has not been seen");
    let dns = json!({"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 53}});
    assert_asks(&raw(json!([dns, {"notrack": null}])), &[CALLBACKS]);
}

#[test]
fn a_table_that_only_its_maker_can_change_gets_no_rules() {
    let mut entries = chain("forward", "filter", "drop", &[]);
    entries.push(json!({"table": {"family": "inet", "name": "t", "flags": ["owner", "persist"]}}));
    let said = judged(&entries, Grade::Wrong);
    assert!(said[0].ends_with("only the program that has made it can change it"), "{said:?}");
}

#[test]
fn a_terminal_that_is_a_container_with_a_port_is_named() {
    let mut ruleset = Ruleset::parse("{}").unwrap();
    ruleset.add_iptables(
        "iptables",
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 10.0.0.7/32 ! -i eth1 -j DROP\n-A PREROUTING -d 172.17.0.2/32 ! -i \
         docker0 -j DROP\n-A PREROUTING -d 10.0.0.8/32 -p tcp -m tcp --dport 80 -j DROP\nCOMMIT\n",
    );
    let said = of_ruleset(&ruleset, &config(), &Host::default());
    let words = "drops what comes from outside for 10.0.0.7, as Docker";
    let rule = "add: iptables -t raw -I PREROUTING -i eth0 -d 10.0.0.7/32 -j ACCEPT";
    assert!(said.len() == 1 && said[0].text.contains(words) && said[0].text.ends_with(rule), "{said:?}");
    assert_eq!(said[0].grade, Grade::Note);
}

#[test]
fn a_chain_for_nat_sees_no_answers() {
    let rules = [json!([is("iifname", "eth0"), {"drop": null}])];
    let said = judged(&chain("prerouting", "nat", "accept", &rules), Grade::Wrong);
    assert!(said.len() == 1 && said[0].contains("drops callbacks: packets"), "{said:?}");
}

#[test]
fn a_comparison_with_several_bits_at_once_is_never_true() {
    let bits =
        json!({"match": {"op": "!=", "left": {"ct": {"key": "state"}}, "right": {"|": ["established", "related"]}}});
    let rules = chain("forward", "filter", "accept", &[json!([bits, {"drop": null}])]);
    assert_asks(&judged(&rules, Grade::Wrong), &[CALLS, ANSWERS, CALLBACKS]);
}

#[test]
fn ufw_is_told_by_its_own_program() {
    let saved = "*filter\n:FORWARD DROP [0:0]\n:ufw-before-forward - [0:0]\n:ufw-user-forward - [0:0]\n-A FORWARD -j \
                 ufw-before-forward\n-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A \
                 ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT\n-A ufw-before-forward -j ufw-user-forward\n-A \
                 ufw-user-forward -i eth1 -o eth0 -j ACCEPT\nCOMMIT\n";
    let mut ruleset = Ruleset::parse("{}").unwrap();
    ruleset.add_iptables("iptables", saved);
    let said = of_ruleset(&ruleset, &config(), &Host::default());
    let wrong = said.iter().find(|finding| finding.grade == Grade::Wrong).unwrap();
    assert!(wrong.text.ends_with("drops callbacks; type: ufw route allow in on eth0 out on eth1"), "{said:?}");
}

#[test]
fn firewalld_is_told_by_its_own_program() {
    let firewalld = |kind: &str, hook: &str, rules: &[Value]| {
        let mut entries = chain(hook, kind, "accept", rules);
        for entry in &mut entries {
            for (_, what) in entry.as_object_mut().unwrap() {
                what["table"] = json!("firewalld");
            }
        }
        Ruleset::parse(&json!({"nftables": entries}).to_string()).unwrap()
    };
    let zones = |pairs: &[(&str, &str)]| Host {
        zones: pairs.iter().map(|(name, zone)| ((*name).to_owned(), (*zone).to_owned())).collect(),
        ..Host::default()
    };
    let rejecting = firewalld("filter", "forward", &[established(), json!([{"reject": {"type": "icmpx"}}])]);
    let said = |ruleset: &Ruleset, host: &Host| {
        let findings = of_ruleset(ruleset, &config(), host);
        findings.into_iter().find(|finding| finding.grade == Grade::Wrong).unwrap().text
    };
    let two = zones(&[("eth1", "internal"), ("eth0", "external")]);
    let expected = "drops calls of terminals, callbacks; type: firewall-cmd --permanent --new-policy=kamei-calls; firewall-cmd \
                    --permanent --policy=kamei-calls --add-ingress-zone=internal; firewall-cmd --permanent \
                    --policy=kamei-calls --add-egress-zone=external; firewall-cmd --permanent --policy=kamei-calls \
                    --set-target=ACCEPT; firewall-cmd --permanent --new-policy=kamei-callbacks; firewall-cmd --permanent \
                    --policy=kamei-callbacks --add-ingress-zone=external; firewall-cmd --permanent \
                    --policy=kamei-callbacks --add-egress-zone=internal; firewall-cmd --permanent \
                    --policy=kamei-callbacks --set-target=ACCEPT; firewall-cmd --reload";
    assert!(said(&rejecting, &two).ends_with(expected), "{}", said(&rejecting, &two));
    let one = said(&rejecting, &zones(&[("eth1", "home"), ("eth0", "home")]));
    assert!(one.ends_with("type: firewall-cmd --permanent --zone=home --add-forward; firewall-cmd --reload"), "{one}");
    let none = said(&rejecting, &zones(&[("eth1", "home")]));
    assert!(
        none.contains("give eth0 a zone (firewall-cmd --permanent --zone=ZONE --change-interface=INTERFACE"),
        "{none}"
    );
    let hiding = firewalld("nat", "postrouting", &[json!([is("oifname", "eth0"), {"masquerade": null}])]);
    let unmasked = said(&hiding, &two);
    let rule = "--zone=external --remove-masquerade; firewall-cmd --permanent --zone=external --add-rich-rule='rule \
                family=\"ipv4\" source not address=\"10.0.0.0/24\" masquerade'; firewall-cmd --reload";
    assert!(unmasked.ends_with(rule), "{unmasked}");
}

#[test]
fn terminals_may_call_each_other_by_the_gateways_device() {
    let rules = chain("forward", "filter", "drop", &[established(), kind("eth1", "eth0"), kind("eth0", "eth1")]);
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
    let marked = json!([{"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 1}}, {"masquerade": null}]);
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
    let said = of(&json!({"nftables": entries}).to_string(), &config, &[sources, sources], &Host::default());
    assert!(
        said[0].text.contains(r#"iifname { "eth0", "kamei-in0", "kamei-in1" } oifname { "eth1", "eth2" } accept"#),
        "{said:?}"
    );
}

proptest! {
    #[test]
    fn whatever_nft_says_it_is_judged(text in "\\PC{0,80}", hook in "(forward|postrouting)", expr in "\\PC{0,20}") {
        of(&text, &config(), &[INSIDE.parse().unwrap()], &Host::default());
        let odd = json!([{"match": {"left": {"meta": {"key": "oifname"}}, "right": expr}}, {"accept": null}]);
        judged(&chain(&hook, "filter", "drop", &[odd]), Grade::Wrong);
    }
}
