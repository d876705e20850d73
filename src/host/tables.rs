//! What the routing tables and rules shall hold: a pure function of the plan and of what the host has.
//!
//! Main gets one route a pool, to the gateway's device: so the kernel answers on the outside's LAN for virtual IPs, and what
//! terminals and the machine itself send to them reaches the translator. Nothing else is led by the gateway: what is
//! translated goes the way the machine's own tables say.
//!
//! Only where two insides have equal addresses, rules tell them apart.
//!
//! # Tables of one gateway
//!
//! A number is `(0x80_0000 | 23 bits of a hash of the --tun name) << 8 | slot`; far from the small numbers people choose.
//!
//! | slot | table | holds |
//! | --- | --- | --- |
//! | 2 + 2k | INSIDE k | copies of main's routes through the interfaces of inside k; nothing else |
//! | 255 | CLOSED | a blackhole for everything |
//!
//! # Rules, of insides that share addresses with another
//!
//! | priority | matches | does |
//! | --- | --- | --- |
//! | 7401 | the host's own ICMP errors, to an address that two insides have | CLOSED: nothing says which of the two is meant |
//! | 7410 | from an interface of inside k | INSIDE k |
//! | 7412 | from `{tun}-ink` | INSIDE k |
//! | 7413 | from `{tun}-ink` | unreachable: what is meant for a terminal never goes anywhere else |
//! | 7423 | the host's own, from its address in inside k | INSIDE k: an answer goes where the question came from |

use super::messages::{Family, Route, Rule, Then, To};
use super::plan::Plan;
use super::view::Host;
use super::view::MAIN;
use ipnet::IpNet;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

const ERROR_AMBIGUOUS: u32 = 7401;
const FROM_INSIDE_LOCAL: u32 = 7410;
const INTO_INSIDE: u32 = 7412;
const INTO_INSIDE_ONLY: u32 = 7413;
const OWN_INSIDE: u32 = 7423;

/// Metrics: the device of a pool; what is behind everything else.
const DEVICE: u32 = 10;
const BEHIND: u32 = 1000;

/// Types of ICMP errors as type × 256 + code: 3 unreachable, 4 source quench, 5 redirect; 11 time exceeded,
/// 12 parameter problem (RFC 792); 1–4 of ICMPv6 (RFC 4443).
const ERRORS_V4: [(u8, u16, u16); 2] = [(1, 3 << 8, (5 << 8) | 0xff), (1, 11 << 8, (12 << 8) | 0xff)];
const ERRORS_V6: [(u8, u16, u16); 1] = [(58, 1 << 8, (4 << 8) | 0xff)];

/// The table numbers of one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tables {
    base: u32,
}

impl Tables {
    pub(super) fn of(tun: &str) -> Self {
        // FNV-1a: the number must be the same in every build, for a successor must know what its predecessor left.
        let hash = tun.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self { base: ((hash ^ (hash >> 24)) | 0x80_0000) << 8 }
    }

    /// Whether a table is one of this gateway's.
    pub(super) fn own(self, table: u32) -> bool {
        table & !0xff == self.base
    }

    pub(super) fn inside(self, realm: usize) -> u32 {
        self.base | (2 + 2 * slot(realm))
    }

    pub(super) fn closed(self) -> u32 {
        self.base | 0xff
    }

    /// Whether a table holds copies of main's routes.
    pub(super) fn is_copy(self, table: u32) -> bool {
        self.own(table) && table & 0xff > 1 && table & 1 == 0
    }

    /// Whether the rule is one of the gateway `tun`'s: by its table, or by its device.
    pub(super) fn owns_rule(self, rule: &Rule, tun: &str) -> bool {
        match rule.then {
            Then::Table(table) | Then::Past { table, .. } => self.own(table),
            Then::Unreachable | Then::Nothing => {
                rule.from_interface.as_deref().is_some_and(|name| is_device_of(name, tun))
            }
        }
    }
}

/// The gateway's device: packets on their way to user space and back.
pub(super) fn device_of(tun: &str) -> String {
    format!("{tun}-nat")
}

