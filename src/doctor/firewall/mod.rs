//! What the rules of nftables and iptables would do to a gateway's packets, as far as reading can tell.
//!
//! Whether kernel or user space translates, every hook sees a packet with the terminal's own address, from the real
//! inside interface to the real outside interface or back: the source changes after postrouting, the destination before
//! prerouting.

mod advice;
mod gateway;
mod host;
mod iptables;
mod ruleset;
mod walk;

#[cfg(test)]
mod tests;

use crate::config::{Config, FastPathMode};
use crate::doctor::finding::{Finding, Grade, ask};
use crate::nat::Hairpin;
use crate::wire::AddressRange;
use advice::Rule;
use gateway::{Gateway, PacketKind, Passage};
use host::Host;
use ipnet::IpNet;
use ruleset::{Chain, Maker, Ruleset};
use std::collections::BTreeSet;
use std::net::IpAddr;
use walk::{Ends, Fate, Goal, Packets, State};

/// Tables of gateways: what keeps inside packets from leaving by undeclared interfaces.
const GUARD: &str = "kamei-guard-";
/// Prefixes that a rule names; instead of more, it names their interfaces.
const MOST_PREFIXES: usize = 16;

/// Asks the programs that list rules. `sources` are the prefixes of the insides.
pub fn examine(config: &Config, sources: &[IpNet]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let told = ask("nft", &["-j", "list", "ruleset"]);
    let mut ruleset = told.and_then(|text| Ruleset::parse(&text)).unwrap_or_else(|| {
        findings
            .push(Finding::note("nft cannot be asked, or said what cannot be read, so its rules were not looked at"));
        Ruleset::default()
    });
    if ruleset.lacks_devices()
        && let Some(text) = ask("nft", &["list", "chains", "netdev"])
    {
        ruleset.add_devices(&text);
    }
    for (version, program) in [("ip", "iptables"), ("ip6", "ip6tables")] {
        if let Some(text) = ask(&format!("{program}-nft-save"), &[]) {
            ruleset.add_iptables(program, &text);
        }
        // Asked without need, it loads the module of the old rules.
        let names = std::fs::read_to_string(format!("/proc/self/net/{version}_tables_names")).unwrap_or_default();
        if names.trim().is_empty() {
            continue;
        }
        let legacy = format!("{program}-legacy");
        match ask(&format!("{legacy}-save"), &[]) {
            Some(text) => ruleset.add_iptables(&legacy, &text),
            None => findings.push(Finding::note(format!(
                "there are rules of the old iptables, and no {legacy}-save to list them; they must let calls, answers and \
                 callbacks pass, with the terminals' own addresses"
            ))),
        }
    }
    let host = Host::read(config, &ruleset);
    // Nothing is called fine where not everything was read.
    let is_all = findings.is_empty();
    let judged = judge(&ruleset, config, sources, &host).into_iter();
    findings.extend(judged.filter(|finding| is_all || finding.grade != Grade::Fine));
    findings
}

fn judge(ruleset: &Ruleset, config: &Config, sources: &[IpNet], host: &Host) -> Vec<Finding> {
    let gateway = Gateway::new(config, host, sources, ruleset);
    if gateway.terminals.is_empty() {
        return vec![Finding::note("no prefix of an inside is known, so firewall rules were not looked at")];
    }
    let is_on_the_way = |chain: &Chain| {
        let hooks: &[&str] = match chain.family {
            "arp" => &[],
            "bridge" => &["prerouting", "input", "output", "postrouting"],
            _ => &["ingress", "prerouting", "forward", "postrouting", "egress"],
        };
        let is_passed = || {
            PacketKind::ALL
                .iter()
                .flat_map(|kind| gateway.passages(*kind))
                .any(|one| !gateway.packets(chain, one).is_empty())
        };
        hooks.contains(&chain.hook) && !chain.table.starts_with(GUARD) && is_passed()
    };
    let chains: Vec<Chain> = ruleset.base_chains().filter(is_on_the_way).collect();
    let mut findings: Vec<Finding> = Vec::new();
    for chain in &chains {
        findings.extend(drops(ruleset, chain, &gateway));
        findings.extend(drops_single(ruleset, chain, &gateway));
        findings.extend(drops_invalid(ruleset, chain, &gateway));
        findings.extend(drops_hairpins(ruleset, chain, &gateway));
        findings.extend(masquerades(ruleset, chain, &gateway));
    }
    if findings.is_empty() {
        let what = "lets calls, answers and callbacks pass";
        findings.push(Finding::fine(format!("the firewall, with {} chains on the kind, {what}", chains.len())));
    }
    findings
}

