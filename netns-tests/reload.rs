//! Another configuration for a running gateway.

use crate::gateway::Gateway;
use crate::lab::{Family, Lab, Plan, wait_until};
use crate::traffic::{Web, accept, connect, curl, curl_in_vain, listen};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};

const SIDES: &str = "inside = [\"gi\"]\noutside = [\"go\"]\n";

fn pools(ranges: &[&str]) -> String {
    ranges.iter().map(|range| format!("[[pool]]\nrange = \"{range}\"\n")).collect()
}

fn write(lab: &Lab, text: &str) {
    std::fs::write(lab.scratch().join("gateway1.toml"), text).unwrap();
}

/// The ranges of the pools that the gateway has now.
fn ranges(gateway: &Gateway) -> Vec<String> {
    let status = gateway.status();
    status["pools"].as_array().unwrap().iter().map(|pool| pool["range"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn s_a_reload_changes_pools_under_an_established_connection() {
    let lab = Lab::new(Plan::gateways(1).terminals(2));
    let (first, second, server) = (lab.terminal(1), lab.terminal(2), lab.server(1));
    let gateway = lab.start_from_file(1, &format!("{SIDES}{}", pools(&["198.18.1.0/26", "2001:db8:18:1::/64"])));
    let (_web, _here) = (Web::start(&server, 80), Web::start(&first, 80));
    let listener = listen(&server, 7000);
    let mut ours = connect(&first, SocketAddr::new(server.v4.into(), 7000));
    let (mut theirs, seen) = accept(&listener);
    let mut ask = |word: &[u8; 4]| {
        let mut heard = [0; 4];
        ours.write_all(word).unwrap();
        theirs.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, word);
        theirs.write_all(word).unwrap();
        ours.read_exact(&mut heard).unwrap();
    };
    ask(b"one ");

    // A pool comes, one changes its order, the IPv6 one goes; asked for on the control socket.
    write(&lab, &format!("{SIDES}{}", pools(&["198.18.1.64/26", "198.18.1.0/26"])));
    let would = gateway.ask("reload --dry-run").ok();
    assert!(
        would.contains("pool 198.18.1.64/26 comes: by a reload\n")
            && would.contains("pool 2001:db8:18:1::/64 goes: by a reload\n"),
        "{would}"
    );
    assert_eq!(ranges(&gateway), ["198.18.1.0/26", "2001:db8:18:1::/64"]);
    let done = gateway.ask("reload").ok();
    assert!(done.ends_with("in force\n"), "{done}");
    ask(b"two ");
    assert_eq!(gateway.virtual_ip(first.v4.into()), seen);
    assert_eq!(curl(&server, seen, 80), format!("{} 80", server.v4));
    assert!(gateway.ask("reload").ok().contains("nothing has changed"));

    // The pool of the connection goes, by SIGHUP: the terminal is given another virtual IP, the old one is nobody's.
    write(&lab, &format!("{SIDES}{}", pools(&["198.18.1.64/26"])));
    let would = gateway.ask("reload --dry-run").ok();
    assert!(would.contains(&format!("{} (inside) was {seen}", first.v4)) && would.contains("would be"), "{would}");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(gateway.pid()).unwrap()).unwrap(),
        Signal::HUP,
    )
    .unwrap();
    wait_until("the reload", || ranges(&gateway) == ["198.18.1.64/26"]);
    curl_in_vain(&server, seen, 80);
    for terminal in [&first, &second] {
        let shown: IpAddr = curl(terminal, server.v4.into(), 80).split(' ').next().unwrap().parse().unwrap();
        assert_eq!(gateway.virtual_ip(terminal.v4.into()), shown);
        assert!(shown.to_string().split('.').nth(3).unwrap().parse::<u8>().unwrap() >= 64, "{shown}");
    }
    gateway.stop();
}

#[test]
fn a_pool_that_goes_and_comes_back_by_reload_has_its_bindings_still() {
    let lab = Lab::new(Plan::gateways(1).terminals(2));
    let (first, second, server) = (lab.terminal(1), lab.terminal(2), lab.server(1));
    let both = pools(&["198.18.1.7/32", "2001:db8:18:1::7/128"]);
    let gateway = lab.start_from_file(1, &format!("{SIDES}{both}"));
    let (_web, _here) = (Web::start(&server, 80), Web::start(&first, 8080));
    let families = [Family::V4, Family::V6];
    for family in families {
        curl(&first, server.address(family), 80);
    }
    let given = families.map(|family| gateway.virtual_ip(first.address(family)));
    let state = lab.scratch().join("state1");
    let export = format!("exec {} state export --state-dir {}", crate::gateway::KAMEI, state.display());
    wait_until("the contacts to be written", || gateway.host.run(&export).ok().matches("\"contacts\"").count() == 2);

    write(&lab, &format!("{SIDES}{}", pools(&["198.18.2.0/24"])));
    gateway.ask("reload").ok();
    assert!(gateway.bindings().is_empty());
    curl_in_vain(&server, given[0], 8080);
    write(&lab, &format!("{SIDES}{both}"));
    let done = gateway.ask("reload").ok();
    assert!(done.contains("2 bindings that were kept aside are back"), "{done}");

    // Its only virtual IPs are taken, and lead to whom they led.
    for (family, virtual_ip) in families.into_iter().zip(given) {
        curl_in_vain(&second, server.address(family), 80);
        assert_eq!(gateway.virtual_ip(first.address(family)), virtual_ip);
        curl(&server, virtual_ip, 8080);
        curl(&first, server.address(family), 80);
    }
}

