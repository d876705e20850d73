//! Proxy neighbour entries: each virtual IP that somebody has, and that lies on an outside LAN, is answered for there. No
//! other address is: a whole prefix (`proxy_arp`) would show what else this machine has routes for.

use super::claim::Claim;
use super::messages::{Family, PROTOCOL};
use super::netlink::{Netlink, NetlinkError};
use super::roster::Roster;
use super::{Host, KernelError, Lan};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Makes virtual IPs that lie on an outside LAN answer there. Cheap to clone; for every worker.
///
/// A probe before an address is used (RFC 5227: an ARP request from 0.0.0.0) is not answered: the kernel answers those for
/// addresses of its own alone (`arp_process`, net/ipv4/arp.c).
#[derive(Clone)]
pub struct Neighbours {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    netlink: Netlink,
    lans: Vec<Lan>,
    announced: BTreeSet<IpAddr>,
    /// There are LANs that were not there when virtual IPs were announced.
    has_another: bool,
    /// A kernel that refuses one refuses them all; it is said once.
    complained: bool,
}

impl Neighbours {
    pub(super) fn new(host: &Host) -> Result<Self, KernelError> {
        let netlink = Netlink::open().map_err(|e| KernelError::netlink("open a netlink socket", e.into()))?;
        let shared = Shared {
            netlink,
            lans: host.lans.clone(),
            announced: BTreeSet::new(),
            has_another: false,
            complained: false,
        };
        Ok(Self { shared: Arc::new(Mutex::new(shared)) })
    }

    /// From now on the gateway answers for `virtual_ip` on the LAN it lies in. Nothing to do for all others.
    pub fn announce(&self, virtual_ip: IpAddr) {
        let mut shared = self.shared.lock();
        if shared.on_lan(virtual_ip) && shared.announced.insert(virtual_ip) {
            shared.add(virtual_ip);
        }
    }

    /// The gateway answers for `virtual_ip` no longer.
    pub fn withdraw(&self, virtual_ip: IpAddr) {
        let mut shared = self.shared.lock();
        if shared.announced.remove(&virtual_ip) {
            shared.remove(virtual_ip);
        }
    }

    /// Outside interfaces have changed: everything is announced anew where it lies now. `fallen`: an interface may have been
    /// down, and have lost its entries even if it is up again.
    pub(super) fn follow(&self, host: &Host, fallen: bool) {
        let mut shared = self.shared.lock();
        if host.lans == shared.lans && !fallen {
            return;
        }
        let all: Vec<IpAddr> = shared.announced.iter().copied().collect();
        if host.lans != shared.lans {
            for address in &all {
                shared.remove(*address);
            }
            shared.has_another |= host.lans.iter().any(|lan| !shared.lans.contains(lan));
            shared.lans.clone_from(&host.lans);
        }
        for address in all {
            shared.add(address);
        }
    }

    /// Whether all virtual IPs that can be called have to be announced again: a LAN has come. Says so once.
    pub fn have_another_lan(&self) -> bool {
        std::mem::take(&mut self.shared.lock().has_another)
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
    fn on_lan(&self, address: IpAddr) -> bool {
        self.lans.iter().any(|lan| lan.network.contains(&address))
    }

    fn add(&mut self, address: IpAddr) {
        for lan in self.lans.iter().filter(|lan| lan.network.contains(&address)) {
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

    fn remove(&mut self, address: IpAddr) {
        for lan in self.lans.iter().filter(|lan| lan.network.contains(&address)) {
            match self.netlink.request(RouteNetlinkMessage::DelNeighbour(entry(lan.index, address)), 0) {
                Err(error) if !gone(&error) => {
                    log::debug!("cannot withdraw {address} from '{}': {error}", lan.interface);
                }
                _ => {}
            }
        }
    }
}

/// Removes the entries that a killed gateway `tun` has left behind: those that are of no other gateway. Says how many.
pub(super) fn clear_left(netlink: &mut Netlink, tun: &str) -> Result<usize, KernelError> {
    let roster = Roster::read(&Claim::is_taken);
    let others: Vec<_> = roster.others(tun).flat_map(|other| other.pools.iter().copied()).collect();
    let mut count = 0;
    for family in [Family::V4, Family::V6] {
        for (index, address) in left(netlink, family)? {
            if others.iter().any(|pool| pool.contains(address.into())) {
                continue;
            }
            let message = RouteNetlinkMessage::DelNeighbour(entry(index, address));
            match netlink.request(message, 0) {
                Err(error) if !gone(&error) => {
                    return Err(KernelError::netlink(format!("remove the proxy neighbour {address}"), error));
                }
                _ => count += 1,
            }
        }
    }
    Ok(count)
}

/// The entries that gateways have made, each with its interface.
fn left(netlink: &mut Netlink, family: Family) -> Result<Vec<(u32, IpAddr)>, KernelError> {
    let mut filter = NeighbourMessage::default();
    filter.header.family = family.number();
    filter.header.flags = NeighbourFlags::Proxy;
    let found = netlink
        .dump(&RouteNetlinkMessage::GetNeighbour(filter))
        .map_err(|source| KernelError::netlink("list the proxy neighbours", source))?;
    let ours = found.into_iter().filter_map(|message| {
        let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
        let is_ours = message.attributes.contains(&NeighbourAttribute::Protocol(PROTOCOL));
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::from(*address)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::from(*address)),
            _ => None,
        });
        address.filter(|_| is_ours).map(|address| (message.header.ifindex, address))
    });
    Ok(ours.collect())
}

fn entry(index: u32, address: IpAddr) -> NeighbourMessage {
    let destination = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    let mut message = NeighbourMessage::default();
    message.header.family = Family::of(address).number();
    message.header.ifindex = index;
    message.header.flags = NeighbourFlags::Proxy;
    // Newer kernels leave it where it is while the carrier is away.
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![NeighbourAttribute::Destination(destination), NeighbourAttribute::Protocol(PROTOCOL)];
    message
}

fn gone(error: &NetlinkError) -> bool {
    error.is(Errno::NOENT) || error.is(Errno::NODEV)
}
