//! Which slots are free: a bitmap with a summary over it, so that the next free one is found in a few steps however
//! full the pool is.

/// A set of numbers below a bound.
pub struct FreeSlots {
    /// `levels[0]` has a bit a number (set: free); each further level a bit for each word below (set: not zero).
    levels: Vec<Vec<u64>>,
    len: u32,
}

impl FreeSlots {
    /// All numbers below `len` are free.
    pub fn new(len: u32) -> Self {
        let mut levels = Vec::new();
        let mut bits = u64::from(len);
        loop {
            let words = bits.div_ceil(64);
            let mut level = vec![u64::MAX; usize::try_from(words).unwrap_or(0)];
            if let (Some(last), used @ 1..) = (level.last_mut(), bits % 64) {
                *last = (1 << used) - 1;
            }
            levels.push(level);
            if words <= 1 {
                return Self { levels, len };
            }
            bits = words;
        }
    }

    /// Whether `number` is free.
    pub fn contains(&self, number: u32) -> bool {
        let (word, bit) = split(number);
        self.levels.first().and_then(|level| level.get(word)).is_some_and(|word| word & bit != 0)
    }

    /// Takes `number`; false if it was not free.
    pub fn take(&mut self, number: u32) -> bool {
        if !self.contains(number) {
            return false;
        }
        let mut at = number;
        for level in &mut self.levels {
            let (index, bit) = split(at);
            let Some(word) = level.get_mut(index) else { break };
            *word &= !bit;
            if *word != 0 {
                break;
            }
            at /= 64;
        }
        true
    }

    /// Gives `number` back; false if it was free already or is out of bounds.
    pub fn give(&mut self, number: u32) -> bool {
        if self.contains(number) || number >= self.len {
            return false;
        }
        let mut at = number;
        for level in &mut self.levels {
            let (index, bit) = split(at);
            if let Some(word) = level.get_mut(index) {
                *word |= bit;
            }
            at /= 64;
        }
        true
    }

    /// The first free number at or after `from`, and from the start again if there is none behind.
    pub fn next(&self, from: u32) -> Option<u32> {
        self.next_behind(from).or_else(|| self.next_behind(0))
    }

    /// The first number at or after `from` that is not free, if it is within some ten thousand numbers; else where to
    /// go on looking. `None` at the end.
    pub fn next_taken(&self, from: u32) -> Option<Result<u32, u32>> {
        const WORDS: usize = 256;
        let level = self.levels.first()?;
        let start = (from / 64) as usize;
        let mut mask = u64::MAX << (from % 64);
        for (index, word) in level.iter().enumerate().skip(start).take(WORDS) {
            let taken = !word & mask;
            mask = u64::MAX;
            if taken != 0 {
                let number = u32::try_from(index as u64 * 64 + u64::from(taken.trailing_zeros())).ok()?;
                return (number < self.len).then_some(Ok(number));
            }
        }
        let resume = u32::try_from((start + WORDS) as u64 * 64).ok()?;
        (resume < self.len).then_some(Err(resume))
    }

    fn next_behind(&self, from: u32) -> Option<u32> {
        let mut at = u64::from(from);
        for (height, level) in self.levels.iter().enumerate() {
            let index = usize::try_from(at / 64).ok()?;
            let word = level.get(index)? & (u64::MAX << (at % 64));
            if word != 0 {
                return self.descend(height, index, word);
            }
            at = at / 64 + 1;
        }
        None
    }

    /// From a word with a bit set at `height`, down to the first number it stands for.
    fn descend(&self, height: usize, index: usize, word: u64) -> Option<u32> {
        let mut at = index as u64 * 64 + u64::from(word.trailing_zeros());
        for level in self.levels.get(..height)?.iter().rev() {
            let word = level.get(usize::try_from(at).ok()?)?;
            at = at * 64 + u64::from(word.trailing_zeros());
        }
        u32::try_from(at).ok()
    }
}

fn split(number: u32) -> (usize, u64) {
    ((number / 64) as usize, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_behaves_like_a_set(len in 1u32..9000, steps in prop::collection::vec((any::<bool>(), any::<u32>()), 0..300)) {
            let mut free_slots = FreeSlots::new(len);
            let mut model: BTreeSet<u32> = (0..len).collect();
            // Make it nearly full first, so that the summary matters.
            for number in (0..len).filter(|n| n % 701 != 3) {
                prop_assert!(free_slots.take(number));
                model.remove(&number);
            }
            for (give, number) in steps {
                let number = number % (len + 1);
                if give {
                    prop_assert_eq!(free_slots.give(number), number < len && model.insert(number));
                } else {
                    prop_assert_eq!(free_slots.take(number), model.remove(&number));
                }
                let expected = model.range(number..).next().or_else(|| model.first()).copied();
                prop_assert_eq!(free_slots.next(number), expected);
                let taken = (number..len).find(|n| !model.contains(n));
                match free_slots.next_taken(number) {
                    Some(Ok(found)) => prop_assert_eq!(Some(found), taken),
                    Some(Err(resume)) => prop_assert!(resume > number && taken.is_none_or(|taken| taken >= resume)),
                    None => prop_assert_eq!(taken, None),
                }
            }
        }
    }
}
