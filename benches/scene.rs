//! What the benches share: a gateway in memory with one inside, and packets for it.

#![allow(dead_code, reason = "each bench uses a part")]

use etherparse::PacketBuilder;
use kamei::nat::{CreationLimit, InsideSettings, Nat, Policy, PoolSettings, Realm, Settings, Translator, Verdict};
use kamei::time::Time;
use kamei::wire::{Headers, Packet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

pub const NOW: Time = Time::from_secs(1_800_000_000);
pub const INSIDE: Realm = Realm::inside(0);
pub const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A gateway with these pools, in front of 10.0.0.0/8 and fd00:1::/64, that makes bindings as fast as it can.
pub fn nat(pools: &[&str]) -> Arc<Nat> {
    let pool = |range: &&str| PoolSettings {
        name: (*range).to_owned(),
        range: range.parse().unwrap(),
        reserved: Vec::new(),
        destinations: Vec::new(),
        callback: None,
        draining: false,
        kind: Default::default(),
    };
    Nat::new(Settings {
        insides: vec![InsideSettings {
            name: "inside".to_owned(),
            sources: vec!["10.0.0.0/8".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        }],
        pools: pools.iter().map(pool).collect(),
        own_outside: vec!["203.0.113.1".parse().unwrap()],
        hash_key: [7; 16],
        restore_hop: true,
        policy: Policy {
            creation: CreationLimit {
                per_second: u32::MAX,
                burst: u32::MAX,
                prefix_v4: 8,
                prefix_v6: 32,
                ..CreationLimit::default()
            },
            ..Policy::default()
        },
    })
    .unwrap()
}

/// The terminal with this number.
pub fn terminal(n: u32) -> IpAddr {
    Ipv4Addr::from(10 << 24 | n).into()
}

/// The transport of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

/// A packet of `length` bytes in all.
pub fn packet(transport: Transport, source: IpAddr, destination: IpAddr, length: usize) -> Vec<u8> {
    let ip = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => PacketBuilder::ipv4(source.octets(), destination.octets(), 64),
        (IpAddr::V6(source), IpAddr::V6(destination)) => PacketBuilder::ipv6(source.octets(), destination.octets(), 64),
        _ => panic!("mixed families"),
    };
    let headers = if source.is_ipv4() { 20 } else { 40 } + if transport == Transport::Tcp { 20 } else { 8 };
    let payload = vec![0x5a; length - headers];
    let mut bytes = Vec::new();
    match transport {
        Transport::Tcp => ip.tcp(40_000, 443, 7, 1024).ack(9).write(&mut bytes, &payload).unwrap(),
        Transport::Udp => ip.udp(40_000, 443).write(&mut bytes, &payload).unwrap(),
    }
    bytes
}

/// Has a packet translated that must pass.
#[inline]
pub fn send(translator: &mut Translator, bytes: &mut [u8], realm: Realm) {
    let verdict = translator.translate(&mut Packet::new(bytes), realm, NOW);
    assert!(matches!(verdict, Verdict::Forward { .. }));
}

/// Has `terminal` call `peer`, and tells the virtual IP it is seen with.
pub fn call(translator: &mut Translator, terminal: IpAddr, peer: IpAddr) -> IpAddr {
    let mut bytes = packet(Transport::Udp, terminal, peer, 64);
    send(translator, &mut bytes, INSIDE);
    Headers::parse(&bytes).unwrap().source.into()
}
