//! P2: between the end of a start and the end of a stop no packet of an inside leaves untranslated, by no interface,
//! whoever kills, removes, flushes, renames or adds what. The host forwards by itself all the time: only the gateway stands
//! between the inside and the others.

use crate::capture::Capture;
use crate::crafted::Ip;
use crate::crossing::Crossing;
use crate::fastpath::{flows, hits, warm_up};
use crate::gateway::{Gateway, KAMEI};
use crate::lab::{Family, Host, Lab, Plan, has, need, wait_until};
use crate::one_view::{BOTH, Ground, SEATS, SLOW, Scene, Seat, nft};
use crate::privacy::router;
use crate::traffic::{Echo, Web, ask_udp, curl, udp_socket};
use aya::programs::{SchedClassifier, TcAttachType};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the terminal says, all the time.
const WORDS: &[u8] = b"from the inside";
const PORT: u16 = 5000;

/// Where there are peers that nobody has called yet, a different one each time.
const STRANGERS_V4: &str = "198.51.100.0/24";
const STRANGERS_V6: &str = "2001:db8:51::/48";

/// A terminal that sends without a pause: to a server that it knows, and to strangers, by either family.
struct Fire {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Fire {
    fn start(terminal: &Host, server: &Host) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let sockets: Vec<(UdpSocket, SocketAddr)> = terminal.inside(|| {
            let known = BOTH.map(|family| SocketAddr::new(server.address(family), PORT));
            known.map(|to| (udp_socket(to, 0), to)).into()
        });
        let (seen, counter) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                let number = counter.fetch_add(1, Ordering::Relaxed).to_be_bytes();
                for (socket, to) in &sockets {
                    let stranger: IpAddr = if to.is_ipv4() {
                        Ipv4Addr::new(198, 51, 100, number[7]).into()
                    } else {
                        let last = u16::from_be_bytes([number[6], number[7]]);
                        Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, last).into()
                    };
                    // Refused while nobody forwards: fine.
                    let _ = socket.send_to(WORDS, to);
                    let _ = socket.send_to(WORDS, (stranger, PORT));
                }
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }
}

impl Drop for Fire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A gateway under fire, with the outside wire watched.
pub struct Siege {
    fire: Fire,
    outside: Capture,
    gateway: Option<Gateway>,
    terminal: Host,
    server: Host,
    _echoes: [Echo; 2],
    ground: Ground,
}

impl Siege {
    /// With these arguments behind interfaces and pools.
    pub fn new(seat: Seat, arguments: &[&str]) -> Self {
        Self::of(seat, |ground| ground.start(arguments))
    }

    fn of(seat: Seat, start: impl FnOnce(&Ground) -> Gateway) -> Self {
        let ground = Ground::new(Plan::gateways(1).unwatched(), seat);
        let (host, terminal, server) = (router(&ground.lab), ground.lab.terminal(1), ground.lab.server(1));
        server.set_sysctl("net.ipv4.ip_forward", "0");
        for (family, strangers) in [(Family::V4, STRANGERS_V4), (Family::V6, STRANGERS_V6)] {
            host.run(&format!("ip route add {strangers} via {}", server.address(family))).ok();
        }
        let gateway = start(&ground);
        let echoes = [Echo::start(&server, PORT), Echo::start(&terminal, PORT)];
        let outside = ground.lab.outside_wire(1);
        let fire = Fire::start(&terminal, &server);
        let siege = Self { fire, outside, gateway: Some(gateway), terminal, server, _echoes: echoes, ground };
        siege.wait_until_it_works();
        siege.go_on();
        siege
    }

    pub fn lab(&self) -> &Lab {
        &self.ground.lab
    }

    pub fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    fn host(&self) -> Host {
        self.lab().gateway(1)
    }

    #[track_caller]
    fn run(&self, line: &str) -> String {
        self.host().run(line).ok()
    }

    fn kill(&mut self) {
        self.gateway.take().unwrap().kill();
    }

    fn start(&mut self, arguments: &[&str]) {
        self.gateway = Some(self.ground.start(arguments));
    }

    /// Waits until the terminal has gone on for a while.
    #[track_caller]
    pub fn go_on(&self) {
        let goal = self.fire.sent.load(Ordering::Relaxed) + 300;
        wait_until("packets to be sent", || self.fire.sent.load(Ordering::Relaxed) >= goal);
    }

    /// Whether calls and callbacks pass, in both families.
    pub fn works(&self) -> bool {
        let ask =
            |from: &Host, to| ask_udp(from, SocketAddr::new(to, PORT), b"works", Duration::from_secs(3)).is_some();
        BOTH.iter().all(|family| {
            ask(&self.terminal, self.server.address(*family))
                && ask(&self.server, self.gateway().virtual_ip(self.terminal.address(*family)))
        })
    }

    #[track_caller]
    pub fn wait_until_it_works(&self) {
        wait_until("calls and callbacks to pass", || self.works());
    }

    #[track_caller]
    fn noted(&self, what: &str) -> u64 {
        let status = self.gateway().status();
        status["fast_path"]["noted"][what].as_u64().unwrap_or_else(|| panic!("no '{what}' in {status}"))
    }

    /// Forgets what was on the outside wire so far.
    pub fn watch_anew(&mut self) {
        self.outside = self.ground.lab.outside_wire(1);
    }

    /// How often it has been said that something was put back.
    fn put_back(&self) -> usize {
        self.gateway().log().matches("put back").count()
    }

    /// Ends it: packets have passed, and none of them showed an inside address.
    #[track_caller]
    pub fn nothing_has_leaked(self) -> Ground {
        drop(self.fire);
        let packets = self.outside.finish();
        assert!(packets.has_bytes(WORDS), "packets have passed");
        packets.assert_hidden(&self.ground.lab.hidden(1));
        self.ground
    }
}

