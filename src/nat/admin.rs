//! Looking at bindings and changing them by hand.

use crate::time::Time;
use crate::wire::AddressRange;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A binding as the administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// Whether the administrator tied the two together.
    pub pinned: bool,
    /// When it was made (milliseconds since the Unix epoch).
    pub created: Time,
    /// When a packet last used it, to within a few seconds (milliseconds since the Unix epoch).
    pub last_used: Time,
    /// How many peers the terminal has called that may still call back.
    pub contacts: u32,
    /// Packets from the terminal.
    pub packets_out: u64,
    /// Packets to the terminal.
    pub packets_in: u64,
    /// New connections opened by peers.
    pub callbacks: u32,
}

/// Where in its life a binding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BindingState {
    /// In use.
    Active,
    /// Idle; reserved for the same terminal.
    Dormant,
    /// Ended; the virtual IP answers nobody until the quarantine is over.
    Quarantined,
}

/// One pool, in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub range: AddressRange,
    /// How many virtual IPs it can give at one time.
    pub capacity: u64,
    /// Bindings in use.
    pub active: u64,
    /// Idle bindings.
    pub dormant: u64,
    /// Virtual IPs in quarantine.
    pub quarantined: u64,
    /// Virtual IPs that can be given now.
    pub free: u64,
}

/// Traffic of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrafficView {
    /// Packets translated; a super-packet counts once.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

/// The translator in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    pub drops: BTreeMap<&'static str, u64>,
}

/// Why a change by hand was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// No binding has this address.
    #[error("no binding has {0} as its terminal or virtual IP; `kamei bindings` lists them")]
    NotFound(IpAddr),
    /// The virtual IP is in no pool.
    #[error("{0} is in none of this gateway's pools; `kamei status` lists them")]
    NotInAPool(IpAddr),
    /// The address is in a pool but set aside.
    #[error("{0} is reserved and never given to a terminal")]
    Reserved(IpAddr),
    /// Families differ.
    #[error("{terminal} and {virtual_ip} are of different address families")]
    Family {
        /// The terminal asked for.
        terminal: IpAddr,
        /// The virtual IP asked for.
        virtual_ip: IpAddr,
    },
    /// Another terminal has it.
    #[error("{virtual_ip} belongs to {holder} ({state}); release it first")]
    Taken {
        /// The virtual IP asked for.
        virtual_ip: IpAddr,
        /// Who has it.
        holder: IpAddr,
        /// Its state, in words.
        state: &'static str,
    },
    /// The address cannot be a terminal.
    #[error("{0} is in none of the inside prefixes; no terminal can have this address")]
    NotInside(IpAddr),
    /// The terminal's address exists in several insides.
    #[error("{0} exists in several insides; name one as ADDRESS@INSIDE")]
    Ambiguous(IpAddr),
}
