//! N1 to N7 and N12: a call makes a pair, and the pair serves callbacks.

use crate::capture::Capture;
use crate::gateway::Gateway;
use crate::lab::{Family, Lab, Plan, need, wait_until};
use crate::traffic::{Echo, Web, accept, ask_udp, connect, curl, curl_in_vain, listen, udp_socket, wait_until_closed};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

fn one_gateway() -> (Lab, Gateway) {
    let lab = Lab::new(Plan::gateways(1));
    let gateway = lab.start(1);
    (lab, gateway)
}

#[test]
fn n1_a_pool_per_destination_server() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (terminal, first, second) = (lab.terminal(1), lab.server(1), lab.server(2));
    let gateway = lab.start_from_file(
        1,
        &format!(
            "inside = [\"gi\"]\noutside = [\"go\"]\n\n\
             [[pool]]\nname = \"everyone\"\nrange = \"198.18.1.0/25\"\n\n\
             [[pool]]\nname = \"second\"\nrange = \"198.18.1.128/25\"\ndestinations = [\"{}/32\"]\n",
            second.v4
        ),
    );
    let _webs = [Web::start(&first, 80), Web::start(&second, 80)];

    let seen_by_first: String = curl(&terminal, first.v4.into(), 80);
    let seen_by_second: String = curl(&terminal, second.v4.into(), 80);

    let last_number = |seen: &str| seen.split(['.', ' ']).nth(3).unwrap().parse::<u8>().unwrap();
    assert!(seen_by_first.starts_with("198.18.1.") && last_number(&seen_by_first) < 128, "{seen_by_first}");
    assert!(seen_by_second.starts_with("198.18.1.") && last_number(&seen_by_second) >= 128, "{seen_by_second}");
    let pools: Vec<String> = gateway.bindings().iter().map(|b| b["pool"].as_str().unwrap().to_owned()).collect();
    assert!(pools.contains(&"everyone".to_owned()) && pools.contains(&"second".to_owned()), "{pools:?}");
}

#[test]
fn n2_the_first_request_reaches_the_gateway_on_the_inside() {
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let inside = Capture::start(&gateway.host, "gi");
    let _web = Web::start(&server, 80);
    assert!(gateway.bindings().is_empty());

    curl(&terminal, server.v4.into(), 80);

    let inside = inside.finish();
    assert!(
        inside.between(terminal.v4, server.v4).next().is_some(),
        "the request came in under the terminal's own address"
    );
    assert_eq!(gateway.bindings().len(), 1);
}

#[test]
fn n3_the_pair_is_stored_before_the_request_leaves() {
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let to = SocketAddr::new(server.v4.into(), 5300);
    let listening = server.inside(|| udp_socket(to, 5300));
    listening.set_read_timeout(Some(PATIENCE)).unwrap();

    terminal.inside(|| udp_socket(to, 0).send_to(b"first", to).unwrap());

    let (_, peer) = listening.recv_from(&mut [0; 16]).unwrap();
    let pair = gateway.binding(terminal.v4.into());
    assert_eq!(pair["virtual_ip"], peer.ip().to_string().as_str(), "the pair is there when the request arrives");
}

#[test]
fn n3_a_request_that_nobody_answers_has_its_pair_too() {
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    curl_in_vain(&terminal, server.v4.into(), 81); // nobody listens: the server resets
    assert_eq!(gateway.binding(terminal.v4.into())["state"], "active");
}

fn n4(family: Family) {
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let wire = Capture::start(&server, "eth0");
    let web = Web::start(&server, 80);

    let seen = curl(&terminal, server.address(family), 80);

    let virtual_ip = gateway.virtual_ip(terminal.address(family));
    assert_eq!(seen, format!("{virtual_ip} 80"));
    wait_until("the access log", || web.access_log().starts_with(&format!("{virtual_ip} ")));
    wire.finish().assert_hidden(&lab.hidden(1));
}

#[test]
fn n4_the_server_sees_the_virtual_ip_only() {
    n4(Family::V4);
}

#[test]
fn n4_the_server_sees_the_virtual_ip_only_v6() {
    n4(Family::V6);
}

