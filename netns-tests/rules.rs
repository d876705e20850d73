//! What RFC 4787, 5382, 5508 and 6888 ask of a NAT's choices: which virtual IP, whom it lets in, what it says and logs.

use crate::gateway::Gateway;
use crate::lab::{Family, Lab, Plan, wait_until};
use crate::traffic::{Echo, Web, accept, ask_udp, connect, curl, curl_in_vain, expect_pattern, listen, send_pattern};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);

/// A gateway with both pools and these lines in its file.
fn configured(lab: &Lab, lines: &str) -> Gateway {
    let pools = [Lab::pool_v4(1), Lab::pool_v6(1)].map(|range| format!("[[pool]]\nrange = \"{range}\"\n")).concat();
    lab.start_from_file(1, &format!("inside = [\"gi\"]\noutside = [\"go\"]\n{lines}\n{pools}"))
}

/// Whatever the terminal calls, and how, it is seen as one virtual IP (RFC 4787 REQ-1, REQ-2).
fn one_virtual_ip(family: Family) {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let gateway = lab.start(1);
    let terminal = lab.terminal(1);
    let mut seen = Vec::new();
    for server in [lab.server(1), lab.server(2)] {
        for port in [80, 8080] {
            let _web = Web::start(&server, port);
            let answer = curl(&terminal, server.address(family), port);
            seen.push(answer.split_whitespace().next().unwrap().parse::<IpAddr>().unwrap());
        }
        terminal.run(&format!("ping -n -c 1 -W 5 {}", server.address(family))).ok();
    }
    let virtual_ip = gateway.virtual_ip(terminal.address(family)); // panics if there are two
    assert!(seen.iter().all(|seen| *seen == virtual_ip), "{seen:?}");
}

#[test]
fn r1_r2_one_virtual_ip_for_every_peer_port_and_transport() {
    one_virtual_ip(Family::V4);
}

#[test]
fn r1_r2_one_virtual_ip_for_every_peer_port_and_transport_v6() {
    one_virtual_ip(Family::V6);
}

