//! The contacts of some bindings, in little memory: most terminals call one peer, and what is known of such a binding are
//! 32 bytes that lie close to those of others, found by open addressing over their numbers. A first call has no room in
//! them and needs none where it made the binding, which is the rule; where it did not, it has a place elsewhere.

use super::entry::{Contact, Peer};
use super::list::List;
use crate::nat::binding::Owner;
use crate::nat::numbers::TableNumber;
use std::collections::HashMap;

/// What is known of one binding.
struct Entry {
    index: u32,
    created: u32,
    table: TableNumber,
    traits: u8,
    untold: u8,
    last: u32,
    peer: Peer,
}

/// Of [`Entry::traits`]: the contacts are in a list; the other traits and the fields behind mean nothing.
const LISTED: u8 = 1;
/// The one contact has answered.
const ANSWERED: u8 = 2;
/// The one contact has called back.
const CALLED_BACK: u8 = 4;
/// Nobody knows when the contact was first called. Without this and the next, it was when the binding was made.
const FIRST_UNKNOWN: u8 = 8;
/// When it was first called is in [`Shard::firsts`].
const FIRST_APART: u8 = 16;

const _: () = assert!(size_of::<Entry>() == 32, "two entries are a cache line");

/// The contacts of the bindings whose slots fall into this shard; one lock is around it.
#[derive(Default)]
pub struct Shard {
    entries: Vec<Entry>,
    /// Numbers of entries, counted from one, at the place that their slot's hash says or behind it; zero is nobody's.
    /// As many as a power of two, a quarter of them vacant.
    places: Vec<u32>,
    /// Where there are several, sorted by peer.
    lists: HashMap<(TableNumber, u32), List>,
    /// First calls of contacts that are alone and younger than their binding.
    firsts: HashMap<(TableNumber, u32), u32>,
    /// When the lists were last looked through.
    swept: u32,
    /// Contacts in all of them.
    listed: usize,
}

/// The contacts that a binding has.
pub enum Held<'a> {
    /// Just this.
    One(Contact),
    /// These, sorted by peer.
    Several(&'a mut List),
}

