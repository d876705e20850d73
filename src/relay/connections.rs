//! All connections of clients, and how many each may have.

use crate::config::RelayLimits;
use crate::session::{ConnectionId, Published, RefuseReason};
use crate::splice::Counts;
use crate::time::Time;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::sync::Notify;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// The agent is away, and the call waits for it.
    Held,
    /// The agent was told.
    Called,
    /// Bytes are carried.
    Joined,
}

/// How a client has come to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It has called the server: its port, virtual IP or TLS server name.
    Called,
    /// It has asked the relay for the server, and proved to be called so, where it had to.
    Asked(Option<String>),
}

impl Origin {
    /// Who the client has proved to be.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Called => None,
            Self::Asked(name) => name.as_deref(),
        }
    }
}

/// A connection of a client.
pub struct Connection {
    pub id: ConnectionId,
    pub client: SocketAddr,
    pub origin: Origin,
    pub server: Published,
    pub since: Time,
    /// Forth is from the client to the server.
    pub counts: Counts,
    /// The name of the agent that has it, once one has.
    pub agent: Mutex<Option<String>>,
    stage: AtomicU8,
    /// Told when the connection is to end.
    pub close: Notify,
}

impl Connection {
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Held,
            1 => Stage::Called,
            _ => Stage::Joined,
        }
    }

    pub fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }
}

/// All of them.
pub struct Connections {
    limits: Mutex<RelayLimits>,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    by_id: BTreeMap<ConnectionId, Arc<Connection>>,
    of_client: HashMap<IpAddr, usize>,
}

/// A place among the connections, for as long as this lives.
pub struct Place<'a> {
    connections: &'a Connections,
    pub connection: Arc<Connection>,
}

impl Connections {
    pub fn new(limits: RelayLimits) -> Self {
        Self { limits: Mutex::new(limits), all: Mutex::default() }
    }

    /// New connections meet these limits; those that are there stay.
    pub fn limit(&self, limits: RelayLimits) {
        *self.limits.lock() = limits;
    }

    pub fn count(&self) -> usize {
        self.all.lock().by_id.len()
    }

    pub fn list(&self) -> Vec<Arc<Connection>> {
        self.all.lock().by_id.values().cloned().collect()
    }

    pub fn find(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        self.all.lock().by_id.get(&id).cloned()
    }

    /// A place for a client that has just connected, with an ID that nobody can guess.
    pub fn enter(
        &self,
        (client, origin): (SocketAddr, Origin),
        server: &Published,
        now: Time,
    ) -> Result<Place<'_>, RefuseReason> {
        let limits = *self.limits.lock();
        let mut all = self.all.lock();
        if all.by_id.len() >= limits.in_all {
            return Err(RefuseReason::RelayFull);
        }
        let same = all.of_client.entry(network(client.ip())).or_default();
        if *same >= limits.of_client {
            return Err(RefuseReason::ClientFull);
        }
        let id = loop {
            let drawn = getrandom::u64().map_err(|_| RefuseReason::OutOfResources)?;
            let id = ConnectionId::new(drawn);
            if !all.by_id.contains_key(&id) {
                break id;
            }
        };
        *all.of_client.entry(network(client.ip())).or_default() += 1;
        let connection = Arc::new(Connection {
            id,
            client,
            origin,
            server: server.clone(),
            since: now,
            counts: Counts::default(),
            agent: Mutex::default(),
            stage: AtomicU8::new(Stage::Held as u8),
            close: Notify::new(),
        });
        all.by_id.insert(id, Arc::clone(&connection));
        Ok(Place { connections: self, connection })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut all = self.connections.all.lock();
        all.by_id.remove(&self.connection.id);
        let network = network(self.connection.client.ip());
        if let Some(same) = all.of_client.get_mut(&network) {
            *same -= 1;
            if *same == 0 {
                all.of_client.remove(&network);
            }
        }
    }
}

/// What counts as one client: an IPv4 address, or the /64 of an IPv6 address (RFC 6177).
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Transport;

    #[test]
    fn rc13_places_are_bounded_in_all_and_by_client_and_come_back() {
        let limits = RelayLimits { in_all: 3, of_client: 2, ..RelayLimits::default() };
        let connections = Connections::new(limits);
        let server = Published { name: "web".parse().unwrap(), transport: Transport::Tcp };
        let enter =
            |client: &str| connections.enter((client.parse().unwrap(), Origin::Called), &server, Time::from_secs(1));
        let one = enter("192.0.2.1:1").unwrap();
        let _two = enter("[::ffff:192.0.2.1]:2").unwrap();
        assert_eq!(enter("192.0.2.1:3").err(), Some(RefuseReason::ClientFull));
        let _three = enter("[2001:db8::1]:4").unwrap();
        assert_eq!(enter("192.0.2.9:5").err(), Some(RefuseReason::RelayFull));
        drop(one);
        let _four = enter("[2001:db8::2]:6").unwrap();
        assert_eq!(connections.all.lock().of_client.len(), 2);
    }
}
