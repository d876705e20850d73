//! Brings routes and rules from what they are to what is wanted, and our devices up.

use super::error::KernelError;
use super::look;
use super::messages::{Route, Rule, To};
use super::netlink::Netlink;
use super::plan::Plan;
use super::tables::{self, Tables, Wanted};
use super::view::Host;
use super::view::{DUMMY, MAIN};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use std::net::IpAddr;

/// The most that a TAP device can have (net/tun.c): the way through the gateway's device is never the narrow one.
const MTU: u32 = 65_521;

/// Packets that may wait for a worker (the default of 500 drops in bursts).
const QUEUE: u32 = 1_000;

/// Rules and routes of the gateway `tun`, as they are.
pub(super) fn present(netlink: &mut Netlink, tun: &str) -> Result<Wanted, KernelError> {
    let tables = Tables::of(tun);
    let name = tables::device_of(tun);
    let device = look::links(netlink)?.into_iter().find(|link| link.name == name).map(|link| link.index);
    let mut rules = look::gateway_rules(netlink)?;
    rules.retain(|rule| tables.owns_rule(rule, tun));
    let mut routes = look::gateway_routes(netlink)?;
    let leads_to_it = |route: &Route| match &route.to {
        To::Hops(hops) => device.is_some_and(|device| hops.devices() == [device]),
        To::Blackhole | To::Throw => false,
    };
    routes.retain(|route| tables.own(route.table) || route.table == MAIN && leads_to_it(route));
    Ok(Wanted { routes, rules })
}

/// Makes what is missing, then removes what is left over.
pub(super) fn apply(netlink: &mut Netlink, plan: &Plan, host: &Host) -> Result<(), KernelError> {
    let difference = tables::difference(&tables::wanted(plan, host), &present(netlink, &plan.tun)?);
    for route in &difference.set_routes {
        set(netlink, plan, route)?;
    }
    for rule in &difference.add_rules {
        let message = RouteNetlinkMessage::NewRule(rule.message());
        match netlink.request(message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(e) if e.is(Errno::EXIST) => {}
            other => other.map_err(|e| KernelError::netlink(format!("add the routing rule {}", rule.priority), e))?,
        }
    }
    for rule in &difference.remove_rules {
        remove_rule(netlink, rule)?;
    }
    for route in &difference.remove_routes {
        remove_route(netlink, route)?;
    }
    Ok(())
}

/// Gives our devices their size and address and sets them up. Their settings under /proc/sys are made before.
pub(super) fn raise_devices(netlink: &mut Netlink, plan: &Plan, host: &Host) -> Result<(), KernelError> {
    for name in plan.devices() {
        let index = host.index(name).ok_or_else(|| KernelError::DeviceMissing(name.to_owned()))?;
        let mut link = LinkMessage::default();
        link.header.index = index;
        // Nobody is behind it whose hardware address could be asked for.
        link.header.flags = LinkFlags::Up | LinkFlags::Noarp;
        link.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
        link.attributes = vec![LinkAttribute::Mtu(MTU), LinkAttribute::TxQueueLen(QUEUE)];
        netlink
            .request(RouteNetlinkMessage::SetLink(link), 0)
            .map_err(|e| KernelError::netlink(format!("set up the device '{name}'"), e))?;
        let mut address = AddressMessage::default();
        address.header.family = AddressFamily::Inet;
        address.header.prefix_len = 32;
        // Of this link only: the kernel never takes it as the source of what it sends elsewhere.
        address.header.scope = AddressScope::Link;
        address.header.index = index;
        let dummy = IpAddr::V4(DUMMY);
        address.attributes = vec![AddressAttribute::Local(dummy), AddressAttribute::Address(dummy)];
        netlink
            .request(RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|e| KernelError::netlink(format!("give the device '{name}' its address"), e))?;
    }
    Ok(())
}

/// Removes every rule and route of the gateway `tun`; says how many of each. Goes on after a failure.
pub(super) fn remove(netlink: &mut Netlink, tun: &str) -> Result<(usize, usize), KernelError> {
    let left = present(netlink, tun)?;
    let mut first = Ok(());
    for rule in &left.rules {
        first = first.and(remove_rule(netlink, rule));
    }
    for route in &left.routes {
        first = first.and(remove_route(netlink, route));
    }
    first.map(|()| (left.rules.len(), left.routes.len()))
}

fn set(netlink: &mut Netlink, plan: &Plan, route: &Route) -> Result<(), KernelError> {
    match netlink.request(RouteNetlinkMessage::NewRoute(route.message()), NLM_F_CREATE | NLM_F_REPLACE) {
        Ok(()) => Ok(()),
        // A copy of a route of main: what it goes through may have gone in this moment. Packets for it fall through to
        // our device; the change that took it away has us look again.
        Err(error) if Tables::of(&plan.tun).is_copy(route.table) => {
            log::debug!("the inside route {} cannot be followed: {error}", route.destination);
            Ok(())
        }
        Err(error) => Err(KernelError::netlink(format!("set the route {}", route.destination), error)),
    }
}

fn remove_rule(netlink: &mut Netlink, rule: &Rule) -> Result<(), KernelError> {
    match netlink.request(RouteNetlinkMessage::DelRule(rule.message()), 0) {
        Err(e) if e.is(Errno::NOENT) => Ok(()),
        other => other.map_err(|e| KernelError::netlink(format!("remove the routing rule {}", rule.priority), e)),
    }
}

fn remove_route(netlink: &mut Netlink, route: &Route) -> Result<(), KernelError> {
    match netlink.request(RouteNetlinkMessage::DelRoute(route.message()), 0) {
        // Gone already, perhaps with its device.
        Err(e) if e.is(Errno::SRCH) || e.is(Errno::NODEV) => Ok(()),
        other => other.map_err(|e| KernelError::netlink(format!("remove the route {}", route.destination), e)),
    }
}
