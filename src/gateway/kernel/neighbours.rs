//! Proxy neighbour entries: IPv6 has no "answer for the whole pool", each virtual IP on an outside LAN needs its own.

use super::messages::{Family, PROTOCOL};
use super::netlink::{Netlink, NetlinkError};
use super::{Host, KernelError, Lan};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Makes virtual IPs that lie on an outside LAN answer there. Cheap to clone; for every worker.
///
/// For IPv4 there is nothing to do: the interface's `proxy_arp` answers for whatever is routed to the gateway.
#[derive(Clone)]
pub struct Neighbours {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    netlink: Netlink,
    lans: Vec<Lan>,
    announced: BTreeSet<Ipv6Addr>,
    /// A kernel that refuses one refuses them all; it is said once.
    complained: bool,
}

impl Neighbours {
    pub(super) fn new(host: &Host) -> Result<Self, KernelError> {
        let netlink = Netlink::open().map_err(|e| KernelError::netlink("open a netlink socket", e.into()))?;
        let shared = Shared { netlink, lans: lans(host), announced: BTreeSet::new(), complained: false };
        Ok(Self { shared: Arc::new(Mutex::new(shared)) })
    }

    /// From now on the gateway answers for `virtual_ip` on the LAN it lies in. Nothing to do for all others.
    pub fn announce(&self, virtual_ip: IpAddr) {
        if let IpAddr::V6(address) = virtual_ip {
            let mut shared = self.shared.lock();
            if shared.on_lan(address) && shared.announced.insert(address) {
                shared.add(address);
            }
        }
    }

    /// The gateway answers for `virtual_ip` no longer.
    pub fn withdraw(&self, virtual_ip: IpAddr) {
        if let IpAddr::V6(address) = virtual_ip {
            let mut shared = self.shared.lock();
            if shared.announced.remove(&address) {
                shared.remove(address);
            }
        }
    }

    /// Outside interfaces have changed: everything is announced anew where it lies now.
    pub(super) fn follow(&self, host: &Host) {
        let mut shared = self.shared.lock();
        let lans = lans(host);
        if lans == shared.lans {
            return;
        }
        let all: Vec<Ipv6Addr> = shared.announced.iter().copied().collect();
        for address in &all {
            shared.remove(*address);
        }
        shared.lans = lans;
        for address in all {
            shared.add(address);
        }
    }

    /// Withdraws everything.
    pub(super) fn clear(&self) {
        let mut shared = self.shared.lock();
        for address in std::mem::take(&mut shared.announced) {
            shared.remove(address);
        }
        // A worker that is late announces nothing more.
        shared.lans.clear();
    }
}

impl Shared {
    fn on_lan(&self, address: Ipv6Addr) -> bool {
        self.lans.iter().any(|lan| lan.network.contains(&IpAddr::V6(address)))
    }

    fn add(&mut self, address: Ipv6Addr) {
        for lan in self.lans.iter().filter(|lan| lan.network.contains(&IpAddr::V6(address))) {
            let message = RouteNetlinkMessage::NewNeighbour(entry(lan.index, address));
            if let Err(error) = self.netlink.request(message, NLM_F_CREATE | NLM_F_REPLACE)
                && !std::mem::replace(&mut self.complained, true)
            {
                log::warn!(
                    "cannot answer for {address} on '{}': {error}; peers on that LAN cannot call it",
                    lan.interface
                );
            }
        }
    }

    fn remove(&mut self, address: Ipv6Addr) {
        for lan in self.lans.iter().filter(|lan| lan.network.contains(&IpAddr::V6(address))) {
            match self.netlink.request(RouteNetlinkMessage::DelNeighbour(entry(lan.index, address)), 0) {
                Err(error) if !gone(&error) => {
                    log::debug!("cannot withdraw {address} from '{}': {error}", lan.interface);
                }
                _ => {}
            }
        }
    }
}

/// Removes the entries that a killed gateway has left behind. Says how many.
pub(super) fn clear_left(netlink: &mut Netlink) -> Result<usize, KernelError> {
    let mut filter = NeighbourMessage::default();
    filter.header.family = Family::V6.number();
    filter.header.flags = NeighbourFlags::Proxy;
    let found = netlink
        .dump(&RouteNetlinkMessage::GetNeighbour(filter))
        .map_err(|source| KernelError::netlink("list the proxy neighbours", source))?;
    let mut count = 0;
    for message in found {
        let RouteNetlinkMessage::NewNeighbour(message) = message else { continue };
        let ours = message.attributes.contains(&NeighbourAttribute::Protocol(PROTOCOL));
        let address = message.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(*address),
            _ => None,
        });
        let Some(address) = address.filter(|_| ours) else {
            continue;
        };
        let message = RouteNetlinkMessage::DelNeighbour(entry(message.header.ifindex, address));
        match netlink.request(message, 0) {
            Err(error) if !gone(&error) => {
                return Err(KernelError::netlink(format!("remove the proxy neighbour {address}"), error));
            }
            _ => count += 1,
        }
    }
    Ok(count)
}

fn lans(host: &Host) -> Vec<Lan> {
    host.lans.iter().filter(|lan| lan.network.addr().is_ipv6()).cloned().collect()
}

fn entry(index: u32, address: Ipv6Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = Family::V6.number();
    message.header.ifindex = index;
    message.header.flags = NeighbourFlags::Proxy;
    message.attributes =
        vec![NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)), NeighbourAttribute::Protocol(PROTOCOL)];
    message
}

fn gone(error: &NetlinkError) -> bool {
    error.is(Errno::NOENT) || error.is(Errno::NODEV)
}
