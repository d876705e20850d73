//! A pool in the network of the outside interface: who is answered for there, how, and for how long.

use crate::capture::Capture;
use crate::crafted::{Ip, Line, Raw, mac};
use crate::gateway::{Gateway, KAMEI};
use crate::lab::{Host, Lab, Plan, wait_until};
use crate::life::Snapshot;
use crate::one_view::{BOTH, ping};
use pnet::datalink::MacAddr;
use std::net::{IpAddr, Ipv4Addr};

const POOLS: [&str; 4] = ["--pool", "203.0.113.128/25", "--pool", "2001:db8:113::a000/116"];

/// A gateway whose pools lie on the outside LAN; the server there has no routes, and has been called.
struct Scene {
    gateway: Gateway,
    terminal: Host,
    server: Host,
    lab: Lab,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new(Plan::gateways(1));
        lab.server(1).run("ip route delete default; ip -6 route delete default").ok();
        Self::on(lab)
    }

    fn on(lab: Lab) -> Self {
        let scene = Self { gateway: lab.start_with(1, &POOLS), terminal: lab.terminal(1), server: lab.server(1), lab };
        for family in BOTH {
            ping(&scene.terminal, scene.server.address(family), 1);
        }
        scene
    }

    fn virtual_ips(&self) -> [IpAddr; 2] {
        BOTH.map(|family| self.gateway.virtual_ip(self.terminal.address(family)))
    }

    fn proxies(&self) -> String {
        self.gateway.host.run("ip neigh show proxy; ip -6 neigh show proxy").ok()
    }
}

/// What the server knows of a neighbour after it has tried to reach it.
fn knows(server: &Host, address: IpAddr) -> bool {
    server.run(&format!("ping -n -c 1 -W 1 {address}"));
    server.run(&format!("ip neigh show {address} dev eth0")).ok().contains("lladdr")
}

#[test]
fn s_only_virtual_ips_are_answered_for_on_the_outside_lan() {
    let scene = Scene::new();
    // Who has these routes would reach the inside, were it answered for.
    scene.server.run("ip route add 10.77.143.0/24 dev eth0 && ip -6 route add fd5a:77e1:9c0d::/64 dev eth0").ok();
    for address in scene.virtual_ips() {
        assert!(knows(&scene.server, address), "{address}");
    }
    let nobodys = ["10.77.143.77", "203.0.113.129", "203.0.113.130", "2001:db8:113::a001"];
    let nobodys = nobodys.map(|text| text.parse::<IpAddr>().unwrap());
    let hidden = BOTH.map(|family| scene.terminal.address(family));
    for address in nobodys.into_iter().chain(hidden).filter(|address| !scene.virtual_ips().contains(address)) {
        assert!(!knows(&scene.server, address), "{address}");
    }
    assert_eq!(scene.gateway.host.run("sysctl -n net.ipv4.conf.go.proxy_arp").ok().trim(), "0");
}

#[test]
fn s_whoever_asks_for_a_virtual_ip_directly_hears_an_answer() {
    let scene = Scene::new();
    for address in scene.virtual_ips() {
        assert!(knows(&scene.server, address), "{address}");
        scene.server.run(&format!("ip neigh change {address} dev eth0 nud probe")).ok();
        wait_until("the neighbour to be confirmed or lost", || {
            let state = scene.server.run(&format!("ip neigh show {address} dev eth0")).ok();
            assert!(!state.contains("FAILED"), "{state}");
            state.contains("REACHABLE")
        });
    }
}

#[test]
fn s_a_virtual_ip_is_answered_for_as_long_as_somebody_has_it() {
    let scene = Scene::new();
    scene.gateway.ask("bindings pin 10.77.143.99 203.0.113.200").ok();
    assert!(scene.proxies().contains("203.0.113.200 "), "{}", scene.proxies());
    scene.gateway.ask("bindings release 10.77.143.99").ok();
    assert!(!scene.proxies().contains("203.0.113.200 "), "{}", scene.proxies());
    let [v4, _] = scene.virtual_ips();
    scene.gateway.host.run("ip link set go down && ip link set go up").ok();
    wait_until("the LAN to be answered again", || {
        scene.server.run("ip neigh flush dev eth0");
        scene.server.run(&format!("ping -n -c 1 -W 1 {v4}")).succeeded()
    });
}

