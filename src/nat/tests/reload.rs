//! Other settings, the same bindings.

use super::*;

fn reload(gateway: &mut Gateway, settings: Settings) -> (Vec<IpAddr>, usize) {
    gateway.translator.flush(gateway.now);
    let prepared = gateway.nat.prepare_reload(settings, gateway.now).unwrap();
    let (misfits, moved) = (prepared.misfits(gateway.now), prepared.moved());
    let (nat, events) = prepared.commit();
    assert_eq!(events.len(), misfits.len());
    gateway.translator.switch_to(Arc::clone(&nat));
    gateway.nat = nat;
    (misfits.iter().map(|binding| binding.virtual_ip).collect(), moved)
}

fn listed(gateway: &Gateway) -> Vec<BindingView> {
    let mut all = Vec::new();
    gateway.nat.for_each_binding(gateway.now, &mut |binding| {
        all.push(binding);
        true
    });
    all
}

#[test]
fn s_a_reload_keeps_every_binding_that_still_fits_and_its_contacts() {
    let (a, b, c) = (pool("198.18.0.0/24", &[]), pool("198.18.1.0/24", &["192.0.2.0/24"]), pool("fd00:9::/64", &[]));
    let mut gateway = Gateway::new(settings(vec![a.clone(), b.clone(), c.clone()]));
    let first = gateway.call("10.0.0.1", "203.0.113.5").unwrap();
    let second = gateway.call("10.0.0.2", "192.0.2.7").unwrap();
    let third = gateway.call("fd00:1::3", "2001:db8::5").unwrap();

    // The first stays whole, the second grows, the third goes; and one comes before all of them.
    let wider = pool("198.18.1.0-198.18.2.255", &["192.0.2.0/24"]);
    let (gone, moved) = reload(&mut gateway, settings(vec![pool("198.18.9.0/24", &["203.0.113.99/32"]), a, wider]));
    assert_eq!((gone, moved), (vec![third], 1));
    assert_eq!(gateway.callback("203.0.113.5", first).unwrap().to_string(), "10.0.0.1");
    assert_eq!(gateway.callback("192.0.2.7", second).unwrap().to_string(), "10.0.0.2");
    assert_eq!(gateway.callback("192.0.2.8", second), Err(DropReason::NotContacted));
    assert_eq!(gateway.call("10.0.0.1", "203.0.113.5").unwrap(), first);
    assert_eq!(gateway.call("10.0.0.2", "192.0.2.7").unwrap(), second);
    assert_eq!(gateway.call("fd00:1::3", "2001:db8::5"), Err(DropReason::NoPool));
    assert!(gateway.call("10.0.0.3", "203.0.113.99").unwrap().to_string().starts_with("198.18.9."));
    let pools: Vec<String> = listed(&gateway).into_iter().map(|binding| binding.pool).collect();
    assert_eq!(pools, ["198.18.9.0/24", "198.18.0.0/24", "198.18.1.0-198.18.2.255"]);
    assert_eq!(gateway.nat.status().created, 4, "counters go on");
}

#[test]
fn insides_come_and_go_by_a_reload_and_one_that_stays_keeps_its_number() {
    let with = |names: &[&str]| {
        let inside =
            |name: &&str| InsideSettings { name: (*name).into(), sources: vec!["10.0.0.0/24".parse().unwrap()] };
        Settings { insides: names.iter().map(inside).collect(), ..settings(vec![pool("198.18.0.0/24", &[])]) }
    };
    let number = |gateway: &Gateway, name| gateway.nat.inside(name).map(InsideNumber::get);
    let call = |gateway: &mut Gateway, inside| {
        let verdict = gateway.send(&mut tcp("10.0.0.1", "203.0.113.5", Flags::Syn), Realm::inside(inside));
        matches!(verdict, Verdict::Forward { .. })
    };
    let mut gateway = Gateway::new(with(&["a", "b"]));
    assert!(call(&mut gateway, 0) && call(&mut gateway, 1));
    let of = |gateway: &Gateway, name: &str| listed(gateway).into_iter().find(|binding| binding.realm == name);
    let (of_a, of_b) = (of(&gateway, "a").unwrap().virtual_ip, of(&gateway, "b").unwrap());

    let (gone, moved) = reload(&mut gateway, with(&["c", "b"]));
    assert_eq!((gone, moved), (vec![of_a], 0));
    assert_eq!(["a", "b", "c"].map(|name| number(&gateway, name)), [None, Some(1), Some(2)]);
    assert_eq!(of(&gateway, "b").unwrap().virtual_ip, of_b.virtual_ip);
    assert_eq!(gateway.callback("203.0.113.5", of_a), Err(DropReason::NoBinding));
    assert!(!call(&mut gateway, 0), "nobody is served there");
    assert!(call(&mut gateway, 2) && of(&gateway, "c").unwrap().virtual_ip != of_b.virtual_ip);

    let (gone, _) = reload(&mut gateway, with(&["b", "c", "d"]));
    assert_eq!((gone.len(), number(&gateway, "d"), number(&gateway, "b")), (0, Some(0), Some(1)));
    assert!(call(&mut gateway, 0) && of(&gateway, "d").unwrap().virtual_ip != of_a, "a's is in quarantine");
    // Into another table, by the same rule.
    let mut larger = with(&["d"]);
    larger.pools = vec![pool("198.18.0.0/23", &[])];
    assert_eq!(reload(&mut gateway, larger).0.len(), 2);
    assert!(of(&gateway, "d").is_some() && of(&gateway, "b").is_none());
}

