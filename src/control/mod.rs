//! The local interface: HTTP/JSON on a unix socket that only root and the gateway's own user may ask; a group may be let
//! look (`GET`).
//!
//! README.md in this folder describes every request and its answer. The routes are in `query.rs`, the parameters and answers with
//! their types: [`Status`], [`Filter`], [`Sort`], [`Watch`], [`Line`], [`Drops`], [`Flows`], [`ExplainRequest`], [`Pin`],
//! [`CallbackBody`], [`Reloaded`], [`ReleasedAll`]. An error is a [`Failure`].

mod answer;
mod client;
mod connections;
mod credentials;
mod drops;
mod explain;
mod filter;
mod flows;
mod gateway;
mod history;
mod limits;
mod metrics;
mod order;
mod parameters;
mod pcapng;
mod query;
mod refusal;
mod relay;
mod relay_role;
mod server;
mod socket;
mod tap;
mod watch;

pub use client::{Asked, Client, ClientError};
pub use credentials::group_number;
pub use drops::{DropLine, Drops, DropsRequest, QUEUE_FULL};
pub use explain::{ExplainRequest, protocol_number};
pub use filter::{Filter, parse_prefix};
pub use flows::{CarriedFlow, FlowLine, Flows, FlowsRequest};
pub use order::{MOST_SORTED, Order, Sort};
pub use relay::{
    Admit, Admitted, AgentAdmin, AgentRelay, AgentStatus, AgentView, ClientView, ConnectionView, InvitationView,
    Invite, Invited, PublishedView, Refused, RelayAdmin, RelayStatus, Revoked, ServerView,
};
pub use server::{Listener, Server, SocketSettings};
pub use socket::ControlError;
pub use tap::{Seen, Taps};
pub use watch::{Ends, Line, PacketLine, Watch};

use crate::nat::{AdminError, BindingView, CallbackPolicy, Event, Nat, PoolView, Qualified, StatusView};
use crate::store::history::{Happened, HistoryAnswer, HistoryQuestion, HistoryStatus};
use crate::store::{Moment, StoreStatus};
use crate::time::Time;
use parking_lot::RwLockReadGuard;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What the server asks the gateway.
pub trait Admin: Send + Sync + 'static {
    /// The translator; no reload happens while it is held.
    fn nat(&self) -> RwLockReadGuard<'_, Arc<Nat>>;
    /// The time now.
    fn now(&self) -> Time;
    /// The same beside what the wall clock says.
    fn moment(&self) -> Moment;
    /// Makes the counters of bindings true as of now; may take a moment.
    fn sync_counts(&self);
    /// How the gateway itself is.
    fn status(&self) -> GatewayStatus;
    /// Every flow in the kernel. Keeps no worker waiting for more than a moment.
    fn for_each_flow(&self, each: &mut dyn FnMut(CarriedFlow));
    /// Where packets can be watched.
    fn taps(&self) -> &Arc<Taps>;
    /// Changes bindings by hand: in the table, for workers and kernel, in the log, and on disk before it returns. `user` is
    /// who asks. May take a moment.
    fn change(&self, change: &Change, user: u32) -> Result<Vec<BindingView>, ChangeError>;
    /// A binding was changed by hand.
    fn changed(&self, event: Event);
    /// Has the present state of bindings put on disk; takes a moment. The error says that they are changed, but not there.
    /// `done` is how they were changed, and `user` who did.
    fn record(&self, virtual_ips: &[IpAddr], done: Happened, user: u32) -> Result<(), String>;
    /// Who had which virtual IP when. The error says why that cannot be told. May take a moment.
    fn history(&self, question: &HistoryQuestion) -> Result<HistoryAnswer, String>;
    /// Reads the configuration anew and changes over to it, or only says what that would change. The error is one line
    /// or more; nothing has changed then. May take a moment.
    fn reload(&self, dry_run: bool) -> Result<Reloaded, String>;
}

/// A change of bindings by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Ties a terminal to a virtual IP.
    Pin {
        /// By its own address.
        terminal: Qualified,
        /// What it gets.
        virtual_ip: IpAddr,
        /// Even if that is in quarantine after another's use.
        force: bool,
    },
    /// Ends the bindings with this terminal or virtual IP.
    Release(Qualified),
    /// Says who may call.
    SetCallback {
        /// The bindings with this terminal or virtual IP.
        which: Qualified,
        /// Their own policy; `None`: that of their pools.
        policy: Option<CallbackPolicy>,
    },
}

/// Why a change was not made, or not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Nothing was changed.
    #[error(transparent)]
    Refused(#[from] AdminError),
    /// It is made, but not on disk.
    #[error("{0}")]
    NotRecorded(String),
}

