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

/// What the gateway's own kernel tells a peer about a packet it could not deliver to a terminal.
fn error_of_our_own(gateway: &mut Gateway, sender: &str) -> Vec<u8> {
    let virtual_ip = gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    let mut received = tcp("192.0.2.1", &virtual_ip.to_string(), Flags::Ack);
    gateway.send(&mut received, Realm::Outside);
    let headers = Headers::parse(&received).unwrap();
    let sender = sender.parse::<IpAddr>().unwrap().into();
    crate::wire::unreachable(&received, &headers, sender, crate::wire::Refusal::Prohibited).unwrap().into()
}

#[test]
fn n8_an_error_of_our_own_from_an_inside_address_stays_here_when_no_outside_address_is_known() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let mut from_inside = error_of_our_own(&mut gateway, "10.0.0.1");
    let mut from_elsewhere = error_of_our_own(&mut gateway, "172.16.0.1");
    let mut from_outside = error_of_our_own(&mut gateway, "203.0.113.1");
    gateway.nat.set_own_outside(Vec::new());
    gateway.nat.set_own_inside(vec!["172.16.0.1".parse().unwrap()]);
    assert_eq!(gateway.send(&mut from_inside, Realm::Outside), Verdict::Drop(DropReason::NoOwnAddress));
    assert_eq!(gateway.send(&mut from_elsewhere, Realm::Outside), Verdict::Drop(DropReason::NoOwnAddress));
    let forward = Verdict::Forward { to: Realm::Outside, event: None };
    assert_eq!(gateway.send(&mut from_outside, Realm::Outside), forward);
}

#[test]
fn n8_an_error_of_our_own_about_something_else_shows_no_inside_address_either() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    // About a packet from a peer to an address that is neither inside nor translated.
    let original = tcp("192.0.2.1", "203.0.113.9", Flags::Ack);
    let headers = Headers::parse(&original).unwrap();
    for (sender, verdict) in [
        ("10.0.0.1", Verdict::Drop(DropReason::IcmpErrorUnrelated)),
        ("203.0.113.1", Verdict::Forward { to: Realm::Outside, event: None }),
    ] {
        let sender = sender.parse::<IpAddr>().unwrap().into();
        let refusal = crate::wire::Refusal::Prohibited;
        let mut error = crate::wire::unreachable(&original, &headers, sender, refusal).unwrap();
        assert_eq!(gateway.send(&mut error, Realm::Outside), verdict);
    }
}

#[test]
fn n8_options_that_write_inside_addresses_down_do_not_pass() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let virtual_ip = gateway.call("10.0.0.5", "192.0.2.1").unwrap().to_string();
    for (option, passes) in [
        (&[7, 7, 8, 10, 0, 0, 5, 0][..], false), // record route: what `ping -R` sends
        (&[1, 7, 7, 8, 10, 0, 0, 5], false),     // the same behind a padding byte
        (&[68, 12, 13, 1, 10, 0, 0, 5, 0, 0, 0, 1], false), // addresses and times
        (&[68, 8, 9, 0, 0, 0, 0, 1], true),      // times alone
        (&[148, 4, 0, 0], true),                 // router alert
    ] {
        for (from, to, realm) in [("10.0.0.5", "192.0.2.1", INSIDE), ("192.0.2.1", &*virtual_ip, Realm::Outside)] {
            let mut packet = tcp(from, to, Flags::Ack);
            packet[0] += u8::try_from(option.len() / 4).unwrap();
            let total = u16::try_from(packet.len() + option.len()).unwrap();
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet.splice(20..20, option.iter().copied());
            let verdict = gateway.send(&mut packet, realm);
            let expected = Verdict::Drop(DropReason::RecordsAddresses);
            assert_eq!(verdict != expected, passes, "{option:?} {verdict:?}");
            assert!(!passes || matches!(verdict, Verdict::Forward { .. }));
        }
    }
}