// --- killed, started, reloaded ------------------------------------------------------------------------------------

#[test]
fn p2_killed_and_started_over_and_over_nothing_leaks() {
    for seat in SEATS {
        let mut siege = Siege::new(seat, &[]);
        for _ in 0..3 {
            siege.kill();
            siege.go_on();
            siege.start(&[]);
            siege.go_on();
        }
        siege.wait_until_it_works();
        siege.kill();
        siege.go_on();
        siege.nothing_has_leaked();
    }
}

/// Another mode over what a killed gateway has left: calls to peers that were known go on, and so do new ones.
#[test]
fn p2_another_mode_over_a_killed_gateway_keeps_all_calls_and_leaks_nothing() {
    for seat in SEATS {
        let mut siege = Siege::new(seat, &[]);
        // While programs are exchanged one by one, those before and those after know each other's packets.
        let refused = siege.noted("untranslated");
        for mode in ["off", "tc", "redirect", "off", "redirect", "tc"] {
            siege.kill();
            siege.go_on();
            siege.start(&["--fast-path", mode]);
            // At once: nothing has to expire first.
            assert!(siege.works(), "{mode} at {seat:?}");
            assert_eq!(siege.gateway().status()["fast_path"]["mode"], mode);
            siege.go_on();
            assert_eq!(siege.noted("untranslated"), refused, "{mode} at {seat:?}");
            let stranger = siege.outside.packets();
            assert!(stranger.has_bytes(WORDS));
        }
        siege.nothing_has_leaked();
    }
}

#[test]
fn p2_reloads_leak_nothing_and_keep_all_calls() {
    for seat in SEATS {
        let text = |keys: &str, pool: &str| {
            format!(
                "inside = [\"gi\"]\noutside = [\"go\"]\n{keys}[[pool]]\nrange = \"{}\"\n[[pool]]\nrange = \"{}\"\n{pool}",
                Lab::pool_v4(1),
                Lab::pool_v6(1)
            )
        };
        let siege = Siege::of(seat, |ground| {
            let path = ground.lab.scratch().join("gateway1.toml");
            std::fs::write(&path, text("", "")).unwrap();
            ground.start_exactly(&["--config", path.to_str().unwrap()])
        });
        let path = siege.lab().scratch().join("gateway1.toml");
        let more = "[[pool]]\nrange = \"198.19.0.0/24\"\n";
        let (exempt, helper, segments) = ("exempt = [\"192.0.2.0/24\"]\n", "alg = [\"ftp\"]\n", "mss = 1200\n");
        for (keys, pool) in [("", more), (exempt, ""), (helper, more), (segments, ""), ("", more), ("", "")] {
            std::fs::write(&path, text(keys, pool)).unwrap();
            siege.gateway().ask("reload").ok();
            // One datagram may be lost, with two processors under fire.
            siege.wait_until_it_works();
            siege.go_on();
        }
        siege.nothing_has_leaked();
    }
}

// --- by other hands -----------------------------------------------------------------------------------------------

/// The gateway's programs: where, and in which direction.
const PROGRAMS: [(&str, &str, &str); 5] = [
    ("kamei_leaving", "go", "egress"),
    ("kamei_watching", "go", "egress"),
    ("kamei_arriving", "go", "ingress"),
    ("kamei_returning", "kamei-nat", "ingress"),
    ("kamei_routed", "kamei-nat", "egress"),
];

/// Takes a program off as an operator would.
fn take_off(siege: &Siege, (program, interface, direction): (&str, &str, &str)) {
    match siege.ground.seat {
        Seat::Filters => {
            let there = siege.run(&format!("tc filter show dev {interface} {direction}"));
            let line =
                there.lines().find(|line| line.contains(program)).unwrap_or_else(|| panic!("{program}: {there}"));
            let number = line.split_whitespace().skip_while(|word| *word != "pref").nth(1).unwrap();
            siege.run(&format!("tc filter del dev {interface} {direction} pref {number}"));
        }
        Seat::Links => {
            let pin = pin_of(siege, program, interface);
            siege.ground.run(&format!("bpftool link detach pinned {pin}")).ok();
        }
    }
}

/// Where a program sits, if it does: the line that lists its filter, or its link by number.
fn seat_of(siege: &Siege, (program, interface, direction): (&str, &str, &str)) -> Option<String> {
    let listed = match siege.ground.seat {
        Seat::Filters => siege.run(&format!("tc filter show dev {interface} {direction}")),
        Seat::Links => {
            let index = siege.run(&format!("cat /sys/class/net/{interface}/ifindex"));
            let pin = format!("/sys/fs/bpf/kamei-*/{program}-{}", index.trim());
            siege.ground.run(&format!("echo {program} $(bpftool link show pinned {pin})")).stdout
        }
    };
    listed.lines().find(|line| line.contains(program)).map(str::to_owned)
}

fn pin_of(siege: &Siege, program: &str, interface: &str) -> String {
    let index = siege.run(&format!("cat /sys/class/net/{interface}/ifindex"));
    siege.ground.run(&format!("ls /sys/fs/bpf/kamei-*/{program}-{}", index.trim())).ok().trim().to_owned()
}

#[test]
fn p2_a_program_taken_off_by_hand_opens_nothing_and_is_put_back() {
    for seat in SEATS {
        let siege = Siege::new(seat, &[]);
        for place in PROGRAMS {
            let (before, filter) = (siege.put_back(), seat_of(&siege, place));
            take_off(&siege, place);
            siege.go_on();
            wait_until(&format!("{} to be put back at {seat:?}", place.0), || {
                siege.put_back() > before
                    && seat_of(&siege, place).is_some_and(|now| seat == Seat::Filters || Some(now) != filter)
            });
            siege.wait_until_it_works();
        }
        siege.nothing_has_leaked();
    }
}

