//! What hosts outside may tell a terminal, and which addresses take part at all.

use super::*;

/// An error about what terminal 10.0.0.5 sent to 192.0.2.1, as it comes from `sender` outside, with its type, code and MTU.
fn error_from(gateway: &mut Gateway, sender: &str, kind: u8, code: u8, mtu: u16) -> Verdict {
    let mut sent = tcp("10.0.0.5", "192.0.2.1", Flags::Ack);
    gateway.send(&mut sent, INSIDE);
    let [high, low] = mtu.to_be_bytes();
    let to = Headers::parse(&sent).unwrap().source.v4_octets();
    let from = sender.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let builder = PacketBuilder::ipv4(from, to, 64).icmpv4_raw(kind, code, [0, 0, high, low]);
    let mut error = Vec::new();
    builder.write(&mut error, &sent).unwrap();
    gateway.send(&mut error, Realm::Outside)
}

#[test]
fn s_an_error_from_outside_with_an_inside_or_virtual_source_reaches_no_terminal() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    for sender in ["10.0.0.7", "10.0.0.5", "198.18.0.9", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        let verdict = error_from(&mut gateway, sender, 3, 1, 0);
        assert_eq!(verdict, Verdict::Drop(DropReason::SpoofedSource), "{sender}");
    }
    for sender in ["192.0.2.1", "192.0.2.254", "203.0.113.1", "240.1.2.3"] {
        assert!(matches!(error_from(&mut gateway, sender, 3, 1, 0), Verdict::Forward { to: INSIDE, .. }), "{sender}");
    }
}

#[test]
fn s_errors_of_whom_a_terminal_has_not_called_are_limited() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    gateway.call("10.0.0.5", "192.0.2.9").unwrap();
    let mut heard = |sender: &str| {
        let verdicts = (0..300).map(|_| error_from(&mut gateway, sender, 11, 0, 0));
        let (passed, dropped): (Vec<_>, Vec<_>) = verdicts.partition(|one| matches!(one, Verdict::Forward { .. }));
        assert!(dropped.iter().all(|one| *one == Verdict::Drop(DropReason::IcmpErrorRate)));
        passed.len()
    };
    assert_eq!((heard("192.0.2.254"), heard("192.0.2.253")), (100, 0));
    assert_eq!((heard("192.0.2.1"), heard("192.0.2.9")), (300, 300), "whom it has called");
}

#[test]
fn s_an_error_that_tells_of_an_impossible_mtu_is_dropped() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    for (mtu, passes) in [(1, false), (67, false), (68, true), (1400, true), (0, true)] {
        let verdict = error_from(&mut gateway, "192.0.2.254", 3, 4, mtu);
        assert_eq!(matches!(verdict, Verdict::Forward { .. }), passes, "{mtu}");
        assert!(passes || verdict == Verdict::Drop(DropReason::IcmpErrorMtu), "{mtu}: {verdict:?}");
    }
}

/// 240.0.0.0/4 is routed by Linux and used in clouds; the rest of what has no hosts is not.
#[test]
fn an_inside_or_a_peer_of_class_e_is_served() {
    let mut settings = settings(vec![pool("198.18.0.0/24", &[])]);
    settings.insides[0].sources.push("240.0.0.0/4".parse().unwrap());
    let mut gateway = Gateway::new(settings);
    let virtual_ip = gateway.call("240.1.2.3", "192.0.2.1").unwrap();
    assert_eq!(gateway.callback("192.0.2.1", virtual_ip), Ok("240.1.2.3".parse().unwrap()));
    assert!(gateway.call("10.0.0.5", "250.0.0.1").is_ok());
    assert_eq!(gateway.call("255.255.255.255", "192.0.2.1"), Err(DropReason::SpoofedSource));
    assert_eq!(gateway.call("10.0.0.5", "255.255.255.255"), Err(DropReason::NotUnicast));
    assert_eq!(gateway.call("10.0.0.5", "239.255.255.255"), Err(DropReason::NotUnicast));
}
