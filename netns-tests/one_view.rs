//! P1: whoever translates, user space or the kernel, every hook of the machine sees each packet once, from the real inside
//! interface to the real outside interface, with the terminal's own address. So rules of others hold, for all packets.

use crate::fastpath::{flows, hits};
use crate::gateway::{Gateway, KAMEI};
use crate::lab::{Background, DEADLINE, Family, Host, Lab, Plan, Ran, patience, wait_until};
use crate::traffic::{Echo, Web, ask_udp, curl, curl_in_vain};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub const BOTH: [Family; 2] = [Family::V4, Family::V6];
pub const SLOW: &[&str] = &["--fast-path", "off"];

/// Packets of one kind that a round of [`Scene::round`] has, of either family and direction: requests, and as many answers.
const EACH: u64 = 5;

/// What the gateway has to sit with on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// No BPF file system: filters on `clsact`, and a table of nf_tables as guard.
    Filters,
    /// A BPF file system: TCX, and a program of netfilter as guard.
    Links,
}

pub const SEATS: [Seat; 2] = [Seat::Filters, Seat::Links];

/// Each seat with each mode, user space alone and the kernel too. Where everything takes long, only two of the four: each seat
/// and each mode once.
pub fn seats_and_modes() -> Vec<(Seat, &'static [&'static str])> {
    let all = SEATS.iter().flat_map(|seat| [SLOW, &[]].map(|mode| (*seat, mode)));
    all.filter(|(seat, mode)| patience() == 1 || (*seat == Seat::Filters) == (*mode == SLOW)).collect()
}

/// A lab in which gateway 1 has one or the other, as often as it is started.
pub struct Ground {
    /// Holds the mount namespace with the BPF file system. Ends before the lab does.
    keeper: Option<Background>,
    pub lab: Lab,
    pub seat: Seat,
}

impl Ground {
    pub fn new(plan: Plan, seat: Seat) -> Self {
        let lab = Lab::new(plan);
        let keeper = (seat == Seat::Links).then(|| {
            let mount = "mount -t bpf bpf /sys/fs/bpf && echo mounted && exec sleep 1000";
            let keeper = lab.gateway(1).spawn("keeper", &["sh", "-c", mount]);
            wait_until("a BPF file system", || keeper.output().contains("mounted"));
            keeper
        });
        Self { keeper, lab, seat }
    }

    /// Gateway 1 with both pools and these arguments, ready.
    #[track_caller]
    pub fn start(&self, arguments: &[&str]) -> Gateway {
        let (v4, v6) = (Lab::pool_v4(1), Lab::pool_v6(1));
        let pools = ["--inside", "gi", "--outside", "go", "--pool", &v4, "--pool", &v6];
        self.start_exactly(&[&pools, arguments].concat())
    }

    /// Gateway 1 with these arguments alone, ready.
    #[track_caller]
    pub fn start_exactly(&self, arguments: &[&str]) -> Gateway {
        let view = self.view();
        let view: Vec<&str> = view.split_whitespace().collect();
        self.lab.start_by(1, &[&view, &[KAMEI, "gateway"][..], arguments].concat())
    }

    /// Runs a line in gateway 1 where it sees the files that the gateway sees.
    pub fn run(&self, line: &str) -> Ran {
        let host = self.lab.gateway(1);
        match self.view().as_str() {
            "" => host.run(line),
            view => host.run(&format!("{view} sh -c '{line}'")),
        }
    }

    fn view(&self) -> String {
        let of = |keeper: &Background| format!("nsenter --mount=/proc/{}/ns/mnt", keeper.child.id());
        self.keeper.as_ref().map(of).unwrap_or_default()
    }
}

/// Servers on both ends, and traffic of every kind both ways.
pub struct Scene {
    pub gateway: Gateway,
    pub terminal: Host,
    pub server: Host,
    _webs: [Web; 2],
    _echoes: [Echo; 2],
    pub ground: Ground,
}

impl Scene {
    pub fn new(seat: Seat, arguments: &[&str]) -> Self {
        Self::on(Ground::new(Plan::gateways(1), seat), arguments)
    }

