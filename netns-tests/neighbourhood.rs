//! P3: whatever else the machine does goes on as it was: nobody's routing, marks and settings change.

use crate::capture::Capture;
use crate::gateway::KAMEI;
use crate::lab::{Background, Family, Host, Lab, Plan, Ran, wait_until};
use crate::one_view::{BOTH, Ground, SEATS, SLOW, Scene, nft, ping};
use crate::privacy::router;
use crate::traffic::{Web, curl};
use std::net::IpAddr;
use std::process::Command;

/// A host behind an interface of gateway 1 of its own: its address is `net`.11, the gateway's `net`.1.
fn neighbour(lab: &Lab, name: &str, interface: &str, net_v4: &str, net_v6: &str) -> Host {
    let gateway = lab.gateway(1);
    let mut host = lab.named(name);
    host.v4 = format!("{net_v4}.11").parse().unwrap();
    host.v6 = format!("{net_v6}::b").parse().unwrap();
    // Removed with the lab, whose name it has.
    assert!(Command::new("ip").args(["netns", "add", &host.namespace]).status().unwrap().success());
    host.set_sysctl("net.ipv6.conf.default.accept_dad", "0");
    gateway.run(&format!("ip link add {interface} type veth peer name eth0 netns {}", host.namespace)).ok();
    for (at, name, last) in [(&gateway, interface, ("1", "1")), (&host, "eth0", ("11", "b"))] {
        at.run(&format!(
            "ip link set lo up && ip link set {name} up && ip address add {net_v4}.{}/24 brd + dev {name} && \
             ip address add {net_v6}::{}/64 dev {name} nodad",
            last.0, last.1
        ))
        .ok();
    }
    host.run(&format!("ip route add default via {net_v4}.1 && ip -6 route add default via {net_v6}::1")).ok();
    host
}

/// Rules of routing, and settings of the machine and of interfaces that are none of the gateway's.
fn surroundings(host: &Host) -> [String; 2] {
    let rules = host.run("ip rule; ip -6 rule").ok();
    let kinds =
        "(forwarding|rp_filter|arp_[a-z]*|proxy_[a-z]*|accept_[a-z_]*|route_localnet|send_redirects|src_valid_mark)";
    let names = "(all|default|lo|left|right)";
    let settings =
        host.run(&format!("sysctl -a 2> /dev/null | grep -E 'net.ipv[46].conf.{names}.{kinds} |net.ipv4.ip_forward '"));
    [rules, settings.ok()]
}

#[test]
fn p3_traffic_and_settings_of_others_are_as_without_a_gateway() {
    for seat in SEATS {
        let ground = Ground::new(Plan::gateways(1).unwatched(), seat);
        let host = router(&ground.lab);
        let left = neighbour(&ground.lab, "left", "left", "192.0.2", "2001:db8:2");
        let right = neighbour(&ground.lab, "right", "right", "192.0.3", "2001:db8:3");
        let _web = Web::start(&right, 80);
        nft(
            &host,
            "table inet marks { chain forward { type filter hook forward priority 0; meta mark != 0 counter; }; \
             chain prerouting { type filter hook prerouting priority raw; meta mark != 0 counter; }; \
             chain postrouting { type filter hook postrouting priority srcnat; iifname left oifname right meta mark != 0 counter; }; }",
        );
        let before = surroundings(&host);
        let scene = Scene::on(ground, &[]);
        let passes = || {
            let wire = Capture::start(&right, "eth0");
            for family in BOTH {
                ping(&left, right.address(family), 5);
                assert_eq!(curl(&left, right.address(family), 80), format!("{} 80", left.address(family)));
                scene.round(family);
            }
            assert!(wire.finish().has_address(left.v4.into()), "as it is");
        };
        passes();
        assert_eq!(surroundings(&host), before, "while it runs");
        let marked = host.run("nft list table inet marks").ok();
        assert_eq!(marked.matches("packets 0 bytes 0").count(), 3, "{marked}");
        // What others change meanwhile is theirs.
        host.run("sysctl -qw net.ipv4.conf.left.rp_filter=2 net.ipv4.conf.right.arp_filter=1").ok();
        passes();
        let changed = surroundings(&host);
        let Scene { gateway, ground, .. } = scene;
        gateway.stop();
        assert_eq!(surroundings(&host), changed, "after it");
        drop(ground);
    }
}

