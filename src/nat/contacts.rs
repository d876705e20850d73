//! The contacts of each binding: the peers that its terminal has called, and when it last did.

use super::settings::Lifetimes;
use crate::wire::Address;
use parking_lot::Mutex;
use shard::{Held, Shard};
use std::sync::Arc;
use std::time::Duration;

mod shard;

/// Shards: more than any number of workers, so that two rarely meet.
const SHARDS: usize = 256;
/// Changes that wait for the journal at one time; what is more is told when it is used again.
const MOST_CHANGES: usize = 65_536;
/// A contact in use is told to the journal again after this many seconds.
const TELL_AGAIN: u8 = 60;

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
    shards: Arc<[Mutex<Shard>]>,
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
    /// Whether it has answered.
    pub answered: bool,
}

/// What is known of a peer that a terminal has called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The peer.
    pub peer: Address,
    /// The second in which it was last called.
    pub last: u32,
    /// Whether it has sent anything back since.
    pub answered: bool,
}

/// A peer that a terminal has called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Contact {
    peer: Peer,
    last: u32,
    /// Seconds by which `last` is later than what the journal was told; [`TELL_AGAIN`] stands for all from there, and for
    /// never.
    untold: u8,
    answered: bool,
}

/// An address in two words, which need less alignment than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Peer(u64, u64);

impl Contacts {
    /// No contacts yet.
    pub fn new(lifetimes: &Lifetimes) -> Self {
        Self::over((0..SHARDS).map(|_| Mutex::default()).collect(), Arc::default(), lifetimes)
    }

    /// The same contacts, under other times.
    pub fn under(&self, lifetimes: &Lifetimes) -> Self {
        Self::over(Arc::clone(&self.shards), Arc::clone(&self.changes), lifetimes)
    }

    fn over(shards: Arc<[Mutex<Shard>]>, changes: Arc<Mutex<Option<Vec<Change>>>>, lifetimes: &Lifetimes) -> Self {
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

    /// All contacts of a binding, live or not.
    pub fn of(&self, owner: Owner) -> Vec<Known> {
        let shard = self.shard(owner).lock();
        shard.contacts(owner).map(Known::from).collect()
    }

    /// Gives a restored binding its contacts; those too old are left out, and the oldest where there are too many.
    pub fn put_back(&self, owner: Owner, contacts: impl Iterator<Item = Known>, now: u32) {
        let contact = |Known { peer, last, answered }| Contact {
            peer: Peer::from(peer),
            last: last.min(now),
            untold: 0,
            answered,
        };
        let mut contacts: Vec<Contact> =
            contacts.map(contact).filter(|contact| self.is_live(contact.last, now)).collect();
        contacts.sort_unstable_by_key(|contact| std::cmp::Reverse(contact.last));
        contacts.truncate(self.most);
        contacts.sort_unstable_by_key(|contact| contact.peer);
        contacts.dedup_by_key(|contact| contact.peer);
        self.shard(owner).lock().replace(owner, contacts);
    }

    /// The terminal sent a packet to `peer` in second `now`. The oldest contact makes room for a new one.
    pub fn note(&self, owner: Owner, peer: Address, now: u32) {
        let new = || {
            let told = self.tell(Change { owner, peer, last: Some(now), answered: false });
            Contact { peer: peer.into(), last: now, untold: if told { 0 } else { TELL_AGAIN }, answered: false }
        };
        let mut shard = self.shard(owner).lock();
        match shard.held(owner) {
            Some(Held::One(mut contact)) if contact.peer == peer.into() => {
                if self.use_again(owner, &mut contact, now) {
                    shard.replace_one(owner, contact);
                }
            }
            Some(Held::One(contact)) if self.most == 1 => {
                self.tell(Change { owner, peer: contact.peer.into(), last: None, answered: false });
                shard.replace_one(owner, new());
            }
            Some(Held::One(contact)) => {
                let mut both = vec![contact, new()];
                both.sort_unstable_by_key(|contact| contact.peer);
                shard.replace(owner, both);
            }
            Some(Held::Several(list)) => match list.binary_search_by_key(&peer.into(), |contact| contact.peer) {
                Ok(at) => {
                    if let Some(contact) = list.get_mut(at) {
                        self.use_again(owner, contact, now);
                    }
                }
                Err(mut at) => {
                    if list.len() >= self.most
                        && let Some((oldest, _)) = list.iter().enumerate().min_by_key(|(_, contact)| contact.last)
                    {
                        let forgotten = list.remove(oldest).peer.into();
                        self.tell(Change { owner, peer: forgotten, last: None, answered: false });
                        at -= usize::from(oldest < at);
                    }
                    list.insert(at, new());
                }
            },
            None => shard.replace_one(owner, new()),
        }
    }

    /// A peer that the terminal has called within the idle time.
    pub fn live(&self, owner: Owner, peer: Address, now: u32) -> Option<Known> {
        self.known(owner, peer).filter(|known| self.is_live(known.last, now))
    }

    /// A peer that the terminal has called, as far as that is remembered.
    pub fn known(&self, owner: Owner, peer: Address) -> Option<Known> {
        let mut shard = self.shard(owner).lock();
        match shard.held(owner)? {
            Held::One(contact) => (contact.peer == peer.into()).then(|| contact.into()),
            Held::Several(list) => {
                let at = list.binary_search_by_key(&peer.into(), |contact| contact.peer).ok()?;
                list.get(at).map(|contact| (*contact).into())
            }
        }
    }

    /// A peer that the terminal has called has sent something back.
    pub fn answered(&self, owner: Owner, peer: Address) {
        let mut shard = self.shard(owner).lock();
        match shard.held(owner) {
            Some(Held::One(mut contact)) if contact.peer == peer.into() => {
                self.answer(owner, &mut contact);
                shard.replace_one(owner, contact);
            }
            Some(Held::Several(list)) => {
                let at = list.binary_search_by_key(&peer.into(), |contact| contact.peer);
                if let Some(contact) = at.ok().and_then(|at| list.get_mut(at)) {
                    self.answer(owner, contact);
                }
            }
            _ => {}
        }
    }

    /// Idle time after which a contact counts no more.
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.idle.into())
    }

    /// How many peers the terminal has called within the idle time, and how many of those have answered.
    pub fn count(&self, owner: Owner, now: u32) -> (u32, u32) {
        let shard = self.shard(owner).lock();
        let live = shard.contacts(owner).filter(|contact| self.is_live(contact.last, now));
        live.fold((0, 0), |(all, answered), contact| (all + 1, answered + u32::from(contact.answered)))
    }

    /// The binding goes on as `to`.
    pub fn hand_over(&self, from: Owner, to: Owner) {
        let contacts: Vec<Contact> = {
            let mut shard = self.shard(from).lock();
            let contacts = shard.contacts(from).collect();
            shard.remove(from);
            contacts
        };
        if !contacts.is_empty() {
            self.shard(to).lock().replace(to, contacts);
        }
    }

    /// The binding ended.
    pub fn forget(&self, owner: Owner) {
        self.shard(owner).lock().remove(owner);
    }

    fn answer(&self, owner: Owner, contact: &mut Contact) {
        contact.answered = true;
        let Known { peer, last, answered } = (*contact).into();
        let told = self.tell(Change { owner, peer, last: Some(last), answered });
        contact.untold = if told { 0 } else { TELL_AGAIN };
    }

    /// Notes that a contact was used; false if nothing about it is new.
    fn use_again(&self, owner: Owner, contact: &mut Contact, now: u32) -> bool {
        let Some(later) = now.checked_sub(contact.last) else { return false };
        contact.last = now;
        contact.untold =
            u8::try_from(later.saturating_add(contact.untold.into())).unwrap_or(TELL_AGAIN).min(TELL_AGAIN);
        let tells = contact.untold == TELL_AGAIN
            && self.tell(Change {
                owner,
                peer: contact.peer.into(),
                last: Some(contact.last),
                answered: contact.answered,
            });
        if tells {
            contact.untold = 0;
        }
        later > 0 || tells
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

    fn shard(&self, owner: Owner) -> &Mutex<Shard> {
        #[allow(clippy::indexing_slicing, reason = "the remainder is below the length")]
        &self.shards[owner.index as usize % SHARDS]
    }
}

