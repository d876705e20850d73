//! The life of a binding at its edges: the last moment of a hold time, clocks that jump.

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn a_binding_used_at_the_last_moment_does_not_go_dormant_under_its_connection() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let virtual_ip = gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    gateway.tick(DAY - Duration::from_secs(1));
    // A new connection; the worker has not noted it when the hold time is over.
    gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    gateway.now = gateway.now + Duration::from_secs(1);
    let mut kinds = Vec::new();
    gateway.nat.tick(gateway.now, &mut |event| kinds.push(event.kind));
    assert_eq!(kinds, []);
    assert!(gateway.callback("192.0.2.1", virtual_ip).is_ok());
}

#[test]
fn c8_a_quarantine_lasts_its_full_length_however_the_seconds_fall() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    gateway.now = gateway.now + Duration::from_millis(999);
    let virtual_ip = gateway.call("10.0.0.5", "192.0.2.1").unwrap();
    gateway.nat.release(virtual_ip, gateway.now).unwrap();
    assert_eq!(gateway.tick(Duration::from_millis(119_999)), []);
    assert_eq!(gateway.tick(Duration::from_millis(1_000)), [EventKind::Freed]);
}

#[test]
fn a_clock_that_jumps_to_either_end_of_time_harms_nothing() {
    let mut gateway = Gateway::with_pool("198.18.0.4/30");
    for now in [START, Time::from_millis(u64::MAX), Time::from_millis(0), START] {
        gateway.now = now;
        for n in 1..=6 {
            let _ = gateway.call(&format!("10.0.0.{n}"), "192.0.2.1");
        }
        let _ = gateway.nat.pin("10.0.0.7".parse().unwrap(), "198.18.0.4".parse().unwrap(), now);
        gateway.tick(Duration::ZERO);
        let _ = gateway.nat.release("10.0.0.2".parse().unwrap(), now);
        gateway.tick(DAY);
        let pool = &gateway.nat.status().pools[0];
        assert_eq!(pool.active + pool.dormant + pool.quarantined + pool.free, 4);
    }
}

#[test]
fn a_draining_pool_keeps_its_bindings_and_makes_no_new_ones() {
    let mut old = pool("198.18.0.0/24", &[]);
    old.draining = true;
    let mut gateway = Gateway::new(settings(vec![old, pool("198.18.1.0/28", &[])]));
    gateway.nat.pin("10.0.0.1".parse().unwrap(), "198.18.0.7".parse().unwrap(), START).unwrap();
    assert_eq!(gateway.call("10.0.0.1", "203.0.113.5").unwrap().to_string(), "198.18.0.7");
    for terminal in 2..18 {
        let given = gateway.call(&format!("10.0.0.{terminal}"), "203.0.113.5").unwrap().to_string();
        assert!(given.starts_with("198.18.1."), "{given}");
    }
    assert_eq!(gateway.call("10.0.0.18", "203.0.113.5"), Err(DropReason::PoolExhausted));
}

#[test]
fn what_another_host_has_for_a_while_is_not_given_and_who_had_it_gets_another() {
    let mut gateway = Gateway::with_pool("198.18.0.0/30");
    let held = gateway.call("10.0.0.1", "192.0.2.1").unwrap();
    let other = gateway.call("10.0.0.2", "192.0.2.1").unwrap();
    let ended = gateway.nat.set_occupied(&[held, "192.0.2.77".parse().unwrap()], gateway.now);
    assert_eq!(ended.iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::Released]);
    assert!(gateway.callback("192.0.2.1", held).is_err());
    assert_ne!(gateway.call("10.0.0.1", "192.0.2.1").unwrap(), held);
    assert_eq!(gateway.call("10.0.0.2", "192.0.2.1").unwrap(), other);
    gateway.tick(Duration::from_secs(121));
    let pool = &gateway.nat.status().pools[0];
    assert_eq!((pool.capacity, pool.active, pool.free), (3, 2, 1));
    assert!(gateway.nat.pin("10.0.0.9".parse().unwrap(), held, gateway.now).is_err());
    gateway.call("10.0.0.3", "192.0.2.1").unwrap();
    assert_eq!(gateway.call("10.0.0.4", "192.0.2.1"), Err(DropReason::PoolExhausted));
    assert_eq!(gateway.nat.set_occupied(&[], gateway.now), []);
    assert_eq!(gateway.call("10.0.0.4", "192.0.2.1"), Ok(held));
}

