//! Fragments: each one crosses by its addresses alone, in whatever order, and what attacks with them is dropped by name.

use crate::crafted::{Ip, TCP};
use crate::crossing::Crossing;
use crate::lab::{Family, wait_until};
use crate::traffic::{Echo, Pattern, accept, ask_udp, connect, expect_pattern, listen, send_pattern, udp_socket};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Pattern::new(length as u64).fill(&mut bytes);
    bytes
}

/// A datagram of 4,000 bytes to port 5000, in pieces of 1,400.
fn datagram((from, to): (IpAddr, IpAddr), id: u16) -> Vec<Ip> {
    Ip { id, ..Ip::udp(from, to, (40_000, 5000), &pattern(4000)) }.fragments(1400)
}

/// Every order of three pieces.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The socket gets the datagram whole: its own kernel put the pieces together and found the checksum right.
#[track_caller]
fn receives(socket: &UdpSocket, from: IpAddr) {
    let mut buffer = vec![0; 65_536];
    let (length, sender) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(sender, SocketAddr::new(from, 40_000));
    assert!(buffer[..length] == pattern(4000), "{length} bytes, or others");
}

fn any_order(family: Family) {
    let mut crossing = Crossing::new(family);
    let open = |host: &crate::lab::Host, peer| {
        let socket = host.inside(|| udp_socket(SocketAddr::new(peer, 5000), 5000));
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let at_server = open(&crossing.server, crossing.out().1);
    let at_terminal = open(&crossing.terminal, crossing.out().1);
    // The checksum in the first piece is one over the whole: what must arrive is the translated datagram, cut alike.
    let (server, terminal) = (crossing.out().1, crossing.out().0);
    let cut =
        |ends, id| datagram(ends, id).into_iter().map(|piece| Ip { hops: 63, ..piece }.bytes()).collect::<Vec<_>>();
    for (id, order) in (1..).zip(ORDERS) {
        let (sent, wanted) = (datagram(crossing.out(), id), cut((crossing.virtual_ip, server), id));
        for n in order {
            crossing.inside.send(&sent[n].bytes());
            crossing.arrives_at_server(wanted[n].clone());
        }
        receives(&at_server, crossing.virtual_ip);
        let (sent, wanted) = (datagram(crossing.back(), id), cut((server, terminal), id));
        for n in order {
            crossing.outside.send(&sent[n].bytes());
            crossing.arrives_at_terminal(wanted[n].clone());
        }
        receives(&at_terminal, server);
    }
    crossing.nothing_leaked();
}

#[test]
fn r14_fragments_pass_in_any_order() {
    any_order(Family::V4);
}

#[test]
fn r14_fragments_pass_in_any_order_v6() {
    any_order(Family::V6);
}

/// Later fragments whose first one never comes go their way, and the next datagram is not harmed.
fn no_first(family: Family) {
    let mut crossing = Crossing::new(family);
    for id in 1..20 {
        let (out, back) = (datagram(crossing.out(), id), datagram(crossing.back(), id));
        crossing.passes_out(&out[1..]);
        crossing.passes_back(&back[1..]);
    }
    let _echo = Echo::start(&crossing.server, 5000);
    let to = SocketAddr::new(crossing.out().1, 5000);
    let whole = pattern(4000);
    assert!(ask_udp(&crossing.terminal, to, &whole, PATIENCE).as_ref() == Some(&whole));
    crossing.binding_stands();
}

#[test]
fn s_later_fragments_without_a_first_one_harm_nothing() {
    no_first(Family::V4);
}

#[test]
fn s_later_fragments_without_a_first_one_harm_nothing_v6() {
    no_first(Family::V6);
}

/// A later fragment says nothing but addresses: it makes no binding, and calls nobody who was not called.
fn no_binding(family: Family) {
    let mut crossing = Crossing::new(family);
    let terminal = crossing.out().0;
    crossing.gateway().ask(&format!("bindings release {terminal}")).ok();
    let (out, back) = (datagram(crossing.out(), 7), datagram(crossing.back(), 7));
    crossing.refuses(&out[1..], "not_a_first_packet");
    crossing.refuses(&back, "no_binding");
    crossing.nothing_leaked();
}

#[test]
fn r14_a_later_fragment_makes_no_binding() {
    no_binding(Family::V4);
}

#[test]
fn r14_a_later_fragment_makes_no_binding_v6() {
    no_binding(Family::V6);
}

/// First fragments that end before the checksum of their transport (RFC 1858 §3: tiny fragments).
fn tiny(family: Family) {
    let mut crossing = Crossing::new(family);
    let mut packets = Vec::new();
    for (from, to) in [crossing.out(), crossing.back()] {
        let tcp = Ip::tcp(from, to, (40_000, 80), 1, 0x02, b"");
        packets.extend([8, 16].map(|length| tcp.fragment_of(&tcp.payload[..length], 0, true)));
        packets.push(tcp.fragment_of(&[], 0, true));
    }
    crossing.refuses(&packets, "tiny_fragment");
    crossing.nothing_leaked();
}

#[test]
fn r14_tiny_first_fragments_are_dropped_by_name() {
    tiny(Family::V4);
}

#[test]
fn r14_tiny_first_fragments_are_dropped_by_name_v6() {
    tiny(Family::V6);
}

/// A first fragment that hides its SYN, and a second one that writes it over the flags (RFC 3128).
#[test]
fn r14_a_tcp_fragment_that_overlaps_the_flags_is_dropped_by_name() {
    let mut crossing = Crossing::new(Family::V4);
    let mut packets = Vec::new();
    for (from, to) in [crossing.out(), crossing.back()] {
        let tcp = Ip::new(from, to, TCP, &[0x02; 16]);
        packets.extend([true, false].map(|more| tcp.fragment_of(&tcp.payload, 8, more)));
    }
    crossing.refuses(&packets, "overlapping_fragment");
    crossing.nothing_leaked();
}

/// Pieces of other protocols at offset 8, and pieces that overlap further on, are for the receiver to judge
/// (RFC 5722 has it drop the whole packet); they pass as they are and break nothing.
fn overlapping(family: Family) {
    let mut crossing = Crossing::new(family);
    let pieces = |(from, to)| {
        let udp = Ip::udp(from, to, (40_000, 5000), &pattern(64));
        [(0, 0..32), (8, 8..40), (16, 0..16), (24, 24..72)].map(|(offset, range): (usize, std::ops::Range<usize>)| {
            let more = range.end < 72;
            udp.fragment_of(&udp.payload[range], offset, more)
        })
    };
    let (out, back) = (pieces(crossing.out()), pieces(crossing.back()));
    // The first piece holds the checksum, which is sealed over the whole: compare the later ones.
    crossing.passes_out(&out[1..]);
    crossing.passes_back(&back[1..]);
    crossing.binding_stands();
}

#[test]
fn r14_overlapping_datagrams_are_left_to_the_receiver() {
    overlapping(Family::V4);
}

#[test]
fn r14_overlapping_datagrams_are_left_to_the_receiver_v6() {
    overlapping(Family::V6);
}

/// Resident memory of the gateway's process, in KiB.
fn resident(crossing: &Crossing) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", crossing.gateway().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Sends later fragments from both ends as fast as it can while `more` says so; counts them.
fn flood(crossing: &mut Crossing, mut more: impl FnMut() -> bool, sent: &AtomicU64) {
    let out = Ip::udp(crossing.out().0, crossing.out().1, (1, 2), &pattern(64));
    let back = Ip::udp(crossing.back().0, crossing.back().1, (1, 2), &pattern(64));
    // Each of another datagram that never becomes whole.
    let pieces: Vec<[Vec<u8>; 2]> = (0..4096)
        .map(|id| [&out, &back].map(|ip| Ip { id, ..ip.clone() }.fragment_of(&ip.payload, 1400, true).bytes()))
        .collect();
    while more() {
        for [out, back] in &pieces {
            crossing.inside.send(out);
            crossing.outside.send(back);
        }
        sent.fetch_add(2 * pieces.len() as u64, Ordering::Relaxed);
    }
}

fn beside_a_flood(family: Family) {
    let mut crossing = Crossing::unwatched(family);
    let listener = listen(&crossing.server, 4000);
    let call = connect(&crossing.terminal, SocketAddr::new(crossing.out().1, 4000));
    let (accepted, _) = accept(&listener);
    let before = resident(&crossing);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| flood(&mut crossing, || !stop.load(Ordering::Relaxed), &sent));
        let transfer = scope.spawn(|| {
            wait_until("the flood", || sent.load(Ordering::Relaxed) > 0);
            std::thread::scope(|scope| {
                let (call_out, accepted_out) = (call.try_clone().unwrap(), accepted.try_clone().unwrap());
                scope.spawn(|| send_pattern(call_out, 1, 128));
                scope.spawn(|| send_pattern(accepted_out, 2, 128));
                scope.spawn(|| expect_pattern(&call, 2, 128));
                scope.spawn(|| expect_pattern(&accepted, 1, 128));
            });
        });
        let result = transfer.join();
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    // The transfer may have been quick: on until it was a flood for the gateway as well.
    let passed = |crossing: &Crossing| {
        let status = crossing.gateway().status();
        status["out"]["packets"].as_u64().unwrap() + status["in"]["packets"].as_u64().unwrap()
    };
    for _ in 0..100 {
        if passed(&crossing) > 8192 {
            break;
        }
        let mut rounds = 0..1;
        flood(&mut crossing, || rounds.next().is_some(), &sent);
    }
    let grown = resident(&crossing).saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more after {} fragments", sent.load(Ordering::Relaxed));
    assert!(passed(&crossing) > 8192, "fragments reached the gateway: {}", crossing.gateway().status());
    crossing.binding_stands();
}

