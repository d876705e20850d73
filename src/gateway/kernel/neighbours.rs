//! Proxy neighbour entries: each virtual IP that somebody has, and that lies on an outside LAN, is answered for there. No
//! other address is: a whole prefix (`proxy_arp`) would show what else this machine has routes for. Beside the kernel's
//! answers, the LAN hears of each when it is new, so that nobody goes on to send to a gateway before this one.

use super::claim::Claim;
use super::messages::{Family, PROTOCOL};
use super::netlink::{Netlink, NetlinkError};
use super::packet_socket::{Heard, PacketSocket};
use super::roster::Roster;
use super::{Framing, Host, KernelError, Lan};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Announcements in a second: switches let ARP through to their processors at a few hundred.
const SPOKEN: u32 = 100;
/// Each is made so often, a second apart: any may be lost (RFC 5227 §2.3, RFC 4861 §7.2.6).
const TIMES: u8 = 2;
/// Announcements that wait; a peer that missed one asks in the end.
const MOST_DUE: usize = 65_536;
/// ARP packets looked at before others get a turn.
const HEARD_AT_ONCE: usize = 64;
/// An address is defended at most so often (RFC 5227 §2.4), and its conflict said.
const DEFEND: Duration = Duration::from_secs(10);
/// Conflicts remembered at one time; more are neither said nor defended.
const MOST_CONFLICTS: usize = 256;

/// Makes virtual IPs that lie on an outside LAN answer there. Cheap to clone; for every worker.
///
/// A probe before an address is used (RFC 5227: an ARP request from 0.0.0.0) is answered here: the kernel answers those for
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
    /// `None`: it was not to be had.
    socket: Option<PacketSocket>,
    /// The Ethernet addresses of this machine, by interface.
    hardware: BTreeMap<u32, [u8; 6]>,
    /// What the LANs are still to hear of, and how often.
    due: VecDeque<(IpAddr, u8)>,
    /// What may still be said in this second.
    left: u32,
    conflicts: BTreeMap<Ipv4Addr, Instant>,
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
            socket: open_socket(!host.lans.is_empty()),
            hardware: hardware(host),
            due: VecDeque::new(),
            left: SPOKEN,
            conflicts: BTreeMap::new(),
        };
        Ok(Self { shared: Arc::new(Mutex::new(shared)) })
    }

    /// From now on the gateway answers for `virtual_ip` on the LAN it lies in. Nothing to do for all others.
    pub fn announce(&self, virtual_ip: IpAddr) {
        let mut shared = self.shared.lock();
        if shared.on_lan(virtual_ip) && shared.announced.insert(virtual_ip) {
            shared.add(virtual_ip);
            shared.tell(virtual_ip, TIMES);
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
        shared.hardware = hardware(host);
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
            shared.tell(address, TIMES);
        }
    }

    /// Says what is due, as much as may be said in a second. To be called every second.
    pub fn beat(&self) {
        let mut shared = self.shared.lock();
        shared.left = SPOKEN;
        for _ in 0..shared.due.len() {
            if shared.left == 0 {
                break;
            }
            let Some((address, times)) = shared.due.pop_front() else { break };
            if shared.announced.contains(&address) {
                shared.tell(address, times);
            }
        }
    }

    /// Hears what is said about virtual IPs. To be called when [`Neighbours::descriptor`] is readable, by level.
    pub fn hear(&self) {
        let mut shared = self.shared.lock();
        for _ in 0..HEARD_AT_ONCE {
            let Some(heard) = shared.socket.as_ref().and_then(PacketSocket::hear) else { return };
            if let Some(heard) = heard {
                shared.heard(&heard);
            }
        }
    }

    /// What [`Neighbours::hear`] reads; `None` if nothing can be heard.
    pub fn descriptor(&self) -> Option<OwnedFd> {
        self.shared.lock().socket.as_ref()?.as_fd().try_clone_to_owned().ok()
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

    /// Tells the LANs of `address` now, if so much may still be said, and `times` in all.
    fn tell(&mut self, address: IpAddr, times: u8) {
        let mut times = times;
        if self.left > 0 {
            self.left -= 1;
            times -= 1;
            self.speak(address);
        }
        if times > 0 && self.socket.is_some() && self.due.len() < MOST_DUE {
            self.due.push_back((address, times));
        }
    }

    fn speak(&self, address: IpAddr) {
        let Some(socket) = &self.socket else { return };
        for lan in self.lans.iter().filter(|lan| lan.network.contains(&address)) {
            let Some(hardware) = self.hardware.get(&lan.index) else { continue };
            if let Err(error) = socket.announce(lan.index, *hardware, address) {
                log::debug!("cannot tell '{}' of {address}: {error}", lan.interface);
            }
        }
    }

    fn heard(&mut self, heard: &Heard) {
        let is_here = |lan: &Lan, address| lan.index == heard.index && lan.network.contains(&IpAddr::V4(address));
        let is_ours = |address| {
            self.announced.contains(&IpAddr::V4(address)) && self.lans.iter().any(|lan| is_here(lan, address))
        };
        if self.hardware.values().any(|own| *own == heard.hardware) {
            return;
        }
        if is_ours(heard.sender) {
            self.defend(heard);
        } else if heard.is_request
            && heard.sender.is_unspecified()
            && is_ours(heard.target)
            && self.left > 0
            && let (Some(socket), Some(hardware)) = (&self.socket, self.hardware.get(&heard.index))
        {
            self.left -= 1;
            if let Err(error) = socket.answer(heard, *hardware, heard.target) {
                log::debug!("cannot answer a probe for {}: {error}", heard.target);
            }
        }
    }

    /// Another host says that it has a virtual IP that is in use here: it hears once that it is not so (RFC 5227 §2.4 b, c).
    fn defend(&mut self, heard: &Heard) {
        let now = Instant::now();
        let address = heard.sender;
        if self.conflicts.len() >= MOST_CONFLICTS {
            self.conflicts.retain(|_, at| now.duration_since(*at) < DEFEND);
        }
        let is_new = self.conflicts.get(&address).is_none_or(|at| now.duration_since(*at) >= DEFEND);
        if !is_new || self.conflicts.len() >= MOST_CONFLICTS {
            return;
        }
        self.conflicts.insert(address, now);
        let hardware = heard.hardware.map(|byte| format!("{byte:02x}")).join(":");
        let name = self.lans.iter().find(|lan| lan.index == heard.index).map_or("?", |lan| &lan.interface);
        log::warn!(
            "{hardware} on '{name}' says that it has {address}, which a terminal has: no other machine there may use \
             addresses of the pool; take it out of the pool, or the machine off it"
        );
        self.speak(address.into());
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

/// A packet socket, or one line about what is missed without one.
fn open_socket(is_needed: bool) -> Option<PacketSocket> {
    let level = if is_needed { log::Level::Warn } else { log::Level::Debug };
    let opened = PacketSocket::open().inspect_err(|error| {
        log::log!(
            level,
            "no packet socket ({error}; it needs CAP_NET_RAW at the start): hosts of an outside LAN that has virtual IPs \
             are not told of new ones, and their probes are not answered"
        );
    });
    opened.ok()
}

fn hardware(host: &Host) -> BTreeMap<u32, [u8; 6]> {
    let ethernet = |(index, framing): (&u32, &Framing)| match framing {
        Framing::Ethernet(ethernet) => Some((*index, ethernet.hardware)),
        _ => None,
    };
    host.framing.iter().filter_map(ethernet).collect()
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
