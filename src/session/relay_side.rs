//! The relay's end of one session: what its agent publishes, and the calls that were put to it.

use super::message::{Call, CallChannel, ConnectionId, Message, Offer, ServerId};
use super::names::Published;
use super::reason::RefuseReason;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// How much one agent may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Servers that it publishes.
    pub servers: usize,
    /// Connections to one of its servers, waiting or open.
    pub of_server: usize,
    /// Connections to all of them.
    pub of_agent: usize,
    /// Time for a call to be acknowledged.
    pub acknowledge: Duration,
    /// Time from there until the data channel comes: the agent dials the server meanwhile.
    pub channel: Duration,
}

/// Every call goes through these, in this order. One that is refused, withdrawn or ended is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Called { until: Time },
    Acknowledged { until: Time },
    Joined,
}

#[derive(Debug)]
struct Connection {
    server: ServerId,
    state: State,
}

#[derive(Debug)]
struct Server {
    published: Published,
    port: u16,
    connections: usize,
}

/// The relay's end of one session.
#[derive(Debug)]
pub struct RelaySide {
    limits: Limits,
    servers: BTreeMap<ServerId, Server>,
    connections: BTreeMap<ConnectionId, Connection>,
    is_leaving: bool,
}

/// What a message has brought about.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The list of servers is another. The reply says what became of each.
    Published {
        /// To be sent.
        reply: Message,
        /// Servers that are there from now on.
        new: Vec<Published>,
        /// Servers that nobody may call any more.
        gone: Vec<Published>,
    },
    /// The agent dials the server.
    Acknowledged(ConnectionId),
    /// The call has come to nothing.
    Declined(ConnectionId, RefuseReason),
    /// To be sent.
    Reply(Message),
    /// An answer to the probe of this number.
    Answered(u64),
    /// The agent takes no more calls.
    Leaving,
    /// Of a call that has ended meanwhile.
    Late,
}

/// What becomes of a data channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joining {
    /// It is the connection's.
    Joined,
    /// It has overtaken the acknowledgement of its call, which is on its way by another stream or connection.
    Early,
    /// Nobody waits for it.
    Unwanted,
}

/// A message that no agent of this protocol sends: the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub &'static str);

impl RelaySide {
    /// A session in which nothing is published.
    pub fn new(limits: Limits) -> Self {
        Self { limits, servers: BTreeMap::new(), connections: BTreeMap::new(), is_leaving: false }
    }

    /// New servers and calls meet these limits; those that are there stay.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes a message of the agent's. `judge` says whether the agent may publish this.
    ///
    /// # Errors
    /// [`Violation`]: the agent does not keep to the protocol.
    pub fn read(
        &mut self,
        message: Message,
        now: Time,
        judge: &mut dyn FnMut(&Published) -> Result<(), RefuseReason>,
    ) -> Result<Outcome, Violation> {
        match message {
            Message::Publish(servers) => self.publish(servers, judge),
            Message::Acknowledge(id) => match self.connections.get_mut(&id).map(|connection| &mut connection.state) {
                Some(state @ State::Called { .. }) => {
                    *state = State::Acknowledged { until: now + self.limits.channel };
                    Ok(Outcome::Acknowledged(id))
                }
                Some(_) => Err(Violation("a call is acknowledged twice")),
                None => Ok(Outcome::Late),
            },
            Message::Decline(id, reason) => match self.connections.get(&id).map(|connection| connection.state) {
                Some(State::Joined) => Err(Violation("a call is declined whose data channel has come")),
                Some(_) => {
                    self.end(id);
                    Ok(Outcome::Declined(id, reason))
                }
                None => Ok(Outcome::Late),
            },
            Message::Probe(number) => Ok(Outcome::Reply(Message::Answer(number))),
            Message::Answer(number) => Ok(Outcome::Answered(number)),
            Message::Leave => {
                self.is_leaving = true;
                Ok(Outcome::Leaving)
            }
            Message::Published(_) | Message::Call(_) | Message::Withdraw(_) => {
                Err(Violation("an agent sends what only a relay does"))
            }
        }
    }

