//! One bit for each slot: which bindings are unrecorded (no packet of theirs may leave yet), and which have woken unrecorded.

use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::FromZeros;

/// One bit for each slot. Memory is taken from the system as bits are first set.
pub struct SlotBits {
    words: Box<[AtomicU64]>,
}

impl SlotBits {
    /// No bit is set; `None` if the system has not even the address space for it.
    pub fn new(len: u32) -> Option<Self> {
        let words = usize::try_from(len.div_ceil(64)).ok()?;
        Some(Self { words: <[AtomicU64]>::new_box_zeroed_with_elems(words).ok()? })
    }

    /// Sets the bit of slot `index`.
    pub fn set(&self, index: u32) {
        if let Some(word) = self.word(index) {
            word.fetch_or(1 << (index % 64), Ordering::AcqRel);
        }
    }

    /// Clears the bit of slot `index`.
    pub fn clear(&self, index: u32) {
        if let Some(word) = self.word(index) {
            word.fetch_and(!(1 << (index % 64)), Ordering::AcqRel);
        }
    }

    /// Whether the bit of slot `index` is set.
    pub fn contains(&self, index: u32) -> bool {
        self.word(index).is_some_and(|word| word.load(Ordering::Acquire) >> (index % 64) & 1 == 1)
    }

    fn word(&self, index: u32) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(index / 64).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_has_a_bit_of_its_own() {
        let bits = SlotBits::new(130).unwrap();
        bits.set(64);
        bits.set(129);
        assert!((0..130).filter(|index| bits.contains(*index)).eq([64, 129]));
        bits.clear(64);
        assert!(!bits.contains(64) && bits.contains(129) && !bits.contains(1000));
    }
}
