//! The older attachments at tc, for kernels without TCX (before Linux 6.6), and where nothing else outlives this process: filters
//! on the queueing discipline `clsact`.
//!
//! Both stay until they are removed, whatever becomes of this process. The discipline may be another program's; the
//! handle of our filters says whether it is, to the gateway that removes the last of them.

use super::duty::{Duty, Position, Stance};
use super::{Entrance, FastPathError};
use crate::host::netlink_socket::{NetlinkSocket, attribute, number, value};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use netlink_packet_core::NLM_F_DUMP;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;
use std::io;

/// Priorities to try: the first that is not taken by a filter of another kind. [`Duty::Watching`] comes behind
/// [`Duty::Leaving`].
const PRIORITIES: std::ops::RangeInclusive<u16> = 1..=8;

// linux/rtnetlink.h, linux/pkt_sched.h, linux/if_ether.h
const GET_LINK: u16 = 18;
const GET_DISCIPLINE: u16 = 38;
const DELETE_DISCIPLINE: u16 = 37;
const DELETE_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// `TCA_BPF_ID` (linux/pkt_cls.h).
const PROGRAM: u16 = 11;
/// `TCA_BPF_NAME`.
const NAME: u16 = 7;
/// The kind of filters that are programs.
const BPF: &str = "bpf";
const CLSACT: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// Set in the handle of a filter whose discipline was made for it.
const MADE: u16 = 0x100;
/// Tells two filters for the same apart: one that goes in front, and the one before, which stays until then.
const TURN: u16 = 0x200;
/// `ETH_P_ALL` in `tcm_info`.
const ALL: u32 = 0x0003_u16.to_be() as u32;

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Filter {
    parent: u32,
    handle: u32,
    /// Priority and protocol (`tcm_info`).
    info: u32,
    /// Its kind, `bpf` or another.
    kind: String,
    /// Number of the program.
    program: Option<u32>,
    /// Name of the program.
    name: String,
}

impl Filter {
    fn is_of(&self, duty: Duty) -> bool {
        self.handle & 0xff == u32::from(duty.code())
    }

    /// Of this gateway or of another.
    fn is_of_a_gateway(&self) -> bool {
        self.name.starts_with("kamei_")
    }

    /// Whether a filter of ours can come before it.
    fn lets_pass(&self) -> bool {
        self.priority() > *PRIORITIES.start() || self.kind == BPF && self.info & 0xffff == ALL
    }

    fn made_the_discipline(&self) -> bool {
        self.handle & u32::from(MADE) != 0
    }

    fn priority(&self) -> u16 {
        u16::try_from(self.info >> 16).unwrap_or(0)
    }
}

