//! Answers: how long a binding is held that nobody has answered, and how many there may be.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const PEER: &str = "192.0.2.1";

fn terminal(n: u32) -> String {
    IpAddr::from(std::net::Ipv4Addr::from_bits(10 << 24 | n)).to_string()
}

fn v4(source: &str, destination: &str) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
    PacketBuilder::ipv4(octets(source), octets(destination), 64)
}

fn udp(source: &str, destination: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    v4(source, destination).udp(4000, 514).write(&mut bytes, b"datagram").unwrap();
    bytes
}

fn echo(is_request: bool, source: &str, destination: &str) -> Vec<u8> {
    let builder = v4(source, destination);
    let builder = if is_request { builder.icmpv4_echo_request(1, 1) } else { builder.icmpv4_echo_reply(1, 1) };
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"ping").unwrap();
    bytes
}

fn state(gateway: &Gateway, terminal: &str) -> Option<BindingState> {
    gateway.nat.find(terminal.parse().unwrap(), gateway.now).first().map(|view| view.state)
}

#[test]
fn s_a_binding_that_nobody_answers_is_held_for_a_short_time_and_an_answered_one_for_long() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    gateway.call_in_vain("10.0.0.5", PEER).unwrap();
    let answered = gateway.call("10.0.0.6", PEER).unwrap();
    assert_eq!(gateway.tick(299 * SECOND), []);
    assert_eq!(gateway.tick(2 * SECOND), [EventKind::Dormant]);
    assert_eq!(
        (state(&gateway, "10.0.0.5"), state(&gateway, "10.0.0.6")),
        (Some(BindingState::Dormant), Some(BindingState::Active))
    );
    assert_eq!(gateway.tick(23 * 3600 * SECOND), [EventKind::Released], "and not reserved for days");
    assert_eq!(gateway.callback(PEER, answered), Ok("10.0.0.6".parse().unwrap()));
}

#[test]
fn s_every_first_answer_counts_whatever_its_protocol_and_no_call_does() {
    let syn_ack = |virtual_ip: &str| tcp(PEER, virtual_ip, Flags::SynAck);
    let datagram = |virtual_ip: &str| udp(PEER, virtual_ip);
    let reply = |virtual_ip: &str| echo(false, PEER, virtual_ip);
    let callback = |virtual_ip: &str| tcp(PEER, virtual_ip, Flags::Syn);
    let ping = |virtual_ip: &str| echo(true, PEER, virtual_ip);
    let stranger = |virtual_ip: &str| udp("192.0.2.99", virtual_ip);
    type Make<'a> = &'a dyn Fn(&str) -> Vec<u8>;
    for (number, packet, expected) in [
        (1, &syn_ack as Make<'_>, true),
        (2, &datagram, true),
        (3, &reply, true),
        (4, &callback, false),
        (5, &ping, false),
        (6, &stranger, false),
    ] {
        let callback = CallbackPolicy::Anyone;
        let mut gateway = Gateway::new(with_policy(settings(vec![pool("198.18.0.0/24", &[])]), |policy| {
            policy.callback = callback;
        }));
        let virtual_ip = gateway.call_in_vain("10.0.0.5", PEER).unwrap().to_string();
        let verdict = gateway.send(&mut packet(&virtual_ip), Realm::Outside);
        assert!(matches!(verdict, Verdict::Forward { .. }), "{number}: {verdict:?}");
        gateway.tick(SECOND);
        let view = gateway.nat.find("10.0.0.5".parse().unwrap(), gateway.now).remove(0);
        assert_eq!(view.answered, expected, "{number}");
    }
}

#[test]
fn s_an_answer_behind_a_callback_is_seen_though_the_flow_is_known() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let virtual_ip = gateway.call_in_vain("10.0.0.5", PEER).unwrap();
    gateway.callback(PEER, virtual_ip).unwrap();
    gateway.send(&mut tcp(PEER, &virtual_ip.to_string(), Flags::Ack), Realm::Outside);
    assert!(gateway.nat.find(virtual_ip, gateway.now)[0].answered);
}

#[test]
fn s_who_only_sends_keeps_its_binding_for_as_long_as_it_does() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let send = |gateway: &mut Gateway| {
        let mut packet = udp("10.0.0.5", PEER);
        assert!(matches!(gateway.send(&mut packet, INSIDE), Verdict::Forward { .. }));
        IpAddr::from(Headers::parse(&packet).unwrap().source)
    };
    let virtual_ip = send(&mut gateway);
    for _ in 0..10 {
        assert_eq!(gateway.tick(200 * SECOND), []);
        assert_eq!(send(&mut gateway), virtual_ip);
    }
    // And after a pause it is the same one that wakes.
    assert_eq!(gateway.tick(310 * SECOND), [EventKind::Dormant]);
    assert_eq!(send(&mut gateway), virtual_ip);
}

