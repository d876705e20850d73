//! The older seat at tc, for kernels without TCX (before Linux 6.6): a filter on the queueing discipline `clsact`.
//!
//! Both stay until somebody removes them, whatever becomes of this process. The discipline may be somebody else's; the
//! handle of our filter says whether it is, to whoever removes the filter.

use super::netlink::{Netlink, attribute, number};
use super::{Entrance, FastPathError};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use netlink_packet_core::NLM_F_DUMP;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;
use std::io;

/// Of our filters, as of our rules: far from what people choose by hand.
const PRIORITY: u16 = 7400;

// linux/rtnetlink.h, linux/pkt_sched.h, linux/if_ether.h
const GET_LINK: u16 = 18;
const DELETE_DISCIPLINE: u16 = 37;
const DELETE_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;
const KIND: u16 = 1;
const CLSACT: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const EVERY_PROTOCOL: u16 = 3;

/// Whose the discipline is.
#[derive(Clone, Copy)]
enum Discipline {
    Found = 1,
    Made = 2,
}

/// Attaches the program; in the place of one that a predecessor has left, without a gap.
pub fn attach(program: &mut SchedClassifier, entrance: &Entrance, tun: &str) -> Result<(), FastPathError> {
    for discipline in [Discipline::Found, Discipline::Made] {
        let handle = handle(tun, discipline);
        let left = SchedClassifierLink::attached(&entrance.name, TcAttachType::Ingress, PRIORITY, handle, None);
        if let Ok(id) = program.attach_to_link(left.map_err(tc_error)?) {
            stay(program.take_link(id)?);
            return Ok(());
        }
    }
    let discipline = match qdisc_add_clsact(&entrance.name) {
        Ok(()) => Discipline::Made,
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {
            Discipline::Found
        }
        Err(error) => return Err(ProgramError::from(error).into()),
    };
    let options = NlOptions { priority: PRIORITY, handle: handle(tun, discipline), classid: None };
    let id = program.attach_with_options(&entrance.name, TcAttachType::Ingress, TcAttachOptions::Netlink(options))?;
    stay(program.take_link(id)?);
    Ok(())
}

/// Removes the filter of the gateway `tun` from an interface, and the discipline if it was made for that and nobody else
/// uses it. Says whether there was a filter.
pub fn remove(index: u32, tun: &str) -> io::Result<bool> {
    remove_by(&mut Netlink::open(NETLINK_ROUTE)?, index, tun)
}

/// The same on every interface but these.
pub fn remove_elsewhere(but: &[u32], tun: &str) -> io::Result<bool> {
    let mut netlink = Netlink::open(NETLINK_ROUTE)?;
    let mut any = false;
    for link in netlink.ask(GET_LINK, NLM_F_DUMP, &[0; 16])? {
        // struct ifinfomsg: four bytes, then the index.
        let Some(index) = link.get(4..).and_then(number) else { continue };
        any |= !but.contains(&index) && remove_by(&mut netlink, index, tun)?;
    }
    Ok(any)
}

fn remove_by(netlink: &mut Netlink, index: u32, tun: &str) -> io::Result<bool> {
    for discipline in [Discipline::Found, Discipline::Made] {
        let protocol = u32::from(EVERY_PROTOCOL.to_be());
        let filter = message(index, handle(tun, discipline).into(), INGRESS, u32::from(PRIORITY) << 16 | protocol);
        if netlink.ask(DELETE_FILTER, 0, &[filter, attribute(KIND, b"bpf\0")].concat()).is_err() {
            continue; // there is none
        }
        let mut is_used = || -> io::Result<bool> {
            let ingress = netlink.ask(GET_FILTER, NLM_F_DUMP, &message(index, 0, INGRESS, 0))?;
            let egress = netlink.ask(GET_FILTER, NLM_F_DUMP, &message(index, 0, EGRESS, 0))?;
            Ok(!ingress.is_empty() || !egress.is_empty())
        };
        if matches!(discipline, Discipline::Made) && !is_used()? {
            netlink.ask(DELETE_DISCIPLINE, 0, &message(index, CLSACT, CLSACT_PARENT, 0))?;
        }
        return Ok(true);
    }
    Ok(false)
}

/// Dropping the link would take the program off.
fn stay(link: SchedClassifierLink) {
    std::mem::forget(link);
}

/// Tells gateways of one namespace apart.
fn handle(tun: &str, discipline: Discipline) -> TcHandle {
    let tag = tun.bytes().fold(PRIORITY, |tag, byte| tag.rotate_left(5) ^ u16::from(byte));
    TcHandle::new(tag, discipline as u16)
}

/// `struct tcmsg`.
fn message(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, index, handle, parent, info].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn tc_error(error: io::Error) -> ProgramError {
    TcError::IoError(error).into()
}
