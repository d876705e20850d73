//! Whether a link that has a name in a BPF file system is still attached, and who runs before it: another program may
//! detach it and leave the name, or put another program in front.

#![allow(unsafe_code, reason = "the system call bpf(2), which nobody wraps for this")]

use aya::programs::TcAttachType;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `BPF_OBJ_GET`, `BPF_OBJ_GET_INFO_BY_FD`, `BPF_PROG_QUERY` (linux/bpf.h).
const GET: libc::c_int = 7;
const GET_INFO: libc::c_int = 15;
const QUERY: libc::c_int = 16;
/// `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS` (linux/bpf.h).
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// Programs in one place at most (`BPF_MPROG_MAX`, linux/bpf_mprog.h).
const MOST: usize = 64;

/// `struct bpf_link_info` as far as it is asked for. What follows the three numbers begins, for TCX and XDP, with the index
/// of the interface: zero when the link is detached.
#[derive(Default)]
#[repr(C)]
struct Info {
    kind: u32,
    id: u32,
    program: u32,
    _padding: u32,
    interface: u32,
    _rest: [u32; 27],
}

/// The forms of `union bpf_attr` that are used, each with its fields in front.
#[repr(C)]
struct GetByName {
    name: u64,
    descriptor: u32,
    flags: u32,
}

#[repr(C)]
struct GetInfo {
    descriptor: u32,
    length: u32,
    info: u64,
}

/// Of `BPF_PROG_QUERY`.
#[derive(Default)]
#[repr(C)]
struct Query {
    interface: u32,
    side: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    _padding: u32,
    _rest: [u64; 4],
}

/// Whether there is a link of that name, and it is attached to the interface.
pub fn is_attached(path: &Path, interface: u32) -> bool {
    info(path).is_ok_and(|info| info.interface == interface)
}

/// The number of the program at the link of that name.
pub fn program(path: &Path) -> Option<u32> {
    info(path).ok().map(|info| info.program)
}

/// The numbers of the programs at TCX, in the order in which they run.
pub fn order(interface: u32, side: TcAttachType) -> io::Result<Vec<u32>> {
    let mut programs = [0u32; MOST];
    let mut query = Query {
        interface,
        side: if side == TcAttachType::Ingress { TCX_INGRESS } else { TCX_EGRESS },
        programs: std::ptr::from_mut(&mut programs).expose_provenance() as u64,
        count: u32::try_from(MOST).unwrap_or(0),
        ..Query::default()
    };
    bpf(QUERY, &mut query)?;
    Ok(programs.into_iter().take(query.count as usize).collect())
}

fn info(path: &Path) -> io::Result<Info> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut get = GetByName { name: name.as_ptr().addr() as u64, descriptor: 0, flags: 0 };
    let number = bpf(GET, &mut get)?;
    // SAFETY: the kernel has just given this descriptor to us and nobody else has it.
    let link = unsafe { OwnedFd::from_raw_fd(number) };
    let mut info = Info::default();
    let length = u32::try_from(size_of::<Info>()).unwrap_or(0);
    let descriptor = u32::try_from(link.as_raw_fd()).unwrap_or(u32::MAX);
    let mut ask = GetInfo { descriptor, length, info: std::ptr::from_mut(&mut info).expose_provenance() as u64 };
    bpf(GET_INFO, &mut ask)?;
    Ok(info)
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of `attributes`, and through the addresses in them what
    // the callers above keep alive until this returns, within the lengths that they state.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { libc::c_int::try_from(answer).map_err(io::Error::other) }
}