#[test]
fn s_spoofed_packets_take_half_of_a_pool_and_give_it_back() {
    let mut settings = settings(vec![pool("198.18.0.0/24", &[])]);
    settings.policy.creation.unanswered = Some(16_384);
    let mut gateway = Gateway::new(settings);
    let honest: Vec<IpAddr> = (1..=6).map(|n| gateway.call(&terminal(n), PEER).unwrap()).collect();
    let taken = (1000..2000).filter(|n| gateway.call_in_vain(&terminal(*n), PEER).is_ok()).count();
    assert_eq!(taken, 125, "half of what is left");
    assert_eq!(gateway.nat.status().drops["unanswered"], 875);
    assert_eq!(gateway.call_in_vain(&terminal(7), PEER), Err(DropReason::Unanswered));
    for (n, virtual_ip) in (1..).zip(honest) {
        assert_eq!(gateway.call(&terminal(n), PEER), Ok(virtual_ip));
    }
    gateway.tick(301 * SECOND);
    assert!(gateway.call(&terminal(7), PEER).is_ok(), "once they are silent");
}

#[test]
fn s_a_pool_that_spoofed_packets_fill_gives_way_in_minutes_and_none_that_was_answered_goes_for_it() {
    let mut settings = settings(vec![pool("198.18.0.0/25", &[])]);
    settings.policy.creation.unanswered = Some(16_384);
    let mut gateway = Gateway::new(settings);
    let early = gateway.call(&terminal(1), PEER).unwrap();
    gateway.tick(25 * 3600 * SECOND); // asleep for longer than they will be
    let mut filled = 0;
    for round in 1..6 {
        filled += (1000..1100).filter(|n| gateway.call_in_vain(&terminal(round * 1000 + n), PEER).is_ok()).count();
        gateway.tick(301 * SECOND);
    }
    assert_eq!(filled, 127);
    let newcomers: Vec<String> = (2..12).map(terminal).collect();
    for newcomer in &newcomers {
        let _ = gateway.call(newcomer, PEER);
    }
    gateway.tick(120 * SECOND);
    assert!(newcomers.iter().all(|newcomer| gateway.call(newcomer, PEER).is_ok()), "ten at once");
    assert_eq!(gateway.call(&terminal(1), PEER), Ok(early));
}

#[test]
fn s_answers_outlive_a_restart() {
    let mut before = Gateway::with_pool("198.18.0.0/24");
    before.call("10.0.0.5", PEER).unwrap();
    before.call_in_vain("10.0.0.6", PEER).unwrap();
    let mut after = Gateway::with_pool("198.18.0.0/24");
    after.nat.restore(before.nat.stored_bindings(), START);
    assert_eq!(after.tick(301 * SECOND), [EventKind::Dormant]);
    assert_eq!(
        (state(&after, "10.0.0.5"), state(&after, "10.0.0.6")),
        (Some(BindingState::Active), Some(BindingState::Dormant))
    );
}

fn under(callback: CallbackPolicy) -> Gateway {
    Gateway::new(with_policy(settings(vec![pool("198.18.0.0/24", &[])]), |policy| {
        policy.callback = callback;
    }))
}

#[test]
fn s_under_answered_a_peer_calls_once_it_has_answered_and_not_before() {
    let answers: [fn(&str) -> Vec<u8>; 3] =
        [|to| tcp(PEER, to, Flags::SynAck), |to| udp(PEER, to), |to| echo(false, PEER, to)];
    for (number, answer) in answers.into_iter().enumerate() {
        let mut gateway = under(CallbackPolicy::Answered);
        let virtual_ip = gateway.call_in_vain("10.0.0.5", PEER).unwrap();
        assert_eq!(gateway.callback(PEER, virtual_ip), Err(DropReason::NotAnswered), "{number}");
        let ping = gateway.send(&mut echo(true, PEER, &virtual_ip.to_string()), Realm::Outside);
        assert_eq!(ping, Verdict::Drop(DropReason::NotAnswered), "{number}");
        let verdict = gateway.send(&mut answer(&virtual_ip.to_string()), Realm::Outside);
        assert!(matches!(verdict, Verdict::Forward { .. }), "{number}: {verdict:?}");
        assert_eq!(gateway.callback(PEER, virtual_ip), Ok("10.0.0.5".parse().unwrap()), "{number}");
        assert_eq!(gateway.callback("192.0.2.2", virtual_ip), Err(DropReason::NotContacted), "{number}");
        // Another peer has answered nothing, though the binding is answered.
        gateway.call_in_vain("10.0.0.5", "192.0.2.3").unwrap();
        assert_eq!(gateway.callback("192.0.2.3", virtual_ip), Err(DropReason::NotAnswered), "{number}");
    }
}

