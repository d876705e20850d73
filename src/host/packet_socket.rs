//! What is said on an outside LAN without the kernel: its neighbour tables know no announcements for addresses that are not
//! its own, and no answer to a probe for one. One packet socket, opened before the process gives its rights up, hears ARP on
//! every interface and sends by each, those that come later too. It costs other packets nothing: the kernel looks for it
//! among the takers of ARP alone.

#![allow(unsafe_code, reason = "addresses of packet sockets, which nobody wraps")]

use crate::wire::{checksum, pseudo_header};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `ETH_P_ARP`, `ETH_P_IPV6` (linux/if_ether.h).
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// `PACKET_QDISC_BYPASS` (packet(7)): past the programs that look at what terminals send.
const PAST_QUEUES: libc::c_int = 20;
/// ARP for IPv4 on Ethernet (RFC 826): kinds and lengths of addresses.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const LENGTH: usize = 28;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const BROADCAST: [u8; 6] = [0xff; 6];
/// All nodes of a link (RFC 4291 §2.7.1), and how Ethernet addresses them (RFC 2464 §7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_ETHERNET: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// Who may have an address hears what is asked of it (RFC 4291 §2.7.1): the last three bytes are the address's.
const SOLICITED_NODE: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0);
/// ICMPv6, the neighbour solicitation and advertisement in it, and the flag that what was known before is overridden (RFC 4861 §4.4).
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const OVERRIDE: u8 = 0x20;
/// The option with the hardware address (RFC 4861 §4.6.1), of one unit of eight bytes.
const TARGET_LINK_ADDRESS: [u8; 2] = [2, 1];

/// A packet socket that hears ARP, and sends ARP and neighbour discovery.
pub(super) struct PacketSocket(OwnedFd);

/// An ARP packet that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) index: u32,
    pub(super) is_request: bool,
    pub(super) hardware: [u8; 6],
    pub(super) sender: Ipv4Addr,
    pub(super) target: Ipv4Addr,
}

