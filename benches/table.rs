//! What the table of bindings costs, from a thousand bindings to all of a /8.
//!
//! `cargo bench --bench table`; a name filters (`miss`, `look-up`, `create`, `expire`, `workers`). Memory is always told.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark that prints bytes as well")]

mod scene;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kamei::gateway::huge_pages;
use kamei::nat::{BindingState, InsideNumber, Lifetimes, Nat, StoredBinding, Translator};
use kamei::wire::Address;
use scene::{INSIDE, NOW, PEER, Transport, nat, packet, send, terminal};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

/// Bindings, and a pool with room for about twice as many where there is one.
const FILLS: [(u32, &str); 4] =
    [(1 << 10, "128.0.0.0/20"), (1 << 16, "128.0.0.0/15"), (1 << 20, "128.0.0.0/11"), (16_000_000, "128.0.0.0/8")];
/// Terminals of one iteration, at random.
const BATCH: u32 = 2048;
/// Housekeeping looks at the table after as many new bindings: once a second is less often.
const LOOKS_IN: u32 = 1 << 16;
/// The first of the terminals that have no binding in any of the tables.
const SPARE: u32 = 16_000_000;

/// A generator of numbers below `bound`, the same on every run.
fn at_random(seed: u64, bound: u32) -> impl Iterator<Item = u32> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        u32::try_from((state >> 33) % u64::from(bound)).unwrap()
    })
}

/// Has terminals call, and tells how long that took.
fn create(translator: &mut Translator, numbers: Range<u32>) -> Duration {
    let mut bytes = packet(Transport::Udp, terminal(0), PEER, 64);
    let original = bytes.clone();
    let begun = Instant::now();
    for n in numbers {
        bytes.copy_from_slice(&original);
        bytes[13..16].copy_from_slice(&n.to_be_bytes()[1..]);
        send(translator, &mut bytes, INSIDE);
    }
    begun.elapsed()
}

/// Fills a table, while housekeeping looks in now and then; tells how long both took.
fn fill_up(nat: &Arc<Nat>, fill: u32) -> Duration {
    let mut translator = nat.translator();
    let mut spent = Duration::ZERO;
    for first in (0..fill).step_by(LOOKS_IN as usize) {
        let begun = Instant::now();
        huge_pages::lay_out(nat);
        spent += begun.elapsed() + create(&mut translator, first..fill.min(first + LOOKS_IN));
    }
    spent
}

/// Bytes of memory that this process has in use.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn tables(c: &mut Criterion) {
    for (fill, pool) in FILLS {
        let before = resident();
        let nat = nat(&[pool]);
        let spent = fill_up(&nat, fill);
        let bytes = (resident() - before) / u64::from(fill);
        let each = spent.as_nanos() / u128::from(fill);
        println!("{fill} bindings in {pool}, from none: {each} ns and {bytes} bytes each, with one contact each");
        look_up(c, &nat, fill);
        miss(c, &nat, fill);
        create_more(c, &nat, fill);
    }
}

/// Bindings without contacts, as they are put back when the last calls were long ago.
fn memory(_: &mut Criterion) {
    let (fill, pool) = FILLS[3];
    let before = resident();
    let nat = nat(&[pool]);
    let binding = |n: u32| StoredBinding {
        inside: "inside".into(),
        terminal: terminal(n),
        virtual_ip: Ipv4Addr::from_bits(128 << 24 | n).into(),
        state: BindingState::Active,
        pinned: false,
        answered: true,
        created: NOW.as_secs(),
        last_used: NOW.as_secs(),
        ended: 0,
        packets_out: 0,
        packets_in: 0,
        bytes_out: 0,
        bytes_in: 0,
        callbacks: 0,
        callback: None,
        contacts: Vec::new(),
    };
    nat.restore((0..fill).map(binding), NOW);
    let bytes = (resident() - before) / u64::from(fill);
    println!("{fill} bindings in {pool}: {bytes} bytes each, without contacts");
}

