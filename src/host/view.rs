//! What of this machine's network a gateway must know.

use super::messages::{Family, Route};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address our devices carry so that the reverse-path filter takes them for IPv4 devices (RFC 7600 §4.8).
pub(super) const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// `RT_TABLE_MAIN`.
pub(super) const MAIN: u32 = 254;

/// An interface with Ethernet headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ethernet {
    /// Its own address.
    pub hardware: [u8; 6],
    /// Whether there is no wire: what comes in by it another program or namespace of this machine has made.
    pub is_local: bool,
}

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
    /// One of our own devices was set down by another program, or has lost its address.
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
        sources.iter().copied().filter(move |net| Family::of(net.addr()) == family && !is_default(net))
    }

    /// Whether another inside realm has addresses of `net` too.
    pub(super) fn is_ambiguous(&self, realm: usize, net: &IpNet) -> bool {
        let others = self.insides.iter().enumerate().filter(|(other, _)| *other != realm);
        let mut sources = others.flat_map(|(_, inside)| &inside.sources).filter(|other| !is_default(other));
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

/// 169.254/16 (RFC 3927) counts as an ordinary network here: routers do use it between themselves.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}

/// Whether a prefix is as good as "everything else": the default route, or one of the few that people split it into.
pub(super) fn is_default(net: &IpNet) -> bool {
    net.prefix_len() <= if net.addr().is_ipv4() { 1 } else { 3 }
}
