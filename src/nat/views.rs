//! What is shown of bindings, contacts, pools and counters.

use super::binding::BindingState;
use super::stored::StoredBinding;
use crate::time::Time;
use crate::wire::AddressRange;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A binding as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingView {
    /// The terminal's own address.
    pub terminal: IpAddr,
    /// Name of the inside realm the terminal is in.
    pub realm: String,
    /// The virtual IP it is known by.
    pub virtual_ip: IpAddr,
    /// Name of the pool.
    pub pool: String,
    /// Where in its life it is.
    pub state: BindingState,
    /// Whether the operator tied the two together.
    pub pinned: bool,
    /// Whether a peer that the terminal has called has ever sent anything back; until then the binding is held for a short
    /// time only.
    pub answered: bool,
    /// When it was made (milliseconds since the Unix epoch).
    pub created: Time,
    /// When a packet last used it, to within a few seconds (milliseconds since the Unix epoch).
    pub last_used: Time,
    /// Seconds until it goes dormant (an active one), is released (a dormant one) or its virtual IP is free (one in
    /// quarantine), if nothing uses it meanwhile; none where it is pinned.
    #[serde(default)]
    pub seconds_left: Option<u64>,
    /// How many peers the terminal has called within the time for which that counts.
    pub contacts: u32,
    /// How many of them have answered.
    pub contacts_answered: u32,
    /// How many peers that could still call have been forgotten, because the terminal has called too many others.
    pub contacts_forgotten: u64,
    /// Who may call, in words; only where one binding is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
    /// The same for programs; where many bindings are listed, only if it is the binding's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyView>,
    /// The peers that the terminal has called, the latest first; only where one binding is looked at, and so many as were asked
    /// for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact_list: Option<Vec<ContactView>>,
    /// Packets from the terminal.
    pub packets_out: u64,
    /// Packets to the terminal.
    pub packets_in: u64,
    /// Bytes from the terminal, IP headers included.
    #[serde(default)]
    pub bytes_out: u64,
    /// Bytes to the terminal, likewise.
    #[serde(default)]
    pub bytes_in: u64,
    /// New connections opened by peers.
    pub callbacks: u32,
}

impl BindingView {
    /// As it is stored, without its contacts and its policy.
    pub fn to_store(&self) -> StoredBinding {
        StoredBinding {
            inside: Arc::from(self.realm.as_str()),
            terminal: self.terminal,
            virtual_ip: self.virtual_ip,
            state: self.state,
            pinned: self.pinned,
            answered: self.answered,
            created: self.created.as_secs(),
            last_used: self.last_used.as_secs(),
            packets_out: self.packets_out,
            packets_in: self.packets_in,
            bytes_out: self.bytes_out,
            bytes_in: self.bytes_in,
            callbacks: self.callbacks,
            ended: 0,
            callback: None,
            contacts: Vec::new(),
        }
    }

    /// As it is shown where the wall clock is so many seconds ahead of the times in it.
    pub fn shown(self, ahead: i64) -> Self {
        let millis = ahead.saturating_mul(1000);
        let contacts = |list: Vec<ContactView>| list.into_iter().map(|contact| contact.shown(ahead)).collect();
        Self {
            created: self.created.shifted(millis),
            last_used: self.last_used.shifted(millis),
            contact_list: self.contact_list.map(contacts),
            ..self
        }
    }
}

/// The callback policy of a binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// As in the configuration: `contacted`, `answered`, `anyone` or prefixes.
    pub callback: Vec<String>,
    /// Who says so.
    pub from: PolicyFrom,
}

/// Where a callback policy comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyFrom {
    /// It is the binding's own.
    Binding,
    /// It is that of its pool.
    Pool,
    /// It is that of the whole gateway.
    Gateway,
}

/// A peer that the terminal has called within the time for which that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactView {
    /// A host outside.
    pub peer: IpAddr,
    /// Since when it is a contact: when the terminal first called it, without having been forgotten since (milliseconds
    /// since the Unix epoch); `None` where an earlier kamei has kept it and did not write that down.
    #[serde(default)]
    pub since: Option<Time>,
    /// When the terminal last sent it a packet (milliseconds since the Unix epoch).
    pub last_called: Time,
    /// Whether it has sent anything back since.
    pub answered: bool,
    /// Who has called whom since then.
    #[serde(default)]
    pub direction: Direction,
    /// Whether it may call now.
    pub may_call: bool,
    /// Seconds until it is forgotten, if the terminal does not call it again.
    pub seconds_left: u64,
}

/// Who has opened connections, a terminal or the peer it has called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Only the terminal.
    #[default]
    Called,
    /// The peer too: it has called back. As with the callbacks that a binding counts, TCP connections are meant; a datagram
    /// may be an answer.
    CalledBack,
}

impl ContactView {
    /// As it is shown where the wall clock is so many seconds ahead of the times in it.
    pub(in crate::nat) fn shown(self, ahead: i64) -> Self {
        let shifted = |time: Time| time.shifted(ahead.saturating_mul(1000));
        Self { since: self.since.map(shifted), last_called: shifted(self.last_called), ..self }
    }
}

/// One pool, in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolView {
    /// As in the configuration; its range where it has none there.
    pub name: String,
    /// From the first to the last address, those that are never given among them.
    pub range: AddressRange,
    /// How many virtual IPs it can give at one time.
    pub capacity: u64,
    /// Bindings in use.
    pub active: u64,
    /// Idle bindings.
    pub dormant: u64,
    /// Virtual IPs in quarantine.
    pub quarantined: u64,
    /// Virtual IPs that are nobody's; they can be given now, unless it is draining.
    pub free: u64,
    /// Whether it keeps the bindings it has and makes no new ones.
    #[serde(default)]
    pub draining: bool,
}

/// Traffic of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficView {
    /// Packets translated; a super-packet counts once.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

/// The translator in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Each pool.
    pub pools: Vec<PoolView>,
    /// From inside to outside.
    pub out: TrafficView,
    /// From outside to inside.
    #[serde(rename = "in")]
    pub inward: TrafficView,
    /// Connections opened by peers.
    pub callbacks: u64,
    /// Bindings made since the start.
    pub created: u64,
    /// Packets dropped, by reason ([`super::DropReason::name`]); every reason is listed.
    pub drops: BTreeMap<String, u64>,
}
