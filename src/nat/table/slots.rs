//! The flat half of a table: one 64-byte slot for each virtual IP that can be given, found by index, read without a lock.

use crate::nat::binding::BindingState;
use crate::nat::numbers::InsideNumber;
use crate::wire::Address;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use zerocopy::FromZeros;

/// Cells a slot; 8 × 8 bytes are one cache line.
const CELLS: usize = 8;
/// Bytes of a cache line.
const LINE: usize = 64;

/// What a slot says about its binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Counts the changes of this slot: what was read under another number is stale.
    pub version: u16,
    /// Where in its life the binding is.
    pub state: BindingState,
    /// Tied by the operator.
    pub pinned: bool,
    /// Whether a peer that the terminal has called has sent anything back since.
    pub answered: bool,
    pub inside: InsideNumber,
    pub terminal: Address,
    /// The virtual IP.
    pub virtual_ip: Address,
    /// Second in which it was made.
    pub created: u32,
    /// Second in which it ended, if it is in quarantine.
    pub ended: u32,
}

/// Use of a binding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Packets from the terminal.
    pub packets_out: u64,
    /// Packets to the terminal.
    pub packets_in: u64,
    /// Bytes from the terminal, IP headers included.
    pub bytes_out: u64,
    /// Bytes to the terminal, likewise.
    pub bytes_in: u64,
    /// Connections opened by peers.
    pub callbacks: u32,
}

/// All slots of a table. Memory is taken from the system as slots are first written, not before.
pub struct Slots {
    cells: Box<[AtomicU64]>,
    /// First cell that starts a cache line.
    start: usize,
    /// Of each slot, bytes from the terminal and to it.
    bytes: Box<[[AtomicU64; 2]]>,
    /// Of each slot that is in quarantine, when that began.
    ended: Box<[AtomicU32]>,
    len: u32,
}

// Cells of a slot. A writer makes the version odd, writes the rest, and makes it even again (a sequence lock); readers
// that saw it change or odd read again.
/// created:32 | version:16 | inside:12 | pinned:1 | answered:1 | state:2
const HEAD: usize = 0;
const STATE: u64 = 0b11;
const ANSWERED: u64 = 1 << 2;
const TERMINAL: usize = 1;
const VIRTUAL_IP: usize = 3;
/// callbacks:32 | last used:32
const USED: usize = 5;
const PACKETS_OUT: usize = 6;
const PACKETS_IN: usize = 7;

/// Highest number of an inside realm that fits a slot.
pub const MAX_INSIDE: u16 = 0xfff;

impl Slots {
    /// `len` empty slots; `None` if the system has not even the address space for them.
    pub fn new(len: u32) -> Option<Self> {
        let count = usize::try_from(len).ok()?.checked_mul(CELLS)?.checked_add(CELLS)?;
        let cells = <[AtomicU64]>::new_box_zeroed_with_elems(count).ok()?;
        let start = cells.as_ptr().align_offset(LINE).min(CELLS);
        let each = usize::try_from(len).ok()?;
        let bytes = <[[AtomicU64; 2]]>::new_box_zeroed_with_elems(each).ok()?;
        let ended = <[AtomicU32]>::new_box_zeroed_with_elems(each).ok()?;
        Some(Self { cells, start, bytes, ended, len })
    }

    /// How many slots.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Where all slots lie, and their bytes.
    pub fn memory(&self) -> [Range<*const u8>; 2] {
        let (cells, bytes) = (self.cells.as_ptr_range(), self.bytes.as_ptr_range());
        [cells.start.cast()..cells.end.cast(), bytes.start.cast()..bytes.end.cast()]
    }

    /// What slot `index` says; `None` if it is free.
    pub fn read(&self, index: u32) -> Option<Slot> {
        let cells = self.slot(index)?;
        loop {
            let head = cells[HEAD].load(Ordering::Acquire);
            if head >> 16 & 1 == 1 {
                std::hint::spin_loop(); // a writer is at it, and holds the pool's lock for some nanoseconds more
                continue;
            }
            let state = match head & STATE {
                0 => return None,
                1 => BindingState::Active,
                2 => BindingState::Dormant,
                _ => BindingState::Quarantined,
            };
            let slot = Slot {
                version: low16(head >> 16),
                state,
                pinned: head >> 3 & 1 == 1,
                answered: head & ANSWERED != 0,
                inside: InsideNumber::new(low16(head) >> 4),
                terminal: load_address(cells, TERMINAL),
                virtual_ip: load_address(cells, VIRTUAL_IP),
                created: low32(head >> 32),
                ended: if state == BindingState::Quarantined { self.ended(index).load(Ordering::Relaxed) } else { 0 },
            };
            fence(Ordering::Acquire);
            if cells[HEAD].load(Ordering::Relaxed) == head {
                return Some(slot);
            }
        }
    }

