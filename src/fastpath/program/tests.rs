//! All ways give the same bytes: what the programs take comes out as the translator would have made it, and what they
//! leave goes to user space, or on, as it came. The kernel runs them on bytes (`BPF_PROG_TEST_RUN`), in a network namespace
//! where there is a way for every packet; nothing is sent.

use super::*;
use crate::nat::{Alg, AlgSettings, Epoch, FlowCarrier, Nat, SlotRef, Translator, Verdict};
use crate::testkit::packets::{Built, Spec, Sum, Transport, addresses, ends, error_about, same_sum, spec};
use crate::testkit::scene::{pool, settings};
use crate::time::Time;
use crate::wire::{Headers, Kind, Packet};
use aya::programs::{TestRun, TestRunOptions};
use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;

const NOW: Time = Time::from_secs(1_800_000_000);
const INSIDE: Realm = Realm::inside(0);
/// Another program's mark, which stays.
const FOREIGN: u32 = 0x0100_0001;
const FTP: u16 = 21;
/// Of the interface that packets come in by, of the neighbour, and of the interface they leave by.
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 2];
const EXIT: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// What XDP programs return (linux/bpf.h).
const PASS: u32 = 2;
const REDIRECT: u32 = 4;
/// What programs at tc return when they are done (linux/pkt_cls.h): -1, and what a sent packet is.
const TC_NEXT: u32 = u32::MAX;
const TC_REDIRECT: u32 = 7;
const TC_DROP: u32 = 2;
/// Longest `struct __sk_buff` to be expected, with room.
const CONTEXT: usize = 512;
/// Where in it are the mark, and the interface that the packet came in by.
const MARK_AT: usize = 8;
const CAME_BY_AT: usize = 36;

/// The ways to configure what the program depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Setup {
    clamps: bool,
    ftp: bool,
}

const SETUPS: [Setup; 4] = [
    Setup { clamps: false, ftp: false },
    Setup { clamps: true, ftp: false },
    Setup { clamps: false, ftp: true },
    Setup { clamps: true, ftp: true },
];

/// What happens to a well-made packet before it is sent.
#[derive(Clone, Debug)]
enum Damage {
    None,
    /// Bytes behind the packet, as Ethernet has them.
    Padding(usize),
    Cut(prop::sample::Index),
    Bytes(Vec<(prop::sample::Index, u8)>),
    /// It is quoted in an ICMP error.
    Quoted,
    /// It is one of two fragments.
    Fragment(bool),
}

#[derive(Clone, Debug)]
struct Case {
    setup: Setup,
    spec: Spec,
    ends: (IpAddr, IpAddr),
    out: bool,
    damage: Damage,
    /// Have the translated checksum come out as zero.
    zero: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let damage = prop_oneof![
        6 => Just(Damage::None),
        1 => (1usize..40).prop_map(Damage::Padding),
        1 => any::<prop::sample::Index>().prop_map(Damage::Cut),
        2 => prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6).prop_map(Damage::Bytes),
        1 => Just(Damage::Quoted),
        1 => any::<bool>().prop_map(Damage::Fragment),
    ];
    let hops = prop_oneof![1 => 0u8..4, 6 => any::<u8>()];
    let bare = prop::bool::weighted(0.6);
    let port = prop_oneof![4 => Just(None), 1 => any::<bool>().prop_map(Some)];
    let how = (prop::sample::select(&SETUPS[..]), any::<bool>(), prop::bool::weighted(0.2));
    (spec(), ends(), damage, hops, bare, port, how).prop_map(|(mut spec, ends, damage, hops, bare, port, how)| {
        let (setup, out, zero) = how;
        spec.hop_limit = hops;
        if bare {
            spec.options.clear();
            spec.extensions.clear();
        }
        if let Some(source) = port {
            let at = if source { 0 } else { 2 };
            spec.ports[at..at + 2].copy_from_slice(&FTP.to_be_bytes());
        }
        Case { setup, spec, ends, out, damage, zero }
    })
}

/// Keeps what is offered.
#[derive(Default)]
struct Offered(Mutex<Vec<Offer>>);

impl FlowCarrier for Offered {
    fn offer(&self, _: &Epoch, offer: &Offer) {
        self.0.lock().push(*offer);
    }

    fn revoke(&self, _: Option<SlotRef>) {}
}

