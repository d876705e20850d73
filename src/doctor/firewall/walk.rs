//! Follows packets through chains, as far as reading can tell.
//!
//! Nothing is sent. [`Packets`] are many packets at once: a condition is true for all of them, for some, for none, or
//! cannot be judged.

use super::ruleset::{Chain, Ruleset, several, word};
use crate::wire::AddressRange;
use serde_json::Value;

/// Jumps within jumps that the kernel takes (`NFT_JUMP_STACK_SIZE`, nf_tables.h).
const DEEPEST: usize = 16;
/// Rules that are looked at for one answer: chains may be entered over and over.
const MOST_RULES: u32 = 1 << 20;

/// TCP and UDP packets, of any ports, that no other NAT has changed and no IPsec policy takes.
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    pub is_v4: bool,
    pub sources: Ends,
    pub destinations: Ends,
    /// The interface they come in by; `None` where it is not known yet.
    pub from: Option<&'a str>,
    /// The interface they leave by; likewise.
    pub to: Option<&'a str>,
    /// What connection tracking says of them; `None` before it has looked.
    pub state: Option<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    New,
    Established,
    /// TCP that is not where it was seen last.
    Invalid,
    /// A rule has kept them from it.
    Untracked,
}

#[derive(Clone, Debug)]
pub enum Ends {
    These(Vec<AddressRange>),
    AllBut(Vec<AddressRange>),
}

/// What is asked of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// That some of the packets pass it.
    Accept,
    /// That some of them get another source.
    Masquerade,
    /// That all of them are kept from connection tracking.
    Untrack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Reached,
    /// Under conditions that cannot be judged.
    Doubtful,
    Missed,
}

/// For how many of the packets a condition is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    All,
    Some,
    None,
    Unknown,
}

enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Jump(&'a str),
    Goto(&'a str),
    Masquerade,
    Untrack,
}

/// How a chain is left.
enum Exit {
    Reached,
    /// By another verdict, or by none.
    Ended,
    Through,
}

impl Ruleset {
    pub fn follow(&self, chain: &Chain, packets: &Packets, goal: Goal) -> Fate {
        let (doubtful, unsure) = (false, false);
        let mut walk = Walk { ruleset: self, chain, packets, goal, doubtful, unsure, rules_left: MOST_RULES };
        let exit = walk.enter(chain.name, 0);
        let passes = goal == Goal::Accept && !chain.drops;
        match exit {
            Exit::Reached if !walk.unsure => Fate::Reached,
            Exit::Through if passes => Fate::Reached,
            Exit::Reached => Fate::Doubtful,
            _ if walk.doubtful => Fate::Doubtful,
            _ => Fate::Missed,
        }
    }
}

struct Walk<'a> {
    ruleset: &'a Ruleset,
    chain: &'a Chain<'a>,
    packets: &'a Packets<'a>,
    goal: Goal,
    /// The goal was met, under conditions that cannot be judged.
    doubtful: bool,
    /// Packets may have been spared before, under such conditions.
    unsure: bool,
    rules_left: u32,
}

impl<'a> Walk<'a> {
    fn enter(&mut self, name: &'a str, depth: usize) -> Exit {
        if depth > DEEPEST {
            return Exit::Through;
        }
        let (ruleset, chain) = (self.ruleset, self.chain);
        for rule in ruleset.rules(chain, name) {
            let Some(left) = self.rules_left.checked_sub(1) else { break };
            self.rules_left = left;
            for (share, verdict) in self.cases(rule) {
                if share == Share::None {
                    continue;
                }
                if let Some(exit) = self.obey(share, &verdict, depth) {
                    return exit;
                }
            }
        }
        Exit::Through
    }