    /// Has the processor fetch slot `index`, and does not wait for it.
    #[inline]
    pub fn touch_memory(&self, index: u32) {
        std::hint::black_box(self.slot(index).map(|cells| cells[HEAD].load(Ordering::Relaxed)));
    }

    /// Writes slot `index`; `None` frees it. The version counts on by itself; returns the new one.
    /// Only under the lock of the pool: two writers at once would tear the slot.
    pub fn write(&self, index: u32, slot: Option<Slot>) -> u16 {
        let Some(cells) = self.slot(index) else { return 0 };
        let old = cells[HEAD].load(Ordering::Relaxed);
        cells[HEAD].store(old | 1 << 16, Ordering::Relaxed);
        fence(Ordering::Release);
        let version = low16(old >> 16).wrapping_add(2);
        let mut head = u64::from(version) << 16;
        if let Some(slot) = slot {
            store_address(cells, TERMINAL, slot.terminal);
            store_address(cells, VIRTUAL_IP, slot.virtual_ip);
            if slot.state == BindingState::Quarantined {
                self.ended(index).store(slot.ended, Ordering::Relaxed);
            }
            let state = match slot.state {
                BindingState::Active => 1,
                BindingState::Dormant => 2,
                BindingState::Quarantined => 3,
            };
            head |= u64::from(slot.created) << 32
                | u64::from(slot.inside.get() & MAX_INSIDE) << 4
                | u64::from(slot.pinned) << 3
                | if slot.answered { ANSWERED } else { 0 }
                | state;
        }
        cells[HEAD].store(head, Ordering::Release);
        version
    }

    /// Notes that the binding of slot `index` was answered; its version stays. Only under the lock of the pool.
    pub fn set_answered(&self, index: u32) {
        if let Some(cells) = self.slot(index) {
            cells[HEAD].fetch_or(ANSWERED, Ordering::Release);
        }
    }

    /// Starts the counts of a new binding.
    pub fn start_usage(&self, index: u32, now: u32) {
        let Some(cells) = self.slot(index) else { return };
        cells[USED].store(u64::from(now), Ordering::Relaxed);
        cells[PACKETS_OUT].store(0, Ordering::Relaxed);
        cells[PACKETS_IN].store(0, Ordering::Relaxed);
        for bytes in self.bytes(index) {
            bytes.store(0, Ordering::Relaxed);
        }
    }

    /// Adds use that a worker has counted.
    pub fn add_usage(&self, index: u32, usage: Usage) {
        let Some(cells) = self.slot(index) else { return };
        if usage.packets_out > 0 {
            cells[PACKETS_OUT].fetch_add(usage.packets_out, Ordering::Relaxed);
        }
        if usage.packets_in > 0 {
            cells[PACKETS_IN].fetch_add(usage.packets_in, Ordering::Relaxed);
        }
        for (bytes, more) in self.bytes(index).iter().zip([usage.bytes_out, usage.bytes_in]) {
            if more > 0 {
                bytes.fetch_add(more, Ordering::Relaxed);
            }
        }
        if usage.callbacks > 0 {
            cells[USED].fetch_add(u64::from(usage.callbacks) << 32, Ordering::Relaxed);
        }
    }

    /// The use counted so far.
    pub fn usage(&self, index: u32) -> Usage {
        let [bytes_out, bytes_in] = self.bytes(index).each_ref().map(|bytes| bytes.load(Ordering::Relaxed));
        self.slot(index).map_or_else(Usage::default, |cells| Usage {
            bytes_out,
            bytes_in,
            packets_out: cells[PACKETS_OUT].load(Ordering::Relaxed),
            packets_in: cells[PACKETS_IN].load(Ordering::Relaxed),
            callbacks: low32(cells[USED].load(Ordering::Relaxed) >> 32),
        })
    }

    /// The second in which the binding was last used.
    pub fn last_used(&self, index: u32) -> u32 {
        self.slot(index).map_or(0, |cells| low32(cells[USED].load(Ordering::Relaxed)))
    }

