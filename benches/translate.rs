//! What the translator costs a packet, on one core and without any I/O.
//!
//! `cargo bench --bench translate`; `-- --quick` for a first look; a name filters (`hit`, `batch`, `workers`, `checksum`).

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark; criterion's macro makes a public function")]

mod scene;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kamei::nat::Realm;
use kamei::wire::{Address, Delta, Stored, checksum};
use scene::{INSIDE, PEER, Transport, call, nat, packet, send, terminal};
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// A worker that knows the flow.
fn hit(c: &mut Criterion) {
    let nat = nat(&["172.32.0.0/16", "fd00:2::/64"]);
    let mut translator = nat.translator();
    let mut group = c.benchmark_group("hit");
    group.throughput(Throughput::Elements(1));
    for (family, terminal, peer) in
        [("v4", terminal(1), PEER), ("v6", "fd00:1::5".parse().unwrap(), "2001:db8::1".parse::<IpAddr>().unwrap())]
    {
        let virtual_ip = call(&mut translator, terminal, peer);
        for (name, transport) in [("tcp", Transport::Tcp), ("udp", Transport::Udp)] {
            for (way, realm, source, destination) in
                [("out", INSIDE, terminal, peer), ("in", Realm::Outside, peer, virtual_ip)]
            {
                let bytes = packet(transport, source, destination, 64);
                let mut work = bytes.clone();
                group.bench_function(format!("{family}/{name}/{way}"), |b| {
                    b.iter(|| {
                        work.copy_from_slice(&bytes);
                        send(&mut translator, black_box(&mut work), realm);
                    });
                });
            }
        }
    }
    group.finish();
}

/// A worker that knows many flows, each packet of another one.
fn many_flows(c: &mut Criterion) {
    let nat = nat(&["172.0.0.0/8"]);
    let mut group = c.benchmark_group("flows");
    for flows in [1_000, 10_000, 100_000] {
        let mut translator = nat.translator();
        let mut packets: Vec<_> = (0..flows).map(|n| packet(Transport::Udp, terminal(n), PEER, 64)).collect();
        packets.iter().for_each(|bytes| send(&mut translator, &mut bytes.clone(), INSIDE));
        let originals = packets.clone();
        group.throughput(Throughput::Elements(flows.into()));
        group.bench_function(BenchmarkId::from_parameter(flows), |b| {
            b.iter(|| {
                for (bytes, original) in packets.iter_mut().zip(&originals) {
                    bytes.copy_from_slice(original);
                    send(&mut translator, bytes, INSIDE);
                }
            });
        });
    }
}

/// The same packet on one worker, and on two at once.
fn workers(c: &mut Criterion) {
    let nat = nat(&["172.32.0.0/16"]);
    let mut group = c.benchmark_group("workers");
    for workers in [1, 2] {
        group.throughput(Throughput::Elements(workers));
        group.bench_function(BenchmarkId::from_parameter(workers), |b| {
            b.iter_custom(|times| {
                let start = Barrier::new(usize::try_from(workers).unwrap());
                let work = |n| {
                    let mut translator = nat.translator();
                    let bytes = packet(Transport::Tcp, terminal(n), PEER, 64);
                    let mut work = bytes.clone();
                    call(&mut translator, terminal(n), PEER);
                    start.wait();
                    let begun = Instant::now();
                    for _ in 0..times {
                        work.copy_from_slice(&bytes);
                        send(&mut translator, black_box(&mut work), INSIDE);
                    }
                    begun.elapsed()
                };
                let work = &work;
                std::thread::scope(|scope| {
                    let all: Vec<_> =
                        (0..workers).map(|n| scope.spawn(move || work(u32::try_from(n).unwrap()))).collect();
                    all.into_iter().map(|one| one.join().unwrap()).max().unwrap()
                })
            });
        });
    }
}

fn sums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for length in [64, 1500, 65_535] {
        let bytes = vec![0x5a; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::from_parameter(length), |b| b.iter(|| checksum(0, black_box(&bytes))));
    }
    group.throughput(Throughput::Elements(1));
    for (name, old, new) in [("v4", terminal(1), PEER), ("v6", "fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())]
    {
        let (old, new) = (Address::from(old), Address::from(new));
        group.bench_function(BenchmarkId::new("delta", name), |b| {
            b.iter(|| Delta::of_address(black_box(old), black_box(new)).apply(black_box(0x1234), Stored::Full));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = hit, many_flows, workers, sums
}
criterion_main!(benches);
