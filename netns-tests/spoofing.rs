//! What pretends to be somebody else, what is exempt from translation, and the gateway's own services between them.

use crate::capture::Capture;
use crate::crafted::{Ip, Line};
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Plan, wait_until};
use crate::privacy::router;
use crate::traffic::{Echo, Web, ask_udp, curl, curl_in_vain};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{MutableIpv4Packet, checksum};
use pnet::transport::{TransportChannelType, transport_channel};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Sends a UDP datagram (port 4000 to 5000, no checksum) with any source; the host's routes say where to.
fn forge(host: &Host, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) {
    let length = u16::try_from(28 + payload.len()).unwrap();
    let mut bytes = vec![0; length.into()];
    bytes[20..22].copy_from_slice(&4000_u16.to_be_bytes());
    bytes[22..24].copy_from_slice(&5000_u16.to_be_bytes());
    bytes[24..26].copy_from_slice(&(length - 20).to_be_bytes());
    bytes[28..].copy_from_slice(payload);
    let mut packet = MutableIpv4Packet::new(&mut bytes).unwrap();
    packet.set_version(4);
    packet.set_header_length(5);
    packet.set_total_length(length);
    packet.set_ttl(64);
    packet.set_next_level_protocol(IpNextHeaderProtocols::Udp);
    packet.set_source(source);
    packet.set_destination(destination);
    packet.set_checksum(checksum(&packet.to_immutable()));
    host.inside(|| {
        let (mut sender, _) =
            transport_channel(4096, TransportChannelType::Layer3(IpNextHeaderProtocols::Udp)).unwrap();
        sender.send_to(packet, destination.into()).unwrap();
    });
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address}"),
    }
}

/// Terminal 1 has called server 1.
fn called(lab: &Lab, gateway: &Gateway) -> Ipv4Addr {
    let _echo = Echo::start(&lab.server(1), 5000);
    let to = SocketAddr::new(lab.server(1).v4.into(), 5000);
    assert!(ask_udp(&lab.terminal(1), to, b"call", Duration::from_secs(5)).is_some());
    v4(gateway.virtual_ip(lab.terminal(1).v4.into()))
}

#[test]
fn s_sources_that_cannot_be_inside_do_not_leave() {
    let lab = Lab::new(Plan::gateways(1).terminals(2));
    router(&lab);
    let gateway = lab.start(1);
    let virtual_ip = called(&lab, &gateway);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let wire = Capture::start(&server, "eth0");
    let forged = [
        Ipv4Addr::new(198, 18, 1, 99), // a pool's
        virtual_ip,                    // its own virtual IP
        lab.gateway(1).v4,             // the gateway's outside
        lab.gateway_inside(1).0,       // the gateway's inside
        server.v4,                     // the peer itself
        Ipv4Addr::new(192, 0, 2, 7),   // anybody's
        Ipv4Addr::new(127, 0, 0, 1),   // nobody's (RFC 1122)
        Ipv4Addr::new(169, 254, 7, 7), // a link's (RFC 3927)
        Ipv4Addr::new(224, 0, 0, 9),   // a group's
        Ipv4Addr::BROADCAST,
    ];
    for (number, source) in forged.into_iter().enumerate() {
        forge(&terminal, source, server.v4, format!("forged {number}").as_bytes());
    }
    forge(&terminal, terminal.v4, server.v4, b"honest");
    wait_until("the honest one", || wire.packets().has_bytes(b"honest"));
    let wire = wire.finish();
    assert!(!wire.has_bytes(b"forged"), "a forged source left");
    assert!(gateway.dropped("spoofed_source") >= 2, "the pool's: {}", gateway.status());
    assert!(gateway.dropped("source_not_inside") >= 1, "anybody's: {}", gateway.status());
    assert_eq!(gateway.bindings().len(), 1, "and none made a binding");
}

