//! Routes that name a next-hop object instead of an interface, and say no more (`net.ipv4.nexthop_compat_mode=0`).

use crate::gateway::Gateway;
use crate::lab::{Host, Lab, Plan, wait_until};

/// A network behind terminal 1, which the gateway reaches by objects 74 and 76.
fn behind_the_terminal(lab: &Lab) -> (Host, Gateway) {
    let host = lab.gateway(1);
    host.set_sysctl("net.ipv4.nexthop_compat_mode", "0");
    let terminal = lab.terminal(1);
    terminal.run("ip address add 10.99.7.1/32 dev lo && ip address add fd99:7::1/128 dev lo nodad").ok();
    let gateway = lab.start(1);
    host.run(&format!(
        "ip nexthop add id 74 via {} dev gi && ip nexthop add id 76 via {} dev gi",
        terminal.v4, terminal.v6
    ))
    .ok();
    (host, gateway)
}

/// Whether the network behind terminal 1 is served.
fn is_served(lab: &Lab) -> bool {
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let ping = |from: &str, to: &str| terminal.run(&format!("ping -n -c 1 -W 1 -I {from} {to}")).succeeded();
    ping("10.99.7.1", &server.v4.to_string()) && ping("fd99:7::1", &server.v6.to_string())
}

fn has_none(lab: &Lab) -> bool {
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let ping = |from: &str, to: &str| terminal.run(&format!("ping -n -c 1 -W 1 -I {from} {to}")).succeeded();
    !ping("10.99.7.1", &server.v4.to_string()) && !ping("fd99:7::1", &server.v6.to_string())
}

#[test]
fn s_routes_to_an_inside_by_a_next_hop_object_are_followed() {
    let lab = Lab::new(Plan::gateways(1));
    let (host, gateway) = behind_the_terminal(&lab);
    host.run("ip route add 10.99.7.0/24 nhid 74 && ip -6 route add fd99:7::/64 nhid 76").ok();
    assert!(!host.run("ip route show 10.99.7.0/24").ok().contains(" gi"), "the kernel says more than the object");
    wait_until("the network to be inside", || is_served(&lab));
    gateway.ask("bindings release 10.99.7.1").ok();
    gateway.ask("bindings release fd99:7::1").ok();
    // The same routes, elsewhere: no route changes, the object does.
    let server = lab.server(1);
    host.run(&format!(
        "ip nexthop replace id 74 via {} dev go && ip nexthop replace id 76 via {} dev go",
        server.v4, server.v6
    ))
    .ok();
    wait_until("the network to be inside no more", || has_none(&lab));
    let terminal = lab.terminal(1);
    host.run(&format!(
        "ip nexthop replace id 74 via {} dev gi && ip nexthop replace id 76 via {} dev gi",
        terminal.v4, terminal.v6
    ))
    .ok();
    wait_until("the network to be inside again", || is_served(&lab));
}

#[test]
fn s_routes_to_an_inside_by_a_group_of_next_hops_are_followed() {
    let lab = Lab::new(Plan::gateways(1));
    let (host, _gateway) = behind_the_terminal(&lab);
    host.run("ip nexthop add id 84 group 74 && ip nexthop add id 86 group 76").ok();
    host.run("ip route add 10.99.7.0/24 nhid 84 && ip -6 route add fd99:7::/64 nhid 86").ok();
    wait_until("the network to be inside", || is_served(&lab));
}
