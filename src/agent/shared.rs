//! What all tasks of an agent share.

use super::relays::Relays;
use super::state::RelayStateLock;
use crate::config::{AgentConfig, ConfigSource};
use crate::identity::{Invitation, Keys};
use crate::session::Published;
use crate::time::Time;
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// What all tasks of an agent share.
pub struct Agent {
    /// What is in force; a reload puts another in its place.
    pub in_force: RwLock<Arc<AgentConfig>>,
    /// What would be read now.
    pub source: ConfigSource<AgentConfig>,
    /// Told when another configuration is in force.
    pub changed: watch::Sender<()>,
    pub keys: Keys,
    /// Used for a relay that is not known yet.
    pub invitation: Option<Invitation>,
    pub relays: Mutex<Relays>,
    /// How it is with each relay, in the order of the configuration.
    pub states: Vec<RelayStateLock>,
    pub since: Instant,
}

impl Agent {
    /// The configuration that is in force.
    pub fn config(&self) -> Arc<AgentConfig> {
        Arc::clone(&self.in_force.read())
    }

    /// Waits until this is published no more.
    pub async fn wait_withdrawn(&self, published: &Published) {
        let mut changed = self.changed.subscribe();
        let is_there = || self.config().publish.iter().any(|publish| publish.published == *published);
        while is_there() && changed.changed().await.is_ok() {}
    }

    pub fn now(&self) -> Time {
        Time::from_millis(0) + self.since.elapsed()
    }
}
