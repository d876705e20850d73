//! The contacts of each binding: the peers that its terminal has called, when it first and when it last did.

use super::settings::Lifetimes;
use crate::nat::binding::Owner;
use crate::wire::Address;
use entry::{Contact, Peer};
use list::List;
use parking_lot::Mutex;
use shard::{Held, Shard};
use std::sync::Arc;
use std::time::Duration;

mod entry;
mod list;
mod shard;

pub use entry::CalledPeer;

/// Shards: more than any number of workers, so that two rarely meet.
const SHARDS: usize = 256;
/// Seconds within which an answer may come (RFC 4787 REQ-5, RFC 5382 REQ-5): who was called in these makes no room.
const ANSWER_TIME: u32 = 240;
/// Contacts that bindings with several of them have in a shard, unless each may have half as many: 8.4 million in all, of 28
/// bytes. Only in what is left of these can a binding have more than it is allowed, to wait for their answers.
const MOST_IN_A_SHARD: usize = 32_768;
/// So many a binding may have even if there is no room left.
const FEW: usize = 16;
/// Changes that wait for the store at one time; what is more is told when it is used again.
const MOST_CHANGES: usize = 65_536;
/// A contact in use is told to the store again after this many seconds.
const TELL_AGAIN: u8 = 60;
/// Stands in [`Contact::untold`] for a contact that is to be on record before a packet to the peer leaves, and is not.
const UNRECORDED: u8 = u8::MAX;

/// Which peers each terminal has called.
pub struct Contacts {
    shards: Arc<[Mutex<Shard>]>,
    idle: u32,
    most: usize,
    /// For the store; `None` where there is none.
    changes: Arc<Mutex<Option<Vec<Change>>>>,
}

