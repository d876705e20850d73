use super::*;
use crate::testkit::scene::{pool, settings, with_policy};
use crate::time::Time;
use crate::wire::Address;
use crate::wire::{Headers, Packet};
use etherparse::{PacketBuilder, SlicedPacket};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

mod answers;
mod differential;
mod explain;
mod from_outside;
mod leaks;
mod life;
mod model;
mod properties;
mod races;
mod reload;
mod stored;

const START: Time = Time::from_secs(1_800_000_000);

struct Gateway {
    nat: Arc<Nat>,
    translator: Translator,
    now: Time,
}

impl Gateway {
    fn new(settings: Settings) -> Self {
        let nat = Nat::new(settings).unwrap();
        let translator = nat.translator();
        Self { nat, translator, now: START }
    }

    fn with_pool(range: &str) -> Self {
        Self::new(settings(vec![pool(range, &[])]))
    }

    fn send(&mut self, bytes: &mut [u8], realm: Realm) -> Verdict {
        self.translator.translate(&mut Packet::new(bytes), realm, self.now)
    }

    /// The virtual IP a terminal is given when it calls `peer`, which answers if it hears of it.
    fn call(&mut self, terminal: &str, peer: &str) -> Result<IpAddr, DropReason> {
        let virtual_ip = self.call_in_vain(terminal, peer)?;
        self.send(&mut tcp(peer, &virtual_ip.to_string(), Flags::SynAck), Realm::Outside);
        Ok(virtual_ip)
    }

    /// The same for a peer that does not answer.
    fn call_in_vain(&mut self, terminal: &str, peer: &str) -> Result<IpAddr, DropReason> {
        let mut packet = tcp(terminal, peer, Flags::Syn);
        match self.send(&mut packet, INSIDE) {
            Verdict::Forward { to: Realm::Outside, .. } => Ok(Headers::parse(&packet).unwrap().source.into()),
            Verdict::Drop(reason) => Err(reason),
            Verdict::Refuse(refused) => Err(refused.reason),
            other => panic!("{other:?}"),
        }
    }

    /// The terminal a peer reaches when it calls a virtual IP.
    fn callback(&mut self, peer: &str, virtual_ip: IpAddr) -> Result<IpAddr, DropReason> {
        let mut packet = tcp(peer, &virtual_ip.to_string(), Flags::Syn);
        match self.send(&mut packet, Realm::Outside) {
            Verdict::Forward { to: INSIDE, .. } => Ok(Headers::parse(&packet).unwrap().destination.into()),
            Verdict::Drop(reason) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    fn tick(&mut self, pause: Duration) -> Vec<EventKind> {
        self.translator.flush(self.now);
        self.now = self.now + pause;
        let mut events = Vec::new();
        self.nat.tick(self.now, &mut |event| events.push(event.kind));
        events
    }
}

const INSIDE: Realm = Realm::inside(0);

enum Flags {
    Syn,
    SynAck,
    Ack,
}

fn tcp(source: &str, destination: &str, flags: Flags) -> Vec<u8> {
    let builder = match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => PacketBuilder::ipv4(source.octets(), destination.octets(), 64),
        (IpAddr::V6(source), IpAddr::V6(destination)) => PacketBuilder::ipv6(source.octets(), destination.octets(), 64),
        _ => panic!("mixed families"),
    };
    let builder = match flags {
        Flags::Syn => builder.tcp(40_000, 443, 7, 1024).syn(),
        Flags::SynAck => builder.tcp(40_000, 443, 7, 1024).syn().ack(9),
        Flags::Ack => builder.tcp(40_000, 443, 7, 1024).ack(9),
    };
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"payload").unwrap();
    bytes
}

/// The checksum of a TCP packet as etherparse computes it is the one it carries.
fn assert_tcp_checksum_right(bytes: &[u8]) {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
    let header = tcp.to_header();
    let expected = match sliced.net.unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
            header.calc_checksum_ipv4_raw(ip.header().source(), ip.header().destination(), tcp.payload()).unwrap()
        }
        etherparse::NetSlice::Ipv6(ip) => {
            header.calc_checksum_ipv6_raw(ip.header().source(), ip.header().destination(), tcp.payload()).unwrap()
        }
        _ => panic!("not IP"),
    };
    assert_eq!(header.checksum, expected);
}

