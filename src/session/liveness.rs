//! Whether the other end is there: an answered probe along the whole way, not an open socket.

use super::message::Message;
use crate::time::Time;
use std::time::Duration;

/// Sends probes and hears answers. Each end of a session has one.
#[derive(Debug)]
pub struct Liveness {
    every: Duration,
    patience: Duration,
    /// When the next probe is due.
    next: Time,
    /// The probe that is out, and since when.
    waiting: Option<(u64, Time)>,
    sent: u64,
    round_trip: Option<Duration>,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub enum Beat {
    /// Nothing until then.
    WaitUntil(Time),
    /// Send this.
    Send(Message),
    /// The other end has not answered for as long as was waited: the session is over.
    Dead,
}

impl Liveness {
    /// A probe each `every`, whose answer may take `patience`.
    pub fn new(every: Duration, patience: Duration, now: Time) -> Self {
        Self { every, patience, next: now + every, waiting: None, sent: 0, round_trip: None }
    }

    /// What is due at `now`.
    pub fn beat(&mut self, now: Time) -> Beat {
        match self.waiting {
            Some((_, since)) if now >= since + self.patience => Beat::Dead,
            Some((_, since)) => Beat::WaitUntil(since + self.patience),
            None if now >= self.next => {
                self.sent += 1;
                self.waiting = Some((self.sent, now));
                Beat::Send(Message::Probe(self.sent))
            }
            None => Beat::WaitUntil(self.next),
        }
    }

    /// An answer has come. One that nobody waits for counts for nothing.
    pub fn answered(&mut self, number: u64, now: Time) {
        if let Some((waited_for, since)) = self.waiting
            && waited_for == number
        {
            self.waiting = None;
            self.next = now + self.every;
            self.round_trip = Some(now - since);
        }
    }

    /// How long the last answer took.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_dead_and_old_answers_count_for_nothing() {
        let at = |seconds: u64| Time::from_secs(1000 + seconds);
        let mut liveness = Liveness::new(Duration::from_secs(15), Duration::from_secs(10), at(0));
        assert_eq!(liveness.beat(at(14)), Beat::WaitUntil(at(15)));
        assert_eq!(liveness.beat(at(15)), Beat::Send(Message::Probe(1)));
        assert_eq!(liveness.beat(at(16)), Beat::WaitUntil(at(25)));
        liveness.answered(7, at(16));
        liveness.answered(1, at(17));
        assert_eq!(liveness.round_trip(), Some(Duration::from_secs(2)));
        assert_eq!(liveness.beat(at(32)), Beat::Send(Message::Probe(2)));
        liveness.answered(1, at(33));
        assert_eq!(liveness.beat(at(42)), Beat::Dead);
    }
}
