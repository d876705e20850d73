//! ICMP as people use it: traceroute, tracepath, mtr and ping, through one gateway and through three.

use crate::capture::Capture;
use crate::gateway::{Gateway, outermost};
use crate::lab::{Family, Host, Lab, Plan, need, wait_until};
use crate::traffic::{Web, curl};
use std::net::IpAddr;

/// A row of gateways; terminal 1 has called server 1, and both run a web server. Every outside wire is captured.
struct Row {
    lab: Lab,
    gateways: Vec<Gateway>,
    captures: Vec<Capture>,
    terminal: Host,
    server: Host,
    virtual_ip: IpAddr,
    family: Family,
    _webs: [Web; 2],
}

impl Row {
    fn new(gateways: u8, family: Family) -> Self {
        let lab = Lab::new(Plan::gateways(gateways).unwatched());
        let running = lab.start_all();
        let (terminal, server) = (lab.terminal(1), lab.server(1));
        let webs = [Web::start(&server, 80), Web::start(&terminal, 80)];
        curl(&terminal, server.address(family), 80);
        let virtual_ip = outermost(&running, &terminal, family);
        let captures = (1..=lab.plan.gateways).map(|k| lab.outside_wire(k)).collect();
        // Many probes in a short time: nobody shall hold answers back (icmp(7): icmp_ratelimit).
        for host in running.iter().map(|gateway| &gateway.host).chain([&terminal, &server]) {
            host.set_sysctl("net.ipv4.icmp_ratelimit", "0");
            host.set_sysctl("net.ipv4.icmp_msgs_per_sec", "100000");
            host.set_sysctl("net.ipv6.icmp.ratelimit", "0");
        }
        Self { lab, gateways: running, captures, terminal, server, virtual_ip, family, _webs: webs }
    }

    /// Who answers a terminal's probes, hop by hop: each gateway by its inside address, then the server.
    fn hops_out(&self) -> Vec<IpAddr> {
        let gateways = (1..=self.lab.plan.gateways).map(|k| match (self.family, self.lab.gateway_inside(k)) {
            (Family::V4, (v4, _)) => IpAddr::from(v4),
            (Family::V6, (_, v6)) => IpAddr::from(v6),
        });
        gateways.chain([self.server.address(self.family)]).collect()
    }

    /// Who answers a server's probes: the last gateway speaks for all that have no virtual IP (RFC 5508 REQ-5c), then
    /// the virtual IP.
    fn hops_back(&self) -> Vec<IpAddr> {
        let last = self.lab.gateway(self.lab.plan.gateways).address(self.family);
        let gateways = std::iter::repeat_n(last, usize::from(self.lab.plan.gateways));
        gateways.chain([self.virtual_ip]).collect()
    }

    /// Both ways: who asks, for whom, and what it must see.
    fn ways(&self) -> [(&Host, IpAddr, Vec<IpAddr>); 2] {
        [
            (&self.terminal, self.server.address(self.family), self.hops_out()),
            (&self.server, self.virtual_ip, self.hops_back()),
        ]
    }

    #[track_caller]
    fn nothing_leaked(self) {
        for (k, capture) in (1..).zip(self.captures) {
            capture.finish().assert_hidden(&self.lab.hidden(k));
        }
    }
}

/// The first address in each line that starts with a hop number; where a tool asks a hop twice (tracepath does the
/// first), one of them.
fn hops_in(text: &str) -> Vec<IpAddr> {
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let number = words.next()?.trim_end_matches(['.', ':', '|', '-', '?']).parse::<u8>().ok()?;
        let address = words.find_map(|word| word.parse().ok())?;
        Some((number, address))
    };
    let mut hops: Vec<(u8, IpAddr)> = text.lines().filter_map(of_line).collect();
    hops.dedup();
    for (at, (number, _)) in hops.iter().enumerate() {
        assert_eq!(usize::from(*number), at + 1, "one line a hop:\n{text}");
    }
    hops.into_iter().map(|(_, address)| address).collect()
}

fn traceroute(gateways: u8, family: Family) {
    need("traceroute", "traceroute");
    let row = Row::new(gateways, family);
    for (from, to, hops) in row.ways() {
        // UDP to unlikely ports, UDP to one port, ICMP, TCP SYN.
        for method in ["", "-U -p 53", "-I", "-T -p 80"] {
            let ran = from.run(&format!("traceroute -n -q 1 -w 3 -m 8 {method} {to}"));
            let said = ran.ok();
            assert_eq!(hops_in(&said), hops, "traceroute {method} from {}:\n{said}", from.name);
        }
    }
    row.nothing_leaked();
}

#[test]
fn i4_i5_i10_traceroute_shows_a_gateway_once() {
    traceroute(1, Family::V4);
}

#[test]
fn i4_i5_i10_traceroute_shows_a_gateway_once_v6() {
    traceroute(1, Family::V6);
}

#[test]
fn s_traceroute_shows_each_of_three_gateways_once() {
    traceroute(3, Family::V4);
}

#[test]
fn s_traceroute_shows_each_of_three_gateways_once_v6() {
    traceroute(3, Family::V6);
}