/// Whoever attaches a program names an interface: it may have got another name while the kernel was asked.
#[test]
fn p2_an_interface_renamed_while_a_program_is_attached_is_not_mistaken_for_another() {
    need("strace", "strace");
    let siege = Siege::new(Seat::Links, &[]);
    siege.run("ip link add gx type veth peer name gy && ip link set gx up");
    let pid = siege.gateway().pid().to_string();
    let slowly = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=bpf:delay_enter=40000", "-p", &pid];
    let tracer = siege.host().spawn("strace", &slowly);
    let status = format!("/proc/{pid}/status");
    wait_until("strace", || !std::fs::read_to_string(&status).unwrap().contains("TracerPid:\t0\n"));
    let before = siege.put_back();
    take_off(&siege, PROGRAMS[0]);
    wait_until("it to be put back", || siege.put_back() > before);
    siege.run("printf 'link set go name gz\nlink set gx name go\n' | ip -batch -");
    drop(tracer);
    let sits = |side, wanted: &[&str]| {
        let (_, there) = siege.host().inside(|| SchedClassifier::query_tcx("gz", side)).unwrap();
        there.iter().map(|program| program.name_as_str().unwrap_or_default()).eq(wanted.iter().copied())
    };
    wait_until("the programs to sit at the interface they are for", || {
        sits(TcAttachType::Egress, &["kamei_leaving", "kamei_watching"])
            && sits(TcAttachType::Ingress, &["kamei_arriving"])
    });
    siege.wait_until_it_works();
    siege.go_on();
    siege.nothing_has_leaked();
}

/// And while nobody puts it back: whichever it is, what is left stays closed.
#[test]
fn p2_a_program_taken_off_a_killed_gateway_opens_nothing() {
    for seat in SEATS {
        // Its device has gone with it.
        for place in PROGRAMS.into_iter().filter(|(_, interface, _)| *interface == "go") {
            let mut siege = Siege::new(seat, &[]);
            siege.kill();
            take_off(&siege, place);
            siege.go_on();
            siege.start(&[]);
            siege.wait_until_it_works();
            siege.nothing_has_leaked();
        }
    }
}