/// A translator that knows a terminal and a peer, and the two flows between them.
fn translator(case: &Case) -> (Translator, Vec<Offer>) {
    let mut settings = settings(vec![pool("198.18.0.0/24", &[]), pool("fd00:2::/64", &[])]);
    settings.insides[0].sources = vec!["10.0.0.0/8".parse().unwrap(), "fd00:1::/32".parse().unwrap()];
    settings.own_outside.push("2001:db8::fe".parse().unwrap());
    settings.policy.mss = case.setup.clamps.then_some(1200);
    settings.policy.alg = case.setup.ftp.then_some(AlgSettings { alg: Alg::Ftp, port: FTP }).into_iter().collect();
    let nat = Nat::new(settings).unwrap();
    let offered = Arc::new(Offered::default());
    nat.set_carrier(offered.clone());
    let mut translator = nat.translator();
    let call = Spec::plain(Transport::Udp, Vec::new()).build(case.ends.0, case.ends.1);
    for _ in 0..2 {
        let mut there = call.clone();
        translator.translate(&mut Packet::new(&mut there.bytes), INSIDE, NOW);
        let mut back = there.reversed();
        translator.translate(&mut Packet::new(&mut back.bytes), Realm::Outside, NOW);
    }
    translator.flush(NOW);
    let offers = std::mem::take(&mut *offered.0.lock());
    assert_eq!(offers.len(), 2, "both directions are in use");
    (translator, offers)
}

impl Case {
    /// A packet of the flow as it was made and as it comes, and whether it is so plain that the program must take it.
    fn packet(&self, flow: &Offer) -> (Built, Vec<u8>, bool) {
        let mut spec = self.spec.clone();
        let (source, destination) = (flow.source.into(), flow.destination.into());
        if self.zero {
            let (source, destination) =
                if self.out { (flow.address.into(), destination) } else { (source, flow.address.into()) };
            balance(&mut spec, source, destination);
        }
        let built = spec.build(source, destination);
        let plain = self.is_plain(&built);
        let mut bytes = built.bytes.clone();
        match &self.damage {
            Damage::None => {}
            Damage::Padding(more) => bytes.extend(vec![0xee; *more]),
            // The kernel runs it on nothing shorter than an IP header.
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len()).max(if self.ends.0.is_ipv4() { 20 } else { 40 })),
            Damage::Bytes(all) => all.iter().for_each(|(at, value)| *at.get_mut(&mut bytes) = *value),
            Damage::Quoted => {
                let (source, destination) = addresses(&bytes);
                bytes = error_about(&bytes, destination, source, &[]);
            }
            Damage::Fragment(later) => {
                if let Some([first, second]) = built.in_fragments() {
                    bytes = if *later { second } else { first };
                }
            }
        }
        let whole = match &self.damage {
            Damage::None | Damage::Padding(_) => true,
            Damage::Fragment(_) => bytes == built.bytes,
            _ => false,
        };
        (built, bytes, plain && whole)
    }

    fn is_plain(&self, built: &Built) -> bool {
        let Spec { transport, options, extensions, ports, .. } = &self.spec;
        let bare = if built.bytes[0] >> 4 == 4 { options.is_empty() } else { extensions.is_empty() };
        let port = FTP.to_be_bytes();
        let carried = match transport {
            Transport::Tcp { flags } => {
                !(self.setup.clamps && flags & 2 != 0 || self.setup.ftp && (ports[..2] == port || ports[2..] == port))
            }
            Transport::Udp | Transport::Echo { .. } => true,
            _ => false,
        };
        bare && carried
    }
}

