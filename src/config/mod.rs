//! Configuration: what the operator wrote (`draft`, from a file and from flags) becomes a [`Config`] that cannot hold
//! nonsense, or a list of what is wrong with it. Reads no file itself.

mod agent;
mod agent_draft;
mod check;
mod checks;
mod difference;
mod draft;
mod host_port;
mod mistakes;
mod problem;
mod relay;
mod relay_draft;
mod role_of;
mod via;

pub use agent::{AgentConfig, PublishConfig};
pub use agent_draft::{AgentDraft, PublishDraft};
pub use check::{is_inside_name, policy as parse_callback};
pub use checks::{CommonDraft, ConfigSource, RoleDraft};
pub use difference::Difference;
pub use draft::{Draft, InsideDraft, Located, PoolDraft};
pub use host_port::{HostPort, HostPortError};
pub use problem::{Place, Problem, Wrong};
pub use relay::{ProxyConfig, RelayConfig, RelayLimits, ServerConfig, ServerName};
pub use relay_draft::{RelayDraft, ServerDraft};
pub use role_of::role_of;
pub use via::{Via, ViaError, ViaKind};

use crate::nat::{Policy, PoolSettings};
use ipnet::IpNet;
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where the control socket is unless told otherwise.
pub const DEFAULT_CONTROL: &str = "/run/kamei/gateway.sock";
/// Where state is kept unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/kamei";
/// Base name of the TUN devices unless told otherwise.
pub const DEFAULT_TUN: &str = "kamei";

/// A configuration that has been checked.
///
/// ```
/// use kamei::config::Config;
/// let config = Config::parse("inside = [\"eth1\"]\noutside = [\"eth0\"]\n[[pool]]\nrange = \"198.18.0.0/16\"\n").unwrap();
/// assert_eq!(config.outsides, ["eth0"]);
/// let wrong = Config::parse("inside = \"eth1\"\noutside = [\"eth0\"]\n[[pool]]\nrange = \"198.18.0.0/16\"\n").unwrap_err();
/// assert!(wrong[0].to_string().starts_with("line 1: inside: takes a list"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The inside realms.
    pub insides: Vec<Inside>,
    /// The outside interfaces.
    pub outsides: Vec<String>,
    /// The pools.
    pub pools: Vec<PoolSettings>,
    /// Destinations that terminals reach, and are reached from, under their own addresses (RFC 6888 REQ-6).
    pub exempt: Vec<IpNet>,
    /// How bindings are made, kept and called.
    pub policy: Policy,
    /// The control socket.
    pub control: PathBuf,
    /// Where metrics are told beside the control socket; a loopback address.
    pub metrics: Option<SocketAddr>,
    /// The group whose members may look at the table, by name or number.
    pub control_group: Option<String>,
    /// The state directory.
    pub state_dir: PathBuf,
    /// When the first packet of a binding may leave.
    pub durability: Durability,
    /// What becomes of new bindings while the state file cannot be written.
    pub when_disk_fails: WhenDiskFails,
    /// Time between two syncs of the state file: what a power cut can cost at most.
    pub sync_interval: Duration,
    /// How much is kept of who had which virtual IP when; `None`: nothing.
    pub history: Option<HistorySettings>,
    /// Worker threads; one a core if not given.
    pub workers: Option<NonZeroUsize>,
    /// How long a worker goes on looking for packets before it sleeps; zero: not at all.
    pub busy_poll: Duration,
    /// Which processors the workers stay on.
    pub pin: Pinning,
    /// Base name of the TUN devices.
    pub tun: String,
    /// Whether to ask the kernel for offloads.
    pub offload: Offload,
    /// How the log is written.
    pub log_format: LogFormat,
    /// What it calls terminals.
    pub log_terminals: LogTerminals,
    /// Whether the process gives up what it no longer needs.
    pub hardening: Hardening,
    /// What a stop leaves of routes, rules and devices.
    pub on_stop: OnStop,
    /// Whether packets of known flows are translated in the kernel.
    pub fast_path: FastPath,
}

/// How often the other end of a session is probed, and how long an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probing {
    /// Time from an answer to the next probe.
    pub every: Duration,
    /// Time for an answer.
    pub patience: Duration,
}

impl Default for Probing {
    fn default() -> Self {
        Self { every: Duration::from_secs(15), patience: Duration::from_secs(10) }
    }
}

/// How much of the history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistorySettings {
    /// How long entries are kept.
    pub keep: Duration,
    /// How many are kept at most.
    pub entries: u64,
}

