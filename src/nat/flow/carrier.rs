//! Flows that the carrier (the kernel) translates: the translator decides, the carrier keeps and rewrites.
//!
//! # Why no packet passes by a decision that was taken back
//!
//! A decision carries the epoch it was made in. Whatever takes decisions back counts the epoch up *first* and calls
//! [`FlowCarrier::revoke`] *then*; [`FlowCarrier::offer`] asks [`Epoch::is_current`] while it holds the lock that `revoke` takes
//! too. So an offer of before either is in the carrier's books when `revoke` gets the lock, and is taken out; or it gets
//! the lock later, sees the new epoch, and is refused. When `revoke` returns, so does the call that changed the binding.

use crate::nat::binding::{Realm, SlotRef};
use crate::nat::counters::Counters;
use crate::wire::{Address, Delta};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Keeps decisions and carries packets by them.
pub trait FlowCarrier: Send + Sync {
    /// A flow that is in use. Keep it if [`Epoch::is_current`] says so under the lock that [`FlowCarrier::revoke`] takes.
    fn offer(&self, epoch: &Epoch, offer: &Offer);

    /// Drops every flow of a binding, or (`None`) every flow, before it returns.
    fn revoke(&self, binding: Option<SlotRef>);
}

/// A decision about a flow, good for as long as it is not revoked: write `address` over the source of what comes from
/// inside, over the destination of what comes from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Where its packets come from.
    pub from: Realm,
    /// Their source, before it is rewritten.
    pub source: Address,
    /// Their destination, before it is rewritten.
    pub destination: Address,
    /// The address to write.
    pub address: Address,
    /// Where they go.
    pub to: Realm,
    /// The binding it belongs to.
    pub binding: SlotRef,
    pub(in crate::nat) epoch: u64,
}

/// Counts the changes after which no decision of before may be trusted.
#[derive(Debug, Default)]
pub struct Epoch(AtomicU64);

impl Epoch {
    /// Goes on from the epoch of another translator.
    pub(in crate::nat) fn after(before: u64) -> Self {
        Self(AtomicU64::new(before))
    }

    /// The epoch of now.
    pub(in crate::nat) fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// What was decided before is not to be trusted from now on.
    pub(in crate::nat) fn advance(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether nothing was taken back since the decision was made.
    pub fn is_current(&self, offer: &Offer) -> bool {
        self.now() == offer.epoch
    }
}

/// What has been carried of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Packets; a super-packet counts once.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// TCP connection requests among them.
    pub opened: u64,
}

/// The carrier, where there is one, and counters of what it has carried.
#[derive(Default)]
pub(in crate::nat) struct CarrierAccount {
    pub(in crate::nat) carrier: OnceLock<Arc<dyn FlowCarrier>>,
    pub(in crate::nat) counters: Arc<Counters>,
}

impl Offer {
    /// What the rewrite changes in any Internet checksum.
    pub fn delta(&self) -> Delta {
        let old = match self.from {
            Realm::Inside(_) => self.source,
            Realm::Outside => self.destination,
        };
        Delta::of_address(old, self.address)
    }
}
