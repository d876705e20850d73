//! Bindings that outlive the translator.

use super::*;
use proptest::prelude::*;

fn all(gateway: &Gateway) -> Vec<StoredBinding> {
    gateway.nat.stored_bindings().collect()
}

#[test]
fn n6_what_is_stored_and_restored_is_as_it_was() {
    let pools = || vec![pool("198.18.0.0/24", &[]), pool("fd00:2::/64", &[])];
    let mut before = Gateway::new(settings(pools()));
    let first = before.call("10.0.0.1", "192.0.2.1").unwrap();
    let second = before.call("fd00:1::2", "2001:db8::1").unwrap();
    let (pinned, _) = before.nat.pin("10.0.0.3".parse().unwrap(), "198.18.0.33".parse().unwrap(), START).unwrap();
    before.nat.set_callback(&first.into(), Some(&CallbackPolicy::Anyone), START).unwrap();
    before.callback("192.0.2.1", first).unwrap();
    before.translator.flush(START);
    let stored = all(&before);

    let mut after = Gateway::new(settings(pools()));
    let restored = after.nat.restore(stored.clone(), START);
    assert_eq!((restored.kept, restored.misfits.len(), restored.changed.len()), (3, 0, 0));
    assert_eq!(all(&after), stored);
    assert_eq!(after.callback("192.0.2.99", first), Ok("10.0.0.1".parse().unwrap()), "its own policy");
    assert_eq!(after.callback("2001:db8::1", second), Ok("fd00:1::2".parse().unwrap()), "its contact");
    assert_eq!(after.callback("2001:db8::9", second), Err(DropReason::NotContacted));
    assert_eq!(after.call("10.0.0.3", "192.0.2.1").unwrap(), pinned.virtual_ip);
    assert_eq!(after.call("10.0.0.1", "192.0.2.1").unwrap(), first);
}

#[test]
fn c8_a_restored_binding_has_what_was_left_of_its_time_and_a_quarantine_counts_on() {
    let mut before = Gateway::with_pool("198.18.0.0/30");
    let idle = before.call("10.0.0.1", "192.0.2.1").unwrap();
    let ended = before.call("10.0.0.2", "192.0.2.1").unwrap();
    before.nat.release(ended, START).unwrap();
    let stored = all(&before);

    let mut soon = Gateway::with_pool("198.18.0.0/30");
    soon.now = START + Duration::from_millis(100_500);
    soon.nat.restore(stored.clone(), soon.now);
    assert_eq!(soon.nat.find(ended, soon.now)[0].seconds_left, Some(20));
    assert_eq!(soon.tick(Duration::from_secs(19)), []);
    assert_eq!(soon.tick(Duration::from_secs(1)), [EventKind::Freed]);

    // A file of before that was noted: nobody knows what is left of it.
    let stored: Vec<_> = stored.into_iter().map(|binding| StoredBinding { ended: 0, ..binding }).collect();

    let mut after = Gateway::with_pool("198.18.0.0/30");
    after.now = START + Duration::from_secs(23 * 3600);
    after.nat.restore(stored, after.now);
    assert_eq!(after.callback("192.0.2.1", ended), Err(DropReason::NoBinding));
    assert_ne!(after.call("10.0.0.9", "192.0.2.1").unwrap(), ended, "belongs to nobody for two minutes");
    assert_eq!(after.tick(Duration::from_secs(119)), []);
    assert_eq!(after.tick(Duration::from_secs(2)), [EventKind::Freed]);
    assert_eq!(after.tick(Duration::from_secs(3600)), [EventKind::Dormant]);
    assert_eq!(after.callback("192.0.2.1", idle), Err(DropReason::Dormant));
    assert_eq!(after.call("10.0.0.1", "192.0.2.1").unwrap(), idle);
}

#[test]
fn c11_restored_dormant_bindings_make_room_in_their_order() {
    let stored = |n: u8, last_used| StoredBinding {
        answered: true,
        inside: "inside".into(),
        terminal: IpAddr::from([10, 0, 0, n]),
        virtual_ip: IpAddr::from([198, 18, 0, n]),
        state: BindingState::Dormant,
        pinned: false,
        created: 1,
        last_used,
        ended: 0,
        packets_out: 0,
        packets_in: 0,
        bytes_out: 0,
        bytes_in: 0,
        callbacks: 0,
        callback: None,
        contacts: Vec::new(),
    };
    let mut gateway = Gateway::with_pool("198.18.0.0-198.18.0.2");
    let long_ago = START.as_secs() - 100_000;
    gateway.nat.restore([stored(0, long_ago + 9), stored(1, long_ago), stored(2, long_ago + 5)], START);
    assert_eq!(gateway.call("10.9.9.9", "192.0.2.1"), Err(DropReason::PoolExhausted));
    let ended: Vec<IpAddr> = all(&gateway)
        .iter()
        .filter(|binding| binding.state == BindingState::Quarantined)
        .map(|binding| binding.virtual_ip)
        .collect();
    assert_eq!(ended, [IpAddr::from([198, 18, 0, 1])]);
}