#[test]
fn n3_n4_a_first_packet_gets_a_virtual_ip_and_right_checksums() {
    for (terminal, peer, range) in
        [("10.0.0.5", "192.0.2.1", "198.18.0.0/24"), ("fd00:1::5", "2001:db8::1", "fd00:2::/64")]
    {
        let mut gateway = Gateway::with_pool(range);
        let mut packet = tcp(terminal, peer, Flags::Syn);
        let Verdict::Forward { to: Realm::Outside, event: Some(event) } = gateway.send(&mut packet, INSIDE) else {
            panic!("not forwarded")
        };
        assert_eq!(event.kind, EventKind::Created);
        assert_tcp_checksum_right(&packet);
        let source = Headers::parse(&packet).unwrap().source;
        assert_eq!((source, event.terminal), (event.virtual_ip, terminal.parse::<IpAddr>().unwrap().into()));
        assert!(range.parse::<crate::wire::AddressRange>().unwrap().contains(source));
    }
}

#[test]
fn n5_a_contacted_peer_calls_back_and_others_do_not() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let virtual_ip = gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    assert_eq!(gateway.callback("192.0.2.1", virtual_ip), Ok("10.0.0.5".parse().unwrap()));
    assert_eq!(gateway.callback("192.0.2.2", virtual_ip), Err(DropReason::NotContacted));
    let view = &gateway.nat.find(virtual_ip, gateway.now)[0];
    assert_eq!((view.contacts, view.callbacks), (1, 0)); // counted, not yet noted
    gateway.translator.flush(gateway.now);
    let view = &gateway.nat.find(virtual_ip, gateway.now)[0];
    assert_eq!((view.packets_out, view.packets_in, view.callbacks), (1, 2, 1)); // a call, its answer, a callback
}

#[test]
fn n7_a_virtual_ip_without_a_pair_delivers_nothing() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let free = "198.18.0.77".parse().unwrap();
    assert_eq!(gateway.callback("192.0.2.1", free), Err(DropReason::NoBinding));
    assert_eq!(gateway.callback("192.0.2.1", "10.0.0.5".parse().unwrap()), Err(DropReason::NotVirtual));
}

#[test]
fn n7_the_same_terminal_gets_the_same_virtual_ip_again() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let first = gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    assert_eq!(gateway.call("10.0.0.5", "192.0.2.99").unwrap(), first);
    // Also without memory, by the keyed hash.
    assert_eq!(Gateway::with_pool("198.18.0.0/24").call("10.0.0.5", "192.0.2.1").unwrap(), first);
}

#[test]
fn n1_a_terminal_has_one_virtual_ip_in_each_pool_it_uses() {
    let pools = vec![pool("198.18.0.0/24", &[]), pool("198.19.0.0/24", &["203.0.113.0/24"])];
    let mut gateway = Gateway::new(settings(pools));
    let usual = gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    let special = gateway.call("10.0.0.5", "203.0.113.9").unwrap();
    assert!(usual.to_string().starts_with("198.18.0.") && special.to_string().starts_with("198.19.0."));
    assert_eq!(gateway.callback("203.0.113.9", special), Ok("10.0.0.5".parse().unwrap()));
    assert_eq!(gateway.callback("203.0.113.9", usual), Err(DropReason::WrongPool));
    assert_eq!(gateway.nat.find("10.0.0.5".parse().unwrap(), START).len(), 2);
}

#[test]
fn only_a_first_packet_makes_a_binding() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let mut packet = tcp("10.0.0.5", "192.0.2.1", Flags::Ack);
    assert_eq!(gateway.send(&mut packet, INSIDE), Verdict::Drop(DropReason::NotAFirstPacket));
    gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    let mut packet = tcp("10.0.0.5", "192.0.2.1", Flags::Ack);
    assert!(matches!(gateway.send(&mut packet, INSIDE), Verdict::Forward { .. }));
}

#[test]
fn sources_that_are_not_inside_get_nothing() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    assert_eq!(gateway.call("172.16.0.1", "192.0.2.1"), Err(DropReason::SourceNotInside));
    assert_eq!(gateway.call("198.18.0.5", "192.0.2.1"), Err(DropReason::SpoofedSource));
    assert_eq!(gateway.call("10.0.0.5", "224.0.0.1"), Err(DropReason::NotUnicast));
    assert_eq!(gateway.call("fd00:1::5", "2001:db8::1"), Err(DropReason::NoPool));
}