    pub fn on(ground: Ground, arguments: &[&str]) -> Self {
        let gateway = ground.start(arguments);
        let (terminal, server) = (ground.lab.terminal(1), ground.lab.server(1));
        let scene = Self {
            _webs: [Web::start(&server, 80), Web::start(&terminal, 8080)],
            _echoes: [Echo::start(&server, 5000), Echo::start(&terminal, 5001)],
            gateway,
            terminal,
            server,
            ground,
        };
        scene.warm_up();
        scene
    }

    pub fn host(&self) -> &Host {
        &self.gateway.host
    }

    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        self.host().run(line).ok()
    }

    /// All neighbours know each other, and what the kernel may know of the flows it does.
    #[track_caller]
    fn warm_up(&self) {
        let has_flows = self.gateway.status()["fast_path"]["mode"] != "off";
        for family in BOTH {
            let before = flows(&self.gateway);
            wait_until("both directions to be in the kernel", || {
                ping(&self.terminal, self.server.address(family), EACH);
                !has_flows || flows(&self.gateway) >= before + 2
            });
            ping(&self.server, self.virtual_ip(family), 1);
        }
    }

    #[track_caller]
    pub fn virtual_ip(&self, family: Family) -> IpAddr {
        self.gateway.virtual_ip(self.terminal.address(family))
    }

    /// Calls and callbacks by ping, UDP and TCP.
    #[track_caller]
    pub fn round(&self, family: Family) {
        let (terminal, server, virtual_ip) =
            (self.terminal.address(family), self.server.address(family), self.virtual_ip(family));
        for (from, to, echo, web, seen) in
            [(&self.terminal, server, 5000, 80, virtual_ip), (&self.server, virtual_ip, 5001, 8080, server)]
        {
            ping(from, to, EACH);
            for _ in 0..EACH {
                let answer = ask_udp(from, SocketAddr::new(to, echo), b"once", DEADLINE);
                assert_eq!(answer.as_deref(), Some(&b"once"[..]), "{} to {to}", from.name);
            }
            assert_eq!(curl(from, to, web), format!("{seen} {web}"));
        }
        assert_ne!(virtual_ip, terminal);
    }

    /// Whether the terminal's pings come back.
    pub fn calls(&self, family: Family) -> bool {
        pings(&self.terminal, self.server.address(family), 5)
    }

    /// Whether the server's do.
    pub fn calls_back(&self, family: Family) -> bool {
        pings(&self.server, self.virtual_ip(family), 5)
    }

    /// Whether none comes back within a second.
    pub fn calls_in_vain(&self, family: Family) -> bool {
        !pings(&self.terminal, self.server.address(family), 1)
    }

    /// The same for the server's.
    pub fn calls_back_in_vain(&self, family: Family) -> bool {
        !pings(&self.server, self.virtual_ip(family), 1)
    }
}

#[track_caller]
pub fn ping(from: &Host, to: IpAddr, count: u64) {
    from.run(&format!("ping -n -c {count} -i 0.02 -W 5 {to}")).ok();
}

fn pings(from: &Host, to: IpAddr, patience: u32) -> bool {
    from.run(&format!("ping -n -c 3 -i 0.05 -W {patience} {to}")).succeeded()
}

/// The word of nft for a family.
fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

pub fn nft(host: &Host, commands: &str) {
    let file = host.dir.join("rules.nft");
    std::fs::write(&file, commands).unwrap();
    host.run(&format!("nft -f {}", file.display())).ok();
}

// --- who sees what ------------------------------------------------------------------------------------------------

/// A kind of packet: family, protocol, and whether it goes out.
type Kind = (&'static str, &'static str, bool);

fn kinds() -> impl Iterator<Item = Kind> {
    let protocols = [("icmp", "icmpv6"), ("udp", "udp"), ("tcp", "tcp")];
    BOTH.into_iter().flat_map(move |family| {
        protocols.into_iter().flat_map(move |(v4, v6)| {
            let protocol = if family == Family::V4 { v4 } else { v6 };
            [true, false].map(|out| (ip(family), protocol, out))
        })
    })
}

