//! Rules and routes as plain values, and as the netlink messages that make, remove and list them.

use super::next_hops::NextHops;
use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The mark on every rule, route and neighbour entry the gateway makes (`rtm_protocol`): 75, 'K'.
/// Not used by any program in iproute2's `rt_protos`.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(75);

/// The metric of an IPv6 route that names none (`IP6_RT_PRIO_USER`, net/ip6_route.h).
const DEFAULT_METRIC_V6: u32 = 1024;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) fn number(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }

    pub(super) fn from_number(number: AddressFamily) -> Option<Self> {
        match number {
            AddressFamily::Inet => Some(Self::V4),
            AddressFamily::Inet6 => Some(Self::V6),
            _ => None,
        }
    }

    /// `0.0.0.0/0` or `::/0`.
    pub(super) fn everything(self) -> IpNet {
        match self {
            Self::V4 => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
            Self::V6 => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
        }
    }
}

/// A policy rule, as far as the gateway uses them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rule {
    pub(super) priority: u32,
    pub(super) family: Family,
    pub(super) from_interface: Option<String>,
    pub(super) from: Option<IpNet>,
    pub(super) to: Option<IpNet>,
    /// The ICMP protocol number and a range of type × 256 + code: the kernel keeps both where ports would be.
    pub(super) icmp: Option<(u8, u16, u16)>,
    pub(super) then: Then,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Then {
    /// Look into this table.
    Table(u32),
    /// Answer "network unreachable".
    Unreachable,
    /// Nothing: the rule is there to be read.
    Nothing,
    /// On behind the rule of priority `target`. The kernel keeps the table for us; it says whose rule this is.
    Past {
        /// Priority of a rule that does nothing.
        target: u32,
        /// A table of the gateway.
        table: u32,
    },
}

/// A route, as far as the gateway makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) table: u32,
    pub(super) destination: IpNet,
    pub(super) metric: u32,
    pub(super) to: To,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// Drop silently.
    Blackhole,
    /// On to the next rule.
    Throw,
    /// Through these.
    Hops(Hops),
}

/// The way a unicast route goes: interfaces, gateways, source address; in one fixed order, so that two can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hops {
    scope: RouteScope,
    on_link: bool,
    attributes: Vec<RouteAttribute>,
    /// Where its next-hop object leads, if the route itself does not say.
    resolved: Resolved,
}

/// What is known of a route by its next-hop object. The object may change, the route stays the same.
#[derive(Clone, Debug, Default)]
struct Resolved {
    devices: Vec<u32>,
    gateways: Vec<IpAddr>,
}

impl PartialEq for Resolved {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Resolved {}

impl Rule {
    /// The message that adds or removes the rule.
    pub(super) fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.number();
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Protocol(PROTOCOL));
        attributes.push(RuleAttribute::Priority(self.priority));
        if let Some(name) = &self.from_interface {
            attributes.push(RuleAttribute::Iifname(name.clone()));
        }
        if let Some(from) = self.from {
            message.header.src_len = from.prefix_len();
            attributes.push(RuleAttribute::Source(from.addr()));
        }
        if let Some(to) = self.to {
            message.header.dst_len = to.prefix_len();
            attributes.push(RuleAttribute::Destination(to.addr()));
        }
        if let Some((protocol, start, end)) = self.icmp {
            attributes.push(RuleAttribute::IpProtocol(IpProtocol::from(protocol)));
            attributes.push(RuleAttribute::DestinationPortRange(RulePortRange { start, end }));
        }
        message.header.action = match self.then {
            Then::Table(table) => {
                attributes.push(RuleAttribute::Table(table));
                RuleAction::ToTable
            }
            Then::Unreachable => RuleAction::Unreachable,
            Then::Nothing => RuleAction::Nop,
            Then::Past { target, table } => {
                attributes.extend([RuleAttribute::Table(table), RuleAttribute::Goto(target)]);
                RuleAction::Goto
            }
        };
        message
    }

    /// Whether it is one of the rules that every namespace begins with (net/ipv4/fib_rules.c, drivers/net/vrf.c): the
    /// tables local, main and default, for all packets; and that of VRFs.
    pub(super) fn is_of_the_kernel(message: &RuleMessage) -> bool {
        let header = &message.header;
        let (mut priority, mut table) = (0, u32::from(header.table));
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(number) => priority = *number,
                RuleAttribute::Table(number) => table = *number,
                RuleAttribute::L3MDev(true) => return true,
                RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::Protocol(_) | RuleAttribute::L3MDev(_) => {}
                _ => return false,
            }
        }
        let is_for_all = header.src_len == 0 && header.dst_len == 0 && header.tos == 0;
        let table = (header.action == RuleAction::ToTable && is_for_all).then_some(table);
        matches!((priority, table), (0, Some(255)) | (32766, Some(254)) | (32767, Some(253)))
    }

    /// Reads one that carries our mark; `None` for everybody else's.
    pub(super) fn ours(message: &RuleMessage) -> Option<Self> {
        if !message.attributes.contains(&RuleAttribute::Protocol(PROTOCOL)) {
            return None;
        }
        let mut rule = Self {
            priority: 0,
            family: Family::from_number(message.header.family)?,
            from_interface: None,
            from: None,
            to: None,
            icmp: None,
            then: match message.header.action {
                RuleAction::ToTable => Then::Table(u32::from(message.header.table)),
                RuleAction::Unreachable => Then::Unreachable,
                RuleAction::Nop => Then::Nothing,
                RuleAction::Goto => Then::Past { target: 0, table: u32::from(message.header.table) },
                _ => return None,
            },
        };
        let (mut protocol, mut types) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(p) => rule.priority = *p,
                RuleAttribute::Iifname(name) => rule.from_interface = Some(name.clone()),
                RuleAttribute::Destination(a) => rule.to = IpNet::new(*a, message.header.dst_len).ok(),
                RuleAttribute::IpProtocol(p) => protocol = Some(u8::from(*p)),
                RuleAttribute::DestinationPortRange(range) => types = Some((range.start, range.end)),
                RuleAttribute::Source(a) => rule.from = IpNet::new(*a, message.header.src_len).ok(),
                RuleAttribute::Table(number) => match &mut rule.then {
                    Then::Table(table) | Then::Past { table, .. } => *table = *number,
                    Then::Unreachable | Then::Nothing => {}
                },
                RuleAttribute::Goto(priority) => {
                    if let Then::Past { target, .. } = &mut rule.then {
                        *target = *priority;
                    }
                }
                _ => {}
            }
        }
        rule.icmp = protocol.zip(types).map(|(p, (start, end))| (p, start, end));
        Some(rule)
    }
}

