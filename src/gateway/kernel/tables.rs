//! What the routing tables and rules shall hold: a pure function of the plan and of what the host has.
//!
//! # Tables of one gateway
//!
//! A number is `(0x80_0000 | 23 bits of a hash of the --tun name) << 8 | slot`; far from the small numbers people choose.
//!
//! | slot | table | holds |
//! | --- | --- | --- |
//! | 0 | ERROR | default → `{tun}-out`, blackhole behind |
//! | 1 | OUT | pools → `{tun}-out`, blackholes behind; blackholes for all inside prefixes; reserved addresses thrown out |
//! | 2 + 2k | INSIDE k | copies of main's routes through the interfaces of inside k; nothing else |
//! | 3 + 2k | FROM k | default → `{tun}-ink`, blackhole behind |
//! | 255 | CLOSED | a blackhole for everything |
//!
//! INSIDE holds copies, not references to main: when an inside interface goes down the kernel takes its routes out of
//! main at once, and a packet that was sent on to main would follow the default route to the outside, with its inside
//! address in clear. From INSIDE it falls through to the gateway's own device, or to nowhere.
//!
//! # Rules
//!
//! | priority | matches | does |
//! | --- | --- | --- |
//! | 7400 | from inside k to an exempt destination; from the host to one | skips all that follows |
//! | 7401 | the host's own ICMP errors, to an address that two insides have | CLOSED: nothing says which of the two is meant |
//! | 7402 | the host's own ICMP errors | INSIDE k, for every k |
//! | 7403 | the host's own ICMP errors | ERROR: through the translator, for they may quote an inside address |
//! | 7404 | from an inside interface and a pool, marked | OUT: what is for a pool is hairpin, what is for an inside prefix goes nowhere |
//! | 7405 | from an inside interface and a pool, marked | skips all that follows |
//! | 7410 | from an inside interface | INSIDE k: between insides nothing is translated |
//! | 7411 | from an inside interface | FROM k |
//! | 7412 | from `{tun}-ink` | INSIDE k |
//! | 7413 | from `{tun}-ink` | unreachable: what is meant for a terminal never goes anywhere else |
//! | 7417 | from an outside interface, marked | INSIDE k, for every k |
//! | 7418 | from an outside interface, from an exempt peer to inside k | INSIDE k |
//! | 7420 | to a pool | OUT |
//! | 7421 | from an outside interface, from `{tun}-out` | OUT: nobody outside, and no other inside, reaches an inside address |
//! | 7423 | the host's own, from its address in inside k | INSIDE k: an answer goes where the question came from |
//! | 7424 | the host's own, from an inside address | CLOSED: nobody else may see it. Not where the host has other networks beside |
//! | 7425 | the host's own, from `{tun}-out` | skips all that follows |
//! | 7426 | from an address of inside k | CLOSED: it did not come by an interface of inside k, and goes nowhere |
//! | 7429 | from `{tun}-out` | nothing; it keeps the name, so that what a killed gateway left can be told from others' |
//!
//! 7426 drops what pretends to come from the inside. It also keeps an inside interface closed in the moment after it was
//! renamed: the kernel matches interfaces in rules by name, and takes the new name for another interface.
//!
//! A mark says that the fast path has translated the packet already (see `fastpath`): its program clears it on everything
//! else that comes in by an interface of the gateway. Marked packets go where the translator's own go, and no further.
//!
//! A family without a pool gets no rules about errors and devices, and FROM holds only the blackhole: its packets stay inside.

use super::messages::{Family, Route, Rule, Then, To};
use super::{Host, Plan};
use ipnet::IpNet;
use std::collections::{HashMap, HashSet};
use std::net::Ipv6Addr;

/// The priority of the first and of the last rule.
pub(super) const PRIORITIES: std::ops::RangeInclusive<u32> = 7400..=7499;