/// Ports even and odd, low and high, and two in a row arrive as they are, in both directions (RFC 4787 REQ-3, REQ-4).
#[test]
fn r3_ports_their_parity_and_contiguity_are_kept() {
    let lab = Lab::new(Plan::gateways(1));
    let gateway = lab.start(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let bound = |host: &crate::lab::Host, port| {
        let socket = host.inside(|| UdpSocket::bind(("::", port)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let at_server = bound(&server, 5000);
    let mut buffer = [0; 16];
    for port in [1, 53, 1023, 40_000, 40_001, 65_535] {
        let socket = bound(&terminal, port);
        socket.send_to(b"from", (server.v4.to_ipv6_mapped(), 5000)).unwrap();
        let (_, from) = at_server.recv_from(&mut buffer).unwrap();
        assert_eq!(from.port(), port);
        assert_eq!(from.ip().to_canonical(), gateway.virtual_ip(terminal.v4.into()));
        at_server.send_to(b"back", from).unwrap();
        let (_, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from.port(), 5000);
    }
}

/// Two terminals of one gateway call each other by their virtual IPs (RFC 4787 REQ-9, RFC 5382 REQ-8, RFC 5508 REQ-7).
fn hairpin(family: Family) {
    let lab = Lab::new(Plan::gateways(1).terminals(2));
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1), "--pool", &Lab::pool_v6(1), "--callback", "anyone"]);
    let (caller, called, server) = (lab.terminal(1), lab.terminal(2), lab.server(1).address(family));
    for terminal in [&caller, &called] {
        terminal.run(&format!("ping -n -c 1 -W 5 {server}")).ok();
    }
    let [as_caller, as_called] = [&caller, &called].map(|terminal| gateway.virtual_ip(terminal.address(family)));
    // TCP, and the called one sees the caller's virtual IP; also a terminal that calls itself.
    let _web = Web::start(&called, 80);
    assert_eq!(curl(&caller, as_called, 80), format!("{as_caller} 80"));
    assert_eq!(curl(&called, as_called, 80), format!("{as_called} 80"));
    // UDP and ICMP echo.
    let _echo = Echo::start(&called, 5000);
    assert_eq!(
        ask_udp(&caller, SocketAddr::new(as_called, 5000), b"hairpin", PATIENCE).as_deref(),
        Some(&b"hairpin"[..])
    );
    caller.run(&format!("ping -n -c 1 -W 5 {as_called}")).ok();
    // An ICMP error of the called one: the caller's kernel believes it.
    let refused = caller.inside(|| {
        let socket = crate::traffic::udp_socket(SocketAddr::new(as_called, 9), 0);
        socket.connect(SocketAddr::new(as_called, 9)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(b"nobody listens").unwrap();
        socket.recv(&mut [0; 8]).unwrap_err()
    });
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn r9_i7_terminals_call_each_other_by_their_virtual_ips() {
    hairpin(Family::V4);
}

#[test]
fn r9_i7_terminals_call_each_other_by_their_virtual_ips_v6() {
    hairpin(Family::V6);
}

/// Under the default policy a terminal is no more welcome than a peer outside.
#[test]
fn r9_a_terminal_that_was_not_called_may_not_call() {
    let lab = Lab::new(Plan::gateways(1).terminals(2));
    let gateway = lab.start(1);
    let (caller, called, server) = (lab.terminal(1), lab.terminal(2), lab.server(1).v4);
    for terminal in [&caller, &called] {
        terminal.run(&format!("ping -n -c 1 -W 5 {server}")).ok();
    }
    let _web = Web::start(&called, 80);
    curl_in_vain(&caller, gateway.virtual_ip(called.v4.into()), 80);
    assert!(gateway.dropped("not_contacted") > 0);
}

/// Without a switch no payload is touched: text that looks like FTP, from the terminal's address, arrives as it was sent
/// (RFC 4787 REQ-10).
#[test]
fn r10_without_a_switch_no_payload_is_touched() {
    // No capture to search: this payload says the terminal's address on purpose.
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let _gateway = lab.start(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let listener = listen(&server, 21);
    let mut call = connect(&terminal, SocketAddr::new(server.v4.into(), 21));
    let (mut accepted, _) = accept(&listener);
    let text = b"PORT 10,77,143,11,4,1\r\nEPRT |1|10.77.143.11|1025|\r\n";
    call.write_all(text).unwrap();
    let mut heard = vec![0; text.len()];
    accepted.read_exact(&mut heard).unwrap();
    assert_eq!(heard, text);
}

/// A SYN from a stranger: nothing for six seconds, then what the configuration says (RFC 5382 REQ-4).
fn unsolicited(answer: &str, expected: ErrorKind, family: Family) {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let gateway = configured(&lab, &format!("unsolicited = \"{answer}\""));
    let (terminal, stranger) = (lab.terminal(1), lab.server(2));
    terminal.run(&format!("ping -n -c 1 -W 5 {}", lab.server(1).address(family))).ok();
    let to = SocketAddr::new(gateway.virtual_ip(terminal.address(family)), 80);
    let start = Instant::now();
    let error = stranger.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(15)).unwrap_err());
    assert_eq!(error.kind(), expected, "{error}");
    assert!(start.elapsed() >= Duration::from_secs(6), "{:?}", start.elapsed());
}

#[test]
fn t4_an_unsolicited_syn_hears_port_unreachable_after_six_seconds_where_configured() {
    unsolicited("unreachable", ErrorKind::ConnectionRefused, Family::V4);
}

#[test]
fn t4_an_unsolicited_syn_hears_port_unreachable_after_six_seconds_where_configured_v6() {
    unsolicited("unreachable", ErrorKind::ConnectionRefused, Family::V6);
}

#[test]
fn t4_an_unsolicited_syn_is_reset_after_six_seconds_where_configured() {
    unsolicited("reset", ErrorKind::ConnectionRefused, Family::V4);
}

/// A pool of several ranges, none of which is a network (RFC 6888 REQ-3).
#[test]
fn c3_a_pool_of_several_ranges() {
    let lab = Lab::new(Plan::gateways(1).terminals(3));
    let gateway = lab.start_with(1, &["--pool", "198.18.1.7-198.18.1.8", "--pool", "198.18.1.200/32"]);
    let mut seen: Vec<IpAddr> = (1..=3)
        .map(|i| {
            let terminal = lab.terminal(i);
            terminal.run(&format!("ping -n -c 1 -W 5 {}", lab.server(1).v4)).ok();
            gateway.virtual_ip(terminal.v4.into())
        })
        .collect();
    seen.sort();
    assert_eq!(seen, ["198.18.1.7", "198.18.1.8", "198.18.1.200"].map(|address| address.parse::<IpAddr>().unwrap()));
}

/// One line for the binding, whatever it is used for, and no destination in the log (RFC 6888 REQ-12, REQ-13).
#[test]
fn c12_c13_one_log_line_a_binding_and_no_destination() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let gateway = lab.start(1);
    let terminal = lab.terminal(1);
    for server in [lab.server(1), lab.server(2)] {
        let _web = Web::start(&server, 80);
        curl(&terminal, server.v4.into(), 80);
        terminal.run(&format!("ping -n -c 1 -W 5 {}", server.v4)).ok();
    }
    wait_until("the line", || gateway.log().contains("binding made"));
    let virtual_ip = gateway.virtual_ip(terminal.v4.into()).to_string();
    let log = gateway.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("10.77.143.11")).collect();
    assert!(lines.len() == 1 && lines[0].contains(&virtual_ip), "{log}");
    for server in [lab.server(1), lab.server(2)] {
        assert!(!log.contains(&server.v4.to_string()), "{log}");
    }
}

