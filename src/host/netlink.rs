//! The netlink socket: requests with their acknowledgement, dumps, notifications. Synchronous.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The kernel never puts more than this into one datagram of a dump (`netlink_dump`, net/netlink/af_netlink.c).
const BUFFER: usize = 64 * 1024;

/// How often a dump that was interrupted by a change starts again before its last result is taken as it is.
const DUMP_ATTEMPTS: usize = 8;

/// `RTMGRP_*` bits (linux/rtnetlink.h): links, traffic control; addresses, routes and rules of both families; next-hop
/// objects (`RTNLGRP_NEXTHOP`, group 32); settings of both families (`RTNLGRP_IPV4_NETCONF`, group 24, and the next).
const GROUPS: u32 = 0x1 | 0x8 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x4_0000 | 0x80_0000 | 0x100_0000 | 0x8000_0000;

/// `RTM_NEWNETCONF` (linux/rtnetlink.h).
const NEW_SETTING: u16 = 80;

/// `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP`, `RTM_GETNEXTHOP` (linux/rtnetlink.h).
const NEW_NEXT_HOP: u16 = 104;
const NEXT_HOP: [u16; 2] = [NEW_NEXT_HOP, 105];
const GET_NEXT_HOP: u16 = 106;

/// What the kernel answered: the error, and its own words where it gives any.
#[derive(Debug)]
pub struct NetlinkError {
    source: io::Error,
    words: Option<String>,
}

impl NetlinkError {
    /// Whether the kernel answered with this error number.
    pub(super) fn is(&self, errno: Errno) -> bool {
        self.source.raw_os_error() == Some(errno.raw_os_error())
    }
}

impl From<io::Error> for NetlinkError {
    fn from(source: io::Error) -> Self {
        Self { source, words: None }
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

/// A socket for questions and changes. It belongs to the network namespace of the thread that opened it.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Each is a convenience of newer kernels; without them messages are terser and dumps longer.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Sends one change and waits for the kernel's word.
    pub(super) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        loop {
            self.receive()?;
            for (header, payload) in Messages(&self.buffer) {
                if header.sequence_number != sequence {
                    continue;
                }
                match payload {
                    Some(NetlinkPayload::Error(error)) => {
                        return match error.code {
                            None => Ok(()),
                            Some(_) => Err(NetlinkError { words: words(&error.header), source: error.to_io() }),
                        };
                    }
                    Some(NetlinkPayload::Done(_)) => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    /// Asks for a list. A message that cannot be decoded is left out: it is none of those the gateway makes.
    pub(super) fn dump(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut attempt = 1;
        loop {
            let (found, interrupted) = self.dump_once(message.clone())?;
            if !interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(found);
            }
            attempt += 1;
        }
    }

    /// The next-hop objects, each as the bytes behind its header. None before Linux 5.3.
    pub(super) fn dump_next_hops(&mut self) -> Result<Vec<Vec<u8>>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        // struct nlmsghdr and an empty struct nhmsg (linux/nexthop.h).
        let mut request = 24_u32.to_ne_bytes().to_vec();
        request.extend(GET_NEXT_HOP.to_ne_bytes());
        request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.resize(24, 0);
        self.socket.send(&request, 0)?;
        let mut found = Vec::new();
        loop {
            self.receive()?;
            let mut rest = &self.buffer[..];
            while let Some((message, behind)) = split(rest) {
                rest = behind;
                if word(message, 8) != Some(self.sequence) {
                    continue;
                }
                match kind(message) {
                    Some(NEW_NEXT_HOP) => found.extend(message.get(16..).map(<[u8]>::to_vec)),
                    // NLMSG_DONE; NLMSG_ERROR: this kernel knows no such objects.
                    Some(2 | 3) => return Ok(found),
                    _ => {}
                }
            }
        }
    }

    fn dump_once(&mut self, message: RouteNetlinkMessage) -> Result<(Vec<RouteNetlinkMessage>, bool), NetlinkError> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            self.receive()?;
            for (header, payload) in Messages(&self.buffer) {
                if header.sequence_number != sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match payload {
                    Some(NetlinkPayload::InnerMessage(inner)) => found.push(inner),
                    Some(NetlinkPayload::Done(done)) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code).into());
                    }
                    Some(NetlinkPayload::Done(_)) => return Ok((found, interrupted)),
                    Some(NetlinkPayload::Error(error)) if error.code.is_some() => {
                        return Err(NetlinkError { words: words(&error.header), source: error.to_io() });
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(self.sequence)
    }

    fn receive(&mut self) -> io::Result<()> {
        receive(&self.socket, &mut self.buffer)
    }
}

/// What was heard beside what was handed on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heard {
    /// Some notifications were lost, or are of a kind that is not read: next-hop objects.
    pub(super) lost: bool,
    /// A setting has changed.
    pub(super) settings: bool,
}

