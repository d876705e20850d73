//! `kamei test`: a call and a callback through the running gateway, by hosts of its own.

use crate::capture::Capture;
use crate::gateway::{Gateway, KAMEI};
use crate::lab::{Lab, Plan, Ran, patience, wait_until};
use crate::links::tun_wire;
use crate::one_view::nft;
use crate::traffic::{Web, curl};
use rustix::process::Signal;
use serde_json::Value;

/// The steps of a test that finds nothing wrong.
const STEPS: [&str; 8] = ["terminal", "call", "binding", "left", "answer", "callback", "stranger", "released"];
const WITH_BPFFS: &str = "mount -t bpf bpf /sys/fs/bpf";

fn test(gateway: &Gateway, arguments: &str) -> Ran {
    gateway.ask(&format!("test --wait {} {arguments}", 4 * patience()))
}

/// The steps of each test, and how each went.
fn steps(ran: &Ran) -> Vec<Vec<(String, String)>> {
    let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}{}", ran.stdout, ran.stderr));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of = |test: &Value| {
        let steps = test["steps"].as_array().unwrap().iter();
        steps.map(|step| (text(&step["step"]), text(&step["outcome"]))).collect()
    };
    report["tests"].as_array().unwrap().iter().map(of).collect()
}

/// All of these tests went well, each step.
#[track_caller]
fn assert_passes(gateway: &Gateway, arguments: &str, tests: usize) {
    let ran = test(gateway, &format!("--json {arguments}"));
    let expected: Vec<_> = STEPS.iter().map(|step| ((*step).to_owned(), "ok".to_owned())).collect();
    assert_eq!(ran.code, Some(0), "{}{}\n{}", ran.stdout, ran.stderr, gateway.log());
    assert_eq!(steps(&ran), vec![expected; tests], "{}", ran.stdout);
}

/// Stops at this step, for a reason with these words.
#[track_caller]
fn assert_stops(gateway: &Gateway, arguments: &str, step: &str, words: &str) {
    let ran = test(gateway, arguments);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.code, Some(1), "{said}");
    let fails: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("FAILS")).collect();
    assert!(fails.len() == 1 && fails[0].split_whitespace().nth(1) == Some(step), "{step}: {said}");
    assert!(said.contains(words), "{words}: {said}");
    assert!(ran.stderr.contains("1 of the tests stopped"), "{said}");
}

/// Devices, addresses, routes, rules and filters of gateway 1, and what is known of neighbours that a test may have had.
fn state(lab: &Lab) -> String {
    let host = lab.gateway(1);
    let text = host.run(
        "ip -br link; ip -br address; ip route show table all; ip -6 route show table all; ip rule; \
         tc qdisc show; for i in gi go; do tc filter show dev $i ingress; tc filter show dev $i egress; done",
    );
    text.ok()
}

