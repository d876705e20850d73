//! Every transport, and every header field that is none of a translator's business: what arrives is compared byte by byte.

use crate::crafted::{Ip, TCP, UDP};
use crate::crossing::Crossing;
use crate::lab::Family;
use pnet::util::{ipv4_checksum, ipv6_checksum};
use std::net::IpAddr;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

const UDP_LITE: u8 = 136;
const DCCP: u8 = 33;
const SCTP: u8 = 132;

/// One packet of every transport that is no TCP, UDP or ICMP.
fn transports((from, to): (IpAddr, IpAddr)) -> Vec<Ip> {
    let of = |protocol, payload: &[u8]| Ip::new(from, to, protocol, payload);
    // UDP-Lite, everything covered: a coverage of 0 says so (RFC 3828 §3.1).
    let mut lite = of(UDP_LITE, &[&[0x9c, 0x40, 0, 80, 0, 0, 0, 0][..], b"covered"].concat());
    lite.checksum = Some(6);
    // UDP-Lite, the header alone covered.
    let mut partly = of(UDP_LITE, &[&[0x9c, 0x40, 0, 80, 0, 8, 0, 0][..], b"uncovered!"].concat());
    cover_header(&mut partly);
    // DCCP-Request (RFC 4340 §5): ports, data offset 5, CCVal and CsCov 0, checksum, type 0 with short sequence number.
    let mut dccp = of(DCCP, &[0x9c, 0x40, 0, 80, 5, 0, 0, 0, 0, 1, 2, 3, 0x6b, 0x61, 0x6d, 0x65, 0, 0, 0, 7]);
    dccp.checksum = Some(6);
    // SCTP INIT with a CRC32c that is wrong and must stay so: nobody in the middle has a say in it.
    let init = [&[0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef, 1, 0, 0, 20][..], &[7; 16]].concat();
    let gre = [&[0x20, 0, 0x08, 0, 0, 0, 0x23, 0x28][..], b"with a key"].concat(); // RFC 2890
    let esp = [&[0, 0, 0x12, 0x34, 0, 0, 0, 1][..], b"encrypted, as far as we know"].concat();
    vec![
        lite,
        partly,
        dccp,
        of(SCTP, &init),
        of(47, &gre),
        of(50, &esp),
        of(2, b"igmp unicast"),
        of(89, b"a routing protocol"),
        of(99, b"any private encryption"),
        of(253, b""),
        of(254, b"x"),
    ]
}

/// Fills in the checksum of a UDP-Lite datagram that covers eight bytes; the pseudo-header has the whole length.
fn cover_header(packet: &mut Ip) {
    let header = packet.payload[..8].to_vec();
    let protocol = pnet::packet::ip::IpNextHeaderProtocol(UDP_LITE);
    // pnet puts the length of what is summed into the pseudo-header: add the difference as one more word, next to the checksum.
    let more = u16::try_from(packet.payload.len() - 8).unwrap().to_be_bytes();
    let summed = [&header[..6], &more].concat();
    let sum = match (packet.from, packet.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4_checksum(&summed, 4, &[], &from, &to, protocol),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_checksum(&summed, 4, &[], &from, &to, protocol),
        _ => unreachable!(),
    };
    // Word 4 does not exist in eight bytes, so nothing is skipped; the checksum field itself counts as zero.
    packet.payload[6..8].copy_from_slice(&sum.to_be_bytes());
}

/// The checksum is computed anew where the packet comes out: [`Ip::translated`] knows only those at an offset.
fn expected(packet: &Ip, from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut expected = packet.translated(from, to, 1);
    if packet.protocol == UDP_LITE && packet.checksum.is_none() {
        cover_header(&mut expected);
    }
    expected.bytes()
}

fn every_transport(family: Family) {
    let mut crossing = Crossing::new(family);
    for packet in transports(crossing.out()) {
        crossing.inside.send(&packet.bytes());
        crossing.arrives_at_server(expected(&packet, crossing.virtual_ip, packet.to));
    }
    for packet in transports(crossing.back()) {
        crossing.outside.send(&packet.bytes());
        crossing.arrives_at_terminal(expected(&packet, packet.from, crossing.out().0));
    }
    crossing.binding_stands();
    crossing.nothing_leaked();
}

#[test]
fn o_udp_lite_dccp_sctp_gre_esp_and_unknown_protocols_pass_byte_for_byte() {
    every_transport(Family::V4);
}

#[test]
fn o_udp_lite_dccp_sctp_gre_esp_and_unknown_protocols_pass_byte_for_byte_v6() {
    every_transport(Family::V6);
}

