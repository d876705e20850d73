//! What the network around the gateway looks like to the translator.

use super::numbers::InsideNumber;
use crate::wire::Address;
use ipnet::IpNet;
use std::net::IpAddr;

/// What the network around the gateway looks like; changes while it runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Surroundings {
    /// For each inside realm, the prefixes whose addresses may get a binding: in order, none within another.
    pub(super) sources: Vec<Vec<IpNet>>,
    /// The gateway's own addresses inside.
    pub(super) own_inside: Vec<IpAddr>,
    /// The gateway's own addresses outside.
    pub(super) own_outside: Vec<IpAddr>,
    /// The networks they are in, each with such an address.
    pub(super) outside_networks: Vec<IpNet>,
}

impl Surroundings {
    /// Whether `address` is in one of the prefixes of the inside realm.
    pub(in crate::nat) fn is_source(&self, inside: InsideNumber, address: Address) -> bool {
        self.sources.get(usize::from(inside.get())).is_some_and(|prefixes| contain(prefixes, address.into()))
    }

    /// Whether nobody outside may see `address`: it is in a prefix of an inside realm, or the gateway's own there.
    pub(in crate::nat) fn is_hidden(&self, address: Address) -> bool {
        let address = IpAddr::from(address);
        self.sources.iter().any(|prefixes| contain(prefixes, address)) || self.own_inside.contains(&address)
    }

    /// Whether `address` is the gateway's own.
    pub(in crate::nat) fn is_own(&self, address: Address) -> bool {
        let address = IpAddr::from(address);
        self.own_outside.contains(&address) || self.own_inside.contains(&address)
    }

    /// By which of its addresses outside `peer` hears of the gateway, as far as that can be told without the routes: that of
    /// the network in which the peer is; else one that reaches as far as the peer's own; else one that reaches farthest.
    pub(in crate::nat) fn own_outside(&self, peer: Address) -> Option<Address> {
        let of_family = || self.own_outside.iter().copied().filter(|own| Address::from(*own).is_v4() == peer.is_v4());
        let near = self.outside_networks.iter().filter(|net| net.contains(&IpAddr::from(peer)));
        let near =
            near.max_by_key(|net| net.prefix_len()).map(IpNet::addr).filter(|own| self.own_outside.contains(own));
        let wanted = reach(peer.into());
        let fits = || of_family().find(|own| reach(*own) == wanted);
        let farthest = || of_family().reduce(|one, other| if reach(other) > reach(one) { other } else { one });
        near.or_else(fits).or_else(farthest).map(Address::from)
    }

    /// The source of an error that the kernel has made itself. It goes by the route that the kernel has looked up, and has an
    /// address of that interface, unless an address inside was the better known one. `None`: there is no fit address.
    pub(in crate::nat) fn source_of_our_own(&self, source: Address, peer: Address) -> Option<Address> {
        if self.own_outside.contains(&source.into()) { Some(source) } else { self.own_outside(peer) }
    }

    /// The gateway's own address inside, of the family of `like`.
    pub(in crate::nat) fn own_inside(&self, like: Address) -> Option<Address> {
        first_of_family(&self.own_inside, like)
    }
}

/// How far an address is known: on a link, within a site, everywhere.
fn reach(address: IpAddr) -> u8 {
    let (is_of_a_link, is_of_a_site) = match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            // RFC 1918, RFC 6598.
            (address.is_link_local(), address.is_private() || (first == 100 && second & 0xc0 == 64))
        }
        IpAddr::V6(address) => (address.is_unicast_link_local(), address.is_unique_local()),
    };
    if is_of_a_link { 0 } else { 2 - u8::from(is_of_a_site) }
}

/// Prefixes in order, none within another.
pub(super) fn in_order(prefixes: &[IpNet]) -> Vec<IpNet> {
    let mut all = IpNet::aggregate(&prefixes.iter().map(IpNet::trunc).collect());
    all.sort_unstable();
    all
}

/// Whether one of these, which are in order, has the address.
pub(super) fn contain(prefixes: &[IpNet], address: IpAddr) -> bool {
    let after = prefixes.partition_point(|prefix| prefix.network() <= address);
    after.checked_sub(1).and_then(|last| prefixes.get(last)).is_some_and(|prefix| prefix.contains(&address))
}

pub(super) fn first_of_family(addresses: &[IpAddr], like: Address) -> Option<Address> {
    addresses.iter().map(|address| Address::from(*address)).find(|address| address.is_v4() == like.is_v4())
}
