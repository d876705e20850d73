//! Applications that carry addresses in their text (RFC 2663 §2.9): off by default, a switch each (RFC 4787 REQ-10).
//!
//! The frame is general: a [`Helper`] reads the text of a control connection and says what to write over; [`stream`]
//! does the rest, that is, segments, numbers, repetition. A helper sees the text unit by unit (for FTP, line by line),
//! each once and in order, however it was cut. Who looks after which connection, the ports say.
//!
//! The translator calls [`Helpers::pass`] for every packet before the addresses are written, also where a worker knows
//! the flow already.
//!
//! An announced data connection needs no permission of its own. It comes from the peer of the control connection, to
//! which the terminal has just sent a packet; so that peer is a contact, it alone is, and for as long as contacts last.
//!
//! What is remembered is bounded: [`MOST`] connections, and some kilobytes each at worst. A connection of which
//! nothing need be remembered makes room; where none does, a new one is refused. A gateway that starts anew has
//! forgotten: control connections in which something was written over do not survive that.

mod ftp;
mod helper;
mod segment;
mod stream;

use super::settings::{Alg, AlgSettings};
use crate::nat::reason::DropReason;
use crate::time::Time;
use crate::wire::{Address, Fragment, Headers, Packet, Rewrite, protocol};
use ftp::Ftp;
use helper::{ConnectionEnd, Helper, Look, Memory, Speaker};
use parking_lot::Mutex;
use segment::{ACK, FIN, RST, SYN, Segment};
use std::collections::BTreeMap;
use std::time::Duration;
use stream::{Stream, Taken, Toward};

/// Connections remembered at most.
const MOST: usize = 8_192;
const SHARDS: usize = 64;
/// How long an idle connection is remembered (RFC 5382 REQ-5: established, and all others).
const ESTABLISHED: Duration = Duration::from_secs(7440);
const TRANSITORY: Duration = Duration::from_secs(240);
/// What a receiver is taken to offer that has not said anything yet.
const WINDOW: u16 = 4096;

/// What becomes of a packet, before its addresses are written.
#[derive(Debug)]
pub(super) enum Passed {
    /// It goes on.
    AsIs,
    /// These packets go on in its place, and one perhaps back to its sender.
    Instead {
        /// With the addresses that the packet had, and complete checksums.
        packets: Vec<Box<[u8]>>,
        /// Ready to be sent.
        answer: Option<Box<[u8]>>,
    },
}

/// All helpers that are switched on, and the connections they look after.
pub(super) struct Helpers {
    by_port: Vec<(u16, Box<dyn Helper>)>,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Default)]
struct Shard {
    connections: BTreeMap<Key, Connection>,
    swept: Time,
}

/// Both ends as the outside sees them; the smaller first, so that both directions have the same.
type Key = [(Address, u16); 2];

struct Connection {
    /// From the smaller end, and from the other.
    directions: [Direction; 2],
    opaque: bool,
    established: bool,
    ended: bool,
    last: Time,
}

#[derive(Default)]
struct Direction {
    stream: Option<Stream>,
    /// What the sender said last.
    window: Option<u16>,
    clock: Option<u32>,
    finished: bool,
}

impl Helpers {
    /// Those that the settings switch on; `None` if none.
    pub fn new(settings: &[AlgSettings]) -> Option<Self> {
        let by_port: Vec<(u16, Box<dyn Helper>)> = settings
            .iter()
            .map(|setting| match setting.alg {
                Alg::Ftp => (setting.port, Box::new(Ftp) as Box<dyn Helper>),
            })
            .collect();
        let shards = || (0..SHARDS).map(|_| Mutex::default()).collect();
        (!by_port.is_empty()).then(|| Self { by_port, shards: shards() })
    }

    /// Has the packet looked into, if it belongs to a connection with a helper. `rewrite` is what the translator is
    /// about to write.
    pub fn pass(
        &self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        rewrite: Rewrite,
        now: Time,
    ) -> Result<Passed, DropReason> {
        if headers.protocol != protocol::TCP || headers.fragment == Fragment::Later {
            return Ok(Passed::AsIs);
        }
        let Some(ports) = ports(packet.bytes, headers.transport) else { return Ok(Passed::AsIs) };
        let helper = |port| self.by_port.iter().find(|(number, _)| *number == port).map(|(_, helper)| helper);
        let (helper, speaking) = match (helper(ports.1), helper(ports.0)) {
            (Some(helper), _) => (helper, ConnectionEnd::Client),
            (None, Some(helper)) => (helper, ConnectionEnd::Server),
            (None, None) => return Ok(Passed::AsIs),
        };
        if headers.fragment == Fragment::First {
            return Err(DropReason::AlgSegment);
        }
        let segment = Segment::read(packet.bytes, headers).ok_or(DropReason::Malformed)?;
        let ends = Speaker { own: headers.source, shown: rewrite.source.unwrap_or(headers.source) };
        let (from, to) = ((ends.shown, ports.0), (headers.destination, ports.1));
        let key = if from < to { [from, to] } else { [to, from] };
        let mut shard = self.shard(&key).lock();
        let connection = shard.connection(key, &segment, now)?;
        let sent = Sent { headers, segment: &segment, is_of_second: from > to };
        connection.pass(packet, &sent, now, |memory, text, last| helper.look(memory, speaking, text, last, &ends))
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        // Terminals that keep to few peers fill few shards.
        let mixed = key.iter().fold(0_u128, |sum, (address, _)| sum ^ address.bits());
        let folded = (mixed ^ (mixed >> 64) ^ (mixed >> 32) ^ (mixed >> 16)).wrapping_mul(0x9e37_79b9);
        #[allow(clippy::cast_possible_truncation, reason = "the remainder is below the number of shards")]
        let number = ((folded >> 16) % SHARDS as u128) as usize;
        #[allow(clippy::indexing_slicing, reason = "the remainder is below the length")]
        &self.shards[number]
    }
}

