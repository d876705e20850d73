//! Proxy neighbour entries: each virtual IP that a terminal has, and that lies on an outside LAN, is answered for
//! there. No other address is: a whole prefix (`proxy_arp`) would show what else this machine has routes for. Beside
//! the kernel's answers, the LAN hears of each when it is new, so that nobody goes on to send to a gateway before this
//! one. What other hosts there have of the pools is found out ahead of need ([`Occupied`]), so that no packet waits for
//! it.

use super::claim::Claim;
use super::discovery::DiscoverySocket;
use super::error::KernelError;
use super::messages::{Family, PROTOCOL};
use super::netlink::Netlink;
use super::netlink_socket::NetlinkError;
use super::occupied::{AddressClaim, Hardware, Heard, Occupied, OccupiedAddress, Rounds, Watched};
use super::packet_socket::{self, PacketSocket};
use super::plan::ProgramsLeft;
use super::roster::Roster;
use super::view::{Framing, Host, Lan};
use crate::host::quota::Quota;
use crate::wire::AddressRange;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Announcements and questions in a second: switches let ARP through to their processors at a few hundred.
const SPOKEN: u32 = 100;
/// Each is made so often, a second apart: any may be lost (RFC 5227 §2.3, RFC 4861 §7.2.6).
const TIMES: u8 = 2;
/// Announcements that wait; a peer that missed one asks in the end.
const MOST_DUE: usize = 65_536;
/// Messages looked at before others get a turn.
const HEARD_AT_ONCE: usize = 64;
/// An address is defended at most so often (RFC 5227 §2.4), and its conflict said.
const DEFEND: Duration = Duration::from_secs(10);
/// Conflicts remembered at one time; more are neither said nor defended.
const MOST_CONFLICTS: usize = 256;
/// A host that contradicts more announcements answers for whatever is asked.
const CONTRADICTED: usize = 3;
/// Who has been there before a binding answers its probe within this (RFC 5227 §1.1: `PROBE_WAIT` and `ANNOUNCE_WAIT`).
const YOUNG: Duration = Duration::from_secs(3);
/// So many are noted at one time; others are defended.
const MOST_YOUNG: usize = 4096;
/// Young bindings that give way in a minute. Who answers every probe could keep terminals from having any otherwise.
const GIVE_WAY: Quota = Quota::new(8, Duration::from_secs(60));
/// Hosts that have an address of a pool, asked in a second whether they are there.
const ASKED: usize = 40;
/// What is said of hosts that answer for everything, and of those that claim too much: every host can bring it about.
const PROXIES_SAID: Quota = Quota::new(8, Duration::from_secs(3600));
const TOO_MANY_SAID: Quota = Quota::new(1, Duration::from_secs(3600));

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
    /// What was claimed when, and by whom.
    conflicts: BTreeMap<IpAddr, (Instant, Hardware)>,
    /// `None`: it was not to be had, as on a machine without IPv6.
    discovery: Option<DiscoverySocket>,
    /// What is given to terminals.
    pools: Vec<Watched>,
    rounds: Rounds,
    occupied: Occupied,
    /// Bindings that were made a moment ago.
    young: BTreeMap<IpAddr, Instant>,
    give_way: Quota,
    proxies_said: Quota,
    too_many_said: Quota,
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
            discovery: DiscoverySocket::open()
                .inspect_err(|error| log::debug!("no socket for neighbour discovery: {error}"))
                .ok(),
            hardware: hardware(host),
            due: VecDeque::new(),
            left: SPOKEN,
            conflicts: BTreeMap::new(),
            pools: Vec::new(),
            rounds: Rounds::default(),
            occupied: Occupied::default(),
            young: BTreeMap::new(),
            give_way: GIVE_WAY,
            proxies_said: PROXIES_SAID,
            too_many_said: TOO_MANY_SAID,
        };
        Ok(Self { shared: Arc::new(Mutex::new(shared)) })
    }

    /// As [`Neighbours::announce`], for a binding that was made now: a host that turns out to have had the address before
    /// keeps it, and the binding is to end.
    pub fn give(&self, virtual_ip: IpAddr) {
        let mut shared = self.shared.lock();
        if shared.on_lan(virtual_ip) && !shared.announced.contains(&virtual_ip) {
            if shared.young.len() < MOST_YOUNG {
                shared.young.insert(virtual_ip, Instant::now());
            }
            shared.ask(virtual_ip);
        }
        drop(shared);
        self.announce(virtual_ip);
    }

    /// From now on the gateway answers for `virtual_ip` on the LAN it lies in, and defends it. Nothing to do for all others.
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

    /// These pools are those that terminals are given addresses of. Hosts that have one of them already are looked for,
    /// on the LANs they lie in.
    pub fn watch(&self, pools: Vec<Watched>) {
        let mut shared = self.shared.lock();
        if shared.pools != pools {
            shared.pools = pools;
            shared.start_rounds();
            shared.go_on();
        }
    }

    /// What other hosts have of the pools.
    pub fn occupied(&self) -> Vec<OccupiedAddress> {
        let shared = self.shared.lock();
        let hosts = shared.occupied.iter();
        let named = hosts.map(|(address, host)| OccupiedAddress {
            address,
            hardware: in_words(host.hardware),
            interface: shared.name(host.index).to_owned(),
        });
        named.collect()
    }

    /// How many claims of others to addresses of pools were not believed, for there were too many.
    pub fn passed_over(&self) -> u64 {
        self.shared.lock().occupied.passed_over()
    }

    /// Outside interfaces have changed: everything is announced anew where it lies now. `fallen`: an interface may have been
    /// down, and have lost its entries even if it is up again.
    pub(super) fn update(&self, host: &Host, fallen: bool) {
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
            shared.start_rounds();
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
        shared.look_after();
        for _ in 0..shared.due.len() {
            if shared.left == 0 {
                break;
            }
            let Some((address, times)) = shared.due.pop_front() else { break };
            if shared.announced.contains(&address) {
                shared.tell(address, times);
            }
        }
        shared.go_on();
    }

    /// Hears what is said about virtual IPs. To be called when one of [`Neighbours::descriptors`] is readable, by
    /// level.
    pub fn hear(&self) {
        let mut shared = self.shared.lock();
        for _ in 0..HEARD_AT_ONCE {
            let Some(heard) = shared.socket.as_ref().and_then(PacketSocket::hear) else { break };
            if let Some(heard) = heard {
                shared.heard_arp(&heard);
            }
        }
        for _ in 0..HEARD_AT_ONCE {
            let Some(heard) = shared.discovery.as_ref().and_then(DiscoverySocket::hear) else { break };
            if let Some(claim) = heard {
                shared.heard(&claim);
            }
        }
    }

    /// What [`Neighbours::hear`] reads.
    pub fn descriptors(&self) -> Vec<OwnedFd> {
        let shared = self.shared.lock();
        let open = [shared.socket.as_ref().map(AsFd::as_fd), shared.discovery.as_ref().map(AsFd::as_fd)];
        open.into_iter().flatten().filter_map(|descriptor| descriptor.try_clone_to_owned().ok()).collect()
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
        shared.start_rounds();
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

    fn heard_arp(&mut self, heard: &packet_socket::Heard) {
        let packet_socket::Heard { index, is_request, hardware, sender, target } = *heard;
        if !sender.is_unspecified() {
            let (address, is_answer) = (sender.into(), !is_request);
            // The answer names who asked, and a probe says that nobody does.
            let is_of_probe = is_answer && target.is_unspecified();
            self.heard(&AddressClaim { index, hardware, address, is_answer, is_of_probe });
        } else if is_request
            && !self.is_own(hardware)
            && self.announced.contains(&target.into())
            && self.is_here(index, target.into())
            && self.left > 0
            && let (Some(socket), Some(hardware)) = (&self.socket, self.hardware.get(&index))
        {
            self.left -= 1;
            if let Err(error) = socket.answer(heard, *hardware, target) {
                log::debug!("cannot answer a probe for {target}: {error}");
            }
        }
    }

    /// Another host says that it has an address. A virtual IP that was announced before is defended, whichever host
    /// claims it and however often: connections live on it, and every host of the LAN could end them otherwise (RFC
    /// 5227 §2.4 c). One that was given a moment ago is given up to who answers its probe: he had it before, and
    /// nothing is lost but a first try. What nobody has is not given, as long as the other host is there.
    fn heard(&mut self, claim: &AddressClaim) {
        let AddressClaim { index, hardware, address, is_answer, is_of_probe } = *claim;
        let is_group = hardware[0] & 1 != 0;
        if is_group || self.is_own(hardware) || !self.is_here(index, address) {
            return;
        }
        let is_ours = self.announced.contains(&address) && !self.occupied.contains(address);
        let pool = self.pools.iter().find(|pool| pool.range.contains(address.into()) && !pool.never.contains(&address));
        let now = Instant::now();
        let Some(range) =
            pool.map(|pool| pool.range).filter(|_| !is_ours || (is_of_probe && self.may_give_way(address, now)))
        else {
            if is_ours && !(is_answer && self.occupied.is_proxy(hardware)) {
                self.defend(claim);
            }
            return;
        };
        match self.occupied.hear(claim, range, now) {
            Heard::Occupied if is_ours => {
                self.young.remove(&address);
                self.give_way.take(now);
            }
            Heard::Occupied | Heard::Proxy => {}
            Heard::NewProxy => self.say_proxy(claim, now),
            Heard::TooMany if is_ours => self.defend(claim),
            Heard::TooMany => {
                if self.too_many_said.take(now) {
                    log::warn!(
                        "{} on '{}' says that it has {address}, and so much of pool {range} is others' already that this is \
                         not heeded, nor what comes after it: see who claims these addresses (`kamei status`)",
                        in_words(hardware),
                        self.name(index)
                    );
                }
            }
        }
    }

    fn say_proxy(&mut self, claim: &AddressClaim, now: Instant) {
        if self.proxies_said.take(now) {
            log::warn!(
                "{} on '{}' answers for many addresses (proxy ARP or ND?): nothing of a pool is left out for its answers; what \
                 it needs there is to be taken out of the pool",
                in_words(claim.hardware),
                self.name(claim.index)
            );
        }
    }

    /// Whether the binding of `address` was made a moment ago, and few have given way of late.
    fn may_give_way(&mut self, address: IpAddr, now: Instant) -> bool {
        let is_young = self.young.get(&address).is_some_and(|given| now.duration_since(*given) < YOUNG);
        is_young && self.give_way.has_left(now)
    }

    /// Another host says that it has a virtual IP that is in use here: it hears once that it is not so (RFC 5227 §2.4 b, c).
    fn defend(&mut self, claim: &AddressClaim) {
        let now = Instant::now();
        let address = claim.address;
        if self.conflicts.len() >= MOST_CONFLICTS {
            self.conflicts.retain(|_, (at, _)| now.duration_since(*at) < DEFEND);
        }
        let is_new = self.conflicts.get(&address).is_none_or(|(at, _)| now.duration_since(*at) >= DEFEND);
        if !is_new || self.conflicts.len() >= MOST_CONFLICTS {
            return;
        }
        self.conflicts.insert(address, (now, claim.hardware));
        let of_host = self.conflicts.values().filter(|(_, hardware)| *hardware == claim.hardware);
        if claim.is_answer && of_host.count() > CONTRADICTED {
            self.occupied.note_proxy(claim.hardware, now);
            self.say_proxy(claim, now);
            return;
        }
        log::warn!(
            "{} on '{}' says that it has {address}, which a terminal has: no other machine there may use addresses of the \
             pool; take it out of the pool, or the machine off it",
            in_words(claim.hardware),
            self.name(claim.index)
        );
        self.speak(address);
    }

    /// Forgets who has gone, and asks others whether they are still there.
    fn look_after(&mut self) {
        let now = Instant::now();
        let (lans, pools) = (&self.lans, &self.pools);
        self.occupied.forget(now, |address, index| {
            let is_here = lans.iter().any(|lan| lan.index == index && lan.network.contains(&address));
            let is_given =
                pools.iter().any(|pool| pool.range.contains(address.into()) && !pool.never.contains(&address));
            is_here && is_given
        });
        self.young.retain(|_, given| now.duration_since(*given) < YOUNG);
        for address in self.occupied.ask(now, ASKED) {
            self.ask(address);
        }
    }

    /// Asks for some of the addresses that may be given next.
    fn go_on(&mut self) {
        let draw = || {
            let mut bits = [0; 16];
            // Without chance, the same few are asked for again and again.
            let _ = getrandom::fill(&mut bits);
            u128::from_ne_bytes(bits)
        };
        if self.left < SPOKEN / 2 {
            return;
        }
        for address in self.rounds.next(Instant::now(), draw) {
            let never = self.pools.iter().any(|pool| pool.never.contains(&address));
            if !never && !self.announced.contains(&address) && !self.occupied.contains(address) {
                self.ask(address);
            }
        }
    }

    /// What of the pools lies on the LANs is gone through from the start.
    fn start_rounds(&mut self) {
        let mut ranges = Vec::new();
        for pool in &self.pools {
            for lan in &self.lans {
                let network = AddressRange::from(lan.network);
                let (first, last) = (pool.range.first().max(network.first()), pool.range.last().min(network.last()));
                ranges.extend(AddressRange::new(first, last).filter(|range| !ranges.contains(range)));
            }
        }
        self.rounds = Rounds::new(ranges);
    }

    /// Asks the LANs whether a host has `address`, if so much may still be said.
    fn ask(&mut self, address: IpAddr) {
        let Some(socket) = self.socket.as_ref().filter(|_| self.left > 0) else { return };
        self.left -= 1;
        for lan in self.lans.iter().filter(|lan| lan.network.contains(&address)) {
            let Some(hardware) = self.hardware.get(&lan.index) else { continue };
            if let Err(error) = socket.probe(lan.index, *hardware, address) {
                log::debug!("cannot ask '{}' for {address}: {error}", lan.interface);
            }
        }
    }

    fn is_own(&self, hardware: Hardware) -> bool {
        self.hardware.values().any(|own| *own == hardware)
    }

    fn is_here(&self, index: u32, address: IpAddr) -> bool {
        self.lans.iter().any(|lan| lan.index == index && lan.network.contains(&address))
    }

    fn name(&self, index: u32) -> &str {
        self.lans.iter().find(|lan| lan.index == index).map_or("?", |lan| &lan.interface)
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
pub(super) fn clear_left(netlink: &mut Netlink, tun: &str, programs_left: ProgramsLeft) -> Result<usize, KernelError> {
    let roster = Roster::read(&Claim::is_taken, programs_left);
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
             are not told of new ones, their probes are not answered, and what they have of a pool may be given"
        );
    });
    opened.ok()
}

fn in_words(hardware: Hardware) -> String {
    hardware.map(|byte| format!("{byte:02x}")).join(":")
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