/// Without its names in the file system, the next gateway finds nothing to take over; this one makes them anew.
#[test]
fn p2_names_removed_from_the_bpf_file_system_open_nothing() {
    let mut siege = Siege::new(Seat::Links, &[]);
    let names = |siege: &Siege| {
        let there = siege.ground.run("ls /sys/fs/bpf/kamei-* || true").ok();
        there.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    for removed in ["rm /sys/fs/bpf/kamei-*/kamei_*", "rm /sys/fs/bpf/kamei-*/*", "rm -r /sys/fs/bpf/kamei-*"] {
        // The device has another index each time.
        let all = names(&siege);
        siege.ground.run(removed).ok();
        siege.go_on();
        wait_until(&format!("the names to be there again after {removed}"), || names(&siege) == all);
        siege.wait_until_it_works();
        // By the maps that the gateway fills: the programs go on carrying flows.
        let before = hits(siege.gateway());
        siege.go_on();
        assert!(hits(siege.gateway()) > before, "{removed}");
        siege.kill();
        siege.go_on();
        siege.start(&[]);
        siege.wait_until_it_works();
    }
    siege.nothing_has_leaked();
}

#[test]
fn p2_the_discipline_clsact_deleted_opens_nothing_where_the_programs_are_at_tcx() {
    let siege = Siege::new(Seat::Links, &[]);
    for _ in 0..5 {
        siege.run("tc qdisc add dev go clsact && tc qdisc del dev go clsact");
        siege.go_on();
    }
    assert!(siege.works());
    siege.nothing_has_leaked();
}

/// The one exception: without TCX it opens. It is closed again within a beat, and said.
#[test]
fn p2_the_discipline_clsact_deleted_is_put_back_and_said() {
    let siege = Siege::new(Seat::Filters, &[]);
    for interface in ["go", "kamei-nat"] {
        let before = siege.put_back();
        siege.run(&format!("tc qdisc del dev {interface} clsact"));
        wait_until("it to be said", || siege.put_back() > before);
        wait_until("the filters to be there again", || {
            PROGRAMS.iter().filter(|(_, at, _)| *at == interface).all(|(program, at, direction)| {
                siege.run(&format!("tc filter show dev {at} {direction}")).contains(program)
            })
        });
        siege.wait_until_it_works();
    }
    // From now on nothing leaves as it was.
    let outside = siege.lab().outside_wire(1);
    siege.go_on();
    outside.finish().assert_hidden(&siege.lab().hidden(1));
}

/// With a way to a third network at hand.
#[test]
fn p2_rulesets_and_routing_rules_flushed_open_nothing() {
    for seat in SEATS {
        let siege = Siege::new(seat, &[]);
        let other = Other::plain(&siege);
        other.leads_strangers(&siege);
        for _ in 0..5 {
            siege.run("nft flush ruleset");
            siege.go_on();
            siege.run("ip rule flush && ip -6 rule flush");
            for family in ["ip", "ip -6"] {
                siege.run(&format!("{family} rule add pref 32766 lookup main"));
            }
            siege.run("ip rule add pref 32767 lookup default");
            siege.go_on();
        }
        siege.wait_until_it_works();
        other.has_heard_nothing(&siege);
        siege.nothing_has_leaked();
    }
}

fn device_gone(command: &str) {
    for seat in SEATS {
        let siege = Siege::new(seat, &[]);
        siege.run(command);
        siege.go_on();
        siege.go_on();
        siege.nothing_has_leaked();
    }
}

#[test]
fn p2_with_its_device_deleted_nothing_leaves() {
    device_gone("ip link delete kamei-nat");
}

#[test]
fn p2_with_its_device_down_nothing_leaves() {
    device_gone("ip link set kamei-nat down");
}

/// Where somebody has the older discipline, which takes filters for packets that leave, and shows them none.
#[test]
fn p2_the_discipline_ingress_that_is_there_before_opens_nothing() {
    for seat in SEATS {
        let ground = Ground::new(Plan::gateways(1).unwatched(), seat);
        let host = router(&ground.lab);
        host.run("tc qdisc add dev go handle ffff: ingress").ok();
        let (terminal, server) = (ground.lab.terminal(1), ground.lab.server(1));
        let wire = ground.lab.outside_wire(1);
        let (v4, v6) = (Lab::pool_v4(1), Lab::pool_v6(1));
        let (scratch, control) = (ground.lab.scratch().display(), ground.lab.control(1));
        // Either it says why it does not start, or it serves.
        let line = format!(
            "timeout 20 {KAMEI} gateway --inside gi --outside go --pool {v4} --pool {v6} --control {} --state-dir \
             {scratch}/state",
            control.display()
        );
        let ended = std::thread::scope(|scope| {
            let running = scope.spawn(|| ground.run(&line));
            let ask = format!("{KAMEI} status --wait 1 --control {}", control.display());
            wait_until("it to be ready or to have ended", || running.is_finished() || host.run(&ask).succeeded());
            if !running.is_finished() {
                for family in BOTH {
                    terminal.run(&format!("ping -n -c 5 -i 0.02 -W 2 {}", server.address(family)));
                }
                let pid = host
                    .run(&format!(
                        "ip netns pids {} | xargs -n 1 ps -o pid=,comm= -p | awk '$2 == \"kamei\" {{print $1}}'",
                        host.namespace
                    ))
                    .ok();
                host.run(&format!("kill {}", pid.trim())).ok();
            }
            running.join().unwrap()
        });
        wire.finish().assert_hidden(&ground.lab.hidden(1));
        assert!(ended.code == Some(0) || ended.stderr.contains("ingress"), "{seat:?}: {}", ended.stderr);
        assert!(host.run("tc filter show dev go ingress").ok().is_empty(), "nothing stays");
    }
}

// --- the inside is another interface ------------------------------------------------------------------------------

/// An interface of the gateway plugged into the LAN inside, with the hardware address that its terminals know.
fn make_inside(siege: &Siege, name: &str, mac: &str) {
    let lan = format!("{}-inside", siege.lab().name);
    let (v4, v6) = siege.lab().gateway_inside(1);
    siege.run(&format!(
        "ip link add {name} address {mac} type veth peer name gateway1 netns {lan} && ip link set {name} up && \
         ip -n {lan} link set gateway1 master lan up"
    ));
    siege.run(&format!("ip address add {v4}/24 brd + dev {name} && ip address add {v6}/64 dev {name} nodad"));
}

fn mac_of_inside(siege: &Siege) -> String {
    siege.run("cat /sys/class/net/gi/address").trim().to_owned()
}

#[test]
fn p2_the_inside_deleted_and_made_again_opens_nothing() {
    for seat in SEATS {
        let siege = Siege::new(seat, &[]);
        let mac = mac_of_inside(&siege);
        for _ in 0..3 {
            siege.run("ip link delete gi");
            siege.go_on();
            make_inside(&siege, "gi", &mac);
            siege.go_on();
            siege.wait_until_it_works();
        }
        siege.nothing_has_leaked();
    }
}

/// Made again while nobody serves: by the next start it is served.
#[test]
fn p2_the_inside_made_again_while_the_gateway_is_dead_opens_nothing() {
    for seat in SEATS {
        let mut siege = Siege::new(seat, &[]);
        let other = Other::plain(&siege);
        other.leads_strangers(&siege);
        let mac = mac_of_inside(&siege);
        siege.kill();
        siege.run("ip link delete gi");
        make_inside(&siege, "gi", &mac);
        siege.go_on();
        siege.start(&[]);
        siege.go_on();
        siege.wait_until_it_works();
        other.has_heard_nothing(&siege);
        siege.nothing_has_leaked();
    }
}

#[test]
fn p2_the_inside_renamed_opens_nothing() {
    for seat in SEATS {
        let siege = Siege::new(seat, &[]);
        let (_, v6) = siege.lab().gateway_inside(1);
        for (old, new) in [("gi", "lan7"), ("lan7", "gi")] {
            siege.run(&format!("ip link set {old} down && ip link set {old} name {new} && ip link set {new} up"));
            siege.run(&format!("ip address replace {v6}/64 dev {new} nodad"));
            siege.go_on();
            siege.wait_until_it_works();
        }
        siege.nothing_has_leaked();
    }
}

#[test]
fn p2_an_inside_that_joins_a_bridge_opens_nothing_and_is_served_there() {
    for seat in SEATS {
        let siege = Siege::new(seat, &[]);
        let other = Other::plain(&siege);
        other.leads_strangers(&siege);
        let mac = mac_of_inside(&siege);
        let (v4, v6) = siege.lab().gateway_inside(1);
        siege.run(&format!(
            "ip link add br0 address {mac} type bridge && ip link set br0 up && ip link set gi master br0"
        ));
        siege.go_on();
        siege.run(&format!(
            "ip address flush dev gi && ip address add {v4}/24 brd + dev br0 && ip address add {v6}/64 dev br0 nodad"
        ));
        siege.go_on();
        siege.wait_until_it_works();
        assert!(siege.gateway().log().contains("br0"), "{}", siege.gateway().log());
        other.has_heard_nothing(&siege);
        siege.nothing_has_leaked();
    }
}

#[test]
fn p2_a_port_of_a_bridge_is_refused_as_an_inside_or_outside_by_name() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let (host, scratch, pool) = (lab.gateway(1), lab.scratch().display(), Lab::pool_v4(1));
    host.run("ip link add br7 type bridge").ok();
    for interface in ["gi", "go"] {
        host.run(&format!("ip link set {interface} master br7")).ok();
        let ran = host.run(&format!(
            "timeout 10 {KAMEI} gateway --inside gi --outside go --pool {pool} --control {scratch}/c.sock --state-dir \
             {scratch}/state"
        ));
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("'{interface}'")) && ran.stderr.contains("'br7'"), "{}", ran.stderr);
        host.run(&format!("ip link set {interface} nomaster")).ok();
    }
}

