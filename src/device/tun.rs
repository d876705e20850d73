//! TUN devices: multi-queue, with virtio header and offloads where the kernel has them, so that super-packets of 64 KB
//! pass whole.

use super::virtio::{HEADER_LEN, VirtioHeader};
use crate::config;
use crate::wire::Packet;
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// The largest packet a TUN device hands over.
const MOST_BYTES: usize = 65_535;

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
    #[error("cannot make TUN device {name}: {error}")]
    Other {
        /// Name of the device.
        name: String,
        /// What the kernel said.
        error: io::Error,
    },
}

/// One queue of a device. A worker owns the queues of its own number on every device.
pub struct Queue {
    device: SyncDevice,
    header: usize,
}

/// Room for one packet of any size, with its virtio header.
pub struct Buffer {
    bytes: Box<[u8]>,
    header: usize,
    len: usize,
}

/// Makes the devices `names` with `queues` queues each. Either all have offloads or none, for a packet read from one is
/// written to another. Returns the queues of each device, and what was granted.
pub fn create(names: &[String], queues: usize, ask: config::Offload) -> Result<(Vec<Vec<Queue>>, Offload), TunError> {
    if ask == config::Offload::Auto {
        match create_all(names, queues, true) {
            Ok(devices) => {
                let uso = devices.iter().flatten().all(|queue| queue.device.udp_gso());
                return Ok((devices, if uso { Offload::Full } else { Offload::Tcp }));
            }
            Err(TunError::Other { name, error }) => {
                log::warn!("{name}: the kernel grants no offloads ({error}); going on with one packet a read");
            }
            Err(error) => return Err(error),
        }
    }
    Ok((create_all(names, queues, false)?, Offload::None))
}

fn create_all(names: &[String], queues: usize, offload: bool) -> Result<Vec<Vec<Queue>>, TunError> {
    names.iter().map(|name| create_one(name, queues, offload)).collect()
}

fn create_one(name: &str, queues: usize, offload: bool) -> Result<Vec<Queue>, TunError> {
    let explain = |error: io::Error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NXIO | Errno::NODEV | Errno::ACCESS) => TunError::NoTun(error),
        Some(Errno::PERM) => TunError::NotAllowed { name: name.to_owned(), error },
        Some(Errno::BUSY) => TunError::Busy { name: name.to_owned() },
        _ => TunError::Other { name: name.to_owned(), error },
    };
    let first = DeviceBuilder::new()
        .name(name)
        .layer(Layer::L3)
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
    let header = if offload { HEADER_LEN } else { 0 };
    devices
        .into_iter()
        .map(|device| {
            device.set_nonblocking(true).map_err(explain)?;
            Ok(Queue { device, header })
        })
        .collect()
}

impl Queue {
    /// Reads a packet; `false` if none is waiting.
    pub fn receive(&self, buffer: &mut Buffer) -> io::Result<bool> {
        buffer.header = self.header;
        match self.device.recv(&mut buffer.bytes) {
            Ok(len) => {
                buffer.len = len;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends the packet in `buffer`, read from this device or one made together with it.
    pub fn send(&self, buffer: &Buffer) -> io::Result<()> {
        let bytes = buffer.bytes.get(..buffer.len).unwrap_or_default();
        self.device.send(bytes).map(|_| ())
    }

    /// Sends a packet made here, as on a wire.
    pub fn send_own(&self, packet: &[u8]) -> io::Result<()> {
        let mut bytes = vec![0; self.header];
        bytes.extend_from_slice(packet);
        self.device.send(&bytes).map(|_| ())
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl Buffer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self { bytes: vec![0; HEADER_LEN + MOST_BYTES].into_boxed_slice(), header: 0, len: 0 }
    }

    /// The packet in it, to be translated in place.
    pub fn packet(&mut self) -> Packet<'_> {
        let filled = self.bytes.get_mut(..self.len).unwrap_or_default();
        let (header, bytes) = filled.split_at_mut_checked(self.header).unwrap_or_default();
        let checksum_start = VirtioHeader::read(header).and_then(|header| header.checksum_start());
        Packet { bytes, checksum_start }
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
