//! One gateway with a hand on either wire: packets made byte by byte go in, and what comes out is compared byte by byte.

use crate::capture::Capture;
use crate::crafted::{Ip, Line};
use crate::gateway::{Gateway, outermost};
use crate::lab::{Family, Host, Lab, Plan, wait_until};
use std::net::IpAddr;

/// A row of gateways; the terminal has called the server.
pub struct Crossing {
    pub lab: Lab,
    pub gateways: Vec<Gateway>,
    pub terminal: Host,
    pub server: Host,
    pub virtual_ip: IpAddr,
    pub inside: Line,
    pub outside: Line,
    /// At the terminal and at the server, unless much data is moved.
    captures: Option<[Capture; 2]>,
    family: Family,
}

impl Crossing {
    pub fn new(family: Family) -> Self {
        Self::of(1, family)
    }

    /// Without captures: for much data.
    pub fn unwatched(family: Family) -> Self {
        Self::build(Plan::gateways(1), family, false)
    }

    pub fn of(gateways: u8, family: Family) -> Self {
        Self::build(Plan::gateways(gateways), family, true)
    }

    /// One that sends out at once what it translates in the kernel.
    pub fn redirecting(family: Family) -> Self {
        Self::build(Plan::gateways(1).redirecting(), family, true)
    }

    /// One that does so in the drivers.
    pub fn by_xdp(family: Family) -> Self {
        Self::build(Plan::gateways(1).by_xdp(), family, true)
    }

    fn build(plan: Plan, family: Family, watched: bool) -> Self {
        let gateways = plan.gateways;
        let lab = Lab::new(plan.unwatched());
        let running = lab.start_all();
        let (terminal, server) = (lab.terminal(1), lab.server(1));
        terminal.run(&format!("ping -n -c 1 -W 5 {}", server.address(family))).ok();
        let virtual_ip = outermost(&running, &terminal, family);
        server.run(&format!("ping -n -c 1 -W 5 {virtual_ip}")).ok(); // all neighbours know each other
        Self {
            inside: Line::new(&terminal, "eth0", &lab.gateway(1), "gi"),
            outside: Line::new(&server, "eth0", &lab.gateway(gateways), "go"),
            captures: watched.then(|| [&terminal, &server].map(|host| Capture::start(host, "eth0"))),
            gateways: running,
            lab,
            terminal,
            server,
            virtual_ip,
            family,
        }
    }

    pub fn gateway(&self) -> &Gateway {
        &self.gateways[0]
    }

    /// Addresses of a packet as the terminal sends it.
    pub fn out(&self) -> (IpAddr, IpAddr) {
        (self.terminal.address(self.family), self.server.address(self.family))
    }

    /// Addresses of a packet as the server sends it.
    pub fn back(&self) -> (IpAddr, IpAddr) {
        (self.server.address(self.family), self.virtual_ip)
    }

    /// Each of these packets of the terminal arrives at the server as it was, but for source, hops and checksums.
    #[track_caller]
    pub fn passes_out(&mut self, packets: &[Ip]) {
        for packet in packets {
            self.inside.send(&packet.bytes());
        }
        self.arrive_at_server(packets);
    }

    /// Each of these packets of the server arrives at the terminal as it was, but for destination, hops and checksums.
    #[track_caller]
    pub fn passes_back(&mut self, packets: &[Ip]) {
        for packet in packets {
            self.outside.send(&packet.bytes());
        }
        self.arrive_at_terminal(packets);
    }

    #[track_caller]
    pub fn arrive_at_server(&self, packets: &[Ip]) {
        let hops = u8::try_from(self.gateways.len()).unwrap();
        let wanted = packets.iter().map(|packet| packet.translated(self.virtual_ip, packet.to, hops).bytes());
        arrive(self.at_server(), "server", wanted.collect());
    }

    #[track_caller]
    pub fn arrive_at_terminal(&self, packets: &[Ip]) {
        let (hops, terminal) = (u8::try_from(self.gateways.len()).unwrap(), self.terminal.address(self.family));
        let wanted = packets.iter().map(|packet| packet.translated(packet.from, terminal, hops).bytes());
        arrive(self.at_terminal(), "terminal", wanted.collect());
    }

    /// Exactly these bytes arrive at the terminal.
    #[track_caller]
    pub fn arrives_at_terminal(&self, bytes: Vec<u8>) {
        arrive(self.at_terminal(), "terminal", vec![bytes]);
    }

    /// Exactly these bytes arrive at the server.
    #[track_caller]
    pub fn arrives_at_server(&self, bytes: Vec<u8>) {
        arrive(self.at_server(), "server", vec![bytes]);
    }

    /// These packets, of either end, are dropped for `reason` by the first gateway, and only those.
    #[track_caller]
    pub fn refuses(&mut self, packets: &[Ip], reason: &str) {
        let before = self.gateway().dropped(reason);
        for packet in packets {
            let of_terminal = packet.from == self.out().0;
            let line = if of_terminal { &mut self.inside } else { &mut self.outside };
            line.send(&packet.bytes());
        }
        let goal = before + packets.len() as u64;
        wait_until(&format!("{} packets to be dropped as {reason}", packets.len()), || {
            self.gateway().dropped(reason) >= goal
        });
        assert_eq!(self.gateway().dropped(reason), goal);
    }

    /// Whether such a packet has been seen at the server or at the terminal so far.
    pub fn seen_anywhere(&self, bytes: &[u8]) -> [bool; 2] {
        [self.at_server(), self.at_terminal()].map(|capture| capture.packets().has_bytes(bytes))
    }

    /// Whether no packet to this address, nor a question who has it, was at the server's end of the outside LAN.
    pub fn nothing_from_gateway_to(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { panic!("IPv4 only") };
        let packets = self.at_server().packets();
        let asked = [&[0, 0, 0, 0, 0, 0][..], &address.octets()].concat(); // an ARP request's target
        !packets.has_bytes(&asked) && !packets.ip().any(|ip| ip[0] >> 4 == 4 && ip[16..20] == address.octets())
    }

    /// The binding is as it was: the same virtual IP, active.
    #[track_caller]
    pub fn binding_stands(&self) {
        let binding = self.gateway().binding(self.terminal.address(self.family));
        assert_eq!(binding["state"], "active", "{binding}");
        assert_eq!(outermost(&self.gateways, &self.terminal, self.family), self.virtual_ip);
    }

    /// Ends the captures: nothing that the inside hides was at the server.
    #[track_caller]
    pub fn nothing_leaked(self) {
        let hidden = self.lab.hidden(self.lab.plan.gateways);
        let [_, at_server] = self.captures.unwrap();
        at_server.finish().assert_hidden(&hidden);
    }

    fn at_terminal(&self) -> &Capture {
        &self.captures.as_ref().unwrap()[0]
    }

    fn at_server(&self) -> &Capture {
        &self.captures.as_ref().unwrap()[1]
    }
}

#[track_caller]
fn arrive(capture: &Capture, place: &str, mut wanted: Vec<Vec<u8>>) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while std::time::Instant::now() < end {
        let packets = capture.packets();
        wanted.retain(|wanted| !packets.ip().any(|packet| packet == wanted));
        if wanted.is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let packets = capture.packets();
    let all: Vec<String> = packets.ip().map(|packet| format!("{packet:02x?}")).collect();
    let missing: Vec<String> = wanted.iter().map(|packet| format!("{packet:02x?}")).collect();
    panic!("not seen at the {place}:\n{}\nseen:\n{}", missing.join("\n"), all.join("\n"));
}
