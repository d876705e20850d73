//! N8: the table is private, and hidden addresses leave by no way.

use crate::capture::Capture;
use crate::gateway::{Gateway, KAMEI, outermost};
use crate::lab::{Family, Host, Lab, Plan, need, wait_until};
use crate::traffic::{Echo, Web, ask_udp, curl, curl_in_vain, udp_socket};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// A row of gateways with the outside wire of each captured; terminal 1 has called server 1.
struct Scene {
    lab: Lab,
    gateways: Vec<Gateway>,
    captures: Vec<Capture>,
    virtual_ip: IpAddr,
    _web: Web,
}

impl Scene {
    fn new(gateways: u8, family: Family) -> Self {
        let lab = Lab::new(Plan::gateways(gateways).unwatched());
        let running = lab.start_all();
        let captures = (1..=lab.plan.gateways).map(|k| lab.outside_wire(k)).collect();
        let web = Web::start(&lab.server(1), 80);
        curl(&lab.terminal(1), lab.server(1).address(family), 80);
        let virtual_ip = outermost(&running, &lab.terminal(1), family);
        Self { lab, gateways: running, captures, virtual_ip, _web: web }
    }

    fn terminal(&self) -> Host {
        self.lab.terminal(1)
    }

    fn server(&self) -> Host {
        self.lab.server(1)
    }

    /// Nothing that the inside of gateway k hides was on its outside wire.
    #[track_caller]
    fn assert_nothing_leaked(self) {
        for (k, capture) in (1..).zip(self.captures) {
            capture.finish().assert_hidden(&self.lab.hidden(k));
        }
    }
}

/// A plain router instead of a gateway: the search for hidden addresses must find them, or it proves nothing.
#[test]
fn n8_the_search_finds_a_leak_where_there_is_one() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let host = router(&lab);
    let wire = Capture::start(&host, "go");
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _web = Web::start(&server, 80);
    for family in [Family::V4, Family::V6] {
        assert_eq!(curl(&terminal, server.address(family), 80), format!("{} 80", terminal.address(family)));
    }
    let wire = wire.finish();
    assert!(wire.has_address(terminal.v4.into()) && wire.has_address(terminal.v6.into()));
}

#[test]
fn n8_only_root_can_read_the_table() {
    need("setpriv", "util-linux");
    let scene = Scene::new(1, Family::V4);
    let gateway = &scene.gateways[0];
    // The directory is open, so that it is the socket itself that is tried.
    std::fs::set_permissions(scene.lab.scratch(), PermissionsExt::from_mode(0o755)).unwrap();
    // A copy that others may run: where cargo builds may be closed to them.
    let kamei = scene.lab.scratch().join("kamei");
    std::fs::copy(KAMEI, &kamei).unwrap();
    let nobody = "setpriv --reuid nobody --regid nogroup --clear-groups";
    let socket = gateway.control().display();
    gateway.host.run(&format!("{nobody} {} --version", kamei.display())).ok();

    for question in
        ["bindings", "bindings --json", "status", "bindings show 10.77.143.11", "bindings release 10.77.143.11"]
    {
        let ran = gateway.host.run(&format!("{nobody} {} {question} --control {socket}", kamei.display()));
        assert!(!ran.succeeded(), "{question} answers nobody: {}", ran.stdout);
        assert!(!ran.stdout.contains("10.77.143.11"), "{}", ran.stdout);
    }
    let path = format!("curl -sS --max-time 5 --unix-socket {socket} http://kamei/v1/bindings");
    let ran = gateway.host.run(&format!("{nobody} {path}"));
    assert!(!ran.stdout.contains("10.77.143.11"), "{}", ran.stdout);
    assert!(gateway.host.run(&path).ok().contains("10.77.143.11"), "root may");
    let open_to_others =
        gateway.host.run(&format!("find {0}/state1 {0}/*.sock* -perm /077 ! -type d", scene.lab.scratch().display()));
    assert_eq!(open_to_others.ok(), "", "files that others can read");
}

#[test]
fn n8_nothing_listens_on_the_network() {
    let scene = Scene::new(1, Family::V4);
    assert_eq!(scene.gateways[0].host.run("ss -Htuln").ok(), "");
}

#[test]
fn n8_no_inside_address_can_be_called_from_outside() {
    let scene = Scene::new(1, Family::V4);
    let (terminal, server) = (scene.terminal(), scene.server());
    let _back = Web::start(&terminal, 8080);
    let inside = Capture::start(&scene.gateways[0].host, "gi");
    for family in [Family::V4, Family::V6] {
        curl_in_vain(&server, terminal.address(family), 8080);
    }
    let inside = inside.finish();
    for family in [Family::V4, Family::V6] {
        assert!(!inside.has_address(server.address(family)), "nothing of it went inside");
    }
}

