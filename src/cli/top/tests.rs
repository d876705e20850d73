use super::*;
use crate::control::{Asked, BindingCounts, GatewayStatus};
use crate::nat::{BindingState, PoolView, StatusView, TrafficView};
use crate::time::Time;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

fn status(seconds: u64) -> Status {
    let pool = |name: &str, free: u64| PoolView {
        name: name.into(),
        range: "198.18.0.0/24".parse().unwrap(),
        capacity: 256,
        active: 256 - free,
        dormant: 0,
        quarantined: 0,
        free,
        draining: name == "old",
    };
    let drops = BTreeMap::from([
        ("malformed".to_owned(), 0),
        ("no_binding".to_owned(), 10 * seconds),
        ("not_contacted".to_owned(), 7),
    ]);
    let gateway = GatewayStatus {
        version: "0.1.0".into(),
        uptime_seconds: 7200 + seconds,
        ready: true,
        insides: vec!["eth1".into()],
        outsides: vec!["eth0".into()],
        workers: 2,
        ..GatewayStatus::default()
    };
    let nat = StatusView {
        pools: vec![pool("198.18.0.0/24", 200), pool("for the bank, which has many branches", 1), pool("old", 250)],
        out: TrafficView { packets: 12_400 * seconds, bytes: 15_000_000 * seconds },
        inward: TrafficView { packets: 31_000 * seconds, bytes: 40_000_000 * seconds },
        callbacks: 3 * seconds,
        created: 5,
        drops,
    };
    Status { gateway, bindings: BindingCounts { active: 311, ..BindingCounts::default() }, nat }
}

fn binding(number: u8, seconds: u64) -> BindingView {
    BindingView {
        terminal: Ipv4Addr::new(10, 0, 0, number).into(),
        realm: "inside".into(),
        virtual_ip: Ipv4Addr::new(198, 18, 0, 200 - number).into(),
        pool: "198.18.0.0/24".into(),
        state: if number == 3 { BindingState::Dormant } else { BindingState::Active },
        pinned: false,
        answered: true,
        created: Time::from_secs(1),
        last_used: Time::from_secs(100 - u64::from(number)),
        seconds_left: Some(u64::from(number) * 60),
        contacts: number.into(),
        contacts_answered: 0,
        contacts_forgotten: 0,
        callback: None,
        policy: None,
        contact_list: None,
        packets_out: u64::from(number) * 100 * seconds,
        packets_in: 0,
        bytes_out: u64::from(number) * 150_000 * seconds,
        bytes_in: 0,
        callbacks: (9 - number).into(),
    }
}

/// Two answers, a second apart.
fn model() -> Model {
    let mut model = Model::new(false);
    for seconds in [1, 2] {
        let bindings = (1..=4).map(|number| binding(number, seconds)).collect();
        model.take(status(seconds), bindings, Time::from_secs(100 + seconds));
    }
    model
}

