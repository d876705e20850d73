//! P5: any link can be an outside or an inside. What this kernel has no links of is said, and not shown; `scripts/vm` runs
//! these tests on one that has them all.

use crate::closed::has_links;
use crate::fastpath::{flows, hits};
use crate::gateway::{Gateway, KAMEI};
use crate::lab::{Background, Family, Host, Lab, Plan, has, need, wait_until};
use crate::one_view::{BOTH, Ground, SEATS, SLOW, Seat, ping, seats_and_modes};
use crate::traffic::{Web, accept, connect, curl, expect_pattern, listen, send_pattern};
use std::net::{IpAddr, SocketAddr, TcpStream};

/// A gateway between links that are not those of the lab.
struct Row {
    inside: &'static str,
    outside: &'static str,
    /// By IPv4 and, where the link can, IPv6.
    terminal: Vec<IpAddr>,
    server: Vec<IpAddr>,
    /// What the links need to live.
    _held: Vec<Background>,
}

impl Row {
    fn new(lab: &Lab) -> Self {
        let both = |host: &Host| BOTH.map(|family| host.address(family)).to_vec();
        let (terminal, server) = (both(&lab.terminal(1)), both(&lab.server(1)));
        Self { inside: "gi", outside: "go", terminal, server, _held: Vec::new() }
    }

    fn inside(self, name: &'static str) -> Self {
        Self { inside: name, ..self }
    }

    fn outside(self, name: &'static str) -> Self {
        Self { outside: name, ..self }
    }
}

/// Calls and callbacks, bulk both ways.
#[track_caller]
fn crosses(ground: &Ground, gateway: &Gateway, row: &Row) {
    let (terminal, server) = (ground.lab.terminal(1), ground.lab.server(1));
    let _webs = [Web::start(&server, 80), Web::start(&terminal, 8080)];
    let (at_server, at_terminal) = (listen(&server, 4000), listen(&terminal, 4001));
    let is_fast = gateway.status()["fast_path"]["mode"] != "off";
    for (there, here) in row.server.iter().zip(&row.terminal) {
        let before = flows(gateway);
        wait_until("both directions to be in the kernel", || {
            let passed = terminal.run(&format!("ping -n -c 5 -i 0.02 -W 1 {there}")).succeeded();
            passed && (!is_fast || flows(gateway) >= before + 2)
        });
        let virtual_ip = gateway.virtual_ip(*here);
        let before = hits(gateway);
        ping(&server, virtual_ip, 5);
        assert_eq!(curl(&terminal, *there, 80), format!("{virtual_ip} 80"));
        assert_eq!(curl(&server, virtual_ip, 8080), format!("{there} 8080"));
        for (from, to, listener) in [
            (&terminal, SocketAddr::new(*there, 4000), &at_server),
            (&server, SocketAddr::new(virtual_ip, 4001), &at_terminal),
        ] {
            let call = connect(from, to);
            let (accepted, _) = accept(listener);
            exchange(&call, &accepted);
        }
        assert!(!is_fast || hits(gateway) - before > 50, "carried by the kernel");
    }
}

/// Sends a pattern each way at once.
#[track_caller]
pub fn exchange(call: &TcpStream, accepted: &TcpStream) {
    let (one, other) = (call.try_clone().unwrap(), accepted.try_clone().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(move || send_pattern(one, 3, 16));
        scope.spawn(move || send_pattern(other, 5, 16));
        expect_pattern(accepted, 3, 16);
        expect_pattern(call, 5, 16);
    });
}

/// A row of links, at either seat, by user space and by the kernel.
fn carries(make: impl Fn(&Ground) -> Option<Row>) {
    for (seat, arguments) in seats_and_modes() {
        let ground = Ground::new(Plan::gateways(1).unwatched(), seat);
        let Some(row) = make(&ground) else { return };
        let (v4, v6) = (Lab::pool_v4(1), Lab::pool_v6(1));
        let ways = ["--inside", row.inside, "--outside", row.outside, "--pool", &v4, "--pool", &v6];
        let gateway = ground.start_exactly(&[&ways, arguments].concat());
        crosses(&ground, &gateway, &row);
        gateway.stop();
    }
}