/// A chain that lets nothing of a kind pass.
fn drops(ruleset: &Ruleset, chain: &Chain, gateway: &Gateway) -> Option<Finding> {
    if chain.kind == "route" {
        return None;
    }
    // Before connection tracking answers are like calls and callbacks; chains for NAT see the first packet of a flow alone.
    let has_answers = chain.is_tracked() && chain.kind != "nat";
    let ways = PacketKind::ALL.into_iter().filter(|kind| has_answers || *kind != PacketKind::Answer);
    let mut lost = Lost::default();
    for passage in ways.flat_map(|kind| gateway.passages(kind)) {
        for packets in gateway.packets(chain, passage) {
            lost.add(ruleset, chain, passage, &packets);
        }
    }
    if lost.passages.is_empty() {
        return None;
    }
    let knows_device = chain.family != "netdev" || !chain.devices.is_empty();
    let add = lost.advice(chain, gateway);
    let (name, words) = (full_name(chain), lost.words(chain));
    Some(if !lost.is_certain || !knows_device {
        Finding::note(format!(
            "kamei doctor cannot read all that the firewall's chain `{name}` asks; unless it lets {words} pass, {add}"
        ))
    } else if chain.hook == "forward" {
        Finding::wrong(format!("the firewall's chain `{name}` drops {words}; {add}"))
    } else {
        let address = if lost.is_below { "virtual IPs" } else { "the terminal's own address" };
        Finding::wrong(format!("the firewall's chain `{name}` drops {words}: packets have {address} there; {add}"))
    })
}

/// A chain before connection tracking that drops what comes for single terminals. Netfilter's own NAT gives packets their
/// addresses after it.
fn drops_single(ruleset: &Ruleset, chain: &Chain, gateway: &Gateway) -> Option<Finding> {
    if chain.hook != "prerouting" || chain.is_tracked() {
        return None;
    }
    let is_terminal = |address: &IpAddr| gateway.terminals.iter().any(|net| net.contains(address));
    let named: BTreeSet<IpAddr> = ruleset.destinations(chain).filter(is_terminal).collect();
    let callbacks = || gateway.passages(PacketKind::Callback).into_iter();
    let is_dropped = |address: &IpAddr, passage: Passage| {
        let only = Ends::These(vec![IpNet::from(*address).into()]);
        let seen = gateway.packets(chain, passage).into_iter().flatten();
        let mut of_family = seen.filter(|packets| packets.is_v4 == address.is_ipv4());
        of_family.next().is_some_and(|packets| {
            let pass = ruleset.follow(chain, &packets, Goal::Accept) != Fate::Missed;
            let one = Packets { destinations: only, ..packets };
            pass && ruleset.follow(chain, &one, Goal::Accept) == Fate::Missed
        })
    };
    let lost = named.into_iter().filter(|address| callbacks().any(|passage| is_dropped(address, passage)));
    let lost: Vec<IpAddr> = lost.take(MOST_PREFIXES).collect();
    if lost.is_empty() {
        return None;
    }
    let of_family = |is_v4: bool| -> Vec<AddressRange> {
        lost.iter().filter(|address| address.is_ipv4() == is_v4).map(|address| IpNet::from(*address).into()).collect()
    };
    let from: BTreeSet<&str> = callbacks().map(|passage| passage.from).collect();
    let rules = [true, false].map(of_family).into_iter().filter(|destinations| !destinations.is_empty());
    let rules = rules.map(|destinations| Rule { from: from.clone(), destinations, ..Rule::default() });
    let listed: Vec<String> = lost.iter().map(ToString::to_string).collect();
    Some(Finding::note(format!(
        "the firewall's chain `{}` drops what comes from outside for {}, as Docker has it for containers that publish ports \
         (not with its option allow-direct-routing); unless that is meant, add: {}",
        full_name(chain),
        listed.join(", "),
        rules.flat_map(|rule| rule.commands(chain)).collect::<Vec<_>>().join("; ")
    )))
}

