//! Bindings survive: a restart, `kill -9`, a disk that takes nothing.

use crate::gateway::{Gateway, KAMEI};
use crate::lab::{Family, Host, Lab, Plan, need, wait_until};
use crate::traffic::{Web, curl, curl_in_vain, url};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Terminals of the flood: addresses of their own in one namespace.
const TERMINALS: u8 = 100;

/// Two terminals call, the gateway ends, another starts: each is known as before, and is called back.
fn known_again_after(end: impl Fn(Gateway)) {
    let lab = Lab::new(Plan::gateways(1).terminals(2).servers(2).unwatched());
    let _web = Web::start(&lab.server(1), 80);
    let _back: Vec<Web> = (1..=2).map(|t| Web::start(&lab.terminal(t), 8080)).collect();
    let gateway = lab.start(1);
    let mut known = Vec::new();
    for family in [Family::V4, Family::V6] {
        for terminal in [lab.terminal(1), lab.terminal(2)] {
            curl(&terminal, lab.server(1).address(family), 80);
            let own = terminal.address(family);
            known.push((own, gateway.virtual_ip(own), family));
        }
    }
    end(gateway);

    let gateway = lab.start(1);
    for (own, virtual_ip, family) in known {
        assert_eq!(gateway.virtual_ip(own), virtual_ip);
        let server = lab.server(1).address(family);
        let seen = lab.server(1).run(&format!("exec curl -sS --max-time 20 {}", url(virtual_ip, 8080, "me"))).ok();
        assert_eq!(seen, own.to_string(), "{server} calls back {virtual_ip}");
        curl_in_vain(&lab.server(2), virtual_ip, 8080);
    }
}

#[test]
fn n6_bindings_and_contacts_outlive_a_restart() {
    known_again_after(Gateway::stop);
}

#[test]
fn n6_bindings_and_contacts_outlive_a_gateway_that_was_killed() {
    known_again_after(Gateway::kill);
}

#[test]
fn n6_a_clock_that_is_set_takes_no_binding_and_no_contact() {
    need("faketime", "faketime");
    let lab = Lab::new(Plan::gateways(1).servers(2).unwatched());
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _web = Web::start(&server, 80);
    let _back = Web::start(&terminal, 8080);
    // How far the gateway's wall clock is from the right one.
    let clock = lab.scratch().join("clock");
    let set = |away: &str| std::fs::write(&clock, format!("{away}\n")).unwrap();
    let (file, preload) = (
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        format!("LD_PRELOAD=/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH),
    );
    let faked = ["env", &file, &preload, "FAKETIME_NO_CACHE=1", "DONT_FAKE_MONOTONIC=1"];
    // A confined process may not open the file.
    let config = lab.scratch().join("gateway.toml");
    let text = "inside = [\"gi\"]\noutside = [\"go\"]\nhardening = \"off\"\n[[pool]]\nrange =";
    std::fs::write(&config, format!("{text} \"{}\"\n", Lab::pool_v4(1))).unwrap();
    let command = [&faked, &[KAMEI, "gateway", "--config", config.to_str().unwrap()][..]].concat();
    let start = || lab.start_by(1, &command);
    let own = terminal.address(Family::V4);
    let made_ago = |gateway: &Gateway| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        now.abs_diff(gateway.binding(own)["created"].as_u64().unwrap() / 1000)
    };

    set("-20000d");
    let gateway = start();
    curl(&terminal, server.v4.into(), 80);
    let virtual_ip = gateway.virtual_ip(own);
    assert!(made_ago(&gateway) > 19_999 * 86_400, "as its clock says");
    set("+0d");
    assert!(made_ago(&gateway) < 3600, "it was made when it was, now that this is known");
    gateway.kill();
    // Started again, and the clock set meanwhile: two days behind, right, ahead, and like new.
    for (at_start, then) in [("+0d", "+0d"), ("-2d", "+0d"), ("+30d", "+0d"), ("-20000d", "+30d"), ("+0d", "-2d")] {
        set(at_start);
        let gateway = start();
        let binding = gateway.binding(own);
        assert_eq!((&binding["state"], &binding["contacts"]), (&"active".into(), &1.into()), "{at_start}");
        set(then);
        let seen = server.run(&format!("exec curl -sS --max-time 20 {}", url(virtual_ip, 8080, "me"))).ok();
        assert_eq!(seen, own.to_string(), "the server calls back");
        curl_in_vain(&lab.server(2), virtual_ip, 8080);
        gateway.stop();
    }
    // As others are told.
    set("+0d");
    let gateway = start();
    assert!(made_ago(&gateway) < 3600);
}

