//! The rules that `nft -j list ruleset` and `iptables-save` tell of.

use super::iptables;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::IpAddr;

/// `NF_IP_PRI_CONNTRACK` (linux/netfilter_ipv4.h): chains with a larger priority are after connection tracking.
pub const CONNTRACK: i64 = -200;

/// A rule set.
#[derive(Default)]
pub struct Ruleset {
    chains: Vec<Value>,
    /// Tables that only the program which has made them can change, by family and name.
    owned: Vec<[String; 2]>,
    /// And maps.
    sets: Vec<Value>,
    /// In order, by family, table and chain.
    rules: HashMap<[String; 3], Vec<Value>>,
}

/// A base chain: the kernel enters it at a hook.
pub struct Chain<'a> {
    /// Of nft; for chains that iptables has made, the program that lists and changes them.
    pub family: &'a str,
    pub table: &'a str,
    pub name: &'a str,
    /// `filter`, `nat` or `route`.
    pub kind: &'a str,
    pub hook: &'a str,
    /// The devices of a chain at `ingress` or `egress`; empty where nft does not tell.
    pub devices: Vec<&'a str>,
    /// Chains of one hook are entered in the order of these.
    pub priority: i64,
    /// Whether it drops what no rule of it accepts.
    pub drops: bool,
    pub maker: Maker,
}

/// Who has made a chain, where a rule that others add to it does not stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    Firewalld,
    Ufw,
    /// Nobody else can change it.
    Owner,
    Any,
}

impl Chain<'_> {
    pub fn has_family(&self, is_v4: bool) -> bool {
        match self.family {
            "ip" | "iptables" | "iptables-legacy" => is_v4,
            "ip6" | "ip6tables" | "ip6tables-legacy" => !is_v4,
            _ => true,
        }
    }

    /// Whether where packets leave is not known there yet.
    pub fn is_before_routing(&self) -> bool {
        matches!(self.hook, "prerouting" | "ingress") || self.family == "bridge" && self.hook == "input"
    }

    /// Whether connection tracking has seen packets before.
    pub fn is_tracked(&self) -> bool {
        match self.hook {
            _ if matches!(self.family, "bridge" | "netdev") => false,
            "prerouting" => self.priority > CONNTRACK,
            "forward" | "postrouting" => true,
            _ => false,
        }
    }
}

impl Ruleset {
    /// `None` if that is not JSON.
    pub fn parse(text: &str) -> Option<Self> {
        let document: Value = serde_json::from_str(text).ok()?;
        let mut ruleset = Self::default();
        for (kind, what) in several(&document["nftables"]).filter_map(Value::as_object).flatten() {
            match kind.as_str() {
                "table" if several(&what["flags"]).any(|flag| flag == "owner") => {
                    ruleset.owned.push(["family", "name"].map(|key| word(what, key).to_owned()));
                }
                "chain" => ruleset.chains.push(what.clone()),
                "set" | "map" => ruleset.sets.push(what.clone()),
                "rule" => {
                    let chain = ["family", "table", "chain"].map(|key| word(what, key).to_owned());
                    ruleset.rules.entry(chain).or_default().push(what["expr"].clone());
                }
                _ => {}
            }
        }
        Some(ruleset)
    }

    /// Whether nft left out where chains are (before its release 1.0.7); `nft list chains netdev` tells.
    pub fn lacks_devices(&self) -> bool {
        self.base_chains().any(|chain| chain.family == "netdev" && chain.devices.is_empty())
    }

    /// From what `nft list chains netdev` says.
    pub fn add_devices(&mut self, text: &str) {
        let (mut table, mut name) = ("", "");
        for line in text.lines().map(str::trim) {
            let second = |word: &str| line.strip_prefix(word)?.split_whitespace().next();
            table = second("table netdev ").unwrap_or(table);
            name = second("chain ").unwrap_or(name);
            let Some((_, devices)) = line.split_once(" device").filter(|_| line.starts_with("type ")) else { continue };
            // `device "a" priority`, or `devices = { "a", "b" } priority`.
            let devices: Value = devices.split('"').skip(1).step_by(2).collect();
            let is_it = |chain: &&mut Value| {
                chain["family"] == "netdev"
                    && chain["table"] == table
                    && chain["name"] == name
                    && chain["dev"].is_null()
            };
            if let Some(chain) = self.chains.iter_mut().find(is_it) {
                chain["dev"] = devices;
            }
        }
    }

