//! Several workers at once. Each terminal has one virtual IP, each virtual IP one terminal, whichever worker comes
//! first.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::thread;

/// What a worker was told about each terminal's call.
type Told = Vec<(u32, Result<Address, DropReason>)>;

fn address(n: u32) -> String {
    format!("10.{}.{}.{}", n >> 16, n >> 8 & 0xff, n & 0xff)
}

/// The virtual IP that terminal `n` is given by this worker.
fn call(translator: &mut Translator, n: u32) -> Result<Address, DropReason> {
    let mut packet = tcp(&address(n), "192.0.2.1", Flags::Syn);
    match translator.translate(&mut Packet::new(&mut packet), INSIDE, START) {
        Verdict::Forward { to: Realm::Outside, .. } => Ok(Headers::parse(&packet).unwrap().source),
        Verdict::Refuse(refused) => Err(refused.reason),
        other => panic!("{other:?}"),
    }
}

fn nat(range: &str) -> Arc<Nat> {
    let mut settings = settings(vec![pool(range, &[])]);
    settings.policy.creation = CreationLimit {
        per_second: u32::MAX,
        burst: u32::MAX,
        prefix_v4: 8,
        prefix_v6: 32,
        ..CreationLimit::default()
    };
    Nat::new(settings).unwrap()
}

/// `workers` threads, each with every terminal, in step: they meet before each call, so that all ask for the same
/// terminal at the same moment.
fn all_at_once(nat: &Arc<Nat>, workers: usize, terminals: u32) -> Vec<Told> {
    let barrier = Barrier::new(workers);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    let mut translator = nat.translator();
                    let call_in_step = |n| {
                        barrier.wait();
                        (n, call(&mut translator, n))
                    };
                    (1..=terminals).map(call_in_step).collect()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Each terminal was told one thing by all workers, and no virtual IP went to two. Returns who has which.
fn check_told(told: &[Told]) -> BTreeMap<u32, Address> {
    let mut holders = BTreeMap::new();
    for worker in told {
        for (terminal, given) in worker {
            if let Ok(given) = given {
                let first = *holders.entry(*terminal).or_insert(*given);
                assert_eq!(first, *given, "terminal {terminal} was given two");
            }
        }
    }
    let distinct: BTreeSet<&Address> = holders.values().collect();
    assert_eq!(distinct.len(), holders.len(), "a virtual IP was given twice");
    holders
}

/// The table agrees, from both sides.
fn check_table(nat: &Nat) {
    let (mut terminals, mut virtual_ips, mut states) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
    nat.for_each_binding(START, &mut |view| {
        assert!(virtual_ips.insert(view.virtual_ip), "{} is listed twice", view.virtual_ip);
        if view.state != BindingState::Quarantined {
            assert!(terminals.insert(view.terminal), "{} has two", view.terminal);
            let by_terminal = nat.find(view.terminal, START);
            assert!(by_terminal.iter().any(|found| found.virtual_ip == view.virtual_ip));
        }
        *states.entry(format!("{:?}", view.state)).or_insert(0) += 1;
        true
    });
    let pool = &nat.status().pools[0];
    let count = |state: &str| states.get(state).copied().unwrap_or(0);
    assert_eq!(
        (pool.active, pool.dormant, pool.quarantined),
        (count("Active"), count("Dormant"), count("Quarantined"))
    );
    assert_eq!(pool.active + pool.dormant + pool.quarantined + pool.free, pool.capacity);
}

#[test]
fn s_a_second_thread_inserts_the_same_terminal() {
    for workers in [2, 4] {
        let nat = nat("198.18.0.0/20");
        let told = all_at_once(&nat, workers, 2_000);
        assert_eq!(check_told(&told).len(), 2_000);
        assert_eq!(nat.status().created, 2_000, "each was made once");
        check_table(&nat);
    }
}

#[test]
fn s_the_pool_runs_out_under_several_threads() {
    for workers in [2, 4] {
        let nat = nat("198.18.0.0/23");
        let told = all_at_once(&nat, workers, 1_000);
        let holders = check_told(&told);
        assert_eq!(holders.len(), 512);
        for (terminal, given) in told.iter().flatten() {
            let holds = holders.contains_key(terminal);
            assert_eq!(given.is_ok(), holds, "terminal {terminal}: {given:?}");
            assert!(holds || *given == Err(DropReason::PoolExhausted));
        }
        check_table(&nat);
    }
}

#[test]
fn s_calls_releases_pins_and_ageing_at_once_leave_a_table_that_agrees_with_itself() {
    let mut settings = settings(vec![pool("198.18.0.0/26", &[])]);
    settings.policy.lifetimes.quarantine = Duration::ZERO; // so that slots are used again while the threads run
    settings.policy.creation = CreationLimit {
        per_second: u32::MAX,
        burst: u32::MAX,
        prefix_v4: 8,
        prefix_v6: 32,
        ..CreationLimit::default()
    };
    let nat = Nat::new(settings).unwrap();
    let rounds = 4_000_u32;
    thread::scope(|scope| {
        for worker in 0..3 {
            let mut translator = nat.translator();
            scope.spawn(move || {
                for n in 0..rounds {
                    let _ = call(&mut translator, (n * 7 + worker) % 90);
                    if n % 64 == 0 {
                        translator.flush(START);
                    }
                }
            });
        }
        scope.spawn(|| {
            for n in 0..rounds {
                let terminal = address(n * 11 % 90).parse().unwrap();
                match n % 3 {
                    0 => drop(nat.pin(terminal, format!("198.18.0.{}", n % 64).parse().unwrap(), START)),
                    1 => drop(nat.release(terminal, START)),
                    _ => nat.tick(START, &mut |_| {}),
                }
            }
        });
    });
    check_table(&nat);
    nat.tick(START, &mut |_| {});
    check_table(&nat);
}
