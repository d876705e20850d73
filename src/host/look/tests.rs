use super::seen::OwnAddress;
use super::*;
use crate::host::messages::{Route, To};
use crate::host::plan::InsidePlan;
use crate::host::view::MAIN;

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn plan(pools: &[&str]) -> Plan {
    Plan {
        tun: "kamei".into(),
        insides: vec![InsidePlan { device: None, interfaces: vec!["gi".into()], sources: vec![] }],
        device: "kamei-nat".into(),
        outsides: vec!["go".into()],
        pools: pools.iter().map(|pool| pool.parse().expect("a pool")).collect(),
        exempt: vec![],
        undo_file: "/run/kamei/undo.json".into(),
        programs_left: |_| Ok(false),
    }
}

/// A router: lo 1, gi 2 (10.0.0.1/24), go 3 (192.0.2.1/24), other 4 (172.16.0.1/12).
fn seen() -> Seen {
    let own = |interface, text: &str| {
        let net = net(text);
        OwnAddress { interface, address: net.addr(), network: net.trunc(), usable: true }
    };
    let links = [("lo", 1), ("gi", 2), ("go", 3), ("other", 4)];
    Seen {
        links: links.iter().map(|(name, index)| ((*name).to_owned(), *index)).collect(),
        addresses: vec![
            own(1, "127.0.0.1/8"),
            own(2, "10.0.0.1/24"),
            own(2, "fe80::1/64"),
            own(3, "192.0.2.1/24"),
            own(4, "172.16.0.1/12"),
        ],
        inside_routes: vec![Route::device(MAIN, net("10.0.0.0/24"), 0, 2, None)],
        has_ipv6: true,
        ..Seen::default()
    }
}

fn before(plan: &Plan, seen: &Seen) -> Result<Host, KernelError> {
    judge(plan, seen, Stage::Before, &Roster::default())
}

fn text(result: Result<Host, KernelError>) -> String {
    result.map(|_| String::new()).unwrap_or_else(|e| e.to_string())
}

#[test]
fn a_plain_router_is_fine() {
    let host = before(&plan(&["198.18.0.0/16"]), &seen()).expect("fine");
    assert_eq!(host.own_outside(), ["192.0.2.1".parse::<IpAddr>().expect("an address")]);
    assert_eq!(host.sources(), [[net("10.0.0.0/24")]]);
    assert_eq!(host.reserved(), [] as [IpAddr; 0]);
    assert_eq!(host.lans, []);
}

#[test]
fn a_tunnel_whose_far_end_is_in_the_routes_is_refused_and_later_not_served() {
    let mut with = seen();
    with.external.insert(3);
    let plan = plan(&["198.18.0.0/16"]);
    assert!(text(before(&plan, &with)).contains("'go' is a tunnel whose far end is named by routes"));
    with.links.push(("kamei-nat".into(), 9));
    let host = judge(&plan, &with, Stage::Running, &Roster::default()).expect("it goes on");
    assert!(host.unserved.contains(&3) && host.remarks.len() == 1, "{host:?}");
}

#[test]
fn names_are_judged_one_line_each() {
    let with = |inside: &str, outside: &str| {
        let mut plan = plan(&["198.18.0.0/16"]);
        plan.insides[0].interfaces = vec![inside.into()];
        plan.outsides = vec![outside.into()];
        text(before(&plan, &seen()))
    };
    assert!(with("gu", "go").contains("no network interface 'gu'; did you mean 'g"), "{}", with("gu", "go"));
    assert_eq!(with("wlan0", "go"), "there is no network interface 'wlan0'; `ip link` lists those there are");
    assert!(with("go", "go").contains("two realms"));
    assert!(with("kamei-nat", "go").contains("cannot be an inside or outside interface"));
    assert!(with("all", "go").contains("cannot be"));
}

#[test]
fn our_devices_must_be_absent_before_and_there_at_the_start() {
    let plan = plan(&["198.18.0.0/16"]);
    assert!(matches!(judge(&plan, &seen(), Stage::Start, &Roster::default()), Err(KernelError::DeviceMissing(_))));
    let mut with = seen();
    with.links.push(("kamei-nat".to_owned(), 9));
    assert!(matches!(before(&plan, &with), Err(KernelError::DeviceExists(name)) if name == "kamei-nat"));
    let host = judge(&plan, &with, Stage::Start, &Roster::default()).expect("fine");
    assert_eq!(host.device, Some(9));
}