const EXEMPT: u32 = 7400;
const ERROR_AMBIGUOUS: u32 = 7401;
const ERROR_INSIDE: u32 = 7402;
const ERROR: u32 = 7403;
const CALL_CLOSED: u32 = 7404;
const CALL: u32 = 7405;
const FROM_INSIDE_LOCAL: u32 = 7410;
const FROM_INSIDE: u32 = 7411;
const INTO_INSIDE: u32 = 7412;
const INTO_INSIDE_ONLY: u32 = 7413;
const CALLBACK: u32 = 7417;
const EXEMPT_BACK: u32 = 7418;
pub(super) const POOL: u32 = 7420;
const OUTSIDE: u32 = 7421;
const OWN_INSIDE: u32 = 7423;
const OWN_CLOSED: u32 = 7424;
const FREE: u32 = 7425;
const NOT_FROM_INSIDE: u32 = 7426;
const NAME: u32 = 7429;

/// Metrics: an exception before the device, the device before the blackhole.
const EXCEPTION: u32 = 5;
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

    pub(super) fn error(self) -> u32 {
        self.base
    }

    pub(super) fn out(self) -> u32 {
        self.base | 1
    }

    pub(super) fn inside(self, realm: usize) -> u32 {
        self.base | (2 + 2 * slot(realm))
    }

    pub(super) fn from(self, realm: usize) -> u32 {
        self.base | (3 + 2 * slot(realm))
    }

    pub(super) fn closed(self) -> u32 {
        self.base | 0xff
    }

    /// On behind all rules of the gateway.
    fn past(self) -> Then {
        Then::Past { target: NAME, table: self.base }
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

/// Whether `name` is a device of the gateway `tun`: `{tun}-out` or `{tun}-in0`, `{tun}-in1`…
pub(super) fn is_device_of(name: &str, tun: &str) -> bool {
    name.strip_prefix(tun).and_then(|rest| rest.strip_prefix('-')).is_some_and(|rest| {
        rest == "out" || rest.strip_prefix("in").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// The `--tun` name that a rule keeps, if it is one that does.
pub(super) fn name_kept_by(rule: &Rule) -> Option<&str> {
    if rule.priority != NAME || rule.then != Then::Nothing {
        return None;
    }
    rule.from_interface.as_deref()?.strip_suffix("-out")
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
        let pooled = plan.pools.iter().any(|pool| pool.is_v4() == (family == Family::V4));
        routes(plan, host, tables, family, pooled, &mut wanted.routes);
        wanted.rules.push(rule(NAME, family, &plan.outside_device, Then::Nothing));
        rules(plan, tables, family, pooled, &mut wanted.rules);
        if let Some(mark) = plan.mark.filter(|_| pooled) {
            marked(plan, tables, family, mark, &mut wanted.rules);
        }
        exemptions(plan, host, tables, family, &mut wanted.rules);
        own_and_foreign(plan, host, tables, family, &mut wanted.rules);
    }
    let mut seen = HashSet::new();
    wanted.routes.retain(|route| seen.insert(route.key()));
    // Blackholes first, so that no state in between leaks; connected networks before those behind a router in them.
    wanted.routes.sort_by_key(|route| match &route.to {
        To::Blackhole => 0,
        To::Throw => 1,
        To::Hops(hops) => 2 + u8::from(!hops.gateways().is_empty()),
    });
    // The name first: whatever happens in the middle, it can be cleared by name. The rules that turn inside packets
    // over to the gateway last.
    wanted.rules.sort_by_key(|rule| match rule.priority {
        NAME => 0,
        FROM_INSIDE_LOCAL..=INTO_INSIDE_ONLY => 2,
        _ => 1,
    });
    wanted
}

fn routes(plan: &Plan, host: &Host, tables: Tables, family: Family, pooled: bool, routes: &mut Vec<Route>) {
    let of_family = |net: &&IpNet| Family::of(net.addr()) == family;
    let everything = family.everything();
    if pooled {
        if let Some(device) = host.outside_device {
            routes.push(Route::device(tables.error(), everything, DEVICE, device, host.outside_address(family)));
        }
        routes.push(Route::blackhole(tables.error(), everything, BEHIND));
        for pool in plan.pools.iter().flat_map(|pool| pool.prefixes()).filter(|net| of_family(&net)) {
            if let Some(device) = host.outside_device {
                routes.push(Route::device(tables.out(), pool, DEVICE, device, host.inside_address(family)));
            }
            routes.push(Route::blackhole(tables.out(), pool, BEHIND));
        }
        for address in host.reserved.iter().filter(|a| Family::of(**a) == family) {
            routes.push(Route::throw(tables.out(), IpNet::from(*address), EXCEPTION));
        }
    }
    routes.push(Route::blackhole(tables.closed(), everything, BEHIND));
    if family == Family::V6 {
        routes.push(Route::throw(tables.closed(), link_local(), EXCEPTION));
    }
    for (realm, inside) in host.insides.iter().enumerate() {
        for route in inside.routes.iter().filter(|route| route.family() == family) {
            routes.push(Route { table: tables.inside(realm), ..route.clone() });
        }
        if pooled && let Some(device) = inside.device {
            routes.push(Route::device(tables.from(realm), everything, DEVICE, device, None));
        }
        routes.push(Route::blackhole(tables.from(realm), everything, BEHIND));
        for source in inside.sources.iter().filter(of_family).filter(|net| !is_default(net)) {
            routes.push(Route::blackhole(tables.out(), *source, BEHIND));
        }
        if family == Family::V6 {
            // Link-local addresses mean one link; main knows which.
            routes.push(Route::throw(tables.from(realm), link_local(), EXCEPTION));
        }
    }
    if family == Family::V6 && pooled {
        routes.push(Route::throw(tables.error(), link_local(), EXCEPTION));
    }
}

fn rules(plan: &Plan, tables: Tables, family: Family, pooled: bool, rules: &mut Vec<Rule>) {
    if pooled {
        let errors: &[_] = if family == Family::V4 { &ERRORS_V4 } else { &ERRORS_V6 };
        for icmp in errors {
            let error =
                |priority, table| Rule { icmp: Some(*icmp), ..rule(priority, family, "lo", Then::Table(table)) };
            rules.extend((0..plan.insides.len()).map(|realm| error(ERROR_INSIDE, tables.inside(realm))));
            rules.push(error(ERROR, tables.error()));
        }
        for pool in plan.pools.iter().flat_map(|pool| pool.prefixes()) {
            if Family::of(pool.addr()) == family {
                let then = Then::Table(tables.out());
                rules.push(Rule { to: Some(pool), ..general(POOL, family, then) });
            }
        }
        rules.push(rule(OUTSIDE, family, &plan.outside_device, Then::Table(tables.out())));
    }
    for interface in &plan.outsides {
        rules.push(rule(OUTSIDE, family, interface, Then::Table(tables.out())));
    }
    for (realm, inside) in plan.insides.iter().enumerate() {
        if pooled {
            rules.push(rule(INTO_INSIDE, family, &inside.device, Then::Table(tables.inside(realm))));
            rules.push(rule(INTO_INSIDE_ONLY, family, &inside.device, Then::Unreachable));
        }
        for interface in &inside.interfaces {
            rules.push(rule(FROM_INSIDE_LOCAL, family, interface, Then::Table(tables.inside(realm))));
            rules.push(rule(FROM_INSIDE, family, interface, Then::Table(tables.from(realm))));
        }
    }
}

/// What the fast path has translated.
fn marked(plan: &Plan, tables: Tables, family: Family, mark: u32, rules: &mut Vec<Rule>) {
    let marked = |priority, interface: &str, then| Rule { mark: Some(mark), ..rule(priority, family, interface, then) };
    // Only from a virtual IP: where somebody else uses the mark, no inside address passes by.
    for pool in plan.pools.iter().flat_map(|pool| pool.prefixes()).filter(|pool| Family::of(pool.addr()) == family) {
        for interface in plan.insides.iter().flat_map(|inside| &inside.interfaces) {
            let call = |priority, then| Rule { from: Some(pool), ..marked(priority, interface, then) };
            rules.push(call(CALL_CLOSED, Then::Table(tables.out())));
            rules.push(call(CALL, tables.past()));
        }
    }
    for interface in &plan.outsides {
        let into = (0..plan.insides.len()).map(|realm| Then::Table(tables.inside(realm)));
        rules.extend(into.map(|then| marked(CALLBACK, interface, then)));
    }
}

/// Exempt destinations, both ways (RFC 6888 REQ-6). Only for addresses that one inside alone has: the way back of others
/// is not known, so they are translated like everywhere.
fn exemptions(plan: &Plan, host: &Host, tables: Tables, family: Family, rules: &mut Vec<Rule>) {
    for peers in plan.exempt.iter().copied().filter(|net| Family::of(net.addr()) == family) {
        rules.push(Rule { to: Some(peers), ..rule(EXEMPT, family, "lo", tables.past()) });
        for (realm, inside) in plan.insides.iter().enumerate() {
            for source in host.closable(realm, family).filter(|net| !host.is_ambiguous(realm, net)) {
                rules.extend(inside.interfaces.iter().map(|interface| Rule {
                    from: Some(source),
                    to: Some(peers),
                    ..rule(EXEMPT, family, interface, tables.past())
                }));
                rules.extend(plan.outsides.iter().map(|interface| Rule {
                    from: Some(peers),
                    to: Some(source),
                    ..rule(EXEMPT_BACK, family, interface, Then::Table(tables.inside(realm)))
                }));
            }
        }
    }
}

/// What the host sends itself, and what comes in by the wrong door.
fn own_and_foreign(plan: &Plan, host: &Host, tables: Tables, family: Family, rules: &mut Vec<Rule>) {
    for (realm, inside) in host.insides.iter().enumerate() {
        for own in inside.own.iter().filter(|a| Family::of(**a) == family && !host.own_outside.contains(a)) {
            let from = |priority, table| Rule {
                from: Some(IpNet::from(*own)),
                ..rule(priority, family, "lo", Then::Table(table))
            };
            rules.push(from(OWN_INSIDE, tables.inside(realm)));
            if !host.has_other_networks && !rules.contains(&from(OWN_CLOSED, tables.closed())) {
                rules.push(from(OWN_CLOSED, tables.closed()));
            }
        }
        for source in host.closable(realm, family) {
            let closed = Rule { from: Some(source), ..general(NOT_FROM_INSIDE, family, Then::Table(tables.closed())) };
            if !rules.contains(&closed) {
                rules.push(closed);
            }
            if host.is_ambiguous(realm, &source) {
                let errors: &[_] = if family == Family::V4 { &ERRORS_V4 } else { &ERRORS_V6 };
                for icmp in errors {
                    let then = Then::Table(tables.closed());
                    let error =
                        Rule { to: Some(source), icmp: Some(*icmp), ..rule(ERROR_AMBIGUOUS, family, "lo", then) };
                    if !rules.contains(&error) {
                        rules.push(error);
                    }
                }
            }
        }
    }
    rules.extend(["lo", &plan.outside_device].map(|from| rule(FREE, family, from, tables.past())));
}

fn rule(priority: u32, family: Family, from: &str, then: Then) -> Rule {
    Rule { from_interface: Some(from.to_owned()), ..general(priority, family, then) }
}

fn general(priority: u32, family: Family, then: Then) -> Rule {
    Rule { priority, family, from_interface: None, from: None, to: None, icmp: None, mark: None, then }
}

/// Whether a prefix is as good as "everything else": the default route, or one of the few that people split it into.
pub(super) fn is_default(net: &IpNet) -> bool {
    net.prefix_len() <= if net.addr().is_ipv4() { 1 } else { 3 }
}

/// fe80::/10 (RFC 4291 §2.5.6).
fn link_local() -> IpNet {
    IpNet::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), 10)
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