/// Whether and how packets of known flows are translated in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastPath {
    /// Whether, and where.
    pub mode: FastPathMode,
    /// At which hook of tc; `None`: at TCX where the kernel has it, else at clsact.
    pub hook: Option<FastPathHook>,
    /// Flows of each address family at most.
    pub flows: u32,
}

/// How packets of known flows are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FastPathMode {
    /// As [`FastPathMode::Tc`].
    #[default]
    Auto,
    /// In the kernel, as they leave by an outside interface and arrive at one.
    Tc,
    /// As they arrive, and they leave at once, past the firewall, connection tracking and IPsec; else as
    /// [`FastPathMode::Tc`].
    Redirect,
    /// As [`FastPathMode::Redirect`], and before that in the driver of network cards, by XDP.
    Xdp,
    /// In user space.
    Off,
}

/// Where at tc the kernel runs programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FastPathHook {
    /// Linux 6.6 and later.
    Tcx,
    /// A filter on the queueing discipline `clsact`.
    Clsact,
}

/// One inside realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Its name in listings and logs.
    pub name: String,
    /// Its interfaces.
    pub interfaces: Vec<String>,
    /// Prefixes whose addresses may get a binding, beside those the kernel routes to these interfaces.
    pub prefixes: Vec<IpNet>,
}

/// When the first packet of a binding may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// When the system has the binding: it survives the end of the process, whatever ends it.
    #[default]
    Process,
    /// When it is on disk: it survives a power cut.
    Strict,
}

/// What becomes of new bindings while the state file cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenDiskFails {
    /// They are refused.
    #[default]
    Refuse,
    /// They are made, and a restart forgets them.
    Allow,
}

/// Whether to ask the kernel for offloads on the TUN devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offload {
    /// As much as the kernel grants.
    #[default]
    Auto,
    /// None: one packet a read, for trouble-shooting.
    Off,
}

/// Which processors the workers stay on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pinning {
    /// Each on one of those the process may use, in turn.
    #[default]
    Each,
    /// On these alone, in turn.
    To(Vec<usize>),
    /// Wherever the scheduler puts them: packets of a flow may overtake each other.
    No,
}

/// What a stop leaves of routes, rules and devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStop {
    /// Nothing: the host is as it was.
    #[default]
    Undo,
    /// Everything, for the next gateway of the same name; inside packets are blocked until it comes.
    Leave,
}

/// Whether the process gives up what it no longer needs once it is set up: capabilities, directories, system calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hardening {
    /// As much as the kernel can.
    #[default]
    On,
    /// Nothing, for trouble-shooting: debuggers and profilers that look from within.
    Off,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// An object a line.
    Json,
    /// Records with fields, to systemd's journal.
    Journald,
}

/// What the log calls terminals, whose addresses are meant to stay hidden.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogTerminals {
    /// By their addresses.
    #[default]
    Plain,
    /// By a hash with the installation's key: the same terminal has the same one.
    Hash,
    /// Nothing.
    None,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "journald" => Ok(Self::Journald),
            _ => Err("it can be text, json or journald".to_owned()),
        }
    }
}

impl FromStr for LogTerminals {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "plain" => Ok(Self::Plain),
            "hash" => Ok(Self::Hash),
            "none" => Ok(Self::None),
            _ => Err("it can be plain, hash or none".to_owned()),
        }
    }
}

impl FastPathMode {
    /// Every one, with its name.
    pub const ALL: [(&str, FastPathMode); 5] = [
        ("auto", FastPathMode::Auto),
        ("tc", FastPathMode::Tc),
        ("redirect", FastPathMode::Redirect),
        ("xdp", FastPathMode::Xdp),
        ("off", FastPathMode::Off),
    ];
}

impl FromStr for FastPathMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = Self::ALL.map(|(name, _)| name).join(", ");
        let found = Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode);
        found.ok_or_else(|| format!("there are {all}"))
    }
}

impl Config {
    /// Why a binding would be kept aside with this configuration; `None` if it fits.
    pub fn misfit(&self, inside: &str, virtual_ip: IpAddr) -> Option<&'static str> {
        if !self.insides.iter().any(|served| *served.name == *inside) {
            return Some("its inside is not served");
        }
        let fits = self
            .pools
            .iter()
            .any(|pool| pool.range.contains(virtual_ip.into()) && !pool.reserved.contains(&virtual_ip));
        (!fits).then_some("its virtual IP is in no pool")
    }

    /// Reads and checks a configuration file. All problems at once, in the order of their lines.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        Draft::parse(text)?.check()
    }
}

#[cfg(test)]
mod tests;
