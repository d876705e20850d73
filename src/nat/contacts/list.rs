//! The contacts of a binding that has several: sorted by peer, and what became of those that made room.

use super::entry::{Contact, Peer};

/// Bits that remember which peers were forgotten: two peers in a few hundred share one.
const BITS: usize = 8192;
/// After so many the bits say too little, and begin anew.
const MOST_FORGOTTEN: u32 = 1024;

/// Contacts of one binding, in the order of their peers.
#[derive(Clone, Debug, Default)]
pub struct List {
    contacts: Vec<Contact>,
    /// No contact was last used before this second.
    oldest: u32,
    /// Contacts that still counted when they made room.
    lost: u64,
    /// Who those were, roughly; only where there are such.
    forgotten: Option<Box<Forgotten>>,
}

#[derive(Clone, Debug)]
struct Forgotten {
    bits: [u64; BITS / 64],
    count: u32,
}

impl List {
    /// These contacts, sorted by peer.
    pub fn new(contacts: Vec<Contact>) -> Self {
        let oldest = contacts.iter().map(|contact| contact.last).min().unwrap_or_default();
        Self { contacts, oldest, lost: 0, forgotten: None }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.contacts.len()
    }

    /// In the order of the peers.
    pub fn iter(&self) -> std::slice::Iter<'_, Contact> {
        self.contacts.iter()
    }

    /// In the order of the peers, which stay what they are.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Contact> {
        self.contacts.iter_mut()
    }

    /// That of a peer.
    pub fn get_mut(&mut self, peer: Peer) -> Option<&mut Contact> {
        let at = self.contacts.binary_search_by_key(&peer, |contact| contact.peer).ok()?;
        self.contacts.get_mut(at)
    }

    /// Adds that of a peer which has none. Memory grows by an eighth at a time, not by half of it all.
    pub fn insert(&mut self, contact: Contact) {
        if self.contacts.len() == self.contacts.capacity() {
            self.contacts.reserve_exact(self.contacts.len() / 8 + 2);
        }
        let at = self.contacts.partition_point(|other| other.peer < contact.peer);
        self.contacts.insert(at, contact);
        self.oldest = self.oldest.min(contact.last);
    }

    /// Whether any contact may have been last used before second `since`. False is certain, and costs nothing.
    pub fn may_be_older(&self, since: u32) -> bool {
        self.oldest < since
    }

    /// Forgets up to `count` contacts, the oldest first, but none that was used in second `since` or later. Each that is
    /// `live` still is a loss.
    pub fn forget_oldest(
        &mut self,
        count: usize,
        since: u32,
        live: impl Fn(u32) -> bool,
        mut forget: impl FnMut(Contact),
    ) {
        let mut old: Vec<u32> = self.contacts.iter().map(|contact| contact.last).filter(|last| *last < since).collect();
        let count = count.min(old.len());
        if count > 0 {
            old.sort_unstable();
            let cut = old.get(count - 1).copied().unwrap_or_default();
            let mut at_cut = count - old.partition_point(|last| *last < cut);
            let (lost, forgotten) = (&mut self.lost, &mut self.forgotten);
            self.contacts.retain(|contact| {
                let goes = contact.last < cut || (contact.last == cut && at_cut > 0);
                at_cut -= usize::from(goes && contact.last == cut);
                if goes {
                    if live(contact.last) {
                        *lost += 1;
                        forgotten.get_or_insert_with(Forgotten::none).add(contact.peer);
                    }
                    forget(*contact);
                }
                !goes
            });
            if self.contacts.capacity() > 2 * self.contacts.len() {
                self.contacts.shrink_to(self.contacts.len() + self.contacts.len() / 8);
            }
        }
        self.oldest = self.contacts.iter().map(|contact| contact.last).min().unwrap_or_default();
    }

    /// How many contacts that still counted have made room.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether a peer is one of those, as far as can be told.
    pub fn has_forgotten(&self, peer: Peer) -> bool {
        self.forgotten.as_ref().is_some_and(|forgotten| forgotten.has(peer))
    }
}

impl Forgotten {
    fn none() -> Box<Self> {
        Box::new(Self { bits: [0; BITS / 64], count: 0 })
    }

    fn add(&mut self, peer: Peer) {
        if self.count == MOST_FORGOTTEN {
            (self.bits, self.count) = ([0; BITS / 64], 0);
        }
        self.count += 1;
        let (word, bit) = place(peer);
        if let Some(word) = self.bits.get_mut(word) {
            *word |= bit;
        }
    }

    fn has(&self, peer: Peer) -> bool {
        let (word, bit) = place(peer);
        self.bits.get(word).is_some_and(|word| word & bit != 0)
    }
}

fn place(Peer(upper, lower): Peer) -> (usize, u64) {
    let hash = (upper ^ lower.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    #[allow(clippy::cast_possible_truncation, reason = "reduced to the number of words")]
    let word = (hash >> 32) as usize % (BITS / 64);
    (word, 1 << (hash >> 58))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_oldest_go_and_none_that_is_too_young(
            lasts in prop::collection::vec(0u32..20, 0..60), count in 0usize..70, since in 0u32..25,
        ) {
            let contact = |(n, last): (usize, &u32)| Contact {
                peer: Peer(0, n as u64), first: 1, last: *last, untold: 0, answered: false, called_back: false,
            };
            let mut list = List::new(lasts.iter().enumerate().map(contact).collect());
            let mut gone = Vec::new();
            list.forget_oldest(count, since, |last| last >= 5, |contact| gone.push(contact));
            let old = lasts.iter().filter(|last| **last < since).count();
            prop_assert_eq!(gone.len(), count.min(old));
            let youngest_gone = gone.iter().map(|contact| contact.last).max();
            let left = list.iter().map(|contact| contact.last).filter(|last| *last < since).min();
            prop_assert!(youngest_gone.is_none() || left.is_none() || youngest_gone <= left);
            prop_assert!(list.iter().is_sorted_by_key(|contact| contact.peer));
            prop_assert_eq!(list.len() + gone.len(), lasts.len());
            prop_assert_eq!(list.lost(), gone.iter().filter(|contact| contact.last >= 5).count() as u64);
            prop_assert!(gone.iter().filter(|contact| contact.last >= 5).all(|contact| list.has_forgotten(contact.peer)));
            prop_assert!(list.iter().all(|contact| list.may_be_older(contact.last + 1)));
        }
    }
}