/// Attaches the program; in the place of one that a predecessor has left, without a gap, or in front of others.
pub fn attach(
    program: &mut SchedClassifier,
    duty: Duty,
    entrance: &Entrance,
    tun: &str,
    at: Position,
) -> Result<(), FastPathError> {
    let mut netlink = NetlinkSocket::open(NETLINK_ROUTE).map_err(tc_error)?;
    let ours = filters(&mut netlink, entrance.index, tun).map_err(tc_error)?;
    // Behind all who may come between is where it watches from.
    let is_in_place = at == Position::AsLeft || duty == Duty::Watching;
    let turn = ours.iter().find(|filter| filter.is_of(duty)).map_or(0, |filter| !filter.handle & u32::from(TURN));
    if is_in_place && let Some(left) = ours.iter().find(|filter| filter.is_of(duty)) {
        let handle = TcHandle::from(left.handle);
        let link = SchedClassifierLink::attached(&entrance.name, duty.side(), left.priority(), handle, None);
        if let Ok(id) = program.attach_to_link(link.map_err(tc_error)?) {
            stay(program.take_link(id)?);
            return alone(&mut netlink, program, duty, entrance, tun);
        }
    }
    let mut made = if ours.iter().any(|filter| filter.made_the_discipline()) { MADE } else { 0 };
    match qdisc_add_clsact(&entrance.name) {
        Ok(()) => made = MADE,
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {
            // The discipline `ingress` is in the same place, and takes for its own whatever is said of clsact.
            if !has_clsact(&mut netlink, entrance.index).map_err(tc_error)? {
                return Err(FastPathError::IngressDiscipline(entrance.name.clone()));
            }
        }
        Err(error) => return Err(ProgramError::from(error).into()),
    }
    let turn = u16::try_from(turn).unwrap_or(0);
    let handle = TcHandle::new(tag(tun), duty.code() | made | turn);
    let first = match duty {
        Duty::Watching => *PRIORITIES.end() + 1,
        _ => *PRIORITIES.start(),
    };
    let mut last = None;
    for priority in PRIORITIES.map(|number| number - 1 + first) {
        let options = TcAttachOptions::Netlink(NlOptions { priority, handle, classid: None });
        match program.attach_with_options(&entrance.name, duty.side(), options) {
            Ok(id) => {
                stay(program.take_link(id)?);
                return alone(&mut netlink, program, duty, entrance, tun);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or(FastPathError::Object(duty.program()), FastPathError::from))
}

/// Sees that the program is where it should be, for attaching goes by the name of an interface, and it may have got
/// another name since. Removes any other of the duty.
fn alone(
    netlink: &mut NetlinkSocket,
    program: &SchedClassifier,
    duty: Duty,
    entrance: &Entrance,
    tun: &str,
) -> Result<(), FastPathError> {
    let number = program.info()?.id();
    let is_it = |filter: &Filter| filter.is_of(duty) && filter.program == Some(number);
    if filters(netlink, entrance.index, tun).map_err(tc_error)?.iter().any(is_it) {
        remove_by(netlink, entrance.index, tun, |filter| filter.is_of(duty) && !is_it(filter)).map_err(tc_error)?;
        return Ok(());
    }
    for index in links(netlink).map_err(tc_error)? {
        remove_by(netlink, index, tun, is_it).map_err(tc_error)?;
    }
    Err(FastPathError::Renamed(entrance.name.clone()))
}

/// Whether the filter is still there, and who comes before it.
pub fn stance(index: u32, duty: Duty, tun: &str) -> io::Result<Stance> {
    let mut netlink = NetlinkSocket::open(NETLINK_ROUTE)?;
    if !has_clsact(&mut netlink, index)? {
        return Ok(Stance::Gone);
    }
    let all = filters_at(&mut netlink, index, side(duty))?;
    let Some(place) = all.iter().position(|filter| is_ours(filter, tun) && filter.is_of(duty)) else {
        return Ok(Stance::Gone);
    };
    let mut before = all.iter().take(place).filter(|filter| !filter.is_of_a_gateway());
    Ok(match before.next() {
        // It watches from behind them all.
        Some(other) if duty != Duty::Watching => {
            let who = format!("the {} filter {} (pref {})", other.kind, other.name, other.priority());
            Stance::Behind { who: who.replace("  ", " "), is_fixed: !other.lets_pass() }
        }
        _ => Stance::First,
    })
}

/// Removes the filter of the gateway `tun` from an interface, and the discipline if it was made for that and nobody uses
/// it any more. Says whether there was a filter.
pub fn remove(index: u32, duty: Duty, tun: &str) -> io::Result<bool> {
    remove_by(&mut NetlinkSocket::open(NETLINK_ROUTE)?, index, tun, |filter| filter.is_of(duty))
}

/// Whether there is any filter of the gateway `tun`.
pub fn has_left(tun: &str) -> io::Result<bool> {
    let mut netlink = NetlinkSocket::open(NETLINK_ROUTE)?;
    for index in links(&mut netlink)? {
        if !filters(&mut netlink, index, tun)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The same for every filter but these, on every interface.
pub fn remove_but(kept: &[(u32, Duty)], tun: &str) -> io::Result<bool> {
    let mut netlink = NetlinkSocket::open(NETLINK_ROUTE)?;
    let mut any = false;
    for index in links(&mut netlink)? {
        let is_kept = |filter: &Filter| kept.iter().any(|(at, duty)| *at == index && filter.is_of(*duty));
        any |= remove_by(&mut netlink, index, tun, |filter| !is_kept(filter))?;
    }
    Ok(any)
}

fn remove_by(netlink: &mut NetlinkSocket, index: u32, tun: &str, which: impl Fn(&Filter) -> bool) -> io::Result<bool> {
    let (gone, stay): (Vec<_>, Vec<_>) = filters(netlink, index, tun)?.into_iter().partition(which);
    take_off(netlink, index, &gone, stay.is_empty())?;
    Ok(!gone.is_empty())
}

/// Removes filters; `are_last`: and the discipline, if it was made for them and nobody uses it.
fn take_off(netlink: &mut NetlinkSocket, index: u32, gone: &[Filter], are_last: bool) -> io::Result<()> {
    for filter in gone {
        let message = message(index, filter.handle, filter.parent, filter.info);
        netlink.ask(DELETE_FILTER, 0, &[message, attribute(KIND, b"bpf\0")].concat())?;
    }
    if are_last && gone.iter().any(Filter::made_the_discipline) && !is_used(netlink, index)? {
        netlink.ask(DELETE_DISCIPLINE, 0, &message(index, CLSACT, CLSACT_PARENT, 0))?;
    }
    Ok(())
}

fn is_used(netlink: &mut NetlinkSocket, index: u32) -> io::Result<bool> {
    let ingress = netlink.ask(GET_FILTER, NLM_F_DUMP, &message(index, 0, INGRESS, 0))?;
    let egress = netlink.ask(GET_FILTER, NLM_F_DUMP, &message(index, 0, EGRESS, 0))?;
    Ok(!ingress.is_empty() || !egress.is_empty())
}

/// The place of programs that are no gateway's, behind all of them.
const BEHIND: std::ops::RangeInclusive<u16> = *PRIORITIES.end() * 2 + 1..=*PRIORITIES.end() * 4;
/// The beginning of their handles. (A gateway whose name gives the same number would take them for its own, of no duty.)
const BEHIND_TAG: u16 = 0x7e57;
/// No [`Duty`] has this number.
const BEHIND_CODE: u16 = 0x80;

/// Attaches a program behind those of gateways, for as long as its link is held.
pub fn attach_behind(
    program: &mut SchedClassifier,
    name: &str,
    index: u32,
    side: TcAttachType,
) -> Result<(), FastPathError> {
    let made = match qdisc_add_clsact(name) {
        Ok(()) => MADE,
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {
            let mut netlink = NetlinkSocket::open(NETLINK_ROUTE).map_err(tc_error)?;
            if !has_clsact(&mut netlink, index).map_err(tc_error)? {
                return Err(FastPathError::IngressDiscipline(name.to_owned()));
            }
            0
        }
        Err(error) => return Err(ProgramError::from(error).into()),
    };
    let handle = TcHandle::new(BEHIND_TAG, BEHIND_CODE | made);
    let mut last = None;
    for priority in BEHIND {
        let options = TcAttachOptions::Netlink(NlOptions { priority, handle, classid: None });
        match program.attach_with_options(name, side, options) {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or(FastPathError::Object("kamei_catch"), FastPathError::from))
}

/// Removes what [`attach_behind`] has left on an interface.
pub fn remove_behind(index: u32) -> io::Result<()> {
    let mut netlink = NetlinkSocket::open(NETLINK_ROUTE)?;
    let tag = |filter: &Filter| filter.kind == BPF && filter.handle >> 16 == u32::from(BEHIND_TAG);
    let gone = filters_where(&mut netlink, index, tag)?;
    take_off(&mut netlink, index, &gone, true)
}

/// Whether a program whose name begins so is a filter on an interface.
pub fn has_program_of(index: u32, beginning: &str) -> io::Result<bool> {
    let mut netlink = NetlinkSocket::open(NETLINK_ROUTE)?;
    Ok(!filters_where(&mut netlink, index, |filter| filter.name.starts_with(beginning))?.is_empty())
}

/// The filters of the gateway `tun` on an interface.
fn filters(netlink: &mut NetlinkSocket, index: u32, tun: &str) -> io::Result<Vec<Filter>> {
    filters_where(netlink, index, |filter| is_ours(filter, tun))
}

fn filters_where(netlink: &mut NetlinkSocket, index: u32, which: impl Fn(&Filter) -> bool) -> io::Result<Vec<Filter>> {
    if !has_clsact(netlink, index)? {
        return Ok(Vec::new());
    }
    let mut found = filters_at(netlink, index, INGRESS)?;
    found.extend(filters_at(netlink, index, EGRESS)?);
    found.retain(which);
    Ok(found)
}

/// All filters on one side of an interface, in the order in which the kernel asks them.
fn filters_at(netlink: &mut NetlinkSocket, index: u32, parent: u32) -> io::Result<Vec<Filter>> {
    let mut found = Vec::new();
    for body in netlink.ask(GET_FILTER, NLM_F_DUMP, &message(index, 0, parent, 0))? {
        let word = |at| body.get(at..).and_then(number);
        let (Some(handle), Some(info)) = (word(8), word(16)) else { continue };
        let attributes = body.get(20..).unwrap_or_default();
        let options = value(attributes, OPTIONS).unwrap_or_default();
        let program = value(options, PROGRAM).and_then(number);
        let (kind, name) = (text(value(attributes, KIND)), text(value(options, NAME)));
        let filter = Filter { parent, handle, info, kind, program, name };
        // Without a handle: all of a priority.
        if handle != 0 && !found.contains(&filter) {
            found.push(filter);
        }
    }
    Ok(found)
}

fn is_ours(filter: &Filter, tun: &str) -> bool {
    filter.kind == BPF && filter.handle >> 16 == u32::from(tag(tun))
}

/// The indices of all interfaces.
fn links(netlink: &mut NetlinkSocket) -> io::Result<Vec<u32>> {
    // struct ifinfomsg: four bytes, then the index.
    let index = |link: &Vec<u8>| link.get(4..).and_then(number);
    Ok(netlink.ask(GET_LINK, NLM_F_DUMP, &[0; 16])?.iter().filter_map(index).collect())
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).trim_end_matches('\0').to_owned()
}

fn side(duty: Duty) -> u32 {
    if duty.side() == TcAttachType::Ingress { INGRESS } else { EGRESS }
}

fn has_clsact(netlink: &mut NetlinkSocket, index: u32) -> io::Result<bool> {
    let disciplines = netlink.ask(GET_DISCIPLINE, NLM_F_DUMP, &message(0, 0, 0, 0))?;
    Ok(disciplines.iter().any(|body| {
        let kind = body.get(20..).and_then(|attributes| value(attributes, KIND));
        body.get(4..).and_then(number) == Some(index) && kind == Some(b"clsact\0")
    }))
}

/// The numbers of the programs that a gateway `tun` has left on an interface.
pub fn programs(tun: &str) -> io::Result<Vec<u32>> {
    let mut netlink = NetlinkSocket::open(NETLINK_ROUTE)?;
    let mut found = Vec::new();
    for index in links(&mut netlink)? {
        found.extend(filters(&mut netlink, index, tun)?.into_iter().filter_map(|filter| filter.program));
    }
    Ok(found)
}

/// Dropping the link would take the program off.
fn stay(link: SchedClassifierLink) {
    std::mem::forget(link);
}

/// Tells gateways of one namespace apart; never zero, for the kernel lists filters without a program of their own so.
fn tag(tun: &str) -> u16 {
    tun.bytes().fold(7400, |tag: u16, byte| tag.rotate_left(5) ^ u16::from(byte)).max(1)
}

/// `struct tcmsg`.
fn message(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, index, handle, parent, info].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn tc_error(error: io::Error) -> ProgramError {
    TcError::IoError(error).into()
}
