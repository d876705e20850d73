//! What the kernel says has changed, and what that may mean for the gateway.

use super::messages::{self, Rule};
use super::plan::Plan;
use super::tables::Tables;
use super::view::Host;
use super::view::MAIN;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};

/// Whether a notification may mean work: any link or address, main's routes by an inside interface, lost rules, rules of
/// others.
pub(super) fn matter(plan: &Plan, host: &Host, message: &RouteNetlinkMessage) -> bool {
    match message {
        RouteNetlinkMessage::NewLink(_)
        | RouteNetlinkMessage::DelLink(_)
        | RouteNetlinkMessage::NewAddress(_)
        | RouteNetlinkMessage::DelAddress(_) => true,
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            let table = table_of(route);
            let deleted = matches!(message, RouteNetlinkMessage::DelRoute(_));
            if Tables::of(&plan.tun).own(table) || route.header.protocol == messages::PROTOCOL {
                // One of ours was taken: by another program, or by the kernel with an address or a link.
                return deleted;
            }
            let inside = |index: &u32| {
                let mut interfaces = plan.insides.iter().flat_map(|inside| &inside.interfaces);
                interfaces.any(|name| host.index(name) == Some(*index))
            };
            table == MAIN && leads(route, |index| inside(&index)) || change_outward(plan, host, message)
        }
        RouteNetlinkMessage::NewRule(rule) => Rule::ours(rule).is_none(),
        RouteNetlinkMessage::DelRule(_) => true,
        _ => false,
    }
}

/// Whether a notification may mean that something within an inside's prefixes is routed outside, or is so no longer. With a
/// link that goes down the kernel removes routes and says nothing of them.
pub(super) fn change_outward(plan: &Plan, host: &Host, message: &RouteNetlinkMessage) -> bool {
    let is_outside = |index: u32| plan.outsides.iter().any(|name| host.index(name) == Some(index));
    match message {
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            let is_outward = leads(route, is_outside);
            let is_within =
                || messages::Route::read(route).is_some_and(|route| host.is_of_an_inside(&route.destination));
            table_of(route) == MAIN && is_outward && is_within()
        }
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            is_outside(link.header.index) || !host.links.iter().any(|(_, index)| *index == link.header.index)
        }
        _ => false,
    }
}

/// Whether it is about an interface of an outside LAN.
pub(super) fn are_of_a_lan(host: &Host, message: &RouteNetlinkMessage) -> bool {
    matches!(message, RouteNetlinkMessage::NewLink(link) if host.lans.iter().any(|lan| lan.index == link.header.index))
}

fn table_of(route: &RouteMessage) -> u32 {
    let said =
        route.attributes.iter().find_map(|a| if let RouteAttribute::Table(table) = a { Some(*table) } else { None });
    said.unwrap_or_else(|| u32::from(route.header.table))
}

/// Whether the route may leave by one of these: of one by a next-hop object the message need not say more.
fn leads(route: &RouteMessage, by: impl Fn(u32) -> bool) -> bool {
    messages::Route::read(route).is_some_and(|route| match route.to {
        messages::To::Hops(hops) => hops.unresolved().is_some() || hops.devices().into_iter().any(by),
        _ => false,
    })
}