#[test]
fn of_two_bindings_of_one_terminal_the_younger_stays_and_the_other_is_quarantined() {
    let mut before = Gateway::with_pool("198.18.0.0/24");
    before.call("10.0.0.1", "192.0.2.1").unwrap();
    let older = StoredBinding { created: 5, virtual_ip: "198.18.0.7".parse().unwrap(), ..all(&before).remove(0) };
    let younger = StoredBinding { created: 9, virtual_ip: "198.18.0.8".parse().unwrap(), ..older.clone() };
    for order in [[older.clone(), younger.clone()], [younger.clone(), older.clone()]] {
        let mut after = Gateway::with_pool("198.18.0.0/24");
        let restored = after.nat.restore(order, START);
        assert_eq!((restored.kept, restored.changed), (2, vec![older.virtual_ip]));
        assert_eq!(after.call("10.0.0.1", "192.0.2.1").unwrap(), younger.virtual_ip);
        assert_eq!(after.callback("192.0.2.1", older.virtual_ip), Err(DropReason::NoBinding));
    }
}

#[test]
fn what_fits_no_pool_or_inside_is_named_and_its_virtual_ip_given_to_nobody_else() {
    let mut before = Gateway::with_pool("198.18.0.0/31");
    before.call("10.0.0.1", "192.0.2.1").unwrap();
    let there = all(&before).remove(0);
    let elsewhere = StoredBinding { virtual_ip: "198.19.0.1".parse().unwrap(), ..there.clone() };
    let other_inside = StoredBinding { inside: "gone".into(), ..there };
    let mut after = Gateway::with_pool("198.18.0.0/31");
    let restored = after.nat.restore([other_inside.clone(), elsewhere], START);
    let why: Vec<Unfit> = restored.misfits.iter().map(|misfit| misfit.why).collect();
    assert_eq!((restored.kept, why), (0, vec![Unfit::NoInside, Unfit::NotInAPool]));
    assert_ne!(after.call("10.0.0.8", "192.0.2.1").unwrap(), other_inside.virtual_ip);
    assert_eq!(after.call("10.0.0.9", "192.0.2.1"), Err(DropReason::PoolExhausted));
}

#[test]
fn n3_every_packet_of_a_binding_asks_to_be_recorded_until_it_is() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    gateway.nat.start_recording();
    let mut second = gateway.nat.translator();
    let kinds = |translator: &mut Translator| kind_of_call(translator, "192.0.2.1", START);
    assert_eq!(kinds(&mut gateway.translator), Some(EventKind::Created));
    assert_eq!(kinds(&mut gateway.translator), Some(EventKind::Unrecorded));
    assert_eq!(kinds(&mut second), Some(EventKind::Unrecorded), "another worker overtakes neither");
    let virtual_ip = gateway.nat.find("10.0.0.5".parse().unwrap(), START)[0].virtual_ip;
    let (stored, receipt) = gateway.nat.stored(virtual_ip).unwrap();
    assert_eq!(stored.terminal, "10.0.0.5".parse::<IpAddr>().unwrap());
    gateway.nat.mark_recorded(&receipt);
    assert_eq!(kinds(&mut gateway.translator), Some(EventKind::Contacted), "its contact is not on record");
    assert_eq!(record(&gateway.nat, virtual_ip), ["192.0.2.1"]);
    assert_eq!((kinds(&mut gateway.translator), kinds(&mut second)), (None, None));
}

/// What comes with a call of 10.0.0.5.
fn kind_of_call(translator: &mut Translator, peer: &str, now: Time) -> Option<EventKind> {
    let mut packet = tcp("10.0.0.5", peer, Flags::Syn);
    match translator.translate(&mut Packet::new(&mut packet), INSIDE, now) {
        Verdict::Forward { event, .. } => event.map(|event| event.kind),
        other => panic!("{other:?}"),
    }
}