fn port_unreachable(family: Family) {
    let scene = Scene::new(2, family);
    let to = SocketAddr::new(scene.virtual_ip, 9999);
    let error = scene.server().inside(|| {
        let socket = udp_socket(to, 0);
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(b"anybody there?").unwrap();
        socket.recv(&mut [0; 16]).unwrap_err()
    });
    // The kernel believes the error only if the quoted packet is the one it sent.
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    scene.assert_nothing_leaked();
}

#[test]
fn n8_port_unreachable_of_the_terminal_shows_the_virtual_ip() {
    port_unreachable(Family::V4);
}

#[test]
fn n8_port_unreachable_of_the_terminal_shows_the_virtual_ip_v6() {
    port_unreachable(Family::V6);
}

/// The gateway's own kernel finds that the terminal is gone, and quotes the packet as it was after translation.
fn terminal_gone(family: Family) {
    let scene = Scene::new(2, family);
    let gateway = &scene.gateways[0].host;
    for (key, value) in [("mcast_solicit", "1"), ("ucast_solicit", "1"), ("retrans_time_ms", "100")] {
        gateway.set_sysctl(&format!("net.ipv4.neigh.gi.{key}"), value);
        gateway.set_sysctl(&format!("net.ipv6.neigh.gi.{key}"), value);
    }
    scene.terminal().run("ip link set eth0 down").ok();
    gateway.run("ip neigh flush dev gi; ip -6 neigh flush dev gi").ok();

    let to = SocketAddr::new(scene.virtual_ip, 8080);
    let error = scene.server().inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap_err());

    assert_eq!(error.kind(), ErrorKind::HostUnreachable, "the peer is told: {error}");
    scene.assert_nothing_leaked();
}

#[test]
fn n8_host_unreachable_of_the_gateway_shows_the_virtual_ip() {
    terminal_gone(Family::V4);
}

#[test]
fn n8_host_unreachable_of_the_gateway_shows_the_virtual_ip_v6() {
    terminal_gone(Family::V6);
}

fn time_exceeded(family: Family) {
    let scene = Scene::new(2, family);
    let (terminal, server) = (scene.terminal(), scene.server());
    for (from, to) in [(&server, scene.virtual_ip), (&terminal, server.address(family))] {
        let mut replies = Vec::new();
        for hops in 1..=3 {
            let ran = from.run(&format!("ping -n -c 1 -W 2 -t {hops} {to}"));
            let exceeded = ["Time to live exceeded", "Time exceeded"].iter().any(|words| ran.stdout.contains(words));
            replies.push((exceeded, ran.succeeded()));
        }
        assert_eq!(
            replies,
            [(true, false), (true, false), (false, true)],
            "each gateway is one hop, from {}",
            from.name
        );
    }
    scene.assert_nothing_leaked();
}

#[test]
fn n8_time_exceeded_shows_no_inside_address() {
    time_exceeded(Family::V4);
}

#[test]
fn n8_time_exceeded_shows_no_inside_address_v6() {
    time_exceeded(Family::V6);
}

/// The narrow link is inside: the gateway's kernel says so, and quotes the packet as it was after translation.
fn too_big(family: Family) {
    let scene = Scene::new(2, family);
    scene.gateways[0].host.run("ip link set gi mtu 1280").ok();
    scene.terminal().run("ip link set eth0 mtu 1280").ok();

    let ran = scene.server().run(&format!("ping -n -c 3 -i 0.2 -W 2 -M do -s 1400 {}", scene.virtual_ip));

    let said = ran.stdout + &ran.stderr;
    let told = ["mtu = 1280", "mtu=1280", "mtu: 1280"].iter().any(|words| said.contains(words));
    assert!(told, "the peer learns the size: {said}");
    scene.server().run(&format!("ping -n -c 1 -W 5 -M do -s 1200 {}", scene.virtual_ip)).ok();
    scene.assert_nothing_leaked();
}

#[test]
fn n8_fragmentation_needed_shows_the_virtual_ip() {
    too_big(Family::V4);
}

#[test]
fn n8_packet_too_big_shows_the_virtual_ip_v6() {
    too_big(Family::V6);
}

#[test]
fn n8_what_cannot_make_a_pair_stays_inside() {
    need("socat", "socat");
    let scene = Scene::new(1, Family::V4);
    let (terminal, server) = (scene.terminal(), scene.server());
    scene.gateways[0].ask(&format!("bindings release {}", terminal.v4)).ok();
    // A TCP segment with ACK alone, port 40000 to 80 (RFC 9293 §3.1).
    let ack = r"\234\100\000\120\000\000\000\001\000\000\000\001\120\020\040\000\000\000\000\000";
    terminal.run(&format!("printf '{ack}' | socat -u STDIN IP4-SENDTO:{}:6", server.v4)).ok();
    wait_until("the segment to be counted", || scene.gateways[0].dropped("not_a_first_packet") > 0);
    scene.assert_nothing_leaked();
}