/// Addresses move from one interface of the gateway to another.
pub fn move_addresses(host: &Host, from: &str, to: &str, v4: impl std::fmt::Display, v6: impl std::fmt::Display) {
    host.run(&format!(
        "ip address flush dev {from} && ip link set {to} up && ip address add {v4}/24 brd + dev {to} && \
         ip address add {v6}/64 dev {to} nodad"
    ))
    .ok();
}

#[test]
fn p5_a_bridge_outside() {
    carries(|ground| {
        let host = ground.lab.gateway(1);
        host.run("ip link add br0 type bridge && ip link set go master br0").ok();
        move_addresses(&host, "go", "br0", host.v4, host.v6);
        Some(Row::new(&ground.lab).outside("br0"))
    });
}

/// Peers know a port's hardware address: the bridge takes frames for it as its own.
#[test]
fn p5_a_bridge_outside_that_peers_know_by_another_hardware_address() {
    carries(|ground| {
        let (host, server) = (ground.lab.gateway(1), ground.lab.server(1));
        host.run("ip link add br0 address 02:00:00:00:99:01 type bridge && ip link set go master br0").ok();
        move_addresses(&host, "go", "br0", host.v4, host.v6);
        let port = host.run("cat /sys/class/net/go/address").ok();
        for address in BOTH.map(|family| host.address(family)) {
            server.run(&format!("ip neigh replace {address} lladdr {} dev eth0 nud permanent", port.trim())).ok();
        }
        Some(Row::new(&ground.lab).outside("br0"))
    });
}

/// Netfilter at the ports of a bridge sees virtual IPs: of a setting of all bridges nobody is told but who looks.
#[test]
fn p5_netfilter_at_the_ports_of_an_outside_bridge_is_named() {
    let ground = Ground::new(Plan::gateways(1), Seat::Links);
    let host = ground.lab.gateway(1);
    host.run("ip link add br0 type bridge && ip link set go master br0").ok();
    move_addresses(&host, "go", "br0", host.v4, host.v6);
    let keys = ["iptables", "ip6tables"].map(|key| format!("net.bridge.bridge-nf-call-{key}"));
    let set = |value: &str| keys.iter().for_each(|key| host.set_sysctl(key, value));
    set("1");
    let (v4, v6) = (Lab::pool_v4(1), Lab::pool_v6(1));
    let gateway = ground.start_exactly(&["--inside", "gi", "--outside", "br0", "--pool", &v4, "--pool", &v6]);
    let said = |words: &str| gateway.log().matches(words).count();
    let both = "sysctl -w net.bridge.bridge-nf-call-iptables=0; sysctl -w net.bridge.bridge-nf-call-ip6tables=0";
    assert_eq!(said(both), 1, "at the start: {}", gateway.log());
    set("0");
    wait_until("the end to be said", || said("at the ports of 'br0' no more") == 1);
    host.set_sysctl(&keys[1], "1");
    wait_until("one to be named", || {
        said("calls end when the kernel carries them; sysctl -w net.bridge.bridge-nf-call-ip6") == 1
    });
    set("0");
    wait_until("the end to be said", || said("at the ports of 'br0' no more") == 2);
    host.run("ip link set br0 type bridge nf_call_iptables 1").ok();
    wait_until("that of the bridge itself", || said("ip link set br0 type bridge nf_call_iptables 0") == 1);
}

