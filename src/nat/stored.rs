//! Bindings as they outlive the translator: on disk, or carried over to one with other settings.

use super::callback::CallbackPolicy;
use super::contacts::{CalledPeer, Change};
use super::event::EventKind;
use super::table::Misplaced;
use super::table::ledger::Stamp;
use super::table::slots::{Slot, Usage};
use crate::nat::binding::BindingState;
use crate::nat::binding::{Owner, SlotRef};
use crate::nat::bound::Bound;
use crate::nat::flow::observer::ForReal;
use crate::nat::numbers::{InsideNumber, Numbered, TableNumber};
use crate::nat::state::Nat;
use crate::time::Time;
use crate::wire::Address;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A binding with all that is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBinding {
    /// Name of the inside realm.
    pub inside: Arc<str>,
    /// The terminal's own address.
    pub terminal: IpAddr,
    /// Its virtual IP.
    pub virtual_ip: IpAddr,
    /// Where in its life it is.
    pub state: BindingState,
    /// Tied by the operator.
    pub pinned: bool,
    /// Whether a peer that the terminal has called has ever sent anything back.
    pub answered: bool,
    /// When it was made, in seconds since the Unix epoch.
    pub created: u32,
    /// When it was last used, in seconds since the Unix epoch.
    pub last_used: u32,
    /// When it ended, in seconds since the Unix epoch, if it is in quarantine; 0: that is not known.
    pub ended: u32,
    /// Packets from the terminal.
    pub packets_out: u64,
    /// Packets to the terminal.
    pub packets_in: u64,
    /// Bytes from the terminal, IP headers included.
    pub bytes_out: u64,
    /// Bytes to the terminal, likewise.
    pub bytes_in: u64,
    /// New connections opened by peers.
    pub callbacks: u32,
    /// A callback policy of its own.
    pub callback: Option<CallbackPolicy>,
    /// The peers that the terminal has called.
    pub contacts: Vec<StoredContact>,
}

impl StoredBinding {
    /// Makes all its times so many seconds later, or earlier.
    pub fn shift(&mut self, seconds: i64) {
        let contacts = self.contacts.iter_mut().flat_map(|contact| [&mut contact.first, &mut contact.last]);
        let times = [&mut self.created, &mut self.last_used].into_iter();
        // Of those that can be unknown, zero says so.
        let known = contacts.chain([&mut self.ended]).filter(|second| **second != 0);
        for second in times.chain(known) {
            *second = Time::from_secs((*second).into()).shifted(seconds.saturating_mul(1000)).as_secs();
        }
    }
}

/// A peer that a terminal has called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredContact {
    /// A host outside.
    pub peer: IpAddr,
    /// When it was first called, in seconds since the Unix epoch; 0: that is not known.
    pub first: u32,
    /// When it was last called, in seconds since the Unix epoch.
    pub last: u32,
    /// Whether it has sent anything back since.
    pub answered: bool,
    /// Whether it has opened a connection to the terminal since.
    pub called_back: bool,
}

/// Names a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContactKey {
    /// The virtual IP of the terminal.
    pub virtual_ip: IpAddr,
    /// When its binding was made, in seconds since the Unix epoch.
    pub created: u32,
    /// A host outside, whether it is still known or not.
    pub peer: IpAddr,
}

/// A contact as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContactChange {
    /// The virtual IP of the terminal.
    pub virtual_ip: IpAddr,
    /// When its binding was made, in seconds since the Unix epoch.
    pub created: u32,
    /// A host outside.
    pub peer: IpAddr,
    /// What is known of it; `None`: it is forgotten.
    pub contact: Option<StoredContact>,
}

/// What became of bindings that were put back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// How many are in the tables.
    pub kept: u64,
    /// Those that are not, without their contacts.
    pub misfits: Vec<Misfit>,
    /// Virtual IPs whose binding is not as it was stored.
    pub changed: Vec<IpAddr>,
}

