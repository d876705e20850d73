//! Machine instructions a packet, counted by Callgrind: the same on every run, however busy the machine.
//!
//! `scripts/instructions` runs this under valgrind, case by case, and compares with `instructions.baseline`. By itself it
//! lists the cases.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that prints what it offers")]

mod scene;

use kamei::nat::{Realm, Translator, Verdict};
use kamei::wire::Packet;
use scene::{INSIDE, NOW, PEER, Transport, call, nat, packet, terminal};
use std::net::IpAddr;

/// Packets of a case.
const PACKETS: u32 = 1000;
const CASES: [&str; 7] =
    ["hit-tcp-out", "hit-tcp-in", "hit-udp6-out", "miss-of-the-worker", "create", "drop-no-binding", "drop-scan"];

/// What Callgrind counts, and nothing else.
#[inline(never)]
fn measured(translator: &mut Translator, packets: &mut [Vec<u8>], realm: Realm) -> u32 {
    let mut passed = 0;
    for bytes in packets {
        let verdict = translator.translate(&mut Packet::new(bytes), realm, NOW);
        passed += u32::from(matches!(verdict, Verdict::Forward { .. }));
    }
    passed
}

fn main() {
    if std::env::args().any(|argument| argument == "--packets") {
        println!("{PACKETS}");
        return;
    }
    // `cargo bench` adds an option of its own.
    let Some(case) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        CASES.iter().for_each(|case| println!("{case}"));
        return;
    };
    let nat = nat(&["172.32.0.0/16", "fd00:2::/64"]);
    let mut translator = nat.translator();
    let terminal6: IpAddr = "fd00:1::5".parse().unwrap();
    let peer6: IpAddr = "2001:db8::1".parse().unwrap();
    let virtual_ip = call(&mut translator, terminal(5), PEER);
    call(&mut translator, terminal6, peer6);
    let same = |bytes: Vec<u8>| vec![bytes; PACKETS as usize];
    let each = |make: &dyn Fn(u32) -> Vec<u8>| (0..PACKETS).map(make).collect::<Vec<_>>();
    let (mut packets, realm) = match &*case {
        "hit-tcp-out" => (same(packet(Transport::Tcp, terminal(5), PEER, 60)), INSIDE),
        "hit-tcp-in" => {
            call_in(&mut translator, virtual_ip);
            (same(packet(Transport::Tcp, PEER, virtual_ip, 60)), Realm::Outside)
        }
        "hit-udp6-out" => (same(packet(Transport::Udp, terminal6, peer6, 60)), INSIDE),
        "miss-of-the-worker" => {
            let packets = each(&|n| packet(Transport::Tcp, terminal(n), PEER, 60));
            let mut other = nat.translator();
            for n in 0..PACKETS {
                call(&mut other, terminal(n), PEER);
            }
            (packets, INSIDE)
        }
        "create" => (each(&|n| packet(Transport::Udp, terminal(1000 + n), PEER, 60)), INSIDE),
        "drop-no-binding" => {
            let unused = (1..=u16::MAX)
                .map(|n| IpAddr::from((172 << 24 | 32 << 16 | u32::from(n)).to_be_bytes()))
                .find(|address| *address != virtual_ip)
                .unwrap();
            (same(packet(Transport::Udp, PEER, unused, 60)), Realm::Outside)
        }
        // Each for another virtual IP: of one peer, which scans.
        "drop-scan" => {
            let unused = |n: u32| IpAddr::from((172 << 24 | 32 << 16 | n).to_be_bytes());
            let called = |n: &u32| unused(*n) == virtual_ip;
            let targets: Vec<u32> = (1..).filter(|n| !called(n)).take(PACKETS as usize).collect();
            (targets.iter().map(|n| packet(Transport::Udp, PEER, unused(*n), 60)).collect(), Realm::Outside)
        }
        other => {
            println!("no such case: {other}; there are {}", CASES.join(", "));
            std::process::exit(2);
        }
    };
    let passed = measured(&mut translator, &mut packets, realm);
    assert_eq!(passed, if case.starts_with("drop-") { 0 } else { PACKETS });
}

/// The peer's first packet to the virtual IP, so that the worker knows the flow.
fn call_in(translator: &mut Translator, virtual_ip: IpAddr) {
    scene::send(translator, &mut packet(Transport::Udp, PEER, virtual_ip, 60), Realm::Outside);
}
