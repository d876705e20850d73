//! One contact: a peer that a terminal has called.

use crate::wire::Address;

/// A peer that a terminal has called, with what the translator knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalledPeer {
    pub peer: Address,
    /// The second in which it was first called, without having been forgotten since; 0: that is not known.
    pub first: u32,
    /// The second in which it was last called.
    pub last: u32,
    /// Whether it has sent anything back since.
    pub answered: bool,
    /// Whether it has opened a connection to the terminal since.
    pub called_back: bool,
}

/// The same, as a shard keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    pub peer: Peer,
    /// See [`CalledPeer::first`].
    pub first: u32,
    pub last: u32,
    /// Seconds by which `last` is later than what the store was told; [`super::TELL_AGAIN`] stands for all from there, and for
    /// never.
    pub untold: u8,
    pub answered: bool,
    pub called_back: bool,
}

impl Contact {
    /// This contact with what is known elsewhere of the same peer.
    pub fn joined_with(&self, other: &Self) -> Self {
        Self {
            first: if self.first == 0 || other.first == 0 {
                self.first.max(other.first)
            } else {
                self.first.min(other.first)
            },
            last: self.last.max(other.last),
            answered: self.answered || other.answered,
            called_back: self.called_back || other.called_back,
            ..*self
        }
    }
}

const _: () = assert!(size_of::<Contact>() == 28, "there are millions of them");

/// An address in two words, which need less alignment than one, and no more than a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(Rust, packed(4))]
pub struct Peer(pub u64, pub u64);

impl From<Address> for Peer {
    fn from(address: Address) -> Self {
        let (upper, lower) = address.halves();
        Self(upper, lower)
    }
}

impl From<Contact> for CalledPeer {
    fn from(Contact { peer, first, last, answered, called_back, .. }: Contact) -> Self {
        Self { peer: peer.into(), first, last, answered, called_back }
    }
}

impl From<Peer> for Address {
    fn from(Peer(upper, lower): Peer) -> Self {
        Self::from_bits(u128::from(upper) << 64 | u128::from(lower))
    }
}