fn tracepath_and_mtr(gateways: u8, family: Family) {
    need("tracepath", "iputils-tracepath");
    need("mtr", "mtr-tiny");
    let row = Row::new(gateways, family);
    for (from, to, hops) in row.ways() {
        let said = from.run(&format!("tracepath -n -m 8 {to}")).ok();
        assert_eq!(hops_in(&said), hops, "tracepath from {}:\n{said}", from.name);
        assert!(said.contains("pmtu 1500") && said.contains(&format!("hops {}", hops.len())), "{said}");
        for method in ["", "--udp", "--tcp --port 80"] {
            let said = from.run(&format!("mtr -n --report-wide -c 2 -i 0.2 -G 1 -m 8 {method} {to}")).ok();
            assert_eq!(hops_in(&said), hops, "mtr {method} from {}:\n{said}", from.name);
        }
    }
    row.nothing_leaked();
}

#[test]
fn s_tracepath_and_mtr_show_a_gateway_once() {
    tracepath_and_mtr(1, Family::V4);
}

#[test]
fn s_tracepath_and_mtr_show_a_gateway_once_v6() {
    tracepath_and_mtr(1, Family::V6);
}

#[test]
fn s_tracepath_and_mtr_show_each_of_three_gateways_once() {
    tracepath_and_mtr(3, Family::V4);
}

#[test]
fn s_tracepath_and_mtr_show_each_of_three_gateways_once_v6() {
    tracepath_and_mtr(3, Family::V6);
}

/// Echo requests of all sizes; the large ones travel as fragments, and their answers too.
fn ping_sizes(family: Family) {
    let row = Row::new(1, family);
    for (from, to, _) in row.ways() {
        for size in [0, 1, 55, 1452, 1453, 1472, 1473, 2960, 8972, 30_001, 65_507] {
            let size = if family == Family::V6 { size.min(65_487) } else { size };
            let said = from.run(&format!("ping -n -c 1 -W 5 -M dont -s {size} {to}"));
            assert!(said.succeeded(), "{size} bytes from {}: {}{}", from.name, said.stdout, said.stderr);
        }
    }
    row.nothing_leaked();
}

#[test]
fn i1_ping_of_all_sizes() {
    ping_sizes(Family::V4);
}

#[test]
fn i1_ping_of_all_sizes_v6() {
    ping_sizes(Family::V6);
}

/// In the options record route and timestamp-with-addresses each host on the way, the terminal first, writes itself
/// down: they would carry inside addresses out.
#[test]
fn n8_ping_that_records_addresses_is_refused_by_name() {
    let row = Row::new(1, Family::V4);
    for option in ["-R", "-T tsandaddr"] {
        for (from, to, _) in row.ways() {
            let before = row.gateways[0].dropped("records_addresses");
            assert!(!from.run(&format!("ping -n -c 1 -W 1 {option} {to}")).succeeded(), "ping {option}");
            wait_until("the drop", || row.gateways[0].dropped("records_addresses") > before);
        }
    }
    // A timestamp alone says nothing about addresses.
    row.terminal.run(&format!("ping -n -c 1 -W 5 -T tsonly {}", row.server.v4)).ok();
    row.nothing_leaked();
}

/// A terminal that gets no virtual IP hears why.
fn exhausted(family: Family, answer: &str, words: &[&str]) {
    let lab = Lab::new(Plan::gateways(1).terminals(2));
    let pool = match family {
        Family::V4 => "198.18.1.7/32",
        Family::V6 => "2001:db8:18:1::7/128",
    };
    let text =
        format!("inside = [\"gi\"]\noutside = [\"go\"]\nexhausted = \"{answer}\"\n[[pool]]\nrange = \"{pool}\"\n");
    let gateway = lab.start_from_file(1, &text);
    let to = lab.server(1).address(family);
    lab.server(1)
        .run(&format!(
            "ip route replace {pool} via {0} 2>/dev/null || ip -6 route replace {pool} via {1}",
            lab.gateway(1).v4,
            lab.gateway(1).v6
        ))
        .ok();
    lab.terminal(1).run(&format!("ping -n -c 1 -W 5 {to}")).ok();
    let ran = lab.terminal(2).run(&format!("ping -n -c 1 -W 1 {to}"));
    assert!(!ran.succeeded());
    let said = ran.stdout + &ran.stderr;
    let errors = said.contains("+1 errors");
    assert_eq!(errors, !words.is_empty(), "{said}");
    assert!(words.is_empty() || words.iter().any(|words| said.contains(words)), "{said}");
    assert!(gateway.dropped("pool_exhausted") > 0);
    lab.terminal(1).run(&format!("ping -n -c 1 -W 5 {to}")).ok();
}

#[test]
fn i8_no_virtual_ip_left_is_answered_as_prohibited() {
    exhausted(Family::V4, "prohibited", &["Packet filtered"]);
}

#[test]
fn i8_no_virtual_ip_left_is_answered_as_prohibited_v6() {
    exhausted(Family::V6, "prohibited", &["Administratively prohibited", "administratively prohibited"]);
}

#[test]
fn i8_no_virtual_ip_left_is_answered_as_unreachable_where_configured() {
    exhausted(Family::V4, "unreachable", &["Destination Host Unreachable"]);
}

#[test]
fn i8_no_virtual_ip_left_is_answered_as_unreachable_where_configured_v6() {
    exhausted(Family::V6, "unreachable", &["Address unreachable"]);
}

#[test]
fn i8_no_virtual_ip_left_is_met_with_silence_where_configured() {
    exhausted(Family::V4, "silent", &[]);
}
