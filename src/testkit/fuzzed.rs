//! How much a test that is fed with generated input has seen; `scripts/fuzz` adds it up.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts for one target, and says them at its end.
pub struct Fuzzed {
    target: &'static str,
    cases: AtomicU64,
    bytes: AtomicU64,
}

impl Fuzzed {
    /// Nothing yet.
    pub fn new(target: &'static str) -> Self {
        Self { target, cases: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// One more case, of so many bytes.
    pub fn case(&self, bytes: usize) {
        self.cases.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Fuzzed {
    fn drop(&mut self) {
        eprintln!("fuzzed {}: {} cases, {} bytes", self.target, self.cases.get_mut(), self.bytes.get_mut());
    }
}

/// How many cases there shall be: `KAMEI_CASES`, or so many.
pub fn cases(or: u32) -> u32 {
    std::env::var("KAMEI_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(or)
}
