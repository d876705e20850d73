//! What the host has: interfaces, addresses, routes, other gateways; and whether the plan fits it.

mod inside;
mod seen;

pub(super) use self::seen::{gateway_routes, gateway_rules, links};

use self::inside::{inside, judge_doubled, judge_other_networks};
use self::seen::Seen;
use super::claim::Claim;
use super::messages::{Family, Route, Then};
use super::netlink::Netlink;
use super::tables::{self, Tables};
use super::{INSIDES_MAX, KernelError, Plan};
use crate::wire::AddressRange;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// The address our TUN devices carry so that the reverse-path filter takes them for IPv4 devices (RFC 7600 §4.8).
pub(super) const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// `RT_TABLE_MAIN`.
pub(super) const MAIN: u32 = 254;

/// What of the host the gateway must know; found anew whenever something changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub(super) outside_device: Option<u32>,
    pub(super) insides: Vec<Inside>,
    pub(super) has_ipv6: bool,
    pub(super) own_outside: Vec<IpAddr>,
    pub(super) own_inside: Vec<IpAddr>,
    pub(super) reserved: Vec<IpAddr>,
    /// Outside networks that contain virtual IPs.
    pub(super) lans: Vec<Lan>,
    /// Every interface by name, with its index: an interface that was made anew has another one.
    pub(super) links: Vec<(String, u32)>,
    /// Inside and outside interfaces that are not up.
    pub(super) down: BTreeSet<String>,
    /// Interfaces whose packets begin with an Ethernet header, by index.
    pub(super) ethernet: BTreeMap<u32, Ethernet>,
    /// The families whose packets are led by routing rules of others too.
    pub(super) ruled: BTreeSet<Family>,
    /// One of our own devices was set down by somebody.
    pub(super) device_down: bool,
    /// Interfaces that are neither inside nor outside have addresses too.
    pub(super) has_other_networks: bool,
    /// Inside interfaces on which an address stands that another inside has before them. The kernel's strict
    /// reverse-path filter would hear nobody there who asks for it.
    pub(super) doubled: Vec<String>,
    /// What an operator should hear of, in whole lines.
    pub(super) remarks: Vec<String>,
}

/// An Ethernet interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Its own address.
    pub hardware: [u8; 6],
    /// Whether there is no wire: what comes in by it another program or namespace of this machine has made.
    pub is_local: bool,
}

/// One inside realm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) device: Option<u32>,
    pub(super) sources: Vec<IpNet>,
    /// The host's own addresses there.
    pub(super) own: Vec<IpAddr>,
    /// Main's routes through its interfaces.
    pub(super) routes: Vec<Route>,
}

impl Inside {
    /// Adds prefixes to those it has.
    pub(super) fn keep(&mut self, sources: &[IpNet]) {
        self.sources.extend_from_slice(sources);
        self.sources = IpNet::aggregate(&self.sources);
    }
}

/// An outside interface's network in which virtual IPs lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lan {
    pub(super) interface: String,
    pub(super) index: u32,
    pub(super) network: IpNet,
}

impl Host {
    /// The gateway's own addresses on its outside interfaces.
    pub fn own_outside(&self) -> Vec<IpAddr> {
        self.own_outside.clone()
    }

    /// The gateway's own addresses on its inside interfaces.
    pub fn own_inside(&self) -> Vec<IpAddr> {
        self.own_inside.clone()
    }

    /// The prefixes of each inside realm: its interfaces' networks, what is routed through them, what the operator listed.
    pub fn sources(&self) -> Vec<Vec<IpNet>> {
        self.insides.iter().map(|inside| inside.sources.clone()).collect()
    }

    /// Addresses inside the pools that must not be given to anybody: the gateway's own, its routers' and the network
    /// and broadcast addresses of outside networks.
    pub fn reserved(&self) -> Vec<IpAddr> {
        self.reserved.clone()
    }

    /// Whether routing rules of others, beside the gateway's and the kernel's own, say where packets go: IPv4, IPv6.
    pub fn is_ruled_by_others(&self) -> (bool, bool) {
        (self.ruled.contains(&Family::V4), self.ruled.contains(&Family::V6))
    }

