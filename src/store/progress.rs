//! How far reading or writing many bindings has come, for the operator who waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is under way. The thread that does it counts; a thread with a copy can look.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// A place in [`STAGES`].
    stage: AtomicU64,
    done: AtomicU64,
    total: AtomicU64,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Bindings are read from the state file.
    Reading,
    /// Bindings are written to it.
    Writing,
    /// Bytes of a file of lines are read.
    ReadingLines,
    /// Lines of bindings are written.
    WritingLines,
    /// Lines of the history are written.
    WritingHistory,
}

const STAGES: [(Stage, &str); 5] = [
    (Stage::Reading, "reading bindings"),
    (Stage::Writing, "writing bindings"),
    (Stage::ReadingLines, "reading bytes"),
    (Stage::WritingLines, "writing lines"),
    (Stage::WritingHistory, "writing lines of the history"),
];

impl Progress {
    /// Something begins: so many, zero if that is not known.
    pub fn begin(&self, stage: Stage, total: u64) {
        let place = STAGES.iter().position(|(known, _)| *known == stage).unwrap_or(0);
        self.0.done.store(0, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
        self.0.stage.store(place as u64, Ordering::Relaxed);
    }

    /// So many more are done.
    pub fn add(&self, number: u64) {
        self.0.done.fetch_add(number, Ordering::Relaxed);
    }

    /// In words: what, how many of how many, how many a second, how long it will take. `since` it began, or began to be looked
    /// at.
    pub fn line(&self, since: Duration) -> String {
        let stage = usize::try_from(self.0.stage.load(Ordering::Relaxed)).unwrap_or(0);
        let what = STAGES.get(stage).map_or("", |(_, what)| what);
        let (done, total) = (self.0.done.load(Ordering::Relaxed), self.0.total.load(Ordering::Relaxed));
        let rate = u64::try_from(u128::from(done) * 1000 / since.as_millis().max(1)).unwrap_or(u64::MAX);
        if total == 0 {
            return format!("{what}: {}, {} a second", short(done), short(rate));
        }
        let done = done.min(total);
        let percent = u64::try_from(u128::from(done) * 100 / u128::from(total)).unwrap_or(100);
        let left = match (total - done).checked_div(rate) {
            Some(seconds) => format!("{seconds} s left"),
            None => "no end in sight".to_owned(),
        };
        format!("{what}: {} of {} ({percent} %), {} a second, {left}", short(done), short(total), short(rate))
    }

    /// Which stage it is in, to tell when another begins.
    pub fn stage(&self) -> u64 {
        self.0.stage.load(Ordering::Relaxed)
    }
}

/// A number that can be read at a glance.
fn short(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..10_000_000 => format!("{} k", number / 1000),
        _ => format!("{} M", number / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_many_how_fast_and_how_long() {
        let progress = Progress::default();
        progress.begin(Stage::Writing, 1_000_000);
        assert_eq!(progress.line(Duration::ZERO), "writing bindings: 0 of 1000 k (0 %), 0 a second, no end in sight");
        progress.add(250_000);
        let line = progress.line(Duration::from_secs(5));
        assert_eq!(line, "writing bindings: 250 k of 1000 k (25 %), 50 k a second, 15 s left");
        progress.begin(Stage::ReadingLines, 0);
        progress.add(70_000_000);
        assert_eq!(progress.line(Duration::from_secs(2)), "reading bytes: 70 M, 35 M a second");
        progress.begin(Stage::WritingHistory, 0);
        progress.add(20_000);
        assert_eq!(progress.line(Duration::from_secs(2)), "writing lines of the history: 20 k, 10 k a second");
        progress.begin(Stage::Reading, 1);
        progress.add(u64::MAX);
        assert!(progress.line(Duration::MAX).starts_with("reading bindings: 1 of 1 (100 %)"));
    }
}
