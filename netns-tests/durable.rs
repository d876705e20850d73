//! What `durability` and `when-disk-fails` promise, on a disk that fails under a running gateway: strace gives the errors.

use crate::gateway::{Gateway, KAMEI};
use crate::lab::{Background, Host, Lab, Plan, need, wait_until};
use crate::traffic::{Web, curl, curl_in_vain};
use rustix::process::Signal;
use std::net::UdpSocket;
use std::path::PathBuf;

const SIDES: &str = "inside = [\"gi\"]\noutside = [\"go\"]\n[[pool]]\nrange = \"198.18.1.0/24\"\n";

/// The disk of a gateway fails for as long as this lives.
struct Failing {
    strace: Background,
}

impl Failing {
    /// `inject` as strace has it.
    #[track_caller]
    fn start(gateway: &Gateway, inject: &str) -> Self {
        need("strace", "strace");
        let (pid, inject) = (gateway.pid().to_string(), format!("inject={inject}"));
        let strace =
            gateway.host.spawn("strace", &["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject, "-p", &pid]);
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        wait_until("strace to have every thread", || {
            std::fs::read_dir(&tasks).unwrap().all(|task| {
                let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                !status.contains("TracerPid:\t0\n")
            })
        });
        Self { strace }
    }

    fn end(mut self) {
        self.strace.signal(Signal::TERM);
        self.strace.wait();
    }
}

/// A server that notes the datagrams it gets.
struct Notes {
    socket: UdpSocket,
    seen: Vec<u8>,
}

impl Notes {
    fn start(host: &Host) -> Self {
        let socket = host.inside(|| UdpSocket::bind(("0.0.0.0", 5300)).unwrap());
        socket.set_nonblocking(true).unwrap();
        Self { socket, seen: Vec::new() }
    }

    fn has(&mut self, word: u8) -> bool {
        let mut byte = [0];
        while self.socket.recv(&mut byte).is_ok() {
            self.seen.push(byte[0]);
        }
        self.seen.contains(&word)
    }
}

fn say(from: &Host, to: &Host, word: u8) {
    let socket = from.inside(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    socket.send_to(&[word], (to.v4, 5300)).unwrap();
}

fn failing(gateway: &Gateway) -> Option<String> {
    gateway.status()["state_file"]["failing"].as_str().map(str::to_owned)
}

#[test]
fn n3_strict_durability_keeps_a_first_packet_until_its_binding_is_on_disk() {
    let lab = Lab::new(Plan::gateways(1).terminals(3).unwatched());
    let (known, new, later, server) = (lab.terminal(1), lab.terminal(2), lab.terminal(3), lab.server(1));
    let gateway = lab.start_from_file(1, &format!("durability = \"strict\"\n{SIDES}"));
    let mut notes = Notes::start(&server);
    say(&known, &server, 1);
    wait_until("the first datagram", || notes.has(1));

    let disk = Failing::start(&gateway, "fdatasync,fsync:error=EIO");
    say(&new, &server, 2);
    wait_until("the sync to fail", || failing(&gateway).is_some());
    assert!(gateway.knows(new.v4.into()), "it has a virtual IP, and the system has the row");
    say(&later, &server, 3);
    wait_until("somebody later to be refused", || gateway.dropped("cannot_record") > 0);
    say(&known, &server, 4);
    wait_until("what is on disk to pass", || notes.has(4));
    assert_eq!(notes.seen, [1, 4]);

    disk.end();
    wait_until("the first packet to leave once the disk has it", || notes.has(2));
    assert_eq!(failing(&gateway), None);
    assert!(gateway.log().contains("was written anew, because a sync had failed"), "{}", gateway.log());
    say(&later, &server, 5);
    wait_until("a new terminal", || notes.has(5));
    assert!(!notes.has(3));
    let virtual_ips = [&known, &new, &later].map(|terminal| gateway.virtual_ip(terminal.v4.into()));
    gateway.kill();
    let gateway = lab.start_from_file(1, SIDES);
    assert_eq!([&known, &new, &later].map(|terminal| gateway.virtual_ip(terminal.v4.into())), virtual_ips);
}

#[test]
fn strict_durability_holds_nobody_up_where_a_failing_disk_is_allowed() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let config = format!("durability = \"strict\"\nwhen-disk-fails = \"allow\"\n{SIDES}");
    let gateway = lab.start_from_file(1, &config);
    let mut notes = Notes::start(&lab.server(1));
    let disk = Failing::start(&gateway, "fdatasync,fsync:error=EIO");
    say(&lab.terminal(1), &lab.server(1), 1);
    wait_until("the first packet", || notes.has(1));
    assert!(failing(&gateway).is_some());
    disk.end();
    wait_until("the disk to be tried again", || failing(&gateway).is_none());
}

/// What a file system that became read-only says to those who have files open.
const READ_ONLY: &str = "pwrite64,fdatasync,fsync,ftruncate:error=EROFS";

#[test]
fn a_disk_that_becomes_read_only_costs_no_terminal_anything_where_that_is_allowed() {
    let lab = Lab::new(Plan::gateways(1).terminals(2).unwatched());
    let (first, second, server) = (lab.terminal(1), lab.terminal(2), lab.server(1));
    let (_web, _here) = (Web::start(&server, 80), Web::start(&second, 8080));
    let gateway = lab.start_from_file(1, &format!("when-disk-fails = \"allow\"\n{SIDES}"));
    curl(&first, server.v4.into(), 80);
    let disk = Failing::start(&gateway, READ_ONLY);
    curl(&second, server.v4.into(), 80);
    let virtual_ip = gateway.virtual_ip(second.v4.into());
    curl(&server, virtual_ip, 8080);
    assert!(failing(&gateway).is_some());
    assert!(gateway.log().contains("are made all the same and would be forgotten by a restart"), "{}", gateway.log());

    disk.end();
    wait_until("the disk to be tried again", || failing(&gateway).is_none());
    gateway.kill();
    let gateway = lab.start_from_file(1, SIDES);
    assert_eq!(gateway.virtual_ip(second.v4.into()), virtual_ip, "it was written when that was possible");
}

#[test]
fn a_disk_that_becomes_read_only_costs_new_terminals_their_binding_by_default() {
    let lab = Lab::new(Plan::gateways(1).terminals(2).unwatched());
    let (first, second, server) = (lab.terminal(1), lab.terminal(2), lab.server(1));
    let _web = Web::start(&server, 80);
    let gateway = lab.start_from_file(1, SIDES);
    curl(&first, server.v4.into(), 80);
    let disk = Failing::start(&gateway, READ_ONLY);
    curl_in_vain(&second, server.v4.into(), 80);
    assert!(gateway.dropped("cannot_record") > 0);
    curl(&first, server.v4.into(), 80);
    disk.end();
    wait_until("the disk to be tried again", || failing(&gateway).is_none());
    curl(&second, server.v4.into(), 80);
}

/// Runs a line as on a terminal: what it has said there, both outputs together.
fn on_a_terminal(host: &Host, line: &str) -> String {
    let python = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(['sh', '-c', sys.argv[1]])))";
    host.run(&format!("exec /usr/bin/python3 -c \"{python}\" '{line}'")).ok()
}

