//! Large tables in huge pages: at random in a gigabyte, finding out where a small page lies costs more than reading it.

use crate::nat::Nat;
use std::ops::Range;

/// A huge page, in bytes: what one entry of the second level of page tables covers (with pages of 4 KiB).
const HUGE: usize = 2 << 20;

/// Moves tables that have become dense into huge pages, once each. A table costs some tenths of a second a gigabyte;
/// a worker that reaches for a page that is being moved waits for less than a millisecond.
pub fn lay_out(nat: &Nat) {
    for memory in nat.dense_memory() {
        let (first, last) = (memory.start.addr().next_multiple_of(HUGE), memory.end.addr() / HUGE * HUGE);
        let whole = memory.start.with_addr(first)..memory.start.with_addr(last);
        if first >= last {
            continue;
        }
        // What is not in use yet comes in huge pages, what is moves into them. A kernel that can do neither (before 6.1, or
        // without free memory in one piece) has its reasons, and the table works as well.
        advise(&whole, libc::MADV_HUGEPAGE);
        for at in (first..last).step_by(HUGE) {
            advise(&(whole.start.with_addr(at)..whole.start.with_addr(at + HUGE)), libc::MADV_COLLAPSE);
        }
    }
}

#[allow(unsafe_code, reason = "rustix cannot give this advice")]
fn advise(memory: &Range<*const u8>, advice: libc::c_int) {
    let length = memory.end.addr() - memory.start.addr();
    // SAFETY: both kinds of advice leave every byte as it is, readable and writable as before, for every thread that
    // uses it meanwhile; the kernel refuses addresses that are not mapped.
    let _ = unsafe { libc::madvise(memory.start.cast_mut().cast(), length, advice) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::{BindingState, StoredBinding};
    use crate::testkit::scene::{pool, settings};
    use crate::time::Time;
    use std::net::Ipv4Addr;

    fn binding(n: u32) -> StoredBinding {
        StoredBinding {
            inside: "inside".into(),
            terminal: Ipv4Addr::from_bits(10 << 24 | n).into(),
            virtual_ip: Ipv4Addr::from_bits(198 << 24 | 18 << 16 | n).into(),
            state: BindingState::Active,
            pinned: false,
            answered: true,
            created: 1000,
            last_used: 1000,
            ended: 0,
            packets_out: n.into(),
            packets_in: 0,
            bytes_out: 0,
            bytes_in: 0,
            callbacks: 0,
            callback: None,
            contacts: Vec::new(),
        }
    }

    #[test]
    fn a_table_moves_once_when_it_is_dense_and_every_binding_with_it() {
        let nat = Nat::new(settings(vec![pool("198.18.0.0/15", &[])])).unwrap();
        let all = || (0..0x2_0000).step_by(50).map(binding);
        nat.restore(all().take(100), Time::from_secs(2000));
        assert_eq!(nat.dense_memory().count(), 0);
        nat.restore(all().skip(100), Time::from_secs(2000));
        lay_out(&nat);
        assert_eq!(nat.dense_memory().count(), 0);
        assert!(nat.stored_bindings().eq(all()));
    }
}