/// Whatever interface of the gateway an address stands on, and the one that all routers of an IPv6 network have.
#[test]
fn s_a_terminal_that_pretends_to_be_the_gateway_gets_no_binding() {
    let lab = Lab::new(Plan::gateways(1));
    let (host, terminal, server) = (router(&lab), lab.terminal(1), lab.server(1));
    host.run(
        "ip link add third type bridge && ip link set third up && ip address add 10.77.143.200/32 dev third && \
              ip address add fd5a:77e1:9c0d::b0:c8/128 dev third",
    )
    .ok();
    let gateway = lab.start(1);
    let wire = Capture::start(&server, "eth0");
    let (inside_v4, inside_v6) = lab.gateway_inside(1);
    let anycast = "fd5a:77e1:9c0d::".parse().unwrap();
    let third = ["10.77.143.200", "fd5a:77e1:9c0d::b0:c8"].map(|text| text.parse::<IpAddr>().unwrap());
    let own = [inside_v4.into(), inside_v6.into(), host.v4.into(), host.v6.into(), anycast];
    let mut line = Line::new(&terminal, "eth0", &host, "gi");
    let mut send = |from: IpAddr, text: &[u8]| {
        let to = if from.is_ipv4() { IpAddr::from(server.v4) } else { server.v6.into() };
        line.send(&Ip::udp(from, to, (4000, 5000), text).bytes());
    };
    for from in own.into_iter().chain(third) {
        send(from, b"forged");
    }
    for from in [IpAddr::from(terminal.v4), terminal.v6.into()] {
        send(from, format!("honest {from}").as_bytes());
        wait_until("the honest one", || wire.packets().has_bytes(format!("honest {from}").as_bytes()));
    }
    assert!(!wire.finish().has_bytes(b"forged"), "a forged source left");
    assert_eq!(gateway.bindings().len(), 2, "one a family: {:?}", gateway.bindings());
}

/// Two servers that know each other only through the gateway, which forwards between them.
#[test]
fn s_inside_sources_from_outside_are_not_forwarded() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let host = router(&lab);
    let _gateway = lab.start(1);
    let (first, second) = (lab.server(1), lab.server(2));
    let beyond = Ipv4Addr::new(198, 51, 100, 7);
    first.run(&format!("ip route add {beyond} via {}", host.v4)).ok();
    host.run(&format!("ip route add {beyond} via {}", second.v4)).ok();
    let wire = Capture::start(&second, "eth0");
    forge(&first, lab.terminal(1).v4, beyond, b"forged: a terminal");
    forge(&first, lab.gateway_inside(1).0, beyond, b"forged: the gateway");
    forge(&first, first.v4, beyond, b"honest");
    wait_until("the honest one", || wire.packets().has_bytes(b"honest"));
    assert!(!wire.finish().has_bytes(b"forged"));
}

/// Nobody outside reaches an inside address, however the packet is made.
#[test]
fn s_inside_addresses_are_closed_to_the_outside() {
    let lab = Lab::new(Plan::gateways(1));
    router(&lab);
    let gateway = lab.start(1);
    called(&lab, &gateway);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let inside = Capture::start(&terminal, "eth0");
    for source in [server.v4, lab.gateway_inside(1).0, Ipv4Addr::new(10, 77, 143, 12), Ipv4Addr::new(198, 18, 1, 99)] {
        forge(&server, source, terminal.v4, b"forged");
    }
    let to = SocketAddr::new(server.v4.into(), 5000);
    ask_udp(&terminal, to, b"end", Duration::from_millis(300));
    assert!(!inside.finish().has_bytes(b"forged"));
}

/// Nor does a virtual IP take what claims to come from the inside or from another virtual IP.
#[test]
fn s_inside_sources_from_outside_reach_no_terminal() {
    let lab = Lab::new(Plan::gateways(1).terminals(2));
    let gateway = lab.start(1);
    let virtual_ip = called(&lab, &gateway);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let inside = Capture::start(&terminal, "eth0");
    let forged = [lab.terminal(2).v4, terminal.v4, lab.gateway_inside(1).0, Ipv4Addr::new(198, 18, 1, 99), virtual_ip];
    for source in forged {
        forge(&server, source, virtual_ip, b"forged");
    }
    forge(&server, server.v4, virtual_ip, b"honest");
    wait_until("the honest one", || inside.packets().has_bytes(b"honest"));
    assert!(!inside.finish().has_bytes(b"forged"));
    assert!(gateway.dropped("spoofed_source") >= 2, "the pool's: {}", gateway.status());
    let counted = gateway.dropped("spoofed_source") + gateway.dropped("not_contacted");
    assert!(counted >= 3, "{}", gateway.status());
}

fn own_services(family: Family) {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server, host) = (lab.terminal(1), lab.server(1), lab.gateway(1));
    let gateway = lab.start(1);
    let _web = Web::start(&host, 80);
    let inside = match family {
        Family::V4 => lab.gateway_inside(1).0.into(),
        Family::V6 => lab.gateway_inside(1).1.into(),
    };
    let outside = host.address(family);
    assert_eq!(curl(&terminal, inside, 80), format!("{} 80", terminal.address(family)));
    assert_eq!(curl(&terminal, outside, 80), format!("{} 80", terminal.address(family)), "its outside address too");
    assert_eq!(curl(&server, outside, 80), format!("{} 80", server.address(family)));
    let wire = Capture::start(&server, "eth0");
    curl_in_vain(&server, inside, 80);
    let packets = wire.finish();
    if let IpAddr::V4(inside) = inside {
        assert_eq!(packets.between(inside, server.v4).count(), 0, "the inside address does not answer outside");
    }
    assert!(gateway.bindings().is_empty(), "none of it was translated");
}

