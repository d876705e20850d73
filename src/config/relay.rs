//! The configuration of a relay.

use super::{Hardening, HostPort, LogFormat, Probing};
use crate::session::{DataChannel, Published};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A relay's configuration that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// Where agents come in; never empty.
    pub listen: Vec<SocketAddr>,
    /// What invitations name as the relay's address; if not given, an address of `listen` that is a single one.
    pub public: Option<HostPort>,
    /// Servers that clients reach by a port of the relay; each name and transport once.
    pub servers: Vec<ServerConfig>,
    /// Prefixes of virtual IPs: each server that is published gets one, and is called there at its own port. Needs root.
    pub pools: Vec<IpNet>,
    /// Keys, certificates and the register of members.
    pub state_dir: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// The group that may look there, by its name or number.
    pub control_group: Option<String>,
    /// Where metrics are told beside the control socket; a loopback address.
    pub metrics: Option<SocketAddr>,
    /// How much may be open at once.
    pub limits: RelayLimits,
    /// How often agents are probed.
    pub probing: Probing,
    /// How long a call waits for an agent that is away; zero: it is reset at once.
    pub hold: Duration,
    /// When a connection without bytes ends; `None`: never.
    pub idle: Option<Duration>,
    /// Whether the process gives up what it does not need.
    pub hardening: Hardening,
    /// How the log is written.
    pub log_format: LogFormat,
}

/// A server, and how clients name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// What an agent publishes it as.
    pub published: Published,
    /// The relay's port for it.
    pub port: u16,
    /// The relay's addresses for that port; all of them if empty.
    pub addresses: Vec<IpAddr>,
    /// Who may call; everybody if empty.
    pub clients: Vec<IpNet>,
    /// How its bytes travel between relay and agent.
    pub channel: DataChannel,
}

impl ServerConfig {
    /// Whether who calls from this address is served.
    pub fn welcomes(&self, client: IpAddr) -> bool {
        self.clients.is_empty() || self.clients.iter().any(|prefix| prefix.contains(&client))
    }

    /// Where it is called.
    pub fn sockets(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let everywhere = self.addresses.is_empty().then_some(Ipv6Addr::UNSPECIFIED.into());
        self.addresses.iter().copied().chain(everywhere).map(|address| (address, self.port).into())
    }
}

/// How much may be open at once. Each refuses with a reason of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Servers of an agent.
    pub servers: usize,
    /// Connections to a server.
    pub of_server: usize,
    /// Connections to the servers of an agent.
    pub of_agent: usize,
    /// Connections of a client's address: of an IPv4 address, or an IPv6 /64.
    pub of_client: usize,
    /// Connections in all.
    pub in_all: usize,
    /// Agents' TCP connections that have not proved who they are.
    pub unproved: usize,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self { servers: 256, of_server: 4096, of_agent: 16_384, of_client: 1024, in_all: 65_536, unproved: 512 }
    }
}
