//! Separate insides: two of them, with the same prefix, behind one gateway.
//!
//! The second inside has one host, the twin, behind `gj`. It has the addresses of terminal 1.

use crate::capture::Capture;
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Plan, wait_until};
use crate::traffic::{Web, curl, curl_in_vain};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

/// Gives gateway 1 an interface `gj` with these addresses and a host behind it that has the addresses of terminal 1.
fn twin(lab: &Lab, v4: &str, v6: &str) -> Host {
    let Host { v4: own_v4, v6: own_v6, .. } = lab.terminal(1);
    neighbour(lab, own_v4, own_v6, v4, v6)
}

/// The same with a host that has these addresses.
fn neighbour(lab: &Lab, own_v4: Ipv4Addr, own_v6: Ipv6Addr, v4: &str, v6: &str) -> Host {
    let gateway = lab.gateway(1);
    let namespace = format!("{}-twin", lab.name);
    let twin = Host { name: "twin".to_owned(), namespace, v4: own_v4, v6: own_v6, dir: gateway.dir.clone() };
    assert!(Command::new("ip").args(["netns", "add", &twin.namespace]).status().unwrap().success());
    twin.run("ip link set lo up; sysctl -qw net.ipv6.conf.default.accept_dad=0").ok();
    let netns = &twin.namespace;
    gateway.run(&format!("ip link add gj type veth peer name eth0 netns {netns} && ip link set gj up")).ok();
    gateway.run(&format!("ip address add {v4}/24 brd + dev gj && ip address add {v6}/64 dev gj nodad")).ok();
    twin.run(&format!(
        "ip link set eth0 up && ip address add {own_v4}/24 dev eth0 && ip address add {own_v6}/64 dev eth0 nodad \
         && ip route add default via {v4} && ip -6 route add default via {v6}"
    ))
    .ok();
    twin
}

/// The twin where the gateway has the same addresses on both sides.
fn same(lab: &Lab) -> Host {
    twin(lab, "10.77.143.1", "fd5a:77e1:9c0d::b0:1")
}

/// The twin where the gateway has addresses of its own on each side.
fn own(lab: &Lab) -> Host {
    twin(lab, "10.77.143.2", "fd5a:77e1:9c0d::b0:2")
}

fn start(lab: &Lab) -> Gateway {
    lab.start_from_file(
        1,
        &format!(
            "outside = [\"go\"]\n\n[[inside]]\nname = \"north\"\ninterfaces = [\"gi\"]\n\n\
             [[inside]]\nname = \"south\"\ninterfaces = [\"gj\"]\n\n\
             [[pool]]\nrange = \"{}\"\n\n[[pool]]\nrange = \"{}\"\n",
            Lab::pool_v4(1),
            Lab::pool_v6(1)
        ),
    )
}

/// The virtual IP of the terminal in an inside.
fn virtual_ip(gateway: &Gateway, terminal: IpAddr, realm: &str) -> IpAddr {
    let bindings = gateway.bindings();
    let mut found = bindings.iter().filter(|b| b["terminal"] == terminal.to_string().as_str() && b["realm"] == realm);
    let binding = found.next().unwrap_or_else(|| panic!("{terminal} of {realm} has no binding: {bindings:?}"));
    binding["virtual_ip"].as_str().unwrap().parse().unwrap()
}

/// Both call out, each under a virtual IP of its own, and each is called back.
fn each_is_called_back(lab: &Lab, gateway: &Gateway, twin: &Host, family: Family) {
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let (north, south) = (Web::start(&terminal, 8080), Web::start(twin, 8080));
    let wire = Capture::start(&server, "eth0");
    let _web = Web::start(&server, 80);

    let seen = [&terminal, twin].map(|host| curl(host, server.address(family), 80));
    let address = terminal.address(family);
    let virtual_ips = ["north", "south"].map(|realm| virtual_ip(gateway, address, realm));

    assert_eq!(seen, virtual_ips.map(|ip| format!("{ip} 80")));
    assert_ne!(virtual_ips[0], virtual_ips[1]);
    for (number, virtual_ip) in virtual_ips.into_iter().enumerate() {
        assert_eq!(curl(&server, virtual_ip, 8080), format!("{} 8080", server.address(family)));
        let calls = || [&north, &south].map(|web| web.access_log().lines().count());
        let expected = if number == 0 { [1, 0] } else { [1, 1] };
        wait_until(&format!("the right terminal to be called, not {:?}", calls()), || calls() == expected);
    }
    wire.finish().assert_hidden(&lab.hidden(1));
}

