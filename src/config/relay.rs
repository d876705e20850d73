//! The configuration of a relay.

use super::{Hardening, HostPort, LogFormat, Probing};
use crate::session::{DataChannel, Published};
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
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
    /// Where clients ask for a server themselves, by SOCKS5 or HTTP CONNECT.
    pub proxy: ProxyConfig,
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

/// Where clients ask for a server, and who may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Addresses and ports.
    pub listen: Vec<SocketAddr>,
    /// Who is served without proving who it is; nobody if empty.
    pub clients: Vec<IpNet>,
}

impl ProxyConfig {
    /// Whether who asks from this address need not prove who it is.
    pub fn trusts(&self, client: IpAddr) -> bool {
        self.clients.iter().any(|prefix| prefix.contains(&client))
    }
}

/// A server, and how clients name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// What an agent publishes it as.
    pub published: Published,
    /// The relay's port for it.
    pub port: Option<u16>,
    /// TLS server names by which it is called where agents come in; in small letters.
    pub sni: Vec<ServerName>,
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
        let addresses = self.addresses.iter().copied().chain(everywhere);
        self.port.into_iter().flat_map(move |port| addresses.clone().map(move |address| (address, port).into()))
    }
}

impl RelayConfig {
    /// The server that is called by this TLS server name: one that has it whole before one of all names below a domain.
    pub fn named(&self, name: &str) -> Option<&ServerConfig> {
        let with =
            |is_it: &dyn Fn(&ServerName) -> bool| self.servers.iter().find(|server| server.sni.iter().any(is_it));
        with(&|own| own.0 == name).or_else(|| with(&|own| own.covers(name)))
    }
}

/// A TLS server name, or `*.` and a domain: all names that have one label more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName(String);

impl ServerName {
    fn covers(&self, name: &str) -> bool {
        let below = || Some(self.0.strip_prefix("*.")? == name.split_once('.')?.1);
        self.0 == name || below() == Some(true)
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_label = |label: &str| {
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=63).contains(&label.len()) && label.bytes().all(is_letter) && !label.starts_with('-')
        };
        let is_address = name.parse::<IpAddr>().is_ok();
        if is_address || name.len() > 253 || !name.contains('.') || !name.split('.').all(is_label) {
            return Err(format!(
                "'{text}' is no server name; write web.example.org or *.example.org, names beyond ASCII as xn--…"
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
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