#[test]
fn a_test_of_a_good_gateway_passes_leaves_nothing_and_sends_nothing_to_strangers() {
    let lab = Lab::new(Plan::gateways(1));
    let gateway = lab.start(1);
    let wires = [lab.outside_wire(1), Capture::start(&lab.terminal(1), "eth0")];
    let before = state(&lab);
    assert_passes(&gateway, "", 2);
    assert_eq!(state(&lab), before);
    let kept = gateway.bindings();
    assert!(kept.iter().all(|binding| binding["state"] == "quarantined"), "{kept:?}");
    for wire in wires {
        // ARP and neighbour discovery ask whether an address is free; nothing else is heard by anybody.
        let tcp = wire.finish().ip().filter(|packet| packet[0] >> 4 == 4 && packet[9] == 6).count();
        assert_eq!(tcp, 0);
    }
    // The address next to this peer's is the network's broadcast address.
    assert_passes(&gateway, "--peer 203.0.113.254 --peer 2001:db8:113::4", 2);
    let said = test(&gateway, "--terminal gi");
    assert!(said.stdout.starts_with("gi, IPv4\nok     terminal  10.77.143."), "{}", said.stdout);
    // By the address of the test before, which is nobody's for a while.
    for _ in 0..2 {
        assert_passes(&gateway, "--address 10.77.143.200", 2);
    }
    let files = std::fs::read_dir(lab.scratch()).unwrap().flatten();
    let left: Vec<_> =
        files.map(|file| file.file_name()).filter(|name| name.to_string_lossy().contains(".test")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_test_goes_whichever_way_the_gateway_translates() {
    for mode in ["off", "tc", "redirect"] {
        let lab = Lab::new(Plan::gateways(1).unwatched());
        let arguments = ["--pool", &Lab::pool_v4(1), "--pool", &Lab::pool_v6(1), "--fast-path", mode];
        // At TCX; the other tests have filters.
        let gateway = lab.start_prepared(1, WITH_BPFFS, &arguments);
        assert_passes(&gateway, "", 2);
    }
}

#[test]
fn a_test_goes_behind_a_bridge_and_insides_with_equal_addresses() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let host = lab.gateway(1);
    host.run("ip link add br0 type bridge && ip link set br0 up && ip address add 10.5.0.1/24 dev br0").ok();
    host.run("ip link add gj type veth peer name gk && ip link set gk up && ip link set gj up").ok();
    host.run("ip address add 10.77.143.1/24 dev gj").ok();
    let text = format!(
        "outside = [\"go\"]\n[[inside]]\nname = \"one\"\ninterfaces = [\"gi\", \"br0\"]\n[[inside]]\nname = \"two\"\n\
         interfaces = [\"gj\"]\n[[pool]]\nrange = \"{}\"\n",
        Lab::pool_v4(1)
    );
    let gateway = lab.start_from_file(1, &text);
    assert_passes(&gateway, "", 3);
}

/// As WireGuard and PPP have it.
#[test]
fn a_test_goes_by_devices_without_link_headers_on_either_side() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let (host, terminal, server) = (lab.gateway(1), lab.terminal(1), lab.server(1));
    let _wires = [tun_wire(&lab, &host, "tin", &terminal, "t0"), tun_wire(&lab, &host, "tout", &server, "t1")];
    for (name, last) in [("tin", 2), ("tout", 3)] {
        host.run(&format!("ip address add 10.200.{last}.1/24 dev {name}")).ok();
        host.run(&format!("ip address add 2001:db8:{last}::1/64 dev {name} nodad")).ok();
    }
    for (inside, outside) in [("tin", "go"), ("gi", "tout"), ("tin", "tout")] {
        let text = format!(
            "inside = [\"{inside}\"]\noutside = [\"{outside}\"]\n[[pool]]\nrange = \"{}\"\n[[pool]]\nrange = \"{}\"\n",
            Lab::pool_v4(1),
            Lab::pool_v6(1)
        );
        let gateway = lab.start_from_file(1, &text);
        assert_passes(&gateway, "", 2);
        gateway.stop();
    }
}

#[test]
fn a_test_goes_through_the_middle_of_a_row_where_the_inside_is_a_wire_to_the_gateway_before() {
    let lab = Lab::new(Plan::gateways(2).unwatched());
    let gateways = lab.start_all();
    // Of the pool that is routed there.
    assert_passes(&gateways[1], "", 2);
}

#[test]
fn a_test_stops_at_the_firewall_and_says_which_rule_is_missing() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let host = lab.gateway(1);
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1)]);
    nft(&host, "table inet filter {\nchain forward {\ntype filter hook forward priority filter; policy drop\n}\n}");
    assert_stops(&gateway, "", "call", "insert rule inet filter forward iifname \"gi\" oifname \"go\" accept");
    nft(&host, "insert rule inet filter forward iifname \"gi\" oifname \"go\" accept");
    assert_stops(&gateway, "", "answer", "insert rule inet filter forward");
    nft(&host, "insert rule inet filter forward ct state established,related accept");
    assert_stops(&gateway, "", "callback", "insert rule inet filter forward iifname \"go\" oifname \"gi\" accept");
    nft(&host, "insert rule inet filter forward iifname \"go\" oifname \"gi\" accept");
    assert_passes(&gateway, "", 1);
}

#[test]
fn a_test_stops_where_no_route_leads_out_where_forwarding_is_off_and_where_the_router_is_away() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let host = lab.gateway(1);
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1)]);
    assert_stops(&gateway, "--peer 192.0.2.9", "terminal", "Network is unreachable");
    host.run("ip route add 192.0.2.0/24 dev gi").ok();
    assert_stops(&gateway, "--peer 192.0.2.9", "terminal", "no outside interface");
    host.run("ip route replace 192.0.2.0/24 via 203.0.113.250 dev go").ok();
    assert_stops(&gateway, "--peer 192.0.2.9", "call", "the router 203.0.113.250 does not answer at go");
}

#[test]
fn a_test_takes_the_last_virtual_ip_from_nobody_and_says_where_anyone_may_call() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let pool = ["--pool", "198.18.1.1-198.18.1.2"];
    let gateway = lab.start_with(1, &[&pool[..], &["--callback", "anyone"]].concat());
    let ran = test(&gateway, "--json");
    let anyone = steps(&ran)[0].iter().find(|(step, _)| step == "stranger").cloned();
    assert_eq!((ran.code, anyone.map(|(_, outcome)| outcome).as_deref()), (Some(0), Some("skipped")), "{}", ran.stdout);
    // One of the two is in quarantine now.
    assert_stops(&gateway, "", "terminal", "has 1 virtual IPs left");
}

