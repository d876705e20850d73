use super::super::InsidePlan;
use super::*;
use crate::host::view::{Inside, Lan};
use proptest::prelude::*;

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn plan(pools: &[&str]) -> Plan {
    Plan {
        tun: "kamei".into(),
        insides: vec![InsidePlan { device: None, interfaces: vec!["gi".into(), "gj".into()], sources: vec![] }],
        device: "kamei-nat".into(),
        outsides: vec!["go".into()],
        pools: pools.iter().map(|pool| pool.parse().expect("a pool")).collect(),
        exempt: vec![],
        undo_file: "/run/kamei/undo.json".into(),
        programs_left: |_| Ok(false),
    }
}

fn host() -> Host {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    Host {
        device: Some(11),
        insides: vec![Inside {
            device: Some(10),
            own: vec![address("10.0.0.1")],
            prefixes: vec![],
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
                Then::Table(t) if t == tables.inside(0) => "INSIDE".to_owned(),
                Then::Table(t) if t == tables.inside(1) => "INSIDE1".to_owned(),
                Then::Table(t) if t == tables.closed() => "CLOSED".to_owned(),
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
fn one_inside_has_no_rules_and_a_route_a_pool() {
    let wanted = wanted(&plan(&["198.18.0.0/16", "2001:db8:1::/64"]), &host());
    assert_eq!(wanted.rules, []);
    let pool = |text| Route::device(MAIN, net(text), DEVICE, 11, None);
    assert_eq!(wanted.routes, [pool("198.18.0.0/16"), pool("2001:db8:1::/64")]);
}

#[test]
fn a_pool_that_is_an_outside_network_comes_before_it_and_leaves_reserved_addresses_to_it() {
    let lan = Lan { interface: "go".into(), index: 3, network: net("203.0.113.0/24") };
    let mut host = Host { lans: vec![lan], ..host() };
    let pools = |host: &Host| -> Vec<String> {
        wanted(&plan(&["203.0.113.0/24"]), host).routes.iter().map(|route| route.destination.to_string()).collect()
    };
    assert_eq!(pools(&host), ["203.0.113.0/25", "203.0.113.128/25"]);
    host.reserved = vec!["203.0.113.254".parse().expect("an address")];
    let left = pools(&host);
    assert!(!left.iter().any(|route| net(route).contains(&host.reserved[0])), "{left:?}");
    let addresses: u32 = left.iter().map(|route| 1 << (32 - net(route).prefix_len())).sum();
    assert_eq!((addresses, left.len()), (255, 8));
}

/// Two insides with the same prefix, one of which has a network of its own as well.
fn twins() -> (Plan, Host) {
    let (mut plan, mut host) = (plan(&["198.18.0.0/16"]), host());
    plan.exempt = vec![net("10.9.0.0/16")];
    plan.insides[0].interfaces.truncate(1);
    plan.insides[0].device = Some("kamei-in0".into());
    plan.insides.push(InsidePlan { device: Some("kamei-in1".into()), interfaces: vec!["gk".into()], sources: vec![] });
    host.has_ipv6 = false;
    host.insides.push(Inside {
        device: Some(12),
        prefixes: vec![],
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
    assert_eq!(
        rules,
        [
            "7401 lo 10.0.0.0/24 1:2816-3327 CLOSED",
            "7401 lo 10.0.0.0/24 1:768-1535 CLOSED",
            "7410 gi - INSIDE",
            "7410 gk - INSIDE1",
            "7412 kamei-in0 - INSIDE",
            "7412 kamei-in1 - INSIDE1",
            "7413 kamei-in0 - Unreachable",
            "7413 kamei-in1 - Unreachable",
            "7423 lo 10.0.0.1/32 - INSIDE",
            "7423 lo 10.0.0.2/32 - INSIDE1",
        ]
    );
    let tables = Tables::of("kamei");
    let to = |table| wanted.routes.iter().find(|r| r.table == table && matches!(r.to, To::Hops(_)));
    assert_eq!(to(tables.inside(0)).map(|r| r.to.clone()), Some(host.insides[0].routes[0].to.clone()));
    assert_eq!(to(tables.inside(1)).map(|r| r.to.clone()), Some(host.insides[1].routes[0].to.clone()));
}

#[test]
fn table_numbers_stay_the_same_and_differ_by_name() {
    // A successor of another build must find what its predecessor left.
    assert_eq!(Tables::of("kamei").base, 0xbbc3_1d00);
    let names = ["kamei", "kamei0", "kamei1", "a", "b", "lab-7"];
    let bases: HashSet<u32> = names.iter().map(|name| Tables::of(name).base).collect();
    assert_eq!(bases.len(), names.len());
    for name in names {
        let tables = Tables::of(name);
        let slots: HashSet<u32> = (0..126).map(|k| tables.inside(k)).collect();
        assert_eq!(slots.len(), 126);
        assert!(!slots.contains(&tables.closed()) && tables.own(tables.closed()) && !tables.is_copy(tables.closed()));
        assert!(slots.iter().all(|t| tables.own(*t) && *t > 0x8000_0000));
    }
}

#[test]
fn a_device_is_told_by_its_whole_name() {
    for ours in ["kamei-nat", "kamei-out", "kamei-in0", "kamei-in12"] {
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