/// Terminals at random: many at once, and one by one.
fn look_up(c: &mut Criterion, nat: &Nat, fill: u32) {
    let mut group = c.benchmark_group("look-up");
    group.throughput(Throughput::Elements(BATCH.into()));
    for (name, at_once) in [("batch", BATCH), ("one", 1)] {
        let mut seed = 0;
        group.bench_function(BenchmarkId::new(name, fill), |b| {
            b.iter_batched_ref(
                || {
                    seed += 1;
                    at_random(seed, fill).map(|n| terminal(n).into()).take(BATCH as usize).collect::<Vec<Address>>()
                },
                |terminals| {
                    for some in terminals.chunks(at_once as usize) {
                        black_box(nat.virtual_ips(InsideNumber::new(0), some, PEER.into()));
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
}

/// A worker that must ask the table: what it knew does not hold any more.
fn miss(c: &mut Criterion, nat: &Arc<Nat>, fill: u32) {
    let mut group = c.benchmark_group("miss");
    group.throughput(Throughput::Elements(BATCH.into()));
    let mut translator = nat.translator();
    let mut seed = 0_u32;
    group.bench_function(BenchmarkId::from_parameter(fill), |b| {
        b.iter_batched_ref(
            || {
                seed += 1;
                // A change, or nothing would be decided anew.
                nat.set_own_inside(vec![Ipv4Addr::from_bits(seed).into()]);
                let packets = at_random(seed.into(), fill).map(|n| packet(Transport::Udp, terminal(n), PEER, 64));
                packets.take(BATCH as usize).collect::<Vec<_>>()
            },
            |packets| packets.iter_mut().for_each(|bytes| send(&mut translator, bytes, INSIDE)),
            BatchSize::PerIteration,
        );
    });
}

/// First packets of terminals, in a table that stays as full as it is.
fn create_more(c: &mut Criterion, nat: &Arc<Nat>, fill: u32) {
    let mut group = c.benchmark_group("create");
    group.throughput(Throughput::Elements(1));
    let mut translator = nat.translator();
    group.bench_function(BenchmarkId::from_parameter(fill), |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            let mut left = u32::try_from(times).unwrap();
            while left > 0 {
                let some = left.min(BATCH);
                spent += create(&mut translator, SPARE..SPARE + some);
                left -= some;
                for n in SPARE..SPARE + some {
                    nat.release(terminal(n), NOW).unwrap();
                }
                nat.tick(NOW + Duration::from_secs(121), &mut |_| {});
            }
            spent
        });
    });
}

/// Bindings that go dormant, end and are free again, all of a table.
fn expire(c: &mut Criterion) {
    let mut group = c.benchmark_group("expire");
    let Lifetimes { hold, dormant, quarantine, .. } = Lifetimes::default();
    for (fill, pool) in FILLS.into_iter().take(3) {
        group.throughput(Throughput::Elements(3 * u64::from(fill)));
        group.sample_size(10).bench_function(BenchmarkId::from_parameter(fill), |b| {
            b.iter_batched(
                || {
                    let nat = nat(&[pool]);
                    fill_up(&nat, fill);
                    nat
                },
                |nat| {
                    let mut aged = 0;
                    let mut now = NOW;
                    for more in [hold, dormant, quarantine] {
                        now = now + more + Duration::from_secs(2);
                        let before = aged;
                        while aged < before + fill {
                            nat.tick(now, &mut |_| aged += 1);
                        }
                    }
                    nat
                },
                BatchSize::PerIteration,
            );
        });
    }
}

/// Look-ups and first packets on one core, and on two at once.
fn workers(c: &mut Criterion) {
    const FILL: u32 = 1 << 20;
    let nat = nat(&["128.0.0.0/11"]);
    fill_up(&nat, FILL);
    let look_up = |worker: u32, times: u64| {
        let all: Vec<Address> = at_random(worker.into(), FILL).map(|n| terminal(n).into()).take(1 << 18).collect();
        let mut left = usize::try_from(times).unwrap();
        let begun = Instant::now();
        while left > 0 {
            let some = left.min(BATCH as usize);
            let from = left % (all.len() - some);
            black_box(nat.virtual_ips(InsideNumber::new(0), &all[from..from + some], PEER.into()));
            left -= some;
        }
        begun.elapsed()
    };
    both(c, "workers/look-up", look_up);
    // A new table when one is nearly full.
    let place = Mutex::new((nat, FILL));
    both(c, "workers/create", |_, times| {
        let more = u32::try_from(times).unwrap();
        let mut place = place.lock().unwrap();
        if place.1 + more > 3 << 19 {
            *place = (scene::nat(&["128.0.0.0/11"]), 0);
        }
        let (nat, first) = (Arc::clone(&place.0), place.1);
        place.1 += more;
        drop(place);
        create(&mut nat.translator(), first..first + more)
    });
}

/// `work` on one core, then on two at once.
fn both(c: &mut Criterion, name: &str, work: impl Fn(u32, u64) -> Duration + Sync) {
    let mut group = c.benchmark_group(name);
    for workers in [1, 2] {
        group.throughput(Throughput::Elements(workers.into()));
        group.bench_function(BenchmarkId::from_parameter(workers), |b| {
            b.iter_custom(|times| {
                let start = Barrier::new(workers as usize);
                let run = |worker| {
                    start.wait();
                    work(worker, times)
                };
                let run = &run;
                std::thread::scope(|scope| {
                    let all: Vec<_> = (0..workers).map(|worker| scope.spawn(move || run(worker))).collect();
                    all.into_iter().map(|one| one.join().unwrap()).max().unwrap()
                })
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = tables, memory, expire, workers
}
criterion_main!(benches);
