//! What the host has: interfaces, addresses, routes, other gateways; and whether the plan fits it.

mod inside;
mod seen;

pub(super) use self::seen::{Member, gateway_routes, gateway_rules, links};

use self::inside::{inside, judge_doubled, judge_other_networks, outward, without};
use self::seen::{OwnAddress, Seen};
use super::claim::Claim;
use super::messages::{Family, Route};
use super::netlink::Netlink;
use super::roster::{Entry, Roster};
use super::tables::{self, Tables};
use super::{INSIDES_MAX, KernelError, Plan};
use crate::fastpath::Ethernet;
use crate::wire::AddressRange;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address our devices carry so that the reverse-path filter takes them for IPv4 devices (RFC 7600 §4.8).
pub(super) const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// `RT_TABLE_MAIN`.
pub(super) const MAIN: u32 = 254;

/// What of the host the gateway must know; found anew whenever something changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Index of the gateway's device.
    pub(super) device: Option<u32>,
    pub(super) insides: Vec<Inside>,
    /// What main sends by outside interfaces alone and is within an inside's prefix.
    pub(super) outward: Vec<IpNet>,
    pub(super) has_ipv6: bool,
    pub(super) own_outside: Vec<IpAddr>,
    /// The networks of those addresses, each with the address.
    pub(super) outside_networks: Vec<IpNet>,
    /// Every address of this machine.
    pub(super) own: Vec<IpAddr>,
    /// The addresses that its IPv6 networks have for all their routers (RFC 4291 §2.6.1).
    pub(super) anycast: Vec<Ipv6Addr>,
    pub(super) own_inside: Vec<IpAddr>,
    pub(super) reserved: Vec<IpAddr>,
    /// Outside networks that contain virtual IPs.
    pub(super) lans: Vec<Lan>,
    /// Every interface by name, with its index: an interface that was made anew has another one.
    pub(super) links: Vec<(String, u32)>,
    /// Inside and outside interfaces that are not up.
    pub(super) down: BTreeSet<String>,
    /// What is before the IP header of an interface's packets, by index.
    pub(super) framing: BTreeMap<u32, Framing>,
    /// Outside interfaces that cannot be served.
    pub(super) unserved: BTreeSet<u32>,
    /// Outside interfaces that are bridges, and whether netfilter looks at packets at the ports of this one, whatever holds
    /// for all: IPv4, IPv6.
    pub(super) bridges: BTreeMap<String, (bool, bool)>,
    /// The bridge that an interface is a port of, by index.
    pub(super) ports: BTreeMap<u32, u32>,
    /// Interfaces that have no packets but their own: wires, not what packets of other interfaces come through.
    pub(super) plain: BTreeSet<u32>,
    /// The families whose packets are led by routing rules of others too.
    pub(super) ruled: BTreeSet<Family>,
    /// One of our own devices was set down by somebody, or has lost its address.
    pub(super) device_impaired: bool,
    /// Inside interfaces on which an address stands that another inside has before them. The kernel's strict
    /// reverse-path filter would hear nobody there who asks for it.
    pub(super) doubled: Vec<String>,
    /// What an operator should hear of, in whole lines.
    pub(super) remarks: Vec<String>,
}

/// What is before the IP header of an interface's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet(Ethernet),
    /// Nothing: PPP, WireGuard, tunnels, TUN.
    Bare,
    /// Something that the gateway does not know.
    Unknown,
}

