use super::*;
use etherparse::PacketBuilder;
use proptest::prelude::*;

fn tcp(syn: bool) -> Vec<u8> {
    let mut builder = PacketBuilder::ipv4([10, 0, 0, 1], [192, 0, 2, 1], 64).tcp(1000, 80, 7, 1024);
    builder = if syn { builder.syn() } else { builder.ack(9) };
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"hello").unwrap();
    bytes
}

#[test]
fn a_syn_is_told_from_other_segments() {
    let syn = Headers::parse(&tcp(true)).unwrap();
    assert_eq!((syn.kind, syn.transport, syn.checksum), (Kind::TcpSyn, 20, Some(36)));
    assert_eq!(Headers::parse(&tcp(false)).unwrap().kind, Kind::Tcp);
}

#[test]
fn s_runt_and_truncated_packets_are_malformed() {
    let bytes = tcp(true);
    assert_eq!(Headers::parse(&[]), Err(Unreadable::Malformed));
    assert_eq!(Headers::parse(&[0x15; 40]), Err(Unreadable::Version));
    for length in 1..bytes.len() {
        assert_eq!(Headers::parse(&bytes[..length]), Err(Unreadable::Malformed), "{length} bytes");
    }
}

#[test]
fn s_padding_behind_the_packet_is_not_part_of_it() {
    let mut bytes = tcp(true);
    let length = bytes.len();
    bytes.extend_from_slice(&[0xaa; 9]);
    assert_eq!(Headers::parse(&bytes).unwrap().end, length);
}

#[test]
fn s_a_first_fragment_without_the_checksum_is_tiny() {
    let mut bytes = tcp(true);
    bytes[6] = 0x20; // more fragments
    assert_eq!(Headers::parse(&bytes).unwrap().fragment, Fragment::First);
    bytes.truncate(36);
    bytes[2..4].copy_from_slice(&36u16.to_be_bytes());
    assert_eq!(Headers::parse(&bytes), Err(Unreadable::TinyFragment));
}

#[test]
fn a_later_fragment_has_addresses_only() {
    let mut bytes = tcp(true);
    bytes[7] = 3;
    let headers = Headers::parse(&bytes).unwrap();
    assert_eq!((headers.fragment, headers.kind, headers.checksum), (Fragment::Later, Kind::LaterFragment, None));
}

#[test]
fn s_chained_extension_headers_lead_to_the_transport() {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, protocol::HOP_BY_HOP, 64];
    bytes.extend_from_slice(&[0xfd; 16]);
    bytes.extend_from_slice(&[0x20; 16]);
    bytes.extend_from_slice(&[protocol::DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[protocol::FRAGMENT, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[protocol::UDP, 0, 0, 0, 1, 2, 3, 4]); // atomic fragment
    bytes.extend_from_slice(&[0, 1, 0, 2, 0, 8, 0xaa, 0xbb]);
    let payload = u16::try_from(bytes.len() - 40).unwrap();
    bytes[4..6].copy_from_slice(&payload.to_be_bytes());
    let headers = Headers::parse(&bytes).unwrap();
    assert_eq!((headers.kind, headers.fragment, headers.transport), (Kind::Datagram, Fragment::Whole, 72));
    assert_eq!(headers.checksum, Some(78));
    for length in 40..bytes.len() {
        assert_eq!(Headers::parse(&bytes[..length]), Err(Unreadable::Malformed));
        let quoted = Headers::parse_quoted(&bytes[..length]).unwrap();
        assert_eq!(quoted.source, headers.source);
    }
}

#[test]
fn a_source_route_with_hops_left_is_refused_and_a_finished_one_is_not() {
    let mut options = [7, 7, 4, 0, 0, 0, 0, 131, 7, 4, 1, 2, 3, 4, 0, 0];
    assert!(has_source_route(&options));
    options[9] = 8;
    assert!(!has_source_route(&options));
}

#[test]
fn s_udp_lite_never_sends_a_zero_checksum_either() {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([10, 0, 0, 1], [192, 0, 2, 1], 64).udp(1, 2).write(&mut bytes, b"x").unwrap();
    bytes[9] = protocol::UDP_LITE;
    assert_eq!(Headers::parse(&bytes).unwrap().stored(None), Stored::FullOrNone);
}

#[test]
fn the_checksum_of_a_mobility_header_covers_the_addresses() {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 8, protocol::MOBILITY, 64];
    bytes.extend_from_slice(&[0xfd; 16]);
    bytes.extend_from_slice(&[0x20; 16]);
    bytes.extend_from_slice(&[59, 0, 0, 0, 0xaa, 0xbb, 0, 0]);
    let headers = Headers::parse(&bytes).unwrap();
    assert_eq!((headers.protocol, headers.kind, headers.checksum), (protocol::MOBILITY, Kind::Other, Some(44)));
}

#[test]
fn neighbour_discovery_is_told_from_what_crosses_routers() {
    for (icmp_type, kind) in [
        (128, Kind::IcmpQuery),
        (129, Kind::IcmpOther),
        (132, Kind::IcmpOther),
        (133, Kind::IcmpRedirect),
        (135, Kind::IcmpRedirect),
        (137, Kind::IcmpRedirect),
        (138, Kind::IcmpOther),
    ] {
        let mut bytes = Vec::new();
        PacketBuilder::ipv6([0xfd; 16], [0x20; 16], 64)
            .icmpv6_raw(icmp_type, 0, [0; 4])
            .write(&mut bytes, &[0; 16])
            .unwrap();
        assert_eq!(Headers::parse(&bytes).unwrap().kind, kind, "type {icmp_type}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics_and_offsets_stay_inside(mut bytes in prop::collection::vec(any::<u8>(), 0..200), version in 0u8..3) {
        if let (Some(first), true) = (bytes.first_mut(), version > 0) {
            *first = if version == 1 { 0x40 | (*first & 0xf) } else { 0x60 };
        }
        for headers in [Headers::parse(&bytes), Headers::parse_quoted(&bytes)].into_iter().flatten() {
            prop_assert!(headers.end <= bytes.len());
            prop_assert!(headers.checksum.is_none_or(|at| at + 2 <= headers.end));
        }
    }
}