/// How the gateway itself is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Version of kamei.
    pub version: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Whether packets are served.
    pub ready: bool,
    /// Base name of the TUN devices.
    pub tun: String,
    /// Inside interfaces.
    pub insides: Vec<String>,
    /// The insides by name, each with its interfaces.
    #[serde(default)]
    pub realms: Vec<RealmStatus>,
    /// Outside interfaces.
    pub outsides: Vec<String>,
    /// Worker threads.
    pub workers: usize,
    /// What each of them has done.
    pub by_worker: Vec<WorkerStatus>,
    /// Each TUN device.
    pub devices: Vec<DeviceStatus>,
    /// Events that wait to be written to the log.
    pub events_waiting: usize,
    /// The file that the bindings are recorded in.
    #[serde(default)]
    pub state_file: StoreStatus,
    /// What is kept of who had which virtual IP when.
    #[serde(default)]
    pub history: HistoryStatus,
    /// Offloads that the kernel granted.
    pub offload: String,
    /// Super-packets read.
    pub super_packets: u64,
    /// Translated packets that the kernel did not take.
    pub write_errors: u64,
    /// The fast path.
    pub fast_path: FastPathStatus,
    /// Addresses of pools that are not given, for other hosts have them.
    #[serde(default)]
    pub occupied: Vec<OccupiedStatus>,
    /// Claims of other hosts to addresses of pools that were not believed, for there were too many.
    #[serde(default)]
    pub claims_passed_over: u64,
}

/// An inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealmStatus {
    /// As in the configuration; `inside` where it has none there.
    pub name: String,
    /// Names of its interfaces, as in the configuration.
    pub interfaces: Vec<String>,
}

/// An address of a pool that another host of an outside network has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OccupiedStatus {
    /// Of a pool; not given meanwhile.
    pub address: IpAddr,
    /// The host's Ethernet address.
    pub hardware: String,
    /// The interface that it is behind.
    pub interface: String,
}

/// How the fast path is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastPathStatus {
    /// `tc`, `redirect`, `xdp`, or `off`: whether known flows are translated in the kernel.
    pub mode: String,
    /// Flows in the kernel.
    pub flows: u64,
    /// Packets that were translated there.
    pub hits: u64,
    /// Packets that it left to the slow path, by reason.
    pub slow: BTreeMap<String, u64>,
    /// Packets that the kernel's programs have dropped, or let pass as they were, by reason.
    #[serde(default)]
    pub noted: BTreeMap<String, u64>,
}

/// What a worker has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Packets read.
    pub reads: u64,
    /// Packets written, also those that the kernel did not take.
    pub writes: u64,
    /// How often it was woken.
    pub wakeups: u64,
    /// How often a queue had more packets than it takes at one turn: a worker with many is busy.
    pub full_turns: u64,
}

/// A TUN device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// As the kernel has it.
    pub name: String,
    /// Packets that the kernel dropped because the queue to its worker was full.
    pub queue_full: u64,
}

/// Answer to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The gateway.
    #[serde(flatten)]
    pub gateway: GatewayStatus,
    /// Bindings by state, of all pools together.
    pub bindings: BindingCounts,
    /// The translator.
    #[serde(flatten)]
    pub nat: StatusView,
}

/// How many bindings there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingCounts {
    /// In use.
    pub active: u64,
    /// Idle; reserved for the same terminal.
    pub dormant: u64,
    /// Ended; the virtual IPs answer nobody until the quarantine is over.
    pub quarantined: u64,
}

impl Status {
    fn new(gateway: GatewayStatus, nat: StatusView) -> Self {
        let sum = |count: fn(&PoolView) -> u64| nat.pools.iter().map(count).sum();
        let bindings = BindingCounts {
            active: sum(|pool| pool.active),
            dormant: sum(|pool| pool.dormant),
            quarantined: sum(|pool| pool.quarantined),
        };
        Self { gateway, bindings, nat }
    }
}

/// Answer to a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What is different about the new configuration, one line each.
    pub changes: Vec<String>,
    /// Bindings that fit nowhere in it and are released, as they were.
    pub released: Vec<BindingView>,
    /// How many bindings have another place in the tables; each keeps its virtual IP.
    pub moved: usize,
    /// Whether the new configuration is in force.
    pub applied: bool,
    /// Of a dry run: what only a restart brings. A reload would be refused then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
}

/// What only a restart brings of a changed configuration, and what that costs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// The keys that only a restart changes.
    pub keys: Vec<String>,
    /// How many bindings would not fit any more, and be kept aside.
    pub kept_aside: u64,
    /// Those bindings, the first thousand.
    pub named: Vec<KeptAside>,
    /// What else it costs, a sentence each.
    pub notes: Vec<String>,
}

/// A binding that does not fit a configuration: it stays in the state file, and is in force no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAside {
    /// The terminal's own address.
    pub terminal: IpAddr,
    /// The inside realm.
    pub realm: String,
    /// The virtual IP.
    pub virtual_ip: IpAddr,
    /// What it does not fit, in words.
    pub why: String,
}

/// Answer to a release of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasedAll {
    /// How many bindings.
    pub bindings: u64,
    /// Whether they are released; `false` where it was only asked.
    pub released: bool,
}

/// Body of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The virtual IP to tie to the terminal.
    pub virtual_ip: IpAddr,
    /// Even if it is in quarantine after another terminal's use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Body of a change of who may call back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallbackBody {
    /// `["contacted"]`, `["answered"]`, `["anyone"]` or prefixes; `null`: as the pool has it.
    pub callback: Option<Vec<String>>,
}

/// Body of every error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One line: what is wrong and what to do.
    pub error: String,
}

#[cfg(test)]
mod role_tests;
#[cfg(test)]
mod tests;
