//! Kernel settings that the gateway needs, on a machine where others change them too.

use crate::gateway::{Gateway, KAMEI};
use crate::lab::{Family, Host, Lab, Plan, wait_until};
use crate::one_view::{BOTH, ping};
use crate::traffic::{Web, curl, curl_in_vain};
use rustix::process::Signal;

const POOLS: [&str; 4] = ["--pool", "198.18.1.0/24", "--pool", "2001:db8:18:1::/64"];

/// The values, one a word.
fn values(host: &Host, keys: &str) -> String {
    host.run(&format!("sysctl -n {keys}")).ok().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn answers(host: &Host, to: std::net::IpAddr) -> bool {
    host.run(&format!("ping -n -c 1 -W 1 {to}")).succeeded()
}

/// What a container engine or another router does once it comes up.
const SWITCH_ON: &str = "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1";
const FORWARDING: &str = "net.ipv4.ip_forward net.ipv4.conf.gi.forwarding net.ipv4.conf.go.forwarding \
                          net.ipv6.conf.all.forwarding net.ipv6.conf.gi.forwarding net.ipv6.conf.go.forwarding";

#[test]
fn p3_what_others_switch_on_meanwhile_stays_on() {
    let lab = Lab::new(Plan::gateways(1));
    let host = lab.gateway(1);
    assert_eq!(values(&host, FORWARDING), "0 0 0 0 0 0");
    let ends: [fn(Gateway, &str); 2] = [
        |gateway, _| gateway.stop(),
        |gateway, control| {
            let host = gateway.host.clone();
            gateway.kill();
            host.run(&format!("{KAMEI} cleanup --control {control}")).ok();
        },
    ];
    for end in ends {
        let gateway = lab.start_with(1, &POOLS);
        host.run(SWITCH_ON).ok();
        ping(&lab.terminal(1), lab.server(1).v4.into(), 1);
        end(gateway, lab.control(1).to_str().unwrap());
        assert_eq!(values(&host, FORWARDING), "1 1 1 1 1 1");
        host.run("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0").ok();
    }
}

#[test]
fn p3_what_a_killed_gateway_has_set_goes_back_wherever_its_control_socket_was() {
    let lab = Lab::new(Plan::gateways(1));
    let host = lab.gateway(1);
    lab.start_with(1, &POOLS).kill();
    assert_ne!(values(&host, FORWARDING), "0 0 0 0 0 0");
    host.run(&format!("{KAMEI} cleanup")).ok();
    assert_eq!(values(&host, FORWARDING), "0 0 0 0 0 0");

    // The next has its socket elsewhere.
    lab.start_with(1, &POOLS).kill();
    let (control, state) = (lab.scratch().join("other").join("x.sock"), lab.scratch().join("state1"));
    std::fs::create_dir(control.parent().unwrap()).unwrap();
    let (control, state) = (control.to_str().unwrap(), state.to_str().unwrap());
    let words = ["gateway", "--inside", "gi", "--outside", "go", "--control", control, "--state-dir", state];
    let mut next = host.spawn("next", &[&[KAMEI], &words[..], &POOLS].concat());
    let asks = format!("{KAMEI} status --wait 1 --control {control}");
    wait_until("the next to be ready", || host.run(&asks).succeeded());
    next.signal(Signal::TERM);
    next.child.wait().unwrap();
    assert_eq!(values(&host, FORWARDING), "0 0 0 0 0 0");
}

#[test]
fn p3_settings_that_others_take_away_are_set_again_and_said() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server, host) = (lab.terminal(1), lab.server(1), lab.gateway(1));
    host.run(SWITCH_ON).ok();
    let gateway = lab.start_with(1, &POOLS);
    let others = [
        // As `sysctl --system` with the files of a hardened machine.
        "net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1",
        "net.ipv4.conf.kamei-nat.rp_filter=1 net.ipv4.conf.kamei-nat.forwarding=0 net.ipv4.conf.kamei-nat.accept_local=0",
        "net.ipv6.conf.kamei-nat.disable_ipv6=1",
    ];
    for change in others {
        for family in BOTH {
            ping(&terminal, server.address(family), 1);
        }
        host.run(&format!("sysctl -qw {change}")).ok();
        for family in BOTH {
            wait_until("the settings to be made again", || answers(&terminal, server.address(family)));
            wait_until("callbacks", || answers(&server, gateway.virtual_ip(terminal.address(family))));
        }
    }
    assert!(
        gateway.log().contains("net/ipv4/conf/go/forwarding has become 0, by which packets are lost; it is set to 2")
    );
    gateway.stop();
    assert_eq!(values(&host, FORWARDING), "0 0 0 0 0 0", "as the others have left it");
    assert_eq!(values(&host, "net.ipv4.conf.all.rp_filter"), "1");
}

