//! Terminal → slot: open addressing over plain words, read without a lock.
//!
//! A cell is one word: a mark (half of the key's hash) above, the number of the slot and one below; zero is empty. The
//! keys themselves stay in the slots. There are two cells a slot from the start, so nothing ever grows or is hashed
//! anew, and memory is taken from the system as cells are first written.
//!
//! The cells fall into regions, each with a lock for its writers. To insert is to write one cell, which a reader sees or
//! not. To remove moves the cells behind, and the region's version is odd meanwhile: a reader that has found nothing
//! while it changed looks again.

use parking_lot::{Mutex, MutexGuard};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use zerocopy::FromZeros;

/// Most regions: more than any number of workers, so that two rarely meet.
const MOST_REGIONS: usize = 256;
/// Least cells of a region of several. On average half of them can be in use: that a keyed hash fills one is out of
/// the question.
const LEAST_CELLS: usize = 4096;

/// Finds the slot of a terminal by the hash of its inside and address.
pub struct Index {
    cells: Box<[AtomicU64]>,
    regions: Box<[Region]>,
    /// Cells of a region, less one.
    mask: usize,
}

#[derive(Default)]
#[repr(align(128))]
struct Region {
    writing: Mutex<()>,
    version: AtomicU64,
}

/// The right to change one region.
pub struct Writer<'a> {
    cells: &'a [AtomicU64],
    mask: usize,
    version: &'a AtomicU64,
    _writing: MutexGuard<'a, ()>,
}

impl Index {
    /// An empty index of up to `slots` slots; `None` if the system has not even the address space for it.
    pub fn new(slots: u32) -> Option<Self> {
        let count = usize::try_from(u64::from(slots).max(1) * 2).ok()?.checked_next_power_of_two()?;
        let regions = (count / LEAST_CELLS).clamp(1, MOST_REGIONS);
        Some(Self {
            cells: <[AtomicU64]>::new_box_zeroed_with_elems(count).ok()?,
            regions: (0..regions).map(|_| Region::default()).collect(),
            mask: count / regions - 1,
        })
    }

    /// Where all cells lie.
    pub fn memory(&self) -> Range<*const u8> {
        let cells = self.cells.as_ptr_range();
        cells.start.cast()..cells.end.cast()
    }

    /// What `look` makes of the first slot under `hash` of which it makes anything.
    pub fn find<T>(&self, hash: u64, look: impl Fn(u32) -> Option<T>) -> Option<T> {
        let (region, cells) = self.region(hash);
        loop {
            let version = region.version.load(Ordering::Acquire);
            let found = probe(cells, self.mask, hash, &look);
            fence(Ordering::Acquire);
            if found.is_some() || (version % 2 == 0 && region.version.load(Ordering::Relaxed) == version) {
                return found;
            }
            std::hint::spin_loop();
        }
    }

    /// The slot that [`Index::find`] will most likely look at first. Reads one cell and no more.
    #[inline]
    pub fn peek(&self, hash: u64) -> Option<u32> {
        let (_, cells) = self.region(hash);
        slot_of(cells.get(home(hash, self.mask))?.load(Ordering::Relaxed))
    }

    /// Waits for the right to change what is under `hash`.
    pub fn lock(&self, hash: u64) -> Writer<'_> {
        let (region, cells) = self.region(hash);
        Writer { cells, mask: self.mask, version: &region.version, _writing: region.writing.lock() }
    }

    #[inline]
    fn region(&self, hash: u64) -> (&Region, &[AtomicU64]) {
        // Bits that neither the mark (the low half) nor the first choice of a virtual IP (the top ones) is made of.
        #[allow(clippy::cast_possible_truncation, reason = "reduced to the number of regions, a power of two")]
        let number = (hash >> 32) as usize & (self.regions.len() - 1);
        let first = number * (self.mask + 1);
        #[allow(
            clippy::indexing_slicing,
            reason = "the number is below that of the regions, which share the cells out"
        )]
        (&self.regions[number], &self.cells[first..=first + self.mask])
    }
}