#[test]
fn n8_a_family_without_a_pool_stays_inside() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1)]);
    // A router for IPv6 as well, so that only the gateway stands in the way.
    gateway.host.set_sysctl("net.ipv6.conf.all.forwarding", "1");
    let wire = lab.outside_wire(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _echo = Echo::start(&server, 5000);
    let to_v6 = SocketAddr::new(server.v6.into(), 5000);
    assert_eq!(ask_udp(&terminal, to_v6, b"six", Duration::from_secs(1)), None);
    let to_v4 = SocketAddr::new(server.v4.into(), 5000);
    assert_eq!(ask_udp(&terminal, to_v4, b"four", PATIENCE).as_deref(), Some(&b"four"[..]));
    wire.finish().assert_hidden(&lab.hidden(1));
}

/// Sends datagrams from the terminal without a pause while `work` runs.
pub fn under_fire<T>(terminal: &Host, to: &[SocketAddr], work: impl FnOnce(&AtomicU64) -> T) -> T {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (stop, sent) = (&stop, &sent);
        scope.spawn(move || {
            let sockets: Vec<_> = terminal.inside(|| to.iter().map(|to| (udp_socket(*to, 0), *to)).collect());
            while !stop.load(Ordering::Relaxed) {
                for (socket, to) in &sockets {
                    let _ = socket.send_to(b"from the inside", to); // refused while nobody forwards: fine
                }
                sent.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let end = StopAtEnd(stop);
        let result = work(sent);
        drop(end);
        result
    })
}

/// Stops the sender even when the test panics: the scope waits for it.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until so many more datagrams have been sent.
pub fn let_pass(sent: &AtomicU64, count: u64) {
    let goal = sent.load(Ordering::Relaxed) + count;
    wait_until("datagrams to be sent", || sent.load(Ordering::Relaxed) >= goal);
}

/// Forwarding is on before kamei comes and stays on: only kamei stands between inside and outside.
pub fn router(lab: &Lab) -> Host {
    let host = lab.gateway(1);
    host.set_sysctl("net.ipv4.ip_forward", "1");
    host.set_sysctl("net.ipv6.conf.all.forwarding", "1");
    host
}

pub fn both_families(server: &Host) -> [SocketAddr; 2] {
    [SocketAddr::new(server.v4.into(), 5000), SocketAddr::new(server.v6.into(), 5000)]
}

#[test]
fn n8_after_kill_nine_nothing_leaves_and_a_new_start_leaks_nothing() {
    let lab = Lab::new(Plan::gateways(1).servers(2).unwatched());
    router(&lab);
    let (terminal, server, unknown) = (lab.terminal(1), lab.server(1), lab.server(2));
    let _echoes = [&server, &unknown].map(|server| Echo::start(server, 5000));
    let gateway = lab.start(1);
    let wire = lab.outside_wire(1);
    under_fire(&terminal, &both_families(&server), |sent| {
        let_pass(sent, 200);
        gateway.kill();
        let_pass(sent, 500);
        let gateway = lab.start(1);
        let_pass(sent, 200);
        gateway.kill();
        let_pass(sent, 200);
    });
    let gateway = lab.start(1);
    for to in both_families(&server) {
        assert!(ask_udp(&terminal, to, b"works again", PATIENCE).is_some());
    }
    gateway.kill();
    // Flows that the kernel knows go on; others wait for the next gateway.
    for to in both_families(&unknown) {
        assert_eq!(ask_udp(&terminal, to, b"fails closed", Duration::from_millis(300)), None);
    }
    let wire = wire.finish();
    assert!(wire.has_bytes(b"from the inside") && wire.len() > 100, "while it ran, packets passed");
    assert!(!wire.has_bytes(b"fails closed"));
    wire.assert_hidden(&lab.hidden(1));
}

/// Somebody deletes a device of the gateway, or takes it down.
fn device_gone(command: &str) {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let host = router(&lab);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _gateway = lab.start(1);
    let wire = Capture::start(&server, "eth0");
    under_fire(&terminal, &both_families(&server), |sent| {
        let_pass(sent, 200);
        host.run(&command.replace('_', "kamei-nat")).ok();
        let_pass(sent, 300);
    });
    let wire = wire.finish();
    assert!(wire.has_bytes(b"from the inside"), "before that, packets passed");
    wire.assert_hidden(&lab.hidden(1));
}

#[test]
fn n8_with_its_devices_deleted_nothing_leaves() {
    device_gone("ip link delete _");
}

#[test]
fn n8_with_its_devices_down_nothing_leaves() {
    device_gone("ip link set _ down");
}

/// Starting and stopping under fire, on a host that forwards nothing before and after.
#[test]
fn n8_starting_and_stopping_leaks_nothing() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let wire = Capture::start(&server, "eth0");
    under_fire(&terminal, &both_families(&server), |sent| {
        for _ in 0..3 {
            let gateway = lab.start(1);
            let_pass(sent, 100);
            gateway.stop();
            let_pass(sent, 100);
        }
    });
    let wire = wire.finish();
    assert!(wire.has_bytes(b"from the inside"), "while it ran, packets passed");
    wire.assert_hidden(&lab.hidden(1));
}
