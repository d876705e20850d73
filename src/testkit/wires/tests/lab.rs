//! The lab: terminals, a row of gateways, servers.

use crate::nat::{Alg, AlgSettings, InsideSettings, Nat, Policy, PoolSettings, Settings, StatusView, Translator};
use crate::testkit::wires::{Faults, Gateway, Wire};
use crate::time::Time;
use crate::wire::{Address, AddressRange, Headers};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpCidr};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Longest that a transfer may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(600);
const MTU: usize = 1500;

/// Which IP the lab speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// A host of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostId {
    Terminal(usize),
    Server(usize),
}

pub struct Lab {
    now: Time,
    ticked: u32,
    /// From the innermost to the outermost.
    gateways: Vec<(Arc<Nat>, Translator)>,
    pools: Vec<AddressRange>,
    /// `links[0]` is the terminals' network, the last one the servers'.
    links: Vec<Link>,
    terminals: Vec<Host>,
    servers: Vec<Host>,
    next_port: u16,
    faulty: bool,
}

struct Link {
    outward: Wire,
    inward: Wire,
}

struct Host {
    address: IpAddr,
    interface: Interface,
    sockets: SocketSet<'static>,
    nic: Nic,
}

#[derive(Default)]
struct Nic {
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

/// One end of a transfer.
struct End {
    host: HostId,
    socket: SocketHandle,
    payload: Vec<u8>,
    /// How many bytes it waits for.
    expects: usize,
    sent: usize,
    got: Vec<u8>,
}

impl Lab {
    /// Two terminals, `gateways` gateways, two servers.
    pub fn new(family: Family, gateways: usize, faults: Faults) -> Self {
        Self::with_pool_of(200, family, gateways, faults)
    }

    /// The same with pools of so many virtual IPs.
    pub fn with_pool_of(size: u8, family: Family, gateways: usize, faults: Faults) -> Self {
        let network = |v4: &str, v6: &str, n: usize| match family {
            Family::V4 => format!("{v4}{n}").parse::<IpAddr>().unwrap(),
            Family::V6 => format!("{v6}{n:x}").parse().unwrap(),
        };
        let pools: Vec<AddressRange> = (0..gateways)
            .map(|k| {
                let end = |n| network(&format!("198.18.{k}."), &format!("fd00:2:{k}::"), n).into();
                AddressRange::new(end(1), end(usize::from(size))).unwrap()
            })
            .collect();
        let inside = match family {
            Family::V4 => "10.91.37.0/24",
            Family::V6 => "fd00:1::/64",
        };
        let gateways = (0..gateways)
            .map(|k| {
                let sources = match k.checked_sub(1) {
                    None => vec![inside.parse().unwrap()],
                    Some(before) => pools[before].prefixes(),
                };
                let nat = Nat::new(settings(pools[k], sources, network("203.0.113.", "2001:db8:1::", k + 1))).unwrap();
                nat.set_own_inside(vec![network("10.91.37.", "fd00:1::", 254)]);
                let translator = nat.translator();
                (nat, translator)
            })
            .collect();
        Self {
            now: Time::from_secs(1_800_000_000),
            ticked: 0,
            links: links(pools.len(), faults, 0),
            gateways,
            pools,
            terminals: (5..7).map(|n| Host::new(network("10.91.37.", "fd00:1::", n))).collect(),
            servers: (1..3).map(|n| Host::new(network("192.0.2.", "2001:db8::", n))).collect(),
            next_port: 40_000,
            faulty: faults.lost > 0,
        }
    }

    /// The same lab with other dice.
    pub fn reseeded(self, faults: Faults, seed: u64) -> Self {
        Self { links: links(self.gateways.len(), faults, seed), ..self }
    }

    /// The host's own address.
    pub fn address(&self, host: HostId) -> IpAddr {
        match host {
            HostId::Terminal(n) => self.terminals[n].address,
            HostId::Server(n) => self.servers[n].address,
        }
    }

    /// The pool of a gateway.
    pub fn pool(&self, gateway: usize) -> RangeInclusive<IpAddr> {
        self.pools[gateway].first().into()..=self.pools[gateway].last().into()
    }

    /// What the table of a gateway says about a terminal.
    pub fn virtual_ip(&self, gateway: usize, terminal: IpAddr) -> Option<IpAddr> {
        let found = self.gateways[gateway].0.find(terminal, self.now);
        found.iter().find(|view| view.terminal == terminal).map(|view| view.virtual_ip)
    }

    /// The virtual IP that servers see of a terminal.
    pub fn last_virtual_ip(&self, terminal: HostId) -> IpAddr {
        (0..self.gateways.len()).fold(self.address(terminal), |known, k| self.virtual_ip(k, known).unwrap())
    }

