//! Real TCP/IP stacks talk through translators, in virtual time: no root, no kernel.
//!
//! Terminals and servers are smoltcp interfaces. Between them lies a row of gateways, each with a pool of its own;
//! what passes each link is recorded, so that a test can say what was to be seen there.

mod lab;

use super::*;
use lab::{Family, HostId, Lab};
use std::net::IpAddr;

const T0: HostId = HostId::Terminal(0);
const T1: HostId = HostId::Terminal(1);
const S0: HostId = HostId::Server(0);
const S1: HostId = HostId::Server(1);

/// Bytes of a full transfer.
const MUCH: usize = 150_000;

#[test]
fn n3_n4_the_server_sees_a_virtual_ip_and_every_byte() {
    for family in [Family::V4, Family::V6] {
        let mut lab = Lab::new(family, 1, Faults::NONE);
        let seen = lab.transfer(T0, S0, lab.address(S0), 80, MUCH);
        assert!(lab.pool(0).contains(&seen), "{seen} is not from the pool");
        assert_ne!(seen, lab.address(T0));
        assert_eq!(lab.virtual_ip(0, lab.address(T0)), Some(seen));
        lab.assert_hidden(1, lab.address(T0));
    }
}

#[test]
fn n5_n6_the_server_calls_back_by_a_new_connection_after_both_ends_have_closed() {
    for family in [Family::V4, Family::V6] {
        for faults in [Faults::NONE, Faults::BAD] {
            let mut lab = Lab::new(family, 1, faults);
            let virtual_ip = lab.transfer(T0, S0, lab.address(S0), 80, 2_000);
            lab.pass_time(Duration::from_secs(3600)); // nothing is left of the call but the pair
            let seen = lab.transfer(S0, T0, virtual_ip, 8080, MUCH);
            assert_eq!(seen, lab.address(S0), "the terminal sees the server's own address");
            assert_eq!(lab.status(0).callbacks.min(1), 1);
            lab.assert_hidden(1, lab.address(T0));
        }
    }
}

#[test]
fn n5_a_server_that_was_not_called_reaches_nobody() {
    let mut lab = Lab::new(Family::V4, 1, Faults::NONE);
    let virtual_ip = lab.transfer(T0, S0, lab.address(S0), 80, 100);
    assert!(!lab.can_connect(S1, T0, virtual_ip, 8080));
    assert!(lab.status(0).drops["not_contacted"] > 0);
    assert!(lab.can_connect(S0, T0, virtual_ip, 8080));
}

#[test]
fn n7_two_terminals_have_two_virtual_ips_and_are_called_back_each() {
    let mut lab = Lab::new(Family::V4, 1, Faults::NONE);
    let first = lab.transfer(T0, S0, lab.address(S0), 80, 1_000);
    let second = lab.transfer(T1, S0, lab.address(S0), 80, 1_000);
    assert_ne!(first, second);
    lab.transfer(S0, T1, second, 8080, 1_000);
    lab.transfer(S0, T0, first, 8080, 1_000);
    assert_eq!(lab.transfer(T0, S1, lab.address(S1), 80, 1_000), first, "the same one again");
}

#[test]
fn n9_n10_n11_a_cascade_of_three_shows_the_server_only_the_last_virtual_ip_and_calls_back_through_all() {
    for family in [Family::V4, Family::V6] {
        let mut lab = Lab::new(family, 3, Faults::NONE);
        let seen = lab.transfer(T0, S0, lab.address(S0), 80, MUCH);
        assert!(lab.pool(2).contains(&seen));
        // Each gateway knows the one before it only.
        let first = lab.virtual_ip(0, lab.address(T0)).unwrap();
        let second = lab.virtual_ip(1, first).unwrap();
        assert_eq!(lab.virtual_ip(2, second), Some(seen));
        assert_eq!((lab.virtual_ip(1, lab.address(T0)), lab.virtual_ip(2, first)), (None, None));
        lab.pass_time(Duration::from_secs(60));
        assert_eq!(lab.transfer(S0, T0, seen, 8080, MUCH), lab.address(S0));
        for (link, hidden) in [(1, lab.address(T0)), (2, lab.address(T0)), (2, first)] {
            lab.assert_hidden(link, hidden);
        }
        for hidden in [lab.address(T0), first, second] {
            lab.assert_hidden(3, hidden);
        }
    }
}

