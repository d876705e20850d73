//! P2: at an outside interface the gateway's programs come before those of others, whoever attaches his later; and what they
//! see is what the kernel sees behind them, whatever stands before the IP header.

use crate::capture::Capture;
use crate::closed::Siege;
use crate::crafted::{Ip, Raw};
use crate::gateway::KAMEI;
use crate::lab::{Host, Lab, Plan, need, wait_until};
use crate::one_view::{Ground, SEATS, SLOW, Seat, nft, ping};
use crate::privacy::router;
use aya::Ebpf;
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use std::net::IpAddr;
use std::process::Command;

// --- programs of others -------------------------------------------------------------------------------------------

/// A program that ends the way of every packet: whatever comes behind it sees none. Gone when dropped.
struct Selfish(#[expect(dead_code, reason = "holds the program where it is")] Ebpf);

impl Selfish {
    /// In front of all others at `go`.
    fn attach(lab: &Lab, seat: Seat, side: TcAttachType, number: u16) -> Self {
        let source = lab.scratch().join("selfish.c");
        let object = source.with_extension("o");
        let text = "__attribute__((section(\"classifier\"), used)) int selfish(void *skb) { return 0; }\n\
                    char LICENSE[] __attribute__((section(\"license\"), used)) = \"GPL\";\n";
        std::fs::write(&source, text).unwrap();
        need("clang", "clang");
        let mut clang = Command::new("clang");
        clang.args(["-O2", "-g", "-target", "bpf", "-c", "-o"]).arg(&object).arg(&source);
        assert!(clang.status().unwrap().success());
        lab.gateway(1).inside(|| {
            let mut loaded = Ebpf::load_file(&object).unwrap();
            let program: &mut SchedClassifier = loaded.program_mut("selfish").unwrap().try_into().unwrap();
            program.load().unwrap();
            let options = match seat {
                Seat::Filters => {
                    TcAttachOptions::Netlink(NlOptions { priority: 1, handle: TcHandle::new(7, number), classid: None })
                }
                Seat::Links => TcAttachOptions::TcxOrder(LinkOrder::first()),
            };
            program.attach_with_options("go", side, options).unwrap();
            Self(loaded)
        })
    }
}

#[test]
fn p2_a_program_that_comes_before_the_gateways_is_overtaken() {
    for seat in SEATS {
        let mut siege = Siege::new(seat, &[]);
        let mut others = Vec::new();
        for (number, side) in (1..).zip([TcAttachType::Egress, TcAttachType::Ingress, TcAttachType::Egress]) {
            let said = || siege.gateway().log().matches("they are put in front").count();
            let before = said();
            others.push(Selfish::attach(siege.lab(), seat, side, number));
            // Calls pass only if the gateway's programs see every packet.
            wait_until("the gateway's programs to be in front", || said() > before);
            siege.wait_until_it_works();
        }
        // What was sent in between is what it was.
        siege.watch_anew();
        siege.go_on();
        assert!(siege.works());
        let ground = siege.nothing_has_leaked();
        ground.lab.gateway(1).inside(|| drop(others));
    }
}

/// One of another kind with the first priority, which was there before: nothing can be put in front of it.
#[test]
fn p2_a_filter_that_nothing_can_come_before_is_named_once() {
    let ground = Ground::new(Plan::gateways(1), Seat::Filters);
    let host = ground.lab.gateway(1);
    host.run("tc qdisc add dev go clsact && tc filter add dev go egress pref 1 protocol all u32 match u32 0 0").ok();
    let gateway = ground.start(&[]);
    let said = || gateway.log().matches("the u32 filter (pref 1) comes before the gateway's programs on 'go'").count();
    wait_until("it to be named", || said() == 1);
    // Every change has it looked at again.
    host.run("ip link add seven type veth peer name eight && ip link delete seven").ok();
    let config = ground.lab.scratch().join("doctor.toml");
    let text = format!("inside = [\"gi\"]\noutside = [\"go\"]\n[[pool]]\nrange = \"{}\"\n", Lab::pool_v4(1));
    std::fs::write(&config, text).unwrap();
    let found = ground.run(&format!("{KAMEI} doctor --config {}", config.display())).stdout;
    assert!(found.contains("the u32 filter (pref 1) comes before the gateway's programs at go"), "{found}");
    ping(&ground.lab.terminal(1), ground.lab.server(1).v4.into(), 3);
    assert_eq!((said(), gateway.log().contains("they are put in front")), (1, false), "{}", gateway.log());
}

// --- tags and labels ----------------------------------------------------------------------------------------------

/// Ethernet types in front of a packet: a tag of VLAN 0 without a priority, with one, and one in another.
const TAGS: [(&str, &[u8]); 3] =
    [("plain", &[0x81, 0, 0, 0]), ("priority", &[0x81, 0, 0xa0, 0]), ("twice", &[0x81, 0, 0xa0, 0, 0x81, 0, 0, 0])];

fn hardware(host: &Host, interface: &str) -> [u8; 6] {
    let text = host.run(&format!("cat /sys/class/net/{interface}/address")).ok();
    let bytes: Vec<u8> = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// A frame with an IP packet behind these bytes, from one host's `eth0` to the gateway's interface.
fn frame(from: &Host, gateway: &Host, interface: &str, before: &[u8], packet: &Ip) -> Vec<u8> {
    let kind: [u8; 2] = if packet.from.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
    [&hardware(gateway, interface)[..], &hardware(from, "eth0"), before, &kind, &packet.bytes()].concat()
}

/// The kernel takes a tag of VLAN 0 for none: so do the programs, or a peer could reach terminals past them.
#[test]
fn s_a_priority_tag_from_outside_opens_nothing_and_hides_nothing() {
    for seat in SEATS {
        for arguments in [SLOW, &[], &["--fast-path", "redirect"]] {
            let ground = Ground::new(Plan::gateways(1), seat);
            let lab = &ground.lab;
            let (host, terminal, server) = (router(lab), lab.terminal(1), lab.server(1));
            nft(
                &host,
                "table inet f { chain forward { type filter hook forward priority filter; policy drop; \
                 iifname go oifname gi accept; iifname gi oifname go accept; }; }",
            );
            let gateway = ground.start(arguments);
            let mut raw = Raw::open(&server, "eth0");
            for (here, there) in [(terminal.v4.into(), server.v4.into()), (terminal.v6.into(), server.v6.into())] {
                let (here, there): (IpAddr, IpAddr) = (here, there);
                ping(&terminal, there, 3);
                let virtual_ip = gateway.virtual_ip(here);
                let wire = Capture::start(&terminal, "eth0");
                let inside = lab.gateway_inside(1);
                let own = if here.is_ipv4() { inside.0.into() } else { inside.1.into() };
                let refused = || {
                    let noted = gateway.status()["fast_path"]["noted"]["inside_destination"].as_u64();
                    noted.unwrap_or_default()
                };
                let before = refused();
                for (name, tag) in TAGS {
                    for to in [here, own] {
                        let data = format!("into the inside, {name}");
                        raw.send_frame(&frame(&server, &host, "go", tag, &Ip::udp(there, to, (5, 6), data.as_bytes())));
                    }
                    let data = format!("called back, {name}");
                    let packet = Ip::udp(there, virtual_ip, (5, 6), data.as_bytes());
                    raw.send_frame(&frame(&server, &host, "go", tag, &packet));
                    wait_until(&data, || wire.packets().has_bytes(data.as_bytes()));
                }
                assert_eq!(refused() - before, 6, "all were refused by name, {arguments:?} at {seat:?}");
                assert!(!wire.finish().has_bytes(b"into the inside"), "{arguments:?} at {seat:?}");
            }
        }
    }
}

/// Somebody leads what comes in by the inside straight to the outside: past routes, and past the guard.
#[test]
fn p2_what_is_led_past_the_routes_with_a_tag_or_a_label_is_translated_or_refused() {
    for seat in SEATS {
        let ground = Ground::new(Plan::gateways(1), seat);
        let lab = &ground.lab;
        let (host, terminal, server) = (lab.gateway(1), lab.terminal(1), lab.server(1));
        let gateway = ground.start(&[]);
        let everything = "protocol all u32 match u32 0 0 flowid 1:1";
        host.run(&format!(
            "tc qdisc add dev gi clsact && tc filter add dev gi ingress pref 1 {everything} action mirred egress redirect \
             dev go"
        ))
        .ok();
        let wire = lab.outside_wire(1);
        let mut raw = Raw::open(&terminal, "eth0");
        let packet = |data: &[u8]| Ip::udp(terminal.v4.into(), server.v4.into(), (5, 6), data);
        for (name, tag) in TAGS {
            let data = format!("out, {name}");
            raw.send_frame(&frame(&terminal, &host, "gi", tag, &packet(data.as_bytes())));
            wait_until(&data, || wire.packets().has_bytes(data.as_bytes()));
        }
        let refused = || gateway.status()["fast_path"]["noted"]["untranslated"].as_u64().unwrap_or_default();
        let before = refused();
        // MPLS (RFC 3032), and a tag in front of a type that is none.
        for label in [&[0x88, 0x47, 0, 2, 0xa1, 64][..], &[0x88, 0x48, 0, 2, 0xa1, 64], &[0x88, 0xb6]] {
            let mut wrapped = frame(&terminal, &host, "gi", label, &packet(b"wrapped"));
            // Behind a label there is no type.
            wrapped.drain(12 + label.len()..14 + label.len());
            raw.send_frame(&wrapped);
        }
        wait_until("all to be refused", || refused() >= before + 3);
        let packets = wire.finish();
        assert!(!packets.has_bytes(b"wrapped"), "{seat:?}");
        packets.assert_hidden(&lab.hidden(1));
    }
}
