//! Multipath TCP, whose ends tell each other their further addresses.

use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Plan, wait_until};
use crate::one_view::{BOTH, ping};
use rustix::net::{AddressFamily, Protocol, SocketType};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;

/// `IPPROTO_MPTCP` (linux/in.h).
const MPTCP: u32 = 262;

fn socket(family: Family) -> rustix::fd::OwnedFd {
    let family = if matches!(family, Family::V4) { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = Protocol::from_raw(NonZeroU32::new(MPTCP).unwrap());
    rustix::net::socket(family, SocketType::STREAM, Some(protocol)).expect("the kernel has Multipath TCP")
}

/// A connection from one host to another, both of which ask for Multipath TCP, and some talk on it.
fn talk(from: &Host, to: &Host, family: Family) {
    let address = SocketAddr::new(to.address(family), 5001);
    let listener = to.inside(|| {
        let socket = socket(family);
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        TcpListener::from(socket)
    });
    let mut near = from.inside(|| {
        let socket = socket(family);
        rustix::net::connect(&socket, &address).unwrap();
        TcpStream::from(socket)
    });
    let (mut far, _) = listener.accept().unwrap();
    let mut heard = [0; 5];
    for _ in 0..5 {
        near.write_all(b"hello").unwrap();
        far.read_exact(&mut heard).unwrap();
        far.write_all(b"hello").unwrap();
        near.read_exact(&mut heard).unwrap();
    }
    assert_eq!(&heard, b"hello");
}

/// How many SYNs that asked for Multipath TCP a host has got.
fn asked(host: &Host) -> u64 {
    let said = host.run("nstat -asz MPTcpExtMPCapableSYNRX").ok();
    let line = said.lines().find(|line| line.starts_with("MPTcpExtMPCapableSYNRX")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Terminal 1 tells whomever it speaks with of another address that it has.
fn with_another_address(lab: &Lab) -> [IpAddr; 2] {
    let terminal = lab.terminal(1);
    terminal
        .run("ip address add 10.77.143.99/24 dev eth0 && ip address add fd5a:77e1:9c0d::b0:63/64 dev eth0 nodad")
        .ok();
    for address in ["10.77.143.99", "fd5a:77e1:9c0d::b0:63"] {
        terminal.run(&format!("ip mptcp endpoint add {address} dev eth0 signal")).ok();
    }
    // Once packets of its flows are carried in the kernel.
    for family in BOTH {
        ping(&terminal, lab.server(1).address(family), 5);
    }
    ["10.77.143.99", "fd5a:77e1:9c0d::b0:63"].map(|text| text.parse().unwrap())
}

#[test]
fn n8_multipath_tcp_tells_no_inside_address() {
    let lab = Lab::new(Plan::gateways(1));
    let _gateway: Gateway = lab.start(1);
    let more = with_another_address(&lab);
    let wire = lab.outside_wire(1);
    for family in BOTH {
        talk(&lab.terminal(1), &lab.server(1), family);
        assert_eq!(asked(&lab.server(1)), 0);
    }
    wire.finish().assert_hidden(&more);
}

/// What the switch is for: the connection stays what it is, and tells what it tells.
#[test]
fn multipath_tcp_passes_where_it_may() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let text = format!(
        "inside = [\"gi\"]\noutside = [\"go\"]\nmptcp = \"pass\"\n[[pool]]\nrange = \"{}\"\n[[pool]]\nrange = \"{}\"\n",
        Lab::pool_v4(1),
        Lab::pool_v6(1)
    );
    let _gateway = lab.start_from_file(1, &text);
    for family in BOTH {
        let before = asked(&lab.server(1));
        talk(&lab.terminal(1), &lab.server(1), family);
        wait_until("the server to be asked for it", || asked(&lab.server(1)) > before);
    }
}
