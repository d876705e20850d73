//! What a relay and an agent tell, and can be asked.

use super::{Reloaded, Restart};
use crate::config::Difference;
use crate::session::{ConnectionId, DataChannel, Published};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// What the server asks a relay. Each may wait for the disk.
pub trait RelayAdmin: Send + Sync + 'static {
    /// How it is.
    fn status(&self) -> RelayStatus;
    /// Its members, and who of them is here. The error says why the register cannot be read.
    fn agents(&self) -> Result<Vec<AgentView>, String>;
    /// What agents publish, and what has a port.
    fn servers(&self) -> Vec<ServerView>;
    /// Connections of clients.
    fn connections(&self) -> Vec<ConnectionView>;
    /// Invitations that were not used.
    fn invitations(&self) -> Result<Vec<InvitationView>, String>;
    /// Makes an invitation.
    fn invite(&self, invite: &Invite) -> Result<Invited, Refused>;
    /// Clients that prove who they are by a password. The error says why the register cannot be read.
    fn clients(&self) -> Result<Vec<ClientView>, String>;
    /// Lets a client in by a password, or gives one that is there other rights and another password.
    fn admit(&self, admit: Admit) -> Result<Admitted, Refused>;
    /// Ends a member or client, its session and its connections. How many these were; `None` if nobody is called so.
    fn revoke(&self, name: &str) -> Result<Option<usize>, String>;
    /// Ends a connection; `false` if there is none.
    fn close(&self, connection: ConnectionId) -> bool;
    /// Reads the configuration anew and changes over to it, or only says what that would change. The error is one line or
    /// more; nothing has changed then.
    fn reload(&self, dry_run: bool) -> Result<Reloaded, String>;
}

/// What the server asks an agent.
pub trait AgentAdmin: Send + Sync + 'static {
    /// How it is.
    fn status(&self) -> AgentStatus;
    /// As of a relay.
    fn reload(&self, dry_run: bool) -> Result<Reloaded, String>;
}

impl Reloaded {
    /// What a role answers before anything is applied. The error says what only a restart changes: then nothing is.
    pub fn planned(difference: Difference, dry_run: bool) -> Result<Self, String> {
        let Difference { changes, restart } = difference;
        let planned = Self { changes, ..Self::default() };
        if restart.is_empty() {
            return Ok(planned);
        }
        if !dry_run {
            return Err(format!("{} can only be changed by a restart; nothing was changed", restart.join(", ")));
        }
        let keys = restart.into_iter().map(str::to_owned).collect();
        Ok(Self { restart: Some(Restart { keys, ..Restart::default() }), ..planned })
    }
}

/// Why a relay does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It makes no sense, or what is there is against it.
    Wrong(String),
    /// It cannot be kept.
    Failed(String),
}

/// How a relay is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// `relay`.
    pub role: String,
    /// Of the program.
    pub version: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Where agents come in.
    pub listen: Vec<SocketAddr>,
    /// Where clients ask for a server.
    #[serde(default)]
    pub proxy: Vec<SocketAddr>,
    /// What invitations say of its key.
    pub fingerprint: String,
    /// Agents that have joined.
    pub members: usize,
    /// Agents that are here.
    pub agents: usize,
    /// Servers that they publish.
    pub servers: usize,
    /// Connections of clients now.
    pub connections: usize,
    /// Connections that were carried since the start.
    pub carried: u64,
    /// Connections that were refused since the start, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// An agent that has joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// As its invitation has it; one agent has it.
    pub name: String,
    /// `here` or `away`.
    pub state: String,
    /// Where it connects from, while it is here.
    pub address: Option<SocketAddr>,
    /// Seconds that it has been here.
    pub here_seconds: Option<u64>,
    /// What it publishes, while it is here.
    pub servers: Vec<Published>,
    /// What it may publish.
    pub permitted: Vec<String>,
    /// Connections of clients by it, waiting or open.
    pub connections: usize,
    /// How long it took to answer the last probe.
    pub round_trip_ms: Option<u64>,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// Its name and transport.
    pub server: Published,
    /// The relay's port for it, if it has one.
    pub port: Option<u16>,
    /// TLS server names by which it is called where agents come in.
    #[serde(default)]
    pub sni: Vec<String>,
    /// Its virtual IPs.
    pub virtual_ips: BTreeSet<IpAddr>,
    /// Its own port, at a virtual IP.
    pub own_port: Option<u16>,
    /// Agents that are here and publish it.
    pub agents: Vec<String>,
    /// How its bytes travel.
    pub channel: DataChannel,
    /// Connections of clients to it, waiting or open.
    pub connections: usize,
}

/// A connection of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionView {
    /// Its number, in the logs of relay and agent.
    pub id: ConnectionId,
    /// `held`: the agent is away; `called`: it was told; `open`.
    pub state: String,
    /// Who calls.
    pub client: SocketAddr,
    /// Who the client has proved to be, if it has asked for the server.
    #[serde(default)]
    pub client_name: Option<String>,
    /// Who is called.
    pub server: Published,
    /// By whom.
    pub agent: Option<String>,
    /// Seconds since the client called.
    pub seconds: u64,
    /// Bytes to the server.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
}

/// An invitation that was not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationView {
    /// Who is invited.
    pub name: String,
    /// What it may publish.
    pub servers: Vec<String>,
    /// Seconds until it is refused.
    pub left_seconds: u64,
}

/// Who is to be invited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// The agent's name.
    pub name: String,
    /// What it may publish.
    pub servers: Vec<String>,
    /// How long the invitation is valid.
    pub seconds: u64,
}

impl Invite {
    /// Each server once, in the order in which they were named.
    pub fn new(name: String, servers: Vec<String>, seconds: u64) -> Self {
        let mut seen = BTreeSet::new();
        let servers = servers.into_iter().filter(|server| seen.insert(server.clone())).collect();
        Self { name, servers, seconds }
    }
}

/// A client with a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientView {
    /// Its name.
    pub name: String,
    /// What it may call; every server if empty.
    pub servers: Vec<String>,
    /// Its connections.
    pub connections: usize,
}

/// Who is to be let in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admit {
    /// The client's name.
    pub name: String,
    /// What it may call; every server if empty.
    #[serde(default)]
    pub servers: Vec<String>,
    /// Its password; if not given, one is drawn.
    pub password: Option<String>,
}

/// A client that was let in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Its password, told this once.
    pub password: String,
}

/// An invitation, to be handed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// The relay's address for agents.
    pub relay: String,
    /// The invitation itself.
    pub token: String,
}

/// A member has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Connections that ended with it.
    pub connections: usize,
}

/// How an agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// `agent`.
    pub role: String,
    /// Of the program.
    pub version: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// How it is with each relay.
    pub relays: Vec<AgentRelay>,
}

/// How an agent is with a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRelay {
    /// `HOST:PORT`, as in the configuration.
    pub relay: String,
    /// What this agent is called there.
    pub name: Option<String>,
    /// Seconds since the session began; `None`: there is none.
    pub connected_seconds: Option<u64>,
    /// Why there is none, or why the one before has ended.
    pub last_error: Option<String>,
    /// How long the relay took to answer the last probe.
    pub round_trip_ms: Option<u64>,
    /// Connections, being dialled or open.
    pub connections: usize,
    /// What is published there.
    pub published: Vec<PublishedView>,
}

/// A server, and whether the relay takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedView {
    /// Its name and transport.
    pub server: Published,
    /// What is dialled.
    pub target: String,
    /// Why the relay does not take it.
    pub refused: Option<String>,
}
