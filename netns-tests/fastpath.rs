//! The fast path: packets of known flows are translated in the kernel, and nothing else about them changes.

use crate::bulk::exchange_blocks;
use crate::crossing::Crossing;
use crate::gateway::{Gateway, KAMEI};
use crate::lab::{Family, Host, Lab, Plan, wait_until};
use crate::seeing::watch;
use crate::traffic::{Web, accept, connect, curl, curl_in_vain, listen};
use std::net::SocketAddr;

/// Packets that the kernel has translated so far.
pub fn hits(gateway: &Gateway) -> u64 {
    gateway.status()["fast_path"]["hits"].as_u64().unwrap()
}

pub fn flows(gateway: &Gateway) -> u64 {
    gateway.status()["fast_path"]["flows"].as_u64().unwrap()
}

/// Asks until both directions of the flow are in the kernel.
pub fn warm_up(lab: &Lab, gateway: &Gateway, family: Family) {
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    wait_until("both directions to be in the kernel", || {
        let before = hits(gateway);
        terminal.run(&format!("ping -n -c 1 -W 5 {}", server.address(family))).ok();
        hits(gateway) >= before + 2
    });
}

pub fn call_and_callback(plan: Plan, family: Family) {
    let lab = Lab::new(plan);
    let gateway = lab.start(1);
    call_and_callback_through(&lab, &gateway, family);
}

pub fn call_and_callback_through(lab: &Lab, gateway: &Gateway, family: Family) {
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let (_web, called) = (Web::start(&server, 80), Web::start(&terminal, 8080));
    warm_up(lab, gateway, family);
    let before = hits(gateway);

    let seen = curl(&terminal, server.address(family), 80);
    let virtual_ip = gateway.virtual_ip(terminal.address(family));
    assert_eq!(seen, format!("{virtual_ip} 80"));
    let seen = curl(&server, virtual_ip, 8080);
    assert_eq!(seen, format!("{} 8080", server.address(family)));

    assert_eq!(called.access_log().lines().count(), 1);
    let carried = hits(gateway) - before;
    assert!(carried >= 16, "two connections, all in the kernel: {carried}");
    wait_until("the callback to be noted", || gateway.binding(terminal.address(family))["callbacks"] == 1);
    let binding = gateway.binding(terminal.address(family));
    assert!(binding["packets_out"].as_u64().unwrap() >= 8 && binding["packets_in"].as_u64().unwrap() >= 8, "{binding}");
}

#[test]
fn calls_and_callbacks_are_carried_by_the_kernel() {
    call_and_callback(Plan::gateways(1), Family::V4);
}

#[test]
fn calls_and_callbacks_are_carried_by_the_kernel_v6() {
    call_and_callback(Plan::gateways(1), Family::V6);
}

#[test]
fn a_flow_whose_packets_come_singly_is_carried_by_the_kernel_and_one_of_a_single_packet_is_not() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let gateway = lab.start(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let ping = |host: &Host| terminal.run(&format!("ping -n -c 1 -W 5 {}", host.v4)).ok();
    ping(&lab.server(2));
    let is_noted = |packets: u64| gateway.binding(terminal.v4.into())["packets_out"].as_u64() == Some(packets);
    // Each is noted before the next is sent: no two ever meet. Some come to one worker, some to the other.
    for sent in 2..=12 {
        wait_until("the packet before to be noted", || is_noted(sent - 1));
        if flows(&gateway) == 2 {
            break;
        }
        ping(&server);
    }
    wait_until("the kernel to have both directions of it", || flows(&gateway) == 2);
    let before = hits(&gateway);
    ping(&server);
    wait_until("the kernel to carry it", || hits(&gateway) == before + 2);
}

