//! A restart as systemd does it: the queues of the TUN devices outlive the process.

use crate::gateway::{Gateway, KAMEI};
use crate::lab::{Family, Lab, Plan};
use crate::traffic::{Echo, Web, accept, connect, curl, curl_in_vain, listen, udp_socket};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::collections::BTreeMap;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What systemd does for a service with `FileDescriptorStoreMax=`.
struct Store {
    socket: UnixDatagram,
    path: PathBuf,
    kept: BTreeMap<String, OwnedFd>,
}

impl Store {
    fn new(lab: &Lab) -> Self {
        let path = lab.scratch().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, path, kept: BTreeMap::new() }
    }

    /// Takes and gives up what it has been told to by now.
    fn follow(&mut self) {
        let mut text = [0; 4096];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        loop {
            let mut ancillary = RecvAncillaryBuffer::new(&mut room);
            let Ok(got) =
                recvmsg(&self.socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            else {
                return;
            };
            let lines = String::from_utf8_lossy(&text[..got.bytes]).into_owned();
            let name = lines.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.kept.extend(descriptors.map(|descriptor| (name.clone(), descriptor)));
                }
            }
            if lines.lines().any(|line| line == "FDSTOREREMOVE=1") {
                self.kept.remove(&name);
            }
        }
    }

    /// The gateway, with what the store has.
    fn start(&self, lab: &Lab, arguments: &str) -> Gateway {
        lab.start_by(1, &["bash", "-c", &self.line(arguments), "gateway"])
    }

    fn line(&self, arguments: &str) -> String {
        // Out of the way first: a number that one has may be the number that another gets.
        let (mut line, mut names) = (String::new(), Vec::new());
        for (number, (name, descriptor)) in (100..).zip(&self.kept) {
            rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty()).unwrap();
            let from = descriptor.as_raw_fd();
            line += &format!("exec {number}<&{from} {from}<&-\n");
            names.push(name.as_str());
        }
        for number in 0..names.len() {
            line += &format!("exec {}<&{} {1}<&-\n", number + 3, number + 100);
        }
        line += &format!(
            "export NOTIFY_SOCKET={} LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}\n\
             exec {KAMEI} gateway --inside gi --outside go --on-stop leave {arguments} \"$@\"",
            self.path.display(),
            names.len(),
            names.join(":")
        );
        line
    }
}

const POOLS: &str = "--pool 198.18.1.0/24 --pool 2001:db8:18:1::/64";

#[test]
fn a_restart_loses_no_connection_and_no_packet() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let mut store = Store::new(&lab);
    let mut gateway = store.start(&lab, POOLS);
    let (_echo, _here) = (Echo::start(&server, 7001), Web::start(&terminal, 80));
    let listener = listen(&server, 7000);
    let mut ours = connect(&terminal, SocketAddr::new(server.v4.into(), 7000));
    let (mut theirs, seen) = accept(&listener);
    assert_eq!(curl(&server, seen, 80), format!("{} 80", server.v4));
    let rules = || lab.gateway(1).run("ip rule; ip -6 rule; ip route show table all").ok();
    let before = rules();

    let to = SocketAddr::new(server.v4.into(), 7001);
    let socket = terminal.inside(|| udp_socket(to, 0));
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for round in 0..3_u8 {
        store.follow();
        let workers = usize::try_from(gateway.status()["workers"].as_u64().unwrap()).unwrap();
        assert_eq!(store.kept.len(), workers, "{:?}", store.kept);
        gateway.stop();
        assert_eq!(rules(), before, "left as it was");
        // Nobody reads the queues now: they keep what they can hold.
        ours.write_all(&[round; 1000]).unwrap();
        theirs.write_all(&[round; 1000]).unwrap();
        for number in 0..100 {
            socket.send(&[number]).unwrap();
        }
        gateway = store.start(&lab, POOLS);
        let mut heard = [0; 1000];
        theirs.read_exact(&mut heard).unwrap();
        ours.read_exact(&mut heard).unwrap();
        assert_eq!(heard, [round; 1000]);
        let mut answer = [0; 8];
        for number in 0..100 {
            assert_eq!(socket.recv(&mut answer).map(|length| answer[..length].to_vec()).unwrap(), [number]);
        }
    }
    gateway.stop();
}

#[test]
fn queues_that_no_longer_fit_are_given_up() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let _web = Web::start(&server, 80);
    let mut store = Store::new(&lab);
    let gateway = store.start(&lab, &format!("{POOLS} --workers 2"));
    store.follow();
    assert_eq!(store.kept.len(), 2);
    gateway.stop();
    // systemd hears of it and closes them while the new gateway waits.
    let line = store.line(&format!("{POOLS} --workers 1"));
    // A gateway dies with the thread that started it, so that is this one.
    let started = AtomicBool::new(false);
    let gateway = std::thread::scope(|scope| {
        let (store, started) = (&mut store, &started);
        scope.spawn(move || {
            while !started.load(Ordering::Relaxed) {
                store.follow();
                std::thread::sleep(Duration::from_millis(5));
            }
            store.follow();
        });
        let gateway = lab.start_by(1, &["bash", "-c", &line, "gateway"]);
        started.store(true, Ordering::Relaxed);
        gateway
    });
    assert_eq!(store.kept.len(), 1, "the new one: {:?}", store.kept);
    for family in [Family::V4, Family::V6] {
        curl(&terminal, server.address(family), 80);
    }
    gateway.stop();
}

#[test]
fn a_stop_that_leaves_everything_is_closed_to_inside_packets() {
    let lab = Lab::new(Plan::gateways(1).servers(2));
    let (terminal, known, unknown, host) = (lab.terminal(1), lab.server(1), lab.server(2), lab.gateway(1));
    let _webs = [&known, &unknown].map(|server| Web::start(server, 80));
    let gateway = lab.start_with(1, &["--pool", "198.18.1.0/24", "--on-stop", "leave"]);
    curl(&terminal, known.v4.into(), 80);
    gateway.stop();
    let wire = lab.outside_wire(1);
    curl_in_vain(&terminal, unknown.v4.into(), 80);
    wire.finish().assert_hidden(&lab.hidden(1));
    host.run(&format!("{KAMEI} cleanup --control {}", lab.control(1).display())).ok();
    assert!(!host.run("tc filter show dev go egress; nft list tables; ip route").ok().contains("kamei"));
}
