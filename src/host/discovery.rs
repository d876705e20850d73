//! What hosts of outside LANs say in IPv6 neighbour discovery of addresses that they have. A raw socket hears what comes to
//! this machine itself, as answers to probes do (RFC 4862 §5.4.4: to all nodes); packets that are forwarded never meet it.

#![allow(unsafe_code, reason = "the interface and the hop limit of a message, which nobody wraps")]

use super::occupied::AddressClaim;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};
use std::io;
use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const ICMPV6: u32 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// `ICMP6_FILTER` (linux/icmpv6.h): a bit for each type that is not wanted.
const FILTER: libc::c_int = 1;
/// Options with hardware addresses (RFC 4861 §4.6.1), of one unit of eight bytes.
const SOURCE_LINK_ADDRESS: [u8; 2] = [1, 1];
const TARGET_LINK_ADDRESS: [u8; 2] = [2, 1];
/// Longer messages have options that nobody needs here.
const LONGEST: usize = 256;

/// A raw ICMPv6 socket that hears advertisements and solicitations.
pub(super) struct DiscoverySocket(OwnedFd);

impl DiscoverySocket {
    /// Needs CAP_NET_RAW, which a later use does not.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let protocol = NonZeroU32::new(ICMPV6).map(Protocol::from_raw);
        let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::RAW, flags, protocol)?;
        let mut filter = [u32::MAX; 8];
        for wanted in [SOLICITATION, ADVERTISEMENT] {
            filter[usize::from(wanted / 32)] &= !(1 << (wanted % 32));
        }
        set(&socket, libc::IPPROTO_ICMPV6, FILTER, &filter)?;
        for wanted in [libc::IPV6_RECVPKTINFO, libc::IPV6_RECVHOPLIMIT] {
            set::<libc::c_int>(&socket, libc::IPPROTO_IPV6, wanted, &1)?;
        }
        Ok(Self(socket))
    }

    /// The next message that waits, if it says that a host has an address; `None` at the end.
    pub(super) fn hear(&self) -> Option<Option<AddressClaim>> {
        let mut bytes = [0_u8; LONGEST];
        // As the kernel aligns them.
        let mut control = [0_u64; 16];
        // SAFETY: all zero is an address of no family.
        let mut from: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: all zero is a message with nothing in it.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = libc::socklen_t::try_from(size_of_val(&from)).unwrap_or_default();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
        // SAFETY: the kernel writes at most as many bytes as the lengths say, which are those of the places.
        let read = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        let read = usize::try_from(read).ok()?;
        let (index, hops) = arrival(&message);
        // From a neighbour (RFC 4861 §7.1): nobody farther away can send that.
        let heard = bytes.get(..read).filter(|_| hops == 255);
        Some(heard.and_then(|bytes| read_claim(bytes, from.sin6_addr.s6_addr.into(), index)))
    }
}

impl AsFd for DiscoverySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn set<T>(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default();
    // SAFETY: the kernel reads as many bytes as the length says, which is that of the place.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The interface that a message has come to, and its hop limit.
fn arrival(message: &libc::msghdr) -> (u32, libc::c_int) {
    let (mut index, mut hops) = (0, 0);
    // SAFETY: the kernel has written the lengths of the parts that are walked through; each is read as what its kind says,
    // wherever it lies.
    unsafe {
        let mut part = libc::CMSG_FIRSTHDR(message);
        while let Some(header) = part.as_ref() {
            match (header.cmsg_level, header.cmsg_type) {
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = libc::CMSG_DATA(part).cast::<libc::in6_pktinfo>().read_unaligned();
                    index = info.ipi6_ifindex;
                }
                (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    hops = libc::CMSG_DATA(part).cast::<libc::c_int>().read_unaligned();
                }
                _ => {}
            }
            part = libc::CMSG_NXTHDR(message, part);
        }
    }
    (index, hops)
}

/// What a solicitation says of its sender, and an advertisement of its target. One that does not name the hardware address
/// says nothing that is new: it was asked for by a host that knew it. A probe says nothing either: who sends it has no
/// address yet.
fn read_claim(bytes: &[u8], sender: Ipv6Addr, index: u32) -> Option<AddressClaim> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    let (target, mut options) = rest.split_first_chunk::<16>()?;
    let (address, option, is_answer) = match head {
        [SOLICITATION, 0, ..] => (sender, SOURCE_LINK_ADDRESS, false),
        [ADVERTISEMENT, 0, ..] => (Ipv6Addr::from(*target), TARGET_LINK_ADDRESS, true),
        _ => return None,
    };
    if address.is_unspecified() || address.is_multicast() {
        return None;
    }
    loop {
        let (head, rest) = options.split_first_chunk::<2>()?;
        if *head == option {
            let hardware = *rest.first_chunk::<6>()?;
            // To all nodes, as answers to probes are: one that was asked for otherwise is for its asker alone.
            let (address, is_of_probe) = (address.into(), is_answer);
            return Some(AddressClaim { index, hardware, address, is_answer, is_of_probe });
        }
        // A length of zero would never end (RFC 4861 §7.1).
        let length = usize::from(head[1]) * 8;
        options = options.get(length..).filter(|_| length > 0)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOST: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn message(kind: u8, target: &str, options: &[&[u8]]) -> Vec<u8> {
        let target: Ipv6Addr = target.parse().unwrap();
        [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &options.concat()].concat()
    }

    #[test]
    fn an_advertisement_is_about_its_target_and_a_solicitation_about_its_sender() {
        let (ours, other) = ("2001:db8::7", "2001:db8::9".parse().unwrap());
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        let option = |kind| [&[kind, 1][..], &HOST].concat();
        let advertised = message(ADVERTISEMENT, ours, &[&nonce, &option(2)]);
        let claim = |address: &str, is_answer| {
            let address = address.parse().unwrap();
            Some(AddressClaim { index: 3, hardware: HOST, address, is_answer, is_of_probe: is_answer })
        };
        assert_eq!(read_claim(&advertised, other, 3), claim(ours, true));
        let asked = message(SOLICITATION, ours, &[&option(1)]);
        assert_eq!(read_claim(&asked, other, 3), claim("2001:db8::9", false));
        assert_eq!(read_claim(&asked, Ipv6Addr::UNSPECIFIED, 3), None, "a probe");
        assert_eq!(read_claim(&message(ADVERTISEMENT, ours, &[&option(1)]), other, 3), None);
        assert_eq!(read_claim(&message(ADVERTISEMENT, ours, &[&[9, 0, 1, 1, 1, 1, 1, 1]]), other, 3), None);
        assert_eq!(read_claim(&advertised[..39], other, 3), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_to_its_end(bytes in prop::collection::vec(any::<u8>(), 0..LONGEST), kind in 134..138_u8) {
            let _ = read_claim(&bytes, Ipv6Addr::LOCALHOST, 1);
            let with_head = [&[kind, 0][..], &bytes].concat();
            let _ = read_claim(&with_head, Ipv6Addr::LOCALHOST, 1);
        }
    }
}