#[test]
fn what_takes_long_says_how_far_it_is_on_a_terminal_and_nothing_in_a_pipe() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let (host, many) = (lab.gateway(1), 300_000_u32);
    let (state, lines) = (lab.scratch().join("state1"), lab.scratch().join("many.jsonl"));
    let mut text = "{\"kamei\":\"bindings\",\"version\":1}\n".to_owned();
    for number in 0..many {
        let [_, b, c, d] = number.to_be_bytes();
        text.push_str(&format!(
            "{{\"inside\":\"inside\",\"terminal\":\"10.{b}.{c}.{d}\",\"virtual_ip\":\"11.{b}.{c}.{d}\",\"state\":\"dormant\",\
             \"last_used\":4000000000,\"created\":1}}\n"
        ));
    }
    std::fs::write(&lines, text).unwrap();
    let kamei = |what: &str| format!("{KAMEI} state {what} --state-dir {}", state.display());
    // Slow enough for a line, on whatever machine.
    let slowly =
        |what: &str| format!("{} & p=$!; (sleep 0.3; kill -STOP $p; sleep 3; kill -CONT $p) & wait $p", kamei(what));
    let said = on_a_terminal(&host, &slowly(&format!("import {}", lines.display())));
    let shown: Vec<&str> = said.split('\r').filter(|line| line.contains(" a second")).collect();
    assert!(!shown.is_empty() && said.contains("300000 bindings imported"), "{said}");
    for line in &shown {
        let is_whole =
            (line.contains("reading bytes: ") || line.contains("writing bindings: ")) && line.contains(" %)");
        assert!(is_whole, "{line:?}");
    }
    let piped = host.run(&kamei("verify"));
    assert!(piped.stderr.is_empty() && piped.succeeded(), "{}", piped.stderr);
    let exported = host.run(&format!("{} > {}", kamei("export"), lab.scratch().join("again").display()));
    assert!(exported.stderr.is_empty() && exported.succeeded(), "{}", exported.stderr);
}
