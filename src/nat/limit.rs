//! How fast a prefix of terminals may ask for new bindings, and how many it may hold (RFC 6888 REQ-4): token buckets
//! and quotas.

use super::settings::CreationLimit;
use super::verdict::DropReason;
use crate::time::Time;
use crate::wire::Address;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Buckets kept; one that is full again is as good as none and is dropped first.
const MOST_BUCKETS: usize = 65_536;

/// See the module.
pub struct Limiter {
    limit: CreationLimit,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buckets: BTreeMap<(u16, Address), Bucket>,
    swept: Time,
    /// Bindings held, by prefix; only where there is a quota.
    held: BTreeMap<(u16, Address), u32>,
    /// Bindings held in all.
    total: u64,
}

struct Bucket {
    /// Thousandths of a token.
    tokens: u64,
    filled: Time,
}

impl Limiter {
    /// All buckets full.
    pub fn new(limit: CreationLimit) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// Counts in a new binding of `terminal`, unless its prefix asks too fast or holds its quota.
    pub fn admit(&self, inside: u16, terminal: Address, now: Time) -> Result<(), DropReason> {
        let prefix = (inside, self.prefix(terminal));
        let mut state = self.state.lock();
        self.has_room(&state, prefix)?;
        if !self.take(&mut state, prefix, now) {
            return Err(DropReason::CreationRate);
        }
        self.count_in(&mut state, prefix);
        Ok(())
    }

    /// Whether [`Limiter::admit`] would let in one more.
    pub fn would_admit(&self, inside: u16, terminal: Address, now: Time) -> Result<(), DropReason> {
        let prefix = (inside, self.prefix(terminal));
        let mut state = self.state.lock();
        self.has_room(&state, prefix)?;
        let is_empty = state.buckets.get_mut(&prefix).is_some_and(|bucket| self.fill(bucket, now) < 1000);
        if is_empty { Err(DropReason::CreationRate) } else { Ok(()) }
    }

    fn has_room(&self, state: &State, prefix: (u16, Address)) -> Result<(), DropReason> {
        let of_prefix = || state.held.get(&prefix).copied().unwrap_or(0);
        if self.limit.per_prefix.is_some_and(|most| of_prefix() >= most)
            || self.limit.total.is_some_and(|most| state.total >= most)
        {
            return Err(DropReason::Quota);
        }
        Ok(())
    }

    /// Counts in a binding, whatever the limits.
    pub fn enter(&self, inside: u16, terminal: Address) {
        self.count_in(&mut self.state.lock(), (inside, self.prefix(terminal)));
    }

    fn count_in(&self, state: &mut State, prefix: (u16, Address)) {
        state.total += 1;
        if self.limit.per_prefix.is_some() {
            *state.held.entry(prefix).or_default() += 1;
        }
    }

    /// A binding of `terminal` ended, or was not made after all.
    pub fn leave(&self, inside: u16, terminal: Address) {
        let mut state = self.state.lock();
        state.total = state.total.saturating_sub(1);
        if let Entry::Occupied(mut count) = state.held.entry((inside, self.prefix(terminal))) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn prefix(&self, terminal: Address) -> Address {
        terminal.truncate(if terminal.is_v4() { self.limit.prefix_v4 } else { self.limit.prefix_v6 })
    }

    /// Takes a token for the prefix; false if it has none left.
    fn take(&self, state: &mut State, prefix: (u16, Address), now: Time) -> bool {
        let State { buckets, swept, .. } = state;
        if buckets.len() >= MOST_BUCKETS && !buckets.contains_key(&prefix) {
            // Sweeping costs time: at most once a second.
            if (now - *swept).as_millis() >= 1000 {
                *swept = now;
                buckets.retain(|_, bucket| self.fill(bucket, now) < self.full());
            }
            if buckets.len() >= MOST_BUCKETS {
                return false;
            }
        }
        let full = self.full();
        let bucket = buckets.entry(prefix).or_insert(Bucket { tokens: full, filled: now });
        if self.fill(bucket, now) < 1000 {
            return false;
        }
        bucket.tokens -= 1000;
        true
    }

    fn fill(&self, bucket: &mut Bucket, now: Time) -> u64 {
        let millis = now.as_millis().saturating_sub(bucket.filled.as_millis());
        bucket.filled = bucket.filled.max(now);
        // Tokens a second are thousandths of a token a millisecond.
        bucket.tokens =
            bucket.tokens.saturating_add(millis.saturating_mul(self.limit.per_second.into())).min(self.full());
        bucket.tokens
    }

    fn full(&self) -> u64 {
        u64::from(self.limit.burst.max(1)) * 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: CreationLimit =
        CreationLimit { per_second: 10, burst: 3, prefix_v4: 24, prefix_v6: 64, per_prefix: None, total: None };

    #[test]
    fn c4_a_prefix_has_a_burst_and_then_its_rate_and_others_are_not_touched() {
        let limiter = Limiter::new(LIMIT);
        let take = |inside, terminal: Address, now| {
            limiter.take(&mut limiter.state.lock(), (inside, limiter.prefix(terminal)), now)
        };
        let at = |millis: u64| Time::from_millis(1_000_000 + millis);
        let terminal = |n: u8| Address::from_v4([10, 0, 0, n]);
        assert!((0..3).all(|n| take(0, terminal(n), at(0))));
        assert!(!take(0, terminal(9), at(99)));
        assert!(take(0, terminal(9), at(100)));
        assert!(!take(0, terminal(9), at(101)));
        assert!(take(0, Address::from_v4([10, 0, 1, 1]), at(101)));
        assert!(take(1, terminal(1), at(101)));
    }

    #[test]
    fn c4_a_prefix_holds_its_quota_and_others_are_not_touched() {
        let limiter = Limiter::new(CreationLimit { per_prefix: Some(2), total: Some(3), burst: 100, ..LIMIT });
        let admit = |a, b| limiter.admit(0, Address::from_v4([10, 0, a, b]), Time::from_secs(1000));
        assert_eq!((admit(0, 1), admit(0, 2), admit(0, 3)), (Ok(()), Ok(()), Err(DropReason::Quota)));
        assert_eq!((admit(1, 1), admit(2, 1)), (Ok(()), Err(DropReason::Quota)));
        limiter.leave(0, Address::from_v4([10, 0, 0, 2]));
        assert_eq!((admit(0, 3), admit(0, 4)), (Ok(()), Err(DropReason::Quota)));
    }

    #[test]
    fn c5_a_flood_of_prefixes_has_bounded_buckets() {
        let limiter = Limiter::new(LIMIT);
        let take = |n: u32, now| limiter.take(&mut limiter.state.lock(), (0, Address::from_v4(n.to_be_bytes())), now);
        let now = Time::from_secs(1000);
        let taken = (0..100_000_u32).filter(|n| take(n << 8, now)).count();
        assert_eq!(taken, MOST_BUCKETS);
        assert!(take(200 << 24 | 1, Time::from_secs(1002)));
    }
}