/// Where netfilter looks: (name of the chain, its table and hook, the interfaces it knows for what goes out and comes back).
const HOOKS: [(&str, &str, &str, &str, &str); 9] = [
    ("raw", "inet", "prerouting priority raw", "iifname gi", "iifname go"),
    ("mangle", "inet", "prerouting priority mangle", "iifname gi", "iifname go"),
    ("forward", "inet", "forward priority filter", "iifname gi oifname go", "iifname go oifname gi"),
    ("late", "inet", "forward priority 1000", "iifname gi oifname go", "iifname go oifname gi"),
    ("post", "inet", "postrouting priority mangle", "iifname gi oifname go", "iifname go oifname gi"),
    ("gi_in", "netdev", "ingress device gi priority 0", "iifname gi", ""),
    ("gi_out", "netdev", "egress device gi priority 0", "", "oifname gi"),
    ("go_in", "netdev", "ingress device go priority 0", "", "iifname go"),
    ("go_out", "netdev", "egress device go priority 0", "oifname go", ""),
];

/// A ruleset that counts by terminal and server in every hook, and whatever shows something of the gateway's.
fn counting_rules(scene: &Scene) -> String {
    let mut tables: BTreeMap<&str, [String; 2]> = BTreeMap::new();
    for (chain, table, hook, out_interfaces, in_interfaces) in HOOKS {
        let [counters, chains] = tables.entry(table).or_default();
        let mut rule = |name: String, what: &str| {
            writeln!(counters, "counter {name} {{ }}").unwrap();
            format!("{what} counter name {name}\n")
        };
        let mut rules = String::new();
        for (family, protocol, out) in kinds() {
            let interfaces = if out { out_interfaces } else { in_interfaces };
            if interfaces.is_empty() {
                continue;
            }
            let of = if family == "ip" { Family::V4 } else { Family::V6 };
            let (terminal, server) = (scene.terminal.address(of), scene.server.address(of));
            let (from, to) = if out { (terminal, server) } else { (server, terminal) };
            let way = if out { "out" } else { "back" };
            let what = format!("{interfaces} {family} saddr {from} {family} daddr {to} meta l4proto {protocol}");
            rules += &rule(format!("{chain}_{way}_{family}_{protocol}"), &what);
        }
        for (what, name) in [
            ("iifname \"kamei-*\"", "from_device"),
            ("oifname \"kamei-*\"", "to_device"),
            ("ip saddr 198.18.0.0/15", "virtual_source"),
            ("ip daddr 198.18.0.0/15", "virtual_destination"),
            ("ip6 saddr 2001:db8:18::/48", "virtual_source_v6"),
            ("ip6 daddr 2001:db8:18::/48", "virtual_destination_v6"),
        ] {
            rules += &rule(format!("{chain}_stray_{name}"), what);
        }
        writeln!(chains, "chain {chain} {{ type filter hook {hook}; policy accept;\n{rules}}}").unwrap();
    }
    tables.iter().map(|(table, [counters, chains])| format!("table {table} seen {{\n{counters}{chains}}}\n")).collect()
}

/// Filters of tc that count the same at either interface, behind the gateway's programs: (name, interface, direction).
const PLACES: [(&str, &str, &str); 4] = [
    ("tc_gi_in", "gi", "ingress"),
    ("tc_gi_out", "gi", "egress"),
    ("tc_go_in", "go", "ingress"),
    ("tc_go_out", "go", "egress"),
];

/// The number of the first filter at the first place; each has one of its own. (What tc lists for one direction has the u32
/// filters of the other too that have the same.)
const FIRST_FILTER: usize = 200;

/// The kinds that pass a place, by the numbers of their filters.
fn filters(place: usize) -> Vec<(usize, Kind)> {
    let goes_out = place == 0 || place == 3;
    (FIRST_FILTER + 100 * place..).zip(kinds().filter(|(_, _, out)| *out == goes_out)).collect()
}