/// Where known flows are redirected, connection tracking sees one packet of thousands, and calls the next ones of a TCP
/// connection invalid.
fn drops_invalid(ruleset: &Ruleset, chain: &Chain, gateway: &Gateway) -> Option<Finding> {
    let is_redirected = matches!(gateway.config.fast_path.mode, FastPathMode::Redirect | FastPathMode::Xdp);
    if !is_redirected || gateway.host.is_liberal || !chain.is_tracked() || chain.kind != "filter" {
        return None;
    }
    let follow = |packets: &[Packets], state: State| {
        let (state, packets) = (Some(state), packets.first()?);
        (packets.state == Some(State::New) || packets.state == Some(State::Established))
            .then(|| ruleset.follow(chain, &Packets { state, ..packets.clone() }, Goal::Accept))
    };
    let is_dropped = |packets: &Vec<Packets>| {
        follow(packets, State::Established) == Some(Fate::Reached)
            && follow(packets, State::Invalid) == Some(Fate::Missed)
    };
    let mut passages = [PacketKind::Answer, PacketKind::Call].into_iter().flat_map(|kind| gateway.passages(kind));
    passages.any(|passage| gateway.packets(chain, passage).iter().any(is_dropped)).then(|| {
        Finding::wrong(format!(
            "the firewall's chain `{}` drops what connection tracking calls invalid, as it does with TCP of which it sees only \
             a part: every few seconds a known flow loses packets; sysctl -w \
             net.netfilter.nf_conntrack_tcp_be_liberal=1, or choose --fast-path tc",
            full_name(chain)
        ))
    })
}

/// What a chain may lose.
#[derive(Default)]
struct Lost<'g> {
    passages: BTreeSet<(PacketKind, &'g str, &'g str)>,
    /// Answers are none to connection tracking: no rule for established connections lets them pass.
    has_unknown_answers: bool,
    families: BTreeSet<bool>,
    is_certain: bool,
    is_below: bool,
}

impl<'g> Lost<'g> {
    /// Adds packets, which come by one of several ports, if they are lost by each.
    fn add(&mut self, ruleset: &Ruleset, chain: &Chain, passage: Passage<'g>, packets: &[Packets]) {
        let fates = || packets.iter().map(|packets| ruleset.follow(chain, packets, Goal::Accept));
        let Some(first) = packets.first() else { return };
        if fates().any(|fate| fate == Fate::Reached) {
            return;
        }
        self.is_certain |= fates().all(|fate| fate == Fate::Missed);
        self.is_below |= first.from != Some(passage.from) && first.to != Some(passage.to);
        self.passages.insert((passage.kind, passage.from, passage.to));
        self.families.insert(first.is_v4);
        let is_unknown = matches!(first.state, Some(State::New | State::Untracked));
        self.has_unknown_answers |= is_unknown && passage.kind == PacketKind::Answer;
    }

    fn words(&self, chain: &Chain) -> String {
        let word = |kind: PacketKind| match kind {
            PacketKind::Call if !chain.is_tracked() && chain.is_before_routing() => "what terminals send",
            PacketKind::Callback if !chain.is_tracked() => "answers and callbacks",
            kind => kind.words(),
        };
        let ways: BTreeSet<PacketKind> = self.passages.iter().map(|(kind, ..)| *kind).collect();
        ways.into_iter().map(word).collect::<Vec<_>>().join(", ")
    }

    /// What adds the rules that the chain lacks.
    fn advice(&self, chain: &Chain, gateway: &'g Gateway) -> String {
        let passages = self.passages.iter().filter(|(kind, ..)| *kind != PacketKind::Answer).copied();
        match chain.maker {
            Maker::Firewalld if chain.hook == "forward" => return advice::by_zones(passages, &gateway.host.zones),
            Maker::Ufw if chain.hook == "forward" => return advice::by_ufw(passages),
            Maker::Firewalld | Maker::Owner => return advice::OWNED.to_owned(),
            Maker::Ufw | Maker::Any => {}
        }
        let rules = PacketKind::ALL.into_iter().flat_map(|kind| self.rules(kind, chain, gateway));
        let mut commands: Vec<String> = rules.flat_map(|rule| rule.commands(chain)).collect();
        commands.dedup();
        format!("add: {}", commands.join("; "))
    }