/// A binding that has no place under today's settings. Its virtual IP is given to nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// As it was stored.
    pub binding: StoredBinding,
    /// What it does not fit.
    pub why: Unfit,
}

/// Why a stored binding has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Unfit {
    /// No pool has its virtual IP.
    #[error("its virtual IP is in no pool")]
    NotInAPool,
    /// Its virtual IP is reserved, or lies in a slot that another address has.
    #[error("its virtual IP is reserved or shares its place with another's")]
    NotGiven,
    /// Its virtual IP is that of another binding here.
    #[error("its virtual IP is another terminal's here")]
    Taken,
    /// No inside has the name.
    #[error("its inside is not served")]
    NoInside,
}

/// Says which binding was stored in which version, and which contacts of it; see [`Nat::mark_recorded`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    table: TableNumber,
    stamp: Stamp,
    created: u32,
    is_new: bool,
    contacts: Vec<Address>,
}

/// Bindings on their way back into the tables; see [`Nat::restoring`].
pub struct Restoring<'a> {
    nat: &'a Nat,
    now: Time,
    insides: HashMap<&'a str, InsideNumber>,
    /// Of each table, dormant bindings and when they were last used.
    dormant: Vec<Vec<(u32, Stamp)>>,
    /// Those whose terminals have another: that one's end may be still to come.
    late: Vec<StoredBinding>,
    done: Restored,
}

impl Nat {
    /// Puts bindings back that another process or gateway has had, in any order. A binding that the tables hold already is
    /// as of the later use of both, and ends if it has ended there; one whose virtual IP is another's here is a misfit.
    /// Doing it twice changes nothing more.
    pub fn restore(&self, bindings: impl IntoIterator<Item = StoredBinding>, now: Time) -> Restored {
        let mut restoring = self.restoring(now);
        bindings.into_iter().for_each(|binding| restoring.add(binding));
        restoring.finish()
    }

