use super::super::InsidePlan;
use super::super::host::Inside;
use super::*;
use proptest::prelude::*;
use std::net::IpAddr;

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn plan(pools: &[&str]) -> Plan {
    Plan {
        tun: "kamei".into(),
        insides: vec![InsidePlan {
            device: "kamei-in0".into(),
            interfaces: vec!["gi".into(), "gj".into()],
            sources: vec![],
        }],
        outside_device: "kamei-out".into(),
        outsides: vec!["go".into()],
        pools: pools.iter().map(|pool| pool.parse().expect("a pool")).collect(),
        exempt: vec![],
        mark: None,
        undo_file: "/run/kamei/undo.json".into(),
    }
}

fn host() -> Host {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    Host {
        outside_device: Some(11),
        insides: vec![Inside {
            device: Some(10),
            own: vec![address("10.0.0.1")],
            sources: vec![net("10.0.0.0/24"), net("fd00::/64"), net("0.0.0.0/0")],
            routes: vec![
                Route::device(254, net("10.0.0.0/24"), 0, 3, None),
                Route::device(254, net("fd00::/64"), 256, 3, None),
            ],
        }],
        has_ipv6: true,
        own_outside: vec![address("192.0.2.1"), address("2001:db8::1")],
        own_inside: vec![address("10.0.0.1")],
        ..Host::default()
    }
}

