//! A binding, and in which table it is.

use super::binding::{Owner, SlotRef};
use super::numbers::TableNumber;
use super::table::Found;

/// A binding as it was found or made, with the table that has it.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub table: TableNumber,
    pub found: Found,
}

impl Bound {
    /// What names the binding for as long as it lives.
    pub fn owner(&self) -> Owner {
        Owner { table: self.table, index: self.found.index, created: self.found.slot.created }
    }

    /// What names its slot.
    pub fn slot(&self) -> SlotRef {
        SlotRef::new(self.table, self.found.index)
    }
}
