//! Who may call back: the contacts of each binding.

use super::settings::{CallbackPolicy, Lifetimes};
use crate::wire::Address;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Shards of the contact lists.
const SHARDS: usize = 256;
/// Changes that wait for the journal at one time; what is more is told when it is used again.
const MOST_CHANGES: usize = 65_536;
/// A contact in use is told to the journal again after this many seconds.
const TELL_AGAIN: u32 = 60;

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

/// Which peers each terminal has called.
pub struct Contacts {
    shards: Arc<[Mutex<Lists>]>,
    idle: u32,
    most: usize,
    /// For the journal; `None` where there is none.
    changes: Arc<Mutex<Option<Vec<Change>>>>,
}

/// What the journal has not been told yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose contact.
    pub owner: Owner,
    /// The peer.
    pub peer: Address,
    /// The second in which it was last called; `None`: forgotten.
    pub last: Option<u32>,
}

type Lists = HashMap<(u16, u32), List, BuildHasherDefault<SlotHasher>>;

/// Slots are given by a keyed hash already: nobody chooses which of them meet, so a multiplication will do.
#[derive(Default)]
struct SlotHasher(u64);

impl Hasher for SlotHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u32(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0.rotate_left(32) ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

#[derive(Default)]
struct List {
    created: u32,
    /// Sorted by peer.
    contacts: Vec<Contact>,
}

struct Contact {
    peer: Address,
    last: u32,
    /// What `last` was when the journal was told; 0: it was not.
    told: u32,
}

impl Contacts {
    /// No contacts yet.
    pub fn new(lifetimes: &Lifetimes) -> Self {
        Self::over((0..SHARDS).map(|_| Mutex::default()).collect(), Arc::default(), lifetimes)
    }

    /// The same contacts, under other times.
    pub fn under(&self, lifetimes: &Lifetimes) -> Self {
        Self::over(Arc::clone(&self.shards), Arc::clone(&self.changes), lifetimes)
    }

    fn over(shards: Arc<[Mutex<Lists>]>, changes: Arc<Mutex<Option<Vec<Change>>>>, lifetimes: &Lifetimes) -> Self {
        Self {
            shards,
            idle: u32::try_from(lifetimes.contact.as_secs()).unwrap_or(u32::MAX),
            most: usize::try_from(lifetimes.contacts_per_binding.max(1)).unwrap_or(usize::MAX),
            changes,
        }
    }

    /// From now on changes are kept for the journal.
    pub fn keep_changes(&self) {
        self.changes.lock().get_or_insert_default();
    }

    /// The changes since the last call.
    pub fn take_changes(&self) -> Vec<Change> {
        self.changes.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// All contacts of a binding, live or not, with the second in which each was last called.
    pub fn of(&self, owner: Owner) -> Vec<(Address, u32)> {
        let lists = self.shard(owner).lock();
        let list = lists.get(&(owner.table, owner.index)).filter(|list| list.created == owner.created);
        list.map_or_else(Vec::new, |list| list.contacts.iter().map(|contact| (contact.peer, contact.last)).collect())
    }

    /// Gives a restored binding its contacts; those too old are left out, and the oldest where there are too many.
    pub fn put_back(&self, owner: Owner, contacts: impl Iterator<Item = (Address, u32)>, now: u32) {
        let contact = |(peer, last): (Address, u32)| Contact { peer, last: last.min(now), told: last.min(now) };
        let mut contacts: Vec<Contact> =
            contacts.map(contact).filter(|contact| self.is_live(contact.last, now)).collect();
        contacts.sort_unstable_by_key(|contact| std::cmp::Reverse(contact.last));
        contacts.truncate(self.most);
        contacts.sort_unstable_by_key(|contact| contact.peer);
        contacts.dedup_by_key(|contact| contact.peer);
        let mut lists = self.shard(owner).lock();
        lists.insert((owner.table, owner.index), List { created: owner.created, contacts });
    }

    /// The terminal sent a packet to `peer` in second `now`. The oldest contact makes room for a new one.
    pub fn note(&self, owner: Owner, peer: Address, now: u32) {
        let mut lists = self.shard(owner).lock();
        let list = lists.entry((owner.table, owner.index)).or_default();
        if list.created != owner.created {
            *list = List { created: owner.created, contacts: Vec::new() };
        }
        match list.contacts.binary_search_by_key(&peer, |contact| contact.peer) {
            Ok(at) => {
                if let Some(contact) = list.contacts.get_mut(at) {
                    contact.last = contact.last.max(now);
                    if contact.last - contact.told >= TELL_AGAIN
                        && self.tell(Change { owner, peer, last: Some(contact.last) })
                    {
                        contact.told = contact.last;
                    }
                }
            }
            Err(mut at) => {
                if list.contacts.len() >= self.most
                    && let Some((oldest, _)) = list.contacts.iter().enumerate().min_by_key(|(_, contact)| contact.last)
                {
                    let forgotten = list.contacts.remove(oldest).peer;
                    self.tell(Change { owner, peer: forgotten, last: None });
                    at -= usize::from(oldest < at);
                }
                if list.contacts.is_empty() {
                    list.contacts.reserve_exact(1); // most terminals call one peer
                }
                let told = if self.tell(Change { owner, peer, last: Some(now) }) { now } else { 0 };
                list.contacts.insert(at, Contact { peer, last: now, told });
            }
        }
    }

    /// Whether the terminal has called `peer` within the idle time.
    pub fn has(&self, owner: Owner, peer: Address, now: u32) -> bool {
        self.last(owner, peer).is_some_and(|last| self.is_live(last, now))
    }

    /// The second in which the terminal last sent anything to `peer`, as far as that is remembered.
    pub fn last(&self, owner: Owner, peer: Address) -> Option<u32> {
        let lists = self.shard(owner).lock();
        let list = lists.get(&(owner.table, owner.index)).filter(|list| list.created == owner.created)?;
        let at = list.contacts.binary_search_by_key(&peer, |contact| contact.peer).ok()?;
        list.contacts.get(at).map(|contact| contact.last)
    }

    /// Idle time after which a contact counts no more.
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.idle.into())
    }

    /// How many peers may call back as contacts.
    pub fn count(&self, owner: Owner, now: u32) -> u32 {
        let lists = self.shard(owner).lock();
        let list = lists.get(&(owner.table, owner.index)).filter(|list| list.created == owner.created);
        let live =
            list.map_or(0, |list| list.contacts.iter().filter(|contact| self.is_live(contact.last, now)).count());
        u32::try_from(live).unwrap_or(u32::MAX)
    }

    /// The binding goes on as `to`.
    pub fn hand_over(&self, from: Owner, to: Owner) {
        let list = self.shard(from).lock().remove(&(from.table, from.index));
        if let Some(list) = list.filter(|list| list.created == from.created) {
            self.shard(to).lock().insert((to.table, to.index), List { created: to.created, ..list });
        }
    }

    /// The binding ended.
    pub fn forget(&self, owner: Owner) {
        self.shard(owner).lock().remove(&(owner.table, owner.index));
    }

    /// Keeps a change for the journal; false if it has no place, or nobody wants it.
    fn tell(&self, change: Change) -> bool {
        match &mut *self.changes.lock() {
            Some(changes) if changes.len() < MOST_CHANGES => {
                changes.push(change);
                true
            }
            _ => false,
        }
    }

    fn is_live(&self, last: u32, now: u32) -> bool {
        now.saturating_sub(last) < self.idle
    }

    fn shard(&self, owner: Owner) -> &Mutex<Lists> {
        #[allow(clippy::indexing_slicing, reason = "the remainder is below the length")]
        &self.shards[owner.index as usize % SHARDS]
    }
}

