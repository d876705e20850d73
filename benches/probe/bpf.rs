//! XDP programs of a few hand-made instructions, and the `bpf()` calls that load, run and attach them.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What an XDP program returns.
#[derive(Clone, Copy)]
enum Action {
    Drop = 1,
    Pass = 2,
}

// linux/bpf.h
const MAP_CREATE: i32 = 0;
const MAP_UPDATE_ELEM: i32 = 2;
const PROG_LOAD: i32 = 5;
const PROG_TEST_RUN: i32 = 10;
const PROG_GET_FD_BY_ID: i32 = 13;
const LINK_CREATE: i32 = 28;
const MAP_TYPE_PROG_ARRAY: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2; // linux/if_link.h

const LOAD_MAP: u8 = 0x18; // two instructions, in the first one's source PSEUDO_MAP_FD
const PSEUDO_MAP_FD: u8 = 1;
const CALL: u8 = 0x85;
const TAIL_CALL: i32 = 12;
const STORE_BYTE: u8 = 0x72;
const LOAD_WORD: u8 = 0x61;
const LOAD_HALF: u8 = 0x69;
const MOVE: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const ADD_NUMBER: u8 = 0x07;
const JUMP_AT_MOST: u8 = 0xbd;
const JUMP_UNEQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    number: i32,
}

/// A program, loaded; with what it calls, which the kernel forgets once nobody holds the array.
pub struct Program {
    descriptor: OwnedFd,
    _calls: Option<OwnedFd>,
}

/// Overwrites the start of each frame by `header` and passes it on: to the kernel, or to the XDP program of number `then`.
/// Frames shorter than the header are dropped.
pub fn overwrite(header: &[u8], then: Option<u32>) -> io::Result<Program> {
    let mut code = vec![instruction(MOVE, 6, 1, 0, 0)];
    code.extend(reach(header.len()));
    for (offset, byte) in (0..).zip(header) {
        code.push(instruction(STORE_BYTE, 2, 0, offset, i32::from(*byte)));
    }
    let programs = then.map(only).transpose()?;
    if let Some(programs) = &programs {
        code.push(instruction(MOVE, 1, 6, 0, 0));
        code.push(instruction(LOAD_MAP, 2, PSEUDO_MAP_FD, 0, programs.as_raw_fd()));
        code.push(instruction(0, 0, 0, 0, 0));
        code.push(instruction(MOVE_NUMBER, 3, 0, 0, 0));
        code.push(instruction(CALL, 0, 0, 0, TAIL_CALL));
    }
    // A tail call that returns has failed.
    code.extend(leave(if programs.is_some() { Action::Drop } else { Action::Pass }));
    load(&code).map(|program| Program { _calls: programs, ..program })
}

/// An array for tail calls, with the program of that number alone.
fn only(number: u32) -> io::Result<OwnedFd> {
    let map = NewMap { kind: MAP_TYPE_PROG_ARRAY, key: 4, value: 4, entries: 1 };
    // SAFETY: `NewMap` starts as the kernel's union does and holds no pointer.
    let map = unsafe { call_for_descriptor(MAP_CREATE, &map) }?;
    // SAFETY: a number is all the kernel reads.
    let program = unsafe { call_for_descriptor(PROG_GET_FD_BY_ID, &number) }?;
    let (key, value) = (0u32, program.as_raw_fd());
    let entry = Entry { map: map.as_raw_fd(), padding: 0, key: &raw const key, value: &raw const value, flags: 0 };
    // SAFETY: `Entry` is the kernel's layout; key and value outlive the call and have four bytes each, as the map says.
    unsafe { call(MAP_UPDATE_ELEM, &entry) }?;
    Ok(map)
}

/// Drops frames that have `value` in the 16 bits at `offset`, and passes all others.
pub fn drop_where(offset: i16, value: u16) -> io::Result<Program> {
    let mut code = reach(usize::from(offset.unsigned_abs()) + 2);
    code.push(instruction(LOAD_HALF, 3, 2, offset, 0));
    code.push(instruction(JUMP_UNEQUAL, 3, 0, 2, i32::from(value.to_be()))); // as a little-endian machine loads it
    code.extend(leave(Action::Drop));
    code.extend(leave(Action::Pass));
    load(&code)
}