impl Route {
    /// Straight onto a device, with the source address that local programs shall use.
    pub(super) fn device(table: u32, destination: IpNet, metric: u32, device: u32, source: Option<IpAddr>) -> Self {
        Self { table, destination, metric, to: To::Hops(Hops::device(destination, device, source)) }
    }

    pub(super) fn blackhole(table: u32, destination: IpNet, metric: u32) -> Self {
        Self { table, destination, metric, to: To::Blackhole }
    }

    pub(super) fn family(&self) -> Family {
        Family::of(self.destination.addr())
    }

    /// What makes two routes the same entry of the kernel's table, whatever they lead to.
    pub(super) fn key(&self) -> (u32, IpNet, u32) {
        (self.table, self.destination, self.metric)
    }

    /// The message that adds, replaces or removes the route.
    pub(super) fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = self.family().number();
        message.header.destination_prefix_length = self.destination.prefix_len();
        message.header.protocol = PROTOCOL;
        message.attributes = vec![
            RouteAttribute::Table(self.table),
            RouteAttribute::Destination(self.destination.addr().into()),
            RouteAttribute::Priority(self.metric),
        ];
        message.header.kind = match &self.to {
            To::Blackhole => RouteType::BlackHole,
            To::Throw => RouteType::Throw,
            To::Hops(hops) => {
                message.header.scope = hops.scope;
                if hops.on_link {
                    message.header.flags |= RouteFlags::Onlink;
                }
                message.attributes.extend(hops.given());
                RouteType::Unicast
            }
        };
        message
    }

    /// Reads any unicast, blackhole or throw route; `None` for other kinds and for routes by type of service or source.
    pub(super) fn read(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let family = Family::from_number(header.address_family)?;
        if header.tos != 0 || header.source_prefix_length != 0 || header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let to = match header.kind {
            RouteType::BlackHole => To::Blackhole,
            RouteType::Throw => To::Throw,
            RouteType::Unicast => To::Hops(Hops::read(message)),
            _ => return None,
        };
        let mut route = Self {
            table: u32::from(header.table),
            destination: family.everything(),
            metric: if family == Family::V6 { DEFAULT_METRIC_V6 } else { 0 },
            to,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::Destination(RouteAddress::Inet(a)) => {
                    route.destination = IpNet::new((*a).into(), header.destination_prefix_length).ok()?;
                }
                RouteAttribute::Destination(RouteAddress::Inet6(a)) => {
                    route.destination = IpNet::new((*a).into(), header.destination_prefix_length).ok()?;
                }
                _ => {}
            }
        }
        Some(route)
    }
}

impl Hops {
    fn device(destination: IpNet, device: u32, source: Option<IpAddr>) -> Self {
        let mut attributes = vec![RouteAttribute::Oif(device)];
        attributes.extend(source.map(|a| RouteAttribute::PrefSource(a.into())));
        // IPv6 has no scopes of routes; the kernel always reports "universe" there.
        let scope = if destination.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        Self { scope, on_link: false, attributes, resolved: Resolved::default() }
    }

    fn read(message: &RouteMessage) -> Self {
        let mut attributes: Vec<_> = message.attributes.iter().filter_map(kept).collect();
        attributes.sort_by_key(netlink_packet_core::Nla::kind);
        let on_link = message.header.flags.contains(RouteFlags::Onlink);
        Self { scope: message.header.scope, on_link, attributes, resolved: Resolved::default() }
    }

