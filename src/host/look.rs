//! What the host has: interfaces, addresses, routes, other gateways; and whether the plan fits it.

mod inside;
mod seen;

pub(super) use self::seen::{Member, gateway_routes, gateway_rules, links};

use self::inside::{inside, judge_doubled, judge_other_networks, outward, without};
use self::seen::{OwnAddress, Seen, usable};
use super::claim::Claim;
use super::error::KernelError;
use super::netlink::Netlink;
use super::plan::{INSIDES_MAX, Plan};
use super::roster::{Entry, Roster};
use super::tables::{self, Tables};
use super::view;
use super::view::{DUMMY, Host, Lan, Outward, Stage, is_link_local};
use crate::wire::AddressRange;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

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
    judge(plan, &Seen::read(netlink, plan, outward)?, stage, &Roster::read(&Claim::is_taken, plan.programs_left))
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
        let mut real = sources.filter(|net| !view::is_default(net));
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

/// The address of all routers in an IPv6 network; there is none in a /127 (RFC 6164) and a /128.
fn anycast(own: &OwnAddress) -> Option<Ipv6Addr> {
    match own.network {
        IpNet::V6(net) if net.prefix_len() < 127 && !is_link_local(own.address) => Some(net.network()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