#[test]
fn s_a_reload_that_is_wrong_changes_nothing() {
    let lab = Lab::new(Plan::gateways(1));
    let right = format!("{SIDES}{}", pools(&["198.18.1.0/24"]));
    let gateway = lab.start_from_file(1, &right);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _web = Web::start(&server, 80);
    let shown = curl(&terminal, server.v4.into(), 80);
    let rules = gateway.host.run("ip rule; ip route show table all").ok();
    for (text, said) in [
        (right.replace("198.18.1.0/24", "198.18.1.1/24"), "gateway1.toml:4: "),
        (right.replace("range", "rang"), "gateway1.toml:4: there is no key 'rang'"),
        (format!("workers = 1\n{right}"), "workers can only be changed by a restart; nothing was changed"),
        (right.replace("\"go\"", "\"gx\""), "outside can only be changed by a restart"),
        // Fine by itself, but this host is inside there.
        (right.replace("198.18.1.0/24", &format!("{}/32", terminal.v4)), &terminal.v4.to_string()),
    ] {
        write(&lab, &text);
        for question in ["reload", "reload --dry-run"] {
            let ran = gateway.ask(question);
            assert_eq!(ran.code, Some(3), "{text}: {}{}", ran.stdout, ran.stderr);
            assert!(ran.stderr.contains(said) && ran.stderr.lines().count() == 1, "{text}: {}", ran.stderr);
        }
        assert_eq!(ranges(&gateway), ["198.18.1.0/24"]);
    }
    std::fs::remove_file(lab.scratch().join("gateway1.toml")).unwrap();
    assert!(gateway.ask("reload").stderr.contains("cannot read"));
    assert_eq!(gateway.host.run("ip rule; ip route show table all").ok(), rules);
    assert_eq!(curl(&terminal, server.v4.into(), 80), shown);
    gateway.stop();
}

/// Whoever asks what would happen hears it; the log is for what happens.
#[test]
fn a_dry_run_is_no_error_and_a_gateway_of_flags_says_that_it_has_no_file() {
    let lab = Lab::new(Plan::gateways(1));
    let gateway = lab.start_from_file(1, &format!("{SIDES}{}", pools(&["198.18.1.0/24"])));
    write(&lab, &format!("{SIDES}workers = 7\n{}", pools(&["198.18.1.0/24"])));
    let refused = gateway.ask("reload --dry-run");
    assert_eq!(refused.code, Some(3), "{}", refused.stdout);
    assert!(refused.stderr.contains("workers"), "{}", refused.stderr);
    assert!(!gateway.log().contains("not reloaded"), "{}", gateway.log());
    assert_eq!(gateway.ask("reload").code, Some(3));
    wait_until("the line", || gateway.log().contains("not reloaded: workers"));
    drop(gateway);

    let gateway = lab.start(1);
    for line in ["reload", "reload --dry-run"] {
        let refused = gateway.ask(line);
        assert_eq!(refused.code, Some(3), "{}", refused.stdout);
        assert!(refused.stderr.contains("started by flags alone"), "{}", refused.stderr);
    }
}

#[test]
fn a_dry_run_says_what_only_a_restart_brings_and_which_bindings_that_would_cost() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let right = format!("{SIDES}{}", pools(&["198.18.1.0/24"]));
    let gateway = lab.start_from_file(1, &right);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _web = Web::start(&server, 80);
    let shown = curl(&terminal, server.v4.into(), 80);
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());
    let dry = |text: &str| {
        write(&lab, text);
        let ran = gateway.ask("reload --dry-run");
        assert!(ran.code == Some(3) && ran.stderr.contains("can only be changed by a restart"), "{}", ran.stderr);
        ran.stdout
    };
    let said = dry(&format!("workers = 1\ncallback = \"anyone\"\n{right}"));
    for words in ["callback changes: by a reload", "workers changes: by a restart only", "0 bindings would not fit"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let moved = format!("workers = 1\n{SIDES}{}", pools(&["198.18.9.0/24"]));
    let said = dry(&moved);
    let words = format!("{} (inside) was {virtual_ip}: would be kept aside after the restart", terminal.v4);
    assert!(said.contains(&words) && said.contains("1 binding would not fit"), "{words}: {said}");
    let named = right
        .replace("inside = [\"gi\"]\n", "")
        .replace("[[pool]]", "[[inside]]\nname = \"x\"\ninterfaces = [\"gi\"]\n[[pool]]");
    assert!(dry(&named).contains("its inside is not served"), "{named}");
    let said = dry(&format!("tun = \"other\"\n{right}").replace("\"go\"", "\"gx\""));
    assert!(
        said.contains("it stays in the state file of now") && said.contains("would not start: ") && said.contains("gx"),
        "{said}"
    );
    // Programs read the same.
    let json: serde_json::Value = serde_json::from_str(&gateway.ask("reload --dry-run --json").stdout).unwrap();
    assert_eq!((&json["restart"]["kept_aside"], &json["applied"]), (&1.into(), &false.into()), "{json}");
    assert_eq!(curl(&terminal, server.v4.into(), 80), shown);
}