/// Its far end is in the route of each packet, which user space does not have.
#[test]
fn p5_a_tunnel_without_a_far_end_of_its_own_is_refused_by_name() {
    let ground = Ground::new(Plan::gateways(1), Seat::Links);
    let (host, server) = (ground.lab.gateway(1), ground.lab.server(1));
    if !has_links(&host, "vxlan external dstport 4790", "") {
        return;
    }
    let (pool, scratch) = (Lab::pool_v4(1), ground.lab.scratch().display());
    let external = "ip link add vx0 type vxlan external dstport 4790 && ip link set vx0 up && \
                    ip address add 192.0.3.1/24 dev vx0";
    host.run(external).ok();
    let words = format!(
        "timeout 10 {KAMEI} gateway --inside gi --outside go --outside vx0 --pool {pool} --control {scratch}/c.sock \
         --state-dir {scratch}/s"
    );
    let ran = ground.run(&words);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("'vx0' is a tunnel whose far end is named by routes"), "{}", ran.stderr);

    // One that takes the place of another is not served, and the rest is.
    host.run("ip link delete vx0 && ip link add vx0 type vxlan id 7 remote 203.0.113.11 dstport 4790 dev go").ok();
    let gateway = ground.start_exactly(&["--inside", "gi", "--outside", "go", "--outside", "vx0", "--pool", &pool]);
    host.run(&format!("ip link delete vx0 && {external}")).ok();
    host.run(&format!("ip route add 192.0.3.11/32 encap ip id 42 dst {} dev vx0", server.v4)).ok();
    wait_until("it to be named", || gateway.log().contains("until then nothing leaves by it"));
    ping(&ground.lab.terminal(1), server.v4.into(), 3);
    assert!(!ground.lab.terminal(1).run("ping -n -c 2 -i 0.1 -W 1 192.0.3.11").succeeded());
    assert!(gateway.status()["fast_path"]["noted"]["undeclared_way"].as_u64().unwrap() >= 2, "{}", gateway.status());
}

#[test]
fn p5_a_bridge_inside() {
    carries(|ground| {
        let (host, (v4, v6)) = (ground.lab.gateway(1), ground.lab.gateway_inside(1));
        host.run("ip link add br0 type bridge && ip link set gi master br0").ok();
        move_addresses(&host, "gi", "br0", v4, v6);
        Some(Row::new(&ground.lab).inside("br0"))
    });
}

#[test]
fn p5_a_bond_outside_and_inside() {
    carries(|ground| {
        let (host, (v4, v6)) = (ground.lab.gateway(1), ground.lab.gateway_inside(1));
        if !has_links(&host, "bond mode active-backup", "") {
            return None;
        }
        for (member, bond) in [("go", "bo"), ("gi", "bi")] {
            host.run(&format!(
                "ip link add {bond} type bond mode active-backup miimon 100 && ip link set {member} down && ip link set \
                 {member} master {bond} && ip link set {member} up"
            ))
            .ok();
        }
        move_addresses(&host, "go", "bo", host.v4, host.v6);
        move_addresses(&host, "gi", "bi", v4, v6);
        Some(Row::new(&ground.lab).inside("bi").outside("bo"))
    });
}

#[test]
fn p5_a_macvlan_outside_and_inside() {
    carries(|ground| {
        let (host, (v4, v6)) = (ground.lab.gateway(1), ground.lab.gateway_inside(1));
        host.run("ip link add mo link go type macvlan mode bridge && ip link add mi link gi type macvlan mode bridge")
            .ok();
        // Else they answer for addresses of what lies on top of them.
        host.run("sysctl -qw net.ipv4.conf.gi.arp_ignore=1 net.ipv4.conf.go.arp_ignore=1").ok();
        move_addresses(&host, "go", "mo", host.v4, host.v6);
        move_addresses(&host, "gi", "mi", v4, v6);
        Some(Row::new(&ground.lab).inside("mi").outside("mo"))
    });
}

