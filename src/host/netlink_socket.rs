//! The netlink socket: one question, and all messages of its answer. Bytes in, bytes out; synchronous.
//!
//! `netlink.rs` puts the types of `netlink-packet-route` on it. What those do not cover (generic netlink, nftables, traffic
//! control) uses it as it is.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use std::fmt;
use std::io;

/// The kernel never puts more than this into one datagram (`netlink_dump`, net/netlink/af_netlink.c).
pub(super) const BUFFER: usize = 64 * 1024;
/// Bytes of `struct nlmsghdr` (RFC 3549 §2.2): length, type, flags, sequence, port; host byte order.
const HEADER: usize = 16;
/// `NLMSG_ERROR`: how a question ended, with an error or none.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a list.
const DONE: u16 = 3;
/// `NLMSGERR_ATTR_MSG` (linux/netlink.h): the kernel's own words.
const WORDS: u16 = 1;

/// What the kernel answered: the error, and its own words where it gives any.
#[derive(Debug)]
pub struct NetlinkError {
    source: io::Error,
    words: Option<String>,
}

impl NetlinkError {
    /// Whether the kernel answered with this error number.
    pub fn is(&self, errno: Errno) -> bool {
        self.source.raw_os_error() == Some(errno.raw_os_error())
    }
}

impl From<io::Error> for NetlinkError {
    fn from(source: io::Error) -> Self {
        Self { source, words: None }
    }
}

impl From<NetlinkError> for io::Error {
    /// The error number; the words are lost.
    fn from(error: NetlinkError) -> Self {
        error.source
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.words {
            Some(words) => write!(f, "{words} ({})", self.source),
            None => fmt::Display::fmt(&self.source, f),
        }
    }
}

impl std::error::Error for NetlinkError {}

/// A socket in the network namespace of the thread that opened it.
pub struct NetlinkSocket {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// All messages of an answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Each with its header.
    pub(super) messages: Vec<Vec<u8>>,
    /// Something changed while the kernel made the list: it may be of before and after.
    pub(super) is_interrupted: bool,
}

impl NetlinkSocket {
    /// For one of the `NETLINK_*` protocols.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Conveniences of newer kernels; without them errors are terser and longer.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Has the kernel heed what a question for a list asks for, instead of listing all: where it can.
    pub(super) fn check_strictly(&mut self) {
        let _ = self.socket.set_netlink_get_strict_chk(true);
    }

    /// Asks, and returns the bodies of all messages of the answer.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let mut messages = self.answer(kind, flags, body)?.messages;
        for message in &mut messages {
            message.drain(..HEADER);
        }
        Ok(messages)
    }

    /// Asks, and returns all of the answer.
    pub(super) fn answer(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<Answer, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut question = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
        question.extend(kind.to_ne_bytes());
        question.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        question.extend(self.sequence.to_ne_bytes());
        question.extend([0; 4]);
        question.extend(body);
        self.socket.send(&question, 0)?;
        let mut answer = Answer::default();
        loop {
            receive(&self.socket, &mut self.buffer)?;
            for message in Messages(&self.buffer).filter(|message| message.sequence == self.sequence) {
                answer.is_interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    ERROR | DONE => return message.end().map(|()| answer),
                    _ => answer.messages.push(message.whole.to_vec()),
                }
            }
        }
    }
}

/// The next datagram.
pub(super) fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<()> {
    loop {
        buffer.clear();
        match socket.recv(buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
}

/// An attribute, padded (RFC 3549 §2.2, `struct nlattr`).
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// Kind and value of each attribute.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = (usize::from(half(bytes)?), half(bytes.get(2..)?)?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind & 0x3fff, value)) // NLA_TYPE_MASK
    })
}

/// The value of the first attribute of a kind.
pub fn value(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(have, _)| *have == kind).map(|(_, value)| value)
}

/// The number that begins these bytes.
pub fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The short number that begins these bytes.
pub fn half(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// The messages of a datagram.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

/// One of them.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// All of it, with its header.
    pub(super) whole: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::try_from(number(self.0)?).ok()?;
        let whole = self.0.get(..length).filter(|whole| whole.len() >= HEADER)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        let (kind, flags) = (half(whole.get(4..)?)?, half(whole.get(6..)?)?);
        Some(Message { kind, flags, sequence: number(whole.get(8..)?)?, whole })
    }
}

impl Message<'_> {
    /// Of the last message of an answer, how it ended.
    fn end(&self) -> Result<(), NetlinkError> {
        let body = self.whole.get(HEADER..).unwrap_or_default();
        let Some(error) = number(body).map(u32::cast_signed).filter(|error| *error != 0) else { return Ok(()) };
        // Behind the number an error repeats the question's header, or all of it; with `set_cap_ack` the header alone.
        let words = body.get(4 + HEADER..).filter(|_| self.kind == ERROR).and_then(words);
        Err(NetlinkError { source: io::Error::from_raw_os_error(error.wrapping_neg()), words })
    }
}

/// The kernel's own words in an extended acknowledgement.
fn words(attributes: &[u8]) -> Option<String> {
    value(attributes, WORDS).map(|words| String::from_utf8_lossy(words).trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_and_hostile_bytes_end_the_walk() {
        for bytes in [&[][..], &[1, 2, 3], &[0; 16], &[255; 64], &[3, 0, 1, 0], &[4, 0, 1, 0, 9]] {
            assert!(Messages(bytes).count() <= 1 && attributes(bytes).count() <= 1, "{bytes:?}");
        }
    }

    #[test]
    fn attributes_are_found_again() {
        let bytes = [attribute(1, b"abcde"), attribute(2, &[]), attribute(0x8003, &7_u32.to_ne_bytes())].concat();
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(1, &b"abcde"[..]), (2, &[]), (3, &7_u32.to_ne_bytes())]);
        assert_eq!(value(&bytes, 3).and_then(number), Some(7));
        assert_eq!(value(&bytes, 4), None);
    }

    #[test]
    fn the_end_of_an_answer_says_how_it_ended_in_the_kernels_own_words() {
        let end = |kind: u16, error: i32, attributes: &[u8]| {
            let body = [&error.to_ne_bytes()[..], &[0; HEADER], attributes].concat();
            let length = u32::try_from(HEADER + body.len()).unwrap();
            let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
            let datagram = [head, body].concat();
            let ended = Messages(&datagram).next().unwrap().end();
            ended.map_err(|error| error.to_string())
        };
        assert_eq!((end(ERROR, 0, &[]), end(DONE, 0, &[])), (Ok(()), Ok(())));
        let words = [attribute(2, &[0; 4]), attribute(WORDS, b"no\0")].concat();
        assert!(end(ERROR, -22, &words).unwrap_err().starts_with("no (Invalid argument"));
        for rest in [&[][..], &[0; 4], &[255; 24]] {
            assert!(end(ERROR, -1, rest).unwrap_err().starts_with("Operation not permitted"), "{rest:?}");
        }
    }
}
