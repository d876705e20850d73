//! N9 to N11: gateways in a row.

use crate::capture::Capture;
use crate::gateway::{Gateway, outermost};
use crate::lab::{Family, Lab, Plan};
use crate::traffic::{Web, curl, curl_in_vain};
use std::net::IpAddr;

struct Row {
    lab: Lab,
    gateways: Vec<Gateway>,
    captures: Vec<Capture>,
    _webs: Vec<Web>,
}

/// A row of gateways; the outside wire of each is captured. Terminal 1 has called server 1.
fn called_through(gateways: u8, family: Family) -> Row {
    let lab = Lab::new(Plan::gateways(gateways).servers(2).unwatched());
    let running = lab.start_all();
    let captures = (1..=lab.plan.gateways).map(|k| lab.outside_wire(k)).collect();
    let webs = vec![Web::start(&lab.server(1), 80), Web::start(&lab.terminal(1), 8080)];

    let seen = curl(&lab.terminal(1), lab.server(1).address(family), 80);

    assert_eq!(seen, format!("{} 80", outermost(&running, &lab.terminal(1), family)));
    Row { lab, gateways: running, captures, _webs: webs }
}

/// What each gateway knows, and what was on each wire.
fn only_the_first_knows(row: Row, family: Family) {
    let terminal = row.lab.terminal(1).address(family);
    let mut hidden_behind = Vec::new();
    let mut known_as = terminal;
    for (k, gateway) in (1u8..).zip(&row.gateways) {
        assert_eq!(gateway.bindings().len(), 1, "one pair in gateway {k}");
        assert_eq!(gateway.knows(terminal), k == 1, "gateway {k}");
        hidden_behind.push([row.lab.hidden(k), if k == 1 { vec![] } else { vec![known_as] }].concat());
        known_as = gateway.virtual_ip(known_as);
    }
    for (capture, hidden) in row.captures.into_iter().zip(hidden_behind) {
        capture.finish().assert_hidden(&hidden);
    }
}

/// Server 1 calls back, server 2 tries to.
fn call_back(row: &Row, family: Family) {
    let virtual_ip: IpAddr = outermost(&row.gateways, &row.lab.terminal(1), family);
    let server = row.lab.server(1);
    let seen = curl(&server, virtual_ip, 8080);
    assert_eq!(seen, format!("{} 8080", server.address(family)));
    for gateway in &row.gateways {
        assert_eq!(gateway.bindings()[0]["callbacks"], 1);
    }
    curl_in_vain(&row.lab.server(2), virtual_ip, 8080);
}

#[test]
fn n9_two_gateways_the_server_sees_the_last_ones_virtual_ip() {
    let row = called_through(2, Family::V4);
    let seen_by_server = outermost(&row.gateways, &row.lab.terminal(1), Family::V4);
    assert!(seen_by_server.to_string().starts_with("198.18.2."), "{seen_by_server}");
    assert!(row.gateways[0].virtual_ip(row.lab.terminal(1).v4.into()).to_string().starts_with("198.18.1."));
}

#[test]
fn n10_callback_through_two_gateways() {
    let row = called_through(2, Family::V4);
    call_back(&row, Family::V4);
}

#[test]
fn n10_callback_through_two_gateways_v6() {
    let row = called_through(2, Family::V6);
    call_back(&row, Family::V6);
}

#[test]
fn n11_only_the_first_of_two_gateways_knows_the_terminal() {
    let row = called_through(2, Family::V4);
    call_back(&row, Family::V4);
    only_the_first_knows(row, Family::V4);
}

#[test]
fn n11_three_gateways_work_alike() {
    let row = called_through(3, Family::V4);
    call_back(&row, Family::V4);
    only_the_first_knows(row, Family::V4);
}

#[test]
fn n11_three_gateways_work_alike_v6() {
    let row = called_through(3, Family::V6);
    call_back(&row, Family::V6);
    only_the_first_knows(row, Family::V6);
}