// --- ways that nobody has declared --------------------------------------------------------------------------------

/// A host behind an interface of the gateway that the configuration does not name.
struct Other {
    wire: Capture,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Other {
    /// By a wire of its own, `gx`.
    fn plain(siege: &Siege) -> Self {
        Self::behind(siege, "true", "gx")
    }

    /// By a wire of its own, on which `prepare` makes the interface `name` of the gateway.
    fn behind(siege: &Siege, prepare: &str, name: &str) -> Self {
        let other = siege.lab().named("other");
        let there = &other.namespace;
        // Removed with the lab, whose name it has.
        assert!(Command::new("ip").args(["netns", "add", there]).status().unwrap().success());
        other.set_sysctl("net.ipv6.conf.default.accept_dad", "0");
        siege.run(&format!("ip link add gx type veth peer name eth0 netns {there} && ip link set gx up && {prepare}"));
        for line in [
            "ip link set lo up && ip link set eth0 up",
            "ip address add 192.0.2.10/24 brd + dev eth0 && ip address add 2001:db8:2::10/64 dev eth0 nodad",
            "ip route add default via 192.0.2.1 && ip -6 route add default via 2001:db8:2::1",
        ] {
            other.run(line).ok();
        }
        siege.run(&format!(
            "ip link set {name} up && ip address add 192.0.2.1/24 dev {name} && ip address add 2001:db8:2::1/64 dev {name} \
             nodad"
        ));
        let (v4, v6) = (Ipv4Addr::new(192, 0, 2, 10), Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10));
        // It is a way.
        wait_until("the other network to be reached", || {
            [IpAddr::from(v4), v6.into()]
                .iter()
                .all(|to| siege.host().run(&format!("ping -n -c 1 -W 1 {to}")).succeeded())
        });
        Self { wire: Capture::start(&other, "eth0"), v4, v6 }
    }

    /// What is for strangers goes there.
    fn leads_strangers(&self, siege: &Siege) {
        siege.run(&format!("ip route replace {STRANGERS_V4} via {}", self.v4));
        siege.run(&format!("ip -6 route replace {STRANGERS_V6} via {}", self.v6));
    }

    /// Another table leads everything there.
    fn has_a_table(&self, siege: &Siege) {
        siege.run(&format!("ip route replace default via {} table 100", self.v4));
        siege.run(&format!("ip -6 route replace default via {} table 100", self.v6));
    }

    /// Nothing that the terminal has said, not even translated.
    #[track_caller]
    fn has_heard_nothing(self, siege: &Siege) {
        let heard = self.wire.finish();
        heard.assert_hidden(&siege.lab().hidden(1));
        assert!(!heard.has_bytes(WORDS), "it has left by another interface");
    }
}

fn count_undeclared(siege: &Siege, what: &str) {
    let before = siege.noted("undeclared_way");
    siege.go_on();
    let after = siege.noted("undeclared_way");
    assert!(after > before + 100, "{what}: {before} to {after} packets by an undeclared way");
}

/// Made while the gateway runs: (what makes it, its name).
const LATE_WAYS: [(&str, &str); 3] = [
    ("true", "gx"),
    ("ip link add brx type bridge && ip link set gx master brx", "brx"),
    ("ip link add macx link gx type macvlan mode bridge", "macx"),
];

#[test]
fn p2_no_undeclared_interface_is_a_way_out() {
    for seat in SEATS {
        for (prepare, name) in LATE_WAYS {
            let siege = Siege::new(seat, &[]);
            let other = Other::behind(&siege, prepare, name);
            other.leads_strangers(&siege);
            count_undeclared(&siege, name);
            siege.wait_until_it_works();
            other.has_heard_nothing(&siege);
            siege.nothing_has_leaked();
        }
    }
}

#[test]
fn p2_no_undeclared_interface_is_a_way_out_for_what_a_killed_gateway_has_left() {
    for seat in SEATS {
        let mut siege = Siege::new(seat, &[]);
        siege.kill();
        let other = Other::plain(&siege);
        other.leads_strangers(&siege);
        siege.go_on();
        siege.start(SLOW);
        siege.go_on();
        other.has_heard_nothing(&siege);
        siege.nothing_has_leaked();
    }
}

/// One that was there before the gateway.
#[test]
fn p2_an_undeclared_interface_that_was_there_before_is_no_way_out() {
    for seat in SEATS {
        let mut siege = Siege::new(seat, &[]);
        let other = Other::plain(&siege);
        // A stop and a start: between them the host is as it was found, and forwards.
        other.leads_strangers(&siege);
        siege.kill();
        siege.start(&[]);
        count_undeclared(&siege, "gx");
        other.has_heard_nothing(&siege);
        siege.nothing_has_leaked();
    }
}

