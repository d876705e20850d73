//! What a program at tc is there for, and how it sits.

use super::Entrance;
use aya::programs::TcAttachType;

/// What a program at tc is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Translates what leaves by an outside interface.
    Leaving,
    /// Drops what [`Duty::Leaving`] should have translated.
    Watching,
    /// Translates what arrives at an outside interface.
    Arriving,
    /// Translates what arrives at an inside interface, and sends it out at once.
    Shortcut,
    /// At the gateway's device: takes packets back to where user space got them from.
    Returning,
    /// At the gateway's device: says what the kernel has routed to it.
    Routed,
    /// Translates what leaves by a port of an outside bridge and has not passed the bridge.
    Beneath,
}

impl Duty {
    /// The duties at an outside interface, in the order in which they are attached: closed before it is open.
    pub const OUTSIDE: [Self; 3] = [Self::Watching, Self::Leaving, Self::Arriving];
    /// The duties at the gateway's device.
    pub const DEVICE: [Self; 2] = [Self::Routed, Self::Returning];
    /// The duty at a port of an outside bridge.
    pub const PORT: [Self; 1] = [Self::Beneath];

    /// The name of its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Leaving => "kamei_leaving",
            Self::Watching => "kamei_watching",
            Self::Arriving => "kamei_arriving",
            Self::Shortcut => "kamei_shortcut",
            Self::Returning => "kamei_returning",
            Self::Routed => "kamei_routed",
            Self::Beneath => "kamei_beneath",
        }
    }

    /// Its number in handles of filters.
    pub(super) fn code(self) -> u16 {
        match self {
            Self::Leaving => 1,
            Self::Watching => 2,
            Self::Arriving => 3,
            Self::Shortcut => 4,
            Self::Returning => 5,
            Self::Routed => 6,
            Self::Beneath => 7,
        }
    }
}

/// Where a program comes to sit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Where one sits that a predecessor has left; else in front of the programs of others.
    AsLeft,
    /// In front of the programs of others, whatever was left.
    InFront,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug)]
pub struct AttachPoint<'a> {
    pub entrance: &'a Entrance,
    /// Where among the programs there.
    pub position: Position,
}

/// How a program sits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stance {
    /// In front of the programs of others.
    First,
    /// Another comes before it, which may keep packets from it.
    Behind {
        /// That one, in words.
        who: String,
        /// Nothing can be put in front of it.
        is_fixed: bool,
    },
    /// Not any more.
    Gone,
}

impl Duty {
    /// The direction of its packets.
    pub(super) fn side(self) -> TcAttachType {
        match self {
            Duty::Leaving | Duty::Watching | Duty::Routed | Duty::Beneath => TcAttachType::Egress,
            Duty::Arriving | Duty::Shortcut | Duty::Returning => TcAttachType::Ingress,
        }
    }
}