/// Policies that the administrator gave to single bindings.
#[derive(Default)]
pub struct Policies {
    by_slot: RwLock<HashMap<(u16, u32), (u32, CallbackPolicy)>>,
}

impl Policies {
    /// Whether the binding's own policy lets `peer` call without having been called; `None` if it has none.
    pub fn welcomes(&self, owner: Owner, peer: Address) -> Option<bool> {
        let by_slot = self.by_slot.read();
        let (created, policy) = by_slot.get(&(owner.table, owner.index))?;
        (*created == owner.created).then(|| policy.welcomes(peer))
    }

    /// The binding goes on as `to`.
    pub fn hand_over(&self, from: Owner, to: Owner) {
        let mut by_slot = self.by_slot.write();
        if let Some((_, policy)) =
            by_slot.remove(&(from.table, from.index)).filter(|(created, _)| *created == from.created)
        {
            by_slot.insert((to.table, to.index), (to.created, policy));
        }
    }

    /// The binding's own policy.
    pub fn of(&self, owner: Owner) -> Option<CallbackPolicy> {
        let by_slot = self.by_slot.read();
        let (created, policy) = by_slot.get(&(owner.table, owner.index))?;
        (*created == owner.created).then(|| policy.clone())
    }

    /// Gives the binding a policy of its own, or takes it away.
    pub fn set(&self, owner: Owner, policy: Option<CallbackPolicy>) {
        let mut by_slot = self.by_slot.write();
        match policy {
            Some(policy) => by_slot.insert((owner.table, owner.index), (owner.created, policy)),
            None => by_slot.remove(&(owner.table, owner.index)),
        };
    }
}

