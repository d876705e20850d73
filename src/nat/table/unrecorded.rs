//! Which bindings are still unrecorded: made, but not on record yet. No packet of theirs may leave.

use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::FromZeros;

/// A bit a slot. Memory is taken from the system as bits are first set.
pub struct Unrecorded {
    words: Box<[AtomicU64]>,
}

impl Unrecorded {
    /// All are on record; `None` if the system has not even the address space for it.
    pub fn new(len: u32) -> Option<Self> {
        let words = usize::try_from(len.div_ceil(64)).ok()?;
        Some(Self { words: <[AtomicU64]>::new_box_zeroed_with_elems(words).ok()? })
    }

    /// Slot `index` is unrecorded.
    pub fn set(&self, index: u32) {
        if let Some(word) = self.word(index) {
            word.fetch_or(1 << (index % 64), Ordering::AcqRel);
        }
    }

    /// Slot `index` is on record.
    pub fn clear(&self, index: u32) {
        if let Some(word) = self.word(index) {
            word.fetch_and(!(1 << (index % 64)), Ordering::AcqRel);
        }
    }

    /// Whether slot `index` is unrecorded.
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
        let unrecorded = Unrecorded::new(130).unwrap();
        unrecorded.set(64);
        unrecorded.set(129);
        assert!((0..130).filter(|index| unrecorded.contains(*index)).eq([64, 129]));
        unrecorded.clear(64);
        assert!(!unrecorded.contains(64) && unrecorded.contains(129) && !unrecorded.contains(1000));
    }
}