fn n5(family: Family) {
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let (_web, called) = (Web::start(&server, 80), Web::start(&terminal, 8080));
    curl(&terminal, server.address(family), 80);
    let virtual_ip = gateway.virtual_ip(terminal.address(family));

    let seen = curl(&server, virtual_ip, 8080); // a connection of its own, opened by the server

    assert_eq!(seen, format!("{} 8080", server.address(family)), "the terminal sees the server's own address");
    assert_eq!(called.access_log().lines().count(), 1);
    assert_eq!(gateway.binding(terminal.address(family))["callbacks"], 1);
}

#[test]
fn n5_peer_opens_a_new_connection_to_the_virtual_ip() {
    n5(Family::V4);
}

#[test]
fn n5_peer_opens_a_new_connection_to_the_virtual_ip_v6() {
    n5(Family::V6);
}

fn n5_udp(family: Family) {
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let (_out, _back) = (Echo::start(&server, 5000), Echo::start(&terminal, 6000));
    let call = ask_udp(&terminal, SocketAddr::new(server.address(family), 5000), b"call", PATIENCE);
    assert_eq!(call.as_deref(), Some(&b"call"[..]));
    let virtual_ip = gateway.virtual_ip(terminal.address(family));

    let callback = ask_udp(&server, SocketAddr::new(virtual_ip, 6000), b"callback", PATIENCE);

    assert_eq!(callback.as_deref(), Some(&b"callback"[..]), "on a port that the terminal never used");
}

#[test]
fn n5_callback_by_udp() {
    n5_udp(Family::V4);
}

#[test]
fn n5_callback_by_udp_v6() {
    n5_udp(Family::V6);
}

fn n5_ping(family: Family) {
    need("ping", "iputils-ping");
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    for size in [56, 1400, 8000] {
        terminal.run(&format!("ping -c 2 -i 0.1 -W 5 -s {size} {}", server.address(family))).ok();
    }
    let virtual_ip = gateway.virtual_ip(terminal.address(family));
    for size in [56, 1400, 8000] {
        server.run(&format!("ping -c 2 -i 0.1 -W 5 -s {size} {virtual_ip}")).ok();
    }
}

#[test]
fn n5_ping_both_ways() {
    n5_ping(Family::V4);
}

#[test]
fn n5_ping_both_ways_v6() {
    n5_ping(Family::V6);
}

#[test]
fn n5_a_peer_that_was_never_called_is_refused() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let gateway = lab.start(1);
    let (terminal, called, stranger) = (lab.terminal(1), lab.server(1), lab.server(2));
    let (_web, _back) = (Web::start(&called, 80), Web::start(&terminal, 8080));
    curl(&terminal, called.v4.into(), 80);
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());

    curl_in_vain(&stranger, virtual_ip, 8080);

    assert!(gateway.dropped("not_contacted") > 0);
    curl(&called, virtual_ip, 8080);
}

#[test]
fn n5_anyone_may_call_back_where_the_policy_says_so() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1), "--callback", "anyone"]);
    let (terminal, called, stranger) = (lab.terminal(1), lab.server(1), lab.server(2));
    let (_web, _back) = (Web::start(&called, 80), Web::start(&terminal, 8080));
    curl(&terminal, called.v4.into(), 80);

    let seen = curl(&stranger, gateway.virtual_ip(terminal.v4.into()), 8080);

    assert_eq!(seen, format!("{} 8080", stranger.v4));
}

#[test]
fn r8_a_single_binding_can_have_a_policy_of_its_own() {
    let lab = Lab::new(Plan::gateways(1).servers(3));
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1)]);
    let (terminal, called, friend, stranger) = (lab.terminal(1), lab.server(1), lab.server(2), lab.server(3));
    let (_web, _back) = (Web::start(&called, 80), Web::start(&terminal, 8080));
    curl(&terminal, called.v4.into(), 80);
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());

    gateway.ask(&format!("bindings callback {} anyone", terminal.v4)).ok();
    curl(&friend, virtual_ip, 8080);
    let wrong = gateway.ask(&format!("bindings callback {virtual_ip} everybody"));
    assert!(wrong.code == Some(3) && wrong.stderr.contains("'everybody'"), "{}", wrong.stderr);
    gateway.ask(&format!("bindings callback {virtual_ip} pool")).ok();

    stranger.run(&format!("curl -sS --max-time 1 http://{virtual_ip}:8080/"));
    assert!(gateway.dropped("not_contacted") > 0);
}

