//! Single requirements of RFC 4787, 5382 and 5508 that need packets no ordinary program sends, or two kernels that
//! disagree for a moment.

use crate::crafted::{ICMP, ICMPV6, Ip};
use crate::crossing::Crossing;
use crate::lab::{Family, Host, wait_until};
use crate::traffic::{accept, connect, listen};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect as connect_socket, ipproto, socket_with};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

const ACK: u8 = 0x10;

// --- ICMP, RFC 5508 -----------------------------------------------------------------------------------------------

/// Echo, timestamp, information and address mask: requests go out, replies come back, identifiers stay (RFC 5508 REQ-1).
fn queries(family: Family) {
    let mut crossing = Crossing::new(family);
    let kinds: &[(u8, u8)] = match family {
        Family::V4 => &[(8, 0), (13, 14), (15, 16), (17, 18)],
        Family::V6 => &[(128, 129)],
    };
    let (out, back) = (crossing.out(), crossing.back());
    for (n, (request, reply)) in (0u8..).zip(kinds) {
        let word = [0xa5, n, 0x12, 0x34]; // identifier and sequence number
        let query = |(from, to), kind| Ip::icmp(from, to, kind, 0, word, b"twelve bytes");
        crossing.passes_out(&[query(out, *request)]);
        crossing.passes_back(&[query(back, *reply)]);
        crossing.passes_back(&[query(back, *request)]);
        crossing.passes_out(&[query(out, *reply)]);
    }
}

#[test]
fn i1_queries_pass_both_ways_with_their_identifier() {
    queries(Family::V4);
}

#[test]
fn i1_queries_pass_both_ways_with_their_identifier_v6() {
    queries(Family::V6);
}

/// An unreachable error, about a UDP datagram, as long as the datagram or cut off after `quoted` bytes.
fn error(from: IpAddr, to: IpAddr, about: &Ip, quoted: usize) -> Ip {
    let quote = about.bytes();
    let quote = &quote[..quoted.min(quote.len())];
    let kind = if from.is_ipv4() { 3 } else { 1 };
    Ip::icmp(from, to, kind, 3, [0; 4], quote)
}

/// Errors about packets of either direction, from the ends: the quote on the other side is, byte for byte, the packet
/// that side had sent or seen (RFC 5508 REQ-4 and 5).
fn errors_from_the_ends(family: Family) {
    let mut crossing = Crossing::new(family);
    let (terminal, server, virtual_ip) = (crossing.out().0, crossing.out().1, crossing.virtual_ip);
    let datagram = |(from, to)| Ip::udp(from, to, (40_000, 5000), b"to a port where nobody listens");
    for options in [Vec::new(), vec![1; 20]] {
        let options = if family == Family::V4 { options } else { Vec::new() };
        let of = |ends| Ip { options: options.clone(), ..datagram(ends) };
        // Whole, with eight bytes of payload (RFC 792), and cut inside the UDP header.
        let header = of((terminal, server)).bytes().len() - 38;
        for quoted in [usize::MAX, header + 8, header + 6] {
            crossing.outside.send(&error(server, virtual_ip, &of((virtual_ip, server)), quoted).bytes());
            let mut wanted = error(server, terminal, &of((terminal, server)), quoted);
            wanted.hops -= 1;
            crossing.arrives_at_terminal(wanted.bytes());

            crossing.inside.send(&error(terminal, server, &of((server, terminal)), quoted).bytes());
            let mut wanted = error(virtual_ip, server, &of((server, virtual_ip)), quoted);
            wanted.hops -= 1;
            crossing.arrives_at_server(wanted.bytes());
        }
    }
    crossing.binding_stands();
    crossing.nothing_leaked();
}

#[test]
fn i4_i5_t9_errors_are_restored_to_the_byte() {
    errors_from_the_ends(Family::V4);
}

#[test]
fn i4_i5_t9_errors_are_restored_to_the_byte_v6() {
    errors_from_the_ends(Family::V6);
}