/// Gives a host further addresses: each stands for a terminal.
fn many_terminals(host: &Host) -> Vec<IpAddr> {
    let terminals: Vec<IpAddr> = (0..TERMINALS).map(|i| IpAddr::from([10, 77, 143, 50 + i])).collect();
    for terminal in &terminals {
        host.run(&format!("ip address add {terminal}/24 dev eth0")).ok();
    }
    terminals
}

#[test]
fn n3_whoever_was_seen_outside_has_the_same_virtual_ip_after_kill_9_in_the_middle_of_calls() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let (host, server) = (lab.terminal(1), lab.server(1));
    let terminals = many_terminals(&host);
    let seen_outside = server.inside(|| std::net::UdpSocket::bind(("0.0.0.0", 5300)).unwrap());
    seen_outside.set_nonblocking(true).unwrap();
    let mut known: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
    // Each datagram says whose it is; the server sees from which virtual IP it came.
    let look = |known: &mut BTreeMap<IpAddr, IpAddr>| {
        let mut text = [0; 64];
        while let Ok((length, from)) = seen_outside.recv_from(&mut text) {
            let terminal: IpAddr = std::str::from_utf8(&text[..length]).unwrap().parse().unwrap();
            let before = *known.entry(terminal).or_insert(from.ip());
            assert_eq!(before, from.ip(), "{terminal} was given another virtual IP");
        }
    };
    for round in 0..4_usize {
        let gateway = lab.start_with(1, &["--pool", "198.18.0.0/16"]);
        let sockets: Vec<_> = host
            .inside(|| terminals.iter().map(|terminal| std::net::UdpSocket::bind((*terminal, 0)).unwrap()).collect());
        // Each round some more call for the first time, and it is killed among them.
        for (socket, terminal) in sockets.iter().zip(&terminals).take((round + 1) * usize::from(TERMINALS) / 4) {
            let _ = socket.send_to(terminal.to_string().as_bytes(), (server.v4, 5300));
        }
        wait_until("somebody new to be seen", || {
            look(&mut known);
            known.len() > round * usize::from(TERMINALS) / 4
        });
        gateway.kill();
        look(&mut known);
    }
    let gateway = lab.start_with(1, &["--pool", "198.18.0.0/16"]);
    for (terminal, virtual_ip) in &known {
        assert_eq!(gateway.virtual_ip(*terminal), *virtual_ip);
    }
    let holders: std::collections::BTreeSet<_> = known.values().collect();
    assert_eq!(holders.len(), known.len(), "no virtual IP has two terminals");
}

