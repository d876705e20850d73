//! Questions to the kernel in netlink that the types of `netlink-packet-route` do not cover: bytes in, bytes out.

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr};
use std::io;

/// The kernel never puts more than this into one datagram (`netlink_dump`, net/netlink/af_netlink.c).
const BUFFER: usize = 64 * 1024;
/// `struct nlmsghdr` (RFC 3549 §2.2): length, type, flags, sequence, port; host byte order.
const HEADER: usize = 16;
/// `NLMSG_ERROR`, `NLMSG_DONE`: the end of an answer, and how it ended.
const ENDS: [u16; 2] = [2, 3];

/// A socket in the network namespace of the thread that opened it.
pub struct RawNetlink {
    socket: Socket,
    sequence: u32,
}

impl RawNetlink {
    /// For one of the `NETLINK_*` protocols.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks, and returns the bodies of all messages of the answer.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        self.socket.send(&message, 0)?;
        let (mut found, mut buffer) = (Vec::new(), Vec::with_capacity(BUFFER));
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            for (kind, sequence, body) in Messages(&buffer) {
                if sequence != self.sequence {
                    continue;
                }
                if !ENDS.contains(&kind) {
                    found.push(body.to_vec());
                    continue;
                }
                return match number(body) {
                    Some(error) if error != 0 => Err(io::Error::from_raw_os_error(error.cast_signed().wrapping_neg())),
                    _ => Ok(found),
                };
            }
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

/// Kind, sequence number and body of each message of a datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::try_from(number(self.0)?).ok()?;
        let message = self.0.get(..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((half(message.get(4..)?)?, number(message.get(8..)?)?, message.get(HEADER..)?))
    }
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
}