impl CallbackPolicy {
    /// Whether `peer` may call without having been called.
    pub(super) fn welcomes(&self, peer: Address) -> bool {
        match self {
            CallbackPolicy::Contacted => false,
            CallbackPolicy::Anyone => true,
            CallbackPolicy::Prefixes(prefixes) => {
                let peer = IpAddr::from(peer);
                prefixes.iter().any(|prefix| prefix.contains(&peer))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { table: 0, index: 9, created: 100 };

    fn peer(n: u8) -> Address {
        Address::from_v4([192, 0, 2, n])
    }

    fn contacts(most: u32) -> Contacts {
        Contacts::new(&Lifetimes {
            contact: Duration::from_secs(60),
            contacts_per_binding: most,
            ..Lifetimes::default()
        })
    }

    #[test]
    fn r8_a_contact_lasts_for_its_idle_time_after_the_last_packet() {
        let contacts = contacts(8);
        contacts.note(OWNER, peer(1), 100);
        contacts.note(OWNER, peer(1), 130);
        assert!(contacts.has(OWNER, peer(1), 189));
        assert!(!contacts.has(OWNER, peer(1), 190));
        assert!(!contacts.has(OWNER, peer(2), 130));
    }

    #[test]
    fn the_oldest_contact_makes_room() {
        let contacts = contacts(3);
        for (peer_number, now) in [(3, 100), (1, 101), (2, 102), (3, 103), (9, 104), (0, 105)] {
            contacts.note(OWNER, peer(peer_number), now);
        }
        let live: Vec<u8> = (0..10).filter(|n| contacts.has(OWNER, peer(*n), 106)).collect();
        assert_eq!(live, [0, 3, 9]);
        assert_eq!(contacts.count(OWNER, 106), 3);
    }

    #[test]
    fn a_later_binding_in_the_same_slot_inherits_no_contact() {
        let contacts = contacts(3);
        contacts.note(OWNER, peer(1), 100);
        let later = Owner { created: 300, ..OWNER };
        assert!(!contacts.has(later, peer(1), 120));
        contacts.note(later, peer(2), 300);
        assert!(!contacts.has(later, peer(1), 301) && contacts.has(later, peer(2), 301));
        contacts.forget(later);
        assert_eq!(contacts.count(later, 301), 0);
    }
}