/// A binding is on record, with the contacts that are unrecorded: these.
fn record(nat: &Nat, virtual_ip: IpAddr) -> Vec<String> {
    let (_, mut receipt) = nat.stored(virtual_ip).unwrap();
    let contacts = nat.unrecorded_contacts(virtual_ip, &mut receipt);
    nat.mark_recorded(&receipt);
    contacts.iter().map(|contact| contact.peer.to_string()).collect()
}

#[test]
fn n6_a_new_contact_and_a_waking_ask_to_be_recorded_before_a_packet_leaves() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    gateway.nat.start_recording();
    let mut second = gateway.nat.translator();
    let first = &mut gateway.translator;
    assert_eq!(kind_of_call(first, "192.0.2.1", START), Some(EventKind::Created));
    let virtual_ip = gateway.nat.find("10.0.0.5".parse().unwrap(), START)[0].virtual_ip;
    assert_eq!(record(&gateway.nat, virtual_ip), ["192.0.2.1"]);

    for _ in 0..2 {
        assert_eq!(kind_of_call(first, "192.0.2.2", START), Some(EventKind::Contacted));
        assert_eq!(kind_of_call(&mut second, "192.0.2.2", START), Some(EventKind::Contacted));
    }
    assert_eq!(kind_of_call(first, "192.0.2.1", START), None, "other flows of the terminal go on");
    assert_eq!(record(&gateway.nat, virtual_ip), ["192.0.2.2"]);
    assert_eq!(kind_of_call(first, "192.0.2.2", START), None);
    assert_eq!(gateway.nat.changed_contacts(), [], "nothing is left for later");

    // On record they are too old to count by then.
    let later = START + Duration::from_secs(25 * 3600);
    gateway.nat.tick(later, &mut |_| ());
    assert_eq!(kind_of_call(first, "192.0.2.1", later), Some(EventKind::Woken));
    assert_eq!(kind_of_call(&mut second, "192.0.2.2", later), Some(EventKind::Contacted));
    assert_eq!(record(&gateway.nat, virtual_ip), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(kind_of_call(&mut second, "192.0.2.1", later), None);
    assert_eq!(kind_of_call(first, "192.0.2.2", later), None);
}

#[test]
fn what_cannot_be_recorded_of_a_known_binding_is_told_later_and_no_packet_waits() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    gateway.nat.start_recording();
    let first = &mut gateway.translator;
    kind_of_call(first, "192.0.2.1", START);
    let virtual_ip = gateway.nat.find("10.0.0.5".parse().unwrap(), START)[0].virtual_ip;
    gateway.nat.let_go(virtual_ip);
    assert_eq!(kind_of_call(first, "192.0.2.1", START), Some(EventKind::Unrecorded), "a new one is not let go");
    record(&gateway.nat, virtual_ip);
    assert_eq!(kind_of_call(first, "192.0.2.2", START), Some(EventKind::Contacted));
    gateway.nat.let_go(virtual_ip);
    assert_eq!(kind_of_call(first, "192.0.2.2", START), None);
    gateway.nat.refuse_unrecorded(true);
    assert_eq!(kind_of_call(first, "192.0.2.3", START), None);
    let told: Vec<String> = gateway.nat.changed_contacts().iter().map(|key| key.peer.to_string()).collect();
    assert_eq!(told, ["192.0.2.2", "192.0.2.3"]);
}

#[test]
fn while_nothing_can_be_recorded_new_bindings_are_refused_and_others_go_on() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let known = gateway.call("10.0.0.1", "192.0.2.1").unwrap();
    gateway.nat.refuse_unrecorded(true);
    assert_eq!(gateway.call("10.0.0.2", "192.0.2.1"), Err(DropReason::CannotRecord));
    assert_eq!(gateway.call("10.0.0.1", "192.0.2.7").unwrap(), known);
    gateway.nat.refuse_unrecorded(false);
    gateway.call("10.0.0.2", "192.0.2.1").unwrap();
}