#[test]
fn p5_a_vlan_outside_and_inside() {
    carries(|ground| {
        let (host, (v4, v6)) = (ground.lab.gateway(1), ground.lab.gateway_inside(1));
        if !has_links(&host, "vlan id 7", "link go") {
            return None;
        }
        for (host, parent, name) in [(&host, "go", "vo"), (&host, "gi", "vi")] {
            host.run(&format!("ip link add {name} link {parent} type vlan id 7")).ok();
        }
        move_addresses(&host, "go", "vo", host.v4, host.v6);
        move_addresses(&host, "gi", "vi", v4, v6);
        for (end, (gateway_v4, gateway_v6)) in
            [(ground.lab.terminal(1), (v4, v6)), (ground.lab.server(1), (host.v4, host.v6))]
        {
            end.run("ip link add v7 link eth0 type vlan id 7").ok();
            move_addresses(&end, "eth0", "v7", end.v4, end.v6);
            end.run(&format!(
                "ip route replace default via {gateway_v4} && ip -6 route replace default via {gateway_v6}"
            ))
            .ok();
        }
        Some(Row::new(&ground.lab).inside("vi").outside("vo"))
    });
}

/// Addresses at both ends of a link between the gateway and another host; what is behind it has a route.
fn number(gateway: &Host, here: &str, end: &Host, there: &str, net: u8, has_v6: bool) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = vec![format!("192.0.{net}.11").parse().unwrap()];
    for (host, name, last) in [(gateway, here, "1"), (end, there, "11")] {
        host.run(&format!("ip link set {name} up && ip address add 192.0.{net}.{last}/24 dev {name}")).ok();
    }
    end.run(&format!("ip route replace default via 192.0.{net}.1 dev {there} onlink")).ok();
    if has_v6 {
        addresses.push(format!("2001:db8:{net}::b").parse().unwrap());
        for (host, name, last) in [(gateway, here, "1"), (end, there, "b")] {
            host.run(&format!("ip address add 2001:db8:{net}::{last}/64 dev {name} nodad")).ok();
        }
        end.run(&format!("ip -6 route replace default via 2001:db8:{net}::1 dev {there} onlink")).ok();
    }
    addresses
}

/// A tunnel of this kind over the outside wire, and one over the inside wire.
fn tunnelled(kinds: [&str; 2], has_v6: bool) {
    carries(|ground| {
        let (host, (inside, _)) = (ground.lab.gateway(1), ground.lab.gateway_inside(1));
        let (terminal, server) = (ground.lab.terminal(1), ground.lab.server(1));
        if !has_links(&host, &format!("{} local 192.0.2.1 remote 192.0.2.2", kinds[0]), "") {
            return None;
        }
        for (kind, here, there, end, name) in
            [(kinds[0], inside, terminal.v4, &terminal, "tin"), (kinds[1], host.v4, server.v4, &server, "tout")]
        {
            host.run(&format!("ip link add {name} type {kind} local {here} remote {there}")).ok();
            end.run(&format!("ip link add t0 type {kind} local {there} remote {here}")).ok();
        }
        let terminal = number(&host, "tin", &terminal, "t0", 2, has_v6);
        let server = number(&host, "tout", &server, "t0", 3, has_v6);
        Some(Row { terminal, server, ..Row::new(&ground.lab).inside("tin").outside("tout") })
    });
}

#[test]
fn p5_a_vxlan_outside_and_inside() {
    tunnelled(["vxlan id 7 dstport 4789", "vxlan id 8 dstport 4789"], true);
}

#[test]
fn p5_a_gre_tunnel_outside_and_inside() {
    tunnelled(["gre"; 2], true);
}

#[test]
fn p5_an_ipip_tunnel_outside_and_inside() {
    tunnelled(["ipip"; 2], false);
}