/// DCCP, a transport of its own: it makes a binding, and calls back (RFC 5597).
fn each_makes_a_binding(family: Family) {
    let mut crossing = Crossing::new(family);
    let terminal = crossing.out().0;
    for packet in transports(crossing.out()) {
        crossing.gateway().ask(&format!("bindings release {terminal}")).ok();
        crossing.inside.send(&packet.bytes());
        crate::lab::wait_until("a binding", || {
            crossing
                .gateway()
                .bindings()
                .iter()
                .any(|binding| binding["terminal"] == terminal.to_string().as_str() && binding["state"] == "active")
        });
    }
}

#[test]
fn rfc5597_every_transport_makes_a_binding() {
    each_makes_a_binding(Family::V4);
}

#[test]
fn rfc5597_every_transport_makes_a_binding_v6() {
    each_makes_a_binding(Family::V6);
}

fn authentication_header(family: Family) {
    let mut crossing = Crossing::new(family);
    // Next header UDP, payload length 4 (24 bytes), SPI, sequence number, integrity check value (RFC 4302 §2).
    let header = [&[UDP, 4, 0, 0, 0, 0, 0x12, 0x34, 0, 0, 0, 1][..], &[0xaa; 12], b"signed addresses"].concat();
    let (out, back) = (crossing.out(), crossing.back());
    let packets = [Ip::new(out.0, out.1, 51, &header), Ip::new(back.0, back.1, 51, &header)];
    crossing.refuses(&packets, "authentication_header");
    crossing.nothing_leaked();
}

#[test]
fn o_ah_is_refused_by_name() {
    authentication_header(Family::V4);
}

#[test]
fn o_ah_is_refused_by_name_v6() {
    authentication_header(Family::V6);
}

/// DSCP with every ECN code point.
fn classes() -> impl Iterator<Item = u8> {
    [0xb8u8, 0x28, 0xfc].into_iter().flat_map(|dscp| (0..4).map(move |ecn| dscp | ecn))
}

fn datagrams((from, to): (IpAddr, IpAddr)) -> Vec<Ip> {
    let udp = |data: &[u8]| Ip::udp(from, to, (40_000, 5000), data);
    let mut packets: Vec<Ip> = classes().map(|class| Ip { class, ..udp(&[class]) }).collect();
    let tcp = |flags, data: &[u8]| Ip::tcp(from, to, (40_001, 5001), 1, flags, data);
    // SYN with ECN set-up, URG, PSH, and the bit that was NS.
    packets.extend([SYN | 0xc0, ACK | 0x08, ACK | 0x20, ACK | 0x40].map(|flags| tcp(flags, b"")));
    if from.is_ipv4() {
        packets.extend([0, 1, 0xffff].map(|id| Ip { id, fragment: 0x4000, ..udp(b"do not fragment") }));
        packets.extend([1, 0x8000].map(|id| Ip { id, ..udp(b"may be fragmented") }));
    } else {
        packets.extend([1, 0x8_0000, 0xf_ffff].map(|label| Ip { label, ..udp(b"flow label") }));
    }
    packets
}

fn header_fields(family: Family) {
    let mut crossing = Crossing::new(family);
    let (out, back) = (datagrams(crossing.out()), datagrams(crossing.back()));
    crossing.passes_out(&out);
    crossing.passes_back(&back);
}

#[test]
fn rfc7857_dscp_ecn_identification_and_df_are_kept() {
    header_fields(Family::V4);
}

#[test]
fn rfc7857_dscp_ecn_and_flow_label_are_kept_v6() {
    header_fields(Family::V6);
}

#[test]
fn s_ipv4_options_of_twenty_bytes_and_more_are_kept() {
    let mut crossing = Crossing::new(Family::V4);
    let no_operation = [1; 40].to_vec();
    let router_alert = vec![148, 4, 0, 0]; // RFC 2113
    let experiment = [&[30, 24][..], &[0x5a; 22]].concat(); // RFC 4727
    let mixed = [&[1, 1, 136, 4, 0, 9][..], &[158, 17], &[3; 15], &[0]].concat(); // stream id, experiment, end
    for (from, to) in [crossing.out(), crossing.back()] {
        let packets: Vec<Ip> = [&no_operation, &router_alert, &experiment, &mixed]
            .into_iter()
            .flat_map(|options| {
                let udp = Ip::udp(from, to, (40_000, 5000), b"behind options");
                let tcp = Ip::tcp(from, to, (40_001, 5001), 1, SYN, b"");
                [udp, tcp].map(|packet| Ip { options: options.clone(), ..packet })
            })
            .collect();
        if from == crossing.out().0 {
            crossing.passes_out(&packets);
        } else {
            crossing.passes_back(&packets);
        }
    }
}