    /// `None`: on to the next rule.
    fn obey(&mut self, share: Share, verdict: &Verdict<'a>, depth: usize) -> Option<Exit> {
        let is_goal = match self.goal {
            Goal::Accept => matches!(verdict, Verdict::Accept | Verdict::Masquerade),
            Goal::Masquerade => matches!(verdict, Verdict::Masquerade),
            Goal::Untrack => matches!(verdict, Verdict::Untrack),
        };
        let is_all = share == Share::All;
        match verdict {
            // What others than these want.
            _ if self.goal == Goal::Untrack && !is_all => {}
            // The chain goes on behind it.
            Verdict::Untrack if !is_goal => {}
            _ if is_goal && share == Share::Unknown => self.doubtful = true,
            _ if is_goal => return Some(Exit::Reached),
            Verdict::Accept | Verdict::Drop | Verdict::Masquerade if is_all => return Some(Exit::Ended),
            Verdict::Return if is_all => return Some(Exit::Through),
            Verdict::Jump(name) | Verdict::Goto(name) => match self.enter(name, depth + 1) {
                Exit::Reached if share == Share::Unknown => self.doubtful = true,
                Exit::Reached => return Some(Exit::Reached),
                Exit::Ended if is_all => return Some(Exit::Ended),
                Exit::Through if is_all && matches!(verdict, Verdict::Goto(_)) => return Some(Exit::Through),
                Exit::Ended | Exit::Through => {}
            },
            _ => self.unsure |= share == Share::Unknown && self.goal == Goal::Masquerade,
        }
        None
    }

    /// The verdicts of a rule, each with the packets it is for.
    fn cases(&self, rule: &'a [Value]) -> Vec<(Share, Verdict<'a>)> {
        let (mut share, mut cases) = (Share::All, Vec::new());
        for statement in rule {
            share = share.and(self.statement(statement, rule));
            if let Some(map) = statement.get("vmap") {
                cases.extend(self.mapped(map, share));
                break;
            }
            let Some(verdict) = verdict(statement) else { continue };
            let is_end = !matches!(verdict, Verdict::Untrack);
            cases.push((share, verdict));
            if is_end {
                break;
            }
        }
        cases
    }

