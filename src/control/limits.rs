//! How long callers may take, and how much of an answer is under way.

use std::time::Duration;

/// Bytes of an answer in pieces that are sent at once.
pub const CHUNK: usize = 64 * 1024;
/// Such pieces that wait for a slow reader.
pub const CHUNKS: usize = 4;

/// How long callers may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the head of a request to arrive.
    pub head: Duration,
    /// For its body to arrive.
    pub body: Duration,
    /// Until a caller has taken a piece more of its answer; a pager may hold it for a while. Longer than the others.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let head = Duration::from_secs(10);
        Self { head, body: head, stall: Duration::from_secs(60) }
    }
}