#[test]
fn s_extension_headers_and_their_chains_are_kept_v6() {
    let mut crossing = Crossing::new(Family::V6);
    let padding = |length: usize| {
        let mut bytes = vec![0, u8::try_from(length / 8 - 1).unwrap(), 1, u8::try_from(length - 4).unwrap()];
        bytes.resize(length, 0);
        bytes
    };
    let hop_by_hop = (0, padding(8));
    let options = (60, padding(24));
    let routing = (43, vec![0, 0, 253, 0, 0, 0, 0, 0]); // no segment left
    let atomic = (44, vec![0, 0, 0, 0, 0, 0, 0, 9]); // RFC 6946
    let chains = [
        vec![hop_by_hop.clone()],
        vec![options.clone()],
        vec![routing.clone()],
        vec![atomic.clone()],
        vec![hop_by_hop.clone(), options.clone()],
        vec![hop_by_hop, options.clone(), routing, atomic, options],
    ];
    for outward in [true, false] {
        let (from, to) = if outward { crossing.out() } else { crossing.back() };
        let packets: Vec<Ip> = chains
            .iter()
            .flat_map(|chain| {
                [
                    Ip::udp(from, to, (40_000, 5000), b"behind a chain"),
                    Ip::tcp(from, to, (40_001, 5001), 1, SYN, b""),
                    Ip::icmp(from, to, 128, 0, [0, 7, 0, 1], b"echo behind a chain"),
                ]
                .map(|packet| Ip { extensions: chain.clone(), ..packet })
            })
            .collect();
        if outward { crossing.passes_out(&packets) } else { crossing.passes_back(&packets) }
    }
}

/// Zero means "no checksum" in UDP over IPv4, and stays so; a wrong checksum stays as wrong as it was.
#[test]
fn s_a_zero_udp_checksum_stays_zero_and_a_wrong_one_wrong() {
    let mut crossing = Crossing::new(Family::V4);
    let (out, back) = (crossing.out(), crossing.back());
    for ((from, to), outward) in [(out, true), (back, false)] {
        let none = Ip { checksum: None, ..Ip::udp(from, to, (40_000, 5000), b"no checksum") };
        if outward { crossing.passes_out(&[none]) } else { crossing.passes_back(&[none]) }
    }
    // Off by one before, off by one behind.
    let mut right = Ip::udp(out.0, out.1, (40_000, 5000), b"wrong checksum");
    let spoil = |packet: &Ip| {
        let mut bytes = packet.bytes();
        let sum = u16::from_be_bytes([bytes[26], bytes[27]]) - 1;
        bytes[26..28].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    right.payload[0] = 0x9d;
    crossing.inside.send(&spoil(&right));
    crossing.arrives_at_server(spoil(&right.translated(crossing.virtual_ip, right.to, 1)));
}

/// Data that make the checksum of the translated datagram come out as 0x0000: it is sent as 0xFFFF (RFC 768).
fn computed_zero(family: Family) {
    let mut crossing = Crossing::new(family);
    let (terminal, server) = crossing.out();
    // The last word is chosen so that everything else sums up to 0xFFFF for the virtual IP as the source.
    let bare = Ip::udp(crossing.virtual_ip, server, (40_000, 5000), &[0; 4]).bytes();
    let at = bare.len() - 12;
    let sum = u16::from_be_bytes([bare[at + 6], bare[at + 7]]);
    let packet = Ip::udp(terminal, server, (40_000, 5000), &[&[0, 0][..], &sum.to_be_bytes()].concat());
    let wanted = packet.translated(crossing.virtual_ip, server, 1).bytes();
    assert_eq!(wanted[at + 6..at + 8], [0xff, 0xff], "the test's own arithmetic");
    crossing.passes_out(&[packet]);
}

#[test]
fn s_a_computed_zero_is_sent_as_all_ones() {
    computed_zero(Family::V4);
}

#[test]
fn s_a_computed_zero_is_sent_as_all_ones_v6() {
    computed_zero(Family::V6);
}

/// Runts and lengths that lie never pass, and harm nobody.
#[test]
fn s_runts_and_truncated_packets_are_dropped() {
    let mut crossing = Crossing::new(Family::V4);
    let (from, to) = crossing.out();
    let short = [(TCP, 19), (UDP, 7), (UDP, 0), (UDP_LITE, 7), (DCCP, 11), (1, 7)];
    let packets: Vec<Ip> = short
        .into_iter()
        .map(|(protocol, length)| Ip { checksum: None, ..Ip::new(from, to, protocol, &vec![0xee; length]) })
        .collect();
    crossing.refuses(&packets, "malformed");
    assert_eq!(crossing.seen_anywhere(&[0xee; 7]), [false, true], "the terminal sent them, the server saw none");
    crossing.binding_stands();
}
