//! Both kinds of guard, before real packets that a kernel forwards between veth pairs.

use super::*;
use etherparse::PacketBuilder;
use ipnet::IpNet;
use pnet::datalink::{Channel, Config, DataLinkReceiver, DataLinkSender, NetworkInterface};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::net::{AddressFamily, SocketType, netdevice};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Interfaces of the router: two insides of one realm, an inside of another, an outside, one that nobody has declared.
const LINKS: [&str; 5] = ["in0", "in1", "other0", "out0", "vpn0"];
/// Beginnings of the addresses behind a link; its number follows.
const BEHIND: [&str; 2] = ["198.51.100.", "2001:db8:100::"];
const TERMINALS: [&str; 2] = ["10.0.0.2", "fd00:1::2"];
const OWN_V6: &str = "2001:db8:ffff::1";
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// How long what is not dropped may take.
const SOON: Duration = Duration::from_secs(3);
/// How long to wait for what should be dropped: on a veth a packet is at the other end when its sender returns.
const AT_ONCE: Duration = Duration::from_millis(30);
const READ: Duration = Duration::from_millis(5);
const TUN: &str = "test";

/// Two network namespaces: the router's, in which this thread is, and that of the links' far ends.
struct Lab {
    router: String,
    far: String,
    ends: RefCell<Vec<End>>,
    packets: Cell<u64>,
}