#[test]
fn r7_two_insides_with_the_same_prefix_and_gateway_address() {
    let lab = Lab::new(Plan::gateways(1));
    let twin = same(&lab);
    let gateway = start(&lab);
    each_is_called_back(&lab, &gateway, &twin, Family::V4);
}

#[test]
fn r7_two_insides_with_the_same_prefix_and_gateway_address_v6() {
    let lab = Lab::new(Plan::gateways(1));
    let twin = same(&lab);
    let gateway = start(&lab);
    each_is_called_back(&lab, &gateway, &twin, Family::V6);
}

#[test]
fn r7_two_insides_with_the_same_prefix_where_the_reverse_path_filter_is_strict() {
    let lab = Lab::new(Plan::gateways(1));
    lab.gateway(1).set_sysctl("net.ipv4.conf.all.rp_filter", "1");
    let twin = same(&lab);
    let before = crate::life::Snapshot::of(&lab.gateway(1));
    let gateway = start(&lab);
    each_is_called_back(&lab, &gateway, &twin, Family::V4);
    let log = gateway.log();
    assert_eq!(log.matches("this machine has the address 10.77.143.1 on 'gi' and on 'gj'").count(), 1, "{log}");
    gateway.stop();
    before.assert_unchanged(&lab.gateway(1));
}

/// As NetworkManager does with the address where somebody has it disconnect the device.
#[test]
fn what_somebody_takes_from_the_gateways_devices_is_given_back() {
    let lab = Lab::new(Plan::gateways(1));
    let (host, twin) = (lab.gateway(1), same(&lab));
    let gateway = start(&lab);
    host.run("for each in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 2 > $each; done").ok();
    let devices = ["kamei-nat", "kamei-in0", "kamei-in1"];
    let has_address = |device: &&str| host.run(&format!("ip -4 address show {device}")).ok().contains("192.0.0.8/32");
    assert!(devices.iter().all(has_address));
    for device in devices {
        host.run(&format!("ip address delete 192.0.0.8/32 dev {device}")).ok();
    }
    wait_until("the devices to have their addresses again", || devices.iter().all(has_address));
    each_is_called_back(&lab, &gateway, &twin, Family::V4);
}

/// Main has a route for one of the two only.
fn one_route_in_main(family: Family) {
    let lab = Lab::new(Plan::gateways(1));
    let twin = same(&lab);
    let gateway = start(&lab);
    gateway.host.run("ip route delete 10.77.143.0/24 dev gi; ip -6 route delete fd5a:77e1:9c0d::/64 dev gj").ok();
    wait_until("the gateway to have seen it", || {
        !gateway.host.run("ip route show table all | grep 'metric 256'").ok().is_empty()
    });
    each_is_called_back(&lab, &gateway, &twin, family);
}

#[test]
fn r7_two_insides_with_the_same_prefix_where_main_has_a_route_for_one() {
    one_route_in_main(Family::V4);
}

#[test]
fn r7_two_insides_with_the_same_prefix_where_main_has_a_route_for_one_v6() {
    one_route_in_main(Family::V6);
}

/// Addresses of the gateway that differ let it answer in each inside itself.
fn the_gateway_answers(family: Family) {
    let lab = Lab::new(Plan::gateways(1));
    lab.gateway(1).set_sysctl("net.ipv4.conf.all.rp_filter", "1");
    let twin = own(&lab);
    let gateway = start(&lab);
    each_is_called_back(&lab, &gateway, &twin, family);
    let (north, south) = match family {
        Family::V4 => ("10.77.143.1", "10.77.143.2"),
        Family::V6 => ("fd5a:77e1:9c0d::b0:1", "fd5a:77e1:9c0d::b0:2"),
    };
    let _web = Web::start(&gateway.host, 80);
    for (host, own) in [(lab.terminal(1), north), (twin, south)] {
        host.run(&format!("ping -c 1 -W 5 {own}")).ok();
        assert_eq!(curl(&host, own.parse().unwrap(), 80), format!("{} 80", host.address(family)));
    }
}

