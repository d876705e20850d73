//! Path MTU discovery through a cascade of two, with the narrow link on either side of it and inside it.
//!
//! A host behind the terminal and one behind the server talk over links of 1,500 bytes; between them, one link carries
//! 1,280. So both ends announce an MSS for 1,500, and only an ICMP error can tell them better.

use crate::capture::Capture;
use crate::gateway::{Gateway, outermost};
use crate::lab::{Family, Host, Lab, Plan, wait_until};
use crate::traffic::{accept, connect, expect_pattern, listen, send_pattern};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

const NARROW: u16 = 1280;

#[derive(Clone, Copy)]
enum Where {
    Inside,
    Between,
    Outside,
}

struct Scene {
    lab: Lab,
    gateways: Vec<Gateway>,
    /// Behind the terminal.
    near: Host,
    /// Behind the server.
    far: Host,
    family: Family,
}

impl Scene {
    fn new(place: Where, family: Family) -> Self {
        Self::of(Plan::gateways(2), place, family)
    }

    fn of(plan: Plan, place: Where, family: Family) -> Self {
        let lab = Lab::new(plan.unwatched());
        let near = behind(&lab, &lab.terminal(1), "near", 7, &lab.gateway(1), lab.gateway_inside(1));
        let last = lab.gateway(2);
        let far = behind(&lab, &lab.server(1), "far", 8, &last, (last.v4, last.v6));
        narrow(&lab, place);
        let gateways = lab.start_all();
        for host in gateways.iter().map(|gateway| &gateway.host).chain([&lab.terminal(1), &lab.server(1)]) {
            host.set_sysctl("net.ipv4.icmp_ratelimit", "0");
            host.set_sysctl("net.ipv6.icmp.ratelimit", "0");
        }
        Self { lab, gateways, near, far, family }
    }

    fn virtual_ip(&self) -> IpAddr {
        outermost(&self.gateways, &self.near, self.family)
    }
}

/// A host behind `router`, whose network the gateway at the other end of the router's LAN knows the way to.
fn behind(lab: &Lab, router: &Host, name: &str, net: u8, gateway: &Host, via: (Ipv4Addr, Ipv6Addr)) -> Host {
    let prefix = Ipv6Addr::new(0xfd5a, 0x77e1, 0x9c0d, u16::from(net), 0, 0, 0xb7, 0).segments();
    let v6 = |last: u16| {
        let mut segments = prefix;
        segments[7] = last;
        Ipv6Addr::from(segments)
    };
    let (v4, near_v4) = (Ipv4Addr::new(10, 99, net, 20), Ipv4Addr::new(10, 99, net, 1));
    let host = Host {
        name: name.to_owned(),
        namespace: format!("{}-{name}", lab.name),
        v4,
        v6: v6(0x20),
        dir: router.dir.clone(),
    };
    let (new, old) = (&host.namespace, &router.namespace);
    let lines = [
        format!("netns add {new}"),
        format!("-n {new} link set lo up"),
        format!("-n {new} link add eth0 type veth peer name back netns {old}"),
        format!("-n {new} address add {v4}/24 dev eth0"),
        format!("-n {new} address add {}/64 dev eth0 nodad", v6(0x20)),
        format!("-n {old} address add {near_v4}/24 dev back"),
        format!("-n {old} address add {}/64 dev back nodad", v6(1)),
        format!("-n {new} link set eth0 up"),
        format!("-n {old} link set back up"),
        format!("-n {new} route add default via {near_v4}"),
        format!("-n {new} -6 route add default via {}", v6(1)),
        format!("-n {} route add 10.99.{net}.0/24 via {}", gateway.namespace, router.v4),
        format!("-n {} -6 route add {}/64 via {}", gateway.namespace, v6(0), router.v6),
        format!("-n {old} route replace default via {}", via.0),
        format!("-n {old} -6 route replace default via {}", via.1),
    ];
    for line in lines {
        let done = Command::new("ip").args(line.split_whitespace()).output().unwrap();
        assert!(done.status.success(), "ip {line}: {}", String::from_utf8_lossy(&done.stderr));
    }
    router.set_sysctl("net.ipv4.ip_forward", "1");
    router.set_sysctl("net.ipv6.conf.all.forwarding", "1");
    host
}

/// Both ends of the link carry less: what does not fit is never sent into it.
fn narrow(lab: &Lab, place: Where) {
    let ends = match place {
        Where::Inside => [(lab.terminal(1), "eth0"), (lab.gateway(1), "gi")],
        Where::Between => [(lab.gateway(1), "go"), (lab.gateway(2), "gi")],
        Where::Outside => [(lab.gateway(2), "go"), (lab.server(1), "eth0")],
    };
    for (host, interface) in ends {
        host.run(&format!("ip link set {interface} mtu {NARROW}")).ok();
    }
}

/// What the host has learned about the way to `to`.
#[track_caller]
fn assert_learned(host: &Host, to: IpAddr) {
    let route = host.run(&format!("ip route get {to}")).ok();
    assert!(route.contains(&format!("mtu {NARROW}")), "{}: {route}", host.name);
}

const BLOCKS: usize = 64;

/// A call and a callback, each moving 4 MiB in both directions, and both ends learn the narrow link's size.
fn tcp(place: Where, family: Family) {
    tcp_through(Plan::gateways(2), place, family);
}