#[test]
fn pools_that_cannot_work_are_refused() {
    let told = |pool: &str| text(before(&plan(&[pool]), &seen()));
    assert!(told("10.0.0.64/26").contains("overlaps the inside network 10.0.0.0/24"));
    assert!(told("172.16.0.0/24").contains("contains 172.16.0.1, this machine's own address on 'other'"));
    assert!(told("127.0.0.0/8").contains("on 'lo'"));
    assert!(told("192.0.2.1").contains("no address to give"));
    assert!(told("192.0.2.0-192.0.2.1").contains("no address to give"));
    assert_eq!(told("172.17.0.0/24"), "");
    let mut no_ipv6 = seen();
    no_ipv6.has_ipv6 = false;
    assert!(matches!(before(&plan(&["2001:db8::/64"]), &no_ipv6), Err(KernelError::NoIpv6(_))));
}

#[test]
fn a_pool_in_the_outside_network_keeps_its_own_and_its_routers_addresses() {
    let seen = Seen { routers: vec!["192.0.2.254".parse().expect("an address")], ..seen() };
    let host = before(&plan(&["192.0.2.0/24"]), &seen).expect("fine");
    let reserved: Vec<String> = host.reserved().iter().map(ToString::to_string).collect();
    assert_eq!(reserved, ["192.0.2.0", "192.0.2.1", "192.0.2.254", "192.0.2.255"]);
    assert_eq!(host.lans, [Lan { interface: "go".into(), index: 3, network: net("192.0.2.0/24") }]);
    let larger = before(&plan(&["192.0.0.0/16"]), &seen).expect("fine");
    assert!(larger.reserved().contains(&DUMMY.into()));
}

#[test]
fn the_default_route_through_the_inside_does_not_count() {
    let mut seen = seen();
    seen.inside_routes.push(Route::device(MAIN, net("0.0.0.0/0"), 0, 2, None));
    seen.inside_routes.push(Route::device(MAIN, net("10.9.0.0/16"), 0, 2, None));
    seen.inside_routes.push(Route::device(MAIN, net("fe80::/64"), 256, 2, None));
    let host = before(&plan(&["198.18.0.0/16"]), &seen).expect("fine");
    assert_eq!(host.sources(), [[net("10.0.0.0/24"), net("10.9.0.0/16")]]);
    assert!(host.remarks.iter().any(|remark| remark.contains("0.0.0.0/0")));
    assert_eq!(host.insides[0].routes.len(), 2);
}

#[test]
fn r7_an_inside_is_connected_to_its_network_though_main_has_one_route_for_two() {
    let (mut plan, mut seen) = (plan(&["198.18.0.0/16"]), seen());
    plan.insides.push(InsidePlan { device: Some("kamei-in1".into()), interfaces: vec!["gj".into()], sources: vec![] });
    seen.links.push(("gj".into(), 7));
    seen.addresses.push(OwnAddress { interface: 7, ..seen.addresses[1].clone() });
    let host = before(&plan, &seen).expect("fine");
    assert_eq!(host.sources(), [[net("10.0.0.0/24")], [net("10.0.0.0/24")]]);
    assert_eq!(host.insides[0].routes, seen.inside_routes);
    let To::Hops(hops) = &host.insides[1].routes[0].to else { panic!("no hops") };
    assert_eq!((hops.devices(), host.doubled.as_slice()), (vec![7], &["gj".to_owned()][..]));
    assert!(host.remarks[0].contains("reaches only terminals behind 'gi'"), "{:?}", host.remarks);
    assert!(host.is_ambiguous(0, &net("10.0.0.0/24")) && !host.is_ambiguous(0, &net("10.0.1.0/24")));

    seen.down.push(7);
    assert!(before(&plan, &seen).expect("fine").insides[1].routes.is_empty());
}

#[test]
fn a_network_that_looks_like_the_inside_is_remarked_upon() {
    let host = before(&plan(&["198.18.0.0/16"]), &seen()).expect("fine");
    assert!(host.remarks.is_empty());
    let mut seen = seen();
    seen.addresses[4].network = net("10.0.0.128/25");
    let host = before(&plan(&["198.18.0.0/16"]), &seen).expect("fine");
    assert!(host.remarks[0].starts_with("'other' has the network 10.0.0.128/25"), "{:?}", host.remarks);
}

#[test]
fn while_running_nothing_is_fatal() {
    let plan = plan(&["198.18.0.0/16"]);
    let mut seen = seen();
    seen.links.retain(|(name, _)| name != "gi");
    seen.links.push(("kamei-nat".to_owned(), 9));
    seen.inside_routes = vec![Route::device(MAIN, net("198.18.5.0/24"), 0, 3, None)];
    judge(&plan, &seen, Stage::Running, &Roster::default()).expect("goes on");
}

