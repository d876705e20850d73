//! A packet of a flow that a worker knows costs no allocation and no write that other workers would see.
//!
//! A test binary of its own because it counts in the global allocator.

#![allow(clippy::unwrap_used, reason = "a test")]

use etherparse::PacketBuilder;
use kamei::nat::{DropReason, InsideSettings, Nat, Policy, PoolSettings, Realm, Settings, Translator, Verdict};
use kamei::time::Time;
use kamei::wire::{Headers, Packet, Refusal, unreachable};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

const NOW: Time = Time::from_secs(1_800_000_000);
const INSIDE: Realm = Realm::inside(0);

struct Counting;

thread_local! {
    /// Of this thread alone: the test harness allocates in its own.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; counting touches nothing but a cell without destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

/// How often `work` allocates.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn a_packet_of_a_known_flow_allocates_nothing_and_writes_nothing_shared() {
    for (terminal, peer) in [("10.0.0.5", "192.0.2.1"), ("fd00:1::5", "2001:db8::1")] {
        let nat = nat();
        let mut translator = nat.translator();
        let mut first = packet(terminal, peer, false);
        let made = allocations(|| {
            assert!(matches!(send(&mut translator, &mut first, INSIDE), Verdict::Forward { .. }));
        });
        assert!(made > 0, "a new contact allocates: the count works");
        let virtual_ip = IpAddr::from(Headers::parse(&first).unwrap().source);
        // That a peer has answered is noted at once.
        let mut answer = packet(peer, &virtual_ip.to_string(), false);
        assert!(matches!(send(&mut translator, &mut answer, Realm::Outside), Verdict::Forward { .. }));
        translator.flush(NOW);
        let noted = nat.find(virtual_ip, NOW);

        for tcp in [true, false] {
            for (bytes, realm) in
                [(packet(terminal, peer, tcp), INSIDE), (packet(peer, &virtual_ip.to_string(), tcp), Realm::Outside)]
            {
                let mut copies = vec![bytes; 1000];
                let count = allocations(|| {
                    for copy in &mut copies {
                        assert!(matches!(send(&mut translator, copy, realm), Verdict::Forward { event: None, .. }));
                    }
                });
                assert_eq!(count, 0, "{realm:?}, TCP: {tcp}");
            }
        }
        // Nothing of that is in the shared table before the worker notes it, and noting it allocates nothing either.
        assert_eq!(nat.find(virtual_ip, NOW), noted);
        assert_eq!(allocations(|| translator.flush(NOW)), 0);
        let after = &nat.find(virtual_ip, NOW)[0];
        assert_eq!((after.packets_out, after.packets_in), (noted[0].packets_out + 2000, noted[0].packets_in + 2000));
    }
}

#[test]
fn a_known_binding_costs_no_allocation_on_a_worker_that_sees_it_first() {
    let nat = nat();
    let mut first = packet("10.0.0.5", "192.0.2.1", false);
    send(&mut nat.translator(), &mut first, INSIDE);
    let virtual_ip = IpAddr::from(Headers::parse(&first).unwrap().source).to_string();
    let mut other = nat.translator();
    for (source, destination, realm) in [("10.0.0.5", "192.0.2.1", INSIDE), ("192.0.2.1", &*virtual_ip, Realm::Outside)]
    {
        let mut bytes = packet(source, destination, true);
        let count = allocations(|| {
            assert!(matches!(send(&mut other, &mut bytes, realm), Verdict::Forward { .. }));
        });
        assert_eq!(count, 0, "{realm:?}");
    }
}

#[test]
fn drops_and_icmp_errors_allocate_nothing() {
    let nat = nat();
    let mut translator = nat.translator();
    let mut sent = packet("10.0.0.5", "192.0.2.1", false);
    send(&mut translator, &mut sent, INSIDE);
    let headers = Headers::parse(&sent).unwrap();
    let virtual_ip = IpAddr::from(headers.source).to_string();
    let router = "192.0.2.254".parse::<IpAddr>().unwrap().into();
    let mut error = unreachable(&sent, &headers, router, Refusal::Host).unwrap();
    let count = allocations(|| {
        assert!(matches!(send(&mut translator, &mut error, Realm::Outside), Verdict::Forward { .. }));
    });
    assert_eq!(count, 0, "an error");
    for (source, destination, realm, reason) in [
        ("10.0.0.6", "192.0.2.1", INSIDE, DropReason::NotAFirstPacket),
        ("192.0.2.9", &*virtual_ip, Realm::Outside, DropReason::NotContacted),
        ("192.0.2.9", "198.18.255.1", Realm::Outside, DropReason::NoBinding),
        ("192.0.2.9", "198.51.100.1", Realm::Outside, DropReason::NotVirtual),
    ] {
        let mut bytes = packet(source, destination, true);
        let count = allocations(|| {
            assert_eq!(send(&mut translator, &mut bytes, realm), Verdict::Drop(reason));
        });
        assert_eq!(count, 0, "{reason:?}");
    }
}

fn nat() -> Arc<Nat> {
    let pool = |range: &str| PoolSettings {
        name: range.to_owned(),
        range: range.parse().unwrap(),
        reserved: Vec::new(),
        destinations: Vec::new(),
        callback: None,
        draining: false,
        kind: Default::default(),
    };
    Nat::new(Settings {
        insides: vec![InsideSettings {
            name: "inside".to_owned(),
            sources: vec!["10.0.0.0/8".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        }],
        pools: vec![pool("198.18.0.0/16"), pool("fd00:2::/112")],
        own_outside: vec!["203.0.113.1".parse().unwrap()],
        hash_key: [7; 16],
        restore_hop: true,
        policy: Policy::default(),
    })
    .unwrap()
}

/// A TCP segment, or a UDP datagram, with 1,420 bytes.
fn packet(source: &str, destination: &str, tcp: bool) -> Vec<u8> {
    let builder = match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => PacketBuilder::ipv4(source.octets(), destination.octets(), 64),
        (IpAddr::V6(source), IpAddr::V6(destination)) => PacketBuilder::ipv6(source.octets(), destination.octets(), 64),
        _ => panic!("mixed families"),
    };
    let mut bytes = Vec::new();
    if tcp {
        builder.tcp(40_000, 443, 7, 1024).ack(9).write(&mut bytes, &[1; 1420]).unwrap();
    } else {
        builder.udp(40_000, 443).write(&mut bytes, &[1; 1420]).unwrap();
    }
    bytes
}

fn send(translator: &mut Translator, bytes: &mut [u8], realm: Realm) -> Verdict {
    translator.translate(&mut Packet::new(bytes), realm, NOW)
}