#[test]
fn s_what_answers_on_the_outside_lan_is_taken_over_and_goes_with_the_gateway() {
    let lab = Lab::new(Plan::gateways(1));
    lab.server(1).run("ip route delete default; ip -6 route delete default").ok();
    let host = lab.gateway(1);
    let before = Snapshot::of(&host);
    let Scene { gateway, lab, .. } = Scene::on(lab);
    gateway.kill();
    assert!(host.run("ip neigh show proxy").ok().contains("203.0.113."), "it goes on while nobody is there");
    host.run(&format!("{KAMEI} cleanup --control {}", lab.control(1).display())).ok();
    before.assert_unchanged(&host);

    let scene = Scene::on(lab);
    let virtual_ips = scene.virtual_ips();
    let Scene { gateway, lab, server, .. } = scene;
    gateway.kill();
    // It finds the bindings, and what was changed, from before.
    let gateway = lab.start_with(1, &POOLS);
    for address in virtual_ips {
        server.run("ip neigh flush dev eth0").ok();
        assert!(knows(&server, address), "{address}");
    }
    gateway.stop();
    before.assert_unchanged(&host);
}

#[test]
fn p3_settings_for_the_outside_lan_that_others_change_meanwhile_stay() {
    let lab = Lab::new(Plan::gateways(1));
    let gateway = lab.start_with(1, &POOLS);
    let settings = "sysctl -n net.ipv4.conf.go.arp_announce net.ipv6.conf.all.proxy_ndp";
    assert_eq!(gateway.host.run(settings).ok(), "2\n2\n");
    gateway.host.run("sysctl -qw net.ipv4.conf.go.arp_announce=1 net.ipv6.conf.all.proxy_ndp=1").ok();
    let host = gateway.host.clone();
    gateway.stop();
    assert_eq!(host.run(settings).ok(), "1\n1\n");
}

#[test]
fn s_a_virtual_ip_that_this_machine_takes_for_itself_ends_and_the_terminal_gets_another() {
    let scene = Scene::new();
    let host = &scene.gateway.host;
    for (family, virtual_ip) in BOTH.into_iter().zip(scene.virtual_ips()) {
        let own = scene.terminal.address(family);
        let length = if virtual_ip.is_ipv4() { 24 } else { 64 };
        host.run(&format!("ip address add {virtual_ip}/{length} dev go nodad")).ok();
        wait_until("it to be said", || {
            scene.gateway.log().contains(&format!("{virtual_ip} of a pool is an address of this machine"))
        });
        ping(&scene.terminal, scene.server.address(family), 1);
        let another = scene.gateway.virtual_ip(own);
        assert_ne!(another, virtual_ip);
        ping(&scene.server, another, 1);
        // It is this machine that answers by the first one now, and no other terminal is given it.
        ping(&scene.server, virtual_ip, 1);
        let other = if own.is_ipv4() { "10.77.143.99" } else { "fd5a:77e1:9c0d::99" };
        let pinned = scene.gateway.ask(&format!("bindings pin {other} {virtual_ip}"));
        assert!(!pinned.succeeded(), "{}", pinned.stdout);
        host.run(&format!("ip address delete {virtual_ip}/{length} dev go")).ok();
        wait_until("it to be free again", || {
            scene.gateway.log().contains(&format!("{virtual_ip} of a pool is nobody else's any more"))
        });
        ping(&scene.terminal, scene.server.address(family), 1);
        ping(&scene.server, another, 1);
    }
}

/// Neighbour discovery is between neighbours: no terminal is one of a host outside.
#[test]
fn s_neighbour_discovery_from_outside_reaches_no_terminal_v6() {
    let scene = Scene::new();
    let (server, terminal) = (&scene.server, &scene.terminal);
    let wire = Capture::start(terminal, "eth0");
    let mut line = Line::new(server, "eth0", &scene.gateway.host, "go");
    let refused = || scene.gateway.status()["fast_path"]["noted"]["inside_destination"].as_u64().unwrap_or_default();
    for (to, kind) in
        [(terminal.v6.into(), 136), (terminal.v6.into(), 135), (scene.lab.gateway_inside(1).1.into(), 135)]
    {
        let before = refused();
        let packet = Ip::icmp(server.v6.into(), to, kind, 0, [0; 4], b"not for terminals");
        line.send(&packet.bytes());
        wait_until("it to be refused", || refused() > before);
    }
    assert!(!wire.finish().has_bytes(b"not for terminals"));
    server.run("ip -6 neigh flush dev eth0").ok();
    ping(server, scene.gateway.host.v6.into(), 1);
}

#[test]
fn n8_arp_outside_names_no_inside_address() {
    let scene = Scene::new();
    let (host, wire) = (&scene.gateway.host, scene.lab.outside_wire(1));
    let inside = scene.lab.gateway_inside(1).0;
    host.run("ip neigh flush dev go").ok();
    // Refused as it leaves; but first the neighbour is asked for.
    host.run(&format!("ping -n -c 1 -W 1 -I {inside} {}", scene.server.v4));
    wait_until("the neighbour to answer", || {
        host.run(&format!("ip neigh show {} dev go", scene.server.v4)).ok().contains("lladdr")
    });
    wire.finish().assert_hidden(&[inside.into()]);
}

