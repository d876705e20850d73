//! Where the program's maps have names.
//!
//! Programs of several interfaces share maps by finding them under a name in a BPF file system. If none is mounted where it belongs, a private one
//! does, which nobody else sees and which goes with the process.

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

/// See the module.
#[derive(Debug)]
pub struct Place {
    mount: OwnedFd,
}

impl Place {
    /// A BPF file system of this process alone.
    pub fn private() -> io::Result<Self> {
        let file_system = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&file_system)?;
        let mount = fsmount(&file_system, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        Ok(Self { mount })
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.mount.as_raw_fd()))
    }
}
