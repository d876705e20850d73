//! Start, stop, start again: the host's network is afterwards what it was before.

use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Plan};
use crate::traffic::{Web, curl};
use rustix::process::Signal;
use std::collections::BTreeSet;

/// Links, addresses, rules, routes, proxy neighbours and network sysctls of a host, line by line.
#[derive(PartialEq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    pub fn of(host: &Host) -> Self {
        const DUMPS: [&str; 9] = [
            "ip -o link",
            "ip -o address",
            "ip -4 rule",
            "ip -6 rule",
            "ip -4 route show table all",
            "ip -6 route show table all",
            "ip -4 neigh show proxy",
            "ip -6 neigh show proxy",
            // Numbers of live objects, and keys that the kernel makes up at first use.
            "sysctl -a -r '^net\\.' 2>/dev/null | grep -vE 'nf_conntrack_count|rss_key|fastopen_key|\\.flush'",
        ];
        let mut lines = BTreeSet::new();
        for dump in DUMPS {
            for line in host.run(dump).ok().lines() {
                // A route learnt by the kernel counts down.
                let line = line.split(" expires ").next().unwrap_or_default();
                lines.insert(format!("{}: {line}", dump.split(" 2>").next().unwrap_or_default()));
            }
        }
        Self(lines)
    }

    #[track_caller]
    pub fn assert_unchanged(&self, host: &Host) {
        let now = Self::of(host);
        let gone: Vec<&String> = self.0.difference(&now.0).collect();
        let new: Vec<&String> = now.0.difference(&self.0).collect();
        assert!(gone.is_empty() && new.is_empty(), "the network changed\n gone: {gone:#?}\n new: {new:#?}");
    }
}

/// A call, so that a gateway that ends has had something to do.
fn call(lab: &Lab) {
    for family in [Family::V4, Family::V6] {
        let seen = curl(&lab.terminal(1), lab.server(1).address(family), 80);
        assert!(seen.starts_with("198.18.1.") || seen.starts_with("2001:db8:18:1:"), "{seen}");
    }
}

/// Starts, lets a call pass, ends it somehow: twice, and compares with what was before.
fn leaves_no_trace(prepare: impl Fn(&Host), end: impl Fn(&Lab, Gateway)) {
    let lab = Lab::new(Plan::gateways(1));
    let _web = Web::start(&lab.server(1), 80);
    let host = lab.gateway(1);
    prepare(&host);
    let before = Snapshot::of(&host);
    for _ in 0..2 {
        let gateway = lab.start(1);
        call(&lab);
        assert!(before != Snapshot::of(&host), "while it runs, the network is another");
        end(&lab, gateway);
        before.assert_unchanged(&host);
    }
}

#[test]
fn sigterm_leaves_the_network_as_it_was() {
    leaves_no_trace(|_| (), |_, gateway| gateway.stop());
}

#[test]
fn sigint_leaves_the_network_as_it_was() {
    leaves_no_trace(|_| (), |_, gateway| gateway.end_by(Signal::INT));
}

#[test]
fn a_router_with_strict_reverse_path_filter_is_left_as_it_was() {
    let prepare = |host: &Host| {
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.rp_filter"] {
            host.set_sysctl(key, "1");
        }
    };
    leaves_no_trace(prepare, |_, gateway| gateway.stop());
}

#[test]
fn a_successor_of_a_killed_gateway_leaves_the_network_as_it_was_before_both() {
    leaves_no_trace(
        |_| (),
        |lab, gateway| {
            gateway.kill();
            let successor = lab.start(1);
            call(lab);
            successor.stop();
        },
    );
}

#[test]
fn clean_up_after_a_killed_gateway_leaves_the_network_as_it_was() {
    leaves_no_trace(
        |_| (),
        |lab, gateway| {
            gateway.kill();
            let control = lab.control(1);
            lab.gateway(1)
                .run(&format!("{} cleanup --tun kamei --control {}", crate::gateway::KAMEI, control.display()))
                .ok();
        },
    );
}

#[test]
fn a_failure_in_the_middle_of_the_start_leaves_the_network_as_it_was() {
    let lab = Lab::new(Plan::gateways(1));
    let host = lab.gateway(1);
    let before = Snapshot::of(&host);
    // Sysctls that cannot be written are found out late.
    let read_only = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys";
    let ran = host.run(&format!(
        "{read_only} && exec {} gateway --inside gi --outside go --pool 198.18.1.0/24 --control {} --state-dir {}",
        crate::gateway::KAMEI,
        lab.control(1).display(),
        lab.scratch().join("state").display()
    ));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    before.assert_unchanged(&host);
    assert!(!lab.control(1).exists());
}

#[test]
fn a_stop_is_quick_and_takes_the_control_socket_with_it() {
    let lab = Lab::new(Plan::gateways(1));
    let gateway = lab.start(1);
    let control = lab.control(1);
    assert!(control.exists());
    let begin = std::time::Instant::now();
    gateway.stop();
    assert!(begin.elapsed() < std::time::Duration::from_secs(3), "{:?}", begin.elapsed());
    assert!(!control.exists());
}

/// The pool is a part of the outside LAN: the gateway answers for it by proxy ARP and proxy NDP.
#[test]
fn n5_a_pool_on_the_outside_lan_needs_no_route() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server, host) = (lab.terminal(1), lab.server(1), lab.gateway(1));
    server.run("ip route delete default; ip -6 route delete default").ok();
    let _webs = [Web::start(&server, 80), Web::start(&terminal, 8080)];
    let before = Snapshot::of(&host);
    let gateway = lab.start_with(1, &["--pool", "203.0.113.128/25", "--pool", "2001:db8:113::a000/116"]);
    for family in [Family::V4, Family::V6] {
        curl(&terminal, server.address(family), 80);
        let seen = curl(&server, gateway.virtual_ip(terminal.address(family)), 8080);
        assert_eq!(seen, format!("{} 8080", server.address(family)));
    }
    gateway.stop();
    before.assert_unchanged(&host);
}

/// Pools with more addresses than anybody could keep a slot for.
#[test]
fn a_huge_pool_costs_what_is_used_of_it() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _web = Web::start(&server, 80);
    let gateway = lab.start_with(1, &["--pool", "11.0.0.0/8", "--pool", "2001:dba::/32"]);
    // Servers have a default route: no route of their own is needed.
    for family in [Family::V4, Family::V6] {
        let seen = curl(&terminal, server.address(family), 80);
        assert!(seen.starts_with("11.") || seen.starts_with("2001:dba:"), "{seen}");
    }
    assert!(gateway.resident_kib() < 100 << 10, "{} KiB for two bindings", gateway.resident_kib());
}

/// A network behind a router on the inside belongs to the inside too, also when its route comes late.
#[test]
fn n12_a_routed_network_behind_the_inside_may_call() {
    let lab = Lab::new(Plan::gateways(1).terminals(2));
    let (terminal, server, host) = (lab.terminal(1), lab.server(1), lab.gateway(1));
    let _web = Web::start(&server, 80);
    let gateway = lab.start(1);
    terminal.run("ip address add 10.99.7.1/24 dev lo").ok();
    host.run(&format!("ip route add 10.99.7.0/24 via {}", terminal.v4)).ok();

    let call = format!("curl -sS --max-time 1 --interface 10.99.7.1 http://{}/", server.v4);
    crate::lab::wait_until("the new route to be seen", || terminal.run(&call).succeeded());

    assert!(gateway.knows([10, 99, 7, 1].into()));
}
