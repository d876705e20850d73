//! What all tasks of a relay share.

use super::clock::Clock;
use super::connections::{Connection, Connections, Origin};
use super::plain::PlainCalls;
use super::proofs::Proofs;
use super::session::Common;
use super::sessions::Sessions;
use super::unproved::Unproved;
use super::virtual_ips::VirtualIps;
use crate::config::{RelayConfig, ServerConfig};
use crate::identity::{Authority, Register};
use crate::session::{DataChannel, Published, RefuseReason};
use crate::time::Time;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
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
    pub plain: PlainCalls,
    pub virtual_ips: VirtualIps,
    /// Clients that have not asked for a server yet.
    pub asking: Unproved,
    pub proofs: Proofs,
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

    /// Whether the connection may be, by the configuration and the register as they are now. A server without a section is
    /// called by its virtual IP alone, by everybody; who asks for it must have proved who it is, or come from where nobody
    /// need.
    pub fn admits(&self, connection: &Connection) -> bool {
        let Connection { server: published, client, .. } = connection;
        let config = self.config();
        let section = config.servers.iter().find(|server| server.published == *published);
        if section.is_some_and(|server| !server.welcomes(client.ip())) {
            return false;
        }
        match &connection.origin {
            Origin::Called => section.is_some() || !self.virtual_ips.look(published).is_empty(),
            Origin::Asked(_) if config.proxy.listen.is_empty() => false,
            Origin::Asked(None) => config.proxy.trusts(client.ip()),
            Origin::Asked(Some(name)) => {
                let known = self.register.client(name).ok().flatten();
                known.is_some_and(|known| known.may(published.name.as_str()))
            }
        }
    }

    /// Ends connections that may not be any more: right or server has gone.
    pub fn end_what_may_not_stay(&self) {
        for connection in self.connections.list() {
            if !self.admits(&connection) {
                connection.close.notify_one();
            }
        }
    }

    /// Whether there is such a server: it has a section, or an agent publishes it.
    pub fn knows(&self, published: &Published) -> bool {
        self.config().servers.iter().any(|server| server.published == *published)
            || self.sessions.serving(published).is_some()
    }

    /// What is said of a server; of one without a section, what holds unless said.
    pub fn server(&self, published: &Published) -> ServerConfig {
        let config = self.config();
        let section = config.servers.iter().find(|server| server.published == *published);
        section.cloned().unwrap_or_else(|| ServerConfig {
            published: published.clone(),
            port: None,
            sni: Vec::new(),
            addresses: Vec::new(),
            clients: Vec::new(),
            channel: DataChannel::Shared,
        })
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