fn add_counting_filters(scene: &Scene) {
    scene.run("ip link add sink type bridge && ip link set sink up");
    for (place, (_, interface, direction)) in PLACES.into_iter().enumerate() {
        scene.run(&format!("tc qdisc add dev {interface} clsact 2> /dev/null; true"));
        for (number, (family, protocol, out)) in filters(place) {
            let of = if family == "ip" { Family::V4 } else { Family::V6 };
            let server = scene.server.address(of);
            // Behind the program that translates.
            let terminal = if (interface, direction) == ("go", "egress") {
                scene.virtual_ip(of)
            } else {
                scene.terminal.address(of)
            };
            let (from, to) = if out { (terminal, server) } else { (server, terminal) };
            let length = if of == Family::V4 { 32 } else { 128 };
            let ethertype = if of == Family::V4 { "ip" } else { "ipv6" };
            let protocol = match protocol {
                "icmp" => 1,
                "icmpv6" => 58,
                "udp" => 17,
                _ => 6,
            };
            scene.run(&format!(
                "tc filter add dev {interface} {direction} pref {number} protocol {ethertype} u32 match {family} src \
                 {from}/{length} match {family} dst {to}/{length} match {family} protocol {protocol} 0xff action mirred \
                 egress mirror dev sink"
            ));
        }
    }
}

/// By hook or place, way, family and protocol.
type Counts = BTreeMap<String, u64>;

fn counts(scene: &Scene) -> Counts {
    let mut counts = Counts::new();
    let listed: Value = serde_json::from_str(&scene.run("nft -j list counters")).unwrap();
    for counter in listed["nftables"].as_array().unwrap().iter().filter_map(|each| each.get("counter")) {
        if counter["table"] == "seen" {
            counts.insert(counter["name"].as_str().unwrap().to_owned(), counter["packets"].as_u64().unwrap());
        }
    }
    for (place, (name, interface, direction)) in PLACES.into_iter().enumerate() {
        let listed = scene.run(&format!("tc -s -j filter show dev {interface} {direction}"));
        let listed: Value = serde_json::from_str(&listed).unwrap();
        for (number, (family, protocol, out)) in filters(place) {
            let of_filter = listed.as_array().unwrap().iter().filter(|each| each["pref"] == number);
            let packets = of_filter.filter_map(|each| each["options"]["actions"][0]["stats"]["packets"].as_u64()).sum();
            let way = if out { "out" } else { "back" };
            counts.insert(format!("{name}_{way}_{family}_{protocol}"), packets);
        }
    }
    counts
}

/// What each hook and filter counts of one round.
#[track_caller]
fn counted_in_a_round(scene: &Scene) -> Counts {
    nft(scene.host(), &counting_rules(scene));
    add_counting_filters(scene);
    BOTH.iter().for_each(|family| scene.round(*family)); // connections are tracked from now on
    let (before, hits_before) = (counts(scene), hits(&scene.gateway));
    BOTH.iter().for_each(|family| scene.round(*family));
    // The last acknowledgements may still be under way.
    let after = {
        let mut last = counts(scene);
        wait_until("the counters to rest", || {
            let now = counts(scene);
            std::mem::replace(&mut last, now.clone()) == now
        });
        last
    };
    let counts: Counts = after.iter().map(|(name, number)| (name.clone(), number - before[name])).collect();
    let forwarded: u64 =
        counts.iter().filter(|(name, _)| name.starts_with("forward_") && !name.contains("stray")).map(|(_, n)| n).sum();
    let carried = hits(&scene.gateway) - hits_before;
    match scene.gateway.status()["fast_path"]["mode"].as_str() {
        Some("off") => assert_eq!(carried, 0),
        _ => assert_eq!(carried, forwarded, "the kernel has translated them all"),
    }
    counts
}

/// Each packet once in each hook, whatever the hook.
#[track_caller]
fn assert_seen_once(counts: &Counts) {
    let strays: Vec<_> = counts.iter().filter(|(name, number)| name.contains("_stray_") && **number > 0).collect();
    assert!(strays.is_empty(), "{strays:?}");
    for (family, protocol, out) in kinds() {
        let way = if out { "out" } else { "back" };
        let kind = format!("_{way}_{family}_{protocol}");
        let everywhere: Vec<_> = counts.iter().filter(|(name, _)| name.ends_with(&kind)).collect();
        // Five chains on the kernel's way, netdev at both ends, tc at both ends.
        assert_eq!(everywhere.len(), 9, "{everywhere:?}");
        let number = *everywhere[0].1;
        assert!(everywhere.iter().all(|(_, each)| **each == number), "{kind}: {everywhere:?} of {counts:?}");
        // What was called for goes one way, and answers to what was called back for too.
        match protocol {
            "tcp" => assert!(number >= 8, "{kind}: {number}"),
            _ => assert_eq!(number, 2 * EACH, "{kind}"),
        }
    }
}