/// RFC 6296: the terminal's address is another one outside, nothing is remembered, and everyone may call.
#[test]
fn rfc6296_a_prefix_is_translated_both_ways() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (terminal, called, stranger) = (lab.terminal(1), lab.server(1), lab.server(2));
    let config = lab.scratch().join("prefix.toml");
    let inside = ipnet::Ipv6Net::new(terminal.v6, 64).unwrap().trunc();
    let text = format!("[[pool]]\nrange = \"{}\"\ntranslates = \"{inside}\"\n", Lab::pool_v6(1));
    std::fs::write(&config, text).unwrap();
    let gateway = lab.start_with(1, &["--config", config.to_str().unwrap()]);
    let (_web, _back) = (Web::start(&called, 80), Web::start(&terminal, 8080));

    let seen = curl(&terminal, called.v6.into(), 80);

    let shown: std::net::Ipv6Addr = seen.split(' ').next().unwrap().parse().unwrap();
    assert!(Lab::pool_v6(1).parse::<ipnet::Ipv6Net>().unwrap().contains(&shown), "{seen}");
    assert_eq!(curl(&stranger, shown.into(), 8080), format!("{} 8080", stranger.v6));
    assert!(gateway.bindings().is_empty());
}

#[test]
fn n5_peers_of_a_listed_prefix_may_call_back() {
    let lab = Lab::new(Plan::gateways(1).servers(3));
    let (terminal, called, friend, stranger) = (lab.terminal(1), lab.server(1), lab.server(2), lab.server(3));
    let list = format!("{}/32,192.0.2.0/24", friend.v4);
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1), "--callback", &list]);
    let (_web, _back) = (Web::start(&called, 80), Web::start(&terminal, 8080));
    curl(&terminal, called.v4.into(), 80);
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());

    curl(&friend, virtual_ip, 8080);
    curl(&called, virtual_ip, 8080);
    curl_in_vain(&stranger, virtual_ip, 8080);
}

#[test]
fn n6_the_pair_outlives_the_connection_that_both_ends_closed() {
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _back = Web::start(&terminal, 8080);
    let listener = listen(&server, 4000);
    let mut call = connect(&terminal, SocketAddr::new(server.v4.into(), 4000));
    let (mut accepted, virtual_ip) = accept(&listener);
    call.write_all(b"hello").unwrap();
    accepted.read_exact(&mut [0; 5]).unwrap();
    drop(accepted);
    assert_eq!(call.read(&mut [0; 1]).unwrap(), 0, "the server closes");
    drop((call, listener));
    wait_until_closed(&terminal, server.v4.into());
    wait_until_closed(&server, virtual_ip);

    assert_eq!(gateway.virtual_ip(terminal.v4.into()), virtual_ip);
    curl(&server, virtual_ip, 8080);
}

#[test]
fn n6_the_pair_outlives_a_connection_that_was_reset() {
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _back = Web::start(&terminal, 8080);
    curl_in_vain(&terminal, server.v4.into(), 81);

    let seen = curl(&server, gateway.virtual_ip(terminal.v4.into()), 8080);

    assert_eq!(seen, format!("{} 8080", server.v4));
}

#[test]
fn n7_a_virtual_ip_without_a_pair_delivers_nothing() {
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let (_web, _back) = (Web::start(&server, 80), Web::start(&terminal, 8080));
    curl(&terminal, server.v4.into(), 80);
    let pair = gateway.virtual_ip(terminal.v4.into());
    let unused = if pair == IpAddr::from([198, 18, 1, 77]) { [198, 18, 1, 78] } else { [198, 18, 1, 77] };
    let inside = Capture::start(&gateway.host, "gi");

    curl_in_vain(&server, unused.into(), 8080);

    assert!(gateway.dropped("no_binding") > 0);
    let inside = inside.finish();
    assert!(!inside.has_address(server.v4.into()), "nothing of it went inside");
}

#[test]
fn n7_ports_are_kept_in_both_directions() {
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let to = SocketAddr::new(server.v4.into(), 5001);
    let at_server = server.inside(|| udp_socket(to, 5001));
    let at_terminal = terminal.inside(|| udp_socket(to, 40_123));
    for socket in [&at_server, &at_terminal] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    at_terminal.send_to(b"call", to).unwrap();
    let (_, from) = at_server.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(from, SocketAddr::new(gateway.virtual_ip(terminal.v4.into()), 40_123));
    at_server.send_to(b"back", from).unwrap();
    let (_, from) = at_terminal.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(from, to);
}