    /// The same for a caller that has them one by one.
    pub fn restoring(&self, now: Time) -> Restoring<'_> {
        Restoring {
            nat: self,
            now,
            insides: self.insides.iter().map(|(number, name)| (name.as_str(), number)).collect(),
            dormant: self.tables.numbers().map(|_| Vec::new()).collect(),
            late: Vec::new(),
            done: Restored::default(),
        }
    }

    /// Every binding with its contacts, table by table. Others may come and go meanwhile.
    pub fn stored_bindings(&self) -> impl Iterator<Item = StoredBinding> {
        let names = self.insides.all().iter().map(|name| Arc::from(name.as_str()));
        let names: Numbered<InsideNumber, Arc<str>> = Numbered::new(names.collect());
        self.all_bound().filter_map(move |bound| {
            let inside = Arc::clone(names.get(bound.found.slot.inside)?);
            let contacts = self.contacts.of(bound.owner()).into_iter();
            let contacts = contacts.map(StoredContact::from).collect();
            Some(StoredBinding { contacts, ..self.to_store(&bound, inside) })
        })
    }

    /// The bindings that were used in second `since` or later, without their contacts; counts all into `count`.
    pub fn used_since<'a>(&'a self, since: u32, count: &'a mut u64) -> impl Iterator<Item = StoredBinding> + 'a {
        self.all_bound().filter_map(move |bound| {
            *count += 1;
            let found = &bound.found;
            let inside = || Arc::from(self.inside_name(found.slot.inside));
            let table = self.tables.get(bound.table)?;
            (table.usage(found.index).1.as_secs().max(found.slot.ended) >= since)
                .then(|| self.to_store(&bound, inside()))
        })
    }

    /// The binding of a virtual IP as it is now, without its contacts; `None` if it belongs to nobody.
    pub fn stored(&self, virtual_ip: IpAddr) -> Option<(StoredBinding, Receipt)> {
        let bound = self.bound_of(virtual_ip.into())?;
        let Bound { table, found } = bound;
        let binding = self.to_store(&bound, Arc::from(self.inside_name(found.slot.inside)));
        let is_new = self.tables.get(table)?.is_unrecorded(found.index);
        let (stamp, created) = (found.stamp(), found.slot.created);
        Some((binding, Receipt { table, stamp, created, is_new, contacts: Vec::new() }))
    }

    /// The contacts that packets of the binding wait for; the receipt is for them too from now on.
    pub fn unrecorded_contacts(&self, virtual_ip: IpAddr, receipt: &mut Receipt) -> Vec<ContactChange> {
        let unrecorded = self.contacts.unrecorded(receipt.owner());
        receipt.contacts = unrecorded.iter().map(|known| known.peer).collect();
        let created = receipt.created;
        let change = |known: CalledPeer| ContactChange {
            virtual_ip,
            created,
            peer: known.peer.into(),
            contact: Some(known.into()),
        };
        unrecorded.into_iter().map(change).collect()
    }

    /// Whether a pool has this virtual IP.
    pub fn is_in_a_pool(&self, virtual_ip: IpAddr) -> bool {
        self.selection.of_virtual_ip(virtual_ip.into()).is_some()
    }

    /// From now on every new binding is to be recorded before its first packet leaves, and so are its waking and each new
    /// contact: until [`Nat::mark_recorded`] is told, each packet concerned comes with an event.
    pub fn start_recording(&self) {
        self.contacts.keep_changes();
        self.is_recording.store(true, Ordering::Release);
    }

    /// Notes that a binding is on record as [`Nat::stored`] showed it, and the contacts of [`Nat::unrecorded_contacts`].
    pub fn mark_recorded(&self, receipt: &Receipt) {
        if let Some(table) = self.tables.get(receipt.table) {
            table.mark_recorded(receipt.stamp);
        }
        if !receipt.contacts.is_empty() {
            self.contacts.mark_recorded(receipt.owner(), &receipt.contacts);
        }
    }

    /// What is new about this binding cannot be recorded now. If the binding itself is on record, packets wait no more.
    pub fn let_go(&self, virtual_ip: IpAddr) {
        let Ok(bound) = self.find_receiver(virtual_ip.into(), &mut ForReal) else { return };
        if let Ok(table) = self.table(bound.table)
            && !table.is_unrecorded(bound.found.index)
        {
            table.let_go(bound.found.index);
            self.contacts.let_go(bound.owner());
        }
    }

    /// Says whether new bindings are refused because they could not be recorded.
    pub fn refuse_unrecorded(&self, refuse: bool) {
        self.cannot_record.store(refuse, Ordering::Release);
    }

    /// The contacts that came without being waited for, were used again, have answered or went since the last call; where
    /// there were too many at once, the rest is told when it is used again.
    pub fn changed_contacts(&self) -> Vec<ContactKey> {
        let resolve = |Change { owner, peer }| {
            let found = self.tables.get(owner.table)?.at(owner.index)?;
            (found.slot.created == owner.created).then(|| ContactKey {
                virtual_ip: found.slot.virtual_ip.into(),
                created: owner.created,
                peer: IpAddr::from(peer),
            })
        };
        self.contacts.take_changes().into_iter().filter_map(resolve).collect()
    }

    /// A contact as it is now; `None` if its binding has ended.
    pub fn contact_now(&self, key: &ContactKey) -> Option<ContactChange> {
        let ContactKey { virtual_ip, created, peer } = *key;
        let bound = self.bound_of(virtual_ip.into())?;
        let contact = self.contacts.known(bound.owner(), peer.into()).map(StoredContact::from);
        (bound.found.slot.created == created).then_some(ContactChange { virtual_ip, created, peer, contact })
    }

    /// What a packet of the binding has to wait for, whichever peer it is for.
    pub(super) fn owes(&self, slot: SlotRef) -> Option<EventKind> {
        let (table, index) = (self.tables.get(slot.table()).filter(|_| self.is_recording())?, slot.index());
        if table.is_unrecorded(index) {
            return Some(EventKind::Unrecorded);
        }
        table.is_woken(index).then_some(EventKind::Contacted)
    }

    pub(super) fn is_recording(&self) -> bool {
        self.is_recording.load(Ordering::Acquire)
    }

    fn all_bound(&self) -> impl Iterator<Item = Bound> {
        self.tables.iter().flat_map(|(number, table)| {
            let mut from = Some(0);
            std::iter::from_fn(move || {
                let found = table.next_at(from?)?;
                from = found.index.checked_add(1);
                Some(Bound { table: number, found })
            })
        })
    }

    fn to_store(&self, bound: &Bound, inside: Arc<str>) -> StoredBinding {
        let (usage, last_used) =
            self.tables.get(bound.table).map_or_else(Default::default, |table| table.usage(bound.found.index));
        let slot = &bound.found.slot;
        StoredBinding {
            inside,
            terminal: slot.terminal.into(),
            virtual_ip: slot.virtual_ip.into(),
            state: slot.state,
            pinned: slot.pinned,
            answered: slot.answered,
            created: slot.created,
            last_used: last_used.as_secs(),
            ended: slot.ended,
            packets_out: usage.packets_out,
            packets_in: usage.packets_in,
            bytes_out: usage.bytes_out,
            bytes_in: usage.bytes_in,
            callbacks: usage.callbacks,
            callback: self.policies.of(bound.owner()),
            contacts: Vec::new(),
        }
    }
}