    /// The address in whose name the host speaks to peers, if it has one.
    pub(super) fn outside_address(&self, family: Family) -> Option<IpAddr> {
        self.own_outside.iter().copied().find(|a| Family::of(*a) == family)
    }

    /// The address in whose name the host itself calls virtual IPs.
    pub(super) fn inside_address(&self, family: Family) -> Option<IpAddr> {
        self.own_inside.iter().copied().find(|a| Family::of(*a) == family)
    }

    /// The prefixes of an inside realm that can be closed to others: all but those that mean everything.
    pub(super) fn closable(&self, realm: usize, family: Family) -> impl Iterator<Item = IpNet> + use<'_> {
        let sources = self.insides.get(realm).map_or(&[][..], |inside| &inside.sources);
        sources.iter().copied().filter(move |net| Family::of(net.addr()) == family && !tables::is_default(net))
    }

    /// Whether another inside realm has addresses of `net` too.
    pub(super) fn is_ambiguous(&self, realm: usize, net: &IpNet) -> bool {
        let others = self.insides.iter().enumerate().filter(|(other, _)| *other != realm);
        let mut sources = others.flat_map(|(_, inside)| &inside.sources).filter(|other| !tables::is_default(other));
        sources.any(|other| other.contains(net) || net.contains(other))
    }

    /// The index of an interface.
    pub(super) fn index(&self, name: &str) -> Option<u32> {
        self.links.iter().find(|(have, _)| have == name).map(|(_, index)| *index)
    }

    /// One line for each change from `before` that an operator should know of.
    pub(super) fn log_changes(&self, before: &Self) {
        for name in self.down.difference(&before.down) {
            log::warn!("interface '{name}' is down; the gateway waits for it to come up");
        }
        for name in before.down.difference(&self.down).filter(|name| self.index(name).is_some()) {
            log::info!("interface '{name}' is up again");
        }
        for (side, now, then) in
            [("inside", &self.own_inside, &before.own_inside), ("outside", &self.own_outside, &before.own_outside)]
        {
            if now != then {
                let list: Vec<String> = now.iter().map(ToString::to_string).collect();
                log::info!("this machine's addresses {side} are now: {}", list.join(", "));
            }
        }
    }

    /// Whether the translator must hear of the change from `before`.
    pub(super) fn tells_news(&self, before: &Self) -> bool {
        self.own_outside != before.own_outside
            || self.own_inside != before.own_inside
            || self.reserved != before.reserved
            || self.sources() != before.sources()
    }
}

/// How strictly to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before the start: every doubt is an error, and our devices must not be there.
    Before,
    /// At the start: the same, but our devices must be there.
    Start,
    /// While running: what has gone missing may come back.
    Running,
}

/// Reads the host and judges it.
pub(super) fn look(netlink: &mut Netlink, plan: &Plan, stage: Stage) -> Result<Host, KernelError> {
    judge(plan, &Seen::read(netlink, plan)?, stage, &Claim::is_taken)
}

/// Judges what was seen. `alive` says whether a gateway of a name is running.
fn judge(plan: &Plan, seen: &Seen, stage: Stage, alive: &dyn Fn(&str) -> bool) -> Result<Host, KernelError> {
    let mut host =
        Host { has_ipv6: seen.has_ipv6, links: seen.links.clone(), ethernet: seen.ethernet.clone(), ..Host::default() };
    if let Some(pool) = plan.pools.iter().find(|pool| !pool.is_v4() && !seen.has_ipv6) {
        return Err(KernelError::NoIpv6(*pool));
    }
    if stage != Stage::Running {
        judge_names(plan, seen)?;
        judge_other_gateways(plan, seen, alive, &mut host.remarks)?;
    }
    judge_devices(plan, seen, stage)?;
    host.outside_device = seen.index(&plan.outside_device);
    host.own_outside = plan.outsides.iter().flat_map(|name| usable(seen, name)).collect();
    host.own_inside = plan.insides.iter().flat_map(|i| &i.interfaces).flat_map(|name| usable(seen, name)).collect();
    host.insides = (0..plan.insides.len()).map(|realm| inside(plan, seen, realm, &mut host.remarks)).collect();
    judge_doubled(plan, seen, &mut host);
    let interfaces = plan.insides.iter().flat_map(|inside| &inside.interfaces).chain(&plan.outsides);
    let is_down = |name: &&String| seen.index(name).is_some_and(|index| seen.down.contains(&index));
    let tables = Tables::of(&plan.tun);
    let others = seen.rules.iter().filter(|rule| !tables.owns_rule(rule, &plan.tun)).map(|rule| rule.family);
    host.ruled = seen.ruled.iter().copied().chain(others).collect();
    host.down = interfaces.filter(is_down).cloned().collect();
    judge_other_networks(plan, seen, &mut host);
    let mut devices = host.insides.iter().map(|inside| inside.device).chain([host.outside_device]).flatten();
    host.device_down = devices.any(|index| seen.down.contains(&index));
    reserve(plan, seen, stage, &mut host)?;
    judge_inside_overlap(plan, stage, &mut host)?;
    if let Some(first) = seen.rules_before.iter().filter(|p| **p != 0 && **p != L3MDEV).min() {
        host.remarks.push(format!(
            "a routing rule of priority {first} comes before the gateway's (from {}); packets it takes are not translated",
            tables::PRIORITIES.start()
        ));
    }
    Ok(host)
}

