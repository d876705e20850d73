//! The configuration of an agent.

use super::{Hardening, HostPort, LogFormat, Probing, Via};
use crate::session::Published;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// An agent's configuration that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// The relays, each with a session of its own; never empty.
    pub relays: Vec<HostPort>,
    /// A proxy on the way to all of them.
    pub via: Option<Via>,
    /// What is published; never empty, each name and transport once.
    pub publish: Vec<PublishConfig>,
    /// Its key and certificate.
    pub state_dir: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// The group that may look there, by its name or number.
    pub control_group: Option<String>,
    /// Where metrics are told beside the control socket; a loopback address.
    pub metrics: Option<SocketAddr>,
    /// Connections at once, being dialled or open.
    pub connections: usize,
    /// How long a server may take to accept.
    pub dial_time: Duration,
    /// How often the relay is probed.
    pub probing: Probing,
    /// Whether the process gives up what it does not need.
    pub hardening: Hardening,
    /// How the log is written.
    pub log_format: LogFormat,
}

/// A server, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishConfig {
    /// Its name for clients.
    pub published: Published,
    /// What is dialled.
    pub target: HostPort,
    /// Whether the server is told the client's address by a header of the PROXY protocol, version 2.
    pub proxy_protocol: bool,
}