#[test]
fn s_the_gateways_own_services_are_reached_and_not_hijacked() {
    own_services(Family::V4);
}

#[test]
fn s_the_gateways_own_services_are_reached_and_not_hijacked_v6() {
    own_services(Family::V6);
}

fn exempt(family: Family) {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (terminal, friend, stranger) = (lab.terminal(1), lab.server(1), lab.server(2));
    let list = format!("{}/32,{}/128", friend.v4, friend.v6);
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1), "--pool", &Lab::pool_v6(1), "--exempt", &list]);
    let _webs = [Web::start(&friend, 80), Web::start(&stranger, 80), Web::start(&terminal, 8080)];
    let own = terminal.address(family);

    assert_eq!(curl(&terminal, friend.address(family), 80), format!("{own} 80"), "under its own address");
    assert!(gateway.bindings().is_empty());
    assert_eq!(curl(&friend, own, 8080), format!("{} 8080", friend.address(family)), "and called there");
    let wire = Capture::start(&stranger, "eth0");
    assert_ne!(curl(&terminal, stranger.address(family), 80), format!("{own} 80"), "everybody else: translated");
    curl_in_vain(&stranger, own, 8080);
    let wire = wire.finish();
    if family == Family::V4 {
        assert_eq!(wire.between(terminal.v4, stranger.v4).count(), 0);
    }
    // A forged source is not exempt.
    if family == Family::V4 {
        let wire = Capture::start(&friend, "eth0");
        forge(&terminal, Ipv4Addr::new(192, 0, 2, 7), friend.v4, b"forged");
        forge(&terminal, terminal.v4, friend.v4, b"honest");
        wait_until("the honest one", || wire.packets().has_bytes(b"honest"));
        assert!(!wire.finish().has_bytes(b"forged"));
    }
}

#[test]
fn c6_exempt_destinations_go_untranslated_both_ways() {
    exempt(Family::V4);
}

#[test]
fn c6_exempt_destinations_go_untranslated_both_ways_v6() {
    exempt(Family::V6);
}

/// A terminal of a family that has no pool hears so, the operator reads so, and it can be left alone.
#[test]
fn s_a_family_without_a_pool_is_said_answered_and_counted_or_left_alone() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _web = Web::start(&server, 80);
    lab.gateway(1).set_sysctl("net.ipv6.conf.all.forwarding", "1");
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1)]);
    assert!(
        gateway.log().contains("every pool is IPv4: what they send outside in IPv6 is dropped"),
        "{}",
        gateway.log()
    );
    curl(&terminal, server.v4.into(), 80);
    let to = SocketAddr::new(server.v6.into(), 80);
    let refused = terminal.inside(|| std::net::TcpStream::connect_timeout(&to, Duration::from_secs(10))).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "administratively prohibited: {refused}");
    assert!(gateway.status()["drops"]["no_pool"].as_u64().unwrap() > 0);
    let line = format!("binding refused: {} (inside): No pool serves", terminal.v6);
    wait_until("the line", || gateway.log().contains(&line));
    drop(gateway);

    lab.gateway(1).set_sysctl("net.ipv6.conf.all.forwarding", "0");
    for exempt in ["::/0", "::/1,8000::/1"] {
        let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1), "--exempt", exempt]);
        assert_eq!(gateway.log().matches("every pool is").count(), 1, "said by the first alone: {}", gateway.log());
        assert_eq!(curl(&terminal, server.v6.into(), 80), format!("{} 80", terminal.v6), "under its own address");
        assert_ne!(curl(&terminal, server.v4.into(), 80), format!("{} 80", terminal.v4), "translated");
    }
}

/// The narrow link is inside: the exempt peer learns the size, as from any router.
#[test]
fn c6_an_exempt_peer_hears_the_gateways_errors() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, friend) = (lab.terminal(1), lab.server(1));
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1), "--exempt", &format!("{}/32", friend.v4)]);
    gateway.host.run("ip link set gi mtu 1280").ok();
    terminal.run("ip link set eth0 mtu 1280").ok();
    let ran = friend.run(&format!("ping -n -c 3 -i 0.2 -W 2 -M do -s 1400 {}", terminal.v4));
    let said = ran.stdout + &ran.stderr;
    assert!(["mtu = 1280", "mtu=1280"].iter().any(|words| said.contains(words)), "{said}");
}