struct End {
    link: String,
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl Lab {
    fn make() -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "only root may make namespaces: run the tests as root");
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let name = |what| format!("guard-{what}-{}-{number}", std::process::id());
        let lab = Self { router: name("router"), far: name("far"), ends: RefCell::default(), packets: Cell::default() };
        ip(&format!("netns add {}", lab.router));
        ip(&format!("netns add {}", lab.far));
        enter(&lab.router);
        ip("link set lo up");
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
        }
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
        LINKS.iter().for_each(|link| lab.add_link(link));
        lab
    }

    /// A link, and routes to what is behind it.
    fn add_link(&self, link: &str) {
        let hardware = |address: [u8; 6]| address.map(|byte| format!("{byte:02x}")).join(":");
        let (router, far) = (hardware(ROUTER), hardware(FAR));
        ip(&format!("link add {link} address {router} type veth peer name {link} address {far} netns {}", self.far));
        ip(&format!("link set {link} addrgenmode none up"));
        ip(&format!("-netns {} link set {link} addrgenmode none up", self.far));
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "0").unwrap();
        let number = self.ends.borrow().len() + 1;
        for (behind, via) in BEHIND.into_iter().zip(["inet 192.0.2.1", "inet6 fe80::1"]) {
            let neighbour = via.split(' ').next_back().unwrap();
            ip(&format!("neighbour add {neighbour} lladdr {far} nud permanent dev {link}"));
            ip(&format!("route add {behind}{number} via {via} dev {link} onlink"));
        }
        enter(&self.far);
        let (sender, receiver) = ends(link);
        enter(&self.router);
        self.ends.borrow_mut().push(End { link: link.to_owned(), sender, receiver });
    }

    fn number(&self, link: &str) -> usize {
        self.ends.borrow().iter().position(|end| end.link == link).unwrap()
    }

    /// Packets of a terminal pass from one interface to the other.
    fn passes(&self, from: &str, to: &str) {
        for source in TERMINALS {
            assert!(self.forwards(from, source, to, SOON), "{source} {from} -> {to}");
        }
    }

    /// They do not.
    fn drops(&self, from: &str, to: &str) {
        for source in TERMINALS {
            assert!(!self.forwards(from, source, to, AT_ONCE), "{source} {from} -> {to}");
        }
    }

    /// Whether a packet from this source that comes in by one interface leaves by the other within this time.
    fn forwards(&self, from: &str, source: &str, to: &str, within: Duration) -> bool {
        let payload = [b"kamei".as_slice(), &self.packets.replace(self.packets.get() + 1).to_be_bytes()].concat();
        let (from, to) = (self.number(from), self.number(to));
        let mut ends = self.ends.borrow_mut();
        ends[from].sender.send_to(&frame(source, to, &payload), None).unwrap().unwrap();
        let deadline = Instant::now() + within;
        loop {
            match ends[to].receiver.next() {
                Ok(frame) if frame.ends_with(&payload) => return true,
                _ if Instant::now() > deadline => return false,
                _ => {}
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        ip(&format!("netns delete {}", self.router));
        ip(&format!("netns delete {}", self.far));
    }
}

/// A packet for what is behind link `to`.
fn frame(source: &str, to: usize, payload: &[u8]) -> Vec<u8> {
    let source: IpAddr = source.parse().unwrap();
    let destination = format!("{}{}", BEHIND[usize::from(source.is_ipv6())], to + 1);
    let ethernet = PacketBuilder::ethernet2(FAR, ROUTER);
    let packet = match (source, destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ethernet.ipv4(source.octets(), destination.octets(), 64),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ethernet.ipv6(source.octets(), destination.octets(), 64),
        _ => unreachable!("both are of one family"),
    };
    let mut bytes = Vec::new();
    packet.udp(9, 9).write(&mut bytes, payload).unwrap();
    bytes
}

fn ends(link: &str) -> (Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>) {
    let interface = NetworkInterface {
        name: link.to_owned(),
        description: String::new(),
        index: index(link),
        mac: None,
        ips: Vec::new(),
        flags: 0,
    };
    match pnet::datalink::channel(&interface, Config { read_timeout: Some(READ), ..Config::default() }) {
        Ok(Channel::Ethernet(sender, receiver)) => (sender, receiver),
        other => panic!("{link}: {:?}", other.err()),
    }
}

fn index(link: &str) -> u32 {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    netdevice::name_to_index(socket, link).unwrap()
}

/// Stops a thread even where the test fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// As if its process had died. Programs that other tests start at this moment have its sockets until they run.
fn end(guard: Guard) {
    drop(guard);
    std::thread::sleep(Duration::from_millis(300));
}

/// Packets that have left by an interface of this namespace.
fn sent(link: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{link}:"))).unwrap();
    line.split_whitespace().nth(9).unwrap().parse().unwrap()
}

fn enter(namespace: &str) {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    rustix::thread::move_into_link_name_space(namespace.as_fd(), None).unwrap();
}

fn ip(line: &str) {
    run("ip", line);
}

fn run(program: &str, line: &str) -> String {
    let Output { status, stdout, stderr } = Command::new(program).args(line.split(' ')).output().unwrap();
    assert!(status.success(), "{program} {line}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// What the lab's links are for.
fn ways() -> Ways {
    Ways {
        insides: vec![vec![index("in0"), index("in1")], vec![index("other0")]],
        outsides: vec![index("out0")],
        own_v6: vec![OWN_V6.parse().unwrap()],
        ..Ways::default()
    }
}

fn counted(own_source: u64, other_realm: u64, undeclared_way: u64) -> BTreeMap<&'static str, u64> {
    let mut counted: BTreeMap<_, _> = Reason::ALL.iter().map(|reason| (reason.name(), 0)).collect();
    counted.extend([("own_source", own_source), ("other_realm", other_realm), ("undeclared_way", undeclared_way)]);
    counted
}

/// A BPF file system of nobody else.
struct FileSystem(OwnedFd);

impl FileSystem {
    fn new() -> Self {
        let file_system = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_create(&file_system).unwrap();
        Self(fsmount(&file_system, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap())
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// A guard of this kind.
    fn guard(&self, kind: &str) -> Guard {
        let pins = match kind {
            "bpf" => PinDirectory::Lasting(self.path()),
            _ => PinDirectory::Private(self.0.try_clone().unwrap()),
        };
        let guard = Guard::new(TUN, &pins).unwrap();
        assert_eq!(guard.kind(), kind);
        guard
    }
}

/// Whether this kernel has links of netfilter: Linux 6.4.
fn has_links() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(4))
}

/// The same test with each kind that this kernel has.
fn of_each_kind(test: impl Fn(&Lab, &dyn Fn() -> Guard)) {
    let file_system = FileSystem::new();
    for kind in ["nftables", "bpf"] {
        let lab = Lab::make();
        if kind == "nftables" || has_links() {
            test(&lab, &|| file_system.guard(kind));
        }
    }
}

#[test]
fn p2_a_packet_of_an_inside_leaves_by_a_declared_way_or_not_at_all() {
    of_each_kind(|lab, guard| {
        let mut guard = guard();
        lab.passes("in0", "vpn0");
        guard.set(&ways()).unwrap();
        for (from, to) in [("in0", "out0"), ("in1", "out0"), ("other0", "out0"), ("in0", "in1"), ("in1", "in0")] {
            lab.passes(from, to);
        }
        assert_eq!(guard.dropped(), counted(0, 0, 0));
        lab.drops("in0", "vpn0");
        lab.drops("other0", "vpn0");
        assert_eq!(guard.dropped(), counted(0, 0, 4));
        lab.drops("in1", "other0");
        lab.drops("other0", "in0");
        assert_eq!(guard.dropped(), counted(0, 4, 4));
        lab.add_link("new0");
        lab.drops("in0", "new0");
        assert_eq!(guard.dropped(), counted(0, 4, 6));
        assert!(guard.is_whole());
    });
}

#[test]
fn p3_packets_of_others_pass() {
    of_each_kind(|lab, guard| {
        let mut guard = guard();
        guard.set(&ways()).unwrap();
        for (from, to) in [("out0", "in0"), ("out0", "vpn0"), ("vpn0", "out0"), ("vpn0", "other0")] {
            lab.passes(from, to);
        }
        assert!(lab.forwards("vpn0", OWN_V6, "out0", SOON));
        assert_eq!(guard.dropped(), counted(0, 0, 0));
    });
}

/// The inside has been made again, or is behind a bridge, and nobody has heard of it yet; or its route has gone.
#[test]
fn p2_terminals_addresses_leave_by_no_interface_of_others_wherever_they_come_from() {
    of_each_kind(|lab, guard| {
        let mut guard = guard();
        let hidden: Vec<IpNet> = ["10.0.0.0/8", "fd00:1::/32"].map(|prefix| prefix.parse().unwrap()).into();
        guard.set(&Ways { hidden: hidden.clone(), ..ways() }).unwrap();
        lab.add_link("new0");
        for from in ["new0", "out0", "vpn0"] {
            lab.drops(from, if from == "vpn0" { "new0" } else { "vpn0" });
            // Programs at the outside look at what leaves there; inside a terminal may be spoken to.
            lab.passes(from, "in0");
        }
        lab.passes("new0", "out0");
        assert_eq!(guard.dropped()["foreign_source"], 6);
        assert!(lab.forwards("new0", "192.0.2.7", "vpn0", SOON), "packets of others pass");

        // One of which it is known that it can have none.
        guard.set(&Ways { hidden: hidden.clone(), others: vec![index("new0"), index("vpn0")], ..ways() }).unwrap();
        lab.passes("new0", "vpn0");
        lab.drops("out0", "vpn0");
        lab.drops("in0", "vpn0");

        let number = lab.number("vpn0") + 1;
        let behind = BEHIND.map(|start| format!("{start}{number}").parse::<IpAddr>().unwrap());
        let behind: Vec<IpNet> = behind.map(IpNet::from).into();
        guard.set(&Ways { hidden: behind.clone(), ..ways() }).unwrap();
        for source in ["192.0.2.7", "2001:db8:7::7"] {
            assert!(!lab.forwards("out0", source, "vpn0", AT_ONCE), "what is for a terminal");
        }
        assert_eq!(guard.dropped()["inside_destination"], 2);
        let peers = ["192.0.2.0/24", "2001:db8:7::/48"].map(|prefix| prefix.parse().unwrap()).into();
        guard.set(&Ways { hidden: behind.clone(), exempt: peers, ..ways() }).unwrap();
        for source in ["192.0.2.7", "2001:db8:7::7"] {
            assert!(lab.forwards("out0", source, "vpn0", SOON), "from an exempt peer");
        }
        guard.set(&Ways { hidden, exempt: behind, ..ways() }).unwrap();
        lab.passes("new0", "vpn0");
    });
}

#[test]
fn no_inside_sends_from_an_address_of_the_gateway() {
    of_each_kind(|lab, guard| {
        let mut guard = guard();
        let more = (1..40).map(|number| format!("2001:db8:ffff::1:{number}").parse().unwrap());
        for own_v6 in [vec![OWN_V6.parse().unwrap()], more.chain([OWN_V6.parse().unwrap()]).collect()] {
            guard.set(&Ways { own_v6, exempt: vec!["::/0".parse().unwrap()], ..ways() }).unwrap();
            assert!(!lab.forwards("in0", OWN_V6, "out0", AT_ONCE));
            assert!(!lab.forwards("other0", OWN_V6, "vpn0", AT_ONCE));
            lab.passes("in0", "out0");
        }
        assert_eq!(guard.dropped(), counted(4, 0, 0));
    });
}

#[test]
fn what_is_exempt_leaves_by_any_interface() {
    of_each_kind(|lab, guard| {
        let mut guard = guard();
        let far = lab.number("vpn0") + 1;
        // Longer prefixes in shorter ones, and neighbours.
        let exempt =
            ["203.0.113.0/24", "192.0.2.0/25", "192.0.2.128/25", "192.0.2.7/32", "2001:db8:5::/48", "fe80::/10"]
                .map(str::to_owned)
                .into_iter()
                .chain(BEHIND.map(|behind| format!("{behind}{far}/{}", if behind.contains(':') { 128 } else { 32 })));
        let mut exempt: Vec<IpNet> = exempt.map(|prefix| prefix.parse().unwrap()).collect();
        // More than one message holds.
        exempt.extend(
            (0..1500)
                .map(|number| format!("172.16.{}.{}/32", number / 100, number % 100 * 2).parse::<IpNet>().unwrap()),
        );
        exempt.extend((0..1500).map(|number| format!("2001:db8:6:{number}::/64").parse::<IpNet>().unwrap()));
        guard.set(&Ways { exempt, ..ways() }).unwrap();
        lab.passes("in0", "vpn0");
        lab.passes("in0", "out0");
        lab.drops("in0", "other0");
        assert_eq!(guard.dropped(), counted(0, 2, 0));
        for prefixes in [["0.0.0.0/0", "::/0"], ["128.0.0.0/1", "2000::/3"]] {
            guard.set(&Ways { exempt: prefixes.map(|prefix| prefix.parse().unwrap()).into(), ..ways() }).unwrap();
            lab.passes("in0", "vpn0");
            lab.passes("in0", "other0");
        }
        guard.set(&Ways { exempt: vec!["0.0.0.0/1".parse().unwrap(), "fc00::/6".parse().unwrap()], ..ways() }).unwrap();
        lab.drops("in0", "vpn0");
    });
}

#[test]
fn what_ipsec_would_transform_is_dropped_by_name_unless_exempt() {
    of_each_kind(|lab, guard| {
        let far = lab.number("out0") + 1;
        let tunnels = [("10.0.0.0/24", "192.0.2.254", 32), ("fd00:1::/64", OWN_V6, 128)];
        for ((inside, near, bits), behind) in tunnels.into_iter().zip(BEHIND) {
            let ends = format!("src {near} dst {behind}{far}");
            ip(&format!("address add {near}/{bits} dev lo"));
            let key = "aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128";
            let state = format!("xfrm state add {ends} proto esp spi 1 mode tunnel reqid 1 {key}");
            if !Command::new("ip").args(state.split(' ')).status().unwrap().success() {
                println!("this kernel has no ESP");
                return;
            }
            let template = format!("tmpl {ends} proto esp mode tunnel reqid 1");
            ip(&format!("xfrm policy add src {inside} dst {behind}{far}/{bits} dir out {template}"));
        }
        let by_ipsec = |number| {
            let mut dropped = counted(0, 0, 0);
            dropped.insert("ipsec", number);
            dropped
        };
        let mut guard = guard();
        guard.set(&Ways { own_v6: Vec::new(), ..ways() }).unwrap();
        lab.drops("in0", "out0");
        assert_eq!(guard.dropped(), by_ipsec(2));
        lab.passes("in0", "in1");
        // They leave as ESP.
        let exempt = vec!["198.51.100.0/24".parse().unwrap(), "2001:db8:100::/64".parse().unwrap()];
        guard.set(&Ways { exempt, ..ways() }).unwrap();
        let before = sent("out0");
        lab.drops("in0", "out0");
        assert_eq!(sent("out0"), before + 2);
        assert_eq!(guard.dropped(), by_ipsec(2));
    });
}

#[test]
fn ways_change_and_counters_go_on() {
    of_each_kind(|lab, guard| {
        let mut guard = guard();
        guard.set(&ways()).unwrap();
        lab.drops("in0", "vpn0");
        guard.set(&Ways { outsides: vec![index("out0"), index("vpn0")], ..ways() }).unwrap();
        lab.passes("in0", "vpn0");
        guard.set(&Ways { devices: vec![index("vpn0")], ..ways() }).unwrap();
        lab.passes("in0", "vpn0");
        guard.set(&ways()).unwrap();
        lab.drops("in0", "vpn0");
        assert_eq!(guard.dropped(), counted(0, 0, 4));
        guard.set(&Ways { outsides: Vec::new(), ..ways() }).unwrap();
        lab.drops("in0", "out0");
        guard.set(&Ways::default()).unwrap();
        lab.passes("in0", "vpn0");
        assert!(guard.is_whole());
        assert_eq!(guard.dropped(), counted(0, 0, 6));
    });
}

#[test]
fn p2_it_is_closed_while_ways_change() {
    of_each_kind(|lab, guard| {
        let mut guard = guard();
        guard.set(&ways()).unwrap();
        let (to, from) = (lab.number("vpn0"), lab.number("in0"));
        let frames = TERMINALS.map(|source| frame(source, to, b"flood"));
        let stop = AtomicBool::new(false);
        let ends = &mut *lab.ends.borrow_mut();
        let sent = std::thread::scope(|scope| {
            let sender = &mut ends[from].sender;
            let flood = scope.spawn(|| {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    for frame in &frames {
                        sent += u64::from(sender.send_to(frame, None).unwrap().is_ok());
                    }
                }
                sent
            });
            let stops = Stops(&stop);
            for round in 0..100 {
                let own_v6 = vec![Ipv6Addr::from_bits(round)];
                let devices = if round % 3 == 0 { vec![index("in0") + 1000] } else { Vec::new() };
                guard.set(&Ways { own_v6, devices, ..ways() }).unwrap();
            }
            drop(stops);
            flood.join().unwrap()
        });
        let leaked = std::iter::from_fn(|| ends[to].receiver.next().ok().map(|frame| frame.ends_with(b"flood")));
        assert_eq!(leaked.filter(|is_ours| *is_ours).count(), 0, "of {sent}");
        assert!(sent > 100, "{sent}");
    });
}

#[test]
fn p2_it_outlives_its_owner_until_a_successor_stands() {
    of_each_kind(|lab, guard| {
        let mut first = guard();
        first.set(&ways()).unwrap();
        end(first);
        lab.drops("in0", "vpn0");
        lab.passes("in0", "out0");
        let mut second = guard();
        lab.drops("in0", "vpn0");
        second.set(&Ways { outsides: vec![index("vpn0")], ..ways() }).unwrap();
        lab.passes("in0", "vpn0");
        lab.drops("in0", "out0");
        assert!(second.is_whole());
        assert_eq!(second.dropped(), counted(0, 0, 2));
        second.remove().unwrap();
        lab.passes("in0", "out0");
        assert!(!remove(TUN).unwrap());
    });
}

#[test]
fn a_guard_of_the_other_kind_is_replaced() {
    let file_system = FileSystem::new();
    if !has_links() {
        return;
    }
    let lab = Lab::make();
    let mut table = file_system.guard("nftables");
    table.set(&ways()).unwrap();
    end(table);
    let mut program = file_system.guard("bpf");
    lab.drops("in0", "vpn0");
    program.set(&ways()).unwrap();
    assert!(!remove(TUN).unwrap(), "the table is gone");
    lab.drops("in0", "vpn0");
    assert_eq!(program.dropped(), counted(0, 0, 2));
    drop(program);
    let names = || names().into_iter().filter(|name| file_system.path().join(name).exists()).count();
    assert_eq!(names(), 2);
    let mut table = Guard { kind: Kind::Table(Table::new(TUN).unwrap()), ..file_system.guard("bpf") };
    table.set(&ways()).unwrap();
    assert_eq!(names(), 0);
    lab.drops("in0", "vpn0");
    assert_eq!(table.dropped(), counted(0, 0, 2));
    end(table);
    assert!(remove(TUN).unwrap());
    lab.passes("in0", "vpn0");
}

#[test]
fn p2_a_flushed_ruleset_is_seen_and_mended() {
    let lab = Lab::make();
    let table = Table::new(TUN).unwrap().unowned();
    let mut guard = Guard { kind: Kind::Table(table), ..FileSystem::new().guard("nftables") };
    guard.set(&ways()).unwrap();
    let mut changes = RulesetMonitor::new().unwrap();
    let is_news = |changes: &RulesetMonitor, within| {
        let mut events = [PollFd::new(changes, PollFlags::IN)];
        poll(&mut events, Some(&Timespec { tv_sec: within, tv_nsec: 0 })).unwrap() > 0
    };
    for line in [
        "flush ruleset",
        "flush table inet kamei-guard-test",
        "delete table inet kamei-guard-test",
        "add table inet kamei-guard-test { flags dormant; }",
        "insert rule inet kamei-guard-test forward accept",
    ] {
        assert!(guard.is_whole(), "before {line}");
        assert!(!is_news(&changes, 0), "before {line}");
        run("nft", line);
        assert!(is_news(&changes, 3), "{line}");
        lab.passes("in0", "vpn0");
        assert!(!guard.is_whole(), "{line}");
        guard.renew().unwrap();
        lab.drops("in0", "vpn0");
        changes.drain().unwrap();
    }
    run("nft", "add table inet another");
    assert!(is_news(&changes, 3) && guard.is_whole());
}

#[test]
fn p2_a_table_that_is_owned_cannot_be_flushed() {
    let lab = Lab::make();
    let mut guard = FileSystem::new().guard("nftables");
    guard.set(&ways()).unwrap();
    if !run("nft", "list tables").is_empty() && !run("nft", "list table inet kamei-guard-test").contains("flags") {
        eprintln!("only Linux 6.9 and later keep tables of their owners");
        return;
    }
    run("nft", "flush ruleset");
    lab.drops("in0", "vpn0");
    assert!(guard.is_whole());
    let delete = Command::new("nft").args(["delete", "table", "inet", "kamei-guard-test"]).output().unwrap();
    assert!(!delete.status.success());
    let mut another = FileSystem::new().guard("nftables");
    assert!(matches!(another.set(&ways()), Err(GuardError::Owned(_))));
}

#[test]
fn p2_a_detached_program_and_a_lost_name_are_seen_and_mended() {
    let file_system = FileSystem::new();
    if !has_links() {
        return;
    }
    let mut links = Links::new(&file_system.path()).unwrap();
    let lab = Lab::make();
    links.set(&ways()).unwrap();
    for (number, (name, source)) in link::FAMILIES.iter().map(|(name, _)| name).zip(TERMINALS).enumerate() {
        assert!(links.is_whole());
        links.detach(number);
        assert!(lab.forwards("in0", source, "vpn0", SOON));
        assert!(!links.is_whole(), "{name} is detached");
        links.set(&ways()).unwrap();
        assert!(links.is_whole());
        std::fs::remove_file(file_system.path().join(name)).unwrap();
        assert!(!links.is_whole(), "{name} is removed");
        links.set(&ways()).unwrap();
        lab.drops("in0", "vpn0");
    }
}

#[test]
fn nft_shows_what_the_guard_does() {
    let _lab = Lab::make();
    let mut guard = FileSystem::new().guard("nftables");
    let exempt = ["10.0.0.0/8", "255.0.0.0/8", "fd00::/8"].map(|prefix| prefix.parse().unwrap()).into();
    guard.set(&Ways { exempt, hidden: vec!["172.16.0.0/12".parse().unwrap()], ..ways() }).unwrap();
    let shown = run("nft", "list table inet kamei-guard-test");
    let shown: Vec<&str> = shown.lines().skip_while(|line| !line.contains("chain")).map(str::trim).collect();
    assert_eq!(
        shown,
        [
            "chain forward {",
            "type filter hook forward priority 2147483646; policy accept;",
            r#"iif != { "in0", "in1", "other0" } oif { "in0", "in1", "other0", "out0" } accept"#,
            r#"iif != { "in0", "in1", "other0" } ip saddr { 172.16.0.0/12 } ip daddr != { 10.0.0.0/8, 255.0.0.0/8 } counter packets 0 bytes 0 drop comment "foreign_source""#,
            r#"iif != { "in0", "in1", "other0" } ip daddr { 172.16.0.0/12 } ip saddr != { 10.0.0.0/8, 255.0.0.0/8 } counter packets 0 bytes 0 drop comment "inside_destination""#,
            r#"iif != { "in0", "in1", "other0" } accept"#,
            r#"ip6 saddr 2001:db8:ffff::1 counter packets 0 bytes 0 drop comment "own_source""#,
            r#"rt ipsec missing oif "out0" accept"#,
            "ip daddr { 10.0.0.0/8, 255.0.0.0/8 } accept",
            "ip6 daddr { fd00::/8 } accept",
            r#"rt ipsec exists counter packets 0 bytes 0 drop comment "ipsec""#,
            r#"iif { "in0", "in1" } oif { "in0", "in1" } accept"#,
            r#"iif "other0" oif "other0" accept"#,
            r#"oif { "in0", "in1", "other0" } counter packets 0 bytes 0 drop comment "other_realm""#,
            r#"counter packets 0 bytes 0 drop comment "undeclared_way""#,
            "}",
            "}",
        ]
    );
}
