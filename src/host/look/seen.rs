//! What is read of the host, before anybody judges it.

use crate::host::error::KernelError;
use crate::host::messages::{Family, PROTOCOL, Route, Rule, To};
use crate::host::netlink::Netlink;
use crate::host::next_hops::NextHops;
use crate::host::plan::Plan;
use crate::host::view::{Ethernet, Framing, MAIN, Outward, is_link_local};
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoGeneve, InfoGre, InfoGre6, InfoIpTunnel, InfoKind, InfoPortKind, InfoVxlan,
    LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::rule::RuleMessage;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

/// The raw material of a [`Host`](super::Host).
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) links: Vec<(String, u32)>,
    /// Indices of links that are not up.
    pub(super) down: Vec<u32>,
    /// What is before the IP header, by index.
    pub(super) framing: BTreeMap<u32, Framing>,
    /// Links that have no packets but their own: neither bridges nor what lies on other links.
    pub(super) plain: BTreeSet<u32>,
    /// The bridge, bond, team or VRF that a link belongs to, by index.
    pub(super) masters: BTreeMap<u32, u32>,
    /// The bridge that a link is a port of, by index.
    pub(super) ports: BTreeMap<u32, u32>,
    /// The link that a link lies on, by index.
    pub(super) lower: BTreeMap<u32, u32>,
    /// Tunnels whose other end is what each packet's route says, not they themselves.
    pub(super) external: BTreeSet<u32>,
    /// Bridges, and whether netfilter looks at packets at the ports of this one, whatever holds for all: IPv4, IPv6.
    pub(super) bridges: BTreeMap<u32, (bool, bool)>,
    pub(super) addresses: Vec<OwnAddress>,
    /// Main's routes through inside interfaces.
    pub(super) inside_routes: Vec<Route>,
    /// What main sends by outside interfaces alone: all of it, or what of it lies within an inside's prefix.
    pub(super) outward: Vec<IpNet>,
    /// Main's routes through outside interfaces that have virtual IPs in their network.
    pub(super) routers: Vec<IpAddr>,
    /// The rules of every gateway in this namespace.
    pub(super) rules: Vec<Rule>,
    /// The families that other people have rules for.
    pub(super) ruled: BTreeSet<Family>,
    pub(super) has_ipv6: bool,
}

/// One address of the host.
#[derive(Clone, Debug)]
pub(super) struct OwnAddress {
    pub(super) interface: u32,
    pub(super) address: IpAddr,
    /// The network that comes with it.
    pub(super) network: IpNet,
    /// Not tentative, not a duplicate.
    pub(super) usable: bool,
}

impl Seen {
    pub(super) fn read(netlink: &mut Netlink, plan: &Plan, outward: Outward<'_>) -> Result<Self, KernelError> {
        let mut seen = Self { has_ipv6: Path::new("/proc/sys/net/ipv6/conf").exists(), ..Self::default() };
        for Link { name, index, is_up, framing, is_plain, is_external, bridge, is_port, master, lower } in
            read_links(netlink)?
        {
            if !is_up {
                seen.down.push(index);
            }
            seen.framing.insert(index, framing);
            seen.plain.extend(is_plain.then_some(index));
            seen.external.extend(is_external.then_some(index));
            seen.bridges.extend(bridge.map(|filtered| (index, filtered)));
            seen.masters.extend(master.map(|master| (index, master)));
            seen.ports.extend(master.filter(|_| is_port).map(|bridge| (index, bridge)));
            seen.lower.extend(lower.map(|lower| (index, lower)));
            seen.links.push((name, index));
        }
        for message in dump(netlink, "list the addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?
        {
            if let RouteNetlinkMessage::NewAddress(address) = message {
                seen.addresses.extend(own_address(&address));
            }
        }
        for message in dump(netlink, "list the rules", RouteNetlinkMessage::GetRule(RuleMessage::default()))? {
            if let RouteNetlinkMessage::NewRule(message) = message {
                match Rule::ours(&message) {
                    Some(rule) => seen.rules.push(rule),
                    None => seen.read_foreign(&message),
                }
            }
        }
        for name in plan.insides.iter().flat_map(|inside| &inside.interfaces) {
            seen.inside_routes.extend(main_routes(netlink, &seen.links, name)?);
        }
        seen.read_outward(netlink, plan, outward)?;
        Ok(seen)
    }

    fn read_outward(&mut self, netlink: &mut Netlink, plan: &Plan, outward: Outward<'_>) -> Result<(), KernelError> {
        let insides: Vec<u32> =
            plan.insides.iter().flat_map(|inside| &inside.interfaces).filter_map(|name| self.index(name)).collect();
        for name in &plan.outsides {
            // A full table of the internet is not read for nothing.
            let has_pool =
                self.networks_of(name).iter().any(|net| plan.pools.iter().any(|pool| pool.overlaps(&(*net).into())));
            if !has_pool && !outward.is_read {
                continue;
            }
            for route in main_routes(netlink, &self.links, name)? {
                let To::Hops(hops) = &route.to else { continue };
                if has_pool {
                    self.routers.extend(hops.gateways());
                }
                if outward.is_read && !hops.devices().iter().any(|index| insides.contains(index)) {
                    self.outward.push(route.destination);
                }
            }
        }
        self.routers.sort_unstable();
        self.routers.dedup();
        // With an interface that goes its routes go, and come back with it: meanwhile nothing else becomes inside.
        let is_away = |name: &String| self.index(name).is_none_or(|index| self.down.contains(&index));
        if !outward.is_read || plan.outsides.iter().any(is_away) {
            self.outward.extend_from_slice(outward.before);
        }
        Ok(())
    }

    fn read_foreign(&mut self, rule: &RuleMessage) {
        if !Rule::is_of_the_kernel(rule) {
            self.ruled.extend(Family::from_number(rule.header.family));
        }
    }

    pub(super) fn index(&self, name: &str) -> Option<u32> {
        self.links.iter().find(|(have, _)| have == name).map(|(_, index)| *index)
    }

    pub(super) fn name(&self, index: u32) -> &str {
        self.links.iter().find(|(_, have)| *have == index).map_or("?", |(name, _)| name)
    }

    pub(super) fn addresses_of<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a OwnAddress> + use<'a> {
        let index = self.index(name);
        self.addresses.iter().filter(move |a| Some(a.interface) == index && !is_link_local(a.address))
    }