impl From<Address> for Peer {
    fn from(address: Address) -> Self {
        let (upper, lower) = address.halves();
        Self(upper, lower)
    }
}

impl From<Contact> for Known {
    fn from(Contact { peer, last, answered, .. }: Contact) -> Self {
        Self { peer: peer.into(), last, answered }
    }
}

impl From<Peer> for Address {
    fn from(Peer(upper, lower): Peer) -> Self {
        Self::from_bits(u128::from(upper) << 64 | u128::from(lower))
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

    fn has(contacts: &Contacts, owner: Owner, n: u8, now: u32) -> bool {
        contacts.live(owner, peer(n), now).is_some()
    }

    #[test]
    fn r8_a_contact_lasts_for_its_idle_time_after_the_last_packet() {
        let contacts = contacts(8);
        contacts.note(OWNER, peer(1), 100);
        contacts.note(OWNER, peer(1), 130);
        assert!(has(&contacts, OWNER, 1, 189));
        assert!(!has(&contacts, OWNER, 1, 190));
        assert!(!has(&contacts, OWNER, 2, 130));
    }

    #[test]
    fn the_oldest_contact_makes_room() {
        let contacts = contacts(3);
        for (peer_number, now) in [(3, 100), (1, 101), (2, 102), (3, 103), (9, 104), (0, 105)] {
            contacts.note(OWNER, peer(peer_number), now);
        }
        let live: Vec<u8> = (0..10).filter(|n| has(&contacts, OWNER, *n, 106)).collect();
        assert_eq!(live, [0, 3, 9]);
        assert_eq!(contacts.count(OWNER, 106), (3, 0));
    }

    #[test]
    fn a_later_binding_in_the_same_slot_inherits_no_contact() {
        let contacts = contacts(3);
        contacts.note(OWNER, peer(1), 100);
        let later = Owner { created: 300, ..OWNER };
        assert!(!has(&contacts, later, 1, 120));
        contacts.note(later, peer(2), 300);
        assert!(!has(&contacts, later, 1, 301) && has(&contacts, later, 2, 301));
        contacts.forget(later);
        assert_eq!(contacts.count(later, 301), (0, 0));
    }
}
