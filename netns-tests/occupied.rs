//! Addresses of a pool that other hosts of the outside LAN have: found out ahead of need, not given meanwhile. And hosts that
//! only say so.

use crate::capture::Capture;
use crate::crafted::{Ip, Raw, mac};
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Plan, wait_until};
use crate::one_view::{BOTH, ping};
use pnet::datalink::{self, Channel, Config, MacAddr};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Two addresses each.
const TWO: [&str; 4] = ["--pool", "203.0.113.130-203.0.113.131", "--pool", "2001:db8:113::a002-2001:db8:113::a003"];
/// 128, and more than anybody goes through.
const MANY: [&str; 4] = ["--pool", "203.0.113.128/25", "--pool", "2001:db8:113::5:0:0/96"];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Gives a host of the LAN a further address, of which nobody hears.
fn take(host: &Host, address: IpAddr) {
    let (length, quietly) = if address.is_ipv4() { (24, "") } else { (64, "nodad") };
    host.run(&format!("ip address add {address}/{length} dev eth0 {quietly}")).ok();
}

fn in_use(address: IpAddr, by: MacAddr) -> String {
    format!("{address} of a pool is in use by {by} on 'go': it is not given")
}

/// The virtual IP that a terminal has, beside one that is in quarantine.
fn active(gateway: &Gateway, terminal: IpAddr) -> IpAddr {
    let bindings = gateway.bindings();
    let own = terminal.to_string();
    let found = bindings.iter().find(|binding| binding["terminal"] == own.as_str() && binding["state"] == "active");
    address(found.unwrap()["virtual_ip"].as_str().unwrap())
}

fn occupied(gateway: &Gateway) -> Vec<String> {
    let status = gateway.status();
    let all = status["occupied"].as_array().unwrap();
    all.iter().map(|host| host["address"].as_str().unwrap().to_owned()).collect()
}

/// With a host that answers no ping (AdGuardHome's DHCP server asks by ping alone), and that has not said anything yet.
#[test]
fn s_an_address_of_the_pool_that_a_host_of_the_lan_has_is_never_given() {
    let lab = Lab::new(Plan::gateways(1).terminals(2).servers(2));
    let (server, host) = (lab.server(1), lab.server(2));
    host.run("sysctl -qw net.ipv4.icmp_echo_ignore_all=1 net.ipv6.icmp.echo_ignore_all=1").ok();
    let taken = [address("203.0.113.130"), address("2001:db8:113::a002")];
    taken.into_iter().for_each(|address| take(&host, address));
    let gateway = lab.start_with(1, &TWO);
    for (family, taken) in BOTH.into_iter().zip(taken) {
        wait_until("it to be set aside", || gateway.log().contains(&in_use(taken, mac(&host, "eth0"))));
        ping(&lab.terminal(1), server.address(family), 1);
        let given = gateway.virtual_ip(lab.terminal(1).address(family));
        assert!([address("203.0.113.131"), address("2001:db8:113::a003")].contains(&given), "{given}");
        let none = lab.terminal(2).run(&format!("ping -n -c 1 -W 2 {}", server.address(family)));
        assert!(!none.succeeded(), "none is left");
        assert!(!gateway.knows(lab.terminal(2).address(family)));
        let pinned = gateway.ask(&format!("bindings pin {} {taken}", lab.terminal(2).address(family)));
        assert!(pinned.stderr.contains("another host of the outside network has it"), "{}", pinned.stderr);
    }
    let shown = gateway.ask("status").ok();
    let named = format!("not given  203.0.113.130 (in use by {} on 'go')", mac(&host, "eth0"));
    assert!(shown.contains(&named), "{shown}");
}

