//! Who had which virtual IP: asked at times between making, killing, restarting and releasing.

use crate::lab::{Family, Lab, Plan};
use crate::traffic::{Web, curl};
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now, as the command takes it; a later call is a later time, and what was done before is before it.
fn between() -> String {
    let now = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let (begin, time) = (now(), now() + 2);
    while now() <= time || now() < begin {
        std::hint::spin_loop();
    }
    let time = jiff::Timestamp::from_millisecond(i64::try_from(time).unwrap()).unwrap();
    time.to_string()
}

/// Bindings are made at whole seconds, as far as the table knows.
fn next_second() {
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let begin = second();
    crate::lab::wait_until("the next second", || second() > begin);
}

#[test]
fn who_had_a_virtual_ip_is_told_across_a_kill_a_restart_and_a_release() {
    let lab = Lab::new(Plan::gateways(1).terminals(2).unwatched());
    let _web = Web::start(&lab.server(1), 80);
    let (terminal, server) = (lab.terminal(1), lab.server(1).address(Family::V4));
    let own = terminal.address(Family::V4);
    let gateway = lab.start(1);
    let before = between();
    next_second();
    curl(&terminal, server, 80);
    let virtual_ip = gateway.virtual_ip(own);
    let made = between();
    gateway.kill();
    let killed = between();

    let gateway = lab.start(1);
    let restarted = between();
    gateway.ask(&format!("bindings release {virtual_ip}")).ok();
    let released = between();
    let other = "10.77.0.9";
    let questions =
        [(&before, None), (&made, Some(own)), (&killed, Some(own)), (&restarted, Some(own)), (&released, None)];
    let answers = |ask: &dyn Fn(&str) -> String| {
        for (at, had) in questions {
            let answer: Value = serde_json::from_str(&ask(&format!("history {virtual_ip} --at {at} --json"))).unwrap();
            let owner = &answer["owners"][0];
            let expected = had.map_or(Value::Null, |terminal| terminal.to_string().into());
            assert_eq!(owner["owner"]["terminal"], expected, "{at}: {answer}");
            assert_eq!(owner["certain"], true, "{at}: {answer}");
        }
        let said = ask(&format!("history {virtual_ip} --at {released}"));
        assert!(
            said.contains(": nobody") && said.contains("released") && said.contains("by command (uid 0)"),
            "{said}"
        );
        let said = ask(&format!("history --terminal {own} --at {made}"));
        assert!(said.contains(&virtual_ip.to_string()) && said.contains("ended by command"), "{said}");
        let said = ask(&format!("history --terminal {other} --at {made}"));
        assert!(said.contains("had no virtual IP"), "{said}");
        let all = ask(&format!("history {virtual_ip}"));
        let words: Vec<_> = all.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2)).collect();
        assert_eq!(words, ["made", "released"], "{all}");
        assert!(all.lines().all(|line| line.len() <= 80), "{all}");
    };
    answers(&|question| gateway.ask(question).ok());

    let refused = gateway.ask("history --at 2026-01-01");
    assert!(!refused.succeeded());
    gateway.stop();
    // While none runs, the file is read.
    let state = lab.scratch().join("state1");
    let (kamei, socket) = (crate::gateway::KAMEI, lab.control(1));
    let host = lab.gateway(1);
    let read_in = |state: &std::path::Path| {
        let (state, socket) = (state.display(), socket.display());
        answers(&|question| host.run(&format!("exec {kamei} {question} --state-dir {state} --control {socket}")).ok());
    };
    read_in(&state);
    // And in another place, by export and import.
    let (elsewhere, file) = (lab.scratch().join("elsewhere"), lab.scratch().join("exported"));
    let carry = format!(
        "mkdir -m 700 {0} && {kamei} state export --state-dir {1} > {2} && {kamei} state import {2} --state-dir {0} && \
         {kamei} state verify --state-dir {0}",
        elsewhere.display(),
        state.display(),
        file.display()
    );
    let said = host.run(&carry).ok();
    assert!(
        said.contains("2 entries of the history imported\n") && said.contains("kamei.history: sound; 2 entries"),
        "{said}"
    );
    read_in(&elsewhere);
}
