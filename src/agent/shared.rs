//! What all tasks of an agent share.

use super::relays::Relays;
use super::state::State;
use crate::config::AgentConfig;
use crate::identity::{Invitation, Keys};
use crate::time::Time;
use parking_lot::Mutex;
use std::time::Instant;

/// What all tasks of an agent share.
pub struct Agent {
    pub config: AgentConfig,
    pub keys: Keys,
    /// Used for a relay that is not known yet.
    pub invitation: Option<Invitation>,
    pub relays: Mutex<Relays>,
    /// How it is with each relay, in the order of the configuration.
    pub states: Vec<State>,
    pub since: Instant,
}

impl Agent {
    pub fn now(&self) -> Time {
        Time::from_millis(0) + self.since.elapsed()
    }
}