    fn rules(&self, kind: PacketKind, chain: &Chain, gateway: &'g Gateway) -> Vec<Rule<'g>> {
        let of_way = || self.passages.iter().filter(|(this, ..)| *this == kind);
        if of_way().next().is_none() {
            return Vec::new();
        }
        let from = || of_way().map(|(_, from, _)| *from).collect();
        let to = || of_way().map(|(.., to)| *to).collect();
        let is_by_state = chain.is_tracked() && kind == PacketKind::Answer && !self.has_unknown_answers;
        match chain.hook {
            _ if is_by_state => return vec![Rule { is_established: true, ..Rule::default() }],
            "forward" => return vec![Rule { from: from(), to: to(), ..Rule::default() }],
            _ => {}
        }
        let is_inward = |kind: PacketKind| match kind {
            PacketKind::Call => false,
            PacketKind::Callback => true,
            PacketKind::Answer => of_way().any(|(_, from, _)| gateway.has_outside(from)),
        };
        let of_family = |is_v4: &bool| {
            let near = if self.is_below
                && of_way().any(|(_, from, to)| gateway.has_outside(if chain.is_before_routing() { from } else { to }))
            {
                gateway.pools(*is_v4)
            } else {
                gateway.terminals_of(*is_v4)
            };
            let (sources, destinations) = if is_inward(kind) { (Vec::new(), near) } else { (near, Vec::new()) };
            let mut rule = Rule { sources, destinations, ..Rule::default() };
            match chain.hook {
                // It is at one interface alone, or below it.
                _ if self.is_below || chain.family == "netdev" => {}
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
    if chain.hook != "forward" || chain.kind != "filter" || gateway.config.policy.hairpin == Hairpin::Off {
        return None;
    }
    let interfaces = gateway.config.insides.iter().flat_map(|inside| &inside.interfaces);
    let device = gateway.device.as_str();
    let mut lost = Lost::default();
    for interface in interfaces {
        let out = Passage { kind: PacketKind::Call, from: interface, to: device };
        for packets in gateway.packets(chain, out).into_iter().flatten() {
            let (terminals, pools) = (packets.destinations.clone(), Ends::These(gateway.pools(packets.is_v4)));
            let there = Packets { sources: terminals.clone(), destinations: pools.clone(), ..packets.clone() };
            lost.add(ruleset, chain, out, &[there]);
            let back = Passage { kind: PacketKind::Callback, from: device, to: interface };
            let here = Packets { from: Some(back.from), to: Some(back.to), sources: pools, ..packets };
            lost.add(ruleset, chain, back, &[here]);
        }
    }
    if !lost.is_certain {
        return None;
    }
    Some(Finding::note(format!(
        "the firewall's chain `{}` drops what terminals send to each other's virtual IPs; if they are to, {}",
        full_name(chain),
        lost.advice(chain, gateway)
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
        for passage in gateway.passages(PacketKind::Call) {
            let is_v4 = terminals.addr().is_ipv4();
            let mut seen = gateway.packets(chain, passage).into_iter().flatten();
            let Some(packets) = seen.find(|packets| packets.is_v4 == is_v4) else { continue };
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
        vec![Rule { from: interfaces.map(String::as_str).collect(), to: exits.clone(), ..Rule::default() }]
    } else {
        let sources = [true, false].into_iter().map(of_family).filter(|sources| !sources.is_empty());
        sources.map(|sources| Rule { sources, to: exits.clone(), ..Rule::default() }).collect()
    };
    let name = full_name(chain);
    let advice = match chain.maker {
        Maker::Firewalld => advice::unmasked(&exits, &hidden, &gateway.host.zones),
        Maker::Owner => advice::OWNED.to_owned(),
        Maker::Ufw | Maker::Any => {
            format!("add: {}", rules.iter().flat_map(|rule| rule.commands(chain)).collect::<Vec<_>>().join("; "))
        }
    };
    Some(if is_certain {
        Finding::wrong(format!(
            "the firewall's chain `{name}` hides terminals behind this machine's own address before the gateway can give \
             them virtual IPs, so nobody can call them back; {advice}"
        ))
    } else {
        Finding::note(format!(
            "kamei doctor cannot read all that the firewall's chain `{name}` asks; if it masquerades terminals, {advice}"
        ))
    })
}

fn full_name(chain: &Chain) -> String {
    format!("{} {} {}", chain.family, chain.table, chain.name)
}