#[test]
fn n6_no_contact_is_lost_to_kill_9_right_after_its_first_packet() {
    const KILLS: u8 = 5;
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let (host, server) = (lab.terminal(1), lab.server(1));
    let terminals = many_terminals(&host);
    let [a, b, c, _] = server.v4.octets();
    let peers: Vec<IpAddr> = (0..KILLS).map(|kill| IpAddr::from([a, b, c, 200 + kill])).collect();
    for peer in &peers {
        server.run(&format!("ip address add {peer}/24 dev eth0")).ok();
    }
    let open = |host: &Host, addresses: &[IpAddr]| -> Vec<std::net::UdpSocket> {
        let socket = |address: &IpAddr| {
            let socket = std::net::UdpSocket::bind((*address, 5300)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        host.inside(|| addresses.iter().map(socket).collect())
    };
    let (callers, called) = (open(&host, &terminals), open(&server, &peers));
    let mut count = 0;
    let mut gateway = lab.start_with(1, &["--pool", "198.18.0.0/16"]);
    for (kill, peer) in called.iter().enumerate() {
        // The first kill hits first contacts, each later one a few of them and many new contacts of known terminals.
        let who = usize::from(TERMINALS) * (kill + 1) / usize::from(KILLS);
        for (socket, terminal) in callers.iter().zip(&terminals).take(who) {
            let _ = socket.send_to(terminal.to_string().as_bytes(), (peers[kill], 5300));
        }
        let mut seen: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
        let mut text = [0; 64];
        let mut look = |seen: &mut BTreeMap<IpAddr, IpAddr>| {
            while let Ok((length, from)) = peer.recv_from(&mut text) {
                seen.insert(std::str::from_utf8(&text[..length]).unwrap().parse().unwrap(), from.ip());
            }
        };
        wait_until("somebody to be heard", || {
            look(&mut seen);
            seen.len() > kill
        });
        gateway.kill();
        look(&mut seen);
        gateway = lab.start_with(1, &["--pool", "198.18.0.0/16"]);
        count += seen.len();
        // Whoever was heard is answered, and hears that.
        let mut unanswered: std::collections::BTreeSet<IpAddr> = seen.keys().copied().collect();
        wait_until("the answers to all who were heard", || {
            for terminal in &unanswered {
                let _ = peer.send_to(b"answer", (seen[terminal], 5300));
            }
            let hears = |socket: &std::net::UdpSocket| {
                socket.recv_from(&mut [0; 64]).is_ok_and(|(_, from)| from.ip() == peers[kill])
            };
            for (socket, terminal) in callers.iter().zip(&terminals) {
                while hears(socket) {
                    unanswered.remove(terminal);
                }
            }
            unanswered.is_empty()
        });
        assert_eq!(gateway.dropped("not_contacted"), 0);
    }
    println!("{count} contacts");
}

/// A line of shell that gives the gateway a state directory on a small disk of its own.
fn small_disk(lab: &Lab, options: &str) -> String {
    let state = lab.scratch().join("state1");
    std::fs::create_dir_all(&state).unwrap();
    format!("mount -t tmpfs -o mode=700,{options} tmpfs {}", state.display())
}

#[test]
fn a_full_disk_costs_new_terminals_their_binding_and_nobody_else_anything() {
    let lab = Lab::new(Plan::gateways(1).terminals(2).unwatched());
    let _web = Web::start(&lab.server(1), 80);
    let server = lab.server(1).address(Family::V4);
    let gateway = lab.start_prepared(1, &small_disk(&lab, "size=2m"), &["--pool", "198.18.1.0/24"]);
    curl(&lab.terminal(1), server, 80);
    let fill = format!("/proc/{}/root{}/fill", gateway.pid(), lab.scratch().join("state1").display());
    let full = std::fs::write(&fill, vec![0; 4 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);

    curl_in_vain(&lab.terminal(2), server, 80);
    assert!(gateway.dropped("cannot_record") > 0);
    // Its status says so too until the next try, which may find a page that SQLite has given back meanwhile.
    assert!(gateway.log().contains("cannot record bindings") && gateway.log().contains("is full"), "{}", gateway.log());
    curl(&lab.terminal(1), server, 80);
    assert_eq!(gateway.log().matches("cannot record bindings").count(), 1, "{}", gateway.log());

    std::fs::remove_file(&fill).unwrap();
    wait_until("the disk to be tried again", || gateway.status()["state_file"]["failing"].is_null());
    curl(&lab.terminal(2), server, 80);
    assert!(gateway.log().contains("can be written again"), "{}", gateway.log());
}

#[test]
fn a_read_only_state_directory_is_said_at_the_start() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let ran = lab.gateway(1).run(&format!(
        "{} && exec {} gateway --inside gi --outside go --pool 198.18.1.0/24 --control {} --state-dir {}",
        small_disk(&lab, "ro"),
        KAMEI,
        lab.control(1).display(),
        lab.scratch().join("state1").display()
    ));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("Read-only file system") && ran.stderr.lines().count() == 1, "{}", ran.stderr);
}