/// Whether this kernel has such links.
pub fn has_links(host: &Host, kind: &str, rest: &str) -> bool {
    let line = format!("ip link add try7 {rest} type {kind} && ip link delete try7");
    has(host, &format!("links of type {kind}"), &line)
}

/// Tunnels and VLANs over the declared outside, to a peer out there who would see everything.
#[test]
fn p2_no_tunnel_or_vlan_over_the_outside_is_a_way_out() {
    let local = "local 203.0.113.1 remote 203.0.113.11";
    for (kind, make) in [
        ("vxlan id 7 dstport 4789 local 203.0.113.1 remote 203.0.113.11 dev go".to_owned(), ""),
        (format!("gre {local}"), ""),
        (format!("ipip {local}"), ""),
        (format!("sit {local}"), ""),
        ("vlan id 7".to_owned(), "link go"),
    ] {
        for seat in SEATS {
            let siege = Siege::new(seat, &[]);
            if !has_links(&siege.host(), &kind, make) {
                break;
            }
            siege.run(&format!("ip link add over {make} type {kind} && ip link set over up"));
            siege.run("ip address add 192.0.3.1/24 dev over");
            siege.run("ip neigh add 192.0.3.10 lladdr 02:00:00:00:00:0a dev over || true");
            siege.run(&format!("ip route replace {STRANGERS_V4} via 192.0.3.10 dev over"));
            // The terminal's words leave translated or not at all: what is encapsulated is searched too.
            count_undeclared(&siege, &kind);
            siege.wait_until_it_works();
            siege.nothing_has_leaked();
        }
    }
}

/// A route may put packets into a tunnel of its own (`encap`), which no device stands for: the inside packet, with the
/// terminal's address in it, would leave by the declared outside as something else.
#[test]
fn p2_no_route_that_encapsulates_is_a_way_out() {
    let v4 = |encap: &str| format!("ip route replace {STRANGERS_V4} encap {encap} via 203.0.113.11 dev go");
    let v6 = |encap: &str| format!("ip -6 route replace {STRANGERS_V6} encap {encap} via 2001:db8:113::11 dev go");
    for (what, line) in [
        ("MPLS", v4("mpls 100")),
        ("MPLS in IPv6", v6("mpls 100")),
        ("segments in a header before it", v6("seg6 mode encap segs 2001:db8:113::11")),
        ("segments before IPv4", v4("seg6 mode encap segs 2001:db8:113::11")),
    ] {
        let siege = Siege::new(Seat::Links, &[]);
        if !has(&siege.host(), &format!("routes that encapsulate: {what}"), &line) {
            continue;
        }
        // That of segments is put before the packet as it comes in, with the machine's own address as its source.
        let refused = || siege.noted("encapsulated") + siege.noted("own_source");
        let before = refused();
        siege.go_on();
        wait_until("packets to be refused by name", || refused() > before + 100);
        siege.wait_until_it_works();
        siege.nothing_has_leaked();
    }
}

/// Whatever leads there: the interface that the kernel has really chosen counts.
#[test]
fn p2_nothing_leads_to_an_undeclared_interface() {
    for seat in SEATS {
        let siege = Siege::new(seat, &[]);
        let other = Other::plain(&siege);
        other.has_a_table(&siege);
        let (v4, v6) = (other.v4, other.v6);
        let server = siege.server.clone();
        let both = |rule: &str| format!("ip rule {rule} && ip -6 rule {rule}");
        let nat = format!(
            "nft 'table inet detour {{ chain prerouting {{ type nat hook prerouting priority dstnat; iifname gi meta l4proto \
             udp meta nfproto ipv4 dnat ip to {v4}; iifname gi meta l4proto udp dnat ip6 to {v6}; }}; }}'"
        );
        let marks =
            "nft 'table inet detour { chain prerouting { type filter hook prerouting priority mangle; iifname gi meta \
                     mark set 5; }; }'"
                .to_owned();
        let unhook = "nft delete table inet detour".to_owned();
        let hops =
            |one: &dyn std::fmt::Display, two: &dyn std::fmt::Display| format!("nexthop via {one} nexthop via {two}");
        let split = format!(
            "sysctl -qw net.ipv4.fib_multipath_hash_policy=1 && ip route replace {STRANGERS_V4} {} && ip -6 route replace \
             {STRANGERS_V6} {}",
            hops(&server.v4, &v4),
            hops(&server.v6, &v6)
        );
        let join = format!(
            "ip route replace {STRANGERS_V4} via {} && ip -6 route replace {STRANGERS_V6} via {}",
            server.v4, server.v6
        );
        for (what, on, off) in [
            ("destination NAT", nat, unhook.clone()),
            (
                "a mark",
                format!("{marks} && {}", both("add fwmark 5 lookup 100 pref 100")),
                format!("{unhook} && {}", both("del pref 100")),
            ),
            ("a rule for a port", both("add iif gi ipproto udp dport 5000 lookup 100 pref 100"), both("del pref 100")),
            ("a rule for an interface", both("add iif gi lookup 100 pref 100"), both("del pref 100")),
            ("several next hops", split, join),
        ] {
            siege.run(&on);
            count_undeclared(&siege, what);
            siege.run(&off);
            siege.wait_until_it_works();
        }
        other.has_heard_nothing(&siege);
        siege.nothing_has_leaked();
    }
}