    pub(super) fn networks_of(&self, name: &str) -> Vec<IpNet> {
        self.addresses_of(name).map(|a| a.network).collect()
    }
}

/// Every interface by name, with its index and its master's.
pub(in crate::host) fn links(netlink: &mut Netlink) -> Result<Vec<Member>, KernelError> {
    let member = |Link { name, index, master, .. }| Member { name, index, master };
    Ok(read_links(netlink)?.into_iter().map(member).collect())
}

/// An interface, as far as it tells which realm it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::host) struct Member {
    pub(in crate::host) name: String,
    pub(in crate::host) index: u32,
    /// The bridge, bond, team or VRF that it belongs to.
    pub(in crate::host) master: Option<u32>,
}

/// The addresses of an interface that can be used.
pub(super) fn usable(seen: &Seen, name: &str) -> Vec<IpAddr> {
    seen.addresses_of(name).filter(|a| a.usable).map(|a| a.address).collect()
}

fn own_address(message: &AddressMessage) -> Option<OwnAddress> {
    let (mut local, mut prefix) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => prefix = Some(*a),
            _ => {}
        }
    }
    let doubtful = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    Some(OwnAddress {
        interface: message.header.index,
        address: local.or(prefix)?,
        // On a point-to-point link the prefix is the peer's.
        network: IpNet::new(prefix.or(local)?, message.header.prefix_len).ok()?.trunc(),
        usable: !message.header.flags.intersects(doubtful),
    })
}

/// Name and index of every interface, and whether it is up.
struct Link {
    name: String,
    index: u32,
    is_up: bool,
    framing: Framing,
    is_plain: bool,
    is_external: bool,
    bridge: Option<(bool, bool)>,
    /// Its master is a bridge.
    is_port: bool,
    master: Option<u32>,
    lower: Option<u32>,
}

fn read_links(netlink: &mut Netlink) -> Result<Vec<Link>, KernelError> {
    let messages = dump(netlink, "list the interfaces", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let link = |message| {
        let RouteNetlinkMessage::NewLink(link) = message else { return None };
        let (index, is_up) = (link.header.index, link.header.flags.contains(LinkFlags::Up));
        let framing = framing(&link);
        let (mut name, mut master, mut lower, mut elsewhere, mut carried) = (None, None, None, false, false);
        let (mut is_plain, mut is_port, mut is_external, mut bridge) = (true, false, false, None);
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text),
                LinkAttribute::Controller(index) => master = Some(index),
                LinkAttribute::Link(index) => lower = Some(index),
                // Its number is one of another namespace.
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::LinkInfo(all) => {
                    carried = all.iter().any(is_carried);
                    is_external = all.iter().any(takes_its_end_from_the_route);
                    bridge = all.iter().find_map(filtered_at_ports);
                    is_port = all.iter().any(|info| matches!(info, LinkInfo::PortKind(InfoPortKind::Bridge)));
                    is_plain = !all.iter().any(|info| matches!(info, LinkInfo::Kind(kind) if !is_wire(kind)));
                }
                _ => {}
            }
        }
        let lower = lower.filter(|lower| carried && !elsewhere && *lower != index);
        Some(Link { name: name?, index, is_up, framing, is_plain, is_external, bridge, is_port, master, lower })
    };
    Ok(messages.into_iter().filter_map(link).collect())
}

/// Whether an interface of this kind lies on another, whose packets it takes.
fn is_carried(info: &LinkInfo) -> bool {
    matches!(info, LinkInfo::Kind(InfoKind::Vlan | InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan))
}