    fn mapped(&self, map: &'a Value, share: Share) -> Vec<(Share, Verdict<'a>)> {
        if self.lack(&map["key"]) {
            return Vec::new();
        }
        let Some(pairs) = self.elements(&map["data"]) else { return Vec::new() };
        let case = |pair: &'a Value| {
            let share = share.and(self.compare(&map["key"], &[pair.get(0)?]));
            Some((share, verdict(pair.get(1)?)?))
        };
        pairs.into_iter().filter_map(case).collect()
    }

    fn statement(&self, statement: &'a Value, rule: &'a [Value]) -> Share {
        if let Some(condition) = statement.get("match") {
            return self.condition(condition);
        }
        // Limits of all kinds, and sets that packets fill.
        if ["limit", "ct count", "quota", "set"].iter().any(|kind| statement.get(kind).is_some()) {
            return Share::Some;
        }
        match statement.get("xt") {
            Some(xt) if xt["type"] == "match" => self.iptables_match(word(xt, "name"), rule),
            _ => Share::All,
        }
    }

    /// Of rules that iptables has made, nft tells the names of matches and not what they ask.
    fn iptables_match(&self, name: &str, rule: &[Value]) -> Share {
        let asks_for_place = rule.iter().filter_map(|statement| statement.get("match")).any(|condition| {
            let left = &condition["left"];
            left["meta"]["key"].as_str().is_some_and(|key| key.ends_with("ifname"))
                || left["payload"]["field"].as_str().is_some_and(|field| field.ends_with("addr"))
        });
        match name {
            "comment" => Share::All,
            "tcp" | "udp" | "multiport" | "limit" | "hashlimit" | "connlimit" => Share::Some,
            "icmp" | "icmp6" => Share::None,
            // To drop or reject, it asks for INVALID mostly.
            "conntrack" | "state" if rule.last().and_then(verdict).is_some_and(|end| matches!(end, Verdict::Drop)) => {
                Share::Unknown
            }
            // Hardly a firewall is without `-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`.
            "conntrack" | "state" => match self.packets.state {
                Some(State::Established) => Share::All,
                Some(State::New) if !asks_for_place => Share::None,
                _ => Share::Unknown,
            },
            _ => Share::Unknown,
        }
    }

    fn condition(&self, condition: &'a Value) -> Share {
        let left = &condition["left"];
        if self.lack(left) {
            return Share::None;
        }
        let right = &condition["right"];
        let share = if right["|"].as_array().is_some_and(|bits| bits.len() > 1) {
            // One number of several bits (`ct state != established,related`): no packet has that.
            Share::None
        } else {
            let Some(elements) = self.elements(right) else { return Share::Unknown };
            self.compare(left, &elements)
        };
        match condition["op"].as_str() {
            Some("==" | "in") | None => share,
            Some("!=") => share.inverted(),
            Some(_) => Share::Unknown,
        }
    }

    /// Whether the packets have no such header.
    fn lack(&self, left: &Value) -> bool {
        if let Some(parts) = left["concat"].as_array() {
            return parts.iter().any(|part| self.lack(part));
        }
        match left["payload"]["protocol"].as_str() {
            Some("ip") => !self.packets.is_v4,
            Some("ip6") => self.packets.is_v4,
            Some(protocol) => !matches!(protocol, "ether" | "tcp" | "udp" | "th"),
            None => left.get("ipsec").is_some(),
        }
    }

    /// For how many packets `left` is one of the elements.
    fn compare(&self, left: &Value, elements: &[&Value]) -> Share {
        if let Some(parts) = left["concat"].as_array() {
            let one = |element: &&Value| {
                let Some(values) = element["concat"].as_array() else { return Share::Unknown };
                let pairs = parts.iter().zip(values);
                pairs.fold(Share::All, |share, (part, value)| share.and(self.compare(part, &[value])))
            };
            return elements.iter().map(one).fold(Share::None, Share::or);
        }
        let any = |asked: &[&str]| elements.iter().any(|element| asked.iter().any(|word| *element == word));
        if let Some(key) = left["meta"]["key"].as_str() {
            return self.compare_meta(key, elements);
        }
        if let Some(payload) = left.get("payload") {
            return match word(payload, "field") {
                "saddr" if payload["protocol"] != "ether" => self.packets.sources.share(elements, self.packets.is_v4),
                "daddr" if payload["protocol"] != "ether" => {
                    self.packets.destinations.share(elements, self.packets.is_v4)
                }
                "protocol" | "nexthdr" => transports(elements),
                "" => Share::Unknown,
                _ => Share::Some,
            };
        }
        if let Some(key) = left["ct"]["key"].as_str() {
            return match (key, self.packets.state) {
                (_, None) => Share::Unknown,
                ("state", Some(State::New)) => Share::of(any(&["new"])),
                ("state", Some(State::Established)) => Share::of(any(&["established"])),
                ("state", Some(State::Invalid)) => Share::of(any(&["invalid"])),
                ("state", Some(State::Untracked)) => Share::of(any(&["untracked"])),
                // There is no entry for them.
                (_, Some(State::Invalid | State::Untracked)) => Share::None,
                ("direction", Some(State::New)) => Share::of(any(&["original"])),
                ("direction", Some(State::Established)) => Share::Some,
                ("status", _) if !any(&["expected", "seen-reply", "assured", "confirmed"]) => Share::None,
                _ => Share::Unknown,
            };
        }
        match (&left["fib"]["result"], left["rt"]["key"].as_str()) {
            // There is a kind back, and no destination is this machine's own.
            (Value::String(result), _) if result == "type" => Share::of(any(&["unicast"])),
            (Value::String(_), _) | (_, Some("ipsec")) => match elements {
                [Value::Bool(exists)] => Share::of(*exists == left.get("fib").is_some()),
                _ => Share::Unknown,
            },
            _ if left["&"][0]["payload"]["protocol"] == "tcp" => Share::Some,
            _ => Share::Unknown,
        }
    }

    fn compare_meta(&self, key: &str, elements: &[&Value]) -> Share {
        let interface = |name: Option<&str>| match name {
            Some(name) => Share::of(elements.iter().any(|element| means(element, name))),
            None => Share::Unknown,
        };
        let any = |asked: &str| Share::of(elements.contains(&&Value::from(asked)));
        match key {
            "iif" | "iifname" => interface(self.packets.from),
            "oif" | "oifname" => interface(self.packets.to),
            "nfproto" => any(if self.packets.is_v4 { "ipv4" } else { "ipv6" }),
            "protocol" => any(if self.packets.is_v4 { "ip" } else { "ip6" }),
            "pkttype" => any("host").or(any("unicast")),
            "l4proto" => transports(elements),
            "ipsec" => Share::of(elements.contains(&&Value::Bool(false))),
            _ => Share::Unknown,
        }
    }

    /// What a value consists of; `None` for a set that packets fill.
    fn elements(&self, value: &'a Value) -> Option<Vec<&'a Value>> {
        let listed = match value {
            Value::String(text) if text.starts_with('@') => {
                let named = self.ruleset.named(self.chain, text.get(1..)?)?;
                let changes = several(&named["flags"]).any(|flag| flag == "dynamic" || flag == "timeout");
                if changes {
                    return None;
                }
                named.get("elem").unwrap_or(&Value::Null)
            }
            _ => value.get("set").unwrap_or(value),
        };
        // An element with a comment or a counter.
        Some(several(listed).map(|element| element["elem"].get("val").unwrap_or(element)).collect())
    }
}

