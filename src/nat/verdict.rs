//! What becomes of a packet.

use super::binding::Realm;
use super::event::Event;
use super::reason::DropReason;

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Rewritten in place: let it go on in realm `to`.
    Forward {
        /// Where it goes.
        to: Realm,
        /// What it did to a binding. Record it before the packet leaves (N3).
        event: Option<Event>,
    },
    /// Let other packets go on in its place: a helper wrote into the text of a connection.
    Replace(Box<Replaced>),
    /// Drop the packet.
    Drop(DropReason),
    /// Drop the packet, and say what it did to a binding: mostly, a terminal asked for one in vain.
    Refuse(Box<Refused>),
}

/// What goes on in place of a packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Where it goes.
    pub to: Realm,
    /// What the packet did to a binding, as in [`Verdict::Forward`].
    pub event: Option<Event>,
    /// The packets, with complete checksums; none while the text waits for its rest.
    pub packets: Vec<Box<[u8]>>,
    /// A packet to send back to where the first one came from.
    pub answer: Option<Box<[u8]>>,
}

/// A terminal asked for a binding in vain.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why there is no binding for it.
    pub reason: DropReason,
    /// For the log.
    pub event: Event,
    /// A packet to send back to where the first one came from.
    pub answer: Option<Box<[u8]>>,
}