impl Shard {
    /// What a binding has.
    pub fn held(&mut self, owner: Owner) -> Option<Held<'_>> {
        let entry = self.entries.get(self.number(owner)?).filter(|entry| entry.created == owner.created)?;
        if entry.is_listed() {
            self.lists.get_mut(&key(owner)).map(Held::Several)
        } else {
            Some(Held::One(self.only(entry)))
        }
    }

    /// All contacts of a binding.
    pub fn contacts(&self, owner: Owner) -> impl Iterator<Item = Contact> {
        let entry = self.number(owner).and_then(|number| self.entries.get(number));
        let entry = entry.filter(|entry| entry.created == owner.created);
        let list = entry.filter(|entry| entry.is_listed()).and_then(|_| self.lists.get(&key(owner)));
        let only = entry.filter(|entry| !entry.is_listed()).map(|entry| self.only(entry));
        only.into_iter().chain(list.into_iter().flat_map(List::iter).copied())
    }

    /// Gives a binding these contacts, sorted by peer, and no others.
    pub fn replace(&mut self, owner: Owner, contacts: Vec<Contact>) {
        match contacts.as_slice() {
            [] => drop(self.remove(owner)),
            [contact] => self.replace_one(owner, *contact),
            _ => {
                self.drop_list(key(owner));
                self.put_list(owner, List::new(contacts));
            }
        }
    }

    /// Gives a binding this contact and no other.
    pub fn replace_one(&mut self, owner: Owner, contact: Contact) {
        let entry = Entry::new(owner, contact);
        if entry.has(FIRST_APART) {
            self.firsts.insert(key(owner), contact.first);
        }
        self.put(entry);
    }

    /// The list of a binding that has one.
    pub fn list(&self, owner: Owner) -> Option<&List> {
        let entry = self.entries.get(self.number(owner)?).filter(|entry| entry.created == owner.created)?;
        entry.is_listed().then(|| self.lists.get(&key(owner))).flatten()
    }

    /// How many contacts there are in lists.
    pub fn listed(&self) -> usize {
        self.listed
    }

    /// Adds to the list of a binding.
    pub fn insert(&mut self, owner: Owner, contact: Contact) {
        if let Some(list) = self.lists.get_mut(&key(owner)) {
            list.insert(contact);
            self.listed += 1;
        }
    }

    /// Forgets contacts of a list; see [`List::forget_oldest`].
    pub fn forget_oldest(
        &mut self,
        owner: Owner,
        count: usize,
        since: u32,
        live: impl Fn(u32) -> bool,
        forget: impl FnMut(Contact),
    ) {
        if let Some(list) = self.lists.get_mut(&key(owner)) {
            let before = list.len();
            list.forget_oldest(count, since, live, forget);
            self.listed -= before - list.len();
        }
    }

    /// The bindings with more contacts than `most`; none if that was asked in this second already.
    pub fn long_lists(&mut self, most: usize, now: u32) -> Vec<Owner> {
        if std::mem::replace(&mut self.swept, now) == now {
            return Vec::new();
        }
        let long = |entry: &&Entry| {
            entry.is_listed() && self.lists.get(&(entry.table, entry.index)).is_some_and(|list| list.len() > most)
        };
        self.entries.iter().filter(long).map(Entry::owner).collect()
    }

    /// Forgets what is known of a slot; hands back its list.
    pub fn remove(&mut self, owner: Owner) -> Option<List> {
        let place = self.place(owner)?;
        let number = self.at(place) - 1;
        self.vacate(place);
        let gone = self.entries.swap_remove(number as usize);
        if gone.has(FIRST_APART) {
            self.firsts.remove(&key(owner));
        }
        let list = if gone.is_listed() { self.drop_list(key(owner)) } else { None };
        // The last entry has taken its number.
        let last = u32::try_from(self.entries.len()).unwrap_or(u32::MAX) + 1;
        if let Some(moved) = self.entries.get(number as usize) {
            let place = self.places_from(moved.hash()).find(|place| self.at(*place) == last);
            if let Some(place) = place.and_then(|place| self.places.get_mut(place)) {
                *place = number + 1;
            }
        }
        list
    }

    /// Gives a binding what another had.
    pub fn put_list(&mut self, owner: Owner, list: List) {
        if let Some(first) = list.iter().next() {
            self.put(Entry { traits: LISTED, ..Entry::new(owner, *first) });
            self.listed += list.len();
            self.lists.insert(key(owner), list);
        }
    }

    fn drop_list(&mut self, key: (TableNumber, u32)) -> Option<List> {
        let list = self.lists.remove(&key)?;
        self.listed -= list.len();
        Some(list)
    }

    fn put(&mut self, entry: Entry) {
        if let Some(known) = self.number(entry.owner()).and_then(|number| self.entries.get_mut(number)) {
            let goes = known.is_listed() && !entry.is_listed();
            let first_goes = known.has(FIRST_APART) && !entry.has(FIRST_APART);
            let key = (entry.table, entry.index);
            *known = entry;
            if goes {
                self.drop_list(key);
            }
            if first_goes {
                self.firsts.remove(&key);
            }
            return;
        }
        if (self.entries.len() + 1) * 4 > self.places.len() * 3 {
            self.grow();
        }
        let hash = entry.hash();
        self.entries.push(entry);
        let number = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.occupy(hash, number);
    }

    fn grow(&mut self) {
        let len = (self.places.len() * 2).max(8);
        self.places = vec![0; len];
        for number in 0..self.entries.len() {
            if let (Some(entry), Ok(number)) = (self.entries.get(number), u32::try_from(number + 1)) {
                self.occupy(entry.hash(), number);
            }
        }
    }

    /// Writes a number at the first vacant place from where `hash` says.
    fn occupy(&mut self, hash: u64, number: u32) {
        let vacant = self.places_from(hash).find(|place| self.at(*place) == 0);
        if let Some(place) = vacant.and_then(|place| self.places.get_mut(place)) {
            *place = number;
        }
    }

    /// Empties a place; what stands behind moves up, unless that would take it before its own.
    fn vacate(&mut self, place: usize) {
        let mask = self.places.len() - 1;
        let mut hole = place;
        for at in (1..=mask).map(|step| (place + step) & mask) {
            let Some(entry) = self.at(at).checked_sub(1).and_then(|number| self.entries.get(number as usize)) else {
                break;
            };
            let distance = |from: usize| at.wrapping_sub(from) & mask;
            if distance(self.home(entry.hash())) >= distance(hole) {
                self.places.swap(hole, at);
                hole = at;
            }
        }
        if let Some(place) = self.places.get_mut(hole) {
            *place = 0;
        }
    }

    /// The number of a slot's entry.
    fn number(&self, owner: Owner) -> Option<usize> {
        Some(self.at(self.place(owner)?) as usize - 1)
    }

    /// Where that number stands.
    fn place(&self, owner: Owner) -> Option<usize> {
        for place in self.places_from(hash(owner.table, owner.index)) {
            let entry = self.entries.get((self.at(place) as usize).checked_sub(1)?)?;
            if (entry.table, entry.index) == key(owner) {
                return Some(place);
            }
        }
        None
    }

    /// The contact of an entry that has one.
    fn only(&self, entry: &Entry) -> Contact {
        let first = match entry.traits & (FIRST_UNKNOWN | FIRST_APART) {
            0 => entry.created,
            FIRST_APART => self.firsts.get(&(entry.table, entry.index)).copied().unwrap_or(0),
            _ => 0,
        };
        let Entry { peer, last, untold, .. } = *entry;
        Contact { peer, first, last, untold, answered: entry.has(ANSWERED), called_back: entry.has(CALLED_BACK) }
    }

    fn at(&self, place: usize) -> u32 {
        self.places.get(place).copied().unwrap_or(0)
    }

    /// All places, the one that `hash` says first.
    fn places_from(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let (home, len) = (self.home(hash), self.places.len());
        (0..len).map(move |step| (home + step) & (len - 1))
    }

    fn home(&self, hash: u64) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "masked to the places")]
        let home = (hash >> 32) as usize & self.places.len().wrapping_sub(1);
        home
    }
}