    fn publish(
        &mut self,
        servers: Vec<Offer>,
        judge: &mut dyn FnMut(&Published) -> Result<(), RefuseReason>,
    ) -> Result<Outcome, Violation> {
        let ids: BTreeSet<ServerId> = servers.iter().map(|offer| offer.id).collect();
        if ids.len() != servers.len() {
            return Err(Violation("two servers with one ID"));
        }
        let before: BTreeSet<Published> = self.published().map(|(published, _)| published.clone()).collect();
        let (mut accepted, mut results) = (BTreeMap::<ServerId, Server>::new(), Vec::new());
        for Offer { id, published, port } in servers {
            let there = accepted.values().any(|server| server.published == published);
            let result = if accepted.len() >= self.limits.servers {
                Err(RefuseReason::TooManyServers)
            } else if there {
                Err(RefuseReason::NameTaken)
            } else {
                judge(&published)
            };
            results.push((id, result));
            if result.is_ok() {
                let connections = self.connections.values().filter(|connection| connection.server == id).count();
                accepted.insert(id, Server { published, port, connections });
            }
        }
        self.servers = accepted;
        let after: BTreeSet<Published> = self.published().map(|(published, _)| published.clone()).collect();
        Ok(Outcome::Published {
            reply: Message::Published(results),
            new: after.difference(&before).cloned().collect(),
            gone: before.difference(&after).cloned().collect(),
        })
    }

    /// What the agent publishes, and may, with the port that each really has.
    pub fn published(&self) -> impl Iterator<Item = (&Published, u16)> {
        self.servers.values().map(|server| (&server.published, server.port))
    }

    /// A client calls. The message goes to the agent; `connection` is fresh.
    ///
    /// # Errors
    /// The reason why the agent is not asked.
    pub fn call(
        &mut self,
        published: &Published,
        connection: ConnectionId,
        (client, channel): (SocketAddr, CallChannel),
        now: Time,
    ) -> Result<Message, RefuseReason> {
        if self.is_leaving {
            return Err(RefuseReason::AgentAway);
        }
        if self.connections.len() >= self.limits.of_agent {
            return Err(RefuseReason::AgentFull);
        }
        let found = self.servers.iter_mut().find(|(_, server)| server.published == *published);
        let (id, server) = found.ok_or(RefuseReason::NoServer)?;
        if server.connections >= self.limits.of_server {
            return Err(RefuseReason::ServerFull);
        }
        server.connections += 1;
        let state = State::Called { until: now + self.limits.acknowledge };
        self.connections.insert(connection, Connection { server: *id, state });
        Ok(Message::Call(Call { connection, server: *id, channel, client }))
    }

    /// A data channel has come for this connection. Only one is joined, and only when the agent has acknowledged the call
    /// (C8).
    pub fn join(&mut self, connection: ConnectionId) -> Joining {
        match self.connections.get_mut(&connection).map(|connection| &mut connection.state) {
            Some(state @ State::Acknowledged { .. }) => {
                *state = State::Joined;
                Joining::Joined
            }
            Some(State::Called { .. }) => Joining::Early,
            Some(State::Joined) | None => Joining::Unwanted,
        }
    }

    /// The connection is over, wherever it stood. The message is for the agent, which may have begun to dial.
    pub fn end(&mut self, connection: ConnectionId) -> Option<Message> {
        let Connection { server, state } = self.connections.remove(&connection)?;
        if let Some(server) = self.servers.get_mut(&server) {
            server.connections = server.connections.saturating_sub(1);
        }
        (state != State::Joined).then_some(Message::Withdraw(connection))
    }

    /// The calls whose time is over, and why; each is to be [ended](Self::end).
    pub fn expired(&self, now: Time) -> Vec<(ConnectionId, RefuseReason)> {
        let over = |(id, connection): (&ConnectionId, &Connection)| match connection.state {
            State::Called { until } if now >= until => Some((*id, RefuseReason::AgentSilent)),
            State::Acknowledged { until } if now >= until => Some((*id, RefuseReason::NoDataChannel)),
            _ => None,
        };
        self.connections.iter().filter_map(over).collect()
    }

    /// Connections, waiting or open.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }
}