#[test]
fn r7_the_gateway_itself_answers_in_both_insides_where_its_addresses_differ() {
    the_gateway_answers(Family::V4);
}

#[test]
fn r7_the_gateway_itself_answers_in_both_insides_where_its_addresses_differ_v6() {
    the_gateway_answers(Family::V6);
}

/// Errors about packets that were not translated yet name no inside: they must not reach the terminal of the same
/// address in the other one.
#[test]
fn r7_an_error_of_the_gateway_does_not_go_to_the_other_inside() {
    let lab = Lab::new(Plan::gateways(1));
    let twin = own(&lab);
    let _gateway = start(&lab);
    let wire = Capture::start(&lab.terminal(1), "eth0");
    let _ = twin.run(&format!("ping -c 1 -W 1 -t 1 {}", lab.server(1).v4));
    let wire = wire.finish();
    assert!(!wire.has_address(lab.server(1).v4.into()), "the quoted packet was seen in the wrong inside");
}

/// Different prefixes, and still apart: neither the address nor a route leads from one into the other.
#[test]
fn r7_insides_are_apart_from_each_other() {
    let lab = Lab::new(Plan::gateways(1));
    let (v4, v6) = ("10.88.5.11".parse().unwrap(), "fd5a:77e1:9c0d:5::11".parse().unwrap());
    let twin = neighbour(&lab, v4, v6, "10.88.5.1", "fd5a:77e1:9c0d:5::1");
    let _gateway = start(&lab);
    let _web = Web::start(&twin, 8080);
    let wire = Capture::start(&lab.gateway(1), "gj");
    for family in [Family::V4, Family::V6] {
        curl_in_vain(&lab.terminal(1), twin.address(family), 8080);
    }
    let wire = wire.finish();
    assert!(!wire.has_bytes(b"HTTP") && !wire.has_address(lab.terminal(1).v4.into()));
    assert!(!wire.has_bytes(&[198, 18, 1]), "nor under a virtual IP");
}

/// Listings name the inside, and an address that two of them have is asked for as ADDRESS@INSIDE.
#[test]
fn r7_bindings_of_two_insides_are_told_apart() {
    let lab = Lab::new(Plan::gateways(1));
    let twin = same(&lab);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let gateway = start(&lab);
    let _web = Web::start(&server, 80);
    for host in [&terminal, &twin] {
        curl(host, server.v4.into(), 80);
    }
    let address = terminal.v4;
    let listed = gateway.ask("bindings").ok();
    assert!(listed.contains("@north") && listed.contains("@south"), "{listed}");
    let status = gateway.ask("status").ok();
    assert!(status.contains("inside     gi (north), gj (south)\n"), "{status}");
    assert!(status.contains("devices    kamei-nat, kamei-in0, kamei-in1\n"), "{status}");
    assert_eq!(gateway.ask(&format!("bindings show {address}")).ok().matches("virtual IP").count(), 2);
    let shown = gateway.ask(&format!("bindings show {address}@south")).ok();
    assert!(shown.contains("(south)") && !shown.contains("(north)"), "{shown}");

    for question in [format!("release {address}"), format!("pin {address} 198.18.1.200")] {
        let ran = gateway.ask(&format!("bindings {question}"));
        assert!(ran.code == Some(3) && ran.stderr.contains("several insides"), "{}{}", ran.stdout, ran.stderr);
    }
    let ran = gateway.ask(&format!("bindings release {address}@west"));
    assert!(ran.code == Some(3) && ran.stderr.contains("west"), "{}", ran.stderr);
    gateway.ask(&format!("bindings pin {address}@south 198.18.1.200")).ok();
    assert_eq!(curl(&twin, server.v4.into(), 80), "198.18.1.200 80");
    gateway.ask(&format!("bindings release {address}@north")).ok();
    let left = gateway.ask(&format!("bindings show {address}")).ok();
    assert!(left.contains("198.18.1.200") && !left.contains("(north)"), "{left}");
}