#[test]
fn another_gateway_may_share_the_outside_interface_and_nothing_else() {
    let mut theirs = plan(&["198.19.0.0/16"]);
    theirs.tun = "two".into();
    theirs.insides[0] = InsidePlan { device: None, interfaces: vec!["other".into()], sources: vec![] };
    let roster = |theirs: &Plan, alive| {
        let insides = theirs.insides.iter().flat_map(|inside| inside.interfaces.clone()).collect();
        let (outsides, pools) = (theirs.outsides.clone(), theirs.pools.clone());
        Roster::of(vec![Entry { tun: theirs.tun.clone(), insides, outsides, pools, alive }])
    };
    let ours = plan(&["198.18.0.0/16"]);
    let judged = |theirs: &Plan, alive| judge(&ours, &seen(), Stage::Before, &roster(theirs, alive));

    assert_eq!(judged(&theirs, true).expect("both can live").remarks, [] as [String; 0]);
    let host = judged(&theirs, false).expect("in nobody's way");
    assert!(host.remarks[0].contains("kamei cleanup --tun two"));

    theirs.pools = ours.pools.clone();
    assert!(matches!(judged(&theirs, true), Err(KernelError::PoolTaken { .. })));
    let dead = text(judged(&theirs, false));
    assert!(dead.ends_with("clear it with: kamei cleanup --tun two"), "{dead}");

    theirs.pools = plan(&["198.19.0.0/16"]).pools;
    theirs.insides[0].interfaces = vec!["gi".into()];
    assert!(matches!(judged(&theirs, true), Err(KernelError::InterfaceTaken { .. })));
    theirs.insides[0].interfaces = vec!["go".into()];
    assert!(matches!(judged(&theirs, true), Err(KernelError::InterfaceTaken { .. })));

    // What the same name has left is ours to take over.
    theirs.tun = "kamei".into();
    assert!(judged(&theirs, false).is_ok());
}

#[test]
fn the_interface_that_routes_is_the_one_to_name() {
    let ours = plan(&["198.18.0.0/16"]);
    let mut bridged = seen();
    bridged.masters.insert(2, 4);
    assert!(text(before(&ours, &bridged)).contains("'gi' belongs to 'other'"), "{}", text(before(&ours, &bridged)));
    let mut tagged = seen();
    tagged.lower.insert(4, 2);
    before(&ours, &tagged).expect("it has an address of its own");
    tagged.addresses.retain(|own| own.interface != 2);
    assert!(text(before(&ours, &tagged)).contains("name 'other' instead"), "{}", text(before(&ours, &tagged)));
}

/// As the kernel has it, whichever side the longest prefix leads to.
#[test]
fn what_is_routed_outside_from_within_an_inside_prefix_is_not_inside() {
    let route = |text: &str| Route::device(MAIN, net(text), 0, 2, None);
    let mut seen = seen();
    seen.inside_routes.extend([route("192.0.0.0/16"), route("192.0.2.64/26"), route("192.0.3.0/24")]);
    seen.outward = ["192.0.3.0/24", "192.0.2.80/28", "10.0.0.0/8", "0.0.0.0/0"].map(net).into();
    let host = before(&plan(&["192.0.2.128/25"]), &seen).expect("the pool is not inside");
    assert_eq!(host.outward, ["192.0.2.0/24", "192.0.2.80/28", "192.0.3.0/24"].map(net));
    let sources = host.sources().concat();
    let is_inside = |text: &str| sources.iter().any(|net| net.contains(&text.parse::<IpAddr>().expect("an address")));
    for inside in ["10.0.0.7", "192.0.0.1", "192.0.4.0", "192.0.1.255", "192.0.2.64", "192.0.2.96", "192.0.3.9"] {
        assert!(is_inside(inside), "{inside}");
    }
    for outside in ["192.0.2.0", "192.0.2.63", "192.0.2.80", "192.0.2.95", "192.0.2.128", "192.1.0.0", "10.0.1.0"] {
        assert!(!is_inside(outside), "{outside}");
    }
}

#[test]
fn nothing_is_taken_out_of_an_inside_that_means_everything() {
    let mut plan = plan(&["198.18.0.0/16"]);
    plan.insides[0].sources = vec![net("0.0.0.0/0")];
    let host = before(&plan, &seen()).expect("fine");
    assert_eq!(host.sources(), [[net("0.0.0.0/0")]]);
}