#[test]
fn s_an_exhausted_pool_refuses_with_icmp_and_goes_on() {
    let mut gateway = Gateway::with_pool("198.18.0.4/30");
    gateway.nat.set_own_inside(vec!["10.0.0.1".parse().unwrap()]);
    let held: Vec<_> = (1..=4).map(|n| gateway.call(&format!("10.0.0.{n}"), "192.0.2.1").unwrap()).collect();
    let mut packet = tcp("10.0.0.9", "192.0.2.1", Flags::Syn);
    let Verdict::Refuse(refused) = gateway.send(&mut packet, INSIDE) else { panic!("not refused") };
    assert_eq!(refused.reason, DropReason::PoolExhausted);
    assert_eq!(refused.event.kind, EventKind::Refused(DropReason::PoolExhausted));
    let answer = refused.answer.unwrap();
    let headers = Headers::parse(&answer).unwrap();
    assert_eq!(IpAddr::from(headers.destination).to_string(), "10.0.0.9");
    assert_eq!((answer[20], answer[21]), (3, 13));
    assert!(crate::wire::is_intact(&answer, &headers));
    // The others are untouched.
    for (n, virtual_ip) in (1..=4).zip(held) {
        assert_eq!(gateway.call(&format!("10.0.0.{n}"), "192.0.2.1"), Ok(virtual_ip));
    }
    assert_eq!(gateway.nat.status().drops["pool_exhausted"], 1);
}

#[test]
fn a_binding_goes_dormant_wakes_and_ends_in_quarantine() {
    const HOUR: Duration = Duration::from_secs(3600);
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let virtual_ip = gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    assert_eq!(gateway.tick(23 * HOUR), []);
    assert_eq!(gateway.tick(HOUR + Duration::from_secs(2)), [EventKind::Dormant]);
    assert_eq!(gateway.callback("192.0.2.1", virtual_ip), Err(DropReason::Dormant));
    assert_eq!(gateway.call("10.0.0.5", "192.0.2.1"), Ok(virtual_ip));
    assert!(gateway.callback("192.0.2.1", virtual_ip).is_ok());
    assert_eq!(gateway.tick(25 * HOUR), [EventKind::Dormant]);
    assert_eq!(gateway.tick(13 * 24 * HOUR), []);
    assert_eq!(gateway.tick(24 * HOUR), [EventKind::Released]);
    assert_eq!(gateway.callback("192.0.2.1", virtual_ip), Err(DropReason::NoBinding));
    assert_ne!(gateway.call("10.0.0.5", "192.0.2.1"), Ok(virtual_ip)); // quarantined for 120 s
    assert_eq!(gateway.tick(Duration::from_secs(119)), []);
    assert_eq!(gateway.tick(Duration::from_secs(1)), [EventKind::Freed]);
}

#[test]
fn c11_a_full_pool_ends_the_oldest_dormant_binding_and_never_an_active_one() {
    const HOUR: Duration = Duration::from_secs(3600);
    let mut gateway = Gateway::with_pool("198.18.0.4/30");
    for n in 1..=4 {
        gateway.call(&format!("10.0.0.{n}"), "192.0.2.1").unwrap();
        gateway.tick(Duration::from_secs(60));
    }
    gateway.tick(20 * HOUR);
    for n in 3..=4 {
        gateway.call(&format!("10.0.0.{n}"), "192.0.2.1").unwrap();
    }
    assert_eq!(gateway.tick(5 * HOUR), [EventKind::Dormant, EventKind::Dormant]);
    assert_eq!(gateway.call("10.0.0.9", "192.0.2.1"), Err(DropReason::PoolExhausted));
    let state = |gateway: &Gateway, n: u8| {
        gateway.nat.find(format!("10.0.0.{n}").parse().unwrap(), gateway.now).first().map(|view| view.state)
    };
    assert_eq!(
        (state(&gateway, 1), state(&gateway, 2)),
        (Some(BindingState::Quarantined), Some(BindingState::Dormant))
    );
    assert_eq!((state(&gateway, 3), state(&gateway, 4)), (Some(BindingState::Active), Some(BindingState::Active)));
    // One address in quarantine is enough: the next refusal ends no other.
    assert_eq!(gateway.call("10.0.0.10", "192.0.2.1"), Err(DropReason::PoolExhausted));
    assert_eq!(state(&gateway, 2), Some(BindingState::Dormant));
    gateway.tick(Duration::from_secs(120));
    assert!(gateway.call("10.0.0.9", "192.0.2.1").is_ok());
}

