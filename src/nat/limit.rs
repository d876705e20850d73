//! How fast a prefix of terminals may ask for new bindings, and how many it may hold (RFC 6888 REQ-4): token buckets
//! and quotas.

use super::numbers::InsideNumber;
use super::settings::CreationLimit;
use crate::nat::reason::DropReason;
use crate::time::Time;
use crate::wire::Address;
use parking_lot::Mutex;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

/// Buckets kept; one that is full again is as good as none and is dropped first.
const MOST_BUCKETS: usize = 65_536;
/// Seconds for which a binding that nobody answers counts as such: who still sends after that means it.
const FRESH: u32 = 240;
/// So many of them an inside always may have.
const LEAST_UNANSWERED: u64 = 16;

/// Admits new bindings, or names the limit that is reached.
pub struct Limiter {
    limit: CreationLimit,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buckets: BTreeMap<(InsideNumber, Address), Bucket>,
    swept: Time,
    /// Bindings held, by prefix; only where there is a quota.
    held: BTreeMap<(InsideNumber, Address), u32>,
    /// Bindings held in all.
    total: u64,
    /// Bindings made a short time ago and not answered yet, by inside; only where there is a limit.
    fresh: BTreeMap<InsideNumber, Fresh>,
}

/// How many bindings were made in each of the last seconds and wait for their answer.
#[derive(Default)]
struct Fresh {
    made: VecDeque<(u32, u32)>,
    sum: u64,
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

    /// Counts in a new binding of `terminal`, unless its prefix asks too fast or holds its quota, or too many of its inside
    /// wait for an answer. `free` says how many virtual IPs are left.
    pub fn admit(
        &self,
        inside: InsideNumber,
        terminal: Address,
        now: Time,
        free: impl FnOnce() -> u64,
    ) -> Result<(), DropReason> {
        let free = self.limit.unanswered.map(|most| (most, free()));
        let prefix = (inside, self.prefix(terminal));
        let mut state = self.state.lock();
        self.has_room(&state, prefix)?;
        may_wait(&mut state, inside, free, now)?;
        if !self.take(&mut state, prefix, now) {
            return Err(DropReason::CreationRate);
        }
        self.count_in(&mut state, prefix);
        if free.is_some() {
            state.fresh.entry(inside).or_default().add(now.as_secs());
        }
        Ok(())
    }

    /// Whether [`Limiter::admit`] would let in one more.
    pub fn would_admit(
        &self,
        inside: InsideNumber,
        terminal: Address,
        now: Time,
        free: impl FnOnce() -> u64,
    ) -> Result<(), DropReason> {
        let free = self.limit.unanswered.map(|most| (most, free()));
        let prefix = (inside, self.prefix(terminal));
        let mut state = self.state.lock();
        self.has_room(&state, prefix)?;
        may_wait(&mut state, inside, free, now)?;
        let is_empty = state.buckets.get_mut(&prefix).is_some_and(|bucket| self.fill(bucket, now) < 1000);
        if is_empty { Err(DropReason::CreationRate) } else { Ok(()) }
    }

    fn has_room(&self, state: &State, prefix: (InsideNumber, Address)) -> Result<(), DropReason> {
        let of_prefix = || state.held.get(&prefix).copied().unwrap_or(0);
        if self.quota(prefix.1).is_some_and(|most| of_prefix() >= most)
            || self.limit.total.is_some_and(|most| state.total >= most)
        {
            return Err(DropReason::Quota);
        }
        Ok(())
    }

    /// Counts in a binding, whatever the limits.
    pub fn enter(&self, inside: InsideNumber, terminal: Address) {
        self.count_in(&mut self.state.lock(), (inside, self.prefix(terminal)));
    }

    fn count_in(&self, state: &mut State, prefix: (InsideNumber, Address)) {
        state.total += 1;
        if self.quota(prefix.1).is_some() {
            *state.held.entry(prefix).or_default() += 1;
        }
    }