    /// What one of the programs `iptables-save`, `iptables-legacy-save` and so on says. nft tells the same tables, but not
    /// what matches of iptables ask.
    pub fn add_iptables(&mut self, program: &str, text: &str) {
        let family = if program.starts_with("ip6") { "ip6" } else { "ip" };
        for table in iptables::tables(text, family) {
            if !program.ends_with("legacy") {
                self.chains.retain(|chain| chain["family"] != family || chain["table"] != table.name);
            }
            for (name, policy) in table.base_chains {
                let (kind, priority) = iptables::place(&table.name, &name);
                self.chains.push(json!({
                    "family": program, "table": table.name, "name": name, "type": kind,
                    "hook": name.to_lowercase(), "prio": priority, "policy": policy.to_lowercase(),
                }));
            }
            for (chain, expression) in table.rules {
                let chain = [program.to_owned(), table.name.clone(), chain];
                self.rules.entry(chain).or_default().push(Value::Array(expression));
            }
        }
    }

    pub fn base_chains(&self) -> impl Iterator<Item = Chain<'_>> {
        self.chains.iter().filter_map(|chain| {
            let (family, table) = (word(chain, "family"), word(chain, "table"));
            Some(Chain {
                family,
                table,
                name: word(chain, "name"),
                kind: chain["type"].as_str().unwrap_or("filter"),
                hook: chain["hook"].as_str()?,
                devices: several(&chain["dev"]).filter_map(Value::as_str).collect(),
                priority: chain["prio"].as_i64().unwrap_or(0),
                drops: chain["policy"] == "drop",
                maker: self.maker(family, table),
            })
        })
    }

    fn maker(&self, family: &str, table: &str) -> Maker {
        let is_of_ufw = |[its_family, its_table, name]: &[String; 3]| {
            its_family == family && its_table == table && (name.starts_with("ufw-") || name.starts_with("ufw6-"))
        };
        if table == "firewalld" {
            Maker::Firewalld
        } else if self.owned.iter().any(|owned| *owned == [family, table]) {
            Maker::Owner
        } else if self.rules.keys().any(is_of_ufw) {
            Maker::Ufw
        } else {
            Maker::Any
        }
    }

    /// Single addresses that rules of the chain compare destinations with.
    pub fn destinations(&self, chain: &Chain) -> impl Iterator<Item = IpAddr> {
        let conditions = self.rules(chain, chain.name).flatten().filter_map(|statement| statement.get("match"));
        conditions.filter(|condition| condition["left"]["payload"]["field"] == "daddr").filter_map(|condition| {
            let text = condition["right"].as_str()?;
            text.strip_suffix("/32").or_else(|| text.strip_suffix("/128")).unwrap_or(text).parse().ok()
        })
    }

    /// A set or map of the chain's table.
    pub fn named(&self, chain: &Chain, name: &str) -> Option<&Value> {
        let is_here = |set: &&Value| set["family"] == chain.family && set["table"] == chain.table;
        self.sets.iter().filter(is_here).find(|set| set["name"] == name)
    }

    pub fn rules(&self, chain: &Chain, name: &str) -> impl Iterator<Item = &[Value]> {
        let rules = self.rules.get(&[chain.family, chain.table, name].map(str::to_owned));
        rules.into_iter().flatten().filter_map(Value::as_array).map(Vec::as_slice)
    }
}

pub fn several(value: &Value) -> impl Iterator<Item = &Value> {
    let list = value.as_array();
    let one = if list.is_some() || value.is_null() { None } else { Some(value) };
    list.into_iter().flatten().chain(one)
}

pub fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