/// Keys by which each end knows the other.
fn wireguard(gateway: &Host, here: &str, near: IpAddr, end: &Host, far: IpAddr) {
    need("wg", "wireguard-tools");
    let port = if here == "tin" { 51820 } else { 51821 };
    let keys = [gateway, end].map(|host| {
        let secret = host.run("wg genkey").ok();
        let file = host.dir.join(format!("{}-{here}.key", host.name));
        std::fs::write(&file, &secret).unwrap();
        let public = host.run(&format!("wg pubkey < {}", file.display())).ok();
        (file, public.trim().to_owned())
    });
    let [(near_file, near_key), (far_file, far_key)] = keys;
    for (host, name, file, peer, at) in
        [(gateway, here, near_file, far_key, far), (end, "t0", far_file, near_key, near)]
    {
        host.run(&format!(
            "ip link add {name} type wireguard && wg set {name} listen-port {port} private-key {} peer {peer} allowed-ips \
             0.0.0.0/0,::/0 endpoint {at}:{port}",
            file.display()
        ))
        .ok();
    }
}

#[test]
fn p5_a_wireguard_tunnel_outside_and_inside() {
    carries(|ground| {
        let (host, (inside, _)) = (ground.lab.gateway(1), ground.lab.gateway_inside(1));
        let (terminal, server) = (ground.lab.terminal(1), ground.lab.server(1));
        if !has_links(&host, "wireguard", "") {
            return None;
        }
        wireguard(&host, "tin", inside.into(), &terminal, terminal.v4.into());
        wireguard(&host, "tout", host.v4.into(), &server, server.v4.into());
        let terminal = number(&host, "tin", &terminal, "t0", 2, true);
        let server = number(&host, "tout", &server, "t0", 3, true);
        Some(Row { terminal, server, ..Row::new(&ground.lab).inside("tin").outside("tout") })
    });
}

/// As many are connected to their provider.
#[test]
fn p5_a_pppoe_session_outside() {
    carries(|ground| {
        let (host, server) = (ground.lab.gateway(1), ground.lab.server(1));
        if !has(&host, "PPPoE", "modprobe -q pppoe && test -c /dev/ppp") {
            return None;
        }
        need("pppoe-server", "pppoe");
        need("pppd", "ppp");
        let options = server.dir.join("pppoe-options");
        std::fs::write(&options, "noauth\nnodefaultroute\n+ipv6\nlcp-echo-interval 0\n").unwrap();
        let provider = ["pppoe-server", "-F", "-I", "eth0", "-L", "192.0.3.11", "-R", "192.0.3.1", "-O"];
        let provider = server.spawn("pppoe", &[&provider, &[options.to_str().unwrap()][..]].concat());
        let customer = "pppd plugin pppoe.so nic-go noauth nodetach nodefaultroute +ipv6 unit 0 ifname tout";
        let customer = host.spawn("pppd", &customer.split(' ').collect::<Vec<_>>());
        let (mut there, mut name) = (None, String::new());
        wait_until("the PPPoE session", || {
            let up = host.run("ip -br address show dev tout").stdout.contains("192.0.3.1");
            let listed = server.run("ip -br link show type ppp").stdout;
            name = listed.split_whitespace().next().unwrap_or_default().to_owned();
            there = (up && !name.is_empty()).then_some(());
            there.is_some()
        });
        host.run("ip address add 2001:db8:3::1/64 dev tout nodad").ok();
        server.run(&format!("ip address add 2001:db8:3::b/64 dev {name} nodad")).ok();
        server.run(&format!("ip route replace default dev {name} && ip -6 route replace default dev {name}")).ok();
        let server = vec!["192.0.3.11".parse().unwrap(), "2001:db8:3::b".parse().unwrap()];
        Some(Row { server, _held: vec![provider, customer], ..Row::new(&ground.lab).outside("tout") })
    });
}

/// A wire of TUN devices: IP packets without any header before them, as over PPP.
pub fn tun_wire(lab: &Lab, gateway: &Host, here: &str, end: &Host, there: &str) -> Vec<Background> {
    need("socat", "socat");
    let paths = ["a", "b"].map(|end| lab.scratch().join(format!("{here}-{end}")).display().to_string());
    let pump = |host: &Host, name: &str, own: &str, other: &str| {
        let device = format!("TUN,tun-name={name},tun-type=tun,iff-no-pi,iff-up");
        host.spawn(
            &format!("pump-{name}"),
            &["socat", "-b", "65536", &device, &format!("UNIX-SENDTO:{other},bind={own}")],
        )
    };
    let pumps = vec![pump(gateway, here, &paths[0], &paths[1]), pump(end, there, &paths[1], &paths[0])];
    for (host, name) in [(gateway, here), (end, there)] {
        wait_until("a TUN device", || host.run(&format!("ip link show {name} up")).stdout.contains("LOWER_UP"));
    }
    pumps
}