#[test]
fn r14_a_flood_of_later_fragments_costs_no_memory_and_harms_no_transfer() {
    beside_a_flood(Family::V4);
}

#[test]
fn r14_a_flood_of_later_fragments_costs_no_memory_and_harms_no_transfer_v6() {
    beside_a_flood(Family::V6);
}

/// Datagrams in fragments while super-packets of TCP cross between the same two hosts.
fn beside_super_packets(family: Family) {
    let crossing = Crossing::unwatched(family);
    let _echo = Echo::start(&crossing.server, 5000);
    let listener = listen(&crossing.server, 4000);
    let call = connect(&crossing.terminal, SocketAddr::new(crossing.out().1, 4000));
    let (accepted, _) = accept(&listener);
    let to = SocketAddr::new(crossing.out().1, 5000);
    std::thread::scope(|scope| {
        scope.spawn(|| send_pattern(call, 1, 512));
        scope.spawn(|| expect_pattern(&accepted, 1, 512));
        for size in [4000, 9000, 30_000, 60_000] {
            let bytes = pattern(size);
            // A datagram may be lost where queues are full; a wrong one must never come.
            let answers: Vec<_> =
                (0..10).filter_map(|_| ask_udp(&crossing.terminal, to, &bytes, PATIENCE / 5)).collect();
            assert!(!answers.is_empty() && answers.iter().all(|answer| *answer == bytes), "{size} bytes");
        }
    });
    let out = &crossing.gateway().status()["out"];
    let [bytes, packets] = ["bytes", "packets"].map(|what| out[what].as_u64().unwrap());
    assert!(bytes / packets > 1500, "TCP crossed in super-packets: {out}");
}

#[test]
fn s_fragments_beside_super_packets() {
    beside_super_packets(Family::V4);
}

#[test]
fn s_fragments_beside_super_packets_v6() {
    beside_super_packets(Family::V6);
}