/// `ip rule` priority of the kernel's own rule for VRFs, harmless without one (net/core/fib_rules.c).
const L3MDEV: u32 = 1000;

fn judge_names(plan: &Plan, seen: &Seen) -> Result<(), KernelError> {
    let all = || plan.insides.iter().flat_map(|inside| &inside.interfaces).chain(&plan.outsides);
    let mut met = BTreeSet::new();
    for name in all() {
        // "all" and "default" in /proc/sys are not interfaces, and "lo" leads nowhere.
        if tables::is_device_of(name, &plan.tun) || matches!(name.as_str(), "all" | "default" | "lo") {
            return Err(KernelError::UnfitInterface(name.clone()));
        }
        if !met.insert(name) {
            return Err(KernelError::InterfaceInTwoRealms(name.clone()));
        }
        if seen.index(name).is_none() {
            let distance = |have: &str| strsim::damerau_levenshtein(have, name);
            let names = seen.links.iter().map(|(have, _)| have).filter(|have| *have != "lo");
            let nearest = names.min_by_key(|have| distance(have)).filter(|have| distance(have) <= 3).cloned();
            return Err(KernelError::UnknownInterface { name: name.clone(), nearest });
        }
    }
    if plan.insides.len() > INSIDES_MAX as usize {
        return Err(KernelError::TooManyInsides(plan.insides.len()));
    }
    Ok(())
}

fn judge_devices(plan: &Plan, seen: &Seen, stage: Stage) -> Result<(), KernelError> {
    let devices = || plan.insides.iter().map(|inside| &inside.device).chain([&plan.outside_device]);
    match stage {
        Stage::Before => match devices().find(|name| seen.index(name).is_some()) {
            Some(name) => Err(KernelError::DeviceExists(name.clone())),
            None => Ok(()),
        },
        Stage::Start | Stage::Running => match devices().find(|name| seen.index(name).is_none()) {
            Some(name) => Err(KernelError::DeviceMissing(name.clone())),
            None => Ok(()),
        },
    }
}