fn bulk(plan: Plan, family: Family) {
    let lab = Lab::new(plan.unwatched());
    let gateway = lab.start(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    warm_up(&lab, &gateway, family);
    let at_server = listen(&server, 4000);
    let call = connect(&terminal, SocketAddr::new(server.address(family), 4000));
    let (accepted, _) = accept(&at_server);

    exchange_blocks(call, accepted, 256);

    let status = gateway.status();
    let all = status["out"]["packets"].as_u64().unwrap() + status["in"]["packets"].as_u64().unwrap();
    let hits = status["fast_path"]["hits"].as_u64().unwrap();
    assert!(hits > all / 4, "{hits} of {all} packets by the kernel");
    let bytes = status["out"]["bytes"].as_u64().unwrap();
    assert!(bytes > 16 << 20, "{bytes} bytes from the terminal are counted, whoever carried them");
}

#[test]
fn super_packets_with_partial_checksums_pass_whole() {
    bulk(Plan::gateways(1), Family::V4);
}

#[test]
fn super_packets_with_partial_checksums_pass_whole_v6() {
    bulk(Plan::gateways(1), Family::V6);
}

#[test]
fn a_release_takes_effect_at_once() {
    release(Plan::gateways(1));
}

pub fn release(plan: Plan) {
    let lab = Lab::new(plan);
    let gateway = lab.start(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _web = Web::start(&terminal, 8080);
    warm_up(&lab, &gateway, Family::V4);
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());
    curl(&server, virtual_ip, 8080);

    gateway.ask(&format!("bindings release {}", terminal.v4)).ok();

    assert_eq!(flows(&gateway), 0);
    curl_in_vain(&server, virtual_ip, 8080);
    assert!(gateway.dropped("no_binding") > 0);
}

#[test]
fn a_trace_that_bypasses_it_sees_the_flows_it_carried() {
    let lab = Lab::new(Plan::gateways(1));
    let gateway = lab.start(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    warm_up(&lab, &gateway, Family::V4);

    let address = terminal.v4.to_string();
    let words = ["trace", "--bypass-fast-path", "--count", "4", "--terminal", &address];
    let mut trace = watch(&gateway, &words);
    assert_eq!(flows(&gateway), 0);
    let before = hits(&gateway);
    terminal.run(&format!("ping -n -c 2 -i 0.2 -W 5 {}", server.v4)).ok();
    assert_eq!(trace.wait().code(), Some(0), "{}", trace.output());

    assert!(trace.output().contains("kamei: 4 packets, 0 more left out"), "{}", trace.output());
    assert_eq!(hits(&gateway), before);
    warm_up(&lab, &gateway, Family::V4); // it carries again
}

/// The far end sees one hop, whichever way a packet went.
#[test]
fn both_paths_are_one_hop() {
    for family in [Family::V4, Family::V6] {
        one_hop(Crossing::new(family));
        one_hop(Crossing::redirecting(family));
    }
}

pub fn one_hop(mut crossing: Crossing) {
    let (from, to) = crossing.out();
    let packet = |n: u8| {
        let mut packet = crate::crafted::Ip::udp(from, to, (4000, 5000), &[n; 20]);
        packet.hops = 9;
        packet
    };
    // `passes_out` compares every byte: one hop less.
    for n in 0..4 {
        crossing.passes_out(&[packet(n)]);
    }
    assert!(flows(crossing.gateway()) > 0);
    let before = hits(crossing.gateway());
    for n in 4..8 {
        crossing.passes_out(&[packet(n)]);
    }
    assert_eq!(hits(crossing.gateway()) - before, 4);
    crossing.nothing_leaked();
}

#[test]
fn without_it_every_packet_goes_through_user_space() {
    let lab = Lab::new(Plan::gateways(1));
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1), "--fast-path", "off"]);
    let _web = Web::start(&lab.server(1), 80);
    curl(&lab.terminal(1), lab.server(1).v4.into(), 80);
    let status = gateway.status();
    assert_eq!(status["fast_path"]["mode"], "off");
    assert_eq!(status["fast_path"]["hits"], 0);
    assert!(!lab.gateway(1).run("ip rule").ok().contains("fwmark"));
}

/// `kamei gateway` where a BPF file system is mounted, in a mount namespace that lasts as long as the shell in it.
const WITH_BPFFS: &str = "mount -t bpf bpf /sys/fs/bpf";

#[test]
fn known_flows_outlive_a_killed_gateway() {
    killed_and_succeeded(Plan::gateways(1), "");
}

/// After `kill -9` known flows go on and unknown ones are blocked; the next gateway takes over, and its stop leaves nothing.
pub fn killed_and_succeeded(plan: Plan, arguments: &str) {
    let lab = Lab::new(plan.servers(2));
    let (host, terminal, server) = (lab.gateway(1), lab.terminal(1), lab.server(1));
    let scratch = lab.scratch().display();
    let pool = Lab::pool_v4(1);
    // One mount namespace for both gateways: the second is started in it when the first has ended.
    let script = format!(
        "{WITH_BPFFS}; run() {{ {KAMEI} gateway --inside gi --outside go --pool {pool} {arguments} --control {scratch}/c.sock \
         --state-dir {scratch}/state; }}; run; \
         while ! test -e {scratch}/again; do sleep 0.05; done; run; \
         {{ ls -d /sys/fs/bpf/kamei*; ip link | grep xdp; tc qdisc | grep clsact; }} > {scratch}/left; sleep 60"
    );
    let _both = host.spawn("both", &["sh", "-c", &script]);
    let ask = |question: &str| host.run(&format!("{KAMEI} {question} --control {scratch}/c.sock"));
    let status = || serde_json::from_str::<serde_json::Value>(&ask("status --json --wait 10").ok()).unwrap();
    // By the number of the process; its parent is the shell.
    let end = |how: &str| {
        let named = "xargs -n 1 ps -o pid=,comm= -p | awk '$2 == \"kamei\" {print $1}'";
        host.run(&format!("kill {how} $(ip netns pids {} | {named})", host.namespace)).ok();
    };
    let ping = |to: &dyn std::fmt::Display| terminal.run(&format!("ping -n -c 5 -i 0.01 -W 1 {to}"));
    wait_until("the gateway", || ask("status --wait 1").succeeded());
    wait_until("both directions to be in the kernel", || {
        ping(&server.v4).ok();
        let status = status();
        status["fast_path"]["flows"].as_u64() >= Some(2)
    });

    end("-9");
    wait_until("it to be dead", || !ask("status").succeeded());
    ping(&server.v4).ok();
    assert!(!ping(&lab.server(2).v4).succeeded(), "a new flow is blocked");

    std::fs::write(lab.scratch().join("again"), "").unwrap();
    wait_until("its successor", || ask("status --wait 1").succeeded());
    assert_eq!(status()["fast_path"]["flows"], 2, "the bindings were restored, and so the flows are right");
    ping(&server.v4).ok();
    end("-TERM");
    wait_until("its end", || lab.scratch().join("left").exists());
    assert_eq!(std::fs::read_to_string(lab.scratch().join("left")).unwrap(), "");
}

