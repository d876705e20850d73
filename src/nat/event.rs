//! What happens to bindings, for the log and the state file.

use super::numbers::{InsideNumber, PoolNumber};
use super::reason::DropReason;
use crate::time::Time;
use crate::wire::Address;

/// Something happened to a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Made, woken, released and the like.
    pub kind: EventKind,
    /// The realm of the terminal.
    pub inside: InsideNumber,
    /// The pool of the virtual IP.
    pub pool: PoolNumber,
    /// When the binding was made, to the second; for [`EventKind::Refused`], when it was refused.
    pub made: Time,
    /// Whose binding.
    pub terminal: Address,
    /// Which virtual IP; the unspecified address for [`EventKind::Refused`].
    pub virtual_ip: Address,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A terminal got a virtual IP.
    Created,
    /// A binding that is not on record yet was used again; its packet must wait like the first.
    Unrecorded,
    /// A dormant binding is in use again; its packet must wait until that is on record.
    Woken,
    /// A terminal with a binding calls a peer that is not on record as its contact, or its waking is not yet; its packet
    /// must wait until all that is.
    Contacted,
    /// An idle binding went dormant; the virtual IP stays reserved.
    Dormant,
    /// The binding ended; its virtual IP is quarantined.
    Released,
    /// The quarantine ended; the virtual IP is free.
    Freed,
    /// The binding was pinned by the operator.
    Pinned,
    /// A terminal asked for a binding and got none.
    Refused(DropReason),
}