/// Routes two groups from `gi` to `go`, as a multicast router does.
const MULTICAST_ROUTER: &str = "
import socket, struct, time
from socket import if_nametoindex as index
v4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
v4.setsockopt(socket.IPPROTO_IP, 200, 1)
for number, name in enumerate(['gi', 'go']):
    v4.setsockopt(socket.IPPROTO_IP, 202, struct.pack('HBBIi4s', number, 8, 1, 0, index(name), bytes(4)))
ttls = bytes([0, 1]) + bytes(30)
v4.setsockopt(socket.IPPROTO_IP, 204, struct.pack('4s4sH32s2xIIIi', socket.inet_aton('10.77.143.11'),
    socket.inet_aton('239.7.7.7'), 0, ttls, 0, 0, 0, 0))
v6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
v6.setsockopt(socket.IPPROTO_IPV6, 200, 1)
for number, name in enumerate(['gi', 'go']):
    v6.setsockopt(socket.IPPROTO_IPV6, 202, struct.pack('HBBHxxI', number, 0, 1, index(name), 0))
def address(text):
    return struct.pack('HHI16sI', socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, text), 0)
v6.setsockopt(socket.IPPROTO_IPV6, 204, address('fd5a:77e1:9c0d::b0:b') + address('ff0e::7:7') +
    struct.pack('H2x8I', 0, 2, *[0] * 7))
print('routing', flush=True)
time.sleep(1000)
";

const MULTICAST_SENDER: &str = "
import socket
for family, group, level, option in [
    (socket.AF_INET, '239.7.7.7', socket.IPPROTO_IP, socket.IP_MULTICAST_TTL),
    (socket.AF_INET6, 'ff0e::7:7', socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS)]:
    sender = socket.socket(family, socket.SOCK_DGRAM)
    sender.setsockopt(level, option, 9)
    for _ in range(20):
        sender.sendto(b'to a group', (group, 5000))
";

#[test]
fn p2_multicast_that_the_kernel_routes_does_not_leave_with_its_private_source() {
    for seat in SEATS {
        for arguments in [SLOW, &[]] {
            let siege = Siege::new(seat, arguments);
            let router = siege.host().spawn("multicast", &["/usr/bin/python3", "-c", MULTICAST_ROUTER]);
            wait_until("the multicast router", || router.output().contains("routing"));
            let sender = siege.lab().scratch().join("sender.py");
            std::fs::write(&sender, MULTICAST_SENDER).unwrap();
            let line = format!("/usr/bin/python3 {}", sender.display());
            let carried = |ip: &str| {
                let routes = siege.run(&format!("{ip} -s mroute show"));
                let words: Vec<&str> = routes.split_whitespace().collect();
                let at = words.iter().position(|word| word.starts_with("packets"))?;
                words.get(at - 1)?.parse::<u64>().ok()
            };
            wait_until("the kernel to route multicast", || {
                siege.terminal.run(&line).ok();
                carried("ip") >= Some(20) && carried("ip -6") >= Some(20)
            });
            siege.go_on();
            siege.nothing_has_leaked();
        }
    }
}

// --- what the machine itself says ---------------------------------------------------------------------------------

/// The firewall refuses on behalf of a terminal, and of a server.
#[test]
fn p2_a_firewall_that_rejects_shows_the_virtual_ip() {
    for seat in SEATS {
        for arguments in [SLOW, &[]] {
            let scene = Scene::new(seat, arguments);
            let outside = scene.ground.lab.outside_wire(1);
            nft(
                scene.host(),
                "table inet wall { chain forward { type filter hook forward priority 0; tcp dport 81 reject with tcp reset; \
                 udp dport 82 reject; tcp dport 83 reject; }; }",
            );
            for family in BOTH {
                let (server, virtual_ip) = (scene.server.address(family), scene.virtual_ip(family));
                for (from, to) in [(&scene.terminal, server), (&scene.server, virtual_ip)] {
                    for port in [81, 83] {
                        let to = SocketAddr::new(to, port);
                        let said = from.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap_err());
                        assert_eq!(said.kind(), ErrorKind::ConnectionRefused, "{} to {to}: {said}", from.name);
                    }
                    let said = from.inside(|| {
                        let to = SocketAddr::new(to, 82);
                        let socket = udp_socket(to, 0);
                        socket.connect(to).unwrap();
                        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                        socket.send(b"anybody there?").unwrap();
                        socket.recv(&mut [0; 16]).unwrap_err()
                    });
                    assert_eq!(said.kind(), ErrorKind::ConnectionRefused, "{} to {to}: {said}", from.name);
                }
            }
            outside.finish().assert_hidden(&scene.ground.lab.hidden(1));
        }
    }
}

/// A rule that masquerades the terminals too: they are hidden, if not as they should be, and the operator is told.
#[test]
fn p2_what_netfilter_masquerades_passes_and_is_counted() {
    for seat in SEATS {
        for arguments in [SLOW, &[]] {
            let ground = Ground::new(Plan::gateways(1), seat);
            let (host, terminal, server) = (ground.lab.gateway(1), ground.lab.terminal(1), ground.lab.server(1));
            nft(
                &host,
                "table inet nat { chain postrouting { type nat hook postrouting priority srcnat; oifname \"go\" masquerade; }; }",
            );
            let gateway = ground.start(arguments);
            let _web = Web::start(&server, 80);
            let wire = ground.lab.outside_wire(1);
            for family in BOTH {
                assert_eq!(curl(&terminal, server.address(family), 80), format!("{} 80", host.address(family)));
            }
            let counted = gateway.status()["fast_path"]["noted"]["masqueraded"].as_u64();
            assert!(counted >= Some(8), "{counted:?}");
            wire.finish().assert_hidden(&ground.lab.hidden(1));

            let file = ground.lab.scratch().join("doctor.toml");
            let text = format!("inside = [\"gi\"]\noutside = [\"go\"]\n[[pool]]\nrange = \"{}\"\n", Lab::pool_v4(1));
            std::fs::write(&file, text).unwrap();
            let said = ground.run(&format!("{KAMEI} doctor --config {}", file.display())).stdout;
            assert!(said.contains("nft insert rule inet nat postrouting"), "{said}");
            assert!(said.contains("10.77.143.0/24"), "{said}");
        }
    }
}