/// Two programs that want different things: ours gives in more and more, says so, and is right in the end.
#[test]
fn p3_a_setting_that_somebody_changes_again_and_again_is_no_endless_fight() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server, host) = (lab.terminal(1), lab.server(1), lab.gateway(1));
    let text = "inside = [\"gi\"]\noutside = [\"go\"]\n[[pool]]\nrange = \"198.18.1.0/24\"\n";
    let gateway = lab.start_from_file(1, text);
    ping(&terminal, server.v4.into(), 1);
    let said = || gateway.log().matches("net/ipv4/conf/go/forwarding has become 0").count();
    for times in 1..=4 {
        host.run("sysctl -qw net.ipv4.conf.go.forwarding=0").ok();
        wait_until("it to be set again", || said() == times);
        if times < 4 {
            wait_until("packets to pass", || answers(&terminal, server.v4.into()));
        }
    }
    assert!(gateway.log().contains("that happens again and again"));
    let fight =
        host.spawn("fight", &["sh", "-c", "while sysctl -qw net.ipv4.conf.go.forwarding=0; do sleep 0.01; done"]);
    for _ in 0..100 {
        answers(&terminal, server.v4.into());
        if said() > 4 {
            break;
        }
    }
    drop(fight);
    assert!(said() <= 6, "{}", gateway.log());
    host.run("sysctl -qw net.ipv4.conf.go.forwarding=0").ok();
    std::fs::write(lab.scratch().join("gateway1.toml"), format!("callback = \"anyone\"\n{text}")).unwrap();
    assert!(gateway.ask("reload").ok().ends_with("in force\n"));
    assert_eq!(values(&host, "net.ipv4.conf.go.forwarding"), "2", "who says so has made it so");
}

/// The first IPv6 pool and a pool in the outside's network come by a reload.
#[test]
fn s_what_a_pool_needs_that_comes_later_is_made_then() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server, host) = (lab.terminal(1), lab.server(1), lab.gateway(1));
    server.run("ip route delete default; ip -6 route delete default").ok();
    let sides = "inside = [\"gi\"]\noutside = [\"go\"]\n";
    let pools = |ranges: &[&str]| -> String {
        ranges.iter().fold(sides.to_owned(), |text, range| format!("{text}[[pool]]\nrange = \"{range}\"\n"))
    };
    let gateway = lab.start_from_file(1, &pools(&["198.18.1.0/24"]));
    let write = |text: &str| std::fs::write(lab.scratch().join("gateway1.toml"), text).unwrap();
    write(&pools(&["203.0.113.128/25", "2001:db8:113::a000/116"]));
    assert!(gateway.ask("reload").ok().ends_with("in force\n"));
    for family in BOTH {
        ping(&terminal, server.address(family), 1);
        assert!(answers(&server, gateway.virtual_ip(terminal.address(family))), "{family:?}");
    }
    assert_eq!(values(&host, "net.ipv6.conf.all.forwarding net.ipv6.conf.all.proxy_ndp"), "2 2");
    gateway.stop();
    assert_eq!(values(&host, "net.ipv6.conf.all.forwarding net.ipv6.conf.all.proxy_ndp"), "0 0");
    assert_eq!(values(&host, FORWARDING), "0 0 0 0 0 0");
}

/// As with a DHCP server that answers late.
#[test]
fn s_an_outside_interface_that_gets_its_addresses_after_the_start_is_answered_for() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server, host) = (lab.terminal(1), lab.server(1), lab.gateway(1));
    server.run("ip route delete default; ip -6 route delete default").ok();
    let addresses = BOTH.map(|family| match family {
        Family::V4 => format!("{}/24", host.v4),
        Family::V6 => format!("{}/64", host.v6),
    });
    host.run("ip address flush dev go scope global").ok();
    let gateway = lab.start_with(1, &["--pool", "203.0.113.128/25", "--pool", "2001:db8:113::a000/116"]);
    for address in &addresses {
        host.run(&format!("ip address add {address} dev go nodad")).ok();
    }
    for family in BOTH {
        wait_until("a call", || answers(&terminal, server.address(family)));
        wait_until("a callback", || answers(&server, gateway.virtual_ip(terminal.address(family))));
    }
}