#[test]
fn p5_a_device_without_link_headers_outside() {
    carries(|ground| {
        let (host, end) = (ground.lab.gateway(1), ground.lab.server(1));
        let held = tun_wire(&ground.lab, &host, "tout", &end, "t0");
        let server = number(&host, "tout", &end, "t0", 3, true);
        Some(Row { server, _held: held, ..Row::new(&ground.lab).outside("tout") })
    });
}

#[test]
fn p5_a_device_without_link_headers_inside() {
    carries(|ground| {
        let (host, end) = (ground.lab.gateway(1), ground.lab.terminal(1));
        let held = tun_wire(&ground.lab, &host, "tin", &end, "t0");
        let terminal = number(&host, "tin", &end, "t0", 2, true);
        Some(Row { terminal, _held: held, ..Row::new(&ground.lab).inside("tin") })
    });
}

// --- tunnels of the terminals -------------------------------------------------------------------------------------

/// A terminal has a VXLAN to a server, with flags and checksum offloads as they are by default: the checksum that is left
/// to hardware is the inner one.
fn vxlan_of_a_terminal(seat: Seat, family: Family, arguments: &[&str]) {
    let ground = Ground::new(Plan::gateways(1).unwatched(), seat);
    let gateway = ground.start(arguments);
    let (terminal, server) = (ground.lab.terminal(1), ground.lab.server(1));
    let (here, there) = (terminal.address(family), server.address(family));
    ping(&terminal, there, 1);
    let virtual_ip = gateway.virtual_ip(here);
    for (host, local, remote, last) in [(&terminal, here, there, 1), (&server, there, virtual_ip, 2)] {
        host.run(&format!(
            "ip link add vx type vxlan id 9 dstport 4789 local {local} remote {remote} dev eth0 && ip link set vx up && \
             ip address add 10.200.0.{last}/24 dev vx"
        ))
        .ok();
    }
    let features = terminal.run("ethtool -k eth0").ok();
    assert!(features.contains("tx-checksum-ip-generic: on"), "{features}");
    let listeners = [(&terminal, "10.200.0.1"), (&server, "10.200.0.2")].map(|(host, at)| (listen(host, 4000), at));
    let is_fast = gateway.status()["fast_path"]["mode"] != "off";
    wait_until("both directions to be in the kernel", || {
        ping(&terminal, "10.200.0.2".parse().unwrap(), 5);
        !is_fast || flows(&gateway) >= 2
    });
    let before = hits(&gateway);
    for (from, (listener, to)) in [&server, &terminal].into_iter().zip(&listeners) {
        let call = connect(from, SocketAddr::new(to.parse().unwrap(), 4000));
        let (accepted, _) = accept(listener);
        exchange(&call, &accepted);
    }
    assert!(!is_fast || hits(&gateway) - before > 50, "carried by the kernel");
}

#[test]
fn p5_a_vxlan_of_a_terminal_carries_tcp() {
    for seat in SEATS {
        for family in BOTH {
            vxlan_of_a_terminal(seat, family, &[]);
        }
    }
}

#[test]
fn p5_a_vxlan_of_a_terminal_carries_tcp_by_user_space() {
    for family in BOTH {
        vxlan_of_a_terminal(Seat::Filters, family, SLOW);
    }
}

#[test]
fn p5_a_vxlan_of_a_terminal_carries_tcp_where_known_flows_are_redirected() {
    for family in BOTH {
        vxlan_of_a_terminal(Seat::Links, family, &["--fast-path", "redirect"]);
    }
}
