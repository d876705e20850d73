//! Links, addresses, routes and rules by netlink: changes, lists, notifications.

use super::netlink_socket::{BUFFER, Messages, NetlinkError, NetlinkSocket, receive};
use netlink_packet_core::{NLM_F_DUMP, NetlinkMessage, NetlinkPayload, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// How often a dump that was interrupted by a change starts again before its last result is taken as it is.
const DUMP_ATTEMPTS: usize = 8;

/// `RTMGRP_*` bits (linux/rtnetlink.h): links, traffic control; addresses, routes and rules of both families; next-hop
/// objects (`RTNLGRP_NEXTHOP`, group 32); settings of both families (`RTNLGRP_IPV4_NETCONF`, group 24, and the next).
const GROUPS: u32 = 0x1 | 0x8 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x4_0000 | 0x80_0000 | 0x100_0000 | 0x8000_0000;

/// `RTM_NEWNETCONF` (linux/rtnetlink.h).
const NEW_SETTING: u16 = 80;

/// `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP`, `RTM_GETNEXTHOP` (linux/rtnetlink.h).
const NEXT_HOP: [u16; 2] = [104, 105];
const GET_NEXT_HOP: u16 = 106;
/// An empty `struct nhmsg` (linux/nexthop.h): all of them.
const NO_NEXT_HOP: [u8; 8] = [0; 8];

/// A socket for questions and changes. It belongs to the network namespace of the thread that opened it.
pub(super) struct Netlink(NetlinkSocket);

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = NetlinkSocket::open(NETLINK_ROUTE)?;
        socket.check_strictly();
        Ok(Self(socket))
    }

    /// Sends one change and waits for the kernel's word.
    pub(super) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        let (kind, body) = in_bytes(&message);
        self.0.answer(kind, flags, &body).map(|_| ())
    }

    /// Asks for a list. A message that cannot be decoded is left out: it is none of those the gateway makes.
    pub(super) fn dump(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let (kind, body) = in_bytes(message);
        let mut attempt = 1;
        loop {
            let answer = self.0.answer(kind, NLM_F_DUMP, &body)?;
            if !answer.is_interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(answer.messages.iter().filter_map(|message| decoded(message)).collect());
            }
            attempt += 1;
        }
    }

    /// The next-hop objects, each as the bytes behind its header. None before Linux 5.3.
    pub(super) fn dump_next_hops(&mut self) -> Result<Vec<Vec<u8>>, NetlinkError> {
        match self.0.ask(GET_NEXT_HOP, NLM_F_DUMP, &NO_NEXT_HOP) {
            Err(error) if error.is(Errno::OPNOTSUPP) || error.is(Errno::INVAL) => Ok(Vec::new()),
            other => other,
        }
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
            for message in Messages(&self.buffer) {
                heard.lost |= NEXT_HOP.contains(&message.kind);
                heard.settings |= message.kind == NEW_SETTING;
                decoded(message.whole).into_iter().for_each(&mut each);
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Type and body of a message.
fn in_bytes(message: &RouteNetlinkMessage) -> (u16, Vec<u8>) {
    let mut body = vec![0; message.buffer_len()];
    message.serialize(&mut body);
    (message.message_type(), body)
}

/// A message with its header; `None` where it cannot be decoded, or carries nothing.
fn decoded(message: &[u8]) -> Option<RouteNetlinkMessage> {
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
        Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(inner), .. }) => Some(inner),
        Ok(_) => None,
        Err(error) => {
            log::debug!("a netlink message of this kernel cannot be decoded: {error}");
            None
        }
    }
}