/// An error that carries RFC 4884 extensions behind the quote: they stay as they are, and every sum is right.
#[test]
fn i3_extensions_behind_the_quote_are_left_alone() {
    let mut crossing = Crossing::new(Family::V4);
    let (terminal, server, virtual_ip) = (crossing.out().0, crossing.out().1, crossing.virtual_ip);
    let with_extension = |from, to, about: Ip| {
        let mut quote = about.bytes();
        quote.resize(128, 0); // RFC 4884 §5.1: padded to 128 bytes, 32 words
        // Version 2, checksum of the extension (not ours to judge), and an MPLS label stack object (RFC 4950).
        let extension = [0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 0x00, 0x3e, 0x81, 0x01];
        Ip::icmp(from, to, 11, 0, [0, 32, 0, 0], &[&quote[..], &extension].concat())
    };
    let datagram = |from, to| Ip::udp(from, to, (40_000, 5000), b"on its way");
    crossing.outside.send(&with_extension(server, virtual_ip, datagram(virtual_ip, server)).bytes());
    let wanted = with_extension(server, terminal, datagram(terminal, server));
    crossing.arrives_at_terminal(Ip { hops: 63, ..wanted }.bytes());
    crossing.inside.send(&with_extension(terminal, server, datagram(server, terminal)).bytes());
    let wanted = with_extension(virtual_ip, server, datagram(server, virtual_ip));
    crossing.arrives_at_server(Ip { hops: 63, ..wanted }.bytes());
}

/// RFC 1122 §3.2.2: an error about an error is nobody's; what it quotes of a quote would show the inside.
#[test]
fn n8_an_error_about_an_error_is_dropped() {
    let mut crossing = Crossing::new(Family::V4);
    let (terminal, server) = crossing.out();
    let before = crossing.gateway().dropped("icmp_error_unrelated");
    let quoted = error(server, terminal, &Ip::udp(terminal, server, (40_000, 5000), b"inside"), usize::MAX);
    crossing.inside.send(&error(terminal, server, &quoted, usize::MAX).bytes());
    wait_until("the drop", || crossing.gateway().dropped("icmp_error_unrelated") == before + 1);
    crossing.nothing_leaked();
}

