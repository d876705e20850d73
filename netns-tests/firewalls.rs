//! What `kamei doctor` says of the firewalls that others write is what packets find there, and its advice mends it.

use crate::doctor::examine;
use crate::lab::{Family, Host, Lab, Plan, need, wait_until};
use crate::one_view::nft;
use crate::traffic::{Web, curl};
use std::fs;

const CONFIG: &str = "inside = [\"gi\"]\noutside = [\"go\"]\n[[pool]]\nrange = \"198.18.1.0/24\"\n[[pool]]\nrange = \"2001:db8:18:1::/64\"\n";

/// As Docker 28 has them, with one container that publishes a port.
const DOCKER: &str = "
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -o docker0 -j DOCKER
-A DOCKER-FORWARD -i docker0 -j ACCEPT
COMMIT
";

/// As libvirt has them for a network with NAT, whose bridge is the inside.
const LIBVIRT: &str = "
*nat
:POSTROUTING ACCEPT [0:0]
:LIBVIRT_PRT - [0:0]
-A POSTROUTING -j LIBVIRT_PRT
-A LIBVIRT_PRT -s 10.77.143.0/24 -d 224.0.0.0/24 -j RETURN
-A LIBVIRT_PRT -s 10.77.143.0/24 ! -d 10.77.143.0/24 -p tcp -j MASQUERADE --to-ports 1024-65535
-A LIBVIRT_PRT -s 10.77.143.0/24 ! -d 10.77.143.0/24 -j MASQUERADE
COMMIT
*filter
:FORWARD ACCEPT [0:0]
:LIBVIRT_FWI - [0:0]
:LIBVIRT_FWO - [0:0]
-A FORWARD -j LIBVIRT_FWI
-A FORWARD -j LIBVIRT_FWO
-A LIBVIRT_FWI -d 10.77.143.0/24 -o gi -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A LIBVIRT_FWI -o gi -j REJECT --reject-with icmp-port-unreachable
-A LIBVIRT_FWO -s 10.77.143.0/24 -i gi -j ACCEPT
-A LIBVIRT_FWO -i gi -j REJECT --reject-with icmp-port-unreachable
COMMIT
";

/// The old way to write a router's, and what is invalid first.
const STATES: &str = "
*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i gi -o go -m conntrack --ctstate NEW -j ACCEPT
-A FORWARD -i go -o gi -m conntrack --ctstate NEW -j ACCEPT
COMMIT
";

/// Against floods: nothing from outside is tracked, so nothing of it is an answer.
const UNTRACKED: &str = "
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i go -j CT --notrack
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i gi -o go -j ACCEPT
COMMIT
";