    /// A binding of `terminal` ended, or was not made after all.
    pub fn leave(&self, inside: InsideNumber, terminal: Address) {
        let mut state = self.state.lock();
        state.total = state.total.saturating_sub(1);
        if let Entry::Occupied(mut count) = state.held.entry((inside, self.prefix(terminal))) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// A binding that was made in second `created` waits for its first answer no more: it has it, or ended.
    pub fn forget_fresh(&self, inside: InsideNumber, created: u32) {
        if self.limit.unanswered.is_some()
            && let Some(fresh) = self.state.lock().fresh.get_mut(&inside)
        {
            fresh.remove(created);
        }
    }

    fn quota(&self, prefix: Address) -> Option<u32> {
        if prefix.is_v4() { self.limit.per_prefix } else { self.limit.per_prefix_v6 }
    }

    fn prefix(&self, terminal: Address) -> Address {
        terminal.truncate(if terminal.is_v4() { self.limit.prefix_v4 } else { self.limit.prefix_v6 })
    }

    /// Takes a token for the prefix; false if it has none left.
    fn take(&self, state: &mut State, prefix: (InsideNumber, Address), now: Time) -> bool {
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

/// Whether one more of an inside may wait for an answer: half of what is left, beside those, is for others.
fn may_wait(state: &mut State, inside: InsideNumber, free: Option<(u32, u64)>, now: Time) -> Result<(), DropReason> {
    let (Some((most, free)), Some(fresh)) = (free, state.fresh.get_mut(&inside)) else { return Ok(()) };
    fresh.expire(now.as_secs());
    let half = (free.saturating_add(fresh.sum) / 2).max(LEAST_UNANSWERED);
    if fresh.sum >= half.min(most.into()) { Err(DropReason::Unanswered) } else { Ok(()) }
}

impl Fresh {
    fn add(&mut self, second: u32) {
        self.sum += 1;
        match self.made.back_mut() {
            // A clock that was set back must not let the seconds get out of order.
            Some((last, count)) if *last >= second => *count += 1,
            _ => self.made.push_back((second, 1)),
        }
    }

    fn remove(&mut self, second: u32) {
        let at = self.made.binary_search_by_key(&second, |(second, _)| *second);
        if let Some((_, count)) = at.ok().and_then(|at| self.made.get_mut(at)).filter(|(_, count)| *count > 0) {
            *count -= 1;
            self.sum = self.sum.saturating_sub(1);
        }
    }

    fn expire(&mut self, now: u32) {
        while let Some((_, count)) = self.made.pop_front_if(|(second, _)| second.saturating_add(FRESH) <= now) {
            self.sum = self.sum.saturating_sub(count.into());
        }
        // The clock was set back: nobody knows how old those are.
        while let Some((_, count)) = self.made.pop_back_if(|(second, _)| *second > now.saturating_add(FRESH)) {
            self.sum = self.sum.saturating_sub(count.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: CreationLimit = CreationLimit {
        per_second: 10,
        burst: 3,
        prefix_v4: 24,
        prefix_v6: 64,
        per_prefix: None,
        per_prefix_v6: None,
        total: None,
        unanswered: None,
    };

    #[test]
    fn c4_a_prefix_has_a_burst_and_then_its_rate_and_others_are_not_touched() {
        let limiter = Limiter::new(LIMIT);
        let take = |inside, terminal: Address, now| {
            limiter.take(&mut limiter.state.lock(), (InsideNumber::new(inside), limiter.prefix(terminal)), now)
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
        let admit =
            |a, b| limiter.admit(InsideNumber::new(0), Address::from_v4([10, 0, a, b]), Time::from_secs(1000), || 1000);
        assert_eq!((admit(0, 1), admit(0, 2), admit(0, 3)), (Ok(()), Ok(()), Err(DropReason::Quota)));
        assert_eq!((admit(1, 1), admit(2, 1)), (Ok(()), Err(DropReason::Quota)));
        limiter.leave(InsideNumber::new(0), Address::from_v4([10, 0, 0, 2]));
        assert_eq!((admit(0, 3), admit(0, 4)), (Ok(()), Err(DropReason::Quota)));
    }

    #[test]
    fn c5_a_flood_of_prefixes_has_bounded_buckets() {
        let limiter = Limiter::new(LIMIT);
        let take = |n: u32, now| {
            limiter.take(&mut limiter.state.lock(), (InsideNumber::new(0), Address::from_v4(n.to_be_bytes())), now)
        };
        let now = Time::from_secs(1000);
        let taken = (0..100_000_u32).filter(|n| take(n << 8, now)).count();
        assert_eq!(taken, MOST_BUCKETS);
        assert!(take(200 << 24 | 1, Time::from_secs(1002)));
    }
}