impl Entry {
    fn new(owner: Owner, contact: Contact) -> Self {
        let Owner { table, index, created } = owner;
        let Contact { peer, first, last, untold, answered, called_back } = contact;
        let first = match first {
            0 => FIRST_UNKNOWN,
            first if first == created => 0,
            _ => FIRST_APART,
        };
        let traits = first | if answered { ANSWERED } else { 0 } | if called_back { CALLED_BACK } else { 0 };
        Self { index, created, table, traits, untold, last, peer }
    }

    fn has(&self, of: u8) -> bool {
        self.traits & of != 0
    }

    fn is_listed(&self) -> bool {
        self.has(LISTED)
    }

    fn owner(&self) -> Owner {
        Owner { table: self.table, index: self.index, created: self.created }
    }

    fn hash(&self) -> u64 {
        hash(self.table, self.index)
    }
}

fn key(owner: Owner) -> (TableNumber, u32) {
    (owner.table, owner.index)
}

/// Slots are given by a keyed hash already: nobody chooses which of them meet, so a multiplication will do.
fn hash(table: TableNumber, index: u32) -> u64 {
    (u64::from(table.get()) << 32 | u64::from(index)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn contact(n: u64) -> Contact {
        // Of a binding made in second 7: not known when, with it, or later.
        let first = match n % 4 {
            0 => 0,
            later => 6 + u32::try_from(later).unwrap(),
        };
        Contact { peer: Peer(0, n), first, last: 9, untold: 0, answered: n % 2 == 1, called_back: n % 4 > 1 }
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_map(steps in prop::collection::vec((0usize..4, 0u16..2, 0u32..40, 0u64..4), 0..300)) {
            let mut shard = Shard::default();
            let mut model: BTreeMap<(TableNumber, u32), Vec<Contact>> = BTreeMap::new();
            for (contacts, table, index, from) in steps {
                // As in a shard of 256.
                let owner = Owner { table: TableNumber::new(table), index: index << 8, created: 7 };
                let contacts: Vec<Contact> = (from..from + contacts as u64).map(contact).collect();
                shard.replace(owner, contacts.clone());
                model.insert(key(owner), contacts);
                for (&(table, index), contacts) in &model {
                    let owner = Owner { table, index, created: 7 };
                    prop_assert!(shard.contacts(owner).eq(contacts.iter().copied()));
                    prop_assert_eq!(shard.contacts(Owner { created: 8, ..owner }).count(), 0);
                }
            }
            let lists = model.values().filter(|contacts| contacts.len() > 1).count();
            prop_assert_eq!(shard.lists.len(), lists);
            let apart = model.values().filter(|contacts| matches!(contacts.as_slice(), [one] if one.first > 7)).count();
            prop_assert_eq!(shard.firsts.len(), apart);
            prop_assert_eq!(shard.listed(), model.values().map(Vec::len).filter(|len| *len > 1).sum::<usize>());
        }
    }
}
