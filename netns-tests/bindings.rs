//! What an operator asks about bindings, and what the commands answer.

use crate::fastpath::warm_up;
use crate::gateway::Gateway;
use crate::lab::{Family, Lab, Plan, wait_until};
use crate::traffic::{Web, curl};

fn seconds_left(gateway: &Gateway, address: &str) -> u64 {
    let shown = gateway.ask(&format!("bindings show {address} --json")).ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    shown[0]["seconds_left"].as_u64().unwrap_or_else(|| panic!("no time left in {shown}"))
}

#[test]
fn c8_a_quarantine_counts_on_through_a_restart_and_says_so() {
    let lab = Lab::new(Plan::gateways(1).terminals(2));
    let (terminal, other) = (lab.terminal(1), lab.terminal(2));
    let _web = Web::start(&lab.server(1), 80);
    let gateway = lab.start(1);
    curl(&terminal, lab.server(1).v4.into(), 80);
    let virtual_ip = gateway.virtual_ip(terminal.v4.into()).to_string();
    gateway.ask(&format!("bindings release {virtual_ip}")).ok();
    let most = seconds_left(&gateway, &virtual_ip);
    assert!(most <= 121, "{most}");
    wait_until("a second of the quarantine to pass", || seconds_left(&gateway, &virtual_ip) < most - 1);
    let before = seconds_left(&gateway, &virtual_ip);
    gateway.kill();

    let gateway = lab.start(1);
    assert!(seconds_left(&gateway, &virtual_ip) <= before, "it goes on where it was");
    let list = gateway.ask("bindings --state quarantined").ok();
    assert!(list.lines().next().unwrap().contains("LEFT") && list.contains(&virtual_ip), "{list}");
    let shown = gateway.ask(&format!("bindings show {}", terminal.v4)).ok();
    assert!(shown.contains("state        quarantined; free in "), "{shown}");

    // What cannot be done says why, until when, and what can.
    let again = gateway.ask(&format!("bindings release {virtual_ip}"));
    let released = format!("{virtual_ip} is released already: it was {}'s, is in quarantine for ", terminal.v4);
    assert!(again.code == Some(3) && again.stderr.contains(&released), "{}", again.stderr);
    let pin = format!("bindings pin {} {virtual_ip}", other.v4);
    let refused = gateway.ask(&pin);
    assert!(refused.code == Some(3) && refused.stderr.contains("--force"), "{}", refused.stderr);
    gateway.ask(&format!("{pin} --force")).ok();
    assert_eq!(gateway.virtual_ip(other.v4.into()).to_string(), virtual_ip);
    assert_eq!(curl(&other, lab.server(1).v4.into(), 80), format!("{virtual_ip} 80"));
}

#[test]
fn bytes_of_a_binding_are_those_that_passed_whoever_translates_them() {
    for mode in ["off", "tc"] {
        let lab = Lab::new(Plan::gateways(1));
        let (terminal, server) = (lab.terminal(1), lab.server(1));
        let _web = Web::start(&server, 80);
        let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1), "--fast-path", mode]);
        if mode == "tc" {
            warm_up(&lab, &gateway, Family::V4);
        }
        (0..3).for_each(|_| drop(curl(&terminal, server.v4.into(), 80)));

        // Packets of the last connection may still come; there is no other terminal.
        wait_until("every byte to be the terminal's", || {
            let (binding, status) = (gateway.binding(terminal.v4.into()), gateway.status());
            let is_same = |direction: &str| {
                binding[format!("packets_{direction}")] == status[direction]["packets"]
                    && binding[format!("bytes_{direction}")] == status[direction]["bytes"]
            };
            is_same("out") && is_same("in") && binding["bytes_in"].as_u64().unwrap() > 3 * 200
        });
        let before = gateway.binding(terminal.v4.into());
        let listed = gateway.ask("bindings --sort bytes --limit 1").ok();
        assert!(listed.contains("BYTES OUT") && listed.contains(&terminal.v4.to_string()), "{listed}");
        let refused = gateway.ask("bindings --sort size");
        assert!(refused.code == Some(2) && refused.stderr.contains("bytes, packets"), "{}", refused.stderr);

        gateway.stop();
        let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1), "--fast-path", mode]);
        let after = gateway.binding(terminal.v4.into());
        assert_eq!((&before["bytes_out"], &before["bytes_in"]), (&after["bytes_out"], &after["bytes_in"]));
    }
}