#[test]
fn a_pin_moves_a_terminal_at_once_and_a_release_ends_it_at_once() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let (terminal, target): (IpAddr, IpAddr) = ("10.0.0.5".parse().unwrap(), "198.18.0.200".parse().unwrap());
    let first = gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    let (view, events) = gateway.nat.pin(terminal, target, gateway.now).unwrap();
    assert!(view.pinned && view.virtual_ip == target && events.len() == 2);
    assert_eq!(gateway.call("10.0.0.5", "192.0.2.1"), Ok(target));
    assert_eq!(gateway.callback("192.0.2.1", first), Err(DropReason::NoBinding));
    assert!(matches!(gateway.nat.pin("10.0.0.6".parse().unwrap(), target, START), Err(AdminError::Taken { .. })));
    assert_eq!(gateway.tick(Duration::from_secs(90 * 24 * 3600)), [EventKind::Freed]); // the pinned one stays
    assert_eq!(gateway.nat.release(target, gateway.now).unwrap().0.len(), 1);
    assert_eq!(gateway.callback("192.0.2.1", target), Err(DropReason::NoBinding));
    assert_eq!(
        gateway.nat.release(target, gateway.now),
        Err(AdminError::Ended { virtual_ip: target, holder: terminal, seconds: 120 })
    );
}

#[test]
fn i4_an_error_from_outside_reaches_the_terminal_as_about_its_own_packet() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    let original = tcp("10.0.0.5", "192.0.2.1", Flags::Ack);
    let mut sent = original.clone();
    gateway.send(&mut sent, INSIDE);
    let headers = Headers::parse(&sent).unwrap();
    let router = "192.0.2.254".parse::<IpAddr>().unwrap().into();
    let mut error = crate::wire::unreachable(&sent, &headers, router, crate::wire::Refusal::Host).unwrap();
    assert_eq!(gateway.send(&mut error, Realm::Outside), Verdict::Forward { to: INSIDE, event: None });
    let outer = Headers::parse(&error).unwrap();
    assert_eq!(IpAddr::from(outer.destination).to_string(), "10.0.0.5");
    assert!(crate::wire::is_intact(&error, &outer));
    assert_eq!(&error[28..], &original[..]);
}

#[test]
fn n8_an_error_from_inside_shows_no_inside_address() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let virtual_ip = gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    let original = tcp("192.0.2.1", &virtual_ip.to_string(), Flags::Ack);
    let mut received = original.clone();
    gateway.send(&mut received, Realm::Outside);
    let headers = Headers::parse(&received).unwrap();
    // From the terminal itself, from a router inside, and from the gateway's own kernel.
    for (sender, realm, shown) in [
        ("10.0.0.5", INSIDE, virtual_ip.to_string()),
        ("10.0.0.254", INSIDE, "203.0.113.1".to_owned()),
        ("10.0.0.1", Realm::Outside, "203.0.113.1".to_owned()),
    ] {
        let sender = sender.parse::<IpAddr>().unwrap().into();
        let refusal = crate::wire::Refusal::Prohibited;
        let mut error = crate::wire::unreachable(&received, &headers, sender, refusal).unwrap();
        assert_eq!(gateway.send(&mut error, realm), Verdict::Forward { to: Realm::Outside, event: None });
        let outer = Headers::parse(&error).unwrap();
        assert_eq!(IpAddr::from(outer.source).to_string(), shown);
        assert!(crate::wire::is_intact(&error, &outer));
        assert_eq!(&error[28..], &original[..]);
    }
}

#[test]
fn i3_an_error_with_a_wrong_checksum_is_dropped() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    let mut sent = tcp("10.0.0.5", "192.0.2.1", Flags::Ack);
    gateway.send(&mut sent, INSIDE);
    let headers = Headers::parse(&sent).unwrap();
    let mut error =
        crate::wire::unreachable(&sent, &headers, headers.destination, crate::wire::Refusal::Prohibited).unwrap();
    error[40] ^= 1;
    assert_eq!(gateway.send(&mut error, Realm::Outside), Verdict::Drop(DropReason::IcmpChecksum));
}