/// `ip link add … external`: the tunnel has no end of its own, routes have one each.
fn takes_its_end_from_the_route(info: &LinkInfo) -> bool {
    let LinkInfo::Data(data) = info else { return false };
    match data {
        InfoData::Vxlan(all) => all.contains(&InfoVxlan::CollectMetadata(true)),
        InfoData::Geneve(all) => all.contains(&InfoGeneve::CollectMetadata),
        InfoData::IpTunnel(all) => all.contains(&InfoIpTunnel::CollectMetadata),
        InfoData::GreTap(all) | InfoData::GreTun(all) | InfoData::ErSpan(all) => {
            all.contains(&InfoGre::CollectMetadata)
        }
        InfoData::GreTap6(all) | InfoData::GreTun6(all) | InfoData::Ip6ErSpan(all) => {
            all.contains(&InfoGre6::CollectMetadata)
        }
        _ => false,
    }
}

/// Of a bridge: whether netfilter is told to look at the ports of this one, IPv4 and IPv6.
fn filtered_at_ports(info: &LinkInfo) -> Option<(bool, bool)> {
    let LinkInfo::Data(InfoData::Bridge(all)) = info else { return None };
    let is_on = |wanted: &InfoBridge| all.contains(wanted);
    Some((is_on(&InfoBridge::NfCallIpTables(true)), is_on(&InfoBridge::NfCallIp6Tables(true))))
}

/// Whether packets come by an interface of this kind from its own far end alone. Hardware has no kind.
fn is_wire(kind: &InfoKind) -> bool {
    matches!(kind, InfoKind::Veth | InfoKind::Tun | InfoKind::Wireguard | InfoKind::Dummy | InfoKind::Ifb)
}

fn framing(link: &LinkMessage) -> Framing {
    use LinkLayerType as T;
    match link.header.link_layer_type {
        T::Ether | T::Loopback => ethernet(link).map_or(Framing::Unknown, Framing::Ethernet),
        T::Ppp | T::Tunnel | T::Tunnel6 | T::Sit | T::Ipgre | T::Ip6gre | T::Rawip | T::None => Framing::Bare,
        _ => Framing::Unknown,
    }
}

fn ethernet(link: &LinkMessage) -> Option<Ethernet> {
    let hardware = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(address) => address.as_slice().try_into().ok(),
        _ => None,
    })?;
    let is_local = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Veth | InfoKind::Tun));
    let is_local = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(all) => all.iter().any(is_local),
        _ => false,
    });
    Some(Ethernet { hardware, is_local })
}

/// The routes of main that leave by an interface; the kernel does the choosing, however large main is.
fn main_routes(netlink: &mut Netlink, links: &[(String, u32)], name: &str) -> Result<Vec<Route>, KernelError> {
    let Some((_, index)) = links.iter().find(|(have, _)| have == name) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for family in [Family::V4, Family::V6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family.number();
        message.attributes = vec![RouteAttribute::Table(MAIN), RouteAttribute::Oif(*index)];
        for route in routes(netlink, message)? {
            // An older kernel ignores the filter.
            let here = matches!(&route.to, To::Hops(hops) if hops.devices().contains(index));
            if route.table == MAIN && here {
                found.push(route);
            }
        }
    }
    Ok(found)
}

/// The routes of all gateways in this namespace, every table.
pub(in crate::host) fn gateway_routes(netlink: &mut Netlink) -> Result<Vec<Route>, KernelError> {
    let mut found = Vec::new();
    for family in [Family::V4, Family::V6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family.number();
        message.header.protocol = PROTOCOL;
        found.extend(routes(netlink, message)?);
    }
    Ok(found)
}

/// The rules of all gateways in this namespace.
pub(in crate::host) fn gateway_rules(netlink: &mut Netlink) -> Result<Vec<Rule>, KernelError> {
    let messages = dump(netlink, "list the rules", RouteNetlinkMessage::GetRule(RuleMessage::default()))?;
    Ok(messages
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewRule(rule) => Rule::ours(rule),
            _ => None,
        })
        .collect())
}

fn routes(netlink: &mut Netlink, filter: RouteMessage) -> Result<Vec<Route>, KernelError> {
    let (protocol, family) = (filter.header.protocol, filter.header.address_family);
    let messages = match netlink.dump(&RouteNetlinkMessage::GetRoute(filter)) {
        // No such table yet, or no such family in this kernel.
        Err(e) if e.is(Errno::NOENT) || e.is(Errno::AFNOSUPPORT) || e.is(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other.map_err(|source| KernelError::netlink("list the routes", source))?,
    };
    let mut found: Vec<Route> = messages
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route)
                if route.header.address_family == family
                    && (protocol == Default::default() || route.header.protocol == protocol) =>
            {
                Route::read(route)
            }
            _ => None,
        })
        .collect();
    if found.iter().any(|route| matches!(&route.to, To::Hops(hops) if hops.unresolved().is_some())) {
        let objects = NextHops::read(netlink).map_err(|source| KernelError::netlink("list the next hops", source))?;
        for route in &mut found {
            if let To::Hops(hops) = &mut route.to {
                hops.resolve(&objects);
            }
        }
    }
    Ok(found)
}

fn dump(
    netlink: &mut Netlink,
    what: &str,
    message: RouteNetlinkMessage,
) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
    netlink.dump(&message).map_err(|source| KernelError::netlink(what, source))
}