/// Another gateway may share our outside interface and nothing else; a dead one must not stand in our way.
fn judge_other_gateways(
    plan: &Plan,
    seen: &Seen,
    alive: &dyn Fn(&str) -> bool,
    remarks: &mut Vec<String>,
) -> Result<(), KernelError> {
    let names: BTreeSet<&str> = seen.rules.iter().filter_map(tables::name_kept_by).collect();
    for other in names.into_iter().filter(|name| *name != plan.tun) {
        let lives = alive(other);
        let tables = Tables::of(other);
        let dead = |what: String| KernelError::LeftByDeadGateway { what, other: other.to_owned() };
        let rules = || seen.rules.iter().filter(|rule| tables.owns_rule(rule, other));
        // The pool first: it says more than the interfaces that two gateways on one pool mostly share as well.
        for net in rules().filter_map(|rule| rule.to) {
            if let Some(pool) = plan.pools.iter().find(|pool| pool.overlaps(&net.into())).copied() {
                let taken = KernelError::PoolTaken { pool, other: other.to_owned() };
                return Err(if lives { taken } else { dead(format!("pool {pool}")) });
            }
        }
        for rule in rules() {
            let Some(interface) = &rule.from_interface else { continue };
            let outside_there = rule.then == Then::Table(tables.out());
            let inside_here = plan.insides.iter().any(|inside| inside.interfaces.contains(interface));
            let outside_here = plan.outsides.contains(interface);
            if inside_here || outside_here && !outside_there {
                let interface = interface.clone();
                return Err(if lives {
                    KernelError::InterfaceTaken { interface, other: other.to_owned() }
                } else {
                    dead(format!("interface '{interface}'"))
                });
            }
        }
        if !lives {
            remarks.push(format!(
                "a dead gateway --tun {other} keeps its interfaces closed; clear it with: kamei cleanup --tun {other}"
            ));
        }
    }
    Ok(())
}

/// Finds what of the pools cannot be given away, and the outside networks they lie in.
fn reserve(plan: &Plan, seen: &Seen, stage: Stage, host: &mut Host) -> Result<(), KernelError> {
    let mut reserved: BTreeSet<IpAddr> = seen.routers.iter().copied().collect();
    reserved.insert(DUMMY.into());
    for own in &seen.addresses {
        let name = seen.name(own.interface);
        if !plan.outsides.iter().any(|outside| outside == name) {
            let inside_pool = plan.pools.iter().find(|pool| pool.contains(own.address.into()));
            match inside_pool {
                Some(pool) if own.address != IpAddr::V4(DUMMY) => {
                    let (pool, address, interface) = (*pool, own.address, name.to_owned());
                    let error = KernelError::PoolHasOwnAddress { pool, address, interface };
                    if stage != Stage::Running {
                        return Err(error);
                    }
                    host.remarks.push(error.to_string());
                    reserved.insert(address);
                }
                _ => {}
            }
            continue;
        }
        if is_link_local(own.address) {
            continue;
        }
        reserved.insert(own.address);
        let network = own.network;
        match network {
            // No network and broadcast addresses in /31 and /32 (RFC 3021), no anycast in /127 (RFC 6164).
            IpNet::V4(net) if net.prefix_len() < 31 => {
                reserved.extend([IpAddr::V4(net.network()), IpAddr::V4(net.broadcast())]);
            }
            IpNet::V6(net) if net.prefix_len() < 127 => drop(reserved.insert(IpAddr::V6(net.network()))),
            _ => {}
        }
        if plan.pools.iter().any(|pool| pool.overlaps(&network.into())) {
            let lan = Lan { interface: name.to_owned(), index: own.interface, network };
            if !host.lans.contains(&lan) {
                host.lans.push(lan);
            }
        }
    }
    host.reserved = reserved.into_iter().filter(|a| plan.pools.iter().any(|p| p.contains((*a).into()))).collect();
    for pool in &plan.pools {
        let taken = host.reserved.iter().filter(|a| pool.contains((**a).into())).count();
        if stage != Stage::Running && pool.size() <= taken as u128 {
            return Err(KernelError::PoolHasNoFreeAddress(*pool));
        }
    }
    Ok(())
}

fn judge_inside_overlap(plan: &Plan, stage: Stage, host: &mut Host) -> Result<(), KernelError> {
    for pool in &plan.pools {
        let sources = host.insides.iter().flat_map(|inside| &inside.sources);
        let mut real = sources.filter(|net| !tables::is_default(net));
        if let Some(inside) = real.find(|net| pool.overlaps(&AddressRange::from(**net))) {
            let error = KernelError::PoolOverlapsInside { pool: *pool, inside: *inside };
            if stage != Stage::Running {
                return Err(error);
            }
            host.remarks.push(error.to_string());
        }
    }
    Ok(())
}

fn usable(seen: &Seen, name: &str) -> Vec<IpAddr> {
    seen.addresses_of(name).filter(|a| a.usable).map(|a| a.address).collect()
}

/// 169.254/16 (RFC 3927) counts as an ordinary network here: routers do use it between themselves.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}

#[cfg(test)]
mod tests;
