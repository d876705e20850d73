//! What an operator sees of a running gateway.

use crate::gateway::{Gateway, KAMEI};
use crate::lab::{Background, Family, Lab, Plan, wait_until};
use crate::traffic::{Web, curl};
use rustix::process::Signal;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `kamei WORDS…` beside the gateway, from when it watches.
pub fn watch(gateway: &Gateway, words: &[&str]) -> Background {
    let control = gateway.control().to_str().unwrap();
    // Each writes a log of its own: none takes the first words of another for its own.
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let log = format!("{}-{}", words[0], NUMBER.fetch_add(1, Ordering::Relaxed));
    let watching = gateway.host.spawn(&log, &[&[KAMEI], words, &["--control", control]].concat());
    wait_until("the gateway to show packets", || watching.output().contains("kamei: watching"));
    watching
}

#[test]
fn metrics_are_told_on_the_loopback_port_and_name_no_terminal() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server, host) = (lab.terminal(1), lab.server(1), lab.gateway(1));
    let _web = Web::start(&server, 80);
    let gateway =
        lab.start_with(1, &["--pool", &Lab::pool_v4(1), "--pool", &Lab::pool_v6(1), "--metrics", "127.0.0.1:9101"]);
    for family in [Family::V4, Family::V6] {
        curl(&terminal, server.address(family), 80);
    }

    let text = host.run("curl -sS --max-time 5 http://127.0.0.1:9101/metrics").ok();

    let value = |start: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("{start}: {text}"));
        line.trim().parse().unwrap_or_else(|_| panic!("{start}{line}"))
    };
    assert!(value("kamei_packets_total{direction=\"out\"}") >= 8, "{text}");
    assert_eq!(value("kamei_bindings_created_total"), 2);
    assert_eq!(value("kamei_bindings{pool=\"198.18.1.0/24\",state=\"active\"}"), 1);
    let reads = text.lines().filter_map(|line| line.strip_prefix("kamei_worker_reads_total{")?.rsplit(' ').next());
    assert!(reads.map(|number| number.parse::<u64>().unwrap()).sum::<u64>() >= 8, "{text}");
    assert_eq!(value("kamei_queue_full_total{device=\"kamei-nat\"}"), 0);
    for hidden in lab.hidden(1) {
        assert!(!text.contains(&hidden.to_string()), "{hidden} in {text}");
    }
    let same = host.run(&format!("curl -sS --unix-socket {} http://kamei/v1/metrics", gateway.control().display()));
    assert!(same.ok().ends_with("# EOF\n"));
    // Nothing else is told there, and other machines are not told anything.
    let code = host.run("curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:9101/v1/bindings").ok();
    assert_eq!(code, "404");
    assert!(!server.run("curl -sS --max-time 2 http://203.0.113.1:9101/metrics").succeeded());
}

#[test]
fn those_who_have_stopped_watching_make_room_though_there_is_nothing_to_see() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let gateway = lab.start_with(1, &["--pool", &Lab::pool_v4(1)]);
    // Eight there may be at one time.
    for _ in 0..9 {
        drop(watch(&gateway, &["trace", "--peer", "192.0.2.77"]));
    }
}

#[test]
fn a_trace_shows_both_sides_and_why_a_packet_is_dropped() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (terminal, server, stranger) = (lab.terminal(1), lab.server(1), lab.server(2));
    let _webs = [Web::start(&server, 80), Web::start(&terminal, 8080)];
    let gateway = lab.start(1);
    let (mut all, mut drops) = (watch(&gateway, &["trace"]), watch(&gateway, &["trace", "--drops", "--json"]));
    let mut first = watch(&gateway, &["trace", "--count", "1", "--terminal", &terminal.v4.to_string()]);

    curl(&terminal, server.v4.into(), 80);
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());
    let refused = stranger.run(&format!("curl -sS --max-time 1 http://{virtual_ip}:8080/"));
    assert!(!refused.succeeded());

    let begins = format!(" inside tcp syn 60 B  {}:", terminal.v4);
    let made = format!("  → outside {virtual_ip}:");
    wait_until("the call in the trace", || {
        let text = all.output();
        text.lines().any(|line| {
            line.contains(&begins)
                && line.contains(&made)
                && line.ends_with(&format!(" > {}:80  (binding created)", server.v4))
        })
    });
    let refused = "  dropped, not_contacted: ";
    wait_until("the refusal in the trace", || all.output().contains(refused));
    wait_until("the refusal among the drops", || drops.output().contains("\"reason\":\"not_contacted\""));
    assert!(!drops.output().contains("\"to\":"), "{}", drops.output());
    assert_eq!(first.wait().code(), Some(0), "{}", first.output());
    assert!(first.output().contains("kamei: 1 packets, 0 more left out"), "{}", first.output());
    all.signal(Signal::INT);
    assert_eq!(all.wait().code(), Some(0), "{}", all.output());
    // A gateway that stops ends what is left.
    gateway.stop();
    assert_eq!(drops.wait().code(), Some(0), "{}", drops.output());
    assert!(drops.output().contains("the gateway has stopped"), "{}", drops.output());
}