/// One line a rule, as `ip rule` would show it.
fn lines(rules: &[Rule], family: Family) -> Vec<String> {
    let tables = Tables::of("kamei");
    let mut lines: Vec<String> = rules
        .iter()
        .filter(|rule| rule.family == family)
        .map(|rule| {
            let from = rule.from_interface.as_deref().unwrap_or("-");
            let to = rule.to.map_or_else(|| "-".to_owned(), |net| net.to_string());
            let icmp = rule.icmp.map_or_else(String::new, |(p, a, b)| format!(" {p}:{a}-{b}"));
            let then = match rule.then {
                Then::Table(t) if t == tables.error() => "ERROR".to_owned(),
                Then::Table(t) if t == tables.out() => "OUT".to_owned(),
                Then::Table(t) if t == tables.inside(0) => "INSIDE".to_owned(),
                Then::Table(t) if t == tables.from(0) => "FROM".to_owned(),
                Then::Table(t) if t == tables.inside(1) => "INSIDE1".to_owned(),
                Then::Table(t) if t == tables.from(1) => "FROM1".to_owned(),
                Then::Table(t) if t == tables.closed() => "CLOSED".to_owned(),
                Then::Past { target: NAME, .. } => "past".to_owned(),
                other => format!("{other:?}"),
            };
            let source = rule.from.map_or_else(String::new, |net| format!(" {net}"));
            format!("{} {from}{source} {to}{icmp} {then}", rule.priority)
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn the_rules_of_a_gateway_with_one_ipv4_pool() {
    let wanted = wanted(&plan(&["198.18.0.0/16"]), &host());
    assert_eq!(
        lines(&wanted.rules, Family::V4),
        [
            "7402 lo - 1:2816-3327 INSIDE",
            "7402 lo - 1:768-1535 INSIDE",
            "7403 lo - 1:2816-3327 ERROR",
            "7403 lo - 1:768-1535 ERROR",
            "7410 gi - INSIDE",
            "7410 gj - INSIDE",
            "7411 gi - FROM",
            "7411 gj - FROM",
            "7412 kamei-in0 - INSIDE",
            "7413 kamei-in0 - Unreachable",
            "7420 - 198.18.0.0/16 OUT",
            "7421 go - OUT",
            "7421 kamei-out - OUT",
            "7423 lo 10.0.0.1/32 - INSIDE",
            "7424 lo 10.0.0.1/32 - CLOSED",
            "7425 kamei-out - past",
            "7425 lo - past",
            "7426 - 10.0.0.0/24 - CLOSED",
            "7429 kamei-out - Nothing",
        ]
    );
    assert!(wanted.rules.iter().all(|rule| PRIORITIES.contains(&rule.priority)));
}

#[test]
fn n8_a_family_without_a_pool_is_closed() {
    let wanted = wanted(&plan(&["198.18.0.0/16"]), &host());
    assert_eq!(
        lines(&wanted.rules, Family::V6),
        [
            "7410 gi - INSIDE",
            "7410 gj - INSIDE",
            "7411 gi - FROM",
            "7411 gj - FROM",
            "7421 go - OUT",
            "7425 kamei-out - past",
            "7425 lo - past",
            "7426 - fd00::/64 - CLOSED",
            "7429 kamei-out - Nothing",
        ]
    );
    let tables = Tables::of("kamei");
    let from: Vec<&Route> =
        wanted.routes.iter().filter(|r| r.table == tables.from(0) && r.family() == Family::V6).collect();
    assert_eq!(
        from,
        [
            &Route::blackhole(tables.from(0), net("::/0"), BEHIND),
            &Route::throw(tables.from(0), link_local(), EXCEPTION)
        ]
    );
}

/// Two insides with the same prefix, one of which has a network of its own as well.
fn twins() -> (Plan, Host) {
    let (mut plan, mut host) = (plan(&["198.18.0.0/16"]), host());
    plan.exempt = vec![net("10.9.0.0/16")];
    plan.insides[0].interfaces.truncate(1);
    plan.insides.push(InsidePlan { device: "kamei-in1".into(), interfaces: vec!["gk".into()], sources: vec![] });
    host.has_ipv6 = false;
    host.insides.push(Inside {
        device: Some(12),
        sources: vec![net("10.0.0.0/24"), net("172.16.0.0/24")],
        own: vec!["10.0.0.2".parse().expect("an address")],
        routes: vec![Route::device(254, net("10.0.0.0/24"), 0, 5, None)],
    });
    (plan, host)
}

#[test]
fn r7_insides_with_the_same_prefix_have_a_table_each() {
    let (plan, host) = twins();
    let wanted = wanted(&plan, &host);
    let rules = lines(&wanted.rules, Family::V4);
    for rule in [
        "7401 lo 10.0.0.0/24 1:768-1535 CLOSED",
        "7410 gk - INSIDE1",
        "7411 gk - FROM1",
        "7412 kamei-in1 - INSIDE1",
        "7423 lo 10.0.0.1/32 - INSIDE",
        "7423 lo 10.0.0.2/32 - INSIDE1",
    ] {
        assert!(rules.iter().any(|have| have == rule), "{rule}: {rules:#?}");
    }
    let tables = Tables::of("kamei");
    let to = |table| wanted.routes.iter().find(|r| r.table == table && matches!(r.to, To::Hops(_)));
    assert_eq!(to(tables.inside(0)).map(|r| r.to.clone()), Some(host.insides[0].routes[0].to.clone()));
    assert_eq!(to(tables.inside(1)).map(|r| r.to.clone()), Some(host.insides[1].routes[0].to.clone()));
}

#[test]
fn c6_only_addresses_of_one_inside_alone_are_exempt() {
    let (plan, host) = twins();
    let rules = lines(&wanted(&plan, &host).rules, Family::V4);
    let exempt: Vec<&String> = rules.iter().filter(|line| line.contains("10.9.0.0/16")).collect();
    assert_eq!(
        exempt,
        [
            "7400 gk 172.16.0.0/24 10.9.0.0/16 past",
            "7400 lo 10.9.0.0/16 past",
            "7418 go 10.9.0.0/16 172.16.0.0/24 INSIDE1"
        ]
    );
}

#[test]
fn n8_every_way_onto_a_device_has_a_blackhole_behind_it() {
    let wanted = wanted(&plan(&["198.18.0.0/16", "203.0.113.10-203.0.113.20", "2001:db8:1::/64"]), &host());
    let tables = Tables::of("kamei");
    for route in wanted.routes.iter().filter(|r| r.metric == DEVICE && !tables.is_copy(r.table)) {
        let behind = Route::blackhole(route.table, route.destination, BEHIND);
        assert!(wanted.routes.contains(&behind), "{route:?}");
    }
    // And the blackholes are made first.
    let first_device = wanted.routes.iter().position(|r| matches!(r.to, To::Hops(_))).expect("a device route");
    assert!(wanted.routes.iter().skip(first_device).all(|r| matches!(r.to, To::Hops(_))));
}

#[test]
fn inside_prefixes_are_closed_to_the_outside_but_never_everything() {
    let wanted = wanted(&plan(&["198.18.0.0/16"]), &host());
    let out = Tables::of("kamei").out();
    assert!(wanted.routes.contains(&Route::blackhole(out, net("10.0.0.0/24"), BEHIND)));
    assert!(wanted.routes.contains(&Route::blackhole(out, net("fd00::/64"), BEHIND)));
    assert!(!wanted.routes.iter().any(|r| r.table == out && r.destination.prefix_len() == 0));
}

#[test]
fn reserved_addresses_stay_reachable() {
    let host = Host { reserved: vec!["198.18.0.1".parse().expect("an address")], ..host() };
    let wanted = wanted(&plan(&["198.18.0.0/16"]), &host);
    assert!(wanted.routes.contains(&Route::throw(Tables::of("kamei").out(), net("198.18.0.1/32"), EXCEPTION)));
}

#[test]
fn table_numbers_stay_the_same_and_differ_by_name() {
    // A successor of another build must find what its predecessor left.
    assert_eq!(Tables::of("kamei").error(), 0xbbc3_1d00);
    let names = ["kamei", "kamei0", "kamei1", "a", "b", "lab-7"];
    let bases: HashSet<u32> = names.iter().map(|name| Tables::of(name).error()).collect();
    assert_eq!(bases.len(), names.len());
    for name in names {
        let tables = Tables::of(name);
        let slots: HashSet<u32> =
            (0..126).flat_map(|k| [tables.inside(k), tables.from(k)]).chain([tables.error(), tables.out()]).collect();
        assert_eq!(slots.len(), 254);
        assert!(!slots.contains(&tables.closed()) && tables.own(tables.closed()) && !tables.is_copy(tables.closed()));
        assert!(slots.iter().all(|t| tables.own(*t) && *t > 0x8000_0000));
    }
}

#[test]
fn a_device_is_told_by_its_whole_name() {
    for ours in ["kamei-out", "kamei-in0", "kamei-in12"] {
        assert!(is_device_of(ours, "kamei"), "{ours}");
    }
    for other in ["kamei", "kamei-", "kamei-in", "kamei-inx", "kamei0-out", "kamei-outer", "xkamei-out"] {
        assert!(!is_device_of(other, "kamei"), "{other}");
    }
}

#[test]
fn nothing_is_to_do_when_all_is_as_wanted() {
    let wanted = wanted(&plan(&["198.18.0.0/16", "2001:db8:1::/64"]), &host());
    assert_eq!(difference(&wanted, &wanted), Difference::default());
}

proptest! {
    /// Doing what the difference says turns any state into the wanted one.
    #[test]
    fn the_difference_leads_from_any_state_to_the_wanted_one(
        keep_rules in proptest::collection::vec(any::<bool>(), 64),
        keep_routes in proptest::collection::vec(any::<bool>(), 64),
        old_pool in "198\\.(18|19)\\.[0-9]{1,2}\\.0/24",
    ) {
        let goal = wanted(&plan(&["198.18.0.0/16", "2001:db8:1::/64"]), &host());
        let other = wanted(&plan(&[&old_pool]), &host());
        let kept = |list: &[bool], at: usize| list.get(at).copied().unwrap_or(true);
        let mut there = Wanted::default();
        for (at, rule) in goal.rules.iter().chain(&other.rules).enumerate() {
            if kept(&keep_rules, at) && !there.rules.contains(rule) {
                there.rules.push(rule.clone());
            }
        }
        for (at, route) in goal.routes.iter().chain(&other.routes).enumerate() {
            if kept(&keep_routes, at) && !there.routes.iter().any(|r| r.key() == route.key()) {
                there.routes.push(route.clone());
            }
        }
        let todo = difference(&goal, &there);
        there.routes.retain(|r| !todo.set_routes.iter().any(|new| new.key() == r.key()));
        there.routes.extend(todo.set_routes);
        there.rules.extend(todo.add_rules);
        there.rules.retain(|r| !todo.remove_rules.contains(r));
        there.routes.retain(|r| !todo.remove_routes.contains(r));
        prop_assert_eq!(difference(&goal, &there), Difference::default());
        prop_assert_eq!(there.rules.len(), goal.rules.len());
    }
}