    /// What the kernel has to be told. A next-hop object says it all; the kernel refuses both at once.
    fn given(&self) -> impl Iterator<Item = RouteAttribute> + use<'_> {
        let object = self.attributes.iter().any(|a| matches!(a, RouteAttribute::NhId(_)));
        let said_by_object = |a: &RouteAttribute| {
            use RouteAttribute as A;
            matches!(a, A::Oif(_) | A::Gateway(_) | A::Via(_) | A::MultiPath(_) | A::Encap(_) | A::EncapType(_))
        };
        self.attributes.iter().filter(move |a| !(object && said_by_object(a))).cloned()
    }

    /// The next-hop object that alone says where the route leads.
    pub(super) fn unresolved(&self) -> Option<u32> {
        let said = |a: &RouteAttribute| matches!(a, RouteAttribute::Oif(_) | RouteAttribute::MultiPath(_));
        let object = |a: &RouteAttribute| if let RouteAttribute::NhId(id) = a { Some(*id) } else { None };
        if self.attributes.iter().any(said) { None } else { self.attributes.iter().find_map(object) }
    }

    /// Takes over where that object leads.
    pub(super) fn resolve(&mut self, objects: &NextHops) {
        if let Some(id) = self.unresolved() {
            self.resolved = Resolved { devices: objects.devices(id), gateways: objects.gateways(id) };
        }
    }

    /// The interfaces the route leaves by.
    pub(super) fn devices(&self) -> Vec<u32> {
        self.attributes
            .iter()
            .flat_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => vec![*index],
                RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
                _ => Vec::new(),
            })
            .chain(self.resolved.devices.iter().copied())
            .collect()
    }

    /// The routers the route goes through.
    pub(super) fn gateways(&self) -> Vec<IpAddr> {
        fn of(attributes: &[RouteAttribute]) -> Vec<IpAddr> {
            attributes
                .iter()
                .flat_map(|attribute| match attribute {
                    RouteAttribute::Gateway(RouteAddress::Inet(a)) => vec![IpAddr::V4(*a)],
                    RouteAttribute::Gateway(RouteAddress::Inet6(a)) => vec![IpAddr::V6(*a)],
                    RouteAttribute::MultiPath(hops) => hops.iter().flat_map(|hop| of(&hop.attributes)).collect(),
                    _ => Vec::new(),
                })
                .collect()
        }
        let mut all = of(&self.attributes);
        all.extend_from_slice(&self.resolved.gateways);
        all
    }
}

/// The parts of a route that say where it goes; ages, statistics and states of the link stay behind.
fn kept(attribute: &RouteAttribute) -> Option<RouteAttribute> {
    match attribute {
        RouteAttribute::MultiPath(hops) => Some(RouteAttribute::MultiPath(
            hops.iter()
                .map(|hop| {
                    let mut kept_hop = RouteNextHop::default();
                    kept_hop.flags = hop.flags & RouteNextHopFlags::Onlink;
                    kept_hop.hops = hop.hops;
                    kept_hop.interface_index = hop.interface_index;
                    kept_hop.attributes = hop.attributes.iter().filter_map(kept).collect();
                    kept_hop
                })
                .collect(),
        )),
        RouteAttribute::Oif(_)
        | RouteAttribute::Gateway(_)
        | RouteAttribute::Via(_)
        | RouteAttribute::PrefSource(_)
        | RouteAttribute::Metrics(_)
        | RouteAttribute::Encap(_)
        | RouteAttribute::EncapType(_)
        | RouteAttribute::NhId(_) => Some(attribute.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    #[test]
    fn a_rule_survives_the_way_through_its_message() {
        let rule = Rule {
            priority: 7400,
            family: Family::V4,
            from_interface: Some("lo".into()),
            from: Some(net("10.0.0.0/8")),
            to: Some(net("198.18.0.0/16")),
            icmp: Some((1, 768, 1535)),
            then: Then::Table(0x8123_4500),
        };
        assert_eq!(Rule::ours(&rule.message()), Some(rule.clone()));
        let past = Rule { then: Then::Past { target: 7429, table: 0x8123_4501 }, ..rule.clone() };
        assert_eq!(Rule::ours(&past.message()), Some(past));
        let mut foreign = rule.message();
        foreign.attributes.retain(|a| !matches!(a, RuleAttribute::Protocol(_)));
        assert_eq!(Rule::ours(&foreign), None);
    }

    #[test]
    fn a_route_survives_the_way_through_its_message() {
        for route in [
            Route::device(700, net("198.18.0.0/16"), 10, 3, Some("10.0.0.1".parse().expect("address"))),
            Route::device(700, net("2001:db8::/64"), 10, 3, None),
            Route::blackhole(0x8000_0001, net("::/0"), 1000),
            Route { table: 5, destination: net("10.0.0.0/8"), metric: 5, to: To::Throw },
        ] {
            assert_eq!(Route::read(&route.message()), Some(route));
        }
    }
}