#[test]
fn contacts_are_told_once_again_while_in_use_and_when_they_make_room() {
    let mut few = settings(vec![pool("198.18.0.0/24", &[])]);
    few.policy.lifetimes.contacts_per_binding = 1;
    let mut gateway = Gateway::new(few);
    gateway.nat.start_recording();
    let last = |gateway: &Gateway| {
        let changes = gateway.nat.changed_contacts();
        let now = changes.iter().filter_map(|key| gateway.nat.contact_now(key));
        now.map(|change| (change.peer.to_string(), change.contact.is_some())).collect::<Vec<_>>()
    };
    let virtual_ip = gateway.call_in_vain("10.0.0.1", "192.0.2.1").unwrap();
    gateway.call_in_vain("10.0.0.1", "192.0.2.1").unwrap();
    assert_eq!((record(&gateway.nat, virtual_ip), last(&gateway)), (vec!["192.0.2.1".to_owned()], Vec::new()));
    gateway.now = START + Duration::from_secs(61);
    gateway.call_in_vain("10.0.0.1", "192.0.2.1").unwrap();
    assert_eq!(last(&gateway), [("192.0.2.1".to_owned(), true)]);
    gateway.call_in_vain("10.0.0.1", "192.0.2.2").unwrap();
    assert_eq!(last(&gateway), [("192.0.2.1".to_owned(), false)]);
    assert_eq!(record(&gateway.nat, virtual_ip), ["192.0.2.2"]);
    // One that goes and comes back before the store has been told.
    for peer in ["192.0.2.1", "192.0.2.2"] {
        gateway.now = gateway.now + Duration::from_secs(5);
        gateway.call_in_vain("10.0.0.1", peer).unwrap();
        assert_eq!(record(&gateway.nat, virtual_ip), [peer]);
    }
    assert_eq!(last(&gateway), [("192.0.2.2".to_owned(), true), ("192.0.2.1".to_owned(), false)]);
}

/// Another gateway is told of every change of this one, as a cluster tells it.
fn tell(from: &Gateway, to: &Gateway) -> Restored {
    to.nat.restore(all(from), to.now)
}

/// As they are stored, but for what each gateway counts itself, and contacts that count no more.
fn known(gateway: &Gateway) -> Vec<StoredBinding> {
    let now = gateway.now.as_secs();
    let uncounted = |mut binding: StoredBinding| {
        binding.contacts.retain(|contact| contact.last + 86_400 > now);
        StoredBinding { packets_out: 0, packets_in: 0, bytes_out: 0, bytes_in: 0, callbacks: 0, ..binding }
    };
    all(gateway).into_iter().map(uncounted).collect()
}

#[test]
fn what_another_gateway_has_changed_is_taken_over_by_a_table_in_use() {
    let (mut one, mut other) = (Gateway::with_pool("198.18.0.0/24"), Gateway::with_pool("198.18.0.0/24"));
    let virtual_ip = one.call("10.0.0.1", "192.0.2.1").unwrap();
    let own = other.call("10.0.0.2", "192.0.2.1").unwrap();
    assert_eq!((tell(&one, &other).kept, other.callback("192.0.2.1", virtual_ip).is_ok()), (1, true));
    assert_eq!(other.callback("192.0.2.2", virtual_ip), Err(DropReason::NotContacted));

    // A new contact, a policy and a pin reach a worker that remembers otherwise; what this gateway knows itself stays.
    one.call("10.0.0.1", "192.0.2.2").unwrap();
    other.call("10.0.0.1", "192.0.2.3").unwrap();
    tell(&one, &other);
    for peer in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        assert_eq!(other.callback(peer, virtual_ip), Ok("10.0.0.1".parse().unwrap()), "{peer}");
    }
    one.nat.set_callback(&virtual_ip.into(), Some(&CallbackPolicy::Anyone), one.now).unwrap();
    one.nat.pin("10.0.0.1".parse().unwrap(), virtual_ip, one.now).unwrap();
    tell(&one, &other);
    assert!(other.callback("192.0.2.9", virtual_ip).is_ok());
    assert!(other.nat.find(virtual_ip, other.now)[0].pinned);

    // A use there keeps it awake here, and wakes it.
    let day = Duration::from_secs(25 * 3600);
    one.call("10.0.0.3", "192.0.2.1").unwrap();
    tell(&one, &other);
    other.tick(day);
    one.now = other.now;
    let asleep = other.nat.find("10.0.0.3".parse().unwrap(), other.now)[0].virtual_ip;
    assert_eq!(other.callback("192.0.2.1", asleep), Err(DropReason::Dormant));
    assert_eq!(one.call("10.0.0.3", "192.0.2.1").unwrap(), asleep);
    tell(&one, &other);
    assert!(other.callback("192.0.2.1", asleep).is_ok());

    // An end there is one here, and no later word of it takes that back.
    let before = all(&one);
    one.nat.release(virtual_ip, one.now).unwrap();
    tell(&one, &other);
    assert_eq!(other.callback("192.0.2.1", virtual_ip), Err(DropReason::NoBinding));
    other.nat.restore(before, other.now);
    assert_eq!(other.callback("192.0.2.1", virtual_ip), Err(DropReason::NoBinding));
    assert!(!all(&other).iter().any(|binding| binding.terminal == own), "and its own go on");
    assert!(other.nat.find(own, other.now).len() == 1);
}

