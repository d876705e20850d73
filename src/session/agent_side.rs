//! The agent's end of one session: what it publishes, and the calls that it has taken.

use super::message::{Call, ConnectionId, Message, Offer, ServerId};
use super::names::Published;
use super::reason::RefuseReason;
use super::relay_side::Violation;
use std::collections::{BTreeMap, BTreeSet};

/// The agent's end of one session.
#[derive(Debug)]
pub struct AgentSide {
    servers: BTreeMap<ServerId, Published>,
    /// The number of the last server. None is used again: calls of the one before may be on their way.
    last: u64,
    connections: BTreeSet<ConnectionId>,
    most: usize,
}

/// What a message of the relay asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Send this, then dial the server.
    Dial(Message, Call, Published),
    /// Send this.
    Reply(Message),
    /// What became of each server.
    Results(Vec<(Published, Result<(), RefuseReason>)>),
    /// Nobody waits for this connection any more: what was begun for it ends.
    Withdrawn(ConnectionId),
    /// An answer to the probe of this number.
    Answered(u64),
    /// The relay is about to leave: another session is to be begun, what runs in this one goes on.
    Leaving,
}

impl AgentSide {
    /// A session in which nothing is published, and at most `most` connections are open.
    pub fn new(most: usize) -> Self {
        Self { servers: BTreeMap::new(), last: 0, connections: BTreeSet::new(), most }
    }

    /// Publishes these servers, with the port that each really has, and no others. The message goes to the relay.
    pub fn publish(&mut self, servers: impl IntoIterator<Item = (Published, u16)>) -> Message {
        let wanted: BTreeMap<Published, u16> = servers.into_iter().collect();
        self.servers.retain(|_, published| wanted.contains_key(published));
        for published in wanted.keys() {
            if !self.servers.values().any(|there| there == published) {
                self.last += 1;
                self.servers.insert(ServerId(self.last), published.clone());
            }
        }
        let offer = |(id, published): (&ServerId, &Published)| {
            let port = wanted.get(published).copied().unwrap_or(0);
            Offer { id: *id, published: published.clone(), port }
        };
        Message::Publish(self.servers.iter().map(offer).collect())
    }

    /// Takes a message of the relay's.
    ///
    /// # Errors
    /// [`Violation`]: the relay does not keep to the protocol.
    pub fn read(&mut self, message: Message) -> Result<Taken, Violation> {
        match message {
            Message::Call(call) => self.called(call),
            Message::Withdraw(connection) => Ok(Taken::Withdrawn(connection)),
            Message::Published(results) => {
                let named = |(id, result)| Some((self.servers.get(&id)?.clone(), result));
                Ok(Taken::Results(results.into_iter().filter_map(named).collect()))
            }
            Message::Probe(number) => Ok(Taken::Reply(Message::Answer(number))),
            Message::Answer(number) => Ok(Taken::Answered(number)),
            Message::Leave => Ok(Taken::Leaving),
            Message::Publish(_) | Message::Acknowledge(_) | Message::Decline(..) => {
                Err(Violation("a relay sends what only an agent does"))
            }
        }
    }

    /// The ID is compared with what is published; no match opens nothing (C8).
    fn called(&mut self, call: Call) -> Result<Taken, Violation> {
        let decline = |reason| Ok(Taken::Reply(Message::Decline(call.connection, reason)));
        let Some(published) = self.servers.get(&call.server) else { return decline(RefuseReason::NoServer) };
        if self.connections.len() >= self.most {
            return decline(RefuseReason::AgentFull);
        }
        if !self.connections.insert(call.connection) {
            return Err(Violation("two calls with one connection ID"));
        }
        Ok(Taken::Dial(Message::Acknowledge(call.connection), call, published.clone()))
    }

    /// The connection is over, or has come to nothing.
    pub fn end(&mut self, connection: ConnectionId) {
        self.connections.remove(&connection);
    }

    /// Connections, being dialled or open.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }
}