#[test]
fn s_who_has_answered_is_remembered_across_restarts_and_reloads_and_told_to_who_asks() {
    let mut gateway = under(CallbackPolicy::Contacted);
    let virtual_ip = gateway.call("10.0.0.5", PEER).unwrap();
    gateway.call_in_vain("10.0.0.5", "192.0.2.3").unwrap();
    let answered = with_policy(settings(vec![pool("198.18.0.0/24", &[])]), |policy| {
        policy.callback = CallbackPolicy::Answered;
    });
    let mut restarted = Gateway::new(answered.clone());
    restarted.nat.restore(gateway.nat.stored_bindings(), START);
    let (reloaded, _) = gateway.nat.prepare_reload(answered, START).unwrap().commit();
    gateway.translator.switch_to(Arc::clone(&reloaded));
    gateway.nat = reloaded;
    for gateway in [&mut restarted, &mut gateway] {
        assert_eq!(gateway.callback(PEER, virtual_ip), Ok("10.0.0.5".parse().unwrap()));
        assert_eq!(gateway.callback("192.0.2.3", virtual_ip), Err(DropReason::NotAnswered));
        let view = gateway.nat.find(virtual_ip, START).remove(0);
        assert_eq!((view.contacts, view.contacts_answered), (2, 1));
        let policy = "only peers that the terminal has called and that have answered it (as all)";
        assert_eq!(view.callback.as_deref(), Some(policy));
    }
}

#[test]
fn s_one_binding_or_one_pool_can_ask_for_answers() {
    let strict = PoolSettings { callback: Some(CallbackPolicy::Answered), ..pool("198.18.0.0/24", &[]) };
    let mut gateway = Gateway::new(settings(vec![strict]));
    let virtual_ip = gateway.call_in_vain("10.0.0.5", PEER).unwrap();
    assert_eq!(gateway.callback(PEER, virtual_ip), Err(DropReason::NotAnswered));
    gateway.nat.set_callback(&virtual_ip.into(), Some(&CallbackPolicy::Contacted), START).unwrap();
    assert!(gateway.callback(PEER, virtual_ip).is_ok());
    let mut gateway = under(CallbackPolicy::Anyone);
    let virtual_ip = gateway.call_in_vain("10.0.0.5", PEER).unwrap();
    gateway.nat.set_callback(&virtual_ip.into(), Some(&CallbackPolicy::Answered), START).unwrap();
    assert_eq!(gateway.callback(PEER, virtual_ip), Err(DropReason::NotAnswered));
}

#[test]
fn r8_five_thousand_peers_answer_late_and_none_is_unsolicited() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let peer = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(192 << 24 | 1 << 16 | n)).to_string();
    let mut virtual_ip = None;
    for n in 0..5000 {
        let mut packet = udp("10.0.0.5", &peer(n));
        assert!(matches!(gateway.send(&mut packet, INSIDE), Verdict::Forward { .. }));
        virtual_ip = Some(IpAddr::from(Headers::parse(&packet).unwrap().source));
        gateway.now = gateway.now + Duration::from_millis(10);
    }
    let virtual_ip = virtual_ip.unwrap();
    gateway.tick(120 * SECOND);
    let answer = |gateway: &mut Gateway, n| gateway.send(&mut udp(&peer(n), &virtual_ip.to_string()), Realm::Outside);
    for n in 0..5000 {
        let verdict = answer(&mut gateway, n);
        assert!(matches!(verdict, Verdict::Forward { .. }), "{n}: {verdict:?}");
    }
    // Later the limit holds, and what it costs has a name.
    gateway.tick(240 * SECOND);
    gateway.send(&mut udp("10.0.0.5", &peer(9999)), INSIDE);
    let view = gateway.nat.find(virtual_ip, gateway.now).remove(0);
    assert!((1000..=1024).contains(&view.contacts), "{}", view.contacts);
    assert_eq!(u64::from(view.contacts) + view.contacts_forgotten, 5001);
    assert_eq!(answer(&mut gateway, 3000), Verdict::Drop(DropReason::ContactForgotten));
    assert!(matches!(answer(&mut gateway, 4990), Verdict::Forward { .. }), "the youngest stay");
    let stranger = gateway.send(&mut udp("192.0.2.77", &virtual_ip.to_string()), Realm::Outside);
    assert_eq!(stranger, Verdict::Drop(DropReason::NotContacted));
    assert_eq!(gateway.nat.status().drops["contact_forgotten"], 1);
}

