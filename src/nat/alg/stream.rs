//! One direction of a connection whose text is looked into: what was read, what was written over it, and how the
//! numbers of the bytes moved by that.
//!
//! Sequence numbers come in two kinds: as the *sender* counts, and as they are *shown* to the receiver, who has got
//! other text in some places. Bytes that may be the beginning of something to write over wait until the rest is there;
//! the sender is told meanwhile that they have arrived, or it might wait for that before it sends the rest (RFC 896).
//! From then on they are the gateway's to deliver: they go out again in front of everything that follows, until the
//! receiver has said that it has them.

use super::helper::{Look, Memory};
use crate::nat::reason::DropReason;
use std::collections::VecDeque;
use std::ops::Range;

/// Bytes that wait at most for the rest of their unit.
const MOST_WAITING: usize = 1024;
/// Places written over at most that the receiver has not said to have: as many as a segment of 1,500 bytes can hold.
const MOST_EDITS: usize = 128;

/// The text of one direction, from the first byte that the receiver has not said to have.
#[derive(Debug)]
pub struct Stream {
    /// The first byte that was not looked at yet, as the sender counts.
    next: u32,
    /// The first byte that the receiver has not said to have.
    delivered: u32,
    /// The bytes before `next` that wait for what follows.
    waiting: Vec<u8>,
    /// Whether their sender was told that they have arrived.
    promised: bool,
    /// Bytes that were promised and are sent, until the receiver has them; and the number of the first.
    unrecorded: Vec<u8>,
    owed_at: u32,
    memory: Memory,
    /// What to add to the sender's number of a byte in front of the first of `edits`.
    shift: u32,
    edits: VecDeque<Edit>,
    /// The end of the last place that was written over and that the receiver has: what stood there is forgotten.
    forgotten: Option<u32>,
}

/// A place that was written over.
#[derive(Clone, Debug)]
struct Edit {
    /// Where it begins, as the sender counts.
    start: u32,
    /// How long it was.
    length: u32,
    /// What stands there now.
    text: Box<[u8]>,
}

/// What becomes of a segment.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// It goes on with its own bytes, at this number.
    AsIs(u32),
    /// These bytes go on instead, at this number.
    Instead(u32, Vec<u8>),
    /// Nothing goes on. If there is a number, tell the sender that all before it has arrived.
    Waits(Option<u32>),
}

/// Which end of a place that was written over stands for what is inside of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Toward {
    Start,
    End,
}

/// Whether number `a` is before `b` (RFC 9293 §3.4: they wrap around).
pub fn before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

impl Stream {
    /// A direction whose next byte has this number.
    pub fn new(next: u32) -> Self {
        Self {
            next,
            delivered: next,
            waiting: Vec::new(),
            promised: false,
            unrecorded: Vec::new(),
            owed_at: next,
            memory: Memory::default(),
            shift: 0,
            edits: VecDeque::new(),
            forgotten: None,
        }
    }

    /// Whether the connection could go on without what is remembered here.
    pub fn is_plain(&self) -> bool {
        self.shift == 0 && self.edits.is_empty() && self.waiting.is_empty() && self.unrecorded.is_empty()
    }

    /// The number to show for a segment without bytes.
    pub fn empty_at(&self, number: u32) -> u32 {
        // The receiver has not got what waits.
        let sent = self.sent();
        self.shown(if before(sent, number) && !before(self.next, number) { sent } else { number })
    }

    /// The number to show for a segment without bytes behind all that was sent.
    pub fn end(&self) -> u32 {
        self.empty_at(self.next)
    }

    /// Looks at the bytes of a segment, which begin at `number`. `last`: nothing will follow them.
    pub fn take(
        &mut self,
        number: u32,
        payload: &[u8],
        last: bool,
        look: impl FnMut(&mut Memory, &[u8], bool) -> Look,
    ) -> Result<Taken, DropReason> {
        let end = number.wrapping_add(length(payload.len()));
        let sent_again = self.forgotten.filter(|forgotten| before(number, *forgotten));
        if let Some(forgotten) = sent_again {
            // The receiver has this, and its sender missed the word of it. What was written over must not go out as it
            // was: the receiver gets the rest, or a number that it has had (RFC 9293 §3.10.7.4: it will say so).
            return match payload.get(distance(number, forgotten)..).filter(|rest| last || !rest.is_empty()) {
                Some(rest) => self.take(forgotten, rest, last, look).map(|taken| match taken {
                    Taken::AsIs(number) => Taken::Instead(number, rest.to_vec()),
                    other => other,
                }),
                None => Ok(Taken::Instead(self.shown(forgotten).wrapping_sub(1), Vec::new())),
            };
        }
        if before(self.next, number) {
            return Err(DropReason::AlgSegment);
        }
        let fresh = match before(self.next, end) {
            true => payload.get(distance(number, self.next)..).unwrap_or_default(),
            false => &[],
        };
        let (sent_before, text) = (self.sent(), [&self.waiting, fresh].concat());
        let mut read = Read { memory: self.memory, waiting: self.waiting.len(), edits: Vec::new() };
        if !fresh.is_empty() || last {
            read = read_text(self.memory, &text, sent_before, last, look)?;
        }
        if self.edits.len() + read.edits.len() > MOST_EDITS {
            return Err(DropReason::AlgSegment);
        }
        // What there is to send: the segment, behind what waited for it and what may have got lost.
        let (mut from, mut raw) = (number, payload.to_vec());
        if before(sent_before, from) {
            raw = [self.waiting.get(..distance(sent_before, from)).unwrap_or_default(), &raw].concat();
            from = sent_before;
        }
        let owed_to = self.owed_at.wrapping_add(length(self.unrecorded.len()));
        if before(self.owed_at, from) && !before(owed_to, from) {
            raw = [self.unrecorded.get(..distance(self.owed_at, from)).unwrap_or_default(), &raw].concat();
            from = self.owed_at;
        }
        if before(self.next, end) {
            self.next = end;
        }
        let rest = text.get(text.len() - read.waiting..).unwrap_or_default().to_vec();
        let waited = std::mem::replace(&mut self.waiting, rest);
        if self.sent() != sent_before && std::mem::take(&mut self.promised) {
            (self.unrecorded, self.owed_at) = (waited, sent_before);
        }
        self.edits.extend(read.edits);
        self.memory = read.memory;
        let to = if before(self.sent(), end) { self.sent() } else { end };
        if !before(from, to) && !self.waiting.is_empty() {
            // What was not promised is still its sender's to deliver.
            self.promised |= !before(self.delivered, self.sent());
            return Ok(Taken::Waits(self.promised.then_some(self.next)));
        }
        let plain = from == number && to == end && !self.edits.iter().any(|edit| edit.overlaps(from, to));
        Ok(if plain {
            Taken::AsIs(self.shown(number))
        } else {
            Taken::Instead(self.shown(from), self.written(from, to, &raw))
        })
    }