/// One inside realm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) device: Option<u32>,
    /// What is inside: the prefixes without what is routed outside more specifically.
    pub(super) sources: Vec<IpNet>,
    /// What is routed inside, connected there or listed by the operator, whatever is within.
    pub(super) prefixes: Vec<IpNet>,
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

    /// The networks of its outside interfaces, each with the gateway's address in it.
    pub fn outside_networks(&self) -> Vec<IpNet> {
        self.outside_networks.clone()
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

    /// Every address of this machine.
    pub fn own(&self) -> &[IpAddr] {
        &self.own
    }

    /// The addresses of all routers in the IPv6 networks that it is in: nobody else's either.
    pub fn anycast(&self) -> &[Ipv6Addr] {
        &self.anycast
    }

    /// Whether routing rules of others, beside the gateway's and the kernel's own, say where packets go: IPv4, IPv6.
    pub fn is_ruled_by_others(&self) -> (bool, bool) {
        (self.ruled.contains(&Family::V4), self.ruled.contains(&Family::V6))
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

    /// Whether `net` is within a prefix of an inside.
    pub(super) fn is_of_an_inside(&self, net: &IpNet) -> bool {
        self.insides.iter().flat_map(|inside| &inside.prefixes).any(|prefix| prefix.contains(net))
    }

    /// Whether the insides have the prefixes that they had before.
    pub(super) fn has_prefixes_of(&self, before: &Self) -> bool {
        self.insides.iter().map(|inside| &inside.prefixes).eq(before.insides.iter().map(|inside| &inside.prefixes))
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
            || self.outside_networks != before.outside_networks
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

/// What is known of routes by outside interfaces that are within an inside's prefix.
#[derive(Clone, Copy)]
pub(super) struct Outward<'a> {
    /// What there was before. It stands while an outside interface is away or down.
    pub(super) before: &'a [IpNet],
    /// Whether they are read; else those before are still there.
    pub(super) is_read: bool,
}

/// Reads the host and judges it.
pub(super) fn look(netlink: &mut Netlink, plan: &Plan, stage: Stage) -> Result<Host, KernelError> {
    look_knowing(netlink, plan, stage, Outward { before: &[], is_read: true })
}

/// The same, with what is known from before.
pub(super) fn look_knowing(
    netlink: &mut Netlink,
    plan: &Plan,
    stage: Stage,
    outward: Outward<'_>,
) -> Result<Host, KernelError> {
    judge(plan, &Seen::read(netlink, plan, outward)?, stage, &Roster::read(&Claim::is_taken))
}

/// Judges what was seen, beside the gateways of the roster.
fn judge(plan: &Plan, seen: &Seen, stage: Stage, roster: &Roster) -> Result<Host, KernelError> {
    let mut host = Host {
        has_ipv6: seen.has_ipv6,
        links: seen.links.clone(),
        framing: seen.framing.clone(),
        ports: seen.ports.clone(),
        plain: seen.plain.clone(),
        ..Host::default()
    };
    if let Some(pool) = plan.pools.iter().find(|pool| !pool.is_v4() && !seen.has_ipv6) {
        return Err(KernelError::NoIpv6(*pool));
    }
    if stage != Stage::Running {
        judge_names(plan, seen)?;
        judge_masters(plan, seen)?;
        judge_other_gateways(plan, roster, &mut host.remarks)?;
    }
    judge_external(plan, seen, stage, &mut host)?;
    judge_devices(plan, seen, stage)?;
    host.device = seen.index(&plan.device);
    host.own = seen.addresses.iter().map(|own| own.address).collect();
    host.anycast = seen.addresses.iter().filter_map(anycast).collect();
    host.own_outside = plan.outsides.iter().flat_map(|name| usable(seen, name)).collect();
    let outside = plan.outsides.iter().flat_map(|name| seen.addresses_of(name)).filter(|own| own.usable);
    let network = |own: &OwnAddress| IpNet::new(own.address, own.network.prefix_len()).ok();
    host.outside_networks = outside.filter_map(network).collect();
    host.own_inside = plan.insides.iter().flat_map(|i| &i.interfaces).flat_map(|name| usable(seen, name)).collect();
    host.insides = (0..plan.insides.len()).map(|realm| inside(plan, seen, realm, &mut host.remarks)).collect();
    host.outward = outward(plan, seen, &host);
    for inside in &mut host.insides {
        inside.sources = without(&inside.prefixes, &host.outward);
    }
    judge_families(plan, &mut host);
    judge_doubled(plan, seen, &mut host);
    let interfaces = plan.insides.iter().flat_map(|inside| &inside.interfaces).chain(&plan.outsides);
    let is_down = |name: &&String| seen.index(name).is_some_and(|index| seen.down.contains(&index));
    let tables = Tables::of(&plan.tun);
    let others = seen.rules.iter().filter(|rule| !tables.owns_rule(rule, &plan.tun)).map(|rule| rule.family);
    host.ruled = seen.ruled.iter().copied().chain(others).collect();
    host.down = interfaces.filter(is_down).cloned().collect();
    judge_other_networks(plan, seen, &mut host);
    let mut devices = host.insides.iter().map(|inside| inside.device).chain([host.device]).flatten();
    let has_address =
        |index| seen.addresses.iter().any(|own| own.interface == index && own.address == IpAddr::V4(DUMMY));
    host.device_impaired = devices.any(|index| seen.down.contains(&index) || !has_address(index));
    reserve(plan, seen, stage, &mut host)?;
    judge_inside_overlap(plan, stage, &mut host)?;
    Ok(host)
}

/// A family that terminals have addresses of, and no pool.
fn judge_families(plan: &Plan, host: &mut Host) {
    for (family, other, all) in [("IPv6", "IPv4", "::/0"), ("IPv4", "IPv6", "0.0.0.0/0")] {
        let is_it = |net: &IpNet| net.addr().is_ipv4() == (family == "IPv4");
        let has_pool = plan.pools.iter().any(|pool| pool.is_v4() == (family == "IPv4"));
        // In one prefix or in several.
        let exempt = IpNet::aggregate(&plan.exempt.iter().copied().filter(is_it).collect());
        let is_exempt = exempt.iter().any(|net| net.prefix_len() == 0);
        let mut prefixes = host.insides.iter().flat_map(|inside| &inside.sources).filter(|net| is_it(net));
        if let (false, false, Some(prefix)) = (has_pool, is_exempt, prefixes.next()) {
            host.remarks.push(format!(
                "terminals have {family} ({prefix}), and every pool is {other}: what they send outside in {family} is dropped \
                 (no_pool); add a pool, or have it go untranslated with exempt = [\"{all}\"]"
            ));
        }
    }
}

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
    let devices = || plan.devices();
    match stage {
        Stage::Before => match devices().find(|name| seen.index(name).is_some()) {
            Some(name) => Err(KernelError::DeviceExists(name.to_owned())),
            None => Ok(()),
        },
        Stage::Start | Stage::Running => match devices().find(|name| seen.index(name).is_none()) {
            Some(name) => Err(KernelError::DeviceMissing(name.to_owned())),
            None => Ok(()),
        },
    }
}

/// The named interface has to be the one that routes. A port of a bridge, or a member of a bond, a team or a VRF, hands its
/// packets on before that; and what lies on top of an interface without addresses has its own.
fn judge_masters(plan: &Plan, seen: &Seen) -> Result<(), KernelError> {
    for name in plan.insides.iter().flat_map(|inside| &inside.interfaces).chain(&plan.outsides) {
        let Some(index) = seen.index(name) else { continue };
        if let Some(master) = seen.masters.get(&index) {
            let (name, master) = (name.clone(), seen.name(*master).to_owned());
            return Err(KernelError::HasMaster { name, master });
        }
        let has_addresses =
            |index: u32| seen.addresses.iter().any(|own| own.interface == index && !is_link_local(own.address));
        let on_top = || seen.lower.iter().filter(|(_, lower)| **lower == index).map(|(upper, _)| *upper);
        if !has_addresses(index)
            && let Some(upper) = on_top().find(|upper| has_addresses(*upper))
        {
            return Err(KernelError::HasUpper { name: name.clone(), upper: seen.name(upper).to_owned() });
        }
    }
    Ok(())
}

/// A tunnel that takes its far end from the route of each packet: user space has packets without their routes.
fn judge_external(plan: &Plan, seen: &Seen, stage: Stage, host: &mut Host) -> Result<(), KernelError> {
    for name in &plan.outsides {
        let Some(index) = seen.index(name) else { continue };
        host.bridges.extend(seen.bridges.get(&index).map(|filtered| (name.clone(), *filtered)));
        if !seen.external.contains(&index) {
            continue;
        }
        let error = KernelError::External(name.clone());
        if stage != Stage::Running {
            return Err(error);
        }
        host.remarks.push(format!("{error}; until then nothing leaves by it"));
        host.unserved.insert(index);
    }
    Ok(())
}

/// Another gateway may share our outside interface and nothing else; a dead one must not stand in our way.
fn judge_other_gateways(plan: &Plan, roster: &Roster, remarks: &mut Vec<String>) -> Result<(), KernelError> {
    for Entry { tun: other, insides, outsides, pools, alive } in roster.others(&plan.tun) {
        let refuse = |taken: KernelError, what: String| {
            Err(if *alive { taken } else { KernelError::LeftByDeadGateway { what, other: other.clone() } })
        };
        // The pool first: it says more than the interfaces that two gateways on one pool mostly share as well.
        if let Some(pool) = plan.pools.iter().find(|pool| pools.iter().any(|there| there.overlaps(pool))).copied() {
            return refuse(KernelError::PoolTaken { pool, other: other.clone() }, format!("pool {pool}"));
        }
        let is_inside = |name: &String| plan.insides.iter().any(|inside| inside.interfaces.contains(name));
        let here_inside = insides.iter().chain(outsides).find(|name| is_inside(name));
        let there_inside = insides.iter().find(|name| plan.outsides.contains(name));
        if let Some(interface) = here_inside.or(there_inside).cloned() {
            let what = format!("interface '{interface}'");
            return refuse(KernelError::InterfaceTaken { interface, other: other.clone() }, what);
        }
        if !alive {
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

/// The address of all routers in an IPv6 network; there is none in a /127 (RFC 6164) and a /128.
fn anycast(own: &OwnAddress) -> Option<Ipv6Addr> {
    match own.network {
        IpNet::V6(net) if net.prefix_len() < 127 && !is_link_local(own.address) => Some(net.network()),
        _ => None,
    }
}

/// 169.254/16 (RFC 3927) counts as an ordinary network here: routers do use it between themselves.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}

#[cfg(test)]
mod tests;