impl Share {
    fn of(is_true: bool) -> Self {
        if is_true { Self::All } else { Self::None }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, _) | (_, Self::None) => Self::None,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Some, _) | (_, Self::Some) => Self::Some,
            (Self::All, Self::All) => Self::All,
        }
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::Some, _) | (_, Self::Some) => Self::Some,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::None, Self::None) => Self::None,
        }
    }

    fn inverted(self) -> Self {
        match self {
            Self::All => Self::None,
            Self::None => Self::All,
            other => other,
        }
    }
}

impl Ends {
    fn share(&self, elements: &[&Value], is_v4: bool) -> Share {
        let Some(mut ranges) = elements.iter().map(|element| range(element)).collect::<Option<Vec<_>>>() else {
            return Share::Unknown;
        };
        // No packet has an IPv4-mapped address (firewalld's list of what has no kind).
        ranges.retain(|range| range.is_v4() == is_v4);
        let holds =
            |outer: &AddressRange, inner: &AddressRange| outer.contains(inner.first()) && outer.contains(inner.last());
        let is_everything = |range: &AddressRange| range.prefixes().iter().all(|net| net.prefix_len() == 0);
        match self {
            Self::These(these) if these.iter().all(|one| ranges.iter().any(|range| holds(range, one))) => Share::All,
            Self::These(these) => {
                let is_one = |range: &AddressRange| these.iter().any(|one| one.overlaps(range));
                if ranges.iter().any(is_one) { Share::Some } else { Share::None }
            }
            Self::AllBut(others) => {
                let one = |range: &AddressRange| match others.iter().find(|other| other.overlaps(range)) {
                    _ if is_everything(range) => Share::All,
                    None => Share::Some,
                    Some(_) if others.iter().any(|other| holds(other, range)) => Share::None,
                    // Larger than what it is meant for, or meant for others too.
                    Some(_) => Share::Unknown,
                };
                ranges.iter().map(one).fold(Share::None, Share::or)
            }
        }
    }
}

/// What `statement` ends the rule with.
fn verdict(statement: &Value) -> Option<Verdict<'_>> {
    let (kind, what) = statement.as_object()?.iter().next()?;
    Some(match kind.as_str() {
        // What a program in user space decides is not the rule set's fault.
        "accept" | "queue" => Verdict::Accept,
        "drop" | "reject" => Verdict::Drop,
        "return" => Verdict::Return,
        "jump" => Verdict::Jump(word(what, "target")),
        "goto" => Verdict::Goto(word(what, "target")),
        "masquerade" | "snat" => Verdict::Masquerade,
        "notrack" => Verdict::Untrack,
        "xt" if what["type"] == "target" => match word(what, "name") {
            "MASQUERADE" | "SNAT" => Verdict::Masquerade,
            "REJECT" => Verdict::Drop,
            "NFQUEUE" => Verdict::Accept,
            "NOTRACK" => Verdict::Untrack,
            _ => return None,
        },
        _ => return None,
    })
}

/// The packets are TCP and UDP.
fn transports(elements: &[&Value]) -> Share {
    let has = |name: &str, number: u8| elements.iter().any(|element| **element == name || **element == number);
    match (has("tcp", 6), has("udp", 17)) {
        (true, true) => Share::All,
        (false, false) => Share::None,
        _ => Share::Some,
    }
}

/// Whether a name or a pattern (`eth*`) means the interface.
fn means(value: &Value, interface: &str) -> bool {
    value.as_str().is_some_and(|text| match text.strip_suffix('*') {
        Some(start) => interface.starts_with(start),
        None => text == interface,
    })
}

/// An address, a prefix or a range.
fn range(value: &Value) -> Option<AddressRange> {
    let text = if let Some(prefix) = value.get("prefix") {
        format!("{}/{}", word(prefix, "addr"), prefix["len"])
    } else if let Some(ends) = value.get("range") {
        format!("{}-{}", ends[0].as_str()?, ends[1].as_str()?)
    } else {
        value.as_str()?.to_owned()
    };
    text.parse().ok()
}