/// Neither way: what the first packets find in the forward hook, the later ones do not meet.
fn past_the_forward_hook(family: Family) {
    let lab = Lab::new(Plan::gateways(1).redirecting());
    let gateway = lab.start(1);
    assert_eq!(gateway.status()["fast_path"]["mode"], "redirect");
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    warm_up(&lab, &gateway, family);
    let closed = "table inet closed { chain forward { type filter hook forward priority 0; policy drop; }; }";
    gateway.host.run(&format!("nft '{closed}'")).ok();

    terminal.run(&format!("ping -n -c 4 -i 0.2 -W 5 {}", server.address(family))).ok();
    let virtual_ip = gateway.virtual_ip(terminal.address(family));
    server.run(&format!("ping -n -c 4 -i 0.2 -W 5 {virtual_ip}")).ok();
}

#[test]
fn redirected_packets_meet_no_forward_hook() {
    past_the_forward_hook(Family::V4);
}

#[test]
fn redirected_packets_meet_no_forward_hook_v6() {
    past_the_forward_hook(Family::V6);
}

#[test]
fn redirected_calls_and_callbacks() {
    for family in [Family::V4, Family::V6] {
        call_and_callback(Plan::gateways(1).redirecting(), family);
    }
}

#[test]
fn redirected_super_packets_pass_whole() {
    for family in [Family::V4, Family::V6] {
        bulk(Plan::gateways(1).redirecting(), family);
    }
}

#[test]
fn a_release_takes_effect_at_once_on_what_is_redirected() {
    release(Plan::gateways(1).redirecting());
}

/// The main table leads into the inside, or nowhere: the packet takes the ordinary way, and that is closed.
#[test]
fn nothing_is_redirected_into_another_realm() {
    let lab = Lab::new(Plan::gateways(1).redirecting());
    let gateway = lab.start(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    warm_up(&lab, &gateway, Family::V4);
    let wire = crate::capture::Capture::start(&server, "eth0");

    // The inside goes away, and with it main's route to the terminal: what is left there is the default route.
    gateway.host.run(&format!("ip route add default via {}; ip link set gi down", server.v4)).ok();
    server.run(&format!("ping -n -c 4 -i 0.01 -W 1 {}", gateway.virtual_ip(terminal.v4.into())));

    wire.finish().assert_hidden(&lab.hidden(1));
}

/// What leaves past the kernel still has it ask whether the next hop is where it was.
pub fn moved_neighbour(plan: Plan) {
    let lab = Lab::new(plan);
    let gateway = lab.start(1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    gateway
        .host
        .run("sysctl -qw net.ipv4.neigh.go.base_reachable_time_ms=3000 net.ipv4.neigh.go.delay_first_probe_time=1")
        .ok();
    warm_up(&lab, &gateway, Family::V4);
    let ping = || terminal.run(&format!("ping -n -c 1 -W 1 {}", server.v4)).succeeded();
    assert!(ping());
    let neighbour = || gateway.host.run(&format!("ip neighbour show {} dev go", server.v4)).ok();
    wait_until("the kernel to have no use for the neighbour", || neighbour().contains("STALE"));

    // It says nothing of its new address, and asks for none.
    let router = gateway.host.run("cat /sys/class/net/go/address").ok();
    server
        .run(&format!(
            "ip link set eth0 address 02:00:00:00:00:99 && \
             ip neighbour replace 203.0.113.1 lladdr {} dev eth0 nud permanent",
            router.trim()
        ))
        .ok();
    assert!(!ping(), "frames go to the old address");
    wait_until("the server to be found again", ping);
}

#[test]
fn a_neighbour_that_has_moved_is_found_again() {
    moved_neighbour(Plan::gateways(1));
    moved_neighbour(Plan::gateways(1).redirecting());
}