/// Keeps this thread on the first processor it may use: whoever moves reorders what he sends himself.
fn stay_on_one_cpu() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let allowed = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap());
    sched_setaffinity(None, &one).unwrap();
}

/// The source port of the first flow.
const FIRST_PORT: u16 = 40_000;

/// A terminal, a gateway of several queues, and a server that hears. Without the fast path, which may overtake what is still
/// in the queues at the moment when a flow moves to it.
struct Queues {
    lab: Lab,
    gateway: Gateway,
    at_server: UdpSocket,
}

impl Queues {
    fn new(lines: &str) -> Self {
        let lab = Lab::new(Plan::gateways(1).unwatched());
        let gateway = configured(&lab, &format!("workers = 4\nfast-path = \"off\"\n{lines}"));
        let at_server = lab.server(1).inside(|| UdpSocket::bind(("0.0.0.0", 5000)).unwrap());
        at_server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        Self { lab, gateway, at_server }
    }

    /// Sockets of the terminal at one of its addresses, each with a flow of its own.
    fn flows(&self, address: Ipv4Addr) -> Vec<UdpSocket> {
        let bind = || (0..8).map(|n| UdpSocket::bind((address, FIRST_PORT + n)).unwrap()).collect();
        self.lab.terminal(1).inside(bind)
    }

    /// Sends numbers, while busy threads compete for the processors with the gateway's, until none comes any more. In each
    /// flow's series of numbers, none may come after a higher one.
    fn keep_the_order(&self, at_least: u32, send: impl FnOnce() + Send) {
        let stop = AtomicBool::new(false);
        let (heard, late) = std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::black_box((0..100_000u64).sum::<u64>());
                        std::thread::yield_now();
                    }
                });
            }
            scope.spawn(|| {
                stay_on_one_cpu();
                send();
            });
            let mut last = HashMap::new();
            let (mut heard, mut late, mut buffer) = (0, 0, [0; 8]);
            while let Ok((8, from)) = self.at_server.recv_from(&mut buffer) {
                let number = u64::from_be_bytes(buffer);
                let last = last.entry((from.port(), number >> 32)).or_insert(0);
                heard += 1;
                late += u32::from(number < *last);
                *last = number.max(*last);
            }
            stop.store(true, Ordering::Relaxed);
            (heard, late)
        });
        assert!(heard > at_least, "{heard} datagrams came");
        assert_eq!(late, 0, "of {heard} datagrams");
    }
}