/// Has register 2 point to the frame, and leaves (dropping it) if it has less than `len` bytes.
fn reach(len: usize) -> Vec<Instruction> {
    let len = i32::try_from(len).unwrap_or(i32::MAX);
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0), // xdp_md.data
        instruction(LOAD_WORD, 3, 1, 4, 0), // xdp_md.data_end
        instruction(MOVE, 4, 2, 0, 0),
        instruction(ADD_NUMBER, 4, 0, 0, len),
    ];
    // The verifier wants to see this comparison before any access; two instructions further the frame is long enough.
    code.push(instruction(MOVE_NUMBER, 0, 0, 0, Action::Drop as i32));
    code.push(instruction(JUMP_AT_MOST, 4, 3, 1, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

fn leave(action: Action) -> [Instruction; 2] {
    [instruction(MOVE_NUMBER, 0, 0, 0, action as i32), instruction(EXIT, 0, 0, 0, 0)]
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, number: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, number }
}

/// The part of `union bpf_attr` that `BPF_MAP_CREATE` reads here; all after it counts as zero.
#[repr(C)]
struct NewMap {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
}

/// As above, for `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct Entry {
    map: i32,
    padding: u32,
    key: *const u32,
    value: *const i32,
    flags: u64,
}

/// As above, for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    code: *const Instruction,
    licence: *const u8,
    log: [u64; 2],
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

fn load(code: &[Instruction]) -> io::Result<Program> {
    let attributes = Load {
        kind: PROG_TYPE_XDP,
        instructions: u32::try_from(code.len()).unwrap_or(u32::MAX),
        code: code.as_ptr(),
        licence: c"MIT".as_ptr().cast(),
        log: [0; 2],
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        // Programs that call each other are for the same place.
        attach: ATTACH_XDP,
    };
    // SAFETY: `Load` starts as the kernel's union does; both pointers outlive the call, `instructions` is the length of
    // what `code` points to, and the licence ends with a zero.
    unsafe { call_for_descriptor(PROG_LOAD, &attributes) }.map(|descriptor| Program { descriptor, _calls: None })
}

/// As above, for `BPF_LINK_CREATE`.
#[repr(C)]
struct Link {
    program: i32,
    interface: u32,
    kind: u32,
    flags: u32,
}

/// As above, for `BPF_PROG_TEST_RUN`.
#[repr(C)]
struct TestRun {
    program: i32,
    result: u32,
    data_len: u32,
    data_out_len: u32,
    data: *const u8,
    data_out: *mut u8,
    repeat: u32,
    duration: u32,
    context_len: u32,
    context_out_len: u32,
    context: *const Context,
    context_out: *mut Context,
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

/// `struct xdp_md`.
#[repr(C)]
struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    interface: u32,
    queue: u32,
    out_interface: u32,
}

impl Program {
    /// Runs it on `count` copies of `frame` as if they came in by `interface`, and has the kernel do with each what the
    /// program says.
    pub fn inject(&self, frame: &[u8], interface: u32, count: u32) -> io::Result<()> {
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let context = Context { data: 0, data_end: len, data_meta: 0, interface, queue: 0, out_interface: 0 };
        let attributes = TestRun {
            program: self.descriptor.as_raw_fd(),
            result: 0,
            data_len: len,
            data_out_len: 0,
            data: frame.as_ptr(),
            data_out: std::ptr::null_mut(),
            repeat: count,
            duration: 0,
            context_len: u32::try_from(size_of::<Context>()).unwrap_or_default(),
            context_out_len: 0,
            context: &raw const context,
            context_out: std::ptr::null_mut(),
            flags: TEST_XDP_LIVE_FRAMES,
            cpu: 0,
            batch: 0,
            padding: 0,
        };
        // SAFETY: `TestRun` is the kernel's layout; data and context outlive the call and have the lengths given, and
        // nothing is written where the lengths are 0.
        unsafe { call(PROG_TEST_RUN, &attributes) }.map(|_| ())
    }

    /// Attaches it to the driver of `interface`, until what this returns is dropped.
    pub fn attach(&self, interface: u32) -> io::Result<OwnedFd> {
        let attributes =
            Link { program: self.descriptor.as_raw_fd(), interface, kind: ATTACH_XDP, flags: XDP_FLAGS_DRV_MODE };
        // SAFETY: `Link` starts as the kernel's union does and holds no pointer.
        unsafe { call_for_descriptor(LINK_CREATE, &attributes) }
    }
}

/// # Safety
///
/// `command` is one that answers with a descriptor; else as [`call`].
unsafe fn call_for_descriptor<T>(command: i32, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller keeps the contract; the descriptor is new, so nobody else owns it.
    unsafe { call(command, attributes).map(|descriptor| OwnedFd::from_raw_fd(descriptor)) }
}

/// # Safety
///
/// `T` is the start of the kernel's `union bpf_attr` for `command`, and its pointers are good for their lengths.
unsafe fn call<T>(command: i32, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes at `attributes`; the rest is the caller's word.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(answer).unwrap_or_default()) }
}