/// Gives the payload a last word by which the checksum between these ends is zero, or what UDP writes in its place.
fn balance(spec: &mut Spec, source: IpAddr, destination: IpAddr) {
    let even = spec.payload.len() / 2 * 2;
    spec.payload.truncate(even);
    spec.payload.extend([0, 0]);
    if let Some(sum) = spec.build(source, destination).right_sum() {
        spec.payload[even..].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A network namespace with a way to every terminal and every peer, in which this thread is.
struct Roads(String);

impl Roads {
    fn make() -> Self {
        assert!(rustix::process::geteuid().is_root(), "only root may load eBPF programs: run the tests as root");
        let roads = Self(format!("equal{}", std::process::id()));
        let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
        roads.ip(&format!("netns add {}", roads.0));
        File::open(format!("/run/netns/{}", roads.0))
            .and_then(|namespace| Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), None)?))
            .unwrap();
        roads.ip("link set lo up");
        for (interface, v4, v6) in [("terminals", "10.0.0.0/8", "fd00:1::/32"), ("peers", "default", "default")] {
            roads.ip(&format!("link add {interface} address {} mtu 9000 type veth peer {interface}-end", mac(EXIT)));
            roads.ip(&format!("link set {interface}-end mtu 9000 up"));
            roads.ip(&format!("link set {interface} up"));
            roads.ip(&format!("route add {v4} via inet 192.0.2.1 dev {interface} onlink"));
            roads.ip(&format!("-6 route add {v6} via fe80::1 dev {interface} onlink"));
            for router in ["192.0.2.1", "fe80::1"] {
                roads.ip(&format!("neighbour add {router} lladdr {} nud permanent dev {interface}", mac(NEIGHBOUR)));
            }
        }
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{key}"), "1").unwrap();
        }
        roads
    }

    fn ip(&self, line: &str) {
        let done = Command::new("ip").args(line.split(' ')).output().unwrap();
        assert!(done.status.success(), "{}: ip {line}: {}", self.0, String::from_utf8_lossy(&done.stderr));
    }

    fn index(name: &str) -> u32 {
        let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None);
        rustix::net::netdevice::name_to_index(socket.unwrap(), name).unwrap()
    }

    fn interfaces() -> BTreeMap<u32, Interface> {
        let interface = |realm: Realm| Interface { realm: realm.number(), takes_frames: 1 };
        [(Self::index("terminals"), interface(INSIDE)), (Self::index("peers"), interface(Realm::Outside))].into()
    }
}

impl Drop for Roads {
    fn drop(&mut self) {
        self.ip(&format!("netns delete {}", self.0));
    }
}

/// The programs of all setups, for outside and inside, with the flows they share.
struct Programs {
    loader: Loader,
    flows: RefCell<FlowMaps>,
    surroundings: RefCell<ProgramSurroundings>,
    loaded: BTreeMap<(Setup, u32, bool), Ebpf>,
    terminals: u32,
    _roads: Roads,
}

impl Drop for Programs {
    fn drop(&mut self) {
        self.loader.remove();
    }
}

impl Programs {
    fn load() -> Self {
        let roads = Roads::make();
        let settings = |setup: Setup, redirects| FastPathSettings {
            tun: format!("equal{}", std::process::id()),
            flows: 64,
            control_ports: setup.ftp.then_some(FTP).into_iter().collect(),
            clamps: setup.clamps,
            strips: true,
            carries: true,
            redirects,
            xdp: true,
            hook: None,
        };
        let (mut loader, flows, mut surroundings) = Loader::new(settings(SETUPS[0], false)).unwrap();
        surroundings.add_interfaces(&Roads::interfaces()).unwrap();
        let kinds = [
            ("10.0.0.0/8", PrefixKind::Inside(Default::default())),
            ("fd00:1::/32", PrefixKind::Inside(Default::default())),
            ("198.18.0.0/24", PrefixKind::Pool),
            ("fd00:2::/64", PrefixKind::Pool),
        ];
        surroundings.set_prefixes(&kinds.map(|(net, kind)| (net.parse().unwrap(), kind)).into()).unwrap();
        let mut loaded = BTreeMap::new();
        for (setup, redirects) in SETUPS.into_iter().flat_map(|setup| [(setup, false), (setup, true)]) {
            loader.set_settings(settings(setup, redirects));
            for realm in [Realm::Outside, INSIDE] {
                let mut ebpf = loader.load(&loader.constants(realm, Some(GATEWAY), 1).unwrap()).unwrap();
                program(&mut ebpf, duty(realm, redirects)).unwrap();
                xdp_program(&mut ebpf).unwrap();
                loaded.insert((setup, realm.number(), redirects), ebpf);
            }
        }
        let (flows, surroundings) = (RefCell::new(flows), RefCell::new(surroundings));
        Self { loader, flows, surroundings, loaded, terminals: Roads::index("terminals"), _roads: roads }
    }