#[test]
fn s_a_flood_of_made_up_sources_leaves_half_of_the_pool_and_one_command_ends_what_it_made() {
    let lab = Lab::new(Plan::gateways(1).terminals(2));
    let gateway = lab.start_with(1, &["--pool", "198.18.1.0/25"]);
    let (honest, newcomer, server) = (lab.terminal(1), lab.terminal(2), lab.server(1));
    let _web = Web::start(&server, 80);
    let given = curl(&honest, server.v4.into(), 80);
    let [a, b, c, _] = honest.v4.octets();
    for n in 100..200 {
        forge(&honest, Ipv4Addr::new(a, b, c, n), server.v4, b"nobody");
    }
    let waits = |binding: &&Value| binding["answered"] == false && binding["state"] == "active";
    let unanswered = || gateway.bindings().iter().filter(waits).count();
    wait_until("the flood to be over", || unanswered() as u64 + gateway.dropped("unanswered") == 100);
    assert_eq!(unanswered(), 63, "half of the 127 that were left");
    assert_eq!(curl(&honest, server.v4.into(), 80), given, "who was there before goes on");

    let many = format!("bindings release --prefix {a}.{b}.{c}.0/24 --unanswered");
    assert_eq!(gateway.ask(&many).ok(), "63 bindings would be released; --yes does it\n");
    assert_eq!(gateway.ask(&format!("{many} --older-than 1h --yes")).ok(), "0 bindings released\n");
    assert_eq!(gateway.ask(&format!("{many} --yes --json")).ok(), "{\"bindings\":63,\"released\":true}\n");
    assert_eq!(unanswered(), 0);
    curl(&newcomer, server.v4.into(), 80);
    assert_eq!(curl(&honest, server.v4.into(), 80), given);
    assert!(
        !gateway.ask("bindings release").succeeded() && !gateway.ask("bindings release --limit 9 --yes").succeeded()
    );
}

/// A neighbour sends one packet in a terminal's name: whom the terminal has not called itself may call it under `contacted`,
/// and not before an answer under `answered`.
#[test]
fn s_one_packet_in_a_neighbours_name_opens_it_to_nobody_under_answered() {
    for (policy, opens) in [("contacted", true), ("answered", false)] {
        let lab = Lab::new(Plan::gateways(1).terminals(2));
        let pool = Lab::pool_v4(1);
        let start = || lab.start_with(1, &["--pool", &pool, "--callback", policy]);
        let gateway = start();
        let (neighbour, terminal, server) = (lab.terminal(1), lab.terminal(2), lab.server(1));
        let (_web, _back) = (Web::start(&server, 80), Web::start(&terminal, 8080));
        forge(&neighbour, terminal.v4, server.v4, b"in another's name");
        wait_until("the binding", || gateway.knows(terminal.v4.into()));
        let virtual_ip = gateway.virtual_ip(terminal.v4.into());
        if opens {
            curl(&server, virtual_ip, 8080);
            continue;
        }
        curl_in_vain(&server, virtual_ip, 8080);
        assert!(gateway.dropped("not_answered") > 0);
        let asked = gateway.ask(&format!("explain {} {virtual_ip} tcp/8080", server.v4));
        assert!(asked.stdout.contains("has not answered yet"), "{}", asked.stdout);
        // Its own call is answered; from then on the peer may call, also after a restart.
        curl(&terminal, server.v4.into(), 80);
        curl(&server, virtual_ip, 8080);
        let view = gateway.ask(&format!("bindings show {virtual_ip}")).ok();
        assert!(view.contains("1, 1 of them have answered") && view.contains("have answered it (as all)"), "{view}");
        gateway.stop();
        let gateway = start();
        curl(&server, virtual_ip, 8080);
        drop(gateway);
    }
}

/// Each of the first thousand has its line, then twenty a second; of the others there is a sum while they still come.
#[test]
fn s_a_flood_of_bindings_has_a_bounded_log() {
    let lab = Lab::new(Plan::gateways(1));
    let file = "inside = [\"gi\"]\noutside = [\"go\"]\ninside-prefixes = [\"10.9.0.0/16\"]\npool = [{ range = \"198.18.0.0/16\" }]";
    let gateway = lab.start_from_file(1, file);
    let (sender, server) = (lab.terminal(1), lab.server(1));
    let mut line = Line::new(&sender, "eth0", &gateway.host, "gi");
    for n in 0..1500_u16 {
        let [third, fourth] = n.to_be_bytes();
        line.send(&Ip::udp([10, 9, third, fourth].into(), server.v4.into(), (4000, 5000), b"nobody").bytes());
    }
    let made = || gateway.log().matches("binding made").count();
    wait_until("the sum", || gateway.log().contains("and, too many for a line each, in the last second:"));
    assert!((1..=1200).contains(&made()), "{}", made());
}