/// Has each flow send one datagram. Full queues lose some, which is fine here.
fn each_sends(flows: &[UdpSocket], to: Ipv4Addr, series: u32, number: u32) {
    for flow in flows {
        let _ = flow.send_to(&(u64::from(series) << 32 | u64::from(number)).to_be_bytes(), (to, 5000));
    }
}

/// Several queues, and threads that compete for the processors: of each flow, no packet overtakes another.
#[test]
fn s_several_queues_do_not_reorder() {
    let queues = Queues::new("");
    let (flows, server) = (queues.flows(Ipv4Addr::UNSPECIFIED), queues.lab.server(1).v4);
    queues.keep_the_order(8000, || {
        for round in 0..8000 {
            each_sends(&flows, server, 0, round);
            if round.is_multiple_of(16) {
                std::thread::sleep(Duration::from_micros(500));
            }
        }
    });
}

/// What waits until its contact is on record is not overtaken by what comes once another worker has recorded it.
#[test]
fn s_a_first_packet_to_a_peer_is_not_overtaken() {
    let queues = Queues::new("");
    let (flows, server) = (queues.flows(Ipv4Addr::UNSPECIFIED), queues.lab.server(1));
    server.run("ip route add local 203.0.112.0/20 dev lo").ok();
    queues.gateway.host.run(&format!("ip route add 203.0.112.0/20 via {}", server.v4)).ok();
    queues.keep_the_order(4000, || {
        for peer in 1..4000 {
            for number in 0..6 {
                each_sends(&flows, Ipv4Addr::from(0xcb00_7000 + peer), peer, number);
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    });
}

/// The same of bindings that must reach the disk.
#[test]
fn s_a_first_packet_that_waits_for_the_disk_is_not_overtaken() {
    const TERMINALS: u8 = 100;
    let queues = Queues::new("durability = \"strict\"");
    let server = queues.lab.server(1).v4;
    queues.lab.terminal(1).run("ip route add local 10.77.143.128/25 dev lo").ok();
    let terminals: Vec<_> = (0..TERMINALS).map(|n| queues.flows(Ipv4Addr::new(10, 77, 143, 130 + n))).collect();
    queues.keep_the_order(TERMINALS.into(), || {
        for (series, flows) in (0..).zip(&terminals) {
            for number in 0..40 {
                each_sends(flows, server, series, number);
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    });
}

/// A kernel that grants no offload at all: every packet is an ordinary one, and all goes on, to the byte.
fn without_offloads_of_the_device(family: Family) {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let gateway = configured(&lab, "offload = \"off\"");
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let listener = listen(&server, 4000);
    let call = connect(&terminal, SocketAddr::new(server.address(family), 4000));
    let (accepted, _) = accept(&listener);
    std::thread::scope(|scope| {
        let (call_out, accepted_out) = (call.try_clone().unwrap(), accepted.try_clone().unwrap());
        scope.spawn(|| send_pattern(call_out, 1, 128));
        scope.spawn(|| send_pattern(accepted_out, 2, 128));
        scope.spawn(|| expect_pattern(&call, 2, 128));
        scope.spawn(|| expect_pattern(&accepted, 1, 128));
    });
    let status = gateway.status();
    assert!(!status["offload"].as_str().unwrap().contains("TSO"), "{status}");
}

#[test]
fn s_a_device_without_offloads_carries_everything_too() {
    without_offloads_of_the_device(Family::V4);
}

#[test]
fn s_a_device_without_offloads_carries_everything_too_v6() {
    without_offloads_of_the_device(Family::V6);
}