    /// Sends a packet through the program at XDP. `None`: it was left alone.
    fn run_xdp(&self, setup: Setup, realm: Realm, packet: &[u8], v4: bool) -> Result<Option<Vec<u8>>, String> {
        let program = self.loaded[&(setup, realm.number(), true)].program(XDP).unwrap();
        let program: &Xdp = program.try_into().unwrap();
        let frame = frame(GATEWAY, NEIGHBOUR, packet, v4);
        let mut frame_out = vec![0; frame.len()];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.data_out = Some(&mut frame_out);
        let result = program.test_run(options).map_err(|error| crate::fastpath::whole(&error))?;
        match result.return_value {
            PASS if frame == frame_out => Ok(None),
            PASS => Err("changed, and left to others".to_owned()),
            REDIRECT if frame_out[..12] == [NEIGHBOUR, EXIT].concat() => {
                frame_out.truncate(result.data_size_out as usize);
                Ok(Some(frame_out.split_off(usize::from(ETHERNET))))
            }
            other => Err(format!("returned {other}: {frame_out:02x?}")),
        }
    }

    /// Sends a packet through the program at tc.
    fn run(&self, setup: Setup, realm: Realm, redirects: bool, packet: &[u8], v4: bool) -> Result<Answer, String> {
        let program = self.loaded[&(setup, realm.number(), redirects)].program(duty(realm, redirects).program());
        let program: &SchedClassifier = program.unwrap().try_into().unwrap();
        // The kernel runs it on the loopback interface, whose address this is.
        let frame = frame([0; 6], NEIGHBOUR, packet, v4);
        let mut context = [0; CAME_BY_AT + 4];
        context[MARK_AT..MARK_AT + 4].copy_from_slice(&FOREIGN.to_ne_bytes());
        context[CAME_BY_AT..].copy_from_slice(&self.terminals.to_ne_bytes());
        let (mut frame_out, mut context_out) = (vec![0; frame.len()], [0; CONTEXT]);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.data_out = Some(&mut frame_out);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut context_out);
        let result = program.test_run(options).map_err(|error| crate::fastpath::whole(&error))?;
        if context_out[MARK_AT..MARK_AT + 4] != FOREIGN.to_ne_bytes() {
            return Err("the mark was changed".to_owned());
        }
        let ends = frame_out[..12].to_vec();
        let packet_out = frame_out.split_off(usize::from(ETHERNET));
        match result.return_value {
            TC_NEXT if packet_out == packet => Ok(Answer::Left),
            TC_NEXT => Ok(Answer::Translated(packet_out)),
            TC_DROP => Ok(Answer::Dropped),
            TC_REDIRECT if ends == [NEIGHBOUR, EXIT].concat() => Ok(Answer::Sent(packet_out)),
            TC_REDIRECT if packet_out == packet && ends[..6] == [0; 6] => Ok(Answer::Left),
            other => Err(format!("returned {other}, {ends:02x?}")),
        }
    }
}

/// Which program a packet of a realm meets.
fn duty(realm: Realm, redirects: bool) -> Duty {
    match realm {
        Realm::Outside => Duty::Arriving,
        Realm::Inside(_) if redirects => Duty::Shortcut,
        Realm::Inside(_) => Duty::Leaving,
    }
}

/// What a program has made of a packet.
#[derive(Debug, PartialEq)]
enum Answer {
    /// It goes on to user space, or to the kernel, as it came.
    Left,
    /// The kernel goes on with it.
    Translated(Vec<u8>),
    /// It was sent out past the kernel.
    Sent(Vec<u8>),
    /// No whole header: nobody can tell whose it is.
    Dropped,
}

fn frame(to: [u8; 6], from: [u8; 6], packet: &[u8], v4: bool) -> Vec<u8> {
    let kind: [u8; 2] = if v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&to[..], &from, &kind, packet].concat()
}

/// Whether the kernel would forward it: it has hops left, and the checksum of its header is right.
fn may_leave(packet: &[u8]) -> bool {
    match packet[0] >> 4 {
        4 => {
            let words = packet[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
            let sum: u32 = words.sum();
            packet[8] > 1 && (sum & 0xffff) + (sum >> 16) == 0xffff
        }
        _ => packet[7] > 1,
    }
}

/// As the kernel forwards it.
fn forwarded(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[8] -= 1;
        let check = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0x0100;
        let check = check + u32::from(check >= 0xffff);
        packet[10..12].copy_from_slice(&check.to_be_bytes()[2..]);
    } else {
        packet[7] -= 1;
    }
    packet
}