    /// Counters of a gateway.
    pub fn status(&self, gateway: usize) -> StatusView {
        self.gateways[gateway].0.status()
    }

    /// Nothing that passed the link has this address anywhere in its bytes.
    pub fn assert_hidden(&self, link: usize, address: IpAddr) {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let Link { outward, inward } = &self.links[link];
        assert!(!outward.heard().is_empty());
        for packet in outward.heard().iter().chain(inward.heard()) {
            let seen = packet.windows(bytes.len()).any(|window| window == bytes);
            assert!(!seen, "{address} is to be seen on link {link}: {packet:02x?}");
        }
    }

    /// Whether a host on the innermost link got an ICMP "unreachable, prohibited".
    pub fn was_told_unreachable(&self, terminal: IpAddr) -> bool {
        self.links[0].inward.heard().iter().any(|packet| {
            let headers = Headers::parse(packet).unwrap();
            let told = packet[headers.transport..].starts_with(&[3, 13]) && headers.protocol == 1;
            told && headers.destination == Address::from(terminal)
        })
    }

    /// Opens a connection to `to`, sends `bytes` bytes each way, closes it from both ends, and checks every byte.
    /// Returns the address under which the callee saw the caller.
    pub fn transfer(&mut self, caller: HostId, callee: HostId, to: IpAddr, port: u16, bytes: usize) -> IpAddr {
        let texts = [letters(bytes, 17), letters(bytes, 3)];
        let (seen, got) = self.exchange(caller, callee, (to, port), texts.clone(), [bytes, bytes]);
        assert!(got == texts, "bytes differ");
        seen
    }

    /// Caller and callee say these texts over a connection, until each has heard so many bytes. Returns the caller's
    /// address as the callee sees it, and what came of each text.
    pub fn exchange(
        &mut self,
        caller: HostId,
        callee: HostId,
        (to, port): (IpAddr, u16),
        texts: [Vec<u8>; 2],
        lengths: [usize; 2],
    ) -> (IpAddr, [Vec<u8>; 2]) {
        let [said, answered] = texts;
        let mut listening = End { payload: answered, expects: lengths[0], ..self.listen(callee, port) };
        let mut calling = End { payload: said, expects: lengths[1], ..self.connect(caller, to, port) };
        let deadline = self.now + PATIENCE;
        let mut seen = None;
        loop {
            self.step(deadline);
            seen = seen.or_else(|| self.tcp(&listening).remote_endpoint().map(|remote| remote.addr.into()));
            let through = [&mut calling, &mut listening].map(|end| self.drive(end));
            if through == [true, true] {
                break;
            }
            let ends = [&calling, &listening].map(|end| (self.tcp(end).state(), end.sent, end.got.len()));
            assert!(self.now < deadline, "the transfer from {caller:?} to {callee:?} does not end: {ends:?}");
        }
        self.close(&calling, &listening);
        let got = [&mut listening, &mut calling].map(|end| std::mem::take(&mut end.got));
        self.hang_up([calling, listening]);
        (seen.unwrap(), got)
    }

    /// Both ends close, the caller first. On a bad link that may fail, also without any gateway: smoltcp 0.14 stops its
    /// retransmission timer when all data is acknowledged, although its FIN is not.
    fn close(&mut self, calling: &End, listening: &End) {
        let deadline = self.now + Duration::from_secs(30);
        self.tcp(calling).close();
        while self.now < deadline && [calling, listening].iter().any(|end| self.tcp(end).is_open()) {
            if !self.tcp(listening).may_recv() {
                self.tcp(listening).close();
            }
            self.step(deadline);
        }
        let open = [calling, listening].iter().any(|end| self.tcp(end).is_open());
        assert!(!open || self.faulty, "the connection does not close");
    }

    /// Whether a connection to `to` comes about.
    pub fn can_connect(&mut self, caller: HostId, callee: HostId, to: IpAddr, port: u16) -> bool {
        let (listening, calling) = (self.listen(callee, port), self.connect(caller, to, port));
        let deadline = self.now + Duration::from_secs(5);
        while self.now < deadline {
            self.step(deadline);
        }
        let connected = [&calling, &listening].map(|end| self.tcp(end).state() == tcp::State::Established);
        assert_eq!(connected[0], connected[1]);
        self.hang_up([calling, listening]);
        connected[0]
    }