#[test]
fn a_capture_of_both_sides_is_what_wireshark_reads() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _web = Web::start(&server, 80);
    let gateway = lab.start(1);
    let file = lab.scratch().join("both.pcapng");
    let file = file.to_str().unwrap();
    let mut capture = watch(&gateway, &["capture", "-w", file, "--snap", "100"]);

    curl(&terminal, server.v4.into(), 80);
    server.run(&format!("curl -sS --max-time 1 http://{}:9/", gateway.virtual_ip(terminal.v4.into())));
    server.run("ping -c 1 -W 1 198.18.1.255");
    let read = |fields: &str| {
        // tshark gives up its rights where it can: what it reads must be its own.
        terminal.run(&format!("tshark -n -r {file} -T fields {fields} 2>/dev/null")).stdout
    };
    wait_until("the last packet in the file", || read("-e frame.comment").contains("dropped, no_binding"));
    capture.signal(Signal::INT);
    assert_eq!(capture.wait().code(), Some(0), "{}", capture.output());

    let virtual_ip = gateway.virtual_ip(terminal.v4.into());
    let lines = read("-e frame.interface_name -e ip.src -e ip.dst -e tcp.flags.syn -e frame.comment");
    // What hosts say of themselves when they come up may be before it, and is dropped.
    let call = format!("inside\t{}\t", terminal.v4);
    let mut lines = lines.lines().skip_while(|line| !line.starts_with(&call));
    let first = lines.next().unwrap_or_default();
    assert_eq!(
        first.split('\t').collect::<Vec<_>>(),
        ["inside", &terminal.v4.to_string(), &server.v4.to_string(), "1", "translated, to outside; binding made"]
    );
    let second: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    assert_eq!(second[..4], ["outside", &virtual_ip.to_string(), &server.v4.to_string(), "1"]);
    let info = terminal.run(&format!("capinfos -M {file}")).ok();
    assert!(info.contains("pcapng") && info.contains("Number of interfaces in file: 2"), "{info}");
}

#[test]
fn what_is_explained_is_what_the_gateway_does() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (terminal, server, stranger) = (lab.terminal(1), lab.server(1), lab.server(2));
    let _web = Web::start(&server, 80);
    let gateway = lab.start(1);
    let ask = |question: &str| gateway.ask(&format!("explain {question}")).ok();

    let would = ask(&format!("'{} -> {} tcp/80'", terminal.v4, server.v4));
    assert!(!gateway.knows(terminal.v4.into()), "asking makes no binding");
    curl(&terminal, server.v4.into(), 80);
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());
    assert!(would.contains(&format!("This packet would make its binding, with {virtual_ip}.")), "{would}");
    let passes = format!("It passes: to outside, as {virtual_ip} → {}.", server.v4);
    assert!(would.contains(&passes), "{would}");

    let back = ask(&format!("{} {virtual_ip} udp/9", server.v4));
    assert!(back.contains(&format!("It passes: to inside, as {} → {}.", server.v4, terminal.v4)), "{back}");
    let refused = ask(&format!("{} {virtual_ip} --realm outside", stranger.v4));
    assert!(refused.contains("It is dropped: not_contacted.\n"), "{refused}");
    assert!(refused.contains("kamei bindings callback"), "{refused}");
    let json = ask(&format!("{} {virtual_ip} --json", stranger.v4));
    assert!(json.contains("\"reason\": \"not_contacted\""), "{json}");
    for (wrong, code, says) in [
        ("10.0.0.1 -", 2, "a packet is SOURCE DESTINATION"),
        ("10.0.0.1 2001:db8::1", 3, "different address families"),
        ("10.0.0.1 192.0.2.1 --realm moon", 3, "no realm 'moon'; there are outside, inside"),
    ] {
        let ran = gateway.ask(&format!("explain {wrong}"));
        assert!(ran.code == Some(code) && ran.stderr.contains(says), "{wrong}: {:?} {}", ran.code, ran.stderr);
    }
}