/// RFC 5837: a router inside that says by which interface, with which address, the packet came.
#[test]
fn n8_an_extension_with_an_interface_of_the_inside_leaves_blank() {
    let mut crossing = Crossing::new(Family::V4);
    let (terminal, server, virtual_ip) = (crossing.out().0, crossing.out().1, crossing.virtual_ip);
    let with_interface = |from, to, about: Ip, object: [u8; 12], sum: [u8; 2]| {
        let mut quote = about.bytes();
        quote.resize(128, 0);
        let extension = [&[0x20, 0, sum[0], sum[1]][..], &object].concat();
        Ip::icmp(from, to, 11, 0, [0, 32, 0, 0], &[&quote[..], &extension].concat())
    };
    let datagram = |from, to| Ip::udp(from, to, (40_000, 5000), b"on its way");
    // Interface information: the incoming one, address 10.0.0.200; the sums are those of these bytes.
    let told = [0, 12, 2, 4, 0, 1, 0, 0, 10, 0, 0, 200];
    let blank = [0, 12, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    crossing.inside.send(&with_interface(terminal, server, datagram(server, terminal), told, [0xd3, 0x26]).bytes());
    let wanted = with_interface(virtual_ip, server, datagram(server, virtual_ip), blank, [0xdd, 0xf3]);
    crossing.arrives_at_server(Ip { hops: 63, ..wanted }.bytes());
}

/// An error about a later fragment: its quote has no ports, and needs none.
fn about_a_fragment(family: Family) {
    let mut crossing = Crossing::new(family);
    let (terminal, server, virtual_ip) = (crossing.out().0, crossing.out().1, crossing.virtual_ip);
    let later = |from, to| Ip::udp(from, to, (40_000, 5000), &[7; 3000]).fragment_of(&[7; 64], 1400, true);
    crossing.outside.send(&error(server, virtual_ip, &later(virtual_ip, server), usize::MAX).bytes());
    crossing
        .arrives_at_terminal(Ip { hops: 63, ..error(server, terminal, &later(terminal, server), usize::MAX) }.bytes());
    crossing.inside.send(&error(terminal, server, &later(server, terminal), usize::MAX).bytes());
    crossing.arrives_at_server(
        Ip { hops: 63, ..error(virtual_ip, server, &later(server, virtual_ip), usize::MAX) }.bytes(),
    );
}

#[test]
fn i4_i5_errors_about_later_fragments() {
    about_a_fragment(Family::V4);
}

#[test]
fn i4_i5_errors_about_later_fragments_v6() {
    about_a_fragment(Family::V6);
}

/// RFC 5508 REQ-3: an error with a wrong checksum is dropped; that of the packet it quotes is nobody's business.
fn checksums_of_errors(family: Family) {
    let mut crossing = Crossing::new(family);
    let (terminal, server, virtual_ip) = (crossing.out().0, crossing.out().1, crossing.virtual_ip);
    let datagram = |from, to| Ip::udp(from, to, (40_000, 5000), b"quoted");
    let spoil = |packet: Ip| {
        let mut bytes = packet.bytes();
        let at = bytes.len() - packet.payload.len() + 2;
        bytes[at] ^= 0x10;
        bytes
    };
    let before = crossing.gateway().dropped("icmp_checksum");
    crossing.outside.send(&spoil(error(server, virtual_ip, &datagram(virtual_ip, server), usize::MAX)));
    crossing.inside.send(&spoil(error(terminal, server, &datagram(server, terminal), usize::MAX)));
    wait_until("two drops", || crossing.gateway().dropped("icmp_checksum") == before + 2);

    let wrong_inside = |from, to| Ip { checksum: None, payload: wrong_udp(), ..datagram(from, to) };
    crossing.outside.send(&error(server, virtual_ip, &wrong_inside(virtual_ip, server), usize::MAX).bytes());
    wait_until("the error at the terminal", || crossing.seen_anywhere(b"judge!")[1]);
    assert_eq!(crossing.gateway().dropped("icmp_checksum"), before + 2);
    crossing.binding_stands();
    crossing.nothing_leaked();
}

/// A UDP header whose checksum is that of nothing.
fn wrong_udp() -> Vec<u8> {
    vec![0x9c, 0x40, 0x13, 0x88, 0, 14, 0xba, 0xad, b'j', b'u', b'd', b'g', b'e', b'!']
}

#[test]
fn i3_only_the_errors_own_checksum_is_judged() {
    checksums_of_errors(Family::V4);
}

#[test]
fn i3_only_the_errors_own_checksum_is_judged_v6() {
    checksums_of_errors(Family::V6);
}

/// An error of a router that has no virtual IP goes out with the gateway's own address (RFC 5508 REQ-5c), one of a
/// terminal that has one with that: traceroute shows the former, the ends' own errors the latter.
fn sender_of_errors(family: Family) {
    let mut crossing = Crossing::new(family);
    let (server, virtual_ip, terminal) = (crossing.out().1, crossing.virtual_ip, crossing.out().0);
    let gateway = crossing.gateway().host.address(family);
    let router: IpAddr = match family {
        Family::V4 => "10.77.143.200".parse().unwrap(),
        Family::V6 => "fd5a:77e1:9c0d::b0:200".parse().unwrap(),
    };
    let datagram = |from, to| Ip::udp(from, to, (40_000, 5000), b"on its way in");
    crossing.inside.send(&error(router, server, &datagram(server, terminal), usize::MAX).bytes());
    let wanted = error(gateway, server, &datagram(server, virtual_ip), usize::MAX);
    crossing.arrives_at_server(Ip { hops: 63, ..wanted }.bytes());
    assert_eq!(crossing.gateway().bindings().len(), 1, "an error makes no binding");
    crossing.nothing_leaked();
}

#[test]
fn i5_an_inside_router_is_shown_by_the_gateways_address() {
    sender_of_errors(Family::V4);
}

#[test]
fn i5_an_inside_router_is_shown_by_the_gateways_address_v6() {
    sender_of_errors(Family::V6);
}

/// Every type and code there is, about the established connection, from both ends: the connection goes on, the binding
/// stands, and its times are not touched (RFC 5508 REQ-6, RFC 4787 REQ-12, RFC 5382 REQ-10).
fn errors_end_nothing(family: Family) {
    let mut crossing = Crossing::new(family);
    let (terminal, server, virtual_ip) = (crossing.out().0, crossing.out().1, crossing.virtual_ip);
    let listener = listen(&crossing.server, 4000);
    let mut call = connect(&crossing.terminal, SocketAddr::new(server, 4000));
    let (mut accepted, _) = accept(&listener);
    talk(&mut call, &mut accepted);
    let ports = (call.local_addr().unwrap().port(), 4000);
    let before = crossing.gateway().binding(terminal);
    let segment = |from, to, ports| Ip::tcp(from, to, ports, 0x1234_5678, ACK, b"");
    let kinds: Vec<(u8, u8)> = match family {
        Family::V4 => (0..16).map(|code| (3, code)).chain([(4, 0), (11, 0), (11, 1), (12, 0)]).collect(),
        Family::V6 => (0..8).map(|code| (1, code)).chain([(2, 0), (3, 0), (3, 1), (4, 0), (4, 1)]).collect(),
    };
    for (kind, code) in kinds {
        let size = [0, 0, 0x05, 0xdc]; // an MTU of 1,500, where the type has one
        let about = segment(virtual_ip, server, ports).bytes();
        crossing.outside.send(&Ip::icmp(server, virtual_ip, kind, code, size, &about).bytes());
        let about = segment(terminal, server, ports).bytes();
        let wanted = Ip::icmp(server, terminal, kind, code, size, &about);
        crossing.arrives_at_terminal(Ip { hops: 63, ..wanted }.bytes());

        let back = (ports.1, ports.0);
        let about = segment(server, terminal, back).bytes();
        crossing.inside.send(&Ip::icmp(terminal, server, kind, code, size, &about).bytes());
        let about = segment(server, virtual_ip, back).bytes();
        let wanted = Ip::icmp(virtual_ip, server, kind, code, size, &about);
        crossing.arrives_at_server(Ip { hops: 63, ..wanted }.bytes());
    }
    let after = crossing.gateway().binding(terminal);
    for key in ["created", "virtual_ip", "state", "contacts"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    talk(&mut call, &mut accepted);
    crossing.binding_stands();
}

#[test]
fn r12_i6_t10_errors_of_every_kind_end_no_binding_and_no_connection() {
    errors_end_nothing(Family::V4);
}

#[test]
fn r12_i6_t10_errors_of_every_kind_end_no_binding_and_no_connection_v6() {
    errors_end_nothing(Family::V6);
}

fn talk(a: &mut TcpStream, b: &mut TcpStream) {
    let mut heard = [0; 9];
    a.write_all(b"are you t").unwrap();
    b.read_exact(&mut heard).unwrap();
    b.write_all(b"here? yes").unwrap();
    a.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"here? yes");
}

/// An error about a packet that nobody sent, one that names strangers, one cut off before it says whom it is about.
fn unrelated_errors(family: Family) {
    let mut crossing = Crossing::new(family);
    let (terminal, server, virtual_ip) = (crossing.out().0, crossing.out().1, crossing.virtual_ip);
    let stranger = Ip::udp(server, virtual_ip, (1, 2), b"a packet the other way round");
    crossing.refuses(&[error(server, virtual_ip, &stranger, usize::MAX)], "icmp_error_unrelated");
    let about = Ip::udp(virtual_ip, server, (40_000, 5000), b"cut");
    crossing.refuses(&[error(server, virtual_ip, &about, 12)], "icmp_error_truncated");
    let about = Ip::udp(server, terminal, (5000, 40_000), b"cut");
    crossing.refuses(&[error(terminal, server, &about, 12)], "icmp_error_truncated");
    crossing.binding_stands();
    crossing.nothing_leaked();
}

#[test]
fn i4_errors_about_nothing_sent_here_are_dropped_by_name() {
    unrelated_errors(Family::V4);
}

#[test]
fn i4_errors_about_nothing_sent_here_are_dropped_by_name_v6() {
    unrelated_errors(Family::V6);
}

/// An error that says it comes from a terminal, or from a virtual IP: nobody outside has such an address.
fn forged_errors(family: Family) {
    let mut crossing = Crossing::new(family);
    let (terminal, server, virtual_ip) = (crossing.out().0, crossing.out().1, crossing.virtual_ip);
    let about = Ip::udp(virtual_ip, server, (40_000, 5000), b"on its way");
    for sender in [terminal, virtual_ip] {
        let before = crossing.gateway().dropped("spoofed_source");
        crossing.outside.send(&error(sender, virtual_ip, &about, usize::MAX).bytes());
        wait_until("it to be refused", || crossing.gateway().dropped("spoofed_source") == before + 1);
    }
    crossing.binding_stands();
    assert!(!crossing.seen_anywhere(b"on its way")[1], "the terminal heard of it");
}

#[test]
fn s_errors_from_outside_with_an_inside_source_reach_no_terminal() {
    forged_errors(Family::V4);
}

#[test]
fn s_errors_from_outside_with_an_inside_source_reach_no_terminal_v6() {
    forged_errors(Family::V6);
}

/// Redirects and neighbour discovery are about one link, and never cross a gateway.
#[test]
fn i10_redirects_are_not_translated() {
    let mut crossing = Crossing::new(Family::V4);
    let (out, back) = (crossing.out(), crossing.back());
    let about = Ip::udp(out.0, out.1, (40_000, 5000), b"x").bytes();
    let redirect = |(from, to)| Ip::new(from, to, ICMP, &[&[5, 1, 0, 0, 10, 77, 143, 99][..], &about].concat());
    crossing.refuses(&[redirect(out), redirect(back)], "not_unicast");
}

#[test]
fn i10_neighbour_discovery_is_not_translated_v6() {
    let mut crossing = Crossing::new(Family::V6);
    let (out, back) = (crossing.out(), crossing.back());
    let packets: Vec<Ip> = [out, back]
        .into_iter()
        .flat_map(|(from, to)| {
            (133..=137).map(move |kind| Ip::new(from, to, ICMPV6, &[&[kind; 1][..], &[0; 39]].concat()))
        })
        .collect();
    crossing.refuses(&packets, "not_unicast");
}

// --- TCP, RFC 5382 ------------------------------------------------------------------------------------------------

/// A TCP socket bound to `port` that connects to `to`, in a thread inside `host`.
fn connect_from(host: &Host, port: u16, to: SocketAddr) -> rustix::io::Result<TcpStream> {
    host.inside(|| {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
        let any: IpAddr = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        bind(&socket, &SocketAddr::new(any, port))?;
        connect_socket(&socket, &to)?;
        Ok(TcpStream::from(socket))
    })
}

/// Both ends connect from the port the other one connects to; neither listens. The first SYN of each is lost just
/// before the other end, so that both are in SYN-SENT when the next ones arrive (RFC 9293 §3.5, figure 8).
fn simultaneous_open(family: Family) {
    let crossing = Crossing::unwatched(family);
    let (terminal, server, virtual_ip) = (crossing.out().0, crossing.out().1, crossing.virtual_ip);
    let block = "nft 'add table inet once; add chain inet once in { type filter hook input priority 0; }; \
                 add rule inet once in tcp flags & (syn|ack) == syn counter drop'";
    let ends = [
        (&crossing.terminal, 41_000, SocketAddr::new(server, 42_000)),
        (&crossing.server, 42_000, SocketAddr::new(virtual_ip, 41_000)),
    ];
    for (host, ..) in ends {
        host.run(block).ok();
    }
    let dropped = |host: &Host| !host.run("nft list table inet once").ok().contains("packets 0");
    let mut streams = std::thread::scope(|scope| {
        let threads = ends.map(|(host, port, to)| scope.spawn(move || connect_from(host, port, to)));
        wait_until("both SYNs to be lost", || ends.iter().all(|(host, ..)| dropped(host)));
        for (host, ..) in ends {
            host.run("nft delete table inet once").ok();
        }
        threads.map(|thread| thread.join().unwrap().unwrap())
    });
    let [at_terminal, at_server] = &mut streams;
    assert_eq!(at_terminal.peer_addr().unwrap(), SocketAddr::new(server, 42_000));
    assert_eq!(at_server.peer_addr().unwrap(), SocketAddr::new(virtual_ip, 41_000));
    for stream in [&*at_terminal, &*at_server] {
        stream.set_read_timeout(Some(crate::lab::DEADLINE)).unwrap();
    }
    talk(at_terminal, at_server);
    assert_ne!(terminal, virtual_ip);
}

#[test]
fn t2_simultaneous_open() {
    crate::lab::need("nft", "nftables");
    simultaneous_open(Family::V4);
}

#[test]
fn t2_simultaneous_open_v6() {
    crate::lab::need("nft", "nftables");
    simultaneous_open(Family::V6);
}

/// Sequences of flags, each valid in some state of RFC 9293 or used by some stack, in both directions: nobody in the
/// middle keeps a state that they could offend.
fn every_flag(family: Family) {
    let mut crossing = Crossing::new(family);
    let segments = |(from, to): (IpAddr, IpAddr), ports| -> Vec<Ip> {
        let sequence = [0x02, 0x12, 0x10, 0x18, 0x11, 0x01, 0x04, 0x14, 0x30, 0x00, 0xc2, 0x52];
        (0u32..).zip(sequence).map(|(n, flags)| Ip::tcp(from, to, ports, n << 28, flags, &[flags])).collect()
    };
    let out = segments(crossing.out(), (41_000, 42_000));
    crossing.passes_out(&out);
    let back = segments(crossing.back(), (42_000, 41_000));
    crossing.passes_back(&back);
    crossing.binding_stands();
}

#[test]
fn t2_segments_of_every_kind_pass_in_any_order() {
    every_flag(Family::V4);
}

#[test]
fn t2_segments_of_every_kind_pass_in_any_order_v6() {
    every_flag(Family::V6);
}

/// A SYN to a virtual IP that its terminal will not answer for: nothing comes back within the six seconds that
/// RFC 5382 REQ-4 asks for, not from the gateway's kernel either.
#[test]
fn t4_an_unsolicited_syn_is_met_with_silence() {
    let mut crossing = Crossing::new(Family::V4);
    let stranger: IpAddr = Ipv4Addr::new(203, 0, 113, 77).into();
    let free: IpAddr = match crossing.virtual_ip {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() ^ 1).into(),
        IpAddr::V6(_) => unreachable!(),
    };
    let to_binding = Ip::tcp(stranger, crossing.virtual_ip, (1, 80), 1, 0x02, b"");
    let to_nobody = Ip::tcp(stranger, free, (1, 80), 1, 0x02, b"");
    crossing.refuses(&[to_binding], "not_contacted");
    crossing.refuses(&[to_nobody], "no_binding");
    std::thread::sleep(std::time::Duration::from_secs(6)); // the requirement is about time
    assert!(crossing.nothing_from_gateway_to(stranger), "no reset, no ICMP");
}
