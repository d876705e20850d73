//! TAP devices: multi-queue, with virtio header and offloads where the kernel has them, so that super-packets of 64 KB
//! pass whole. The Ethernet header of a frame says where in the kernel it was taken (`divert.h` of the fast path).

use super::virtio::{HEADER_LEN, VirtioHeader};
use crate::config;
use crate::wire::Packet;
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// The largest frame that a device hands over.
const MOST_BYTES: usize = 65_535 + ETHERNET;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Where in it the kernel's programs write the number of the way, and the realm.
const NUMBER: std::ops::Range<usize> = 6..10;
const REALM: std::ops::Range<usize> = 10..12;
/// Where in it the type is.
const TYPE: std::ops::Range<usize> = 12..14;
/// In the realm: the packet has arrived at an interface; else it was about to leave by one.
const ARRIVED: u16 = 0x8000;
/// A cache line.
const LINE: usize = 64;
/// Headers of most TCP segments: IPv4, TCP with timestamps. What follows them is copied twice by the kernel, fastest from
/// and to the start of a cache line.
const HEADERS: usize = 20 + 32;

/// Which offloads the kernel granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Checksums, TCP segmentation (TSO), UDP segmentation (USO, Linux 6.2 and later).
    Full,
    /// Checksums and TCP segmentation.
    Tcp,
    /// None: a packet a read.
    None,
}

/// Why a device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// No `/dev/net/tun`.
    #[error(
        "cannot open /dev/net/tun ({0}); load the kernel's module with `modprobe tun`, or give the container the device"
    )]
    NoTun(io::Error),
    /// Not allowed.
    #[error("not allowed to make TUN device {name} ({error}); run as root or with CAP_NET_ADMIN")]
    NotAllowed {
        /// Name of the device.
        name: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// Another program has it.
    #[error("TUN device {name} is in use by another program; choose another name with --tun")]
    Busy {
        /// Name of the device.
        name: String,
    },
    /// Anything else.
    #[error("cannot make TUN device {name}: {error}; `kamei doctor` looks for the cause")]
    Other {
        /// Name of the device.
        name: String,
        /// What the kernel said.
        error: io::Error,
    },
}

/// One queue of a device. A worker owns the queues of its own number on every device.
pub struct Queue {
    descriptor: OwnedFd,
    header: usize,
}

/// Room for one packet of any size, with its virtio header.
pub struct Buffer {
    bytes: Box<[u8]>,
    header: usize,
    /// Where what was read starts and ends.
    start: usize,
    end: usize,
}

/// Where in the kernel a packet was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// On its way out, in, or by a route of the kernel.
    pub taken: Taken,
    /// 0: from outside; n + 1: from inside n.
    pub realm: u16,
}

/// How a packet came to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// As it was about to leave by an interface. Handed back, it leaves there.
    Leaving,
    /// As it arrived at an interface. Handed back, it arrives there.
    Arriving,
    /// The kernel has routed it here.
    Routed,
}

/// The Ethernet header of a packet, with which it goes back to where it was taken.
#[derive(Clone, Copy, Debug)]
pub struct Way([u8; ETHERNET]);

/// All queues of the devices of a gateway, in the order of their names; and what was granted.
pub type Devices = (Vec<Vec<Queue>>, Offload);

/// Makes the devices `names` with `queues` queues each. Either all have offloads or none, for a packet read from one is
/// written to another. Returns the queues of each device, and what was granted.
pub fn create(names: &[String], queues: usize, ask: config::Offload) -> Result<Devices, TunError> {
    if ask == config::Offload::Auto {
        match create_all(names, queues, true) {
            Ok((devices, uso)) => return Ok((devices, if uso { Offload::Full } else { Offload::Tcp })),
            Err(TunError::Other { name, error }) => {
                log::warn!("{name}: the kernel grants no offloads ({error}); going on with one packet a read");
            }
            Err(error) => return Err(error),
        }
    }
    Ok((create_all(names, queues, false)?.0, Offload::None))
}

/// The devices, and whether all have USO.
fn create_all(names: &[String], queues: usize, offload: bool) -> Result<(Vec<Vec<Queue>>, bool), TunError> {
    let mut uso = true;
    let mut all = Vec::new();
    for name in names {
        let (device, granted) = create_one(name, queues, offload)?;
        all.push(device);
        uso &= granted;
    }
    Ok((all, uso))
}

fn create_one(name: &str, queues: usize, offload: bool) -> Result<(Vec<Queue>, bool), TunError> {
    let explain = |error: io::Error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NXIO | Errno::NODEV | Errno::ACCESS) => TunError::NoTun(error),
        Some(Errno::PERM) => TunError::NotAllowed { name: name.to_owned(), error },
        Some(Errno::BUSY) => TunError::Busy { name: name.to_owned() },
        _ => TunError::Other { name: name.to_owned(), error },
    };
    let first = DeviceBuilder::new()
        .name(name)
        .layer(Layer::L2)
        .multi_queue(true)
        .offload(offload)
        .inherit_enable_state()
        .build_sync()
        .map_err(explain)?;
    let mut devices = vec![first];
    for _ in 1..queues {
        let next = devices.first().map(SyncDevice::try_clone).transpose().map_err(explain)?;
        devices.extend(next);
    }
    let uso = devices.iter().all(|device| device.udp_gso());
    let queues = devices.iter().map(|device| {
        device.set_nonblocking(true).map_err(explain)?;
        let descriptor = device.as_fd().try_clone_to_owned().map_err(explain)?;
        Ok(Queue { descriptor, header: header_of(offload) })
    });
    Ok((queues.collect::<Result<_, _>>()?, uso))
}