    /// Notes that the binding was used in second `now`; never moves back.
    pub fn touch(&self, index: u32, now: u32) {
        let Some(cells) = self.slot(index) else { return };
        let _ = cells[USED].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            (low32(used) < now).then_some(used >> 32 << 32 | u64::from(now))
        });
    }

    fn bytes(&self, index: u32) -> &[AtomicU64; 2] {
        static NOWHERE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
        usize::try_from(index).ok().and_then(|index| self.bytes.get(index)).unwrap_or(&NOWHERE)
    }

    fn ended(&self, index: u32) -> &AtomicU32 {
        static NOWHERE: AtomicU32 = AtomicU32::new(0);
        usize::try_from(index).ok().and_then(|index| self.ended.get(index)).unwrap_or(&NOWHERE)
    }

    fn slot(&self, index: u32) -> Option<&[AtomicU64; CELLS]> {
        if index >= self.len {
            return None;
        }
        self.cells.get(self.start + usize::try_from(index).ok()? * CELLS..)?.first_chunk()
    }
}

fn load_address(cells: &[AtomicU64; CELLS], at: usize) -> Address {
    let half = |at: usize| cells.get(at).map_or(0, |cell| cell.load(Ordering::Relaxed));
    Address::from_bits(u128::from(half(at)) << 64 | u128::from(half(at + 1)))
}

fn store_address(cells: &[AtomicU64; CELLS], at: usize, address: Address) {
    #[allow(clippy::cast_possible_truncation, reason = "each half is taken on purpose")]
    let halves = [(address.bits() >> 64) as u64, address.bits() as u64];
    for (cell, half) in cells.iter().skip(at).zip(halves) {
        cell.store(half, Ordering::Relaxed);
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the low half is taken on purpose")]
const fn low32(cell: u64) -> u32 {
    cell as u32
}

#[allow(clippy::cast_possible_truncation, reason = "the low quarter is taken on purpose")]
const fn low16(cell: u64) -> u16 {
    cell as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn slot(n: u128) -> Slot {
        Slot {
            version: 0,
            state: BindingState::Active,
            pinned: n % 2 == 1,
            answered: n % 3 == 1,
            inside: InsideNumber::new(MAX_INSIDE),
            terminal: Address::from_bits(n << 64 | n),
            virtual_ip: Address::from_bits(n << 64 | n),
            created: u32::MAX,
            ended: 0,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let slots = Slots::new(3).unwrap();
        assert_eq!(slots.read(1), None);
        let version = slots.write(1, Some(slot(7)));
        assert_eq!(slots.read(1), Some(Slot { version, ..slot(7) }));
        assert_eq!((slots.read(0), slots.read(2), slots.read(3)), (None, None, None));
        let ended = Slot { state: BindingState::Quarantined, ended: 9, ..slot(7) };
        let version = slots.write(1, Some(ended));
        assert_eq!(slots.read(1), Some(Slot { version, ..ended }));
        assert_ne!(slots.write(1, None), version);
        assert_eq!(slots.read(1), None);
    }

    #[test]
    fn use_is_counted_and_the_last_use_never_moves_back() {
        let slots = Slots::new(1).unwrap();
        slots.start_usage(0, 100);
        slots.touch(0, 200);
        slots.touch(0, 150);
        slots.add_usage(0, Usage { packets_out: 2, packets_in: 3, bytes_out: 80, bytes_in: 1 << 40, callbacks: 1 });
        slots.add_usage(0, Usage { packets_out: 1, bytes_out: 40, callbacks: 1, ..Usage::default() });
        assert_eq!(slots.last_used(0), 200);
        let sum = Usage { packets_out: 3, packets_in: 3, bytes_out: 120, bytes_in: 1 << 40, callbacks: 2 };
        assert_eq!(slots.usage(0), sum);
        slots.start_usage(0, 300);
        assert_eq!(slots.usage(0).bytes_out, 0, "of another binding");
    }

    #[test]
    fn a_reader_never_sees_half_a_change() {
        let slots = Slots::new(1).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..200_000 {
                    slots.write(0, (n % 3 != 0).then(|| slot(n)));
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                if let Some(seen) = slots.read(0) {
                    assert_eq!(seen.terminal, seen.virtual_ip);
                    assert_eq!(seen.pinned, seen.terminal.bits() % 2 == 1);
                }
            }
        });
    }
}