#[test]
fn n12_transfers_are_exact_over_links_that_lose_double_and_reorder() {
    for (family, seed) in [Family::V4, Family::V6].into_iter().flat_map(|family| (0..8).map(move |n| (family, n))) {
        let mut lab = Lab::new(family, 3, Faults::BAD).reseeded(Faults::BAD, seed);
        let seen = lab.transfer(T0, S0, lab.address(S0), 80, MUCH);
        assert_eq!(lab.transfer(S0, T0, seen, 8080, MUCH), lab.address(S0));
        lab.assert_hidden(3, lab.address(T0));
    }
}

#[test]
fn r10_ftp_commands_arrive_with_the_virtual_ip_over_links_that_lose_double_and_reorder() {
    for faults in [Faults::NONE, Faults::BAD] {
        let mut lab = Lab::new(Family::V4, 2, faults);
        let seen = lab.transfer(T0, S0, lab.address(S0), 80, 100);
        let commands = |address: IpAddr| {
            let one = |n: usize| match n % 7 {
                0 => format!("PORT {},200,{}\r\n", address.to_string().replace('.', ","), n % 256),
                3 => format!("EPRT |1|{address}|{}|\r\n", 2000 + n),
                rest => format!("RETR {}\r\n", "name".repeat(rest * 9)),
            };
            (0..100).map(one).collect::<String>().into_bytes()
        };
        let replies = "200 OK\r\n".repeat(400).into_bytes();
        let (said, expected) = (commands(lab.address(T0)), commands(seen));
        let lengths = [expected.len(), replies.len()];
        let (_, got) = lab.exchange(T0, S0, (lab.address(S0), 21), [said, replies.clone()], lengths);
        assert!(got == [expected, replies], "bytes differ");
        lab.assert_hidden(2, lab.address(T0));
    }
}

#[test]
fn n12_udp_goes_out_comes_back_and_calls_back() {
    for family in [Family::V4, Family::V6] {
        let mut lab = Lab::new(family, 2, Faults::NONE);
        let (to, port) = lab.datagram(T0, S0, lab.address(S0), (5000, 53), b"question").unwrap();
        assert!(lab.pool(1).contains(&to));
        assert_eq!(port, 5000, "ports are never changed");
        let answered = lab.datagram(S0, T0, to, (53, 5000), b"answer").unwrap();
        assert_eq!(answered, (lab.address(S0), 53));
        let called = lab.datagram(S0, T0, to, (999, 777), b"a new flow").unwrap();
        assert_eq!(called, (lab.address(S0), 999));
        assert_eq!(lab.datagram(S1, T0, to, (53, 5000), b"not called"), None);
    }
}

#[test]
fn i1_ping_both_ways() {
    for family in [Family::V4, Family::V6] {
        let mut lab = Lab::new(family, 3, Faults::NONE);
        assert!(!lab.ping(S0, *lab.pool(2).start()), "nobody there yet");
        assert!(lab.ping(T0, lab.address(S0)));
        let virtual_ip = lab.last_virtual_ip(T0);
        assert!(lab.ping(S0, virtual_ip));
        assert!(!lab.ping(S1, virtual_ip));
        assert!(lab.ping(T0, lab.address(S1)));
        assert!(lab.ping(S1, virtual_ip));
    }
}

#[test]
fn s_a_refused_terminal_hears_so_and_the_others_go_on() {
    let mut lab = Lab::with_pool_of(1, Family::V4, 1, Faults::NONE);
    let seen = lab.transfer(T0, S0, lab.address(S0), 80, 1_000);
    assert!(!lab.can_connect(T1, S0, lab.address(S0), 80));
    assert!(lab.status(0).drops["pool_exhausted"] > 0);
    assert!(lab.was_told_unreachable(lab.address(T1)));
    assert_eq!(lab.transfer(T0, S0, lab.address(S0), 80, 1_000), seen);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut wire = Wire::new(Faults::BAD, 7);
        (0..200u8).for_each(|n| wire.send(&[n], Time::from_millis(n.into())));
        std::iter::from_fn(|| wire.receive(Time::from_millis(u64::MAX))).flatten().collect::<Vec<_>>()
    };
    let arrived = run();
    assert_eq!(arrived, run());
    assert!(!arrived.is_sorted(), "some are late");
    assert!((0..200).any(|n| !arrived.contains(&n)), "some are lost");
    assert!((0..200).any(|n| arrived.iter().filter(|m| **m == n).count() == 2), "some are doubled");
}
