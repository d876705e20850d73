//! What all tasks of a relay share.

use super::clock::Clock;
use super::connections::Connections;
use super::session::Common;
use super::sessions::Sessions;
use super::virtual_ips::VirtualIps;
use crate::config::RelayConfig;
use crate::identity::{Authority, Register};
use crate::session::{Published, RefuseReason};
use crate::time::Time;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What all tasks of a relay share.
pub struct Relay {
    /// What is in force; a reload puts another in its place.
    pub in_force: RwLock<Arc<RelayConfig>>,
    pub authority: Authority,
    pub register: Register,
    pub sessions: Sessions,
    pub connections: Connections,
    pub virtual_ips: VirtualIps,
    pub refused: Mutex<BTreeMap<RefuseReason, u64>>,
    /// Connections that were joined to a data channel.
    pub carried: AtomicU64,
    pub clock: Clock,
}

impl Relay {
    /// The configuration that is in force.
    pub fn config(&self) -> Arc<RelayConfig> {
        Arc::clone(&self.in_force.read())
    }

    /// Whether who calls a server from this address may, by the configuration in force; a server without a section there is
    /// called by its virtual IP alone, by everybody.
    pub fn admits(&self, published: &Published, client: IpAddr) -> bool {
        let config = self.config();
        match config.servers.iter().find(|server| server.published == *published) {
            Some(server) => server.welcomes(client),
            None => !self.virtual_ips.look(published).is_empty(),
        }
    }

    /// Time of clocks that only go forward.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// Counts a connection that is refused.
    pub fn refuse(&self, reason: RefuseReason) {
        *self.refused.lock().entry(reason).or_default() += 1;
    }

    /// What a new session is given.
    pub fn sessions_common(&self) -> Common {
        let config = self.config();
        let (limits, probing) = (config.limits, config.probing);
        Common { clock: self.clock, limits, probing, changed: self.sessions.teller() }
    }
}