    /// The receiver has everything before `number`, as it counts.
    pub fn acknowledged(&mut self, number: u32) {
        let had = self.original(number, Toward::Start);
        if before(self.delivered, had) {
            self.delivered = had;
        }
        if before(self.owed_at, had) {
            self.unrecorded.drain(..distance(self.owed_at, had).min(self.unrecorded.len()));
            self.owed_at = had;
        }
        while let Some(edit) = self.edits.front() {
            let end = edit.start.wrapping_add(self.shift).wrapping_add(length(edit.text.len()));
            if before(number, end) {
                break;
            }
            self.shift = self.shift.wrapping_add(edit.growth());
            self.forgotten = Some(edit.end());
            self.edits.pop_front();
        }
    }

    /// The acknowledgement of the receiver, as the sender counts. What waits counts as arrived.
    pub fn acknowledgement(&mut self, number: u32) -> u32 {
        let had = self.original(number, Toward::Start);
        if had != self.sent() || self.waiting.is_empty() {
            return had;
        }
        self.promised = true;
        self.next
    }

    /// The first byte that was not sent, as the sender counts.
    fn sent(&self) -> u32 {
        self.next.wrapping_sub(length(self.waiting.len()))
    }

    /// What the receiver calls `number`, as the sender counts.
    pub fn original(&self, number: u32, toward: Toward) -> u32 {
        let mut shift = self.shift;
        for edit in &self.edits {
            let start = edit.start.wrapping_add(shift);
            if before(number, start) || number == start {
                break;
            }
            if before(number, start.wrapping_add(length(edit.text.len()))) {
                return if toward == Toward::Start { edit.start } else { edit.end() };
            }
            shift = shift.wrapping_add(edit.growth());
        }
        number.wrapping_sub(shift)
    }

    /// What the sender calls `number`, as it is shown to the receiver.
    pub fn shown(&self, number: u32) -> u32 {
        let mut shift = self.shift;
        for edit in &self.edits {
            if before(number, edit.start) {
                break;
            }
            if before(number, edit.end()) {
                return edit.start.wrapping_add(shift);
            }
            shift = shift.wrapping_add(edit.growth());
        }
        number.wrapping_add(shift)
    }

    /// The bytes `from..to` as the receiver gets them. What was written over goes out whole, even if only part of it was
    /// asked for: the receiver knows what it has already.
    fn written(&self, from: u32, to: u32, raw: &[u8]) -> Vec<u8> {
        let bytes = |range: Range<u32>| {
            raw.get(distance(from, range.start)..distance(from, range.end)).unwrap_or_default().iter().copied()
        };
        let mut out = Vec::with_capacity(raw.len() + 32);
        let mut at = from;
        for edit in self.edits.iter().filter(|edit| edit.overlaps(from, to)) {
            if before(at, edit.start) {
                out.extend(bytes(at..edit.start));
            }
            out.extend_from_slice(&edit.text);
            at = edit.end();
        }
        if before(at, to) {
            out.extend(bytes(at..to));
        }
        out
    }
}

impl Edit {
    fn end(&self) -> u32 {
        self.start.wrapping_add(self.length)
    }

    fn growth(&self) -> u32 {
        length(self.text.len()).wrapping_sub(self.length)
    }

    fn overlaps(&self, from: u32, to: u32) -> bool {
        before(self.start, to) && before(from, self.end())
    }
}

/// What was found in a text.
struct Read {
    memory: Memory,
    waiting: usize,
    edits: Vec<Edit>,
}

fn read_text(
    mut memory: Memory,
    text: &[u8],
    number: u32,
    last: bool,
    mut look: impl FnMut(&mut Memory, &[u8], bool) -> Look,
) -> Result<Read, DropReason> {
    let (mut at, mut edits) = (0, Vec::new());
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        match look(&mut memory, rest, last) {
            Look::Pass(count) => at += count.clamp(1, rest.len()),
            Look::Write { place, text, count } => {
                let (start, old) = (number.wrapping_add(length(at + place.start)), length(place.len()));
                edits.push(Edit { start, length: old, text });
                at += count.clamp(1, rest.len());
            }
            Look::Opaque => break,
            Look::More if last => break,
            Look::More if rest.len() > MOST_WAITING => return Err(DropReason::AlgRefused),
            Look::More => return Ok(Read { memory, waiting: rest.len(), edits }),
            Look::Refuse => return Err(DropReason::AlgRefused),
        }
    }
    Ok(Read { memory, waiting: 0, edits })
}

fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn distance(from: u32, to: u32) -> usize {
    usize::try_from(to.wrapping_sub(from)).unwrap_or(usize::MAX)
}
