//! The few commands of bpf(2) that aya has no types for: programs of netfilter and their links.

#![allow(unsafe_code, reason = "the system call takes structures with pointers")]

use aya_obj::generated::bpf_insn;
use std::ffi::{CStr, CString, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

// linux/bpf.h
const PROG_LOAD: c_int = 5;
const OBJ_PIN: c_int = 6;
const OBJ_GET: c_int = 7;
const OBJ_GET_INFO: c_int = 15;
const LINK_CREATE: c_int = 28;
const LINK_DETACH: c_int = 34;
const PROG_TYPE_NETFILTER: u32 = 32;
const ATTACH_NETFILTER: u32 = 45;
/// `BPF_JMP | BPF_CALL`
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_KFUNC_CALL`
const CALL_OF_KERNEL: u8 = 2;
/// `NF_INET_FORWARD` (linux/netfilter.h).
const FORWARD: u32 = 2;
/// How often a program is loaded at most.
const ATTEMPTS: u32 = 20;
/// Bytes for what the verifier says; it says more, but the end tells why.
const LOG: usize = 1 << 20;

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads here; all after it counts as zero.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: *const bpf_insn,
    licence: *const libc::c_char,
    log_level: u32,
    log_len: u32,
    log: *mut u8,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

/// As above, for `BPF_LINK_CREATE`.
#[repr(C)]
struct Link {
    program: c_int,
    target: u32,
    attach: u32,
    flags: u32,
    family: u32,
    hook: u32,
    priority: i32,
    netfilter_flags: u32,
}

/// As above, for `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct Pin {
    path: *const libc::c_char,
    object: c_int,
    flags: u32,
}

/// As above, for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct Info {
    object: c_int,
    length: u32,
    info: *mut LinkInfo,
}

/// The start of `struct bpf_link_info`.
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
}

/// Has the kernel check a program of netfilter.
///
/// # Errors
/// What the kernel answers, with the last words of the verifier.
pub fn load(name: &str, instructions: &[bpf_insn], licence: &CStr) -> io::Result<OwnedFd> {
    let mut short = [0; 16];
    short.iter_mut().zip(name.bytes().take(15)).for_each(|(to, from)| *to = from);
    let mut attributes = Load {
        kind: PROG_TYPE_NETFILTER,
        count: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        instructions: instructions.as_ptr(),
        licence: licence.as_ptr(),
        log_level: 0,
        log_len: 0,
        log: std::ptr::null_mut(),
        kernel_version: 0,
        flags: 0,
        name: short,
        interface: 0,
        attach: ATTACH_NETFILTER,
    };
    // SAFETY: `Load` starts as the kernel's union does; both pointers outlive the call, `count` is the length of what
    // `instructions` points to, and the licence ends with a zero. Nothing is written.
    let load = || unsafe { call_for_descriptor(PROG_LOAD, &attributes) };
    // The verifier gives up when a signal comes.
    let mut loaded = load();
    for _ in 1..ATTEMPTS {
        match &loaded {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => loaded = load(),
            _ => break,
        }
    }
    loaded.or_else(|error| {
        let mut log = vec![0; LOG];
        (attributes.log_level, attributes.log_len) = (1, u32::try_from(LOG).unwrap_or_default());
        attributes.log = log.as_mut_ptr();
        // SAFETY: as above; the kernel writes at most `log_len` bytes to `log`.
        unsafe { call_for_descriptor(PROG_LOAD, &attributes) }.map_err(|_| match last_words(&log) {
            Some(words) => io::Error::new(error.kind(), format!("{error}: {words}")),
            None => error,
        })
    })
}

/// Makes a call of the helper `number` one of the kernel's function that has the type `function`.
pub fn call_kernel(instruction: &mut bpf_insn, number: i32, function: u32) {
    if instruction.code == CALL && instruction.src_reg() == 0 && instruction.imm == number {
        instruction.set_src_reg(CALL_OF_KERNEL);
        instruction.imm = function.cast_signed();
    }
}

/// Attaches a program to the hook `forward` of this thread's network namespace, for an address family (`NFPROTO_*`);
/// until what this returns is closed, unless it is pinned.
///
/// # Errors
/// `ResourceBusy` if another hook has this priority; anything else that the kernel answers.
pub fn attach(program: BorrowedFd, family: u32, priority: i32) -> io::Result<OwnedFd> {
    let attributes = Link {
        program: program.as_raw_fd(),
        target: 0,
        attach: ATTACH_NETFILTER,
        flags: 0,
        family,
        hook: FORWARD,
        priority,
        netfilter_flags: 0,
    };
    // SAFETY: `Link` starts as the kernel's union does and holds no pointer.
    unsafe { call_for_descriptor(LINK_CREATE, &attributes) }
}

/// Gives a link a name in a BPF file system.
///
/// # Errors
/// What the kernel answers.
pub fn pin(link: BorrowedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Pin { path: path.as_ptr(), object: link.as_raw_fd(), flags: 0 };
    // SAFETY: `Pin` starts as the kernel's union does; the path outlives the call and ends with a zero.
    unsafe { call(OBJ_PIN, &attributes) }.map(|_| ())
}

/// The number that the kernel has given a link.
///
/// # Errors
/// What the kernel answers.
pub fn id(link: impl AsFd) -> io::Result<u32> {
    let mut info = LinkInfo { kind: 0, id: 0 };
    let attributes = Info {
        object: link.as_fd().as_raw_fd(),
        length: u32::try_from(size_of::<LinkInfo>()).unwrap_or_default(),
        info: &raw mut info,
    };
    // SAFETY: `Info` starts as the kernel's union does; the kernel writes at most `length` bytes to `info`, which are
    // numbers, and nothing else uses it meanwhile.
    unsafe { call(OBJ_GET_INFO, &attributes) }?;
    Ok(info.id)
}

/// The link of this name.
///
/// # Errors
/// What the kernel answers.
pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Pin { path: path.as_ptr(), object: 0, flags: 0 };
    // SAFETY: `Pin` starts as the kernel's union does; the path outlives the call and ends with a zero.
    unsafe { call_for_descriptor(OBJ_GET, &attributes) }
}

/// Takes the program of a link off its hook, also while others hold the link.
pub fn detach(link: &OwnedFd) {
    // SAFETY: a descriptor is all the kernel reads.
    let _ = unsafe { call(LINK_DETACH, &link.as_raw_fd()) };
}

/// The last line but the statistics.
fn last_words(log: &[u8]) -> Option<String> {
    let text = log.split(|byte| *byte == 0).next().map(String::from_utf8_lossy)?;
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("processed "));
    lines.next_back().map(str::to_owned)
}

/// # Safety
///
/// `command` is one that answers with a descriptor; else as [`call`].
unsafe fn call_for_descriptor<T>(command: c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller keeps the contract; the descriptor is new, so nobody else owns it.
    unsafe { call(command, attributes).map(|descriptor| OwnedFd::from_raw_fd(descriptor)) }
}

/// # Safety
///
/// `T` is the start of the kernel's `union bpf_attr` for `command`, and its pointers are good for their lengths.
unsafe fn call<T>(command: c_int, attributes: &T) -> io::Result<c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes at `attributes`; the rest is the caller's word.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    match c_int::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}