#[test]
fn a_test_that_is_killed_leaves_nothing_that_the_next_does_not_take_away() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let host = lab.gateway(1);
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1)]);
    let before = state(&lab);
    // Callbacks are lost, so that it waits.
    let rules = "table inet f {\nchain forward {\ntype filter hook forward priority filter\niifname \"go\" ct state new drop\n}\n}";
    nft(&host, rules);
    let control = gateway.control().to_str().unwrap().to_owned();
    let mut running = host.spawn("test", &[KAMEI, "test", "--wait", "600", "--control", &control]);
    wait_until("the test to wait for its callback", || running.output().contains("answer"));
    let busy = test(&gateway, "");
    assert!(busy.code == Some(1) && busy.stderr.contains("another test of this gateway is running"), "{}", busy.stderr);
    running.signal(Signal::KILL);
    running.wait();
    let links = || host.run("ip -br link").ok();
    wait_until("its devices to go with it", || !links().contains("kamei-t"));
    assert_eq!(gateway.bindings().len(), 1, "its binding stays");
    let bound = gateway.bindings()[0]["terminal"].as_str().unwrap().to_owned();
    nft(&host, "delete table inet f");
    assert_passes(&gateway, "", 1);
    assert_eq!(state(&lab), before);
    let left = gateway.bindings().into_iter().find(|binding| binding["terminal"] == bound.as_str());
    assert!(left.is_none_or(|binding| binding["state"] == "quarantined"), "{:?}", gateway.bindings());
}

#[test]
fn a_test_that_is_interrupted_takes_away_what_it_has_made() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let host = lab.gateway(1);
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1)]);
    let before = state(&lab);
    nft(
        &host,
        "table inet f {\nchain forward {\ntype filter hook forward priority filter\niifname \"go\" ct state new drop\n}\n}",
    );
    let control = gateway.control().to_str().unwrap().to_owned();
    let mut running = host.spawn("test", &[KAMEI, "test", "--wait", "600", "--control", &control]);
    wait_until("the test to wait for its callback", || running.output().contains("answer"));
    running.signal(Signal::INT);
    assert_eq!(running.wait().code(), Some(1), "{}", running.output());
    assert!(running.output().contains("FAILS  callback  interrupted"), "{}", running.output());
    nft(&host, "delete table inet f");
    assert_eq!(state(&lab), before);
    assert!(gateway.bindings().iter().all(|binding| binding["state"] == "quarantined"), "{:?}", gateway.bindings());
}

#[test]
fn a_test_is_for_root_in_the_gateways_namespace_and_behind_an_inside_interface() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1)]);
    let wrong = test(&gateway, "--terminal go");
    assert!(
        wrong.code == Some(2) && wrong.stderr.contains("go is no inside interface of this gateway; there are gi"),
        "{}",
        wrong.stderr
    );
    let line = |host: &crate::lab::Host, before: &str| {
        host.run(&format!("exec {before} {KAMEI} test --control {}", gateway.control().display()))
    };
    let elsewhere = line(&lab.server(1), "");
    assert!(
        elsewhere.code == Some(1) && elsewhere.stderr.contains("the gateway's network namespace"),
        "{}",
        elsewhere.stderr
    );
    let nobody = line(&lab.gateway(1), "setpriv --reuid 65534 --clear-groups");
    assert!(nobody.code == Some(1) && nobody.stderr.contains("only root"), "{}", nobody.stderr);
    let control = gateway.control().to_owned();
    let host = gateway.host.clone();
    gateway.stop();
    let gone = host.run(&format!("exec {KAMEI} test --control {}", control.display()));
    assert_eq!(gone.code, Some(4), "{}", gone.stderr);
}

#[test]
fn terminals_call_and_are_called_while_a_test_runs() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _webs = [Web::start(&server, 80), Web::start(&terminal, 80)];
    let gateway = lab.start(1);
    curl(&terminal, server.v4.into(), 80);
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());
    nft(
        &lab.gateway(1),
        "table inet f {\nchain forward {\ntype filter hook forward priority filter\ntcp dport 443 iifname \"go\" drop\n}\n}",
    );
    let control = gateway.control().to_str().unwrap().to_owned();
    let running = gateway.host.spawn("test", &[KAMEI, "test", "--wait", "600", "--control", &control]);
    wait_until("the test to wait for its callback", || running.output().contains("answer"));
    for _ in 0..3 {
        curl(&terminal, server.v4.into(), 80);
        curl(&server, virtual_ip, 80);
    }
}