fn seen_once(seat: Seat) {
    let round = |arguments: &[&str]| counted_in_a_round(&Scene::new(seat, arguments));
    let (slow, fast) = (round(SLOW), round(&[]));
    assert_seen_once(&slow);
    assert_seen_once(&fast);
    // Of TCP neither end promises how many segments it takes.
    let same = |counts: &Counts| -> Counts {
        counts.iter().filter(|(name, _)| !name.ends_with("_tcp")).map(|(name, n)| (name.clone(), *n)).collect()
    };
    assert_eq!(same(&slow), same(&fast));
}

#[test]
fn p1_every_hook_sees_each_packet_once_whoever_translates() {
    seen_once(Seat::Filters);
}

#[test]
fn p1_every_hook_sees_each_packet_once_whoever_translates_at_tcx() {
    seen_once(Seat::Links);
}

// --- rules of others hold -----------------------------------------------------------------------------------------

/// A table with one chain of one rule holds from the moment it is there, in both families, until it goes.
#[track_caller]
fn holds(scene: &Scene, hook: &str, rule: &str, blocked: impl Fn(&Scene, Family) -> bool) {
    let kind = if hook.contains("device") { "netdev" } else { "inet" };
    let mut rules = String::new();
    for family in BOTH {
        let (terminal, server) = (scene.terminal.address(family), scene.server.address(family));
        let rule = rule.replace("IP", ip(family)).replace("TERMINAL", &terminal.to_string());
        writeln!(rules, "{}", rule.replace("SERVER", &server.to_string())).unwrap();
    }
    for family in BOTH {
        assert!(scene.calls(family) && scene.calls_back(family), "before '{hook}: {rule}', {family:?}");
    }
    nft(scene.host(), &format!("table {kind} wall {{ chain wall {{ type filter hook {hook};\n{rules} }}; }}"));
    for family in BOTH {
        assert!(blocked(scene, family), "'{hook}: {rule}' does not hold for {family:?}");
    }
    scene.run(&format!("nft delete table {kind} wall"));
}

fn blocks_calls(scene: &Scene, family: Family) -> bool {
    scene.calls_in_vain(family)
}

fn blocks_callbacks_alone(scene: &Scene, family: Family) -> bool {
    scene.calls(family) && scene.calls_back_in_vain(family)
}

fn rules_hold(seat: Seat, arguments: &[&str]) {
    let scene = Scene::new(seat, arguments);
    for (hook, rule) in [
        ("forward priority 0", "IP saddr TERMINAL drop"),
        ("forward priority 0", "iifname gi oifname go IP saddr TERMINAL IP daddr SERVER drop"),
        ("forward priority 0", "oifname go drop"),
        ("forward priority 0", "iifname go ct state established drop"),
        ("prerouting priority raw", "iifname gi IP saddr TERMINAL drop"),
        ("prerouting priority raw", "iifname go IP daddr TERMINAL drop"),
        ("prerouting priority mangle", "IP saddr TERMINAL drop"),
        ("postrouting priority srcnat", "oifname go IP saddr TERMINAL drop"),
        ("egress device go priority 0", "IP saddr TERMINAL drop"),
        ("ingress device go priority 0", "IP daddr TERMINAL drop"),
        ("ingress device gi priority 0", "IP saddr TERMINAL drop"),
    ] {
        holds(&scene, hook, rule, blocks_calls);
    }
    holds(&scene, "forward priority 0", "iifname go oifname gi ct state new drop", blocks_callbacks_alone);
    holds(&scene, "forward priority 0", "ct state new ct original IP saddr SERVER drop", blocks_callbacks_alone);
    // New connections to peers that are known.
    nft(
        scene.host(),
        "table inet wall { chain wall { type filter hook forward priority 0; oifname go tcp dport 80 drop; }; }",
    );
    for family in BOTH {
        assert!(scene.calls(family));
        curl_in_vain(&scene.terminal, scene.server.address(family), 80);
    }
    scene.run("nft delete table inet wall");
    BOTH.iter().for_each(|family| scene.round(*family));
}

