//! Many terminals at once.

use crate::lab::{Lab, Plan};
use crate::traffic::{Web, url};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

const TERMINALS: u16 = 200;

/// 200 addresses in one namespace stand for 200 terminals; all call at once, then each is called back.
#[test]
fn n7_two_hundred_terminals_at_once_each_its_own_virtual_ip() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let (host, server) = (lab.terminal(1), lab.server(1));
    let gateway = lab.start_with(1, &["--pool", "198.18.0.0/16"]);
    let (_web, _back) = (Web::start(&server, 80), Web::start(&host, 8080));
    let terminals: Vec<IpAddr> =
        (0..TERMINALS).map(|i| IpAddr::from([10, 77, 143, u8::try_from(50 + i).unwrap()])).collect();
    let batch: String = terminals.iter().map(|terminal| format!("address add {terminal}/24 dev eth0\n")).collect();
    let file = lab.scratch().join("addresses");
    std::fs::write(&file, batch).unwrap();
    host.run(&format!("ip -batch {}", file.display())).ok();

    let calls: Vec<(String, String)> = terminals
        .iter()
        .map(|terminal| (format!("interface = {terminal}"), url(server.v4.into(), 80, "").replace('\'', "\"")))
        .collect();
    let seen = curl_all(&host, &calls);

    let given: BTreeMap<IpAddr, IpAddr> = gateway
        .bindings()
        .iter()
        .map(|b| (b["virtual_ip"].as_str().unwrap().parse().unwrap(), b["terminal"].as_str().unwrap().parse().unwrap()))
        .collect();
    assert_eq!(given.len(), usize::from(TERMINALS), "each its own");
    for (terminal, seen) in terminals.iter().zip(&seen) {
        let virtual_ip: IpAddr = seen.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(given.get(&virtual_ip), Some(terminal), "what the server saw is what the table says");
    }

    let callbacks: Vec<(String, String)> = given
        .keys()
        .map(|virtual_ip| ("connect-timeout = 15".to_owned(), url(*virtual_ip, 8080, "me").replace('\'', "\"")))
        .collect();
    let reached = curl_all(&server, &callbacks);
    for ((virtual_ip, terminal), reached) in given.iter().zip(reached) {
        assert_eq!(reached, terminal.to_string(), "{virtual_ip} leads to its own terminal");
    }
}

/// All transfers at once by one curl, each with an option line of its own; the answers in order.
fn curl_all(from: &crate::lab::Host, transfers: &[(String, String)]) -> Vec<String> {
    let file = from.dir.join(format!("{}-curl.conf", from.name));
    let output = |i: usize| from.dir.join(format!("{}-curl.{i}", from.name));
    let mut text = String::new();
    for (i, (option, url)) in transfers.iter().enumerate() {
        let next = if i == 0 { "" } else { "next\n" };
        let output = output(i);
        writeln!(
            text,
            "{next}silent\nshow-error\nfail\nmax-time = 20\n{option}\nurl = {url}\noutput = \"{}\"",
            output.display()
        )
        .unwrap();
    }
    std::fs::write(&file, text).unwrap();
    from.run(&format!("exec curl --parallel --parallel-immediate --parallel-max 300 -K {}", file.display())).ok();
    (0..transfers.len()).map(|i| std::fs::read_to_string(output(i)).unwrap()).collect()
}
