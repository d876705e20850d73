//! How it is with one relay.

use crate::session::{Published, RefuseReason};
use crate::time::Time;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

/// How it is with one relay, as all tasks see it.
#[derive(Default)]
pub struct RelayStateLock(Mutex<RelayState>);

/// How it is with one relay.
#[derive(Clone, Default)]
pub struct RelayState {
    /// Since when there is a session.
    pub connected: Option<Time>,
    /// Why there is none, or why there was none before.
    pub last_error: Option<String>,
    /// How long the relay took to answer.
    pub round_trip: Option<Duration>,
    /// Connections, being dialled or open.
    pub connections: usize,
    /// What became of each server that is published.
    pub published: BTreeMap<Published, Result<(), RefuseReason>>,
}

impl RelayStateLock {
    pub fn look(&self) -> RelayState {
        self.0.lock().clone()
    }

    pub fn change(&self, change: impl FnOnce(&mut RelayState)) {
        change(&mut self.0.lock());
    }
}
