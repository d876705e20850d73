//! What of the host belongs to one inside realm.

use super::seen::{Seen, usable};
use crate::host::messages::{Route, To};
use crate::host::plan::{InsidePlan, Plan};
use crate::host::view::{DUMMY, Host, Inside, MAIN, is_link_local};
use crate::host::{tables, view};
use ipnet::IpNet;
use std::net::IpAddr;

/// Less preferred than what the kernel makes for an address itself, the same in both families.
const CONNECTED: u32 = 256;

/// One inside realm: its device, its routes, its prefixes.
pub(super) fn inside(plan: &Plan, seen: &Seen, realm: usize, remarks: &mut Vec<String>) -> Inside {
    let Some(planned) = plan.insides.get(realm) else { return Inside::default() };
    let indices: Vec<u32> = planned.interfaces.iter().filter_map(|name| seen.index(name)).collect();
    let own = planned.interfaces.iter().flat_map(|name| usable(seen, name)).collect();
    let mut found =
        Inside { device: planned.device.as_deref().and_then(|name| seen.index(name)), own, ..Inside::default() };
    for route in &seen.inside_routes {
        let To::Hops(hops) = &route.to else { continue };
        let devices = hops.devices();
        if !devices.iter().any(|index| indices.contains(index)) {
            continue;
        }
        let net = route.destination;
        if view::is_default(&net) {
            remarks.push(format!("the route {net} through inside {realm} does not count: everything would be inside"));
        } else if devices.iter().any(|index| !indices.contains(index)) {
            remarks.push(format!("the route {net} leads inside and elsewhere at once; it is not used"));
        } else if !is_link_local(net.addr()) && !found.routes.contains(route) {
            found.routes.push(route.clone());
        }
    }
    if plan.insides.len() > 1 {
        connect(planned, seen, &mut found);
    }
    let mut sources: Vec<IpNet> = found.routes.iter().map(|route| route.destination).collect();
    // The network of an address counts also while its interface is down and its route is gone.
    sources.extend(planned.interfaces.iter().flat_map(|name| seen.networks_of(name)));
    sources.extend(planned.sources.iter().map(IpNet::trunc));
    sources.sort_unstable();
    sources.dedup();
    found.prefixes = sources;
    found
}

/// What is routed or connected outside and lies within a prefix of an inside, more specific than it. A default route means
/// every inside but itself; nothing is taken out of it.
pub(super) fn outward(plan: &Plan, seen: &Seen, host: &Host) -> Vec<IpNet> {
    let connected = plan.outsides.iter().flat_map(|name| seen.networks_of(name));
    let is_within = |net: &IpNet| {
        let mut prefixes = host.insides.iter().flat_map(|inside| &inside.prefixes);
        prefixes.any(|prefix| prefix != net && prefix.contains(net) && !view::is_default(prefix))
    };
    let mut all: Vec<IpNet> = seen.outward.iter().copied().chain(connected).filter(is_within).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The addresses of `prefixes` for which the longest prefix that has them is one of these and not one of `others`; where
/// both have the same one, it is one of these.
pub(super) fn without(prefixes: &[IpNet], others: &[IpNet]) -> Vec<IpNet> {
    let all = IpNet::aggregate(&prefixes.to_vec());
    if others.is_empty() {
        return all;
    }
    let means_everything =
        |net: &IpNet| all.iter().any(|one| view::is_default(one) && one.addr().is_ipv4() == net.addr().is_ipv4());
    let mut left: Vec<IpNet> = Vec::new();
    for prefix in prefixes {
        let mut rest = vec![*prefix];
        let within = |other: &&IpNet| *other != prefix && prefix.contains(*other) && !means_everything(prefix);
        for other in others.iter().filter(within) {
            rest = rest.into_iter().flat_map(|net| less(net, *other)).collect();
        }
        left.append(&mut rest);
    }
    IpNet::aggregate(&left)
}

/// `net` without `hole`: for each bit that the hole has more, the half that it is not in.
fn less(net: IpNet, hole: IpNet) -> Vec<IpNet> {
    if hole.contains(&net) {
        return Vec::new();
    }
    if !net.contains(&hole) {
        return vec![net];
    }
    let (mut rest, mut around) = (Vec::new(), net);
    while around != hole {
        let Ok(halves) = around.subnets(around.prefix_len() + 1) else { break };
        for half in halves {
            if half.contains(&hole) {
                around = half;
            } else {
                rest.push(half);
            }
        }
    }
    rest
}

/// Several insides may have one network, main perhaps only one route for it: an address says as well what is connected.
fn connect(planned: &InsidePlan, seen: &Seen, found: &mut Inside) {
    for name in &planned.interfaces {
        let Some(index) = seen.index(name).filter(|index| !seen.down.contains(index)) else { continue };
        for own in seen.addresses_of(name).filter(|own| own.network.prefix_len() < own.network.max_prefix_len()) {
            if !found.routes.iter().any(|route| route.destination == own.network) {
                let source = own.usable.then_some(own.address);
                found.routes.push(Route::device(MAIN, own.network, CONNECTED, index, source));
            }
        }
    }
}

/// The same address of the host in two insides: what is translated does not mind, what the host itself answers does.
pub(super) fn judge_doubled(plan: &Plan, seen: &Seen, host: &mut Host) {
    let realms = plan.insides.iter().enumerate();
    let interfaces = realms.flat_map(|(realm, inside)| inside.interfaces.iter().map(move |name| (realm, name)));
    let mut met: Vec<(usize, &String, IpAddr)> = Vec::new();
    for (realm, name) in interfaces {
        for own in seen.addresses_of(name) {
            if let Some((_, first, _)) = met.iter().find(|(other, _, a)| *other != realm && *a == own.address) {
                host.remarks.push(format!(
                    "this machine has the address {} on '{first}' and on '{name}', in two insides; what it says itself \
                     (ping, DNS, …) reaches only terminals behind '{first}', unless the program is bound to '{name}'",
                    own.address
                ));
                if !host.doubled.contains(name) {
                    host.doubled.push(name.clone());
                }
            }
            met.push((realm, name, own.address));
        }
    }
}

/// Networks of the host that are neither inside nor outside. They are left alone, unless they look like the inside.
pub(super) fn judge_other_networks(plan: &Plan, seen: &Seen, host: &mut Host) {
    for own in seen.addresses.iter().filter(|own| !is_link_local(own.address) && own.address != IpAddr::V4(DUMMY)) {
        let name = seen.name(own.interface);
        let inside = plan.insides.iter().any(|inside| inside.interfaces.iter().any(|have| have == name));
        let outside = plan.outsides.iter().any(|have| have == name);
        if inside || outside || name == "lo" || tables::is_device_of(name, &plan.tun) {
            continue;
        }
        let sources = host.insides.iter().flat_map(|inside| &inside.sources);
        let mut real = sources.filter(|net| !view::is_default(net));
        if let Some(net) = real.find(|net| net.contains(&own.network) || own.network.contains(*net)) {
            host.remarks.push(format!(
                "'{name}' has the network {}, which overlaps the inside prefix {net}; what comes from it with an inside \
                 address is not forwarded",
                own.network
            ));
        }
    }
}