/// The first of two gateways on one outside that stops takes nothing from the other.
#[test]
fn p3_the_first_of_two_gateways_to_stop_takes_no_setting_from_the_other() {
    let lab = Lab::new(Plan::gateways(1).terminals(2));
    let (terminal, server, host) = (lab.terminal(1), lab.server(1), lab.gateway(1));
    server.run("ip route delete default; ip -6 route delete default").ok();
    host.run("ip link add gi2 type veth peer name other2 && ip link set gi2 up && ip address add 10.99.0.1/24 dev gi2")
        .ok();
    let first = {
        let (control, state) = (lab.scratch().join("first.sock"), lab.scratch().join("first"));
        let words = "--tun first --inside gi2 --outside go --pool 203.0.113.64/27 --pool 2001:db8:113::b000/116";
        let words: Vec<&str> = words.split(' ').collect();
        let paths = ["--control", control.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
        let process = host.spawn("first", &[&[KAMEI, "gateway"], &words[..], &paths].concat());
        wait_until("the first gateway", || {
            host.run(&format!("{KAMEI} status --wait 1 --control {}", control.display())).succeeded()
        });
        process
    };
    let gateway = lab.start_with(1, &["--pool", "203.0.113.128/25", "--pool", "2001:db8:113::a000/116"]);
    for family in BOTH {
        ping(&terminal, server.address(family), 1);
        assert!(answers(&server, gateway.virtual_ip(terminal.address(family))));
    }
    let mut first = first;
    first.signal(Signal::TERM);
    assert!(first.wait().success());
    for family in BOTH {
        server.run("ip neigh flush dev eth0; ip -6 neigh flush dev eth0").ok();
        wait_until("a call", || answers(&terminal, server.address(family)));
        wait_until("a callback", || answers(&server, gateway.virtual_ip(terminal.address(family))));
    }
    gateway.stop();
    assert_eq!(values(&host, FORWARDING), "0 0 0 0 0 0");
}

/// Whoever forwarded before does so again: that is how it was found.
#[test]
fn a_stop_says_that_the_inside_is_open_where_the_machine_forwarded_before_the_gateway_came() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let (host, terminal, server) = (lab.gateway(1), lab.terminal(1), lab.server(1));
    let _web = Web::start(&server, 80);
    let pools = ["--pool", &Lab::pool_v4(1), "--pool", &Lab::pool_v6(1)];
    let said = |more: &[&str], signal: Signal| {
        let log = lab.scratch().join("gateway1-kamei.log");
        let before = std::fs::read_to_string(&log).map_or(0, |text| text.len());
        lab.start_with(1, &[&pools[..], more].concat()).end_by(signal);
        let text = std::fs::read_to_string(&log).unwrap();
        let lines = text[before..].lines().filter(|line| line.contains("UNTRANSLATED")).map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    assert_eq!(said(&[], Signal::INT), [] as [&str; 0]);
    host.set_sysctl("net.ipv4.ip_forward", "1");
    let v4 = said(&[], Signal::INT);
    assert!(
        v4.len() == 1 && v4[0].contains("WARN") && v4[0].contains("forwards IPv4 without the gateway too"),
        "{v4:?}"
    );
    assert!(v4[0].contains("comes in by gi goes out by go") && v4[0].contains("--on-stop leave"), "{v4:?}");
    // So it is.
    assert_eq!(curl(&terminal, server.v4.into(), 80), format!("{} 80", terminal.v4));
    assert_eq!(said(&["--on-stop", "leave"], Signal::INT), [] as [&str; 0]);
    curl_in_vain(&terminal, server.v4.into(), 80);
    host.set_sysctl("net.ipv6.conf.all.forwarding", "1");
    let both = said(&[], Signal::TERM);
    assert!(both.len() == 1 && both[0].contains("forwards IPv4 and IPv6 without the gateway too"), "{both:?}");
}