/// A contact of which the store has not been told all: it came, was used again, has answered or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose contact.
    pub owner: Owner,
    pub peer: Address,
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

    fn over(shards: Arc<[Mutex<Shard>]>, changes: Arc<Mutex<Option<Vec<Change>>>>, lifetimes: &Lifetimes) -> Self {
        Self {
            shards,
            idle: u32::try_from(lifetimes.contact.as_secs()).unwrap_or(u32::MAX),
            most: usize::try_from(lifetimes.contacts_per_binding.max(1)).unwrap_or(usize::MAX),
            changes,
        }
    }

    /// From now on changes are kept for the store.
    pub fn keep_changes(&self) {
        self.changes.lock().get_or_insert_default();
    }

    /// The changes since the last call.
    pub fn take_changes(&self) -> Vec<Change> {
        self.changes.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// All contacts of a binding, live or not.
    pub fn of(&self, owner: Owner) -> Vec<CalledPeer> {
        let shard = self.shard(owner).lock();
        shard.contacts(owner).map(CalledPeer::from).collect()
    }

    /// The contacts that count, the `most` called last, the latest first.
    pub fn latest(&self, owner: Owner, most: usize, now: u32) -> Vec<CalledPeer> {
        let mut all = self.of(owner);
        all.retain(|known| self.is_live(known.last, now));
        all.sort_by_key(|known| std::cmp::Reverse(known.last));
        all.truncate(most);
        all
    }

    /// Gives a binding contacts that are known elsewhere, beside those it has; those too old are left out, and the oldest
    /// where there are too many.
    pub fn put_back(&self, owner: Owner, contacts: impl Iterator<Item = CalledPeer>, now: u32) {
        let contact = |CalledPeer { peer, first, last, answered, called_back }| Contact {
            peer: Peer::from(peer),
            first: first.min(last).min(now),
            last: last.min(now),
            untold: 0,
            answered,
            called_back,
        };
        let mut contacts: Vec<Contact> =
            contacts.map(contact).filter(|contact| self.is_live(contact.last, now)).collect();
        let mut shard = self.shard(owner).lock();
        for own in shard.contacts(owner).filter(|own| self.is_live(own.last, now)) {
            match contacts.iter_mut().find(|other| other.peer == own.peer) {
                Some(other) => *other = own.joined_with(other),
                None => contacts.push(own),
            }
        }
        contacts.sort_unstable_by_key(|contact| std::cmp::Reverse(contact.last));
        let kept = contacts.iter().enumerate();
        let kept = kept.take_while(|(n, contact)| *n < self.most || now.saturating_sub(contact.last) < ANSWER_TIME);
        contacts.truncate(kept.count().min(self.room()));
        contacts.sort_unstable_by_key(|contact| contact.peer);
        contacts.dedup_by_key(|contact| contact.peer);
        shard.replace(owner, contacts);
    }

    /// The terminal sent a packet to `peer` in second `now`. The oldest contact makes room for a new one, if its answer has had
    /// time to come. Says whether the packet has to wait until the contact is on record: one that the store does not know
    /// does if `waits` says so.
    pub fn note(&self, owner: Owner, peer: Address, now: u32, waits: bool) -> bool {
        let new = || {
            let untold = || if self.tell(owner, peer) { 0 } else { TELL_AGAIN };
            let untold = if waits { UNRECORDED } else { untold() };
            Contact { peer: peer.into(), first: now, last: now, untold, answered: false, called_back: false }
        };
        let mut shard = self.shard(owner).lock();
        match shard.held(owner) {
            Some(Held::One(mut contact)) if contact.peer == peer.into() => {
                if self.use_again(owner, &mut contact, now, waits) {
                    shard.replace_one(owner, contact);
                }
                return contact.untold == UNRECORDED;
            }
            Some(Held::One(contact)) if self.most == 1 => {
                self.tell(owner, contact.peer.into());
                shard.replace_one(owner, new());
            }
            Some(Held::One(contact)) => {
                let mut both = vec![contact, new()];
                both.sort_unstable_by_key(|contact| contact.peer);
                shard.replace(owner, both);
            }
            Some(Held::Several(list)) => match list.get_mut(peer.into()) {
                Some(contact) => {
                    self.use_again(owner, contact, now, waits);
                    return contact.untold == UNRECORDED;
                }
                None => {
                    self.make_room(&mut shard, owner, now);
                    shard.insert(owner, new());
                }
            },
            None => shard.replace_one(owner, new()),
        }
        waits
    }

    /// The contacts that packets wait for.
    pub fn unrecorded(&self, owner: Owner) -> Vec<CalledPeer> {
        let shard = self.shard(owner).lock();
        shard.contacts(owner).filter(|contact| contact.untold == UNRECORDED).map(CalledPeer::from).collect()
    }

    /// Notes that these are on record: packets need not wait for them.
    pub fn mark_recorded(&self, owner: Owner, peers: &[Address]) {
        self.change_unrecorded(owner, |contact| {
            if peers.contains(&contact.peer.into()) {
                contact.untold = 0;
            }
        });
    }

    /// No packet waits for a contact of this binding any more, on record or not; the store hears of them when it can.
    pub fn let_go(&self, owner: Owner) {
        self.change_unrecorded(owner, |contact| {
            contact.untold = if self.tell(owner, contact.peer.into()) { 0 } else { TELL_AGAIN };
        });
    }

    fn change_unrecorded(&self, owner: Owner, mut change: impl FnMut(&mut Contact)) {
        let mut shard = self.shard(owner).lock();
        match shard.held(owner) {
            Some(Held::One(mut contact)) if contact.untold == UNRECORDED => {
                change(&mut contact);
                shard.replace_one(owner, contact);
            }
            Some(Held::Several(list)) => {
                list.iter_mut().filter(|contact| contact.untold == UNRECORDED).for_each(change)
            }
            _ => {}
        }
    }

    /// A peer that the terminal has called within the idle time.
    pub fn live(&self, owner: Owner, peer: Address, now: u32) -> Option<CalledPeer> {
        self.known(owner, peer).filter(|known| self.is_live(known.last, now))
    }

    /// A peer that the terminal has called, as far as that is remembered.
    pub fn known(&self, owner: Owner, peer: Address) -> Option<CalledPeer> {
        let mut shard = self.shard(owner).lock();
        match shard.held(owner)? {
            Held::One(contact) => (contact.peer == peer.into()).then(|| contact.into()),
            Held::Several(list) => list.get_mut(peer.into()).map(|contact| (*contact).into()),
        }
    }

    /// Notes that a peer which the terminal has called has sent something back.
    pub fn mark_answered(&self, owner: Owner, peer: Address) {
        self.learn(owner, peer, |contact| !std::mem::replace(&mut contact.answered, true));
    }

    /// Notes that a peer which the terminal has called has opened a connection to it.
    pub fn mark_called_back(&self, owner: Owner, peer: Address) {
        self.learn(owner, peer, |contact| !std::mem::replace(&mut contact.called_back, true));
    }

    /// Changes what is known of a peer, if anything; `change` says whether there is news for the store.
    fn learn(&self, owner: Owner, peer: Address, change: impl Fn(&mut Contact) -> bool) {
        let mut shard = self.shard(owner).lock();
        match shard.held(owner) {
            Some(Held::One(mut contact)) if contact.peer == peer.into() => {
                let is_news = change(&mut contact);
                if is_news {
                    self.tell_of(owner, &mut contact);
                    shard.replace_one(owner, contact);
                }
            }
            Some(Held::Several(list)) => {
                if let Some(contact) = list.get_mut(peer.into())
                    && change(contact)
                {
                    self.tell_of(owner, contact);
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
        let (contacts, list) = {
            let mut shard = self.shard(from).lock();
            let contacts: Vec<Contact> = shard.contacts(from).collect();
            (contacts, shard.remove(from))
        };
        let mut shard = self.shard(to).lock();
        match (list, contacts.as_slice()) {
            (_, []) => {}
            (Some(list), _) => shard.put_list(to, list),
            (None, _) => shard.replace(to, contacts),
        }
    }

    /// How many peers that could still call have been forgotten, because there were others.
    pub fn forgotten(&self, owner: Owner) -> u64 {
        self.shard(owner).lock().list(owner).map_or(0, List::lost)
    }

    /// Whether a peer is one of those, as far as can be told.
    pub fn has_forgotten(&self, owner: Owner, peer: Address) -> bool {
        self.shard(owner).lock().list(owner).is_some_and(|list| list.has_forgotten(peer.into()))
    }

    /// The binding ended.
    pub fn forget(&self, owner: Owner) {
        self.shard(owner).lock().remove(owner);
    }

    /// Forgets old contacts of a binding that is to get one more, if it has as many as it may: those beyond the limit whose
    /// answer has had its time; where there is no room at all, others too.
    fn make_room(&self, shard: &mut Shard, owner: Owner, now: u32) {
        let before = now.saturating_sub(ANSWER_TIME - 1);
        if shard.listed() >= self.room() {
            for other in shard.long_lists(self.most, now) {
                let excess = shard.list(other).map_or(0, List::len).saturating_sub(self.most);
                self.forget_oldest(shard, other, excess, before, now);
            }
        }
        let Some(len) = shard.list(owner).map(List::len) else { return };
        // Some at a time: each look for the oldest is one at all.
        let some = |len: usize| (len / 64).max(1);
        if len >= self.most && shard.list(owner).is_some_and(|list| list.may_be_older(before)) {
            self.forget_oldest(shard, owner, len - self.most + some(self.most), before, now);
        }
        let is_full = shard.listed() >= self.room() && len >= FEW.min(self.most);
        if is_full {
            self.forget_oldest(shard, owner, some(len), u32::MAX, now);
        }
    }

    fn forget_oldest(&self, shard: &mut Shard, owner: Owner, count: usize, before: u32, now: u32) {
        let forget = |contact: Contact| {
            self.tell(owner, contact.peer.into());
        };
        shard.forget_oldest(owner, count, before, |last| self.is_live(last, now), forget);
    }

    /// Contacts that a shard has room for.
    fn room(&self) -> usize {
        MOST_IN_A_SHARD.max(2 * self.most)
    }

    fn tell_of(&self, owner: Owner, contact: &mut Contact) {
        if contact.untold != UNRECORDED {
            contact.untold = if self.tell(owner, contact.peer.into()) { 0 } else { TELL_AGAIN };
        }
    }

    /// Notes that a contact was used; false if nothing about it is new. One that is too old on record to count there is as
    /// good as none.
    fn use_again(&self, owner: Owner, contact: &mut Contact, now: u32, waits: bool) -> bool {
        let Some(later) = now.checked_sub(contact.last) else { return false };
        contact.last = now;
        // It had been forgotten, if not here: this is a first call.
        if later >= self.idle {
            (contact.first, contact.called_back) = (now, false);
        }
        if contact.untold == UNRECORDED {
            return later > 0;
        }
        let untold = later.saturating_add(contact.untold.into());
        if waits && untold >= self.idle {
            contact.untold = UNRECORDED;
            return true;
        }
        contact.untold = u8::try_from(untold).unwrap_or(TELL_AGAIN).min(TELL_AGAIN);
        let tells = contact.untold == TELL_AGAIN && self.tell(owner, contact.peer.into());
        if tells {
            contact.untold = 0;
        }
        later > 0 || tells
    }

    /// Keeps a change for the store; false if it has no place, or nobody wants it.
    fn tell(&self, owner: Owner, peer: Address) -> bool {
        match &mut *self.changes.lock() {
            Some(changes) if changes.len() < MOST_CHANGES => {
                changes.push(Change { owner, peer });
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

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { table: crate::nat::numbers::TableNumber::new(0), index: 9, created: 100 };

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
        contacts.note(OWNER, peer(1), 100, false);
        contacts.note(OWNER, peer(1), 130, false);
        assert!(has(&contacts, OWNER, 1, 189));
        assert!(!has(&contacts, OWNER, 1, 190));
        assert!(!has(&contacts, OWNER, 2, 130));
    }

    #[test]
    fn a_contact_says_since_when_it_is_one_and_whether_it_has_called_back() {
        // The first, which is alone for a while, and one beside it.
        let contacts = contacts(8);
        let known = |n: u8| contacts.known(OWNER, peer(n)).map(|known| (known.first, known.last, known.called_back));
        contacts.note(OWNER, peer(1), 100, false);
        contacts.note(OWNER, peer(1), 130, false);
        assert_eq!(known(1), Some((100, 130, false)));
        contacts.mark_called_back(OWNER, peer(1));
        contacts.mark_called_back(OWNER, peer(2));
        contacts.note(OWNER, peer(2), 140, false);
        contacts.note(OWNER, peer(2), 150, false);
        assert_eq!((known(1), known(2)), (Some((100, 130, true)), Some((140, 150, false))));
        // Its time was over: it is a contact again, not still.
        contacts.note(OWNER, peer(1), 190, false);
        assert_eq!(known(1), Some((190, 190, false)));
    }

    #[test]
    fn one_alone_that_came_after_its_binding_was_made_has_its_own_first_time() {
        let contacts = contacts(1);
        let known = |n: u8| contacts.known(OWNER, peer(n)).map(|known| (known.first, known.last));
        contacts.note(OWNER, peer(1), 107, false);
        contacts.note(OWNER, peer(1), 120, false);
        assert_eq!(known(1), Some((107, 120)));
        contacts.note(OWNER, peer(2), 130, false);
        assert_eq!((known(1), known(2)), (None, Some((130, 130))));
        let all = contacts.of(OWNER);
        let later = Owner { created: 90, ..OWNER };
        contacts.hand_over(OWNER, later);
        assert_eq!((contacts.of(later), contacts.of(OWNER)), (all, vec![]));
        let of = |created| Owner { created, ..OWNER };
        for (created, first) in [(91, 0), (92, 90), (93, 110)] {
            let of_old = CalledPeer { peer: peer(3), first, last: 140, answered: true, called_back: true };
            contacts.put_back(of(created), [of_old].into_iter(), 150);
            assert_eq!(contacts.of(of(created)), [of_old]);
        }
        let ahead = CalledPeer { peer: peer(3), first: 180, last: 170, answered: true, called_back: true };
        contacts.put_back(of(94), [ahead].into_iter(), 150);
        assert_eq!(contacts.of(of(94)), [CalledPeer { first: 150, last: 150, ..ahead }], "nothing is later than now");
    }

    #[test]
    fn what_is_known_of_a_contact_here_and_elsewhere_is_brought_together() {
        let contacts = contacts(10);
        let known = |n, first, last, answered| CalledPeer { peer: peer(n), first, last, answered, called_back: false };
        contacts.note(OWNER, peer(1), 110, false);
        contacts.note(OWNER, peer(2), 120, false);
        contacts.put_back(OWNER, [known(1, 105, 108, true), known(3, 0, 130, false)].into_iter(), 150);
        let all = [known(1, 105, 110, true), known(2, 120, 120, false), known(3, 0, 130, false)];
        assert_eq!(contacts.of(OWNER), all);
        contacts.put_back(OWNER, all.into_iter(), 150);
        assert_eq!(contacts.of(OWNER), all, "twice is once");
    }

    #[test]
    fn the_oldest_contact_makes_room() {
        let contacts = Contacts::new(&Lifetimes { contacts_per_binding: 3, ..Lifetimes::default() });
        for (peer_number, now) in [(3, 1000), (1, 1001), (2, 1002), (3, 1003), (9, 2004), (0, 2005)] {
            contacts.note(OWNER, peer(peer_number), now, false);
        }
        let live: Vec<u8> = (0..10).filter(|n| has(&contacts, OWNER, *n, 2006)).collect();
        assert_eq!(live, [0, 3, 9]);
        assert_eq!((contacts.count(OWNER, 2006), contacts.forgotten(OWNER)), ((3, 0), 2));
        assert!(contacts.has_forgotten(OWNER, peer(1)) && !contacts.has_forgotten(OWNER, peer(3)));
    }

    #[test]
    fn none_makes_room_before_its_answer_has_had_its_time() {
        let contacts = Contacts::new(&Lifetimes { contacts_per_binding: 3, ..Lifetimes::default() });
        for n in 0..100 {
            contacts.note(OWNER, peer(n), 1000 + u32::from(n), false);
        }
        assert_eq!((contacts.count(OWNER, 1100), contacts.forgotten(OWNER)), ((100, 0), 0));
        contacts.note(OWNER, peer(200), 1000 + ANSWER_TIME, false);
        assert_eq!(contacts.count(OWNER, 1240), (100, 0), "the first is forgotten, for it is over the limit and old");
        contacts.note(OWNER, peer(201), 2000, false);
        assert_eq!(contacts.count(OWNER, 2000), (3, 0));
    }

    #[test]
    fn c5_however_many_peers_are_called_there_is_a_bound_and_the_others_keep_their_own() {
        let contacts = Contacts::new(&Lifetimes::default());
        let note = |owner, n: u32, now| {
            contacts.note(owner, Address::from_v4(n.to_be_bytes()), now, false);
        };
        // In the same shard: an idle one with many, one with few, one that calls as many as it can.
        let [idle, other, hostile] = [1, 2, 3].map(|n| Owner {
            table: Default::default(),
            index: n * u32::try_from(SHARDS).unwrap(),
            created: 100,
        });
        (0..20_000).for_each(|n| note(idle, n, 1000));
        (0..10).for_each(|n| note(other, n, 1000));
        (0..100_000).for_each(|n| note(hostile, n, 1100));
        let count = |owner| contacts.count(owner, 1100).0;
        let all = count(idle) + count(other) + count(hostile);
        assert!((32_000..=32_768).contains(&all), "{all}");
        assert_eq!((count(idle), count(other)), (20_000, 10), "their answers have not had their time");
        (0..10_000).for_each(|n| note(hostile, 1 << 24 | n, 1300));
        assert_eq!((count(idle), count(other)), (1024, 10), "what was over the limit and old is forgotten");
        assert!(count(hostile) > 10_000);
        (20..40).for_each(|n| note(other, n, 1301));
        assert!(count(other) >= 16);
    }

    #[test]
    fn a_later_binding_in_the_same_slot_inherits_no_contact() {
        let contacts = contacts(3);
        contacts.note(OWNER, peer(1), 100, false);
        let later = Owner { created: 300, ..OWNER };
        assert!(!has(&contacts, later, 1, 120));
        contacts.note(later, peer(2), 300, false);
        assert!(!has(&contacts, later, 1, 301) && has(&contacts, later, 2, 301));
        contacts.forget(later);
        assert_eq!(contacts.count(later, 301), (0, 0));
    }
}