/// A socket that hears of changes.
pub(super) struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Monitor {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_non_blocking(true)?;
        // A burst of changes is not lost so soon; if one is, the kernel says so and everything is looked at again.
        let _ = socket.set_rx_buf_sz(1_i32 << 20);
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Hands every waiting notification to `each`.
    pub(super) fn drain(&mut self, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<Heard> {
        let mut heard = Heard::default();
        loop {
            match receive(&self.socket, &mut self.buffer) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
                Err(e) if e.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    heard = Heard { lost: true, settings: true };
                    continue;
                }
                Err(e) => return Err(e),
            }
            for (header, payload) in Messages(&self.buffer) {
                heard.lost |= NEXT_HOP.contains(&header.message_type);
                heard.settings |= header.message_type == NEW_SETTING;
                if let Some(NetlinkPayload::InnerMessage(inner)) = payload {
                    each(inner);
                }
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<()> {
    loop {
        buffer.clear();
        match socket.recv(buffer, 0) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(()),
        }
    }
}

/// The messages of one datagram; the payload is `None` where it cannot be decoded.
struct Messages<'a>(&'a [u8]);

impl Iterator for Messages<'_> {
    type Item = (NetlinkHeader, Option<NetlinkPayload<RouteNetlinkMessage>>);

    fn next(&mut self) -> Option<Self::Item> {
        let (message, rest) = split(self.0)?;
        self.0 = rest;
        Some(match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
            Ok(decoded) => (decoded.header, Some(decoded.payload)),
            Err(error) => {
                log::debug!("a netlink message of this kernel cannot be decoded: {error}");
                let mut header = NetlinkHeader::default();
                header.sequence_number = word(message, 8)?;
                header.message_type = kind(message)?;
                (header, None)
            }
        })
    }
}

/// The first message and what is behind it. struct nlmsghdr (RFC 3549 §2.2): length, type, flags, sequence, port; host byte
/// order.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(word(bytes, 0)?).ok()?;
    let message = bytes.get(..length).filter(|message| message.len() >= 16)?;
    Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])))
}

fn kind(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The text of an extended acknowledgement: `NLMSGERR_ATTR_MSG` (1) behind the 16 bytes of the repeated header.
fn words(rest: &[u8]) -> Option<String> {
    let mut attributes = rest.get(16..)?;
    while let (Some(&[a, b]), Some(&[c, d])) = (attributes.first_chunk::<2>(), attributes.get(2..4)?.first_chunk::<2>())
    {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([c, d]) == 1 {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_and_hostile_datagrams_end_the_walk() {
        for bytes in [&[][..], &[1, 2, 3], &[0; 16], &[255; 64], &[16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(Messages(bytes).count() <= 1, "{bytes:?}");
        }
        assert_eq!(words(&[0; 20]), None);
        assert_eq!(words(&[255; 40]), None);
    }

    #[test]
    fn the_kernels_own_words_are_found() {
        let mut rest = vec![0; 16];
        rest.extend(8_u16.to_ne_bytes());
        rest.extend(2_u16.to_ne_bytes());
        rest.extend([0; 4]);
        rest.extend(7_u16.to_ne_bytes());
        rest.extend(1_u16.to_ne_bytes());
        rest.extend(b"no\0\0");
        assert_eq!(words(&rest).as_deref(), Some("no"));
    }
}
