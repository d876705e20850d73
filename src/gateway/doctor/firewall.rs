//! What an nftables rule set would do to a gateway's packets, as far as reading can tell.
//!
//! A packet crosses the forward hook twice: from its interface to the TUN device of its realm, and from the TUN device of
//! the other realm to its other interface. It crosses postrouting last, already translated.

use super::Finding;
use crate::config::{Config, FastPathMode};
use crate::wire::AddressRange;
use serde_json::Value;
use std::net::IpAddr;

/// A base chain with its rules, in order.
struct Chain<'a> {
    family: &'a str,
    table: &'a str,
    name: &'a str,
    drops: bool,
    hook: &'a str,
    rules: Vec<&'a [Value]>,
}

/// Judges the output of `nft -j list ruleset`.
pub fn judge(text: &str, config: &Config) -> Vec<Finding> {
    let Ok(document) = serde_json::from_str::<Value>(text) else {
        return vec![Finding::note("nft said what cannot be read, so firewall rules were not looked at")];
    };
    let chains = chains(&document);
    let mut findings: Vec<Finding> = chains.iter().filter_map(|chain| forwards(chain, config)).collect();
    findings.extend(chains.iter().filter_map(|chain| hides_virtual_ips(chain, config)));
    if findings.is_empty() {
        let what = "lets the gateway's packets pass";
        findings.push(Finding::fine(format!("nftables, with {} chains on the way, {what}", chains.len())));
    }
    findings
}

fn chains(document: &Value) -> Vec<Chain<'_>> {
    let entries = document["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &'_ Value, key: &str| value[key].as_str().map(str::to_owned).unwrap_or_default();
    let mut chains = Vec::new();
    for chain in entries.iter().filter_map(|entry| entry.get("chain")) {
        let Some(hook @ ("forward" | "postrouting")) = chain["hook"].as_str() else { continue };
        let same = |rule: &&Value| {
            ["family", "table"].iter().all(|key| rule[key] == chain[key]) && text(rule, "chain") == text(chain, "name")
        };
        let rules = entries.iter().filter_map(|entry| entry.get("rule")).filter(same);
        chains.push(Chain {
            family: chain["family"].as_str().unwrap_or_default(),
            table: chain["table"].as_str().unwrap_or_default(),
            name: chain["name"].as_str().unwrap_or_default(),
            drops: chain["policy"] == "drop",
            hook,
            rules: rules.filter_map(|rule| rule["expr"].as_array().map(Vec::as_slice)).collect(),
        });
    }
    chains
}

