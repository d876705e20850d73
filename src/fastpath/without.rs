//! In place of the fast path, where this program was built without it.

use super::{Common, FastPathError, Site};
use crate::nat::{Nat, Offer, Offload, SlotRef};
use crate::time::Time;
use std::collections::BTreeMap;
use std::io;

/// Never exists.
pub enum FastPath {}

/// There is nothing to remove.
///
/// # Errors
/// None.
pub fn remove(_: &str) -> io::Result<bool> {
    Ok(false)
}

impl FastPath {
    /// Refuses.
    ///
    /// # Errors
    /// [`FastPathError::NotBuilt`], always.
    pub fn new(_: Common, _: Time) -> Result<Self, FastPathError> {
        Err(FastPathError::NotBuilt)
    }

    /// Nothing to do.
    pub fn follow(&self, _: &Site) -> Vec<FastPathError> {
        match *self {}
    }

    /// Nothing to do.
    pub fn adopt(&self, _: &Nat, _: Time) {
        match *self {}
    }

    /// Nothing to do.
    pub fn remove(&self) {
        match *self {}
    }

    /// Nothing to do.
    pub fn renew(&self, _: Common) {
        match *self {}
    }

    /// Nothing to do.
    pub fn look(&self, _: &Nat, _: Time) {
        match *self {}
    }

    /// Nothing to do.
    pub fn settle(&self, _: &Nat, _: Time) {
        match *self {}
    }

    /// Nothing to do.
    pub fn bypass(&self, _: bool, _: &Nat, _: Time) {
        match *self {}
    }

    /// Nothing to see.
    pub fn view(&self) -> (u64, u64, BTreeMap<String, u64>) {
        match *self {}
    }
}

impl Offload for FastPath {
    fn offer(&self, _: &Nat, _: &Offer) {
        match *self {}
    }

    fn revoke(&self, _: Option<SlotRef>) {
        match *self {}
    }
}
