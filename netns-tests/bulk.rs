//! Much data and large packets, to the byte.

use crate::gateway::outermost;
use crate::lab::{Family, Lab, Plan};
use crate::traffic::{Echo, Pattern, accept, ask_udp, connect, expect_pattern, listen, send_pattern};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// 64 MiB in blocks of 64 KiB.
const BLOCKS: usize = 1024;

/// A call and a callback, each moving 64 MiB in both directions at once.
fn tcp_bulk(gateways: u8, family: Family) {
    let lab = Lab::new(Plan::gateways(gateways).unwatched());
    let running = lab.start_all();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let (at_server, at_terminal) = (listen(&server, 4000), listen(&terminal, 4001));
    let to_server = SocketAddr::new(server.address(family), 4000);
    let call = connect(&terminal, to_server);
    let (accepted, seen) = accept(&at_server);
    let virtual_ip = outermost(&running, &terminal, family);
    assert_eq!(seen, virtual_ip);
    exchange(call, accepted);

    let callback = connect(&server, SocketAddr::new(virtual_ip, 4001));
    let (accepted, seen) = accept(&at_terminal);
    assert_eq!(seen, server.address(family));
    exchange(callback, accepted);

    for gateway in &running {
        let status = gateway.status();
        for direction in ["out", "in"] {
            let traffic = &status[direction];
            let (packets, bytes) = (traffic["packets"].as_u64().unwrap(), traffic["bytes"].as_u64().unwrap());
            assert!(bytes >= 128 << 20, "{direction}: {traffic}");
            // Links carry 1,500 bytes: more on average is only possible if super-packets passed whole.
            assert!(bytes / packets > 1500, "{direction}: {} bytes a packet", bytes / packets);
        }
    }
}

fn exchange(a: TcpStream, b: TcpStream) {
    exchange_blocks(a, b, BLOCKS);
}

/// Both ends send at once; each must get exactly what the other sent.
pub fn exchange_blocks(a: TcpStream, b: TcpStream, blocks: usize) {
    std::thread::scope(|scope| {
        let (a_out, b_out) = (a.try_clone().unwrap(), b.try_clone().unwrap());
        scope.spawn(move || send_pattern(a_out, 1, blocks));
        scope.spawn(move || send_pattern(b_out, 2, blocks));
        scope.spawn(|| expect_pattern(&a, 2, blocks));
        scope.spawn(|| expect_pattern(&b, 1, blocks));
    });
}

#[test]
fn tcp_bulk_both_ways_in_super_packets() {
    tcp_bulk(1, Family::V4);
}

#[test]
fn tcp_bulk_both_ways_in_super_packets_v6() {
    tcp_bulk(1, Family::V6);
}

#[test]
fn n11_tcp_bulk_through_three_gateways() {
    tcp_bulk(3, Family::V4);
}

/// The terminals' links cannot segment or sum: every packet is an ordinary one with a full checksum.
#[test]
fn tcp_both_ways_without_offloads() {
    crate::lab::need("ethtool", "ethtool");
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let gateway = lab.start(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    for (host, interface) in [(&terminal, "eth0"), (&server, "eth0"), (&gateway.host, "gi"), (&gateway.host, "go")] {
        host.run(&format!("ethtool -K {interface} tso off gso off gro off tx off rx off")).ok();
    }
    let listener = listen(&server, 4000);
    let call = connect(&terminal, SocketAddr::new(server.v4.into(), 4000));
    let (accepted, _) = accept(&listener);
    exchange_blocks(call, accepted, 64);
}

/// The link between two gateways is narrower than those at both ends, which must find that out (RFC 1191, RFC 8201):
/// the errors come from the gateways' own kernels, about packets that were translated already.
fn through_a_narrow_link(family: Family) {
    let lab = Lab::new(Plan::gateways(2));
    let running = lab.start_all();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    running[0].host.run("ip link set go mtu 1280").ok();
    running[1].host.run("ip link set gi mtu 1280").ok();
    let (at_server, at_terminal) = (listen(&server, 4000), listen(&terminal, 4001));
    let call = connect(&terminal, SocketAddr::new(server.address(family), 4000));
    let (accepted, virtual_ip) = accept(&at_server);
    exchange_blocks(call, accepted, 32);
    let callback = connect(&server, SocketAddr::new(virtual_ip, 4001));
    let (accepted, _) = accept(&at_terminal);
    exchange_blocks(callback, accepted, 32);
}

#[test]
fn tcp_finds_a_narrow_link_between_two_gateways() {
    through_a_narrow_link(Family::V4);
}

#[test]
fn tcp_finds_a_narrow_link_between_two_gateways_v6() {
    through_a_narrow_link(Family::V6);
}

/// Datagrams of all sizes; those above 1,472 bytes travel as fragments.
fn udp_sizes(family: Family) {
    let lab = Lab::new(Plan::gateways(1));
    let gateway = lab.start(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let (_out, _back) = (Echo::start(&server, 5000), Echo::start(&terminal, 5000));
    for size in [0, 1, 1000, 1472, 1473, 4000, 9000, 60_000] {
        let mut bytes = vec![0; size];
        Pattern::new(size as u64).fill(&mut bytes);
        let to = SocketAddr::new(server.address(family), 5000);
        let answer = ask_udp(&terminal, to, &bytes, Duration::from_secs(5));
        assert!(answer.as_ref() == Some(&bytes), "call with {size} bytes: {:?} came back", answer.map(|a| a.len()));
        let to = SocketAddr::new(gateway.virtual_ip(terminal.address(family)), 5000);
        let answer = ask_udp(&server, to, &bytes, Duration::from_secs(5));
        assert!(answer.as_ref() == Some(&bytes), "callback with {size} bytes: {:?} came back", answer.map(|a| a.len()));
    }
}

#[test]
fn udp_datagrams_of_all_sizes() {
    udp_sizes(Family::V4);
}

#[test]
fn udp_datagrams_of_all_sizes_v6() {
    udp_sizes(Family::V6);
}

/// Links of 9,000 bytes: a large datagram is one packet.
#[test]
fn udp_datagrams_of_9000_bytes_on_jumbo_links() {
    let lab = Lab::new(Plan::gateways(1));
    let gateway = lab.start(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    for name in ["terminal1", "server1", "gateway1", "inside", "outside"] {
        let namespace = format!("{}-{name}", lab.name);
        let script = format!(
            "for d in $(ls /sys/class/net); do [ $d = lo ] || case $d in kamei*) ;; *) ip -n {namespace} link set $d mtu 9216;; esac; done"
        );
        let host = crate::lab::Host { namespace: namespace.clone(), ..terminal.clone() };
        host.run(&script).ok();
    }
    let (_out, _back) = (Echo::start(&server, 5000), Echo::start(&terminal, 5000));
    let mut bytes = vec![0; 9000];
    Pattern::new(9000).fill(&mut bytes);
    let to = SocketAddr::new(server.v4.into(), 5000);
    assert!(ask_udp(&terminal, to, &bytes, Duration::from_secs(5)).as_ref() == Some(&bytes));
    let before = gateway.status()["in"]["packets"].as_u64().unwrap();
    let to = SocketAddr::new(gateway.virtual_ip(terminal.v4.into()), 5000);
    assert!(ask_udp(&server, to, &bytes, Duration::from_secs(5)).as_ref() == Some(&bytes));
    assert_eq!(gateway.status()["in"]["packets"].as_u64().unwrap(), before + 1, "one packet, not fragments");
}