/// Another gateway on the same host, with another inside and the same outside.
struct Second {
    host: Host,
    control: String,
    _process: Background,
}

impl Second {
    fn start(ground: &Ground, arguments: &[&str]) -> Self {
        let lab = &ground.lab;
        let host = lab.gateway(1);
        let (control, state) = (format!("{}/second.sock", lab.scratch().display()), lab.scratch().join("second"));
        let (v4, v6) = (Lab::pool_v4(2), Lab::pool_v6(2));
        let words = ["--tun", "second", "--inside", "gi2", "--outside", "go", "--pool", &v4, "--pool", &v6];
        let paths = ["--control", &control, "--state-dir", state.to_str().unwrap()];
        let process = host.spawn("second", &[&[KAMEI, "gateway"], &words[..], arguments, &paths].concat());
        let second = Self { host, control, _process: process };
        wait_until("the second gateway", || second.ask("status --wait 1").succeeded());
        second
    }

    fn ask(&self, question: &str) -> Ran {
        self.host.run(&format!("exec {KAMEI} {question} --control {}", self.control))
    }

    fn number(&self, what: &str) -> u64 {
        let status: serde_json::Value = serde_json::from_str(&self.ask("status --json").ok()).unwrap();
        status["fast_path"][what].as_u64().unwrap()
    }

    fn virtual_ip(&self, terminal: IpAddr) -> IpAddr {
        let listed: serde_json::Value = serde_json::from_str(&self.ask("bindings --json").ok()).unwrap();
        let found = listed.as_array().unwrap().iter().find(|each| each["terminal"] == terminal.to_string().as_str());
        found.unwrap()["virtual_ip"].as_str().unwrap().parse().unwrap()
    }
}

#[test]
fn p3_two_gateways_on_one_outside_tell_each_others_packets() {
    for (first_mode, second_mode) in [(&[][..], &[][..]), (SLOW, SLOW), (&[], SLOW), (SLOW, &[])] {
        for seat in SEATS {
            let ground = Ground::new(Plan::gateways(1).unwatched(), seat);
            let beside = neighbour(&ground.lab, "beside", "gi2", "10.78.0", "fd5a:77e1:9c0e");
            let wire = ground.lab.outside_wire(1);
            let scene = Scene::on(ground, first_mode);
            let second = Second::start(&scene.ground, second_mode);
            let _web = Web::start(&beside, 8080);
            for family in BOTH {
                let (here, there) = (beside.address(family), scene.server.address(family));
                let before = second.number("flows");
                wait_until("both directions to be in the kernel", || {
                    ping(&beside, there, 5);
                    second_mode == SLOW || second.number("flows") >= before + 2
                });
                let virtual_ip = second.virtual_ip(here);
                for _ in 0..2 {
                    assert_eq!(curl(&beside, there, 80), format!("{virtual_ip} 80"));
                    ping(&scene.server, virtual_ip, 5);
                    assert_eq!(curl(&scene.server, virtual_ip, 8080), format!("{there} 8080"));
                    scene.round(family);
                }
                assert_eq!(second.number("hits") > 0, second_mode != SLOW);
            }
            let packets = wire.finish();
            packets.assert_hidden(&scene.ground.lab.hidden(1));
            packets.assert_hidden(&[beside.v4.into(), beside.v6.into()]);
        }
    }
}