/// Netfilter gives a packet another terminal's address, the gateway's inside one, or one of the pool.
#[test]
fn p2_what_netfilter_translates_to_an_inside_address_does_not_show_it() {
    for seat in SEATS {
        let siege = Siege::new(seat, &[]);
        for source in ["10.77.143.77", "10.77.143.1", "198.18.1.77"] {
            nft(
                &siege.host(),
                &format!(
                    "table inet nat {{ chain postrouting {{ type nat hook postrouting priority srcnat; oifname \"go\" ip saddr \
                     10.77.143.11 snat ip to {source}; }}; }}"
                ),
            );
            siege.go_on();
            assert!(!siege.outside.packets().has_address("10.77.143.77".parse().unwrap()));
            siege.run("nft delete table inet nat");
        }
        siege.nothing_has_leaked();
    }
}

// --- what follows a packet, and what is wrong with it -------------------------------------------------------------

/// Short frames are padded, by some senders with what was in their memory.
const OUT: &[u8] = b"an old secret out";
const BACK: &[u8] = b"an old secret in.";

type Make = fn(Family) -> Crossing;

fn crossings(families: &[Family]) -> impl Iterator<Item = (&'static str, Crossing)> {
    families.iter().flat_map(|family| {
        let modes: [(_, Make); 3] =
            [("tc", Crossing::new), ("redirect", Crossing::redirecting), ("xdp", Crossing::by_xdp)];
        modes.into_iter().map(|(mode, make)| {
            let crossing = make(*family);
            warm_up(&crossing.lab, crossing.gateway(), *family);
            (mode, crossing)
        })
    })
}

fn datagram((from, to): (IpAddr, IpAddr), number: u8, data: &[u8]) -> Ip {
    let mut packet = Ip::udp(from, to, (4000 + u16::from(number), 5000), data);
    packet.id = number.into();
    packet
}

#[test]
fn p2_what_follows_a_packet_in_its_frame_does_not_leave_with_it() {
    for (mode, mut crossing) in crossings(&BOTH) {
        let (out, back) = (crossing.out(), crossing.back());
        for number in 0..10 {
            let (call, answer) = (datagram(out, number, b"!"), datagram(back, number, b"?"));
            crossing.inside.send(&[&call.bytes()[..], OUT].concat());
            crossing.outside.send(&[&answer.bytes()[..], BACK].concat());
            crossing.arrive_at_server(&[call]);
            crossing.arrive_at_terminal(&[answer]);
        }
        assert!(
            flows(crossing.gateway()) >= 2 && hits(crossing.gateway()) > 0,
            "{mode}: {}",
            crossing.gateway().status()
        );
        let ([at_server, _], [_, at_terminal]) = (crossing.seen_anywhere(OUT), crossing.seen_anywhere(BACK));
        assert_eq!((at_server, at_terminal), (false, false), "{mode}");
    }
}

#[test]
fn p2_a_full_packet_with_a_trailer_passes_without_it() {
    for (mode, mut crossing) in crossings(&BOTH) {
        let lan = crossing.lab.named("inside");
        lan.run("ip link set terminal1 mtu 1600 && ip link set gateway1 mtu 1600 && ip link set lan mtu 1600").ok();
        crossing.terminal.run("ip link set eth0 mtu 1600").ok();
        crossing.gateway().host.run("ip link set gi mtu 1600").ok();
        let out = crossing.out();
        let room = if out.0.is_ipv4() { 1472 } else { 1452 };
        for number in 0..8 {
            let call = datagram(out, number, &vec![number; room]);
            crossing.inside.send(&[&call.bytes()[..], &[0xee; 14]].concat());
            crossing.arrive_at_server(&[call]);
        }
        assert!(hits(crossing.gateway()) > 0, "{mode}: {}", crossing.gateway().status());
        assert!(!crossing.seen_anywhere(&[0xee; 14])[0], "{mode}: the trailer is gone");
        crossing.nothing_leaked();
    }
}

#[test]
fn p2_an_ipv4_header_with_a_wrong_checksum_is_not_forwarded() {
    for (mode, mut crossing) in crossings(&[Family::V4]) {
        let (out, back) = (crossing.out(), crossing.back());
        for number in 0..10 {
            let wrong = |packet: &Ip| {
                let mut bytes = packet.bytes();
                bytes[10] ^= 0x55;
                bytes
            };
            let bad =
                [datagram(out, number, b"a bad header, going out"), datagram(back, number, b"a bad header, coming in")];
            crossing.inside.send(&wrong(&bad[0]));
            crossing.outside.send(&wrong(&bad[1]));
            let good = [datagram(out, number, b"a good one, out"), datagram(back, number, b"a good one, in")];
            crossing.passes_out(&good[..1]);
            crossing.passes_back(&good[1..]);
        }
        assert!(hits(crossing.gateway()) > 0, "{mode}: {}", crossing.gateway().status());
        let [at_server, _] = crossing.seen_anywhere(b"a bad header, going out");
        let [_, at_terminal] = crossing.seen_anywhere(b"a bad header, coming in");
        assert_eq!((at_server, at_terminal), (false, false), "{mode}");
    }
}
