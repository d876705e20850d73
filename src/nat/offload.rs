//! Flows that are carried elsewhere: decided here, kept and rewritten by somebody faster, answered for here.
//!
//! # Why no packet passes by a decision that was taken back
//!
//! A decision carries the epoch it was made in. Whatever takes decisions back counts the epoch up *first* and calls
//! [`Offload::revoke`] *then*; [`Offload::offer`] asks [`Nat::is_current`] while it holds the lock that `revoke` takes
//! too. So an offer of before either is in the keeper's books when `revoke` gets the lock, and is taken out; or it gets
//! the lock later, sees the new epoch, and is refused. When `revoke` returns, so does the call that changed the binding.

use super::counters::Counters;
use super::flows::{SlotRef, Tally};
use super::verdict::Realm;
use super::{Nat, owner};
use crate::nat::BindingState;
use crate::time::Time;
use crate::wire::{Address, Delta};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

/// Keeps decisions and carries packets by them.
pub trait Offload: Send + Sync {
    /// A flow that is in use. Keep it if [`Nat::is_current`] says so under the lock that [`Offload::revoke`] takes.
    fn offer(&self, nat: &Nat, offer: &Offer);

    /// Drops every flow of a binding, or (`None`) every flow, before it returns.
    fn revoke(&self, binding: Option<SlotRef>);
}

/// A decision about a flow, good for as long as it is not revoked: write `address` over the source of what comes from
/// inside, over the destination of what comes from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Where its packets come from.
    pub from: Realm,
    /// Their source.
    pub source: Address,
    /// Their destination.
    pub destination: Address,
    /// The address to write.
    pub address: Address,
    /// Where they go.
    pub to: Realm,
    /// The binding it belongs to.
    pub binding: SlotRef,
    pub(super) epoch: u64,
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

/// Who keeps decisions, if anybody, and what was carried.
#[derive(Default)]
pub(super) struct Offloaded {
    keeper: OnceLock<Arc<dyn Offload>>,
    counters: Arc<Counters>,
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

impl Nat {
    /// Flows in use are offered to `keeper` from now on. The first call counts.
    pub fn set_offload(&self, keeper: Arc<dyn Offload>) {
        if self.offloaded.keeper.set(keeper).is_ok() {
            self.counters.lock().push(Arc::clone(&self.offloaded.counters));
        }
    }

    /// Whether nothing was revoked since the decision was made.
    pub fn is_current(&self, offer: &Offer) -> bool {
        self.epoch.load(Ordering::Acquire) == offer.epoch
    }

    /// Notes what was carried of a flow since the last call, as if it had come through a [`super::Translator`]. Returns
    /// whether the decision would be the same now; if not, drop the flow. One caller at a time.
    pub fn carried(&self, offer: &Offer, carried: Carried, now: Time) -> bool {
        let stands = self.stands(offer, carried.packets > 0, now);
        if carried.packets > 0 {
            let counters = &self.offloaded.counters;
            let traffic = match offer.from {
                Realm::Inside(_) => &counters.out,
                Realm::Outside => &counters.inward,
            };
            traffic.packets.add(carried.packets);
            traffic.bytes.add(carried.bytes);
            let opened = if offer.from == Realm::Outside { carried.opened } else { 0 };
            counters.callbacks.add(opened);
            let [packets, opened] = [carried.packets, opened].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
            self.note(Tally::carried(offer, packets, carried.bytes, opened), now);
        }
        stands
    }

    /// TCP ports of control connections that a helper looks into.
    pub fn control_ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.alg.iter().map(|alg| alg.port)
    }

    /// The decision about a flow that was kept beyond the life of another `Nat`, if it would be the same now.
    pub fn offer_again(
        &self,
        from: Realm,
        source: Address,
        destination: Address,
        address: Address,
        now: Time,
    ) -> Option<Offer> {
        let (binding, to) = match from {
            Realm::Inside(inside) => {
                let table = self.selection.for_peer(destination)?;
                let index = self.table(table).ok()?.of_terminal(inside, source)?.index;
                (SlotRef::new(table, index), Realm::Outside)
            }
            Realm::Outside => {
                let callee = self.callee(destination).ok()?;
                (callee.slot(), Realm::Inside(callee.found.slot.inside))
            }
        };
        let epoch = self.epoch.load(Ordering::Acquire);
        let offer = Offer { from, source, destination, address, to, binding, epoch };
        (self.is_told_apart(&offer) && self.stands(&offer, false, now)).then_some(offer)
    }

    pub(super) fn keeper(&self) -> Option<&Arc<dyn Offload>> {
        self.offloaded.keeper.get()
    }

    /// Whether the terminal's address is of one inside alone: only the gateway's devices can tell two apart.
    pub(super) fn is_told_apart(&self, offer: &Offer) -> bool {
        let terminal = match offer.from {
            Realm::Inside(_) => offer.source,
            Realm::Outside => offer.address,
        };
        !self.is_unclear(terminal)
    }

    /// Whether an inside address is of several insides.
    pub(super) fn is_unclear(&self, address: Address) -> bool {
        let surroundings = self.surroundings.read();
        let insides = (0..self.insides.len()).filter_map(|inside| u16::try_from(inside).ok());
        insides.filter(|inside| surroundings.is_source(*inside, address)).count() > 1
    }

    /// Whether the decision would be the same now. If the terminal has sent something, its contact is refreshed.
    fn stands(&self, offer: &Offer, moved: bool, now: Time) -> bool {
        let (table, index) = (offer.binding.table(), offer.binding.index());
        match offer.from {
            Realm::Inside(inside) => {
                let Ok(bindings) = self.table(table) else { return false };
                let found = bindings.of_terminal(inside, offer.source).filter(|found| {
                    let slot = &found.slot;
                    found.index == index && slot.state == BindingState::Active && slot.virtual_ip == offer.address
                });
                let Some(found) = found else { return false };
                if moved {
                    self.contacts.note(owner(table.into(), &found), offer.destination, now.as_secs(), false);
                }
                true
            }
            Realm::Outside => self.callee(offer.destination).is_ok_and(|callee| {
                callee.found.slot.terminal == offer.address
                    && callee.slot() == offer.binding
                    && self.is_peer(offer.source, callee.found.slot.inside).is_ok()
                    // A first answer is seen here.
                    && self.may_call(&callee, offer.source, false, now).is_ok_and(|contact| contact.is_none_or(|c| c.answered))
            }),
        }
    }
}
