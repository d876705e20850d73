//! The translator. Pure: no clock, no I/O, no unsafe; `now` and bytes are handed in.

#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

mod admin;
mod event;
mod settings;
mod verdict;

pub use admin::{AdminError, BindingState, BindingView, PoolView, StatusView, TrafficView};
pub use event::{Event, EventKind};
pub use settings::{CallbackPolicy, CreationLimit, Exhausted, InsideSettings, Lifetimes, PoolSettings, Settings};
pub use verdict::{DropReason, Realm, Verdict};

use crate::time::Time;
use std::net::IpAddr;
use std::sync::Arc;

/// What all workers share: pools with their bindings, contacts, counters. Hand one [`Translator`] to each worker.
pub struct Nat {}

/// The translator of one worker.
pub struct Translator {}

impl Nat {
    /// Builds the shared state. `Err` only where the settings contradict themselves (the checked configuration never does).
    pub fn new(_settings: Settings) -> Result<Arc<Self>, String> {
        todo!()
    }

    /// A translator for one more worker.
    pub fn translator(self: &Arc<Self>) -> Translator {
        todo!()
    }

    /// Calls `each` for every binding that is active, dormant or quarantined, in the order of the pools and of the
    /// virtual IPs, until it returns `false`. Takes no lock that a packet could wait for longer than one binding's worth.
    pub fn for_each_binding(&self, _each: &mut dyn FnMut(BindingView) -> bool) {
        todo!()
    }

    /// The bindings in which `address` is the terminal or the virtual IP.
    pub fn find(&self, _address: IpAddr) -> Vec<BindingView> {
        todo!()
    }

    /// Ties `terminal` to `virtual_ip` for good (until released): such a binding never goes dormant. An existing binding
    /// of the terminal in that pool moves; its old virtual IP is quarantined.
    pub fn pin(&self, _terminal: IpAddr, _virtual_ip: IpAddr, _now: Time) -> Result<BindingView, AdminError> {
        todo!()
    }

    /// Releases every binding in which `address` is the terminal or the virtual IP; the virtual IPs are quarantined.
    /// Returns the bindings as they were.
    pub fn release(&self, _address: IpAddr, _now: Time) -> Result<Vec<BindingView>, AdminError> {
        todo!()
    }

    /// Counters and pool use.
    pub fn status(&self) -> StatusView {
        todo!()
    }

    /// Ages bindings: bounded work, call about once a second. Events of what changed go to `sink`.
    pub fn tick(&self, _now: Time, _sink: &mut dyn FnMut(Event)) {
        todo!()
    }

    /// Replaces what may send from the inside (see [`InsideSettings::sources`]): the kernel's routes changed.
    pub fn set_sources(&self, _inside: usize, _sources: Vec<ipnet::IpNet>) {
        todo!()
    }

    /// Replaces the gateway's own outside addresses: shown as the sender of errors from hosts that have no virtual IP.
    pub fn set_own_outside(&self, _addresses: Vec<IpAddr>) {
        todo!()
    }
}