/// The devices `names` with `queues` queues each, from the queues that a gateway before has handed over. `None` if some
/// are missing, or are not what their names say.
pub fn take_over(
    names: &[String],
    queues: usize,
    ask: config::Offload,
    handed: &mut Vec<HandedQueue>,
) -> Option<Devices> {
    let offload = handed.first()?.offload;
    if (ask == config::Offload::Off) != (offload == Offload::None) {
        return None;
    }
    let mut all = Vec::new();
    for name in names {
        let mut device = Vec::new();
        for number in 0..queues {
            let fits = |queue: &HandedQueue| {
                queue.device == *name && queue.number == number && queue.offload == offload && queue.is_what_it_says()
            };
            let queue = handed.swap_remove(handed.iter().position(fits)?);
            device.push(Queue { descriptor: queue.descriptor, header: header_of(offload != Offload::None) });
        }
        all.push(device);
    }
    // One more or less would get packets that nobody reads.
    let is_ours = |queue: &HandedQueue| names.contains(&queue.device);
    (!handed.iter().any(is_ours)).then_some((all, offload))
}

fn header_of(offload: bool) -> usize {
    if offload { HEADER_LEN } else { 0 }
}

/// A queue on its way from one process to the next.
#[derive(Debug)]
pub struct HandedQueue {
    /// Name of its device.
    pub device: String,
    /// Its number there.
    pub number: usize,
    /// What the kernel granted the device.
    pub offload: Offload,
    /// Open, with its offloads set.
    pub descriptor: OwnedFd,
}

impl HandedQueue {
    /// Whether the kernel says the same of the descriptor.
    fn is_what_it_says(&self) -> bool {
        let info = format!("/proc/self/fdinfo/{}", self.descriptor.as_raw_fd());
        let text = std::fs::read_to_string(info).unwrap_or_default();
        text.lines().any(|line| line.strip_prefix("iff:").is_some_and(|name| name.trim() == self.device))
    }
}

impl Queue {
    /// Reads a packet; `false` if none is waiting.
    pub fn receive(&self, buffer: &mut Buffer) -> io::Result<bool> {
        buffer.header = self.header;
        let room = buffer.bytes.get_mut(buffer.start..).unwrap_or_default();
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.descriptor, &mut *room)) {
            Ok(len) => {
                buffer.end = buffer.start + len;
                Ok(true)
            }
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a frame: [`Buffer::as_read`] of this device or one made together with it, or [`Queue::frame`].
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        Ok(rustix::io::write(&self.descriptor, frame).map(|_| ())?)
    }

    /// The frame of a packet made here, with complete checksums. Without a way the kernel routes it.
    pub fn frame(&self, packet: &[u8], way: Option<Way>) -> Box<[u8]> {
        let mut ethernet = way.map_or([0; ETHERNET], |way| way.0);
        let is_v4 = packet.first().is_some_and(|byte| byte >> 4 == 4);
        if let Some(place) = ethernet.get_mut(TYPE) {
            place.copy_from_slice(if is_v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
        }
        let mut bytes = vec![0; self.header];
        bytes.extend_from_slice(&ethernet);
        bytes.extend_from_slice(packet);
        bytes.into_boxed_slice()
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Buffer {
    /// An empty buffer.
    pub fn new() -> Self {
        let bytes = vec![0; LINE + HEADER_LEN + MOST_BYTES].into_boxed_slice();
        let payload = bytes.as_ptr().addr() + HEADER_LEN + ETHERNET + HEADERS;
        let start = payload.next_multiple_of(LINE) - payload;
        Self { bytes, header: 0, start, end: start }
    }

    /// What was read, with its virtio header.
    pub fn as_read(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether the packet in it is longer than Ethernet carries: several segments in one.
    pub fn is_super_packet(&self) -> bool {
        self.end - self.start > self.header + ETHERNET + 1500
    }

    /// The packet in it, to be translated in place.
    pub fn packet(&mut self) -> Packet<'_> {
        let filled = self.bytes.get_mut(self.start..self.end).unwrap_or_default();
        let (header, frame) = filled.split_at_mut_checked(self.header).unwrap_or_default();
        let checksum_start = VirtioHeader::read(header).and_then(|header| header.checksum_start());
        let bytes = frame.get_mut(ETHERNET..).unwrap_or_default();
        Packet { bytes, checksum_start: checksum_start.and_then(|start| start.checked_sub(ETHERNET)) }
    }

    /// Where it was taken; `None` if it is no frame.
    pub fn origin(&self) -> Option<Origin> {
        let Way(ethernet) = self.way()?;
        let realm = u16::from_ne_bytes(*ethernet.get(REALM)?.first_chunk()?);
        let is_routed = ethernet.get(NUMBER)?.iter().all(|byte| *byte == 0);
        let taken = match (is_routed, realm & ARRIVED) {
            (true, _) => Taken::Routed,
            (false, 0) => Taken::Leaving,
            (false, _) => Taken::Arriving,
        };
        Some(Origin { taken, realm: realm & !ARRIVED })
    }

    /// The way back to where it was taken.
    pub fn way(&self) -> Option<Way> {
        let frame = self.as_read().get(self.header..)?;
        frame.first_chunk().copied().map(Way)
    }

    /// Has the kernel route it, instead of its going back to where it was taken.
    pub fn forget_way(&mut self) {
        let at = self.start + self.header;
        if let Some(number) = self.bytes.get_mut(at + NUMBER.start..at + NUMBER.end) {
            number.fill(0);
        }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Offload::Full => "virtio header, checksum, TSO, USO",
            Offload::Tcp => "virtio header, checksum, TSO (this kernel has no USO)",
            Offload::None => "none: one packet a read",
        })
    }
}