#[test]
fn s_a_host_that_takes_an_address_of_the_pool_keeps_it_until_it_goes() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (server, host) = (lab.server(1), lab.server(2));
    let gateway = lab.start_with(1, &TWO);
    let taken = [address("203.0.113.130"), address("2001:db8:113::a002")];
    // Somebody asks for an address (as a DHCP server does before it leases one): he does not have it.
    server.run("ping -n -c 1 -W 1 203.0.113.131; ping -n -c 1 -W 1 2001:db8:113::a003");
    for address in taken {
        take(&host, address);
        // It sends from it.
        host.run(&format!(
            "ping -n -c 1 -W 1 -I {address} {}",
            if address.is_ipv4() { "203.0.113.1" } else { "2001:db8:113::1" }
        ));
        wait_until("it to be set aside", || gateway.log().contains(&in_use(address, mac(&host, "eth0"))));
    }
    assert_eq!(occupied(&gateway), ["203.0.113.130", "2001:db8:113::a002"]);
    host.run("ip address flush dev eth0 to 203.0.113.130/32; ip -6 address flush dev eth0 to 2001:db8:113::a002/128")
        .ok();
    for address in taken {
        wait_until("it to be given again", || {
            gateway.log().contains(&format!("{address} of a pool is nobody else's any more; it can be given"))
        });
    }
    assert!(occupied(&gateway).is_empty());
    gateway.ask("bindings pin 10.77.143.99 203.0.113.130").ok();
    gateway.ask("bindings pin fd5a:77e1:9c0d::b0:63 2001:db8:113::a002").ok();
}

/// Nobody could know of it before: the first packet does not wait, and the second goes by another address.
#[test]
fn s_a_binding_gives_way_to_a_host_that_turns_out_to_have_been_there_before() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (terminal, server, host) = (lab.terminal(1), lab.server(1), lab.server(2));
    let gateway = lab.start_with(1, &MANY);
    // Both first rounds are over: nothing is asked for any more but what is given.
    wait_until("the rounds to end", || gateway.status()["uptime_seconds"].as_u64().unwrap() >= 10);
    for family in BOTH {
        let told = gateway.ask(&format!("explain {} {} udp/9", terminal.address(family), server.address(family))).ok();
        let would = told.split("with ").nth(1).and_then(|rest| rest.split(". ").next()?.split(".\n").next()).unwrap();
        let would = address(would.trim());
        take(&host, would);
        ping(&terminal, server.address(family), 1);
        let moved = format!("{}; who had it gets another", in_use(would, mac(&host, "eth0")));
        wait_until("it to give way", || gateway.log().contains(&moved));
        ping(&terminal, server.address(family), 1);
        let another = active(&gateway, terminal.address(family));
        assert_ne!(another, would);
        ping(&server, another, 1);
    }
}

/// An ARP packet of a host (1: a request, 2: a reply) about its own `address`.
fn arp_claim(hardware: [u8; 6], operation: u8, address: Ipv4Addr, to: [u8; 6]) -> Vec<u8> {
    let arp = [&[0, 1, 8, 0, 6, 4, 0, operation][..], &hardware, &address.octets(), &[0; 6], &address.octets()];
    [&to[..], &hardware, &[0x08, 0x06], &arp.concat()].concat()
}

/// The same in neighbour discovery, to all.
fn advertisement(hardware: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let rest = [&address.octets()[..], &[2, 1], &hardware].concat();
    let all: Ipv6Addr = "ff02::1".parse().unwrap();
    let packet = Ip { hops: 255, ..Ip::icmp(address.into(), all.into(), 136, 0, [0x20, 0, 0, 0], &rest) };
    [&[0x33, 0x33, 0, 0, 0, 1][..], &hardware, &[0x86, 0xdd], &packet.bytes()].concat()
}

/// Answers every probe of the LAN until told to stop, as a router with proxy ARP or ND does, and the switches of clouds.
fn answer_everything(host: &Host, stop: &AtomicBool) {
    host.inside(|| {
        let interface = datalink::interfaces().into_iter().find(|interface| interface.name == "eth0").unwrap();
        let own = interface.mac.unwrap().octets();
        let config = Config { read_timeout: Some(Duration::from_millis(50)), promiscuous: true, ..Config::default() };
        let Ok(Channel::Ethernet(mut sender, mut receiver)) = datalink::channel(&interface, config) else { panic!() };
        while !stop.load(Ordering::Relaxed) {
            let Ok(frame) = receiver.next() else { continue };
            let answer = match (frame.get(12..14), frame.get(20..22)) {
                (Some([0x08, 0x06]), Some([0, 1])) if frame[28..32] == [0; 4] => {
                    let target: [u8; 4] = frame[38..42].try_into().unwrap();
                    arp_claim(own, 2, target.into(), frame[6..12].try_into().unwrap())
                }
                (Some([0x86, 0xdd]), _) if frame.get(54) == Some(&135) && frame[22..38] == [0; 16] => {
                    let target: [u8; 16] = frame[62..78].try_into().unwrap();
                    advertisement(own, target.into())
                }
                _ => continue,
            };
            sender.send_to(&answer, None).unwrap().unwrap();
        }
    });
}

