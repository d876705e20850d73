//! What a question to a history of a million entries costs, as a part of the time that it may take.
//!
//! `cargo bench --bench history`

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark that prints figures")]

use kamei::nat::{BindingState, Nat, Qualified, StoredBinding};
use kamei::store::history::{History, HistoryQuestion, HistorySettings, note_import};
use kamei::store::{Moment, Reading};
use kamei::time::Time;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod scene;

/// Entries: each virtual IP is given and taken this often.
const VIRTUAL_IPS: u32 = 50_000;
const ROUNDS: u32 = 10;
/// An answer may take so long.
const LIMIT: Duration = Duration::from_millis(50);
/// Questions of each kind.
const QUESTIONS: u32 = 200;
const BEGIN: Duration = Duration::from_secs(1_800_000_000);

fn reading(time: Duration) -> Reading {
    Reading { boot: 1, since_boot: time, wall: time, is_synchronised: true }
}

fn virtual_ip(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xc612_0000 + number).into()
}

fn binding(number: u32, round: u32) -> StoredBinding {
    let created = u32::try_from(BEGIN.as_secs()).unwrap();
    StoredBinding {
        inside: Arc::from("inside"),
        terminal: Ipv4Addr::from_bits(0x0a00_0000 + (number + round) % VIRTUAL_IPS).into(),
        virtual_ip: virtual_ip(number),
        state: BindingState::Active,
        pinned: false,
        answered: true,
        created,
        last_used: created,
        packets_out: 0,
        packets_in: 0,
        bytes_out: 0,
        bytes_in: 0,
        ended: 0,
        callbacks: 0,
        callback: None,
        contacts: Vec::new(),
    }
}

fn ask(history: &History, nat: &Nat, now: &Moment, what: &str, question: &dyn Fn(u32) -> HistoryQuestion) {
    let mut all: Vec<Duration> = (0..QUESTIONS)
        .map(|number| {
            let question = question(number.wrapping_mul(0x9e37_79b9) % VIRTUAL_IPS);
            let begin = Instant::now();
            history.ask(&question, nat, now).unwrap();
            begin.elapsed()
        })
        .collect();
    all.sort_unstable();
    let (median, worst) = (all[all.len() / 2], all[all.len() - 1]);
    let part = |time: Duration| time.as_secs_f64() / LIMIT.as_secs_f64();
    println!("{what}: {:.3} of the limit ({LIMIT:?}); the slowest of {QUESTIONS} {:.3}", part(median), part(worst));
}

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let state_file = directory.path().join("kamei.db");
    let nat = scene::nat(&["128.0.0.0/20"]);
    let begin = Moment { time: Time::default() + BEGIN, reading: reading(BEGIN) };
    let settings = HistorySettings { keep: Duration::from_secs(180 * 86_400), entries: 2_000_000 };
    let history = History::start(&state_file, settings, &nat, &begin);
    for round in 0..ROUNDS {
        let all: Vec<StoredBinding> = (0..VIRTUAL_IPS).map(|number| binding(number, round)).collect();
        let day = |days: u32| reading(BEGIN + Duration::from_secs(3600 * u64::from(days)));
        note_import(&state_file, &[], &all, day(2 * round + 1), 0).unwrap();
        note_import(&state_file, &all, &[], day(2 * round + 2), 0).unwrap();
    }
    let end = BEGIN + Duration::from_secs(3600 * u64::from(2 * ROUNDS + 1));
    let now = Moment { time: Time::default() + end, reading: reading(end) };
    let all = 2 * ROUNDS * VIRTUAL_IPS;
    let size = std::fs::metadata(state_file.with_extension("history")).unwrap().len();
    println!("{all} entries, {} bytes on disk each", size / u64::from(all));
    let millis = |hours: u32| u64::try_from(BEGIN.as_millis()).unwrap() + 3_600_000 * u64::from(hours) + 1_800_000;
    let at = |number: u32| Some(millis(number % (2 * ROUNDS)));
    ask(&history, &nat, &now, "who had a virtual IP at a time", &|number| HistoryQuestion {
        virtual_ip: Some(virtual_ip(number)),
        at: at(number),
        ..HistoryQuestion::default()
    });
    ask(&history, &nat, &now, "what a terminal had at a time", &|number| HistoryQuestion {
        terminal: Some(Qualified::from(IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + number)))),
        at: at(number),
        ..HistoryQuestion::default()
    });
    ask(&history, &nat, &now, "all of a virtual IP", &|number| HistoryQuestion {
        virtual_ip: Some(virtual_ip(number)),
        ..HistoryQuestion::default()
    });
    ask(&history, &nat, &now, "what happened last", &|_| HistoryQuestion::default());
}