#[test]
fn what_was_dropped_up_to_now_is_told_at_once() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    for (n, packets) in [(1, 3), (2, 1)] {
        for _ in 0..packets {
            let verdict = gateway.send(&mut udp(PEER, "198.18.0.9"), Realm::Outside);
            assert_eq!(verdict, Verdict::Drop(DropReason::NoBinding));
        }
        for _ in 0..2 {
            let told = gateway.nat.dropped(n == 2, gateway.now);
            let rows: Vec<_> = told.rows.iter().map(|row| (row.packets, row.other.is_some())).collect();
            assert_eq!(rows, [(2 + n, true), (2 + n, true)], "{told:?}");
        }
    }
}

#[test]
fn since_when_a_peer_may_call_is_told_and_whether_it_has() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let virtual_ip = gateway.call("10.0.0.5", PEER).unwrap();
    gateway.tick(60 * SECOND);
    gateway.call("10.0.0.5", "192.0.2.3").unwrap();
    gateway.tick(60 * SECOND);
    gateway.call("10.0.0.5", PEER).unwrap();
    let told = |gateway: &mut Gateway| {
        gateway.translator.flush(gateway.now);
        let mut list =
            gateway.nat.find_with_contacts(&virtual_ip.into(), 9, gateway.now).remove(0).contact_list.unwrap();
        list.sort_by_key(|contact| contact.since);
        list.iter()
            .map(|contact| (contact.since.unwrap() - START, contact.last_called - START, contact.direction))
            .collect::<Vec<_>>()
    };
    let (zero, one, two) = (Duration::ZERO, 60 * SECOND, 120 * SECOND);
    assert_eq!(told(&mut gateway), [(zero, two, Direction::Called), (one, one, Direction::Called)]);
    // Both ways of a packet: decided anew, and of a flow that the worker knows.
    for peer in ["192.0.2.3", PEER] {
        gateway.send(&mut tcp(peer, &virtual_ip.to_string(), Flags::SynAck), Realm::Outside);
        let before = told(&mut gateway);
        gateway.callback(peer, virtual_ip).unwrap();
        assert_ne!(told(&mut gateway), before, "{peer}");
    }
    assert_eq!(told(&mut gateway), [(zero, two, Direction::CalledBack), (one, one, Direction::CalledBack)]);
}

#[test]
fn who_may_call_a_terminal_is_told_with_where_that_comes_from() {
    let strict = PoolSettings { callback: Some(CallbackPolicy::Answered), ..pool("198.18.0.0/24", &[]) };
    let mut gateway = Gateway::new(settings(vec![strict, pool("fd00:2::/64", &[])]));
    let virtual_ip = gateway.call("10.0.0.5", PEER).unwrap();
    gateway.tick(60 * SECOND);
    gateway.call_in_vain("10.0.0.5", "192.0.2.3").unwrap();
    let other = gateway.call("fd00:1::5", "2001:db8::1").unwrap();

    let shown = |gateway: &Gateway, address: IpAddr, most| {
        gateway.nat.find_with_contacts(&address.into(), most, gateway.now).remove(0)
    };
    let view = shown(&gateway, virtual_ip, 10);
    let policy = view.policy.clone().unwrap();
    assert_eq!((policy.callback, policy.from), (vec!["answered".to_owned()], PolicyFrom::Pool));
    let contacts = view.contact_list.clone().unwrap();
    let told: Vec<_> = contacts.iter().map(|c| (c.peer.to_string(), c.answered, c.may_call, c.seconds_left)).collect();
    let day = 24 * 3600;
    assert_eq!(told, [("192.0.2.3".to_owned(), false, false, day), (PEER.to_owned(), true, true, day - 60)]);
    assert_eq!(contacts[1].last_called, START);
    let later = view.shown(3600).contact_list.unwrap();
    assert_eq!(later[1].last_called, START + Duration::from_secs(3600), "by the wall clock");
    assert_eq!(later[1].since, Some(later[1].last_called));
    assert!(contacts.iter().all(|contact| contact.direction == Direction::Called), "an answer is no call");
    assert_eq!(shown(&gateway, virtual_ip, 1).contact_list.unwrap().len(), 1, "the latest alone");
    assert_eq!(shown(&gateway, other, 10).policy.unwrap().from, PolicyFrom::Gateway);

    // Where many are listed, what is not as all others stands out.
    let listed = |gateway: &Gateway| gateway.nat.of_virtual_ip(virtual_ip, gateway.now).unwrap().policy;
    assert_eq!(listed(&gateway), None);
    gateway.nat.set_callback(&virtual_ip.into(), Some(&CallbackPolicy::Anyone), gateway.now).unwrap();
    let own = PolicyView { callback: vec!["anyone".to_owned()], from: PolicyFrom::Binding };
    assert_eq!(listed(&gateway), Some(own.clone()));
    let view = shown(&gateway, virtual_ip, 10);
    assert!(view.policy == Some(own) && view.contact_list.unwrap().iter().all(|contact| contact.may_call));
}