#[test]
fn r9_a_terminal_calls_anothers_virtual_ip_and_is_seen_by_its_own() {
    let mut gateway = Gateway::new(with_policy(settings(vec![pool("198.18.0.0/24", &[])]), |policy| {
        policy.hairpin = Hairpin::Anyone;
    }));
    let called = gateway.call("10.0.0.6", "192.0.2.1").unwrap();
    let mut packet = tcp("10.0.0.5", &called.to_string(), Flags::Syn);
    let Verdict::Forward { to: INSIDE, event: Some(event) } = gateway.send(&mut packet, INSIDE) else { panic!() };
    assert_tcp_checksum_right(&packet);
    let headers = Headers::parse(&packet).unwrap();
    assert_eq!((headers.source, IpAddr::from(headers.destination).to_string()), (event.virtual_ip, "10.0.0.6".into()));
    // The answer finds its way back, from the called one's virtual IP.
    let mut answer = tcp("10.0.0.6", &IpAddr::from(event.virtual_ip).to_string(), Flags::Ack);
    assert!(matches!(gateway.send(&mut answer, INSIDE), Verdict::Forward { to: INSIDE, .. }));
    let headers = Headers::parse(&answer).unwrap();
    assert_eq!(
        (IpAddr::from(headers.source), IpAddr::from(headers.destination).to_string()),
        (called, "10.0.0.5".into())
    );
    gateway.translator.flush(gateway.now);
    let caller = &gateway.nat.find("10.0.0.5".parse().unwrap(), gateway.now)[0];
    let callee = &gateway.nat.find("10.0.0.6".parse().unwrap(), gateway.now)[0];
    assert_eq!((caller.packets_out, caller.packets_in, callee.callbacks), (1, 1, 1));
}

#[test]
fn r9_the_callback_policy_applies_to_terminals_as_to_peers() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let [first, second] = ["10.0.0.5", "10.0.0.6"].map(|terminal| gateway.call(terminal, "192.0.2.1").unwrap());
    let dial = |gateway: &mut Gateway, from: &str, to: IpAddr| {
        gateway.send(&mut tcp(from, &to.to_string(), Flags::Syn), INSIDE)
    };
    assert_eq!(dial(&mut gateway, "10.0.0.5", second), Verdict::Drop(DropReason::NotContacted));
    // 10.0.0.6 calls 10.0.0.5 in vain as well? No: 10.0.0.5 has called it by now, so it may call back.
    assert!(matches!(dial(&mut gateway, "10.0.0.6", first), Verdict::Forward { to: INSIDE, .. }));
    assert!(matches!(dial(&mut gateway, "10.0.0.5", second), Verdict::Forward { to: INSIDE, .. }));
    // A terminal may call itself.
    assert!(matches!(dial(&mut gateway, "10.0.0.5", first), Verdict::Forward { to: INSIDE, .. }));
    let mut off = Gateway::new(with_policy(settings(vec![pool("198.18.0.0/24", &[])]), |policy| {
        policy.hairpin = Hairpin::Off;
    }));
    let own = off.call("10.0.0.5", "192.0.2.1").unwrap();
    assert_eq!(dial(&mut off, "10.0.0.5", own), Verdict::Drop(DropReason::Hairpin));
}