#[test]
fn p1_rules_by_the_terminals_address_hold_for_known_flows_from_the_moment_they_are_there() {
    rules_hold(Seat::Filters, &[]);
}

#[test]
fn p1_rules_by_the_terminals_address_hold_for_known_flows_from_the_moment_they_are_there_at_tcx() {
    rules_hold(Seat::Links, &[]);
}

#[test]
fn p1_rules_by_the_terminals_address_hold_for_what_goes_by_user_space() {
    rules_hold(Seat::Links, SLOW);
}

/// A routing rule closes the outside to one terminal: for known flows too.
#[test]
fn p1_a_routing_rule_of_others_holds_for_known_flows() {
    for seat in SEATS {
        let scene = Scene::new(seat, &[]);
        for family in BOTH {
            let ip = if family == Family::V4 { "ip" } else { "ip -6" };
            let terminal = scene.terminal.address(family);
            scene.run(&format!("{ip} rule add from {terminal} iif gi pref 20000 prohibit"));
            assert!(scene.calls_in_vain(family));
            scene.run(&format!("{ip} rule del pref 20000"));
            assert!(scene.calls(family));
        }
    }
}

/// A policy of IPsec is asked for by the terminal's address too.
#[test]
fn p1_an_ipsec_policy_that_blocks_a_terminal_holds_for_known_flows() {
    for seat in SEATS {
        let scene = Scene::new(seat, &[]);
        for family in BOTH {
            let (terminal, server) = (scene.terminal.address(family), scene.server.address(family));
            for (direction, from, to) in
                [("out", terminal, server), ("fwd", terminal, server), ("fwd", server, terminal)]
            {
                let policy = format!("src {from} dst {to} dir {direction}");
                scene.run(&format!("ip xfrm policy add {policy} action block"));
                assert!(scene.calls_in_vain(family), "{policy}");
                scene.run(&format!("ip xfrm policy delete {policy}"));
                assert!(scene.calls(family), "{policy} is gone");
            }
        }
    }
}

/// A firewall as it is written for the NAT of nftables: what no rule accepts is dropped.
const FIREWALL: &str = r#"
table inet filter {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ct state invalid drop
        iifname "gi" oifname "go" accept
        iifname "go" oifname "gi" ip daddr 10.77.143.0/24 accept
        iifname "go" oifname "gi" ip6 daddr fd5a:77e1:9c0d::/64 accept
    }
}"#;

#[test]
fn p1_behind_a_firewall_that_drops_by_default_everything_works_by_natural_rules() {
    for seat in SEATS {
        for arguments in [SLOW, &[]] {
            let ground = Ground::new(Plan::gateways(1), seat);
            nft(&ground.lab.gateway(1), FIREWALL);
            let scene = Scene::on(ground, arguments);
            for _ in 0..2 {
                BOTH.iter().for_each(|family| scene.round(*family));
            }
        }
    }
}

/// What policy routers and VPN tools write: marks of all kinds, before the gateway and after it.
const MARKS: &str = r#"
table inet marks {
    chain prerouting { type filter hook prerouting priority mangle; meta mark set ct mark; }
    chain forward { type filter hook forward priority mangle; meta mark set 0xffffffff; ct mark set meta mark; }
    chain postrouting { type filter hook postrouting priority mangle; ct mark set 0x01000000; meta mark set 0x01000000; }
}
table netdev marks {
    chain gi { type filter hook ingress device gi priority -500; meta mark set 0xffffffff; }
    chain go { type filter hook ingress device go priority -500; meta mark set 0x01000000; }
}"#;

