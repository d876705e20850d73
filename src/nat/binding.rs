//! A binding: which it is, where in its life it is, and from which side its packets come.

use super::numbers::{InsideNumber, TableNumber};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;

/// Which side a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Realm {
    /// The outside.
    Outside,
    /// An inside.
    Inside(InsideNumber),
}

impl Realm {
    /// The inside in place `number` of [`super::Settings::insides`].
    pub const fn inside(number: u16) -> Self {
        Self::Inside(InsideNumber::new(number))
    }

    /// 0 for the outside, one more than its place for an inside: for keys and formats that know numbers only.
    pub fn number(self) -> u32 {
        match self {
            Realm::Outside => 0,
            Realm::Inside(inside) => u32::from(inside.get()) + 1,
        }
    }

    /// The realm with this [`Realm::number`].
    pub fn of_number(number: u32) -> Option<Self> {
        match number.checked_sub(1) {
            None => Some(Realm::Outside),
            Some(place) => u16::try_from(place).ok().map(Realm::inside),
        }
    }
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
    pub table: TableNumber,
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
    pub fn new(table: TableNumber, index: u32) -> Self {
        Self { table: NonZeroU16::MIN.saturating_add(table.get()), index }
    }

    /// The table.
    pub fn table(self) -> TableNumber {
        TableNumber::new(self.table.get() - 1)
    }

    /// Slot in it.
    pub fn index(self) -> u32 {
        self.index
    }
}
