//! So many in a while: what others can bring about as often as they like is not done as often.

use std::time::{Duration, Instant};

/// At most so many in a span of time.
#[derive(Debug)]
pub struct Quota {
    most: u32,
    span: Duration,
    since: Option<Instant>,
    used: u32,
}

impl Quota {
    /// At most `most` in each `span`.
    pub const fn new(most: u32, span: Duration) -> Self {
        Self { most, span, since: None, used: 0 }
    }

    /// Whether there is one left.
    pub fn has_left(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= self.span) {
            (self.since, self.used) = (Some(now), 0);
        }
        self.used < self.most
    }

    /// Uses one up; false if none is left.
    pub fn take(&mut self, now: Instant) -> bool {
        let is_left = self.has_left(now);
        self.used += u32::from(is_left);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_again_after_its_span() {
        let (mut quota, now) = (Quota::new(2, Duration::from_secs(60)), Instant::now());
        let taken = [0, 1, 59, 60, 60, 60].map(|second| quota.take(now + Duration::from_secs(second)));
        assert_eq!(taken, [true, true, false, true, true, false]);
    }
}