#[test]
fn p1_marks_of_others_change_nothing() {
    for seat in SEATS {
        for arguments in [SLOW, &[]] {
            let scene = Scene::new(seat, arguments);
            let wire = scene.ground.lab.outside_wire(1);
            nft(scene.host(), MARKS);
            for _ in 0..2 {
                BOTH.iter().for_each(|family| scene.round(*family));
            }
            nft(
                scene.host(),
                "table inet every { chain early { type filter hook prerouting priority raw; meta mark set 0xffffffff; }; }",
            );
            BOTH.iter().for_each(|family| scene.round(*family));
            wire.finish().assert_hidden(&scene.ground.lab.hidden(1));
            let status = scene.gateway.status();
            let dropped: u64 = status["drops"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
            assert_eq!(dropped, 0, "{status}");
        }
    }
}

/// Reverse-path filters: of nft, as firewalld and NixOS have them, and the kernel's own.
fn reverse_path(seat: Seat, arguments: &[&str]) {
    let ground = Ground::new(Plan::gateways(1).terminals(2), seat);
    let host = ground.lab.gateway(1);
    host.run("for each in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $each; done").ok();
    nft(
        &host,
        "table inet rpfilter { chain prerouting { type filter hook prerouting priority mangle + 10; policy drop;\n\
         icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert } accept\n\
         fib saddr . mark . iif oif exists accept\n counter drop; }; }",
    );
    let scene = Scene::on(ground, &[&["--callback", "anyone"], arguments].concat());
    BOTH.iter().for_each(|family| scene.round(*family));
    host.run("for each in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $each; done").ok();
    let second = scene.ground.lab.terminal(2);
    for family in BOTH {
        scene.round(family);
        // By the virtual IP of a terminal beside it.
        for _ in 0..5 {
            let to = SocketAddr::new(scene.virtual_ip(family), 5001);
            assert_eq!(ask_udp(&second, to, b"hairpin", DEADLINE).as_deref(), Some(&b"hairpin"[..]));
        }
    }
    let listed = scene.run("nft list table inet rpfilter");
    assert!(listed.contains("packets 0 bytes 0 drop"), "{listed}");
}

#[test]
fn p1_reverse_path_filters_pass_everything() {
    for seat in SEATS {
        reverse_path(seat, &[]);
    }
}

#[test]
fn p1_reverse_path_filters_pass_everything_that_goes_by_user_space() {
    for seat in SEATS {
        reverse_path(seat, SLOW);
    }
}

// --- shapers and redirects ----------------------------------------------------------------------------------------

/// Packets that the root of an interface, or a class of it, has sent.
fn sent(scene: &Scene, question: &str, which: &str) -> u64 {
    let listed = scene.run(&format!("tc -s {question}"));
    let mut lines = listed.lines().skip_while(|line| !line.contains(which)).skip(1);
    let words = lines.next().unwrap_or_else(|| panic!("no '{which}' in {listed}"));
    words.split_whitespace().nth(3).unwrap().parse().unwrap()
}

/// What arrives is led through a device that shapes it, as it is done for want of queues at the ingress.
fn shaped_on_arrival(seat: Seat, arguments: &[&str]) {
    let scene = Scene::new(seat, arguments);
    for (interface, device) in [("gi", "ifb0"), ("go", "ifb1")] {
        scene.run(&format!("ip link add {device} type ifb && ip link set {device} up"));
        scene.run(&format!("tc qdisc add dev {device} root handle 1: tbf rate 1gbit burst 1mb latency 100ms"));
        // The older discipline, where the gateway does not have the place by the newer one.
        let parent = if seat == Seat::Filters && interface == "go" {
            "ingress"
        } else {
            scene.run(&format!("tc qdisc add dev {interface} handle ffff: ingress"));
            "parent ffff:"
        };
        for family in BOTH {
            let (terminal, server) = (scene.terminal.address(family), scene.server.address(family));
            let (word, protocol, length) = if family == Family::V4 { ("ip", "ip", 32) } else { ("ip6", "ipv6", 128) };
            let (from, to) = if interface == "gi" { (terminal, server) } else { (server, terminal) };
            let number = if family == Family::V4 { 300 } else { 301 };
            scene.run(&format!(
                "tc filter add dev {interface} {parent} protocol {protocol} pref {number} u32 match {word} src \
                 {from}/{length} match {word} dst {to}/{length} action mirred egress redirect dev {device}"
            ));
        }
    }
    let passed = || ["ifb0", "ifb1"].map(|device| sent(&scene, &format!("qdisc show dev {device}"), "tbf"));
    for family in BOTH {
        let before = passed();
        ping(&scene.terminal, scene.server.address(family), 10);
        let after = passed();
        assert_eq!([after[0] - before[0], after[1] - before[1]], [10, 10], "calls, {family:?}");
        ping(&scene.server, scene.virtual_ip(family), 10);
        let last = passed();
        assert_eq!([last[0] - after[0], last[1] - after[1]], [10, 10], "callbacks, {family:?}");
        scene.round(family);
    }
}

#[test]
fn p1_ingress_shapers_have_each_packet_once() {
    for seat in SEATS {
        shaped_on_arrival(seat, &[]);
    }
}

#[test]
fn p1_ingress_shapers_have_each_packet_once_that_goes_by_user_space() {
    for seat in SEATS {
        shaped_on_arrival(seat, SLOW);
    }
}

/// Classes of the outside interface, chosen by mark or by priority: both are set where the firewall knows the terminal.
fn classed(seat: Seat, arguments: &[&str]) {
    let ground = Ground::new(Plan::gateways(1).servers(3), seat);
    let scene = Scene::on(ground, arguments);
    scene.run("tc qdisc add dev go root handle 1: htb default 0x30");
    for class in [10, 20, 30] {
        scene.run(&format!("tc class add dev go parent 1: classid 1:{class} htb rate 1gbit quantum 60000"));
    }
    // ld #mark; jeq #7
    let bytecode = "4,32 0 0 4294963220,21 0 1 7,6 0 0 4294967295,6 0 0 0";
    scene.run(&format!("tc filter add dev go parent 1: protocol all pref 1 bpf bytecode '{bytecode}' flowid 1:10"));
    let class = |number: u32| sent(&scene, "class show dev go", &format!("htb 1:{number} "));
    for (class_number, sets, stranger) in [(10, "meta mark set 7", 2), (20, "meta priority set 1:20", 3)] {
        let stranger = scene.ground.lab.server(stranger);
        nft(
            scene.host(),
            &format!(
                "table inet shape {{ chain forward {{ type filter hook forward priority 0; iifname gi {sets}\n }}; }}"
            ),
        );
        for family in BOTH {
            let before = class(class_number);
            ping(&scene.terminal, scene.server.address(family), 10);
            assert_eq!(class(class_number) - before, 10, "{sets} for a known peer, {family:?}");
            // Nothing is known of this one.
            let before = class(class_number);
            ping(&scene.terminal, stranger.address(family), 1);
            assert_eq!(class(class_number) - before, 1, "{sets} for the first packet, {family:?}");
        }
        scene.run("nft delete table inet shape");
    }
}

#[test]
fn p1_classes_of_the_outside_go_by_mark_and_priority() {
    for seat in SEATS {
        classed(seat, &[]);
    }
}

#[test]
fn p1_classes_of_the_outside_go_by_mark_and_priority_for_what_goes_by_user_space() {
    for seat in SEATS {
        classed(seat, SLOW);
    }
}

/// The operator answers DNS himself, also for peers that are known.
#[test]
fn p1_a_redirect_of_dns_holds_for_known_flows() {
    for seat in SEATS {
        for arguments in [SLOW, &[]] {
            for to in ["redirect to :5353", "dnat ip to 10.77.143.1:5353", "dnat ip6 to [fd5a:77e1:9c0d::b0:1]:5353"] {
                let scene = Scene::new(seat, arguments);
                let _resolver = Echo::start(scene.host(), 5353);
                let ask = |family| {
                    let to = SocketAddr::new(scene.server.address(family), 53);
                    ask_udp(&scene.terminal, to, b"who?", Duration::from_secs(2))
                };
                assert_eq!(ask(Family::V4), None, "the server has no resolver");
                nft(
                    scene.host(),
                    &format!(
                        "table inet dns {{ chain prerouting {{ type nat hook prerouting priority dstnat; iifname gi udp dport 53 {to}; }}; }}"
                    ),
                );
                for family in BOTH {
                    if family == Family::V4 && to.contains("ip6") || family == Family::V6 && to.contains("ip to") {
                        continue;
                    }
                    assert_eq!(ask(family).as_deref(), Some(&b"who?"[..]), "{to}, {family:?}");
                    scene.round(family);
                }
            }
        }
    }
}