#[test]
fn the_programs_and_the_translator_give_the_same_bytes() {
    let programs = Programs::load();
    // Plain packets by version, direction and protocol; others that were taken all the same; zero checksums made; left.
    let plain_ones: RefCell<BTreeMap<(bool, bool, u8), u32>> = RefCell::default();
    let [others, zeros, left, by_xdp, not_by_xdp, sent_out] = [const { Cell::new(0) }; 6];
    // Rules of others keep the programs from sending packets out.
    let (ruled, redirects) = (Cell::new(true), Cell::new(false));
    let count = |cell: &Cell<u32>| cell.set(cell.get() + 1);
    let compare = |case: Case| {
        let (mut translator, offers) = translator(&case);
        let realm = if case.out { INSIDE } else { Realm::Outside };
        let flow = offers.iter().find(|offer| offer.from == realm).unwrap();
        let (built, mut bytes, plain) = case.packet(flow);
        programs.flows.borrow_mut().insert(flow).unwrap();
        let answer = programs.run(case.setup, realm, redirects.get(), &bytes, case.ends.0.is_ipv4());
        let carried = programs.flows.borrow().carried(realm, flow.source, flow.destination).unwrap();
        // Each visit is the first of its flow: in the kernel's first ticks there is none.
        let answer_of_xdp = programs.run_xdp(case.setup, realm, &bytes, case.ends.0.is_ipv4());
        programs.flows.borrow_mut().remove(realm, flow.source, flow.destination).unwrap();
        let answer_of_xdp = answer_of_xdp.map_err(TestCaseError::fail)?;
        let opens = Headers::parse(&bytes).is_ok_and(|headers| headers.kind == Kind::TcpSyn);
        let answer = answer.map_err(TestCaseError::fail)?;
        let sent = matches!(answer, Answer::Sent(_));
        let (Answer::Translated(translated) | Answer::Sent(translated)) = answer else {
            let must = plain && !(redirects.get() && realm == INSIDE);
            prop_assert!(!must, "a plain packet was left alone: {:02x?}", bytes);
            prop_assert_eq!(carried, Carried::default());
            count(&left);
            return Ok(());
        };
        let may_leave = may_leave(&bytes);
        let padding = if let Damage::Padding(more) = case.damage { more } else { 0 };
        let verdict = translator.translate(&mut Packet::new(&mut bytes), realm, NOW);
        prop_assert!(matches!(verdict, Verdict::Forward { event: None, .. }), "{:?}", verdict);
        prop_assert!(!sent || redirects.get() && !ruled.get(), "sent out past rules of others");
        prop_assert!(!sent || may_leave && padding == 0, "sent out with something wrong about it");
        prop_assert_eq!(&translated, &if sent { forwarded(bytes.clone()) } else { bytes.clone() });
        if sent {
            count(&sent_out);
        }
        prop_assert_eq!((carried.packets, carried.opened), (1, u64::from(opens)));
        match answer_of_xdp {
            Some(frame) => {
                prop_assert!(!ruled.get(), "sent out past rules of others");
                let mut alone = forwarded(bytes.clone());
                // A damaged length leaves something behind it too.
                alone.truncate(Headers::parse(&bytes).map_or(0, |headers| headers.end));
                prop_assert_eq!(frame, alone, "as it is, without what is behind it");
                count(&by_xdp);
            }
            // A checksum that is whole looks now and then as if it were not.
            None if plain && may_leave && case.spec.sum != Sum::Partial && !ruled.get() => {
                count(&not_by_xdp);
            }
            None => {}
        }
        let after = Built { bytes, ..built };
        if plain {
            *plain_ones.borrow_mut().entry((case.ends.0.is_ipv4(), case.out, after.protocol)).or_default() += 1;
            if case.zero && after.sum().is_some_and(|sum| same_sum(sum, 0)) {
                count(&zeros);
            }
        } else {
            count(&others);
        }
        Ok(())
    };
    let config = Config { cases: 4000, failure_persistence: None, ..Config::default() };
    for way in [true, false] {
        ruled.set(way);
        redirects.set(!way);
        programs.surroundings.borrow_mut().set_ruled(way, way).unwrap();
        if let Err(error) = TestRunner::new(config.clone()).run(&case(), compare) {
            panic!("{error}");
        }
    }
    let plain_ones = plain_ones.into_inner();
    assert!(plain_ones.len() == 12 && plain_ones.values().all(|number| *number > 10), "{plain_ones:?}");
    assert!(
        sent_out.get() > 500 && by_xdp.get() > 500 && not_by_xdp.get() < 5,
        "{sent_out:?} {by_xdp:?} {not_by_xdp:?}"
    );
    assert!(others.get() > 10 && zeros.get() > 10 && left.get() > 100, "{others:?} {zeros:?} {left:?}");
}