/// Tells a thread to stop, also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// odhcpd has met a neighbour whose proxy answers for `::/0`; others met hypervisors that answer every ARP request.
#[test]
fn s_a_router_that_answers_for_everything_takes_no_pool() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (terminal, server, router) = (lab.terminal(1), lab.server(1), lab.server(2));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| answer_everything(&router, &stop));
        let _stop = Stop(&stop);
        let gateway = lab.start_with(1, &MANY);
        let said = format!("{} on 'go' answers for many addresses", mac(&router, "eth0"));
        wait_until("it to be seen through", || gateway.log().contains(&said));
        wait_until("what it answered for to be free", || occupied(&gateway).is_empty());
        for family in BOTH {
            ping(&terminal, server.address(family), 1);
            let given = gateway.virtual_ip(terminal.address(family));
            ping(&terminal, server.address(family), 20);
            assert_eq!(gateway.virtual_ip(terminal.address(family)), given, "its answers move nobody");
        }
        assert!(occupied(&gateway).is_empty());
        assert_eq!(gateway.log().matches("answers for many addresses").count(), 1, "once");
        // What such a router has itself, and sends from, it keeps.
        take(&router, address("203.0.113.200"));
        router.run("ping -n -c 1 -W 1 -I 203.0.113.200 203.0.113.1");
        wait_until("its own to be set aside", || occupied(&gateway) == ["203.0.113.200"]);
        // Other settings forget nothing of it.
        gateway.host.run("ip address add 203.0.113.201/24 dev go").ok();
        wait_until("the settings to change", || {
            gateway.log().contains("203.0.113.201 of a pool is an address of this machine")
        });
        let pinned = gateway.ask("bindings pin 10.77.143.99 203.0.113.200");
        assert!(pinned.stderr.contains("another host of the outside network has it"), "{}", pinned.stderr);
    });
}

/// It answers no probe (RFC 5227), and contradicts announcements.
#[test]
fn s_a_linux_router_with_proxy_arp_moves_no_binding() {
    let lab = Lab::new(Plan::gateways(1).terminals(6).servers(2));
    let (server, router) = (lab.server(1), lab.server(2));
    router
        .run(
            "ip address flush dev eth0 && ip address add 203.0.113.12/25 dev eth0 && ip link add up0 type veth peer name up1 && \
             ip link set up0 up && ip link set up1 up && ip route add default dev up0 && \
             sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.eth0.proxy_arp=1 net.ipv4.neigh.eth0.proxy_delay=0",
        )
        .ok();
    let gateway = lab.start_with(1, &MANY);
    for terminal in (1..=6).map(|i| lab.terminal(i)) {
        ping(&terminal, server.v4.into(), 1);
    }
    let said = format!("{} on 'go' answers for many addresses", mac(&router, "eth0"));
    wait_until("it to be seen through", || gateway.log().contains(&said));
    assert!(occupied(&gateway).is_empty(), "{:?}", occupied(&gateway));
    assert!(!gateway.log().contains("who had it gets another"), "{}", gateway.log());
    assert!(gateway.log().matches("says that it has").count() <= 3, "{}", gateway.log());
}

