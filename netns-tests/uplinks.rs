//! Two outsides: what leaves by one has an address of that one.

use crate::capture::Capture;
use crate::crafted::{Ip, Line};
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Plan, wait_until};
use crate::one_view::{BOTH, ping};
use std::net::{IpAddr, Ipv4Addr};

const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);

/// A gateway with two wires to the server, which reaches the pools by the second; the terminal has called both its addresses.
struct Scene {
    gateway: Gateway,
    terminal: Host,
    server: Host,
    _lab: Lab,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new(Plan::gateways(1).unwatched());
        let (host, terminal, server) = (lab.gateway(1), lab.terminal(1), lab.server(1));
        host.run(&format!("ip link add go2 type veth peer name eth1 netns {}", server.namespace)).ok();
        for (at, name, v4, v6) in [(&host, "go2", SECOND, "2001:db8:2::1"), (&server, "eth1", SERVER, "2001:db8:2::b")]
        {
            at.run(&format!(
                "ip link set {name} up && ip address add {v4}/24 dev {name} && ip address add {v6}/64 dev {name} nodad"
            ))
            .ok();
        }
        server
            .run(&format!(
                "ip route add {} via {SECOND} && ip -6 route add {} via 2001:db8:2::1",
                Lab::pool_v4(1),
                Lab::pool_v6(1)
            ))
            .ok();
        let pools = [Lab::pool_v4(1), Lab::pool_v6(1)];
        let gateway = lab.start_with(1, &["--outside", "go2", "--pool", &pools[0], "--pool", &pools[1]]);
        for peer in [SERVER.into(), "2001:db8:2::b".parse().unwrap(), server.v4.into(), server.v6.into()] {
            ping(&terminal, peer, 1);
        }
        Self { gateway, terminal, server, _lab: lab }
    }
}

#[test]
fn r13_errors_of_the_gateway_have_an_address_of_the_interface_they_leave_by() {
    let scene = Scene::new();
    let ways = |family| match family {
        Family::V4 => [("eth0", "203.0.113.1"), ("eth1", "192.0.2.1")],
        Family::V6 => [("eth0", "2001:db8:113::1"), ("eth1", "2001:db8:2::1")],
    };
    // Both kinds of error: of the way, and of the packet's size.
    scene.gateway.host.run("ip link set gi mtu 1280").ok();
    for family in BOTH {
        let virtual_ip = scene.gateway.virtual_ip(scene.terminal.address(family));
        for (way, expected) in ways(family) {
            for kind in ["-t 1", "-M do -s 1400"] {
                // What it has learnt of the way.
                scene.server.run("ip route flush cache; ip -6 route flush cache").ok();
                let said = scene.server.run(&format!("ping -n -c 1 -W 2 -I {way} {kind} {virtual_ip}")).stdout;
                assert!(said.to_lowercase().contains(&format!("from {expected} ")), "{way} {kind}: {said}");
            }
        }
    }
}

/// An inside router that has no virtual IP is shown by the gateway's address that the peer knows.
#[test]
fn i5_an_inside_router_is_shown_by_the_address_that_is_near_to_the_peer() {
    let scene = Scene::new();
    let (router, terminal): (IpAddr, IpAddr) = ("10.77.143.200".parse().unwrap(), scene.terminal.v4.into());
    let mut line = Line::new(&scene.terminal, "eth0", &scene.gateway.host, "gi");
    for (interface, peer, own) in [("eth1", SERVER, SECOND), ("eth0", scene.server.v4, scene.gateway.host.v4)] {
        let wire = Capture::start(&scene.server, interface);
        let quoted = Ip::udp(peer.into(), terminal, (5000, 5001), b"undelivered");
        let error = Ip::icmp(router, peer.into(), 3, 1, [0; 4], &quoted.bytes());
        line.send(&error.bytes());
        wait_until("the error to arrive", || wire.packets().has_bytes(b"undelivered"));
        let packets = wire.finish();
        assert!(packets.between(own, peer).any(|packet| packet.ends_with(b"undelivered")), "not by {own}");
        packets.assert_hidden(&[router, terminal]);
    }
}