#[test]
fn a_screen_of_80_by_24() {
    let expected = "\
kamei 0.1.0  eth1 → eth0  up 2h 0m  2 workers  ready
out  12.4 k/s  120 Mbit/s   in  31.0 k/s  320 Mbit/s   drops     10/s
bindings 311 active, 0 dormant, 0 quarantined; made 0/s, callbacks 3/s
 pools ───────────────────────────────── dropped ───────────────────────────────
for the bank, which … ██████████  100 % no_binding                 10/s      20
198.18.0.0/24         ███░░░░░░░   22 % not_contacted               0/s       7
draining: old         █░░░░░░░░░    2 %

 bindings 1 to 4 of 4 ──────────────────────────────────────────────────────────
TERMINAL VIRTUAL IP   STATE       OUT bit/s  IN bit/s    BYTES CALLBACKS IDLE
10.0.0.4 198.18.0.196 active          4.8 M         0  1.1 MiB         5 6s
10.0.0.3 198.18.0.197 dormant         3.6 M         0  878 KiB         6 5s
10.0.0.2 198.18.0.198 active          2.4 M         0  585 KiB         7 4s
10.0.0.1 198.18.0.199 active          1.2 M         0  292 KiB         8 3s









q quit  s sort: bit/s  r reverse  / filter  p pause  ↑↓ scroll
";
    let text = drawn(&model(), 80, 24).unwrap();
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn a_screen_of_200_by_60_cuts_no_word() {
    let mut model = model();
    let rows: Vec<BindingView> = (1..=4)
        .map(|number| BindingView {
            terminal: "2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap(),
            virtual_ip: format!("2001:db8:ffff:ffff:ffff:ffff:ffff:fff{number}").parse().unwrap(),
            state: if number == 3 { BindingState::Quarantined } else { BindingState::Active },
            pool: "the bank and its branches".into(),
            ..binding(number, 3)
        })
        .collect();
    model.take(status(3), rows, Time::from_secs(103));
    let text = drawn(&model, 200, 60).unwrap();
    assert_eq!(text.lines().count(), 60);
    assert!(text.lines().all(|line| line.chars().count() <= 200));
    assert!(!text.contains('…'), "{text}");
    let row = text.lines().find(|line| line.contains("quarantined  ")).unwrap();
    assert!(row.ends_with("the bank and its branches") && row.contains("3m 0s"), "{row}");
    for name in ["LEFT", "OUT bit/s", "OUT/s", "BYTES", "CALLBACKS", "CONTACTS", "IDLE", "POOL"] {
        assert!(text.contains(name), "{name} in\n{text}");
    }
}

#[test]
fn addresses_too_long_for_a_screen_say_that_they_are_cut() {
    let mut model = model();
    let terminal = "2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap();
    model.take(status(3), vec![BindingView { terminal, ..binding(1, 3) }], Time::from_secs(103));
    let text = drawn(&model, 80, 24).unwrap();
    assert!(text.lines().any(|line| line.starts_with("2001:db8:1") && line.contains('…')), "{text}");
}

#[test]
fn a_gateway_that_goes_away_is_missed_and_found_again() {
    let mut model = model();
    let error = io::Error::from(io::ErrorKind::NotFound);
    model.lose(&ClientError::NoGateway { asked: Asked { role: "gateway", path: "/run/x".into() }, error });
    let text = drawn(&model, 80, 24).unwrap();
    assert!(text.lines().next().unwrap().ends_with("no gateway answers; asking again"), "{text}");
    assert!(text.contains("10.0.0.4"), "what was known stays: {text}");
    // Another process counts from nought: no rates before it has been asked twice.
    let mut fresh = status(1);
    fresh.gateway.uptime_seconds = 0;
    model.take(fresh, vec![binding(1, 1)], Time::from_secs(109));
    assert!(model.lost.is_none() && model.rates.packets_out < 0.1 && model.rows[0].packets_out < 0.1);
}

#[test]
fn keys_sort_filter_scroll_and_quit() {
    let mut model = model();
    let keys = |model: &mut Model, text: &str| -> bool {
        text.chars().all(|letter| {
            let code = match letter {
                '\n' => KeyCode::Enter,
                '\u{8}' => KeyCode::Backspace,
                letter => KeyCode::Char(letter),
            };
            press(model, KeyEvent::new(code, KeyModifiers::NONE))
        })
    };
    let first = |model: &Model| model.shown().first().map(|row| row.binding.terminal.to_string()).unwrap();
    assert_eq!(first(&model), "10.0.0.4");
    assert!(keys(&mut model, "r"));
    assert_eq!(first(&model), "10.0.0.1");
    assert!(keys(&mut model, "rssss"));
    assert_eq!((model.sort.name(), first(&model).as_str()), ("callbacks", "10.0.0.1"));
    assert!(keys(&mut model, "/dormq\u{8}\n"));
    assert_eq!((model.filter.as_str(), first(&model).as_str(), model.shown().len()), ("dorm", "10.0.0.3", 1));
    assert!(keys(&mut model, "jjjjk"));
    assert!(drawn(&model, 80, 24).unwrap().contains("bindings 1 to 1 of 1"));
    assert!(!keys(&mut model, "q"));
    assert!(!press(&mut model, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
}

#[test]
fn the_smallest_screen_is_drawn_too() {
    for (width, height) in [(1, 1), (40, 10), (500, 500)] {
        drawn(&model(), width, height).unwrap();
    }
}
