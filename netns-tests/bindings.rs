//! What an operator asks about bindings, and what the commands answer.

use crate::fastpath::warm_up;
use crate::gateway::Gateway;
use crate::lab::{Family, Lab, Plan, wait_until};
use crate::traffic::{Web, curl};
use serde_json::{Value, json};
use std::net::{IpAddr, UdpSocket};

fn seconds_left(gateway: &Gateway, address: &str) -> u64 {
    let shown = gateway.ask(&format!("bindings show {address} --json")).ok();
    let shown: Value = serde_json::from_str(&shown).unwrap();
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

#[test]
fn who_may_call_a_terminal_is_listed_peer_by_peer() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (terminal, server, silent) = (lab.terminal(1), lab.server(1), lab.server(2));
    let _web = Web::start(&server, 80);
    let gateway = lab.start(1);
    curl(&terminal, server.v4.into(), 80);
    let socket = terminal.inside(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    let say = |to: IpAddr| assert_eq!(socket.send_to(b"?", (to, 9)).unwrap(), 1);
    say(silent.v4.into());
    let show = || -> Value {
        let shown = gateway.ask(&format!("bindings show {} --json", terminal.v4)).ok();
        serde_json::from_str::<Value>(&shown).unwrap()[0].take()
    };
    wait_until("both contacts", || show()["contacts"] == 2);
    let shown = show();
    assert_eq!(shown["policy"], json!({"callback": ["contacted"], "from": "gateway"}));
    let peer = |shown: &Value, address: IpAddr| -> Value {
        let list = shown["contact_list"].as_array().unwrap();
        list.iter().find(|contact| contact["peer"] == address.to_string().as_str()).unwrap().clone()
    };
    assert_eq!(peer(&shown, server.v4.into())["answered"], true, "{shown}");
    assert_eq!(peer(&shown, silent.v4.into())["answered"], false, "{shown}");
    assert_eq!(peer(&shown, silent.v4.into())["may_call"], true, "{shown}");
    assert!(!gateway.ask("bindings").ok().contains("MAY CALL"), "as all others");

    gateway.ask(&format!("bindings callback {} answered", terminal.v4)).ok();
    let shown = show();
    assert_eq!(shown["policy"], json!({"callback": ["answered"], "from": "binding"}));
    assert_eq!(peer(&shown, silent.v4.into())["may_call"], false, "{shown}");
    let listed = gateway.ask("bindings").ok();
    assert!(listed.contains("MAY CALL") && listed.contains("  answered  "), "{listed}");

    // Of many, the latest; how many more there are is said.
    lab.gateway(1).run(&format!("ip route add 203.0.112.0/24 via {}", server.v4)).ok();
    (0..40).for_each(|n| say([203, 0, 112, 100 + n].into()));
    wait_until("all contacts", || show()["contacts"] == 42);
    assert_eq!(show()["contact_list"].as_array().unwrap().len(), 42);
    let text = gateway.ask(&format!("bindings show {}", terminal.v4)).ok();
    assert!(text.ends_with("22 more, called earlier: --contacts 42 shows them\n"), "{text}");
    let text = gateway.ask(&format!("bindings show {} --contacts 42", terminal.v4)).ok();
    let line = text.lines().find(|line| line.starts_with(&format!("{} ", server.v4))).unwrap();
    assert!(line.contains(" ago ") && line.ends_with("yes           yes"), "{text}");
    let all = gateway.ask(&format!("bindings show {} --contacts some", terminal.v4));
    assert_eq!(all.code, Some(2), "{}", all.stderr);
}

#[test]
fn a_pool_that_is_not_there_is_no_empty_list_and_one_that_drains_says_so() {
    let lab = Lab::new(Plan::gateways(1));
    let _web = Web::start(&lab.server(1), 80);
    let gateway = lab.start_from_file(
        1,
        "inside = [\"gi\"]\noutside = [\"go\"]\n[[pool]]\nname = \"new\"\nrange = \"198.18.1.0/25\"\n\
         [[pool]]\nname = \"old\"\nrange = \"198.18.1.128/25\"\ndraining = true\n",
    );
    curl(&lab.terminal(1), lab.server(1).v4.into(), 80);
    for command in ["bindings --pool typo", "bindings --pool typo --json", "bindings release --pool typo"] {
        let ran = gateway.ask(command);
        assert_eq!(ran.code, Some(3), "{command}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.stderr, "kamei: there is no pool 'typo'; there are 'new', 'old'\n");
    }
    assert_eq!(gateway.ask("bindings --pool old").ok(), "no such bindings\n");
    let status = gateway.ask("status").ok();
    let pool = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(pool("old (draining)").ends_with("  -       128") && pool("new ").contains("  127"), "{status}");
    assert!(gateway.ask("top --once").ok().contains("draining: old "));
}