/// As firewalld has them: chains of zones, and a reject behind all.
const ZONES: &str = "
table inet zones {
    chain forward {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        ct state invalid drop
        ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002::/24 } reject with icmpv6 addr-unreachable
        jump policies
        reject with icmpx admin-prohibited
    }
    chain policies {
        iifname \"gi\" goto trusted
        iifname vmap { \"go\" : goto external, \"go2\" : accept }
        goto external
    }
    chain trusted { accept; }
    chain external { oifname \"go\" accept; reject with icmpx admin-prohibited; }
}";

/// What one chain accepts the next one may still drop.
const TWO_CHAINS: &str = "
table inet first { chain forward { type filter hook forward priority filter; accept; }; }
table inet second {
    chain forward {
        type filter hook forward priority filter + 5; policy drop;
        ct state invalid drop
        ct state vmap { established : accept, related : accept }
        iifname \"gi\" oifname \"go\" accept
    }
}";

/// New connections from outside, before they are routed.
const EARLY: &str = "
table inet early {
    chain prerouting { type filter hook prerouting priority mangle; iifname \"go\" ct state new drop; }
}";

const AT_THE_INSIDE: &str = "
table netdev bogons {
    chain ingress { type filter hook ingress device gi priority -500; ip saddr 10.0.0.0/8 drop; ip6 saddr fc00::/7 drop; }
}";

const TO_THE_INSIDE: &str = "
table netdev bogons {
    chain egress { type filter hook egress device gi priority 0; ip daddr 10.0.0.0/8 drop; ip6 daddr fc00::/7 drop; }
}";

fn load(host: &Host, rules: &str) {
    if !rules.contains("\nCOMMIT") {
        return nft(host, rules);
    }
    let file = host.dir.join("rules.v4");
    fs::write(&file, rules).unwrap();
    host.run(&format!("iptables-nft-restore {}", file.display())).ok();
}

/// All but the gateway's own.
fn clear(host: &Host) {
    for table in host.run("nft list tables").ok().lines().filter(|table| !table.contains("kamei")) {
        host.run(&format!("nft delete {table}")).ok();
    }
}

#[test]
fn what_doctor_says_of_the_firewalls_of_others_is_what_packets_find_and_its_advice_mends_it() {
    need("iptables-nft-restore", "iptables");
    let lab = Lab::new(Plan::gateways(1));
    let (host, terminal, server) = (lab.gateway(1), lab.terminal(1), lab.server(1));
    let _webs = [Web::start(&server, 80), Web::start(&terminal, 8080)];
    let gateway = lab.start(1);
    curl(&terminal, server.address(Family::V4), 80);
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());
    let seen = |from: &Host, to: std::net::IpAddr, port: u16| {
        from.run(&format!("exec curl -sS --max-time 1 {}", crate::traffic::url(to, port, ""))).stdout
    };
    let called = format!("{virtual_ip} 80");
    let is_called = || seen(&terminal, server.v4.into(), 80) == called;
    let is_called_back = || seen(&server, virtual_ip, 8080) == format!("{} 8080", server.v4);
    // What is dropped: calls (or the answers to them), callbacks (or the answers to those).
    let all: [(&str, &[&str], [bool; 2]); 10] = [
        (DOCKER, &["drops calls of terminals, answers, callbacks"], [true, true]),
        (LIBVIRT, &["drops callbacks", "hides terminals"], [true, true]),
        (STATES, &[], [false, false]),
        (UNTRACKED, &["drops answers, callbacks"], [true, true]),
        (ZONES, &["drops callbacks"], [false, true]),
        (TWO_CHAINS, &["drops callbacks"], [false, true]),
        (EARLY, &["drops callbacks"], [false, true]),
        (AT_THE_INSIDE, &["drops what terminals send"], [true, true]),
        (TO_THE_INSIDE, &["drops answers and callbacks"], [true, true]),
        ("table inet nothing { }", &[], [false, false]),
    ];
    for (rules, words, is_dropped) in all {
        load(&host, rules);
        assert_eq!([!is_called(), !is_called_back()], is_dropped, "{rules}");
        let said = examine(&lab, CONFIG, "").stdout;
        let wrong: Vec<&str> = said.lines().filter(|line| line.starts_with("WRONG")).collect();
        let are_said = words.iter().all(|words| wrong.iter().any(|line| line.contains(words)));
        assert!(are_said && wrong.len() == words.len(), "{rules}\n{words:?}\n{said}");
        for advice in wrong.iter().filter_map(|line| line.split_once("add: ")) {
            advice.1.split("; ").for_each(|line| drop(host.run(line).ok()));
        }
        assert!(is_called() && is_called_back(), "{rules}\n{wrong:?}");
        let mended = examine(&lab, CONFIG, "");
        assert_eq!(mended.code, Some(0), "{rules}\n{}", mended.stdout);
        clear(&host);
    }
}

/// The packets of a redirected flow that go the kernel's way are out of every window that it knows.
#[test]
fn a_firewall_that_drops_invalid_packets_costs_redirected_flows_some_until_conntrack_is_liberal() {
    const INVALID: &str = "
table inet filter {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state invalid counter drop
        ct state established,related counter accept
        iifname \"gi\" oifname \"go\" accept
        iifname \"go\" oifname \"gi\" accept
    }
}";
    let lab = Lab::new(Plan::gateways(1).redirecting());
    let (host, terminal, server) = (lab.gateway(1), lab.terminal(1), lab.server(1));
    let redirect = format!("fast-path = \"redirect\"\n{CONFIG}");
    nft(&host, INVALID);
    let words = "drops what connection tracking calls invalid";
    assert_eq!(examine(&lab, CONFIG, "").code, Some(0), "where every packet is seen, it costs nothing");
    let said = examine(&lab, &redirect, "");
    assert!(said.code == Some(1) && said.stdout.contains(words), "{}", said.stdout);
    let _gateway = lab.start(1);
    let _server = server.spawn("iperf3", &["iperf3", "-s"]);
    wait_until("iperf3 to listen", || !server.run("ss -Htln 'sport = 5201'").ok().trim().is_empty());
    let peer = server.v4.to_string();
    let _flow = terminal.spawn("iperf3", &["iperf3", "-c", &peer, "-t", "3600", "-b", "50M"]);
    let packets = |of: &str| {
        let chain = host.run("nft list chain inet filter forward").ok();
        let line = chain.lines().find(|line| line.contains(of)).unwrap().to_owned();
        line.split_whitespace().skip_while(|word| *word != "packets").nth(1).unwrap().parse::<u64>().unwrap()
    };
    wait_until("packets that are called invalid", || packets("invalid") > 0);
    let advice = said.stdout.lines().find_map(|line| line.split_once("sysctl -w ")).unwrap().1;
    host.run(&format!("sysctl -w {}", advice.split(',').next().unwrap())).ok();
    assert_eq!(examine(&lab, &redirect, "").code, Some(0));
    let (lost, seen) = (packets("invalid"), packets("established"));
    wait_until("ten more to go the kernel's way", || packets("established") > seen + 10);
    assert_eq!(packets("invalid"), lost);
}
