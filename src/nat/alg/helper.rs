//! What a helper for one application is asked, and what it answers.

use crate::wire::Address;
use std::ops::Range;

/// Which end of a control connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The end that called.
    Client,
    /// The end with the port that the helper looks after.
    Server,
}

/// The address of the end that speaks.
#[derive(Clone, Copy, Debug)]
pub struct Speaker {
    /// As it itself writes it.
    pub own: Address,
    /// As the other end knows it.
    pub shown: Address,
}

/// What a helper remembers from one unit of a text to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory(pub u32);

/// What a helper says of the text that begins here.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// So many bytes go on as they are.
    Pass(usize),
    /// So many bytes go on, and in one place of them other text.
    Write {
        place: Range<usize>,
        text: Box<[u8]>,
        /// How many bytes this settles.
        count: usize,
    },
    /// The rest must be seen first.
    More,
    /// It may not go on.
    Refuse,
    /// From here on nothing can be read any more, in either direction.
    Opaque,
}

/// Knows one application.
pub trait Helper: Send + Sync {
    /// Looks at `text`, which begins where the last call left off. `last`: nothing will follow.
    fn look(&self, memory: &mut Memory, from: ConnectionEnd, text: &[u8], last: bool, ends: &Speaker) -> Look;
}