    /// Sends a datagram between two ports; says from where it seemed to come, if it arrived.
    pub fn datagram(
        &mut self,
        from: HostId,
        to: HostId,
        address: IpAddr,
        ports: (u16, u16),
        payload: &[u8],
    ) -> Option<(IpAddr, u16)> {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
        let mut bind = |host: HostId, port: u16| {
            let mut socket = udp::Socket::new(buffer(), buffer());
            socket.bind(port).unwrap();
            self.host(host).sockets.add(socket)
        };
        let (sender, receiver) = (bind(from, ports.0), bind(to, ports.1));
        let host = self.host(from);
        let endpoint = (IpAddress::from(address), ports.1);
        host.sockets.get_mut::<udp::Socket<'_>>(sender).send_slice(payload, endpoint).unwrap();
        self.pass_time(Duration::from_secs(1));
        let arrived = self.host(to).sockets.get_mut::<udp::Socket<'_>>(receiver).recv().ok().map(|(bytes, meta)| {
            assert_eq!(bytes, payload);
            (meta.endpoint.addr.into(), meta.endpoint.port)
        });
        self.host(from).sockets.remove(sender);
        self.host(to).sockets.remove(receiver);
        arrived
    }

    /// Whether `address` answers a ping from `from`, with the same identifier and data.
    pub fn ping(&mut self, from: HostId, address: IpAddr) -> bool {
        const IDENT: u16 = 0x4b61;
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(IDENT)).unwrap();
        let (data, own, caps) = (b"are you there?", self.address(from), ChecksumCapabilities::default());
        match (own, address) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                let request = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no: 1, data };
                let bytes = socket.send(request.buffer_len(), address.into()).unwrap();
                request.emit(&mut Icmpv4Packet::new_unchecked(bytes), &caps);
            }
            (IpAddr::V6(own), IpAddr::V6(to)) => {
                let request = Icmpv6Repr::EchoRequest { ident: IDENT, seq_no: 1, data };
                let bytes = socket.send(request.buffer_len(), address.into()).unwrap();
                request.emit(&own, &to, &mut Icmpv6Packet::new_unchecked(bytes), &caps);
            }
            _ => panic!("mixed families"),
        }
        let handle = self.host(from).sockets.add(socket);
        self.pass_time(Duration::from_secs(1));
        let socket = self.host(from).sockets.get_mut::<icmp::Socket<'_>>(handle);
        let answered =
            socket.recv().is_ok_and(|(bytes, sender)| bytes.ends_with(data) && IpAddr::from(sender) == address);
        self.host(from).sockets.remove(handle);
        answered
    }

    /// Lets `pause` pass.
    pub fn pass_time(&mut self, pause: Duration) {
        let end = self.now + pause;
        while self.now < end {
            self.step(end);
        }
    }

    /// Every host does what there is to do, then time moves to when one has something to do again.
    fn step(&mut self, end: Time) {
        let instant = Instant::from_millis(i64::try_from(self.now.as_millis()).unwrap());
        let (first, last) = (0, self.links.len() - 1);
        for (hosts, link) in [(&mut self.terminals, first), (&mut self.servers, last)] {
            for host in hosts {
                host.interface.poll(instant, &mut host.nic, &mut host.sockets);
                let wire = if link == first { &mut self.links[link].outward } else { &mut self.links[link].inward };
                host.nic.sent.drain(..).for_each(|packet| wire.send(&packet, self.now));
            }
        }
        for (k, (nat, translator)) in self.gateways.iter_mut().enumerate() {
            let [inside, outside] = &mut self.links[k..k + 2] else { panic!("two links a gateway") };
            Gateway {
                translator,
                inside: (&mut inside.outward, &mut inside.inward),
                outside: (&mut outside.inward, &mut outside.outward),
            }
            .work(self.now);
            if self.now.as_secs() != self.ticked {
                translator.flush(self.now);
                nat.tick(self.now, &mut |_| {});
            }
        }
        self.ticked = self.now.as_secs();
        while let Some(packet) = self.links[first].inward.receive(self.now) {
            deliver(&mut self.terminals, packet);
        }
        while let Some(packet) = self.links[last].outward.receive(self.now) {
            deliver(&mut self.servers, packet);
        }
        self.now = self
            .next_event(instant)
            .unwrap_or(end)
            .clamp(self.now + Duration::from_millis(1), end.max(self.now + Duration::from_millis(1)));
    }

    fn next_event(&mut self, instant: Instant) -> Option<Time> {
        let arrivals = self.links.iter().flat_map(|link| [link.outward.next_arrival(), link.inward.next_arrival()]);
        let polls = self.terminals.iter_mut().chain(&mut self.servers).map(|host| {
            let at =
                if host.nic.received.is_empty() { host.interface.poll_at(instant, &host.sockets)? } else { instant };
            Some(Time::from_millis(u64::try_from(at.total_millis()).unwrap_or(0)))
        });
        arrivals.flatten().chain(polls.flatten()).min()
    }

    fn host(&mut self, host: HostId) -> &mut Host {
        match host {
            HostId::Terminal(n) => &mut self.terminals[n],
            HostId::Server(n) => &mut self.servers[n],
        }
    }

    fn tcp(&mut self, end: &End) -> &mut tcp::Socket<'static> {
        self.host(end.host).sockets.get_mut(end.socket)
    }

    fn listen(&mut self, host: HostId, port: u16) -> End {
        let mut socket = new_tcp();
        socket.listen(port).unwrap();
        End::new(host, self.host(host).sockets.add(socket))
    }

    fn connect(&mut self, host: HostId, to: IpAddr, port: u16) -> End {
        self.next_port += 1;
        let own_port = self.next_port;
        let caller = self.host(host);
        let mut socket = new_tcp();
        socket.connect(caller.interface.context(), (IpAddress::from(to), port), own_port).unwrap();
        End::new(host, caller.sockets.add(socket))
    }

    /// Sends and receives what it can; says whether this end is through.
    fn drive(&mut self, end: &mut End) -> bool {
        let socket = self.host(end.host).sockets.get_mut::<tcp::Socket<'_>>(end.socket);
        if socket.can_send() && end.sent < end.payload.len() {
            end.sent += socket.send_slice(&end.payload[end.sent..]).unwrap();
        }
        while socket.can_recv() {
            let got = &mut end.got;
            socket.recv(|bytes| (bytes.len(), got.extend_from_slice(bytes))).unwrap();
        }
        end.got.len() == end.expects && end.sent == end.payload.len() && socket.send_queue() == 0
    }

    fn hang_up(&mut self, ends: [End; 2]) {
        for end in &ends {
            self.tcp(end).abort();
        }
        self.pass_time(Duration::from_secs(1));
        for end in ends {
            self.host(end.host).sockets.remove(end.socket);
        }
    }
}

