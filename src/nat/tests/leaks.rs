//! Ways in which an inside address could get out, or a foreign packet in.

use super::*;

/// IPv6 over whose addresses a careless reader could take for IPv4.
fn with_mapped(mapped_source: bool, mapped_destination: bool) -> Vec<u8> {
    let mut bytes = tcp("fd00:1::5", "2001:db8::1", Flags::Syn);
    let mapped = |last: [u8; 4]| [[0; 4], [0; 4], [0, 0, 0xff, 0xff], last].concat();
    if mapped_source {
        bytes[8..24].copy_from_slice(&mapped([10, 0, 0, 5]));
    }
    if mapped_destination {
        bytes[24..40].copy_from_slice(&mapped([192, 0, 2, 1]));
    }
    bytes
}

#[test]
fn n8_an_ipv6_header_with_mapped_addresses_is_never_taken_for_ipv4() {
    let pools = vec![pool("198.18.0.0/24", &[]), pool("fd00:2::/64", &[])];
    let mut gateway = Gateway::new(settings(pools));
    for (source, destination) in [(true, true), (true, false), (false, true)] {
        for realm in [INSIDE, Realm::Outside] {
            let mut packet = with_mapped(source, destination);
            assert_eq!(gateway.send(&mut packet, realm), Verdict::Drop(DropReason::MappedAddress));
        }
    }
    assert_eq!(gateway.nat.status().created, 0);
}