#[test]
fn i7_an_error_about_a_hairpinned_packet_is_restored_on_both_sides() {
    let mut gateway = Gateway::new(with_policy(settings(vec![pool("198.18.0.0/24", &[])]), |policy| {
        policy.hairpin = Hairpin::Anyone;
    }));
    gateway.nat.set_own_inside(vec!["10.0.0.1".parse().unwrap()]);
    let called = gateway.call("10.0.0.6", "192.0.2.1").unwrap();
    let original = tcp("10.0.0.5", &called.to_string(), Flags::Syn);
    let mut received = original.clone();
    gateway.send(&mut received, INSIDE);
    let headers = Headers::parse(&received).unwrap();
    // From the called terminal, from a router inside, and from the gateway's own kernel.
    for (sender, realm, shown) in [
        ("10.0.0.6", INSIDE, called.to_string()),
        ("10.0.0.254", INSIDE, "10.0.0.1".to_owned()),
        ("10.0.0.1", Realm::Outside, "10.0.0.1".to_owned()),
    ] {
        let sender = sender.parse::<IpAddr>().unwrap().into();
        let mut error = crate::wire::unreachable(&received, &headers, sender, crate::wire::Refusal::Port).unwrap();
        assert_eq!(gateway.send(&mut error, realm), Verdict::Forward { to: INSIDE, event: None });
        let outer = Headers::parse(&error).unwrap();
        assert_eq!(IpAddr::from(outer.source).to_string(), shown);
        assert_eq!(IpAddr::from(outer.destination).to_string(), "10.0.0.5");
        assert!(crate::wire::is_intact(&error, &outer));
        assert_eq!(&error[28..], &original[..]);
    }
}

#[test]
fn an_address_of_our_own_is_shown_that_the_peer_knows() {
    let gateway = Gateway::with_pool("198.18.0.0/24");
    let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
    let own = ["fd00:9::1", "2001:db8::1", "10.9.0.1", "203.0.113.1", "192.0.2.1"];
    gateway.nat.set_own_outside(own.map(|text| text.parse().unwrap()).into());
    gateway.nat.set_outside_networks(["203.0.113.1/24", "192.0.2.1/24"].map(|text| text.parse().unwrap()).into());
    let surroundings = gateway.nat.surroundings();
    for (peer, shown) in [
        ("203.0.113.7", "203.0.113.1"),
        ("192.0.2.7", "192.0.2.1"),
        ("198.51.100.7", "203.0.113.1"),
        ("172.16.0.7", "10.9.0.1"),
        ("2001:db8:5::7", "2001:db8::1"),
        ("fd00:7::7", "fd00:9::1"),
    ] {
        assert_eq!(surroundings.own_outside(address(peer)), Some(address(shown)), "{peer}");
    }
    // The kernel knows the way; only an address inside is not for its errors.
    for (chosen, shown) in [("192.0.2.1", "192.0.2.1"), ("10.0.0.1", "203.0.113.1")] {
        let peer = address("203.0.113.7");
        assert_eq!(surroundings.source_of_our_own(address(chosen), peer), Some(address(shown)), "{chosen}");
    }
}

#[test]
fn r6_inbound_traffic_refreshes_only_if_configured() {
    const HOUR: Duration = Duration::from_secs(3600);
    for (inbound_refresh, expected) in
        [(InboundRefresh::Ignored, vec![EventKind::Dormant]), (InboundRefresh::Refreshes, vec![])]
    {
        let settings = settings(vec![pool("198.18.0.0/24", &[])]);
        let callback = CallbackPolicy::Anyone;
        let mut gateway = Gateway::new(with_policy(settings, |policy| {
            policy.inbound_refresh = inbound_refresh;
            policy.callback = callback;
        }));
        let virtual_ip = gateway.call("10.0.0.5", "192.0.2.1").unwrap();
        gateway.tick(20 * HOUR);
        gateway.callback("192.0.2.1", virtual_ip).unwrap();
        gateway.tick(Duration::from_secs(1));
        assert_eq!(gateway.tick(5 * HOUR), expected);
    }
}

#[test]
fn r8_a_binding_can_have_a_policy_of_its_own() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let [open, closed] = ["10.0.0.5", "10.0.0.6"].map(|terminal| gateway.call(terminal, "192.0.2.1").unwrap());
    gateway.nat.set_callback(&"10.0.0.5".parse().unwrap(), Some(&CallbackPolicy::Anyone), START).unwrap();
    assert!(gateway.callback("192.0.2.77", open).is_ok());
    assert_eq!(gateway.callback("192.0.2.77", closed), Err(DropReason::NotContacted));
    gateway.nat.set_callback(&open.into(), None, START).unwrap();
    assert_eq!(gateway.callback("192.0.2.77", open), Err(DropReason::NotContacted));
}