impl PacketSocket {
    /// Needs CAP_NET_RAW, which a later use does not.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let protocol = NonZeroU32::new(ARP.to_be().into()).map(Protocol::from_raw);
        let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, protocol)?;
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads one integer of the length given. It fails on no kernel that has what else is needed.
        unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, PAST_QUEUES, (&raw const on).cast(), 4);
        }
        Ok(Self(socket))
    }

    /// The next ARP packet that waits, if it can be one; `None` at the end.
    pub(super) fn hear(&self) -> Option<Option<Heard>> {
        let mut bytes = [0_u8; LENGTH];
        let mut from = link_address(0, 0, [0; 6]);
        let mut length = ADDRESS_LENGTH;
        // SAFETY: the kernel writes at most as many bytes as both lengths say, which are those of the places.
        let read = unsafe {
            let place = (&raw mut from).cast();
            libc::recvfrom(self.0.as_raw_fd(), bytes.as_mut_ptr().cast(), LENGTH, 0, place, &raw mut length)
        };
        let read = usize::try_from(read).ok()?;
        let index = u32::try_from(from.sll_ifindex).unwrap_or_default();
        Some(bytes.get(..read).and_then(|bytes| read_arp(bytes, index)))
    }

    /// Tells the LAN behind interface `index` that `address` is at `hardware` (RFC 5227 §2.3, RFC 4861 §7.2.6).
    pub(super) fn announce(&self, index: u32, hardware: [u8; 6], address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(address) => self.send(index, ARP, BROADCAST, &arp(REQUEST, hardware, address, [0; 6], address)),
            IpAddr::V6(address) => self.send(index, IPV6, ALL_NODES_ETHERNET, &advertisement(hardware, address)),
        }
    }

    /// Asks the LAN behind interface `index` whether a host there has `address`, and says nothing of this machine but
    /// its hardware address (RFC 5227 §2.1.1, RFC 4862 §5.4.2).
    pub(super) fn probe(&self, index: u32, hardware: [u8; 6], address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(address) => {
                let nobody = Ipv4Addr::UNSPECIFIED;
                self.send(index, ARP, BROADCAST, &arp(REQUEST, hardware, nobody, [0; 6], address))
            }
            IpAddr::V6(address) => {
                let [.., a, b, c] = address.octets();
                self.send(index, IPV6, [0x33, 0x33, 0xff, a, b, c], &solicitation(address))
            }
        }
    }

    /// Answers a probe for `address`.
    pub(super) fn answer(&self, probe: &Heard, hardware: [u8; 6], address: Ipv4Addr) -> io::Result<()> {
        let reply = arp(REPLY, hardware, address, probe.hardware, probe.sender);
        self.send(probe.index, ARP, probe.hardware, &reply)
    }

    fn send(&self, index: u32, kind: u16, to: [u8; 6], bytes: &[u8]) -> io::Result<()> {
        let to = link_address(index, kind, to);
        // SAFETY: the kernel reads as many bytes as both lengths say, which are those of the places.
        let sent = unsafe {
            let place = (&raw const to).cast();
            libc::sendto(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, place, ADDRESS_LENGTH)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[allow(clippy::cast_possible_truncation, reason = "it is 20")]
const ADDRESS_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

#[allow(clippy::cast_possible_truncation, reason = "AF_PACKET is 17")]
fn link_address(index: u32, kind: u16, hardware: [u8; 6]) -> libc::sockaddr_ll {
    let mut place = [0; 8];
    place[..6].copy_from_slice(&hardware);
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: kind.to_be(),
        sll_ifindex: i32::try_from(index).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: place,
    }
}

fn arp(operation: u8, hardware: [u8; 6], sender: Ipv4Addr, to: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    [&ETHERNET_IPV4[..], &[0, operation], &hardware, &sender.octets(), &to, &target.octets()].concat()
}

fn read_arp(bytes: &[u8], index: u32) -> Option<Heard> {
    let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
    let (kinds, rest) = bytes.split_first_chunk::<6>()?;
    let (operation, rest) = rest.split_first_chunk::<2>()?;
    let (hardware, rest) = rest.split_first_chunk::<6>()?;
    let (sender, rest) = rest.split_first_chunk::<4>()?;
    let (_, target) = rest.split_first_chunk::<6>()?;
    let is_request = *operation == [0, REQUEST];
    let is_arp = *kinds == ETHERNET_IPV4 && (is_request || *operation == [0, REPLY]);
    let [sender, target] = [Ipv4Addr::from(*sender), Ipv4Addr::from(<[u8; 4]>::try_from(target).ok()?)];
    is_arp.then_some(Heard { index, is_request, hardware: *hardware, sender, target })
}

fn advertisement(hardware: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let option = [&TARGET_LINK_ADDRESS[..], &hardware].concat();
    discovery([ADVERTISEMENT, OVERRIDE], address, &option, address, ALL_NODES)
}

/// A probe has no option (RFC 4861 §4.3): who sends it has no address yet.
fn solicitation(address: Ipv6Addr) -> Vec<u8> {
    let group = Ipv6Addr::from_bits(SOLICITED_NODE.to_bits() | address.to_bits() & 0xff_ffff);
    discovery([SOLICITATION, 0], address, &[], Ipv6Addr::UNSPECIFIED, group)
}

/// A message about `target`, as an IPv6 packet.
fn discovery([kind, flags]: [u8; 2], target: Ipv6Addr, option: &[u8], from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend(option);
    let length = u16::try_from(message.len()).unwrap_or_default();
    let sum = pseudo_header(IpAddr::from(from).into(), IpAddr::from(to).into(), ICMPV6, length.into());
    let sum = checksum(sum, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    // Hop limit 255: it comes from this link (RFC 4861 §7.1.2).
    let header = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[ICMPV6, 255]].concat();
    [&header[..], &from.octets(), &to.octets(), &message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Headers, is_intact};

    #[test]
    fn arp_is_read_as_it_is_written_and_nothing_else_is() {
        let (hardware, sender, target) = ([2, 0, 0, 0, 0, 7], Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(192, 0, 2, 9));
        let bytes = arp(REQUEST, hardware, sender, [0; 6], target);
        assert_eq!(read_arp(&bytes, 3), Some(Heard { index: 3, is_request: true, hardware, sender, target }));
        assert_eq!(read_arp(&bytes[..27], 3), None);
        for at in 0..7 {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x40;
            assert_eq!(read_arp(&wrong, 3), None, "{at}");
        }
    }

    #[test]
    fn advertisements_and_solicitations_have_a_right_checksum() {
        let address = "2001:db8::1234:5678".parse().unwrap();
        for bytes in [advertisement([2, 0, 0, 0, 0, 7], address), solicitation(address)] {
            assert!(is_intact(&bytes, &Headers::parse(&bytes).unwrap()));
        }
        let group: Ipv6Addr = "ff02::1:ff34:5678".parse().unwrap();
        assert_eq!(solicitation(address)[24..40], group.octets());
    }
}