#[test]
fn drops_are_told_by_reason_and_by_whom() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (terminal, server, stranger) = (lab.terminal(1), lab.server(1), lab.server(2));
    let _web = Web::start(&server, 80);
    let gateway = lab.start(1);
    curl(&terminal, server.v4.into(), 80);
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());
    let nothing = gateway.ask(&format!("drops {}", stranger.v4)).ok();
    assert!(nothing.contains(&format!("None of them is known to be of {}.", stranger.v4)), "{nothing}");

    stranger.run(&format!("ping -c 3 -i 0.2 -W 1 {virtual_ip}"));
    let row = |text: &str| {
        let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        rows.filter(|row| row.contains("not_contacted") && row.contains(&stranger.v4.to_string())).collect::<Vec<_>>()
    };
    let own = format!("3 {} not_contacted {} {virtual_ip}", stranger.v4, terminal.v4);
    for question in ["drops".to_owned(), format!("drops {}", terminal.v4), format!("drops --since-start {virtual_ip}")]
    {
        let told = gateway.ask(&question).ok();
        let rows = row(&told);
        assert!(rows.len() == 2 && rows.iter().all(|row| row.starts_with(&own)), "{question}: {told}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&gateway.ask(&format!("drops {} --json", stranger.v4)).ok()).unwrap();
    assert_eq!(json["peers"][0]["packets"], 3, "{json}");
    assert_eq!(json["peers"][0]["virtual_ip"], virtual_ip.to_string(), "{json}");
    let wrong = gateway.ask("drops me");
    assert!(wrong.code == Some(2) && wrong.stderr.lines().count() == 1, "{}", wrong.stderr);
}

#[test]
fn flows_of_the_kernel_are_told_and_why_one_is_not_among_them() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (terminal, server, other) = (lab.terminal(1), lab.server(1), lab.server(2));
    let gateway = lab.start(1);
    let ask = |question: &str| gateway.ask(question).ok();
    assert!(ask("flows").starts_with("No flows are in the kernel"), "{}", ask("flows"));
    let json = || -> serde_json::Value {
        serde_json::from_str(&ask(&format!("flows {} {} --json", terminal.v4, server.v4))).unwrap()
    };
    wait_until("both directions to be in the kernel, and to have carried something", || {
        terminal.run(&format!("ping -n -c 5 -i 0.01 -W 1 {}", server.v4)).ok();
        let flows = json()["flows"].as_array().cloned().unwrap_or_default();
        flows.len() == 2 && flows.iter().all(|flow| flow["packets"].as_u64() > Some(0))
    });
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());
    let told = json();
    let directions: Vec<_> = told["flows"].as_array().unwrap().iter().map(|flow| flow["direction"].as_str()).collect();
    assert!(directions.contains(&Some("in")) && directions.contains(&Some("out")), "{told}");
    assert_eq!(told["flows"][0]["virtual_ip"], virtual_ip.to_string(), "{told}");
    for address in [terminal.v4.into(), server.v4.into(), virtual_ip] {
        let text = ask(&format!("flows {address}"));
        assert!(text.starts_with(&format!("2 flows of {address} are in the kernel (tc).")), "{text}");
    }
    assert!(ask("flows --limit 1").contains("2 flows are in the kernel (tc), 1 are shown."));
    for (question, says) in [
        (format!("flows {} {}", terminal.v4, other.v4), "Neither direction is in the kernel"),
        (format!("flows {} {} 47", terminal.v4, server.v4), "Protocol 47 always goes through user space"),
        (format!("flows {} {} tcp/80", terminal.v4, server.v4), "Single packets go through user space all the same"),
        (format!("flows {} {virtual_ip}", other.v4), "would be dropped: not_contacted"),
    ] {
        let text = ask(&question);
        assert!(text.contains(says), "{question}: {text}");
    }
    for (wrong, code) in [("flows me", 2), ("flows 10.0.0.1 10.0.0.2 tpc", 2), ("flows 10.0.0.1 2001:db8::1", 3)] {
        let ran = gateway.ask(wrong);
        assert!(ran.code == Some(code) && ran.stderr.lines().count() == 1, "{wrong}: {:?} {}", ran.code, ran.stderr);
    }
}