#[test]
fn t4_an_unsolicited_syn_hears_nothing_for_six_seconds() {
    for (unsolicited, first_byte_of_transport) in
        [(Unsolicited::Unreachable, Some(3)), (Unsolicited::Reset, Some(1)), (Unsolicited::Silent, None)]
    {
        let mut gateway = Gateway::new(with_policy(settings(vec![pool("198.18.0.0/24", &[])]), |policy| {
            policy.unsolicited = unsolicited;
        }));
        let virtual_ip = gateway.call("10.0.0.5", "192.0.2.1").unwrap();
        assert!(gateway.callback("192.0.2.66", virtual_ip).is_err());
        assert!(gateway.callback("192.0.2.67", virtual_ip).is_err());
        // 192.0.2.67 is called within the six seconds (simultaneous open): it hears nothing.
        gateway.call("10.0.0.5", "192.0.2.67").unwrap();
        let at = |seconds: u64| START + Duration::from_millis(seconds * 1000);
        assert_eq!(gateway.translator.overdue(START + Duration::from_millis(5999)), None);
        let answer = gateway.translator.overdue(at(6));
        assert_eq!(answer.as_ref().map(|answer| answer[20]), first_byte_of_transport);
        if let Some(answer) = answer {
            assert_eq!(IpAddr::from(Headers::parse(&answer).unwrap().destination).to_string(), "192.0.2.66");
        }
        assert_eq!(gateway.translator.overdue(at(60)), None);
        assert_eq!(gateway.translator.next_due(), None);
    }
}

#[test]
fn s_an_inside_address_that_comes_from_outside_is_spoofed() {
    let mut gateway = Gateway::new(with_policy(settings(vec![pool("198.18.0.0/24", &[])]), |policy| {
        policy.callback = CallbackPolicy::Anyone;
    }));
    let virtual_ip = gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    for source in ["10.0.0.77", "198.18.0.9", "127.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255"] {
        assert_eq!(gateway.callback(source, virtual_ip), Err(DropReason::SpoofedSource), "{source}");
    }
}

#[test]
fn rfc6296_a_prefix_pool_translates_both_ways_without_a_binding() {
    let mut npt = pool("2001:db8:1::/48", &[]);
    npt.kind = PoolKind::Prefix { internal: "fd00:1::/48".parse().unwrap(), inside: InsideNumber::new(0) };
    let mut gateway = Gateway::new(settings(vec![npt]));
    let original = tcp("fd00:1::5", "2001:db8:9::1", Flags::Ack);
    let mut packet = original.clone();
    assert_eq!(gateway.send(&mut packet, INSIDE), Verdict::Forward { to: Realm::Outside, event: None });
    assert_tcp_checksum_right(&packet);
    let shown = IpAddr::from(Headers::parse(&packet).unwrap().source);
    assert_eq!(gateway.callback("2001:db8:9::77", shown), Ok("fd00:1::5".parse().unwrap()));
    // An error about it is restored.
    let headers = Headers::parse(&packet).unwrap();
    let router = "2001:db8:9::fe".parse::<IpAddr>().unwrap().into();
    let mut error = crate::wire::unreachable(&packet, &headers, router, crate::wire::Refusal::Port).unwrap();
    assert_eq!(gateway.send(&mut error, Realm::Outside), Verdict::Forward { to: INSIDE, event: None });
    assert!(crate::wire::is_intact(&error, &Headers::parse(&error).unwrap()));
    assert_eq!(&error[48..], &original[..]);
    // Hairpin: one inside host calls another by its external address.
    let mut packet = tcp("fd00:1::6", &shown.to_string(), Flags::Syn);
    assert_eq!(gateway.send(&mut packet, INSIDE), Verdict::Forward { to: INSIDE, event: None });
    assert_eq!(IpAddr::from(Headers::parse(&packet).unwrap().destination).to_string(), "fd00:1::5");
    assert_eq!(gateway.nat.status().pools[0].active, 0);
}

#[test]
fn n7_the_listing_is_in_the_order_of_the_virtual_ips() {
    let mut gateway = Gateway::with_pool("198.18.0.0/16");
    for n in 0..200 {
        gateway.call(&format!("10.0.{n}.5"), "192.0.2.1").unwrap();
    }
    let mut seen = Vec::new();
    gateway.nat.for_each_binding(gateway.now, &mut |view| {
        seen.push(view.virtual_ip);
        true
    });
    assert_eq!(seen.len(), 200);
    assert!(seen.is_sorted());
}