#[test]
fn n7_the_same_terminal_gets_the_same_virtual_ip_again() {
    let lab = Lab::new(Plan::gateways(1).terminals(2).servers(2));
    let gateway = lab.start(1);
    let _webs = [Web::start(&lab.server(1), 80), Web::start(&lab.server(2), 80)];
    let seen = |terminal, server| curl(&lab.terminal(terminal), lab.server(server).v4.into(), 80);

    let first = seen(1, 1);
    let other = seen(2, 1);

    assert_ne!(first, other, "terminals do not share");
    assert_eq!(seen(1, 1), first);
    assert_eq!(seen(1, 2), first);
    assert_eq!(seen(2, 2), other);
    assert_eq!(gateway.bindings().len(), 2);
}

#[test]
fn n7_after_a_release_the_virtual_ip_delivers_nothing() {
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let (_web, _back) = (Web::start(&server, 80), Web::start(&terminal, 8080));
    curl(&terminal, server.v4.into(), 80);
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());

    gateway.ask(&format!("bindings release {}", terminal.v4)).ok();

    curl_in_vain(&server, virtual_ip, 8080);
    let seen = curl(&terminal, server.v4.into(), 80);
    assert_ne!(seen, format!("{virtual_ip} 80"), "in quarantine it belongs to nobody");
}

#[test]
fn n7_a_pinned_terminal_has_the_virtual_ip_it_was_pinned_to() {
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _web = Web::start(&server, 80);

    gateway.ask(&format!("bindings pin {} 198.18.1.200", terminal.v4)).ok();

    assert_eq!(curl(&terminal, server.v4.into(), 80), "198.18.1.200 80");
    let shown = gateway.ask("bindings show 198.18.1.200").ok();
    assert!(shown.contains(&terminal.v4.to_string()), "{shown}");
}

#[test]
fn n12_netcat_by_tcp_and_udp() {
    need("ncat", "ncat");
    let (lab, _gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    for udp in ["", "-u"] {
        let listening = server.spawn("ncat", &["sh", "-c", &format!("exec ncat {udp} -l 7000 -e /bin/cat")]);
        wait_until("ncat to listen", || !server.run("ss -Htuln 'sport = 7000'").ok().trim().is_empty());
        // The client keeps its input open until the answer is there.
        let answer = lab.scratch().join(format!("answer{udp}"));
        let script = format!(
            "(echo question; until grep -q . {0}; do sleep 0.02; done) | timeout 15 ncat {udp} {1} 7000 > {0} & \
             until grep -q . {0}; do sleep 0.02; done; kill $!; cat {0}",
            answer.display(),
            server.v4
        );
        assert_eq!(
            terminal.run(&format!("timeout 15 sh -c '{script}' 2> /dev/null")).ok().trim(),
            "question",
            "ncat {udp}"
        );
        drop(listening);
        wait_until("ncat to end", || server.run("ss -Htuln 'sport = 7000'").ok().trim().is_empty());
    }
}

#[test]
fn n12_iperf3_which_opens_two_connections_and_reverses() {
    need("iperf3", "iperf3");
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _servers = [&server, &terminal].map(|host| {
        let background = host.spawn("iperf3", &["iperf3", "-s"]);
        wait_until("iperf3 to listen", || !host.run("ss -Htln 'sport = 5201'").ok().trim().is_empty());
        background
    });
    terminal.run(&format!("iperf3 -c {} -n 4M", server.v4)).ok();
    terminal.run(&format!("iperf3 -c {} -n 4M -R", server.v4)).ok();
    terminal.run(&format!("iperf3 -c {} -n 1M -u -b 0", server.v4)).ok();
    server.run(&format!("iperf3 -c {} -n 4M", gateway.virtual_ip(terminal.v4.into()))).ok();
}

#[test]
fn n12_a_protocol_nobody_has_heard_of() {
    need("socat", "socat");
    let (lab, gateway) = one_gateway();
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let wire = Capture::start(&server, "eth0");
    terminal.run(&format!("echo experimental | socat -u STDIN IP4-SENDTO:{}:253", server.v4)).ok(); // RFC 3692
    wait_until("the packet", || wire.packets().has_bytes(b"experimental"));
    let packets = wire.finish();
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());
    let IpAddr::V4(virtual_ip) = virtual_ip else { panic!("{virtual_ip}") };
    assert!(packets.between(virtual_ip, server.v4).any(|ip| ip[9] == 253));
}