/// A chain that drops what no rule accepts needs rules for both devices of the gateway.
fn forwards(chain: &Chain, config: &Config) -> Option<Finding> {
    if chain.hook != "forward" {
        return None;
    }
    let last_drops = chain.rules.last().is_some_and(|rule| is_bare(rule, &["drop", "reject"]));
    if !chain.drops && !last_drops {
        return None;
    }
    let device = format!("{}-out", config.tun);
    let accepted = |key: &str| {
        chain.rules.iter().any(|rule| {
            is_bare(rule, &["accept"])
                || has(rule, &["accept", "jump", "goto"]) && matched(rule, key).any(|value| names(value, &device))
        })
    };
    // What the fast path has translated never sees the devices; its mark tells it.
    let marked = config.fast_path.mode == FastPathMode::Off
        || chain.rules.iter().any(|rule| {
            let by_mark = rule.iter().any(|part| part["match"]["left"].to_string().contains(r#"{"key":"mark"}"#));
            is_bare(rule, &["accept"]) || has(rule, &["accept", "jump", "goto"]) && by_mark
        });
    if accepted("iifname") && accepted("oifname") && marked {
        return None;
    }
    let chain_name = format!("{} {} {}", chain.family, chain.table, chain.name);
    Some(Finding::wrong(format!(
        "the firewall's chain `{chain_name}` drops what the gateway forwards; add: nft insert rule {chain_name} iifname \
         \"{tun}-*\" accept; nft insert rule {chain_name} oifname \"{tun}-*\" accept; and for the fast path: nft insert \
         rule {chain_name} meta mark and {mark:#x} == {mark:#x} accept",
        tun = config.tun,
        mark = config.fast_path.mark
    )))
}

/// Masquerading on the way out would put this machine's address in place of the virtual IP.
fn hides_virtual_ips(chain: &Chain, config: &Config) -> Option<Finding> {
    if chain.hook != "postrouting" {
        return None;
    }
    let concerned = |pool: &AddressRange| match chain.family {
        "ip" => pool.is_v4(),
        "ip6" => !pool.is_v4(),
        _ => true,
    };
    let pools = config.pools.iter().map(|pool| pool.range).filter(concerned);
    let hidden: Vec<AddressRange> = pools.filter(|pool| hides(chain, pool, config)).collect();
    let first = hidden.first()?;
    let chain_name = format!("{} {} {}", chain.family, chain.table, chain.name);
    let family = if first.is_v4() { "ip" } else { "ip6" };
    Some(Finding::wrong(format!(
        "the firewall's chain `{chain_name}` hides the virtual IPs of {first} behind this machine's own address, so \
         nobody can call them back; add: nft insert rule {chain_name} {family} saddr {first} accept"
    )))
}

fn hides(chain: &Chain, pool: &AddressRange, config: &Config) -> bool {
    let outward = |rule: &[Value]| {
        let mut names_of = matched(rule, "oifname").chain(matched(rule, "oif")).peekable();
        names_of.peek().is_none() || names_of.any(|value| config.outsides.iter().any(|name| names(value, name)))
    };
    let from_pool = |rule: &[Value]| {
        let mut sources = matched(rule, "saddr").peekable();
        sources.peek().is_none() || sources.any(|value| overlaps(value, pool))
    };
    for rule in chain.rules.iter().filter(|rule| outward(rule) && from_pool(rule)) {
        if has(rule, &["masquerade", "snat"]) {
            return true;
        }
        if has(rule, &["accept", "return"]) && matched(rule, "saddr").next().is_some() {
            return false;
        }
    }
    false
}

/// Whether a rule has a statement of one of these kinds.
fn has(rule: &[Value], kinds: &[&str]) -> bool {
    rule.iter().any(|statement| kinds.iter().any(|kind| statement.get(kind).is_some()))
}

/// The same, without a condition before it.
fn is_bare(rule: &[Value], kinds: &[&str]) -> bool {
    has(rule, kinds) && !has(rule, &["match", "limit"])
}

/// What the rule compares `key` with (a meta key or the field of a header); an inequality counts as no match.
fn matched<'a>(rule: &'a [Value], key: &str) -> impl Iterator<Item = &'a Value> {
    rule.iter().filter_map(|statement| statement.get("match")).filter_map(move |condition| {
        let left = &condition["left"];
        let asked = left["meta"]["key"] == key || left["payload"]["field"] == key;
        (asked && condition["op"] != "!=").then(|| &condition["right"])
    })
}

/// Whether a name, a pattern (`eth*`) or a set of them means the interface.
fn names(value: &Value, interface: &str) -> bool {
    match value {
        Value::String(text) => match text.strip_suffix('*') {
            Some(start) => interface.starts_with(start),
            None => text == interface,
        },
        Value::Array(all) => all.iter().any(|one| names(one, interface)),
        Value::Object(object) => object.get("set").is_some_and(|set| names(set, interface)),
        _ => false,
    }
}