/// An ARP request, from the server to all.
fn arp_request(hardware: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let hardware = hardware.octets();
    let ethernet = [&[0xff; 6][..], &hardware, &[0x08, 0x06]].concat();
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &hardware, &sender.octets(), &[0; 6], &target.octets()].concat();
    [ethernet, arp].concat()
}

/// What the gateway's outside interface says in ARP (2: a reply) of an address that it answers for.
fn arp_of(host: &Host, operation: u8, address: Ipv4Addr) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, operation][..], &mac(host, "go").octets(), &address.octets()].concat()
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address}"),
    }
}

/// RFC 5227 §2.1.1, RFC 4862 §5.4: whoever is about to use an address asks whether somebody has it.
#[test]
fn s_a_probe_for_a_virtual_ip_in_use_is_answered() {
    let scene = Scene::new();
    let (server, [v4_in_use, v6_in_use]) = (&scene.server, scene.virtual_ips());
    let wire = Capture::start(server, "eth0");
    let mut raw = Raw::open(server, "eth0");
    let hardware = mac(server, "eth0");
    let free = Ipv4Addr::new(203, 0, 113, 130);
    let free = if v4(v4_in_use) == free { Ipv4Addr::new(203, 0, 113, 131) } else { free };
    for target in [free, v4(v4_in_use)] {
        raw.send_frame(&arp_request(hardware, Ipv4Addr::UNSPECIFIED, target));
    }
    let answer = |address| arp_of(&scene.gateway.host, 2, address);
    wait_until("the answer to the probe", || wire.packets().has_bytes(&answer(v4(v4_in_use))));
    assert!(!wire.finish().has_bytes(&answer(free)), "nobody has that one");

    server.set_sysctl("net.ipv6.conf.eth0.accept_dad", "1");
    server.run(&format!("ip address add {v6_in_use}/128 dev eth0")).ok();
    wait_until("the duplicate to be noticed", || server.run("ip -6 address show dev eth0").ok().contains("dadfailed"));
}

/// Without a packet of anybody's: a host that calls back sends to where the virtual IP was before.
#[test]
fn s_hosts_of_the_outside_lan_hear_of_new_bindings_and_of_a_gateway_that_takes_over() {
    let scene = Scene::new();
    let virtual_ips = scene.virtual_ips();
    let Scene { gateway, lab, server, terminal } = scene;
    let host = gateway.host.clone();
    gateway.kill();
    let knows_of = |address: IpAddr| {
        let known = server.run(&format!("ip neigh show {address} dev eth0")).ok();
        known.contains(&mac(&host, "go").to_string())
    };
    let forget = |address: IpAddr| {
        server.run(&format!("ip neigh replace {address} lladdr 02:00:00:00:00:99 nud stale dev eth0")).ok();
        assert!(!knows_of(address));
    };
    virtual_ips.into_iter().for_each(forget);
    let gateway = lab.start_with(1, &POOLS);
    for address in virtual_ips {
        wait_until("the neighbour to be known anew", || knows_of(address));
    }
    let pinned = ["203.0.113.200", "2001:db8:113::a077"].map(|text| text.parse::<IpAddr>().unwrap());
    pinned.into_iter().for_each(forget);
    gateway.ask("bindings pin 10.77.143.99 203.0.113.200").ok();
    gateway.ask("bindings pin fd5a:77e1:9c0d::b0:63 2001:db8:113::a077").ok();
    for address in pinned {
        wait_until("the new one to be known", || knows_of(address));
    }
    drop(terminal);
}

#[test]
fn s_whoever_claims_a_virtual_ip_in_use_is_named_and_hears_whose_it_is() {
    let scene = Scene::new();
    let (server, address) = (&scene.server, v4(scene.virtual_ips()[0]));
    let wire = Capture::start(server, "eth0");
    let mut raw = Raw::open(server, "eth0");
    let hardware = mac(server, "eth0");
    for _ in 0..3 {
        raw.send_frame(&arp_request(hardware, address, address));
    }
    wait_until("the defence", || wire.packets().has_bytes(&arp_of(&scene.gateway.host, 1, address)));
    let said = format!("{hardware} on 'go' says that it has {address}");
    wait_until("it to be said", || scene.gateway.log().contains(&said));
    assert_eq!(scene.gateway.log().matches(&said).count(), 1, "once, however often it is claimed");
}
