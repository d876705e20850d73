//! P1, P2: beside the kernel's flowtable, the short way for flows that a firewall has accepted. It sends packets out as they
//! come in, past routing and the forward hook; through a bridge it sends them by the port, past the bridge.

use crate::fastpath::{flows, hits};
use crate::gateway::Gateway;
use crate::lab::{Host, Lab, Plan, has, wait_until};
use crate::links::{exchange, move_addresses};
use crate::one_view::{BOTH, Ground, nft, ping, seats_and_modes};
use crate::traffic::{Echo, accept, ask_udp, connect, listen};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Of the wires that the gateway has, bridged or not.
const RULES: &str = "table inet short {
    flowtable ft { hook ingress priority filter; devices = { gi, go }; }
    counter forwarded { }
    chain forward { type filter hook forward priority filter; meta l4proto { tcp, udp } counter name forwarded;
        meta l4proto { tcp, udp } ct state established flow add @ft; }
}";

const PORT: u16 = 5000;
const EACH: u64 = 60;
const WORDS: &[u8] = b"from the inside";

/// Whether either wire is the port of a bridge.
#[derive(Clone, Copy)]
struct Bridged {
    inside: bool,
    outside: bool,
}

fn build(ground: &Ground, bridged: Bridged) -> bool {
    let host = ground.lab.gateway(1);
    let line = "nft 'table inet try { flowtable ft { hook ingress priority filter; devices = { gi }; }; }' && nft delete table \
                inet try";
    if !has(&host, "flowtables", line) {
        return false;
    }
    bridge(ground, bridged);
    nft(&host, RULES);
    true
}

fn bridge(ground: &Ground, bridged: Bridged) {
    let (host, (v4, v6)) = (ground.lab.gateway(1), ground.lab.gateway_inside(1));
    if bridged.inside {
        host.run("ip link add bi type bridge && ip link set gi master bi").ok();
        move_addresses(&host, "gi", "bi", v4, v6);
    }
    if bridged.outside {
        host.run("ip link add bo type bridge && ip link set go master bo").ok();
        move_addresses(&host, "go", "bo", host.v4, host.v6);
    }
}

fn start(ground: &Ground, bridged: Bridged, arguments: &[&str]) -> Gateway {
    let (inside, outside) = (if bridged.inside { "bi" } else { "gi" }, if bridged.outside { "bo" } else { "go" });
    let (v4, v6) = (Lab::pool_v4(1), Lab::pool_v6(1));
    let ways = ["--inside", inside, "--outside", outside, "--pool", &v4, "--pool", &v6];
    ground.start_exactly(&[&ways, arguments].concat())
}

/// Whatever puts a terminal's packets on the outside wire without having asked anybody, here a filter of tc that a kernel
/// without flowtables has too: they leave translated, those to strangers as well.
fn shows_no_terminal(bridged: Bridged) {
    for (seat, arguments) in seats_and_modes() {
        let ground = Ground::new(Plan::gateways(1).unwatched(), seat);
        let (host, terminal, server) = (ground.lab.gateway(1), ground.lab.terminal(1), ground.lab.server(1));
        bridge(&ground, bridged);
        let gateway = start(&ground, bridged, arguments);
        let is_fast = gateway.status()["fast_path"]["mode"] != "off";
        let wire = ground.lab.outside_wire(1);
        for family in BOTH {
            let before = flows(&gateway);
            wait_until("both directions to be in the kernel", || {
                ping(&terminal, server.address(family), 5);
                !is_fast || flows(&gateway) >= before + 2
            });
        }
        host.run("tc qdisc add dev gi clsact 2> /dev/null; true").ok();
        for (priority, protocol) in [(77, "ip"), (78, "ipv6")] {
            host.run(&format!(
                "tc filter add dev gi ingress pref {priority} protocol {protocol} u32 match u32 0 0 action mirred egress redirect \
                 dev go"
            ))
            .ok();
        }
        let before = hits(&gateway);
        for family in BOTH {
            let known = server.address(family);
            let stranger = if known.is_ipv4() { "203.0.113.77" } else { "2001:db8:113::77" };
            for to in [known, stranger.parse().unwrap()] {
                let to = SocketAddr::new(to, PORT);
                for _ in 0..10 {
                    terminal.inside(|| crate::traffic::udp_socket(to, 0).send_to(WORDS, to).unwrap());
                }
                wait_until("the words to leave", || {
                    let from = gateway.virtual_ip(terminal.address(family));
                    wire.packets().ip().any(|packet| says(packet, from, to.ip()))
                });
            }
        }
        assert!(!is_fast || hits(&gateway) > before, "those of known flows are carried by the kernel");
        host.run("tc filter del dev gi ingress pref 77 && tc filter del dev gi ingress pref 78").ok();
        BOTH.iter().for_each(|family| ping(&terminal, server.address(*family), 3));
        wire.finish().assert_hidden(&ground.lab.hidden(1));
        gateway.stop();
    }
}

