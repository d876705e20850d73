//! What the translator costs a packet, on one core and without any I/O.
//!
//! `cargo bench --bench translate`; `-- --quick` for a first look; a name filters (`hit`, `miss`, `create`, `checksum`).

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark; criterion's macro makes a public function")]

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use kamei::nat::{
    CallbackPolicy, CreationLimit, Exhausted, InsideSettings, Lifetimes, Nat, PoolSettings, Realm, Settings,
    Translator, Verdict,
};
use kamei::time::Time;
use kamei::wire::{Headers, Packet, checksum};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

const NOW: Time = Time::from_secs(1_800_000_000);
const INSIDE: Realm = Realm::Inside(0);
const PEER: [u8; 4] = [192, 0, 2, 1];
/// Bindings in the table; the pool is a /11, 2^21 virtual IPs.
const FILLS: [u32; 3] = [1, 1 << 16, 1 << 20];
/// Packets of one iteration of a miss: every one of another terminal, spread over the whole table.
const SPREAD: u32 = 8192;

fn nat() -> Arc<Nat> {
    Nat::new(Settings {
        insides: vec![InsideSettings { name: "inside".to_owned(), sources: vec!["10.0.0.0/8".parse().unwrap()] }],
        pools: vec![PoolSettings {
            name: "pool".to_owned(),
            range: "172.32.0.0/11".parse().unwrap(),
            reserved: Vec::new(),
            destinations: Vec::new(),
            callback: None,
            draining: false,
            kind: Default::default(),
        }],
        callback: CallbackPolicy::Contacted,
        lifetimes: Lifetimes::default(),
        creation: CreationLimit {
            per_second: u32::MAX,
            burst: u32::MAX,
            prefix_v4: 8,
            prefix_v6: 32,
            ..CreationLimit::default()
        },
        exhausted: Exhausted::Prohibited,
        hairpin: Default::default(),
        inbound_refresh: Default::default(),
        unsolicited: Default::default(),
        mss: None,
        alg: Default::default(),
        own_outside: vec![IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1))],
        hash_key: [7; 16],
        restore_hop: true,
    })
    .unwrap()
}

/// A UDP datagram of `length` bytes in all.
fn packet(source: [u8; 4], destination: [u8; 4], length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv4(source, destination, 64).udp(40_000, 443);
    builder.write(&mut bytes, &vec![0x5a; length - 28]).unwrap();
    bytes
}

fn terminal(n: u32) -> [u8; 4] {
    (10 << 24 | n).to_be_bytes()
}

fn send(translator: &mut Translator, bytes: &mut [u8], realm: Realm) {
    let verdict = translator.translate(&mut Packet::new(bytes), realm, NOW);
    assert!(matches!(verdict, Verdict::Forward { .. }));
}

/// A table with `fill` bindings, and the virtual IP of each terminal.
fn filled(fill: u32) -> (Arc<Nat>, Vec<[u8; 4]>) {
    let nat = nat();
    let mut translator = nat.translator();
    let call = |n| {
        let mut bytes = packet(terminal(n), PEER, 64);
        send(&mut translator, &mut bytes, INSIDE);
        Headers::parse(&bytes).unwrap().source.v4_octets()
    };
    let virtual_ips = (0..fill).map(call).collect();
    (nat, virtual_ips)
}

fn per_packet<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    group
}

/// A worker that knows the flow.
fn hit(c: &mut Criterion, fill: u32, nat: &Arc<Nat>, virtual_ips: &[[u8; 4]]) {
    let mut group = per_packet(c, "hit");
    for length in [64, 1500] {
        for (way, bytes, realm) in [
            ("out", packet(terminal(0), PEER, length), INSIDE),
            ("in", packet(PEER, virtual_ips[0], length), Realm::Outside),
        ] {
            let mut translator = nat.translator();
            let mut work = bytes.clone();
            group.bench_function(BenchmarkId::new(format!("{way}/{length}"), fill), |b| {
                b.iter(|| {
                    work[..28].copy_from_slice(&bytes[..28]); // the headers as they came
                    send(&mut translator, black_box(&mut work), realm);
                });
            });
        }
    }
}

/// A worker that sees each flow for the first time: the shared table is asked.
fn miss(c: &mut Criterion, fill: u32, nat: &Arc<Nat>, virtual_ips: &[[u8; 4]]) {
    let mut group = c.benchmark_group("miss");
    let which = |n: u32| n.wrapping_mul(0x9e37_79b1) % fill;
    let flows = SPREAD.min(fill);
    group.throughput(Throughput::Elements(flows.into()));
    for length in [64, 1500] {
        for (way, realm) in [("out", INSIDE), ("in", Realm::Outside)] {
            let make = |n| match realm {
                Realm::Outside => packet(PEER, virtual_ips[which(n) as usize], length),
                Realm::Inside(_) => packet(terminal(which(n)), PEER, length),
            };
            let packets: Vec<Vec<u8>> = (0..flows).map(make).collect();
            group.bench_function(BenchmarkId::new(format!("{way}/{length}"), fill), |b| {
                b.iter_batched_ref(
                    || (nat.translator(), packets.clone()),
                    |(translator, packets)| packets.iter_mut().for_each(|bytes| send(translator, bytes, realm)),
                    BatchSize::PerIteration,
                );
            });
        }
    }
}

/// The first packet of a terminal that has no binding.
fn create(c: &mut Criterion, fill: u32, nat: &Arc<Nat>) {
    let mut group = per_packet(c, "create");
    let mut next = fill;
    let mut translator = nat.translator();
    group.bench_function(BenchmarkId::from_parameter(fill), |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            let mut left = times;
            // In batches, between which the bindings end again: the table stays as full as its name says.
            while left > 0 {
                let batch = left.min(1000);
                let mut packets: Vec<_> = (0..batch)
                    .map(|_| {
                        next += 1;
                        packet(terminal(next), PEER, 64)
                    })
                    .collect();
                let start = std::time::Instant::now();
                packets.iter_mut().for_each(|bytes| send(&mut translator, bytes, INSIDE));
                spent += start.elapsed();
                left -= batch;
                for n in next - u32::try_from(batch).unwrap() + 1..=next {
                    nat.release(Ipv4Addr::from(terminal(n)).into(), NOW).unwrap();
                }
                nat.tick(NOW + Duration::from_secs(121), &mut |_| {});
                if next > (1 << 24) - 2000 {
                    next = fill;
                }
            }
            spent
        });
    });
}

fn translate(c: &mut Criterion) {
    for fill in FILLS {
        let (nat, virtual_ips) = filled(fill);
        hit(c, fill, &nat, &virtual_ips);
        miss(c, fill, &nat, &virtual_ips);
        create(c, fill, &nat);
    }
}

fn sums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for length in [64, 1500, 65_535] {
        let bytes = vec![0x5a; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::from_parameter(length), |b| b.iter(|| checksum(0, black_box(&bytes))));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = translate, sums
}
criterion_main!(benches);
