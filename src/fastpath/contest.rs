//! The contest with programs of others that come before ours: ours are put in front again, more and more rarely.

use std::time::{Duration, Instant};

/// After programs were put in front of those of others, the next time is not before this; each time twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// So often twice as long, at most.
const LONGEST_PAUSE: u32 = 6;
/// A program that comes after this has not been in a contest.
const TRUCE: Duration = Duration::from_secs(600);

/// Programs of others that come before ours at one interface.
#[derive(Clone, Debug, Default)]
pub struct Contest {
    /// How often ours were put in front, lately.
    times: u32,
    /// When, the last time.
    last: Option<Instant>,
    /// One comes before ours now and may keep packets from them.
    is_lost: bool,
    /// Whom nothing can be put in front of, as was said.
    said: Option<String>,
}

impl Contest {
    /// Whether to put ours in front of `who` now. That program may do the same, so each time is longer after the one
    /// before.
    pub fn goes_in_front(&mut self, interface: &str, who: &str, is_fixed: bool) -> bool {
        if is_fixed {
            if self.said.as_deref() != Some(who) {
                log::error!(
                    "{who} comes before the gateway's programs on '{interface}', and nothing can be put in front of it: if \
                     it ends the way of packets there, they pass untranslated; attach it with a pref of 9 or more"
                );
                self.said = Some(who.to_owned());
            }
            return false;
        }
        let now = Instant::now();
        let since = self.last.map(|last| now - last);
        if since.is_some_and(|since| since > TRUCE) {
            self.times = 0;
        }
        self.is_lost = true;
        if since.is_some_and(|since| since < PAUSE * 2_u32.pow(self.times.min(LONGEST_PAUSE))) {
            return false;
        }
        self.times += 1;
        self.last = Some(now);
        true
    }

    /// Ours come first.
    pub fn win(&mut self) {
        self.is_lost = false;
    }

    /// Whether a program of others comes before ours and may keep packets from them.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Says who was overtaken. Call it once ours are in front, not before: an operator or a test may wait for it to go on.
    pub fn say_overtaken(&self, interface: &str, who: &str) {
        let again = if self.times < 2 {
            ""
        } else {
            " again; whenever that cannot be done at once, nothing from inside leaves by that interface"
        };
        log::error!(
            "{who} has come before the gateway's programs on '{interface}', and may have kept packets from them; they are put \
             in front{again}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_in_front_again_and_again_is_overtaken_ever_more_rarely() {
        let mut contest = Contest::default();
        let goes = |contest: &mut Contest| contest.goes_in_front("go", "another", false);
        let mut pause = PAUSE;
        assert!(goes(&mut contest));
        for _ in 0..10 {
            assert!(!goes(&mut contest) && contest.is_lost, "at once");
            pause = (pause * 2).min(PAUSE * 2_u32.pow(LONGEST_PAUSE));
            contest.last = contest.last.map(|last| last - pause);
            assert!(goes(&mut contest), "after {pause:?}");
        }
        contest.last = contest.last.map(|last| last - TRUCE - PAUSE);
        assert!(goes(&mut contest) && contest.times == 1, "after a truce");
        assert!(!contest.goes_in_front("go", "a filter", true), "nothing can");
    }
}
