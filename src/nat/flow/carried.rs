//! What the carrier (the kernel) has translated, as the translator accounts for it.

use super::carrier::{Carried, FlowCarrier, Offer};
use super::observer::ForReal;
use super::remembered::Tally;
use crate::nat::binding::{BindingState, Realm, SlotRef};
use crate::nat::bound::Bound;
use crate::nat::state::Nat;
use crate::time::Time;
use crate::wire::Address;
use std::sync::Arc;

impl Nat {
    /// Flows in use are offered to `carrier` from now on. The first call counts.
    pub fn set_carrier(&self, carrier: Arc<dyn FlowCarrier>) {
        if self.carrier_account.carrier.set(carrier).is_ok() {
            self.counters.lock().push(Arc::clone(&self.carrier_account.counters));
        }
    }

    /// Notes what was carried of a flow since the last call, as if it had come through a [`crate::nat::Translator`]. Returns
    /// whether the decision would be the same now; if not, drop the flow. One caller at a time.
    pub fn note_carried(&self, offer: &Offer, carried: Carried, now: Time) -> bool {
        let stands = self.stands(offer, carried.packets > 0, now);
        if carried.packets > 0 {
            let counters = &self.carrier_account.counters;
            let traffic = match offer.from {
                Realm::Inside(_) => &counters.out,
                Realm::Outside => &counters.inward,
            };
            traffic.packets.add(carried.packets);
            traffic.bytes.add(carried.bytes);
            let opened = if offer.from == Realm::Outside { carried.opened } else { 0 };
            counters.callbacks.add(opened);
            let [packets, opened] = [carried.packets, opened].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
            self.note(Tally::of_carried(offer, packets, carried.bytes, opened), now);
        }
        stands
    }

    /// TCP ports of control connections that a helper looks into.
    pub fn control_ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.policy.alg.iter().map(|alg| alg.port)
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
                let receiver = self.find_receiver(destination, &mut ForReal).ok()?;
                (receiver.slot(), Realm::Inside(receiver.found.slot.inside))
            }
        };
        let epoch = self.epoch.now();
        let offer = Offer { from, source, destination, address, to, binding, epoch };
        (self.is_told_apart(&offer) && self.stands(&offer, false, now)).then_some(offer)
    }

    pub(in crate::nat) fn carrier(&self) -> Option<&Arc<dyn FlowCarrier>> {
        self.carrier_account.carrier.get()
    }

    /// Whether the terminal's address is of one inside alone: only the gateway's devices can tell two apart.
    pub(in crate::nat) fn is_told_apart(&self, offer: &Offer) -> bool {
        let terminal = match offer.from {
            Realm::Inside(_) => offer.source,
            Realm::Outside => offer.address,
        };
        !self.is_unclear(terminal)
    }

    /// Whether an inside address is of several insides.
    pub(in crate::nat) fn is_unclear(&self, address: Address) -> bool {
        let surroundings = self.surroundings.read();
        self.insides.numbers().filter(|inside| surroundings.is_source(*inside, address)).count() > 1
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
                    self.contacts.note(Bound { table, found }.owner(), offer.destination, now.as_secs(), false);
                }
                true
            }
            Realm::Outside => self.find_receiver(offer.destination, &mut ForReal).is_ok_and(|receiver| {
                receiver.found.slot.terminal == offer.address
                    && receiver.slot() == offer.binding
                    && self.check_peer(offer.source, receiver.found.slot.inside).is_ok()
                    // A first answer is seen here.
                    && self.admit_peer(&receiver, offer.source, false, now, &mut ForReal).is_ok_and(|contact| contact.is_none_or(|c| c.answered))
            }),
        }
    }
}