#[test]
fn s_a_liar_that_claims_the_whole_pool_gets_half_of_it_for_some_seconds_and_nothing_in_use() {
    let lab = Lab::new(Plan::gateways(1).terminals(2).servers(2));
    let (server, liar) = (lab.server(1), lab.server(2));
    let gateway = lab.start_with(1, &MANY);
    for family in BOTH {
        ping(&lab.terminal(1), server.address(family), 1);
    }
    let held = BOTH.map(|family| gateway.virtual_ip(lab.terminal(1).address(family)));
    // Younger bindings give way to whoever answers.
    let born = gateway.status()["uptime_seconds"].as_u64().unwrap();
    wait_until("the bindings to be settled", || gateway.status()["uptime_seconds"].as_u64().unwrap() > born + 4);
    let wire = Capture::start(&liar, "eth0");
    let mut raw = Raw::open(&liar, "eth0");
    for last in 128..=255 {
        let hardware = [2, 0, 0, 0, 7, last];
        raw.send_frame(&arp_claim(hardware, 1, Ipv4Addr::new(203, 0, 113, last), [0xff; 6]));
        let IpAddr::V6(first) = address("2001:db8:113::5:0:0") else { unreachable!() };
        raw.send_frame(&advertisement(hardware, Ipv6Addr::from_bits(first.to_bits() + u128::from(last))));
    }
    let IpAddr::V6(held_v6) = held[1] else { unreachable!() };
    for _ in 0..3 {
        raw.send_frame(&advertisement([2, 0, 0, 0, 7, 7], held_v6));
    }
    wait_until("it to be said", || gateway.log().contains("is others' already that this is not heeded"));
    let aside = occupied(&gateway);
    assert!(aside.iter().filter(|address| !address.contains(':')).count() <= 64, "{aside:?}");
    assert!(!aside.contains(&held[0].to_string()) && !aside.contains(&held[1].to_string()));
    // What is in use is defended, in both families, and said once.
    let said = format!("02:00:00:00:07:07 on 'go' says that it has {held_v6}");
    wait_until("the claim to be named", || gateway.log().contains(&said));
    assert_eq!(gateway.log().matches(&said).count(), 1, "once, however often it is claimed");
    let own = mac(&gateway.host, "go").octets();
    wait_until("the defence", || wire.packets().has_bytes(&[&held_v6.octets()[..], &[2, 1], &own].concat()));
    for family in BOTH {
        assert_eq!(gateway.virtual_ip(lab.terminal(1).address(family)), held[usize::from(family == Family::V6)]);
        ping(&lab.terminal(2), server.address(family), 1);
    }
    let lines = gateway.log().lines().filter(|line| line.contains("of a pool is in use by")).count();
    assert!(lines < 40, "{lines}");
    wait_until("what was forged to be forgotten", || occupied(&gateway).is_empty());
}

/// A second interface of this machine in the same LAN is no other host (networkd took its own for one).
#[test]
fn s_this_machine_s_other_interface_in_the_same_lan_is_no_other_host() {
    let lab = Lab::new(Plan::gateways(1));
    let (host, server) = (lab.gateway(1), lab.server(1));
    let switch = lab.named("outside");
    host.run(&format!("ip link add second type veth peer name second netns {}", switch.namespace)).ok();
    host.run("ip link set second up && ip address add 203.0.113.2/24 dev second").ok();
    switch.run("ip link set second master lan up").ok();
    let gateway = lab.start_with(1, &MANY);
    ping(&lab.terminal(1), server.v4.into(), 1);
    let virtual_ip = gateway.virtual_ip(lab.terminal(1).v4.into());
    let IpAddr::V4(claimed) = virtual_ip else { unreachable!() };
    let mut raw = Raw::open(&host, "second");
    raw.send_frame(&arp_claim(mac(&host, "second").octets(), 1, claimed, [0xff; 6]));
    raw.send_frame(&arp_claim(mac(&host, "second").octets(), 1, Ipv4Addr::new(203, 0, 113, 222), [0xff; 6]));
    raw.send_frame(&arp_claim([2, 0, 0, 0, 9, 9], 1, Ipv4Addr::new(203, 0, 113, 223), [0xff; 6]));
    wait_until("the last one to be heard", || occupied(&gateway) == ["203.0.113.223"]);
    assert!(!gateway.log().contains("says that it has"), "{}", gateway.log());
    assert_eq!(gateway.virtual_ip(lab.terminal(1).v4.into()), virtual_ip);
}

#[test]
fn s_nobody_is_asked_for_addresses_of_a_pool_that_is_routed() {
    let lab = Lab::new(Plan::gateways(1));
    let wire = lab.outside_wire(1);
    let gateway = lab.start(1);
    for family in BOTH {
        ping(&lab.terminal(1), lab.server(1).address(family), 1);
    }
    let born = gateway.status()["uptime_seconds"].as_u64().unwrap();
    wait_until("some beats to pass", || gateway.status()["uptime_seconds"].as_u64().unwrap() > born + 2);
    let packets = wire.finish();
    assert!(!packets.has_bytes(&[&mac(&gateway.host, "go").octets()[..], &[0; 10], &[198, 18, 1]].concat()));
    let solicited = packets.ip().filter(|packet| packet.get(40) == Some(&135) && packet[8..24] == [0; 16]);
    assert_eq!(solicited.count(), 0);
}