#[test]
fn what_is_explained_tells_of_the_machine_too() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (host, terminal, server, stranger) = (lab.gateway(1), lab.terminal(1), lab.server(1), lab.server(2));
    let gateway = lab.start(1);
    terminal.run(&format!("ping -n -c 2 -i 0.2 -W 1 {}", server.v4)).ok();
    let virtual_ip = gateway.virtual_ip(terminal.v4.into());
    let ask = |question: &str| gateway.ask(&format!("explain {question}")).ok();
    let call = format!("{} {} tcp/80", terminal.v4, server.v4);
    assert!(!ask(&call).contains("But on this machine"), "{}", ask(&call));

    stranger.run(&format!("ping -n -c 3 -i 0.2 -W 1 {virtual_ip}"));
    let said = ask(&format!("{} {virtual_ip}", stranger.v4));
    let met = format!("3 packets of the peer {} were dropped in the last", stranger.v4);
    assert!(said.contains(&met), "{said}");

    host.run("ip link add elsewhere type veth peer name nowhere && ip link set nowhere up && ip link set elsewhere up && ip addr add 172.30.0.1/30 dev elsewhere")
        .ok();
    host.run(&format!("ip route add {}/32 dev elsewhere", server.v4)).ok();
    let said = ask(&call);
    assert!(
        said.contains("But on this machine") && said.contains("'elsewhere', which is neither inside nor outside"),
        "{said}"
    );
    // An address of this machine on an interface that is neither inside nor outside, at either end.
    for own in [format!("172.30.0.1 {virtual_ip} tcp/80"), format!("{} 172.30.0.1 tcp/22", terminal.v4)] {
        let said = ask(&own);
        assert!(said.contains("172.30.0.1 is this machine's own address") && said.contains("not translated"), "{said}");
    }
    let own = ask(&format!("{} 10.77.143.1 tcp/22", terminal.v4));
    assert!(own.contains("not translated"), "{own}");
    host.run(&format!("ip route del {}/32 dev elsewhere", server.v4)).ok();

    host.run("nft add table ip closed; nft 'add chain ip closed forward { type filter hook forward priority 0; policy drop; }'").ok();
    let said = ask(&call);
    assert!(said.contains("But on this machine") && said.contains("closed"), "{said}");
}

#[test]
fn a_log_in_json_tells_a_binding_s_life_without_the_terminal_s_address() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _web = Web::start(&server, 80);
    let pools = ["--pool", &Lab::pool_v4(1), "--pool", &Lab::pool_v6(1)];
    let gateway = lab.start_with(1, &[&pools[..], &["--log-format", "json", "--log-terminals", "hash"]].concat());
    curl(&terminal, server.v4.into(), 80);
    let virtual_ip = gateway.virtual_ip(terminal.v4.into()).to_string();
    gateway.ask(&format!("bindings release {}", terminal.v4)).ok();

    let events = |name: &str| -> Vec<serde_json::Value> {
        let records =
            gateway.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>();
        records.into_iter().filter(|record| record["event"] == name).collect()
    };
    wait_until("the record of the release", || !events("released").is_empty());

    let (made, released) = (events("made"), events("released"));
    assert_eq!((made.len(), released.len()), (1, 1), "{}", gateway.log());
    for key in ["terminal", "virtual_ip", "pool", "realm", "made"] {
        if key != "made" {
            assert_eq!(made[0][key], released[0][key], "{key}");
        }
        assert!(released[0][key].as_str().is_some_and(|value| !value.is_empty()), "{key} in {}", released[0]);
    }
    assert_eq!((&released[0]["virtual_ip"], &released[0]["realm"]), (&virtual_ip.into(), &"inside".into()));
    assert!(made[0]["terminal"].as_str().unwrap().starts_with("terminal-"), "{}", made[0]);
    let log = gateway.log();
    for hidden in [terminal.v4.to_string(), terminal.v6.to_string(), server.v4.to_string()] {
        assert!(!log.contains(&hidden), "{hidden} in {log}");
    }
}

#[test]
fn one_screen_of_top_as_text() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _web = Web::start(&server, 80);
    let gateway = lab.start(1);
    curl(&terminal, server.v4.into(), 80);
    let screen = gateway.ask("top --once").ok();
    assert!(
        screen.lines().next().is_some_and(|line| line.starts_with("kamei ") && line.ends_with("ready")),
        "{screen}"
    );
    assert!(screen.contains(&terminal.v4.to_string()) && screen.contains("198.18.1.0/24"), "{screen}");
    assert_eq!(gateway.ask("top").code, Some(2), "not a terminal");
}
