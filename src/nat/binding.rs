//! A binding: which it is, where in its life it is, and from which side its packets come.

use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;

/// Which side a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Realm {
    /// The outside.
    Outside,
    /// The inside with this index in [`super::Settings::insides`].
    Inside(u16),
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

/// Names a binding for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Number of its table.
    pub table: u16,
    /// Its slot.
    pub index: u32,
    /// The second in which it was made: a later binding in the same slot has another one, for a virtual IP is not given
    /// again before its quarantine is over.
    pub created: u32,
}

/// Names a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotRef {
    /// Number of the table, counted from one: leaves a value for "none".
    table: NonZeroU16,
    index: u32,
}

impl SlotRef {
    /// Slot `index` of table `table`.
    pub fn new(table: u16, index: u32) -> Self {
        Self { table: NonZeroU16::MIN.saturating_add(table), index }
    }

    /// Number of the table.
    pub fn table(self) -> u16 {
        self.table.get() - 1
    }

    /// Slot in it.
    pub fn index(self) -> u32 {
        self.index
    }
}