/// A network with thousands of routes behind the inside.
#[test]
fn p3_thousands_of_inside_prefixes_add_no_routing_rules() {
    let ground = Ground::new(Plan::gateways(1).unwatched(), SEATS[1]);
    let scene = Scene::on(ground, &[]);
    let host = scene.host().clone();
    let before = surroundings(&host);
    let batch = scene.ground.lab.scratch().join("routes");
    let routes: String = (0..2000)
        .map(|n| format!("route add 10.{}.{}.0/24 via {}\n", 80 + n / 250, n % 250, scene.terminal.v4))
        .collect();
    std::fs::write(&batch, routes).unwrap();
    host.run(&format!("ip -batch {}", batch.display())).ok();

    // The last of them is served.
    scene.terminal.run("ip address add 10.87.249.1/32 dev lo").ok();
    let ping = format!("ping -n -c 1 -W 1 -I 10.87.249.1 {}", scene.server.v4);
    wait_until("a terminal of the last prefix to be served", || scene.terminal.run(&ping).succeeded());
    scene.round(Family::V4);

    assert_eq!(surroundings(&host), before);
    assert_eq!(host.run("ip rule; ip -6 rule").ok().lines().count(), 5, "the kernel's own");
}

/// The longest prefix decides what is inside, as it does in the kernel, whichever side it leads to.
#[test]
fn n12_the_outside_may_lie_within_an_inside_prefix() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (terminal, servers, host) = (lab.terminal(1), [lab.server(1), lab.server(2)], lab.gateway(1));
    let gateway = lab.start(1);
    ping(&terminal, servers[0].v4.into(), 1);
    host.run(&format!("ip route add 203.0.0.0/16 via {} dev gi", terminal.v4)).ok();
    host.run(&format!("ip -6 route add 2001:db8:113::/48 via {} dev gi", terminal.v6)).ok();
    terminal.run("ip address add 203.0.200.1/32 dev lo; ip address add 203.0.201.1/32 dev lo").ok();
    let calls_from =
        |source: &str, to: IpAddr| terminal.run(&format!("ping -n -c 1 -W 1 -I {source} {to}")).succeeded();
    wait_until("the wide prefix to be inside", || calls_from("203.0.200.1", servers[0].v4.into()));

    let works = || {
        for family in BOTH {
            for server in &servers {
                ping(&terminal, server.address(family), 1);
                ping(server, gateway.virtual_ip(terminal.address(family)), 1);
                ping(&host, server.address(family), 1);
                ping(server, host.address(family), 1);
            }
        }
    };
    works();
    // What is inside stays closed; a wider route outside changes nothing.
    host.run(&format!("ip route add 203.0.0.0/12 via {0} && ip route add 10.0.0.0/8 via {0}", servers[0].v4)).ok();
    let refused = || gateway.status()["fast_path"]["noted"]["inside_destination"].as_u64().unwrap_or_default();
    for hidden in ["203.0.200.1", &terminal.v4.to_string()] {
        let before = refused();
        assert!(!servers[0].run(&format!("ping -n -c 1 -W 1 {hidden}")).succeeded(), "{hidden}");
        assert!(refused() > before, "{hidden}");
    }
    works();

    // A route within it that comes and goes.
    host.run(&format!("ip route add 203.0.201.0/24 via {}", servers[0].v4)).ok();
    let before = gateway.dropped("source_not_inside");
    wait_until("the route outside to be seen", || {
        calls_from("203.0.201.1", servers[1].v4.into());
        gateway.dropped("source_not_inside") > before
    });
    works();
    host.run("ip route delete 203.0.201.0/24").ok();
    wait_until("its end to be seen", || calls_from("203.0.201.1", servers[1].v4.into()));
    works();
    gateway.stop();

    // From the start, and with virtual IPs in the outside network.
    let gateway = lab.start_with(1, &["--pool", "203.0.113.128/25", "--pool", &Lab::pool_v6(1)]);
    ping(&terminal, servers[1].v4.into(), 1);
    ping(&servers[1], gateway.virtual_ip(terminal.v4.into()), 1);
}