#[test]
fn what_is_in_quarantine_says_until_when_and_is_taken_by_force_alone() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let virtual_ip = gateway.call("10.0.0.1", "192.0.2.1").unwrap();
    let (terminal, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    let left = |gateway: &Gateway| gateway.nat.find(virtual_ip, gateway.now)[0].seconds_left;
    gateway.translator.flush(gateway.now);
    assert_eq!(left(&gateway), Some(24 * 3600));
    gateway.now = START + Duration::from_secs(10);
    gateway.nat.release(virtual_ip, gateway.now).unwrap();
    gateway.now = START + Duration::from_secs(50);
    assert_eq!(left(&gateway), Some(80));

    let ended = AdminError::Ended { virtual_ip, holder: terminal, seconds: 80 };
    let now = gateway.now;
    assert_eq!(gateway.nat.release(virtual_ip, now).unwrap_err(), ended);
    assert_eq!(gateway.nat.release(terminal, now).unwrap_err(), ended, "by its terminal too");
    assert_eq!(gateway.nat.find(terminal, now).len(), 1);
    assert_eq!(gateway.nat.set_callback(&virtual_ip.into(), None, now).unwrap_err(), ended);
    assert_eq!(gateway.nat.release(other, now).unwrap_err(), AdminError::NotFound(other));
    let quarantined = AdminError::Quarantined { virtual_ip, holder: terminal, seconds: 80 };
    assert_eq!(gateway.nat.pin(other, virtual_ip, now).unwrap_err(), quarantined);

    let (view, events) = gateway.nat.pin_named(&other.into(), virtual_ip, true, now).unwrap();
    assert_eq!((view.terminal, view.state, view.seconds_left), (other, BindingState::Active, None), "pinned for good");
    assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::Pinned]);
    assert_eq!(gateway.tick(Duration::from_secs(3600)), [], "its quarantine is void");
    assert_eq!(gateway.nat.find(virtual_ip, gateway.now)[0].terminal, other);
    // Not what another terminal has: force is for quarantine alone.
    assert!(matches!(gateway.nat.pin_named(&terminal.into(), virtual_ip, true, now), Err(AdminError::Taken { .. })));
    let pools = gateway.nat.status().pools;
    assert_eq!((pools[0].active, pools[0].quarantined), (1, 0));
}

#[test]
fn a_binding_counts_the_bytes_of_both_directions() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let virtual_ip = gateway.call("10.0.0.1", "192.0.2.1").unwrap();
    gateway.callback("192.0.2.1", virtual_ip).unwrap();
    gateway.translator.flush(gateway.now);
    let (view, status) = (gateway.nat.of_virtual_ip(virtual_ip, gateway.now).unwrap(), gateway.nat.status());
    let traffic = |packets, bytes| TrafficView { packets, bytes };
    assert_eq!(traffic(view.packets_out, view.bytes_out), status.out);
    assert_eq!(traffic(view.packets_in, view.bytes_in), status.inward);
    assert!(view.bytes_out > 20 && view.bytes_in > 20, "{view:?}");
    // They are of this binding alone.
    gateway.nat.release(virtual_ip, gateway.now).unwrap();
    gateway.tick(Duration::from_secs(200));
    gateway.nat.pin("10.0.0.9".parse().unwrap(), virtual_ip, gateway.now).unwrap();
    let next = gateway.nat.of_virtual_ip(virtual_ip, gateway.now).unwrap();
    assert_eq!((next.bytes_out, next.bytes_in), (0, 0));
}
