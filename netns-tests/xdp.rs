//! The fast path at XDP: as elsewhere in the kernel, and the kernel beside it sees none of it.

use crate::capture::Capture;
use crate::crossing::Crossing;
use crate::doctor::examine;
use crate::fastpath::{call_and_callback, hits, killed_and_succeeded, moved_neighbour, one_hop, release, warm_up};
use crate::gateway::KAMEI;
use crate::lab::{Family, Lab, Plan, wait_until};

const BOTH: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn calls_and_callbacks_by_xdp() {
    for family in BOTH {
        call_and_callback(Plan::gateways(1).by_xdp(), family);
    }
}

/// What goes from driver to driver is never seen on the gateway's own interfaces; what visits the neighbour table is.
#[test]
fn packets_by_xdp_meet_nothing_else_of_the_kernel() {
    for family in BOTH {
        let lab = Lab::new(Plan::gateways(1).by_xdp());
        let gateway = lab.start(1);
        assert_eq!(gateway.status()["fast_path"]["mode"], "xdp");
        let (terminal, server) = (lab.terminal(1), lab.server(1));
        warm_up(&lab, &gateway, family);
        let wires = ["gi", "go"].map(|interface| Capture::start(&gateway.host, interface));
        let before = hits(&gateway);

        terminal.run(&format!("ping -n -c 20 -i 0.01 -W 5 {}", server.address(family))).ok();
        let virtual_ip = gateway.virtual_ip(terminal.address(family));
        server.run(&format!("ping -n -c 20 -i 0.01 -W 5 {virtual_ip}")).ok();

        assert_eq!(hits(&gateway) - before, 80);
        for wire in wires {
            let visits = wire.finish().with_address(server.address(family));
            assert!(visits <= 8, "{visits} of 80 packets");
        }
    }
}

#[test]
fn xdp_is_one_hop() {
    for family in BOTH {
        one_hop(Crossing::by_xdp(family));
    }
}

#[test]
fn a_release_takes_effect_at_once_on_xdp() {
    release(Plan::gateways(1).by_xdp());
}

/// The kernel asks for it, and sends the packet.
#[test]
fn xdp_leaves_packets_to_the_kernel_until_the_neighbour_is_known() {
    let lab = Lab::new(Plan::gateways(1).by_xdp());
    let gateway = lab.start(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    for family in BOTH {
        warm_up(&lab, &gateway, family);
        gateway.host.run("ip neighbour flush all; ip -6 neighbour flush all").ok();
        let wire = Capture::start(&gateway.host, "go");
        terminal.run(&format!("ping -n -c 3 -i 0.2 -W 5 {}", server.address(family))).ok();
        let packets = wire.finish();
        assert!(packets.has_address(server.address(family)), "the first one goes by the kernel");
    }
}

/// Frames for another hardware address are not the gateway's.
#[test]
fn xdp_follows_an_interface_that_changes_its_hardware_address() {
    let lab = Lab::new(Plan::gateways(1).by_xdp());
    let gateway = lab.start(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    warm_up(&lab, &gateway, Family::V4);
    gateway.host.run("ip link set gi address 02:00:00:00:00:77").ok();
    terminal.run("ip neighbour flush all").ok();
    wait_until("XDP to carry packets for the new address", || {
        let wire = Capture::start(&gateway.host, "gi");
        terminal.run(&format!("ping -n -c 5 -i 0.01 -W 5 {}", server.v4)).ok();
        !wire.finish().has_address(server.v4.into())
    });
}

#[test]
fn a_neighbour_that_has_moved_is_found_again_by_xdp() {
    moved_neighbour(Plan::gateways(1).by_xdp());
}

/// Whose far end leaves checksums and tags to hardware that is not there.
#[test]
fn xdp_is_refused_where_packets_may_be_unfinished() {
    let lab = Lab::new(Plan::gateways(1));
    let (host, scratch) = (lab.gateway(1), lab.scratch().display());
    let pool = format!("{} --pool {}", Lab::pool_v4(1), Lab::pool_v6(1));
    let line = format!(
        "timeout 10 {KAMEI} gateway --inside gi --outside go --pool {pool} --fast-path xdp --control {scratch}/c.sock \
         --state-dir {scratch}/state"
    );
    let ran = host.run(&line);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    for words in ["'gi'", "ethtool -K gi tx-checksum-ip-generic off", "--fast-path tc"] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert!(!host.run("ip link").ok().contains("xdp"));
}

#[test]
fn doctor_says_beforehand_what_keeps_xdp_from_an_interface() {
    let config = "inside = [\"gi\"]\noutside = [\"go\"]\nfast-path = \"xdp\"\n[[pool]]\nrange = \"198.18.1.0/24\"\n";
    let lab = Lab::new(Plan::gateways(1));
    let found = examine(&lab, config, "");
    assert_eq!(found.code, Some(1), "{}", found.stdout);
    for name in ["gi", "go"] {
        let words = format!("WRONG  fast-path = \"xdp\" is refused at {name}: it has no wire");
        assert!(found.stdout.contains(&words), "{}", found.stdout);
        assert!(found.stdout.contains(&format!("ethtool -K {name} tx-checksum-ip-generic off")), "{}", found.stdout);
    }
    let lab = Lab::new(Plan::gateways(1).by_xdp());
    let found = examine(&lab, config, "");
    assert!(found.stdout.contains("fine   drivers run XDP programs"), "{}", found.stdout);
    // No driver: the kernel's own way for XDP is slower than none.
    lab.gateway(1).run("ip link add br7 type bridge && ip link set br7 up && ip address add 10.9.9.1/24 dev br7").ok();
    let found = examine(&lab, &config.replace("\"gi\"", "\"gi\", \"br7\""), "");
    assert!(found.stdout.contains("is refused at br7: its driver has no native XDP"), "{}", found.stdout);
}

/// A far end that goes back to leaving checksums out costs speed, not packets.
#[test]
fn packets_without_their_checksum_pass_all_the_same() {
    for family in BOTH {
        let lab = Lab::new(Plan::gateways(1).by_xdp());
        let gateway = lab.start(1);
        for lan in ["inside", "outside"] {
            lab.named(lan).run("ethtool -K gateway1 tx on").ok();
        }
        let (terminal, server) = (lab.terminal(1), lab.server(1));
        let _web = crate::traffic::Web::start(&server, 80);
        warm_up(&lab, &gateway, family);
        let seen = crate::traffic::curl(&terminal, server.address(family), 80);
        assert_eq!(seen, format!("{} 80", gateway.virtual_ip(terminal.address(family))));
    }
}

#[test]
fn known_flows_by_xdp_outlive_a_killed_gateway() {
    killed_and_succeeded(Plan::gateways(1).by_xdp(), "--fast-path xdp");
}

#[test]
fn a_stop_takes_xdp_off() {
    let lab = Lab::new(Plan::gateways(1).by_xdp());
    let gateway = lab.start(1);
    let links = || lab.gateway(1).run("ip link").ok();
    assert!(links().contains("xdp"), "{}", links());
    gateway.stop();
    wait_until("XDP to be off", || !links().contains("xdp"));
}