/// Whether an address, a prefix, a range or a set of them has addresses of the pool. What cannot be read may have.
fn overlaps(value: &Value, pool: &AddressRange) -> bool {
    let meets = |text: String| text.parse::<AddressRange>().map_or(true, |range| range.overlaps(pool));
    let words = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
    match value {
        Value::String(text) if text.parse::<IpAddr>().is_ok() => meets(text.clone()),
        Value::Array(all) => all.iter().any(|one| overlaps(one, pool)),
        Value::Object(object) => {
            if let Some(prefix) = object.get("prefix") {
                meets(format!("{}/{}", words(&prefix["addr"]), prefix["len"]))
            } else if let Some(Value::Array(ends)) = object.get("range") {
                meets(ends.iter().map(words).collect::<Vec<_>>().join("-"))
            } else {
                object.get("set").is_none_or(|set| overlaps(set, pool))
            }
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn config() -> Config {
        let text = "inside = [\"eth1\"]\noutside = [\"eth0\"]\n[[pool]]\nrange = \"198.18.0.0/16\"";
        Config::parse(text).unwrap()
    }

    /// A rule set of one chain.
    fn findings(hook: &str, policy: &str, rules: &[Value]) -> Vec<String> {
        let mut entries =
            vec![json!({"chain": {"family": "inet", "table": "t", "name": "c", "hook": hook, "policy": policy}})];
        let rule = |expr: &Value| json!({"rule": {"family": "inet", "table": "t", "chain": "c", "expr": expr}});
        entries.extend(rules.iter().map(rule));
        let wrong = judge(&json!({"nftables": entries}).to_string(), &config());
        wrong.into_iter().filter(|finding| finding.grade == super::super::Grade::Wrong).map(|f| f.text).collect()
    }

    fn is(key: &str, right: Value) -> Value {
        json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}})
    }

    fn from(right: Value) -> Value {
        json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": right}})
    }

    #[test]
    fn a_forward_chain_that_drops_must_accept_the_devices_both_ways() {
        let accept = |key, name: &str| json!([is(key, json!(name)), {"accept": null}]);
        assert!(findings("forward", "drop", &[])[0].contains("nft insert rule inet t c iifname \"kamei-*\" accept"));
        assert_eq!(findings("forward", "accept", &[json!([{"drop": null}])]).len(), 1);
        assert_eq!(findings("forward", "drop", &[accept("iifname", "kamei-*")]).len(), 1);
        let devices = [accept("iifname", "kamei-*"), accept("oifname", "kamei-*")];
        assert_eq!(findings("forward", "drop", &devices).len(), 1);
        let mark = json!({"&": [{"meta": {"key": "mark"}}, 0x0100_0000]});
        let marked = json!([{"match": {"op": "==", "left": mark, "right": 0x0100_0000}}, {"accept": null}]);
        assert!(findings("forward", "drop", &[devices.as_slice(), &[marked]].concat()).is_empty());
        assert!(findings("forward", "drop", &[json!([{"accept": null}])]).is_empty());
        assert!(findings("forward", "accept", &[]).is_empty());
        assert!(findings("input", "drop", &[]).is_empty());
    }

    #[test]
    fn masquerading_must_leave_the_pool_alone() {
        let pool = json!({"prefix": {"addr": "198.18.0.0", "len": 16}});
        let masquerade = json!([is("oifname", json!("eth0")), {"masquerade": null}]);
        let said = findings("postrouting", "accept", std::slice::from_ref(&masquerade));
        assert!(said[0].contains("insert rule inet t c ip saddr 198.18.0.0/16 accept"), "{said:?}");
        assert!(findings("postrouting", "accept", &[json!([from(pool), {"accept": null}]), masquerade]).is_empty());
        let elsewhere = json!([is("oifname", json!("ppp*")), {"masquerade": null}]);
        assert!(findings("postrouting", "accept", &[elsewhere]).is_empty());
        let others = json!([from(json!({"prefix": {"addr": "10.0.0.0", "len": 8}})), {"masquerade": null}]);
        assert!(findings("postrouting", "accept", &[others]).is_empty());
        let range = json!([from(json!({"range": ["198.18.3.0", "198.18.4.0"]})), {"snat": {"addr": "192.0.2.1"}}]);
        assert_eq!(findings("postrouting", "accept", &[range]).len(), 1);
    }

    proptest! {
        #[test]
        fn whatever_nft_says_it_is_judged(text in "\\PC{0,80}", hook in "(forward|postrouting)", expr in "\\PC{0,20}") {
            judge(&text, &config());
            findings(&hook, "drop", &[json!([{"match": {"left": {"meta": {"key": "oifname"}}, "right": expr}}])]);
        }
    }
}