impl Host {
    fn new(address: IpAddr) -> Self {
        let mut nic = Nic::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut nic, Instant::ZERO);
        let length = if address.is_ipv4() { 24 } else { 64 };
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(address.into(), length)).unwrap());
        match address {
            IpAddr::V4(address) => interface.routes_mut().add_default_ipv4_route(address).unwrap(),
            IpAddr::V6(address) => interface.routes_mut().add_default_ipv6_route(address).unwrap(),
        };
        Self { address, interface, sockets: SocketSet::new(Vec::new()), nic }
    }
}

impl End {
    fn new(host: HostId, socket: SocketHandle) -> Self {
        Self { host, socket, payload: Vec::new(), expects: 0, sent: 0, got: Vec::new() }
    }
}

fn settings(pool: AddressRange, sources: Vec<ipnet::IpNet>, own_outside: IpAddr) -> Settings {
    Settings {
        insides: vec![InsideSettings { name: "inside".to_owned(), sources }],
        pools: vec![PoolSettings {
            name: pool.to_string(),
            range: pool,
            reserved: Vec::new(),
            destinations: Vec::new(),
            callback: None,
            draining: false,
            kind: Default::default(),
        }],
        own_outside: vec![own_outside],
        hash_key: [1; 16],
        restore_hop: false,
        policy: Policy { alg: vec![AlgSettings { alg: Alg::Ftp, port: 21 }], ..Policy::default() },
    }
}

/// One link more than gateways; every wire has dice of its own.
fn links(gateways: usize, faults: Faults, seed: u64) -> Vec<Link> {
    let wire = |n: usize| Wire::new(faults, seed << 32 | n as u64).tapped();
    (0..=gateways).map(|n| Link { outward: wire(2 * n + 1), inward: wire(2 * n + 2) }).collect()
}

fn deliver(hosts: &mut [Host], packet: Vec<u8>) {
    let to = Headers::parse(&packet).unwrap().destination;
    if let Some(host) = hosts.iter_mut().find(|host| Address::from(host.address) == to) {
        host.nic.received.push_back(packet);
    }
}

fn new_tcp() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 32_768]);
    tcp::Socket::new(buffer(), buffer())
}

/// Text, so that no address can be in it by chance.
fn letters(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|n| b'a' + u8::try_from((n * n + n / 251 * seed) % 26).unwrap()).collect()
}

impl Device for Nic {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default(); // checksums are made and judged
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        Some((Arrived(self.received.pop_front()?), Leaving(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.sent))
    }
}

struct Arrived(Vec<u8>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Leaving<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        self.0.push(packet);
        result
    }
}