/// Whether an IP packet has these ends, and the words in it.
fn says(packet: &[u8], from: IpAddr, to: IpAddr) -> bool {
    let ends = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => return false,
    };
    let has = |bytes: &[u8]| packet.windows(bytes.len()).any(|window| window == bytes);
    has(&ends) && has(WORDS)
}

#[test]
fn p2_what_is_put_on_the_port_of_an_outside_bridge_shows_no_terminal() {
    shows_no_terminal(Bridged { inside: false, outside: true });
}

#[test]
fn p2_what_comes_by_the_port_of_an_inside_bridge_is_of_the_inside() {
    shows_no_terminal(Bridged { inside: true, outside: false });
}

fn forwarded(host: &Host) -> u64 {
    let listed = host.run("nft -j list counter inet short forwarded").ok();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    listed["nftables"][1]["counter"]["packets"].as_u64().unwrap()
}

/// Datagrams that are answered, many in one conversation: how many of them crossed the forward hook.
#[track_caller]
fn converse(host: &Host, from: &Host, to: IpAddr) -> u64 {
    let before = forwarded(host);
    from.inside(|| {
        let to = SocketAddr::new(to, PORT);
        let socket = crate::traffic::udp_socket(to, 0);
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for number in 0..EACH {
            socket.send(&number.to_be_bytes()).unwrap();
            let mut answer = [0; 8];
            assert_eq!((socket.recv(&mut answer).unwrap(), answer), (8, number.to_be_bytes()), "{number}");
        }
    });
    forwarded(host) - before
}

fn goes_on(bridged: Bridged, longest: u64) {
    for (seat, arguments) in seats_and_modes() {
        let ground = Ground::new(Plan::gateways(1).unwatched(), seat);
        if !build(&ground, bridged) {
            return;
        }
        let (host, terminal, server) = (ground.lab.gateway(1), ground.lab.terminal(1), ground.lab.server(1));
        let gateway = start(&ground, bridged, arguments);
        let _echoes = [Echo::start(&terminal, PORT), Echo::start(&server, PORT)];
        let (at_server, at_terminal) = (listen(&server, 4000), listen(&terminal, 4001));
        let wire = ground.lab.outside_wire(1);
        for family in BOTH {
            let there = server.address(family);
            wait_until("an answer", || {
                ask_udp(&terminal, SocketAddr::new(there, PORT), b"?", Duration::from_secs(5)).is_some()
            });
            let virtual_ip = gateway.virtual_ip(terminal.address(family));
            for (from, to, listener, port) in
                [(&terminal, there, &at_server, 4000), (&server, virtual_ip, &at_terminal, 4001)]
            {
                let call = connect(from, SocketAddr::new(to, port));
                let (accepted, _) = accept(listener);
                exchange(&call, &accepted);
            }
            let calls = converse(&host, &terminal, there);
            let callbacks = converse(&host, &server, virtual_ip);
            assert!(calls < longest, "{calls} of {} packets of a call were forwarded", 2 * EACH);
            assert!(callbacks < longest, "{callbacks} of {} packets of a callback were forwarded", 2 * EACH);
        }
        let packets = wire.finish();
        assert!(packets.len() as u64 > 4 * EACH);
        packets.assert_hidden(&ground.lab.hidden(1));
        gateway.stop();
    }
}

#[test]
fn p1_a_flowtable_of_both_interfaces_carries_calls_and_callbacks() {
    goes_on(Bridged { inside: false, outside: false }, EACH / 2);
}

/// The kernel sends by the port; what comes in by it is for a virtual IP, and goes the longer way.
#[test]
fn p2_a_flowtable_of_the_port_of_an_outside_bridge_shows_no_terminal() {
    goes_on(Bridged { inside: false, outside: true }, EACH + EACH / 2);
}

#[test]
fn p1_a_flowtable_of_the_port_of_an_inside_bridge_carries_calls_and_callbacks() {
    goes_on(Bridged { inside: true, outside: false }, EACH / 2);
}

#[test]
fn p2_a_flowtable_of_the_ports_of_both_bridges_shows_no_terminal() {
    goes_on(Bridged { inside: true, outside: true }, EACH + EACH / 2);
}