fn tcp_through(plan: Plan, place: Where, family: Family) {
    let scene = Scene::of(plan, place, family);
    let captures: Vec<Capture> = (1..=scene.lab.plan.gateways).map(|k| scene.lab.outside_wire(k)).collect();
    let (near, far) = (&scene.near, &scene.far);
    let (at_far, at_near) = (listen(far, 4000), listen(near, 4001));
    let call = connect(near, SocketAddr::new(far.address(family), 4000));
    let (accepted, seen) = accept(&at_far);
    assert_eq!(seen, scene.virtual_ip());
    exchange(&call, &accepted);
    assert_learned(near, far.address(family));
    assert_learned(far, scene.virtual_ip());

    let callback = connect(far, SocketAddr::new(scene.virtual_ip(), 4001));
    let (accepted, seen) = accept(&at_near);
    assert_eq!(seen, far.address(family));
    exchange(&callback, &accepted);
    for (k, capture) in (1..).zip(captures) {
        let mut hidden = scene.lab.hidden(k);
        hidden.push(near.address(family));
        capture.finish().assert_hidden(&hidden);
    }
}

fn exchange(a: &std::net::TcpStream, b: &std::net::TcpStream) {
    std::thread::scope(|scope| {
        let (a_out, b_out) = (a.try_clone().unwrap(), b.try_clone().unwrap());
        scope.spawn(|| send_pattern(a_out, 1, BLOCKS));
        scope.spawn(|| send_pattern(b_out, 2, BLOCKS));
        scope.spawn(|| expect_pattern(a, 2, BLOCKS));
        scope.spawn(|| expect_pattern(b, 1, BLOCKS));
    });
}

#[test]
fn r13_tcp_learns_of_a_narrow_link_inside() {
    tcp(Where::Inside, Family::V4);
}

#[test]
fn r13_tcp_learns_of_a_narrow_link_inside_v6() {
    tcp(Where::Inside, Family::V6);
}

#[test]
fn r13_tcp_learns_of_a_narrow_link_between_two_gateways() {
    tcp(Where::Between, Family::V4);
}

#[test]
fn r13_tcp_learns_of_a_narrow_link_between_two_gateways_v6() {
    tcp(Where::Between, Family::V6);
}

#[test]
fn r13_tcp_learns_of_a_narrow_link_outside() {
    tcp(Where::Outside, Family::V4);
}

#[test]
fn r13_tcp_learns_of_a_narrow_link_outside_v6() {
    tcp(Where::Outside, Family::V6);
}

/// With DF: an error that says the size. Without: fragments, made by whoever has the narrow link in front of it.
#[test]
fn r13_with_df_an_error_and_without_df_fragments() {
    for place in [Where::Inside, Where::Between, Where::Outside] {
        let scene = Scene::new(place, Family::V4);
        let (near, far) = (&scene.near, &scene.far);
        near.run(&format!("ping -n -c 1 -W 5 {}", far.v4)).ok();
        let ways = [(near, far, IpAddr::from(far.v4)), (far, near, scene.virtual_ip())];
        for (from, at, to) in ways {
            let wire = Capture::start(at, "eth0");
            from.run(&format!("ping -n -c 1 -W 5 -M dont -s 1400 {to}")).ok();
            let fragments =
                || wire.packets().ip().filter(|ip| ip[0] >> 4 == 4 && (ip[6] & 0x3f, ip[7]) != (0, 0)).count();
            wait_until("fragments", || fragments() >= 2);
            drop(wire);
            let ran = from.run(&format!("ping -n -c 2 -i 0.2 -W 2 -M do -s 1400 {to}"));
            assert!(ran.stdout.contains(&format!("(mtu = {NARROW})")), "{}{}", ran.stdout, ran.stderr);
            assert_learned(from, to);
        }
    }
}

/// tracepath finds the narrow link in both directions.
fn tracepath(family: Family) {
    crate::lab::need("tracepath", "iputils-tracepath");
    for place in [Where::Inside, Where::Between, Where::Outside] {
        let scene = Scene::new(place, family);
        let (near, far) = (&scene.near, &scene.far);
        near.run(&format!("ping -n -c 1 -W 5 {}", far.address(family))).ok();
        for (from, to) in [(near, far.address(family)), (far, scene.virtual_ip())] {
            let said = from.run(&format!("tracepath -n -m 9 {to}")).ok();
            assert!(said.contains(&format!("pmtu {NARROW} hops 5 back 5")), "{}:\n{said}", from.name);
        }
    }
}

#[test]
fn r13_tracepath_finds_the_narrow_link() {
    tracepath(Family::V4);
}

#[test]
fn r13_tracepath_finds_the_narrow_link_v6() {
    tracepath(Family::V6);
}

#[test]
fn tcp_learns_of_a_narrow_link_that_packets_would_be_redirected_into() {
    each_place_and_family(Plan::gateways(2).redirecting());
}

#[test]
fn tcp_learns_of_a_narrow_link_that_xdp_would_send_packets_into() {
    each_place_and_family(Plan::gateways(2).by_xdp());
}

fn each_place_and_family(plan: Plan) {
    for place in [Where::Inside, Where::Between, Where::Outside] {
        for family in [Family::V4, Family::V6] {
            tcp_through(plan, place, family);
        }
    }
}