#[test]
fn a_terminal_that_lost_its_virtual_ip_and_has_another_is_told_of_in_one_go() {
    let (mut one, mut other) = (Gateway::with_pool("198.18.0.0/30"), Gateway::with_pool("198.18.0.0/30"));
    for _ in 0..3 {
        let virtual_ip = one.call("10.0.0.1", "192.0.2.1").unwrap();
        tell(&one, &other);
        one.nat.release(virtual_ip, one.now).unwrap();
        // In the same second: the time says nothing of which came first.
        let next = one.call("10.0.0.1", "192.0.2.1").unwrap();
        tell(&one, &other);
        assert_eq!(other.callback("192.0.2.1", next), Ok("10.0.0.1".parse().unwrap()));
        assert_eq!(other.callback("192.0.2.1", virtual_ip), Err(DropReason::NoBinding));
        one.nat.release(next, one.now).unwrap();
        tell(&one, &other);
        one.tick(Duration::from_secs(200));
        other.tick(Duration::from_secs(200));
    }
}

#[test]
fn a_virtual_ip_that_two_gateways_have_given_stays_with_each_and_is_told() {
    let (mut one, mut other) = (Gateway::with_pool("198.18.0.7"), Gateway::with_pool("198.18.0.7"));
    let virtual_ip = one.call("10.0.0.1", "192.0.2.1").unwrap();
    other.call("10.0.0.2", "192.0.2.1").unwrap();
    let restored = tell(&one, &other);
    assert_eq!(restored.misfits.iter().map(|misfit| misfit.why).collect::<Vec<_>>(), [Unfit::Taken]);
    assert_eq!(other.callback("192.0.2.1", virtual_ip), Ok("10.0.0.2".parse().unwrap()));
    // One that had it before is no obstacle to who has it now.
    other.nat.release(virtual_ip, other.now).unwrap();
    one.nat.release(virtual_ip, one.now).unwrap();
    one.tick(Duration::from_secs(200));
    other.tick(Duration::from_secs(100)); // its quarantine lasts on, by its clock
    one.call("10.0.0.3", "192.0.2.1").unwrap();
    let restored = tell(&one, &other);
    assert_eq!((restored.kept, restored.misfits.len()), (1, 0));
    assert_eq!(other.callback("192.0.2.1", virtual_ip), Ok("10.0.0.3".parse().unwrap()));
    let pools = other.nat.status().pools;
    assert_eq!((pools[0].active, pools[0].quarantined, pools[0].free), (1, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_is_told_again_and_again_knows_what_the_other_knows(
        steps in prop::collection::vec((0u8..6, 1u8..6, 1u8..4, any::<bool>()), 1..60)
    ) {
        let (mut one, mut other) = (Gateway::with_pool("198.18.0.0/29"), Gateway::with_pool("198.18.0.0/29"));
        one.nat.start_recording();
        for (what, terminal, peer, is_told) in steps {
            let (terminal, peer) = (format!("10.0.0.{terminal}"), format!("192.0.2.{peer}"));
            let address: IpAddr = terminal.parse().unwrap();
            match what {
                0..=2 => drop(one.call(&terminal, &peer)),
                3 => drop(one.nat.release(address, one.now)),
                4 => drop(one.nat.set_callback(&address.into(), Some(&CallbackPolicy::Anyone), one.now)),
                _ => {
                    tell(&one, &other); // no end is told of once its quarantine is over
                    let hours = Duration::from_secs(3600 * peer.len() as u64);
                    one.tick(hours);
                    other.tick(hours);
                }
            }
            one.translator.flush(one.now);
            if is_told {
                tell(&one, &other);
                tell(&one, &other);
            }
        }
        tell(&one, &other);
        let is_kept = |binding: &StoredBinding| binding.state != BindingState::Quarantined;
        let of = |gateway: &Gateway| known(gateway).into_iter().filter(is_kept).collect::<Vec<_>>();
        prop_assert_eq!(of(&one), of(&other));
    }
}