/// A segment that a packet carries.
struct Sent<'a> {
    headers: &'a Headers,
    segment: &'a Segment,
    /// By which end of the connection: the second in its key.
    is_of_second: bool,
}

impl Shard {
    /// The connection of the segment, made if it is a new one.
    fn connection(&mut self, key: Key, segment: &Segment, now: Time) -> Result<&mut Connection, DropReason> {
        let opens = segment.has(SYN) && !segment.has(ACK);
        if opens && self.connections.get(&key).is_some_and(|old| old.may_go() || old.is_idle(now)) {
            self.connections.remove(&key);
        }
        if !self.connections.contains_key(&key) {
            self.make_room(now)?;
        }
        Ok(self.connections.entry(key).or_insert_with(|| Connection::new(now)))
    }

    fn make_room(&mut self, now: Time) -> Result<(), DropReason> {
        if now - self.swept >= Duration::from_secs(60) {
            self.swept = now;
            self.connections.retain(|_, connection| !connection.is_idle(now));
        }
        if self.connections.len() < MOST / SHARDS {
            return Ok(());
        }
        let dispensable = self.connections.iter().filter(|(_, connection)| connection.may_go());
        let oldest = dispensable.min_by_key(|(_, connection)| (connection.established, connection.last));
        let key = oldest.map(|(key, _)| *key).ok_or(DropReason::AlgFull)?;
        self.connections.remove(&key);
        Ok(())
    }
}

impl Connection {
    fn new(now: Time) -> Self {
        Self { directions: Default::default(), opaque: false, established: false, ended: false, last: now }
    }

    /// Whether nothing need be remembered of it.
    fn may_go(&self) -> bool {
        self.ended || self.directions.iter().all(|direction| direction.stream.as_ref().is_none_or(Stream::is_plain))
    }

    fn is_idle(&self, now: Time) -> bool {
        now - self.last >= if self.established && !self.ended { ESTABLISHED } else { TRANSITORY }
    }

    fn pass(
        &mut self,
        packet: &mut Packet<'_>,
        sent: &Sent<'_>,
        now: Time,
        mut look: impl FnMut(&mut Memory, &[u8], bool) -> Look,
    ) -> Result<Passed, DropReason> {
        let Sent { headers, segment, is_of_second } = *sent;
        let [first, second] = &mut self.directions;
        let (sender, receiver) = if is_of_second { (second, first) } else { (first, second) };
        let payload = segment.payload(packet.bytes);
        let begins = segment.number.wrapping_add(u32::from(segment.has(SYN)));
        if segment.has(SYN) && !payload.is_empty() {
            return Err(DropReason::AlgSegment); // TCP Fast Open: without its data the SYN comes again
        }
        let stream = sender.stream.get_or_insert_with(|| Stream::new(begins));
        let mut opaque = self.opaque;
        let look = |memory: &mut Memory, text: &[u8], last: bool| {
            let said = if opaque { Look::Opaque } else { look(memory, text, last) };
            opaque |= said == Look::Opaque;
            said
        };
        let finishes = segment.has(FIN);
        let taken = if segment.has(SYN) {
            Taken::AsIs(stream.shown(begins).wrapping_sub(1))
        } else if payload.is_empty() && !finishes {
            Taken::AsIs(stream.empty_at(begins))
        } else {
            stream.take(begins, payload, finishes, look)?
        };
        // From here on the packet is accepted: only now may anything of it be remembered.
        self.opaque = opaque;
        self.last = now;
        sender.finished |= finishes;
        (sender.window, sender.clock) = (Some(segment.window), segment.timestamp.or(sender.clock));
        self.established |= segment.has(ACK) && !segment.has(SYN);
        self.ended |= segment.has(RST) || (sender.finished && receiver.finished);
        let number = match taken {
            Taken::AsIs(number) | Taken::Instead(number, _) => number,
            Taken::Waits(_) => segment.number,
        };
        let mut acknowledgement = segment.acknowledgement;
        if let Some(other) = receiver.stream.as_mut().filter(|_| segment.has(ACK)) {
            acknowledgement = other.acknowledgement(segment.acknowledgement);
            other.acknowledged(segment.acknowledgement);
        }
        let other = receiver.stream.as_ref();
        let block = |left, right| {
            let original = |edge, toward| other.map_or(edge, |other| other.original(edge, toward));
            (original(left, Toward::End), original(right, Toward::Start))
        };
        segment.renumber(packet, headers, number, acknowledgement, block);
        Ok(match taken {
            Taken::AsIs(_) => Passed::AsIs,
            Taken::Instead(number, payload) => {
                Passed::Instead { packets: segment.instead(packet, headers, number, &payload), answer: None }
            }
            Taken::Waits(arrived) => {
                // What else the segment says goes on.
                let end = sender.stream.as_ref().map_or(segment.number, Stream::end);
                let window = receiver.window.unwrap_or(WINDOW);
                let answer = arrived.map(|arrived| segment.arrived(headers, arrived, window, receiver.clock));
                Passed::Instead { packets: segment.instead(packet, headers, end, &[]), answer }
            }
        })
    }
}

fn ports(bytes: &[u8], at: usize) -> Option<(u16, u16)> {
    let [a, b, c, d] = *bytes.get(at..)?.first_chunk()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests;