#[test]
fn s_a_dry_run_of_a_reload_changes_nothing() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let given = gateway.call("10.0.0.1", "203.0.113.5").unwrap();
    let before = listed(&gateway);
    let prepared = gateway.nat.prepare_reload(settings(vec![pool("198.18.7.0/24", &[])]), START).unwrap();
    assert_eq!(prepared.misfits(START), before);
    drop(prepared);
    assert_eq!(listed(&gateway), before);
    assert_eq!(gateway.callback("203.0.113.5", given).unwrap().to_string(), "10.0.0.1");
}

#[test]
fn s_what_a_reload_takes_away_reaches_nobody() {
    let mut gateway = Gateway::new(settings(vec![pool("198.18.0.0/24", &[]), pool("198.18.1.0/24", &[])]));
    let taken: Vec<IpAddr> = (1..40).map(|n| gateway.call(&format!("10.0.0.{n}"), "203.0.113.5").unwrap()).collect();
    let (gone, moved) = reload(&mut gateway, settings(vec![pool("198.18.1.0/24", &[])]));
    assert_eq!(gone.len() + moved, taken.len());
    for virtual_ip in &taken {
        let reached = gateway.callback("203.0.113.5", *virtual_ip);
        assert_eq!(reached.is_err(), gone.contains(virtual_ip), "{virtual_ip}: {reached:?}");
    }
    let mut all: Vec<IpAddr> = (1..40).map(|n| gateway.call(&format!("10.0.0.{n}"), "203.0.113.5").unwrap()).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 39, "no virtual IP is given twice");
}

#[test]
fn s_states_and_pins_outlive_a_reload_with_other_times() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    gateway.nat.pin("10.0.0.9".parse().unwrap(), "198.18.0.9".parse().unwrap(), START).unwrap();
    let sleeper = gateway.call("10.0.0.1", "203.0.113.5").unwrap();
    gateway.tick(Duration::from_secs(86_401));
    let ended = gateway.call("10.0.0.2", "203.0.113.5").unwrap();
    gateway.nat.release("10.0.0.2".parse().unwrap(), gateway.now).unwrap();
    let states = |gateway: &Gateway| -> Vec<_> {
        listed(gateway).into_iter().map(|b| (b.virtual_ip, b.terminal, b.state, b.pinned, b.created)).collect()
    };
    let before = states(&gateway);
    let mut other = settings(vec![pool("198.18.0.0/24", &[])]);
    other.policy.lifetimes.hold = Duration::from_secs(3 * 3600);
    assert_eq!(reload(&mut gateway, other), (vec![], 3));
    assert_eq!(states(&gateway), before);
    assert_eq!(gateway.callback("203.0.113.5", sleeper), Err(DropReason::Dormant));
    assert_eq!(gateway.callback("203.0.113.5", ended), Err(DropReason::NoBinding));
    assert_eq!(gateway.call("10.0.0.1", "203.0.113.5").unwrap(), sleeper);
    gateway.tick(Duration::from_secs(3 * 3600 + 1));
    let of = |terminal: &str| gateway.nat.find(terminal.parse().unwrap(), gateway.now)[0].state;
    assert_eq!((of("10.0.0.1"), of("10.0.0.9")), (BindingState::Dormant, BindingState::Active));
}
