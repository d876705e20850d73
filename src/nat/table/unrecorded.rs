//! Which bindings are still owed to the journal: made, but not on record yet. No packet of theirs may leave.

use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::FromZeros;

/// A bit a slot. Memory is taken from the system as bits are first set.
pub struct Owed {
    words: Box<[AtomicU64]>,
}

impl Owed {
    /// Nothing is owed; `None` if the system has not even the address space for it.
    pub fn new(len: u32) -> Option<Self> {
        let words = usize::try_from(len.div_ceil(64)).ok()?;
        Some(Self { words: <[AtomicU64]>::new_box_zeroed_with_elems(words).ok()? })
    }

    /// Slot `index` is owed.
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

    /// Whether slot `index` is owed.
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
        let owed = Owed::new(130).unwrap();
        owed.set(64);
        owed.set(129);
        assert!((0..130).filter(|index| owed.contains(*index)).eq([64, 129]));
        owed.clear(64);
        assert!(!owed.contains(64) && owed.contains(129) && !owed.contains(1000));
    }
}