/// Whether `name` is a device of the gateway `tun`: `{tun}-nat`, `{tun}-in0`, `{tun}-in1`… or, of earlier versions,
/// `{tun}-out`.
pub(super) fn is_device_of(name: &str, tun: &str) -> bool {
    name.strip_prefix(tun).and_then(|rest| rest.strip_prefix('-')).is_some_and(|rest| {
        matches!(rest, "nat" | "out")
            || rest.strip_prefix("in").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// The last two slots are not for insides, so there is room for 126; the plan is checked for that.
fn slot(realm: usize) -> u32 {
    u32::try_from(realm).unwrap_or(u32::MAX).min(super::INSIDES_MAX - 1)
}

/// The rules and routes the gateway needs; each list in the order in which it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) routes: Vec<Route>,
    pub(super) rules: Vec<Rule>,
}

/// Says what shall be there.
pub(super) fn wanted(plan: &Plan, host: &Host) -> Wanted {
    let tables = Tables::of(&plan.tun);
    let mut wanted = Wanted::default();
    for family in [Family::V4, Family::V6] {
        if family == Family::V6 && !host.has_ipv6 {
            continue;
        }
        wanted.routes.extend(pools(plan, host, family));
        let doubled: Vec<usize> = (0..host.insides.len()).filter(|realm| is_doubled(host, *realm, family)).collect();
        if !doubled.is_empty() {
            wanted.routes.push(Route::blackhole(tables.closed(), family.everything(), BEHIND));
        }
        for realm in doubled {
            let Some(inside) = host.insides.get(realm) else { continue };
            let routes = inside.routes.iter().filter(|route| route.family() == family);
            wanted.routes.extend(routes.map(|route| Route { table: tables.inside(realm), ..route.clone() }));
            apart(plan, host, realm, family, &mut wanted.rules);
        }
    }
    let mut seen = HashSet::new();
    wanted.routes.retain(|route| seen.insert(route.key()));
    // Blackholes first, so that no state in between leaks; connected networks before those behind a router in them.
    wanted.routes.sort_by_key(|route| match &route.to {
        To::Blackhole => 0,
        To::Throw => 1,
        To::Hops(hops) => 2 + u8::from(!hops.gateways().is_empty()),
    });
    wanted
}

/// The pools' routes: without the addresses in them that a host has. Where main has a route for all of a pool, to an
/// outside's network say, two for its halves come before it.
fn pools(plan: &Plan, host: &Host, family: Family) -> Vec<Route> {
    let Some(device) = host.device else { return Vec::new() };
    let mut nets: Vec<IpNet> = plan.pools.iter().flat_map(|pool| pool.prefixes()).collect();
    nets.retain(|net| Family::of(net.addr()) == family);
    for address in &host.reserved {
        nets = nets.into_iter().flat_map(|net| without(net, *address)).collect();
    }
    let is_taken = |net: &IpNet| host.lans.iter().any(|lan| lan.network == *net);
    let halves = |net: IpNet| match net.subnets(net.prefix_len() + 1) {
        Ok(halves) if is_taken(&net) => halves.collect(),
        _ => vec![net],
    };
    nets.into_iter().flat_map(halves).map(|net| Route::device(MAIN, net, DEVICE, device, None)).collect()
}

/// A prefix as prefixes that leave an address out.
fn without(net: IpNet, address: IpAddr) -> Vec<IpNet> {
    if !net.contains(&address) {
        return vec![net];
    }
    match net.subnets(net.prefix_len() + 1) {
        Ok(halves) => halves.flat_map(|half| without(half, address)).collect(),
        Err(_) => Vec::new(),
    }
}

/// Whether an inside has addresses that another has too.
fn is_doubled(host: &Host, realm: usize, family: Family) -> bool {
    host.closable(realm, family).any(|net| host.is_ambiguous(realm, &net))
}

/// Tells an inside from the one that has the same addresses.
fn apart(plan: &Plan, host: &Host, realm: usize, family: Family, rules: &mut Vec<Rule>) {
    let (tables, Some(inside)) = (Tables::of(&plan.tun), plan.insides.get(realm)) else { return };
    let to_inside = Then::Table(tables.inside(realm));
    rules.extend(inside.interfaces.iter().map(|name| rule(FROM_INSIDE_LOCAL, family, name, to_inside)));
    if let Some(device) = &inside.device {
        rules.push(rule(INTO_INSIDE, family, device, to_inside));
        rules.push(rule(INTO_INSIDE_ONLY, family, device, Then::Unreachable));
    }
    let own = host.insides.get(realm).map_or(&[][..], |inside| &inside.own);
    for own in own.iter().filter(|a| Family::of(**a) == family && !host.own_outside.contains(a)) {
        rules.push(Rule { from: Some(IpNet::from(*own)), ..rule(OWN_INSIDE, family, "lo", to_inside) });
    }
    for source in host.closable(realm, family).filter(|net| host.is_ambiguous(realm, net)) {
        let errors: &[_] = if family == Family::V4 { &ERRORS_V4 } else { &ERRORS_V6 };
        for icmp in errors {
            let then = Then::Table(tables.closed());
            let error = Rule { to: Some(source), icmp: Some(*icmp), ..rule(ERROR_AMBIGUOUS, family, "lo", then) };
            if !rules.contains(&error) {
                rules.push(error);
            }
        }
    }
}

fn rule(priority: u32, family: Family, from: &str, then: Then) -> Rule {
    let from_interface = Some(from.to_owned());
    Rule { priority, family, from_interface, from: None, to: None, icmp: None, then }
}

/// What has to be done so that what is there becomes what is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) set_routes: Vec<Route>,
    pub(super) add_rules: Vec<Rule>,
    pub(super) remove_rules: Vec<Rule>,
    pub(super) remove_routes: Vec<Route>,
}

/// Compares. To be done in the order of the fields: nothing is taken away before its replacement stands.
pub(super) fn difference(wanted: &Wanted, there: &Wanted) -> Difference {
    let keys: HashSet<_> = wanted.routes.iter().map(Route::key).collect();
    let present: HashMap<_, _> = there.routes.iter().map(|route| (route.key(), &route.to)).collect();
    let mut left: Vec<&Rule> = there.rules.iter().collect();
    let mut add_rules = Vec::new();
    for rule in &wanted.rules {
        match left.iter().position(|have| *have == rule) {
            Some(at) => drop(left.swap_remove(at)),
            None => add_rules.push(rule.clone()),
        }
    }
    Difference {
        set_routes: wanted.routes.iter().filter(|r| present.get(&r.key()) != Some(&&r.to)).cloned().collect(),
        add_rules,
        remove_rules: left.into_iter().cloned().collect(),
        remove_routes: there.routes.iter().filter(|route| !keys.contains(&route.key())).cloned().collect(),
    }
}

#[cfg(test)]
mod tests;