impl Receipt {
    /// Whether nothing of the binding was on record before.
    pub fn is_of_a_new_binding(&self) -> bool {
        self.is_new
    }

    fn owner(&self) -> Owner {
        Owner { table: self.table, index: self.stamp.index, created: self.created }
    }
}

impl Restoring<'_> {
    /// Puts one back. If its terminal has another already, the younger one stays and the other is quarantined.
    pub fn add(&mut self, binding: StoredBinding) {
        self.place(binding, false);
    }

    fn place(&mut self, binding: StoredBinding, are_all_told: bool) {
        let virtual_ip = Address::from(binding.virtual_ip);
        let Some(number) = self.nat.selection.of_virtual_ip(virtual_ip) else {
            return self.misfit(binding, Unfit::NotInAPool);
        };
        let Some(table) = self.nat.tables.get(number) else { return };
        let Some(inside) = self.insides.get(&*binding.inside).copied() else {
            table.keep_back(virtual_ip);
            return self.misfit(binding, Unfit::NoInside);
        };
        let StoredBinding { packets_out, packets_in, bytes_out, bytes_in, callbacks, .. } = binding;
        let usage = Usage { packets_out, packets_in, bytes_out, bytes_in, callbacks };
        let mut slot = Slot {
            version: 0,
            state: binding.state,
            pinned: binding.pinned,
            // A contact is on record at once, the binding with its next use.
            answered: binding.answered || binding.contacts.iter().any(|contact| contact.answered),
            inside,
            terminal: binding.terminal.into(),
            virtual_ip,
            // A clock that was set back must not let it be younger than anything to come.
            created: binding.created.min(self.now.as_secs()),
            ended: binding.ended,
        };
        if let Some(held) = table.of_virtual_ip(virtual_ip)
            && (held.slot.inside, held.slot.terminal, held.slot.created) == (inside, slot.terminal, slot.created)
        {
            return self.join(&Bound { table: number, found: held }, &slot, binding);
        }
        let put = |slot| table.restore(slot, binding.last_used, usage, self.now);
        let result = match put(slot) {
            Err(Misplaced::Twice(_)) if !are_all_told => return self.late.push(binding),
            Err(Misplaced::Twice(other)) if other.slot.created < slot.created => {
                if let Some(ended) = table.end(other.stamp(), self.now) {
                    self.nat.forget_ended(&Bound { table: number, found: ended });
                    self.done.changed.push(ended.slot.virtual_ip.into());
                }
                put(slot)
            }
            Err(Misplaced::Twice(_)) => {
                slot = Slot { state: BindingState::Quarantined, pinned: false, ..slot };
                self.done.changed.push(binding.virtual_ip);
                put(slot)
            }
            other => other,
        };
        match result {
            Ok(found) => self.furnish(&Bound { table: number, found }, binding),
            Err(Misplaced::Taken) => self.misfit(binding, Unfit::Taken),
            Err(_) => self.misfit(binding, Unfit::NotGiven),
        }
    }

    /// Brings together what is known here and elsewhere of one binding.
    fn join(&mut self, bound: &Bound, other: &Slot, binding: StoredBinding) {
        let Some(table) = self.nat.tables.get(bound.table) else { return };
        self.done.kept += 1;
        self.done.changed.push(binding.virtual_ip);
        if other.state == BindingState::Quarantined {
            if let Some(found) = table.end(bound.found.stamp(), self.now) {
                self.nat.forget_ended(&Bound { found, ..*bound });
            }
            return;
        }
        let Some(found) = table.join(&bound.found, other, binding.last_used, self.now) else { return };
        if found.slot.answered && !bound.found.slot.answered {
            self.nat.limiter.forget_fresh(found.slot.inside, found.slot.created);
        }
        self.know(&Bound { found, ..*bound }, binding);
    }

    /// Sets the dormant ones in their order; says what became of all.
    pub fn finish(mut self) -> Restored {
        for binding in std::mem::take(&mut self.late) {
            self.place(binding, true);
        }
        for (table, dormant) in self.nat.tables.all().iter().zip(&mut self.dormant) {
            dormant.sort_unstable_by_key(|(last_used, _)| *last_used);
            table.queue(dormant.drain(..).map(|(_, stamp)| stamp));
        }
        self.nat.invalidate(None);
        self.done
    }

    fn furnish(&mut self, bound: &Bound, binding: StoredBinding) {
        let found = &bound.found;
        self.done.kept += 1;
        if found.slot.state == BindingState::Quarantined {
            return;
        }
        if let Some(dormant) =
            self.dormant.get_mut(usize::from(bound.table.get())).filter(|_| binding.state == BindingState::Dormant)
        {
            dormant.push((binding.last_used, found.stamp()));
        }
        self.nat.limiter.enter(found.slot.inside, found.slot.terminal);
        self.know(bound, binding);
    }

    /// What is known of a binding beside its slot.
    fn know(&self, bound: &Bound, binding: StoredBinding) {
        let owner = bound.owner();
        if binding.callback != self.nat.policies.of(owner) {
            self.nat.policies.set(owner, binding.callback);
        }
        if !binding.contacts.is_empty() {
            let contacts = binding.contacts.iter().map(|contact| CalledPeer::from(*contact));
            self.nat.contacts.put_back(owner, contacts, self.now.as_secs());
        }
    }

    fn misfit(&mut self, binding: StoredBinding, why: Unfit) {
        self.done.misfits.push(Misfit { binding: StoredBinding { contacts: Vec::new(), ..binding }, why });
    }
}

impl From<CalledPeer> for StoredContact {
    fn from(CalledPeer { peer, first, last, answered, called_back }: CalledPeer) -> Self {
        Self { peer: peer.into(), first, last, answered, called_back }
    }
}

impl From<StoredContact> for CalledPeer {
    fn from(StoredContact { peer, first, last, answered, called_back }: StoredContact) -> Self {
        Self { peer: peer.into(), first, last, answered, called_back }
    }
}

impl EventKind {
    /// Whether what is new about the binding must be recorded before the packet that comes with the event leaves.
    pub fn is_unrecorded(self) -> bool {
        self.is_of_a_new_binding() || matches!(self, EventKind::Woken | EventKind::Contacted)
    }

    /// Whether that is all of the binding.
    pub fn is_of_a_new_binding(self) -> bool {
        matches!(self, EventKind::Created | EventKind::Unrecorded)
    }
}