impl Writer<'_> {
    /// Puts `slot` under `hash`. A worker that finds it there reads the slot: write that first.
    pub fn insert(&self, hash: u64, slot: u32) {
        let mut places = (0..=self.mask).filter_map(|step| self.cells.get((home(hash, self.mask) + step) & self.mask));
        if let Some(cell) = places.find(|cell| cell.load(Ordering::Relaxed) == 0) {
            cell.store(cell_of(hash, slot), Ordering::Release);
        }
    }

    /// Takes `slot` from under `hash`; false if it is not there.
    pub fn remove(&self, hash: u64, slot: u32) -> bool {
        let wanted = cell_of(hash, slot);
        let places = (0..=self.mask).map(|step| (home(hash, self.mask) + step) & self.mask);
        let Some(found) = places.take_while(|at| self.load(*at) != 0).find(|at| self.load(*at) == wanted) else {
            return false;
        };
        self.version.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        // What stands behind moves up, unless that would take it before its own home.
        let mut hole = found;
        for at in (1..=self.mask).map(|step| (found + step) & self.mask) {
            let cell = self.load(at);
            if cell == 0 {
                break;
            }
            let distance = |from: usize| at.wrapping_sub(from) & self.mask;
            if distance(home(cell >> 32, self.mask)) >= distance(hole) {
                self.store(hole, cell);
                hole = at;
            }
        }
        self.store(hole, 0);
        self.version.fetch_add(1, Ordering::Release);
        true
    }

    fn load(&self, at: usize) -> u64 {
        self.cells.get(at).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    fn store(&self, at: usize, value: u64) {
        if let Some(cell) = self.cells.get(at) {
            cell.store(value, Ordering::Relaxed);
        }
    }
}

/// What `look` makes of the slots with the mark of `hash`, from its home up to the first empty cell.
#[inline]
fn probe<T>(cells: &[AtomicU64], mask: usize, hash: u64, look: impl Fn(u32) -> Option<T>) -> Option<T> {
    let home = home(hash, mask);
    for step in 0..=mask {
        let cell = cells.get((home + step) & mask)?.load(Ordering::Acquire);
        if cell == 0 {
            return None;
        }
        if cell >> 32 == hash & 0xffff_ffff
            && let Some(found) = slot_of(cell).and_then(&look)
        {
            return Some(found);
        }
    }
    None
}

/// Where in its region a key belongs: the mark's low bits.
#[inline]
fn home(mark: u64, mask: usize) -> usize {
    #[allow(clippy::cast_possible_truncation, reason = "masked to the region")]
    let home = (mark & 0xffff_ffff) as usize & mask;
    home
}

fn cell_of(hash: u64, slot: u32) -> u64 {
    hash << 32 | (u64::from(slot) + 1)
}

fn slot_of(cell: u64) -> Option<u32> {
    #[allow(clippy::cast_possible_truncation, reason = "the low half is taken on purpose")]
    (cell as u32).checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Hashes that meet: few homes, close together, at the end of the region too.
    fn hash(key: u32) -> u64 {
        u64::from(key % 5 + 60) | u64::from(key) << 16
    }

    fn has(index: &Index, key: u32, slot: u32) -> bool {
        index.find(hash(key), |found| (found == slot).then_some(())).is_some()
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_map(steps in prop::collection::vec((any::<bool>(), 0u32..40), 0..200)) {
            let index = Index::new(32).unwrap();
            let mut model = BTreeMap::new();
            for (slot, (insert, key)) in (0u32..).zip(steps) {
                let writer = index.lock(hash(key));
                match (insert, model.get(&key).copied()) {
                    (true, None) if model.len() < 32 => {
                        writer.insert(hash(key), slot);
                        model.insert(key, slot);
                    }
                    (false, Some(held)) => {
                        prop_assert!(writer.remove(hash(key), held));
                        model.remove(&key);
                    }
                    (false, None) => prop_assert!(!writer.remove(hash(key), slot)),
                    _ => {}
                }
                drop(writer);
                for key in 0..40 {
                    prop_assert_eq!(model.get(&key).is_some_and(|slot| has(&index, key, *slot)), model.contains_key(&key));
                }
            }
        }
    }

    #[test]
    fn a_reader_finds_what_is_there_while_its_neighbours_come_and_go() {
        let index = Index::new(32).unwrap();
        let insert = |key| index.lock(hash(key)).insert(hash(key), key);
        let remove = |key| index.lock(hash(key)).remove(hash(key), key);
        (0..12).for_each(insert);
        std::thread::scope(|scope| {
            let churn = scope.spawn(|| {
                for n in 0..100_000_u32 {
                    let key = n % 6 * 2;
                    assert!(remove(key));
                    insert(key);
                }
            });
            while !churn.is_finished() {
                assert!((1..12).step_by(2).all(|key| has(&index, key, key)));
            }
        });
    }
}
