//! Where maps and programs have names, by which they find each other, and a successor finds them.
//!
//! Where a BPF file system is mounted, they are in a directory of the gateway's own there and outlive the process: known
//! flows go on after `kill -9`, and the next gateway takes them over. Elsewhere they are in a private file system, which
//! nobody else sees and which goes with the process.

use rustix::fs::statfs;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where a BPF file system belongs.
const MOUNTED: &str = "/sys/fs/bpf";
/// What the names of the directories of gateways begin with.
const PREFIX: &str = "kamei-";
/// `BPF_FS_MAGIC` (linux/magic.h).
const MAGIC: i64 = 0xcafe_4a11;

/// The directory in which maps, links and programs have their names.
#[derive(Debug)]
pub enum PinDirectory {
    /// A directory that stays.
    Lasting(PathBuf),
    /// A file system of this process alone.
    Private(OwnedFd),
}

impl PinDirectory {
    /// The pins of the gateway `tun` in this network namespace.
    pub fn of(tun: &str) -> io::Result<Self> {
        if statfs(MOUNTED).is_ok_and(|found| found.f_type == MAGIC) {
            let pins = Self::Lasting(lasting(tun)?);
            pins.restore()?;
            return Ok(pins);
        }
        let file_system = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&file_system)?;
        Ok(Self::Private(fsmount(&file_system, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?))
    }

    /// Makes its directory, which another program may have removed.
    pub fn restore(&self) -> io::Result<()> {
        let Self::Lasting(path) = self else { return Ok(()) };
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Lasting(path) => path.clone(),
            Self::Private(mount) => PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())),
        }
    }
}

/// Whether a gateway `tun` has a pin directory in this network namespace.
pub fn exists(tun: &str) -> io::Result<bool> {
    Ok(lasting(tun)?.exists())
}

/// The pin directories of all gateways in the network namespace of the one that has this.
pub fn all_beside(directory: &Path) -> Vec<PathBuf> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let own = name(directory);
    let Some((_, namespace)) = own.rsplit_once('-') else { return Vec::new() };
    let is_directory = |path: &PathBuf| {
        let name = name(path);
        name.starts_with(PREFIX) && name.rsplit_once('-').is_some_and(|(_, other)| other == namespace)
    };
    let all = std::fs::read_dir(MOUNTED).into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(is_directory).collect()
}

/// Removes what a dead gateway `tun` has left in this network namespace; says whether there was anything.
///
/// # Errors
/// What the file system refuses.
pub fn remove(tun: &str) -> io::Result<bool> {
    let path = lasting(tun)?;
    match empty(&path, |_| true) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    }
    std::fs::remove_dir(&path)?;
    Ok(true)
}

/// Removes the files that `is_old` says.
pub fn empty(path: &Path, is_old: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if is_old(&entry.file_name().to_string_lossy()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The directory of the gateway `tun` of this network namespace; those of others may have the same name.
pub fn lasting(tun: &str) -> io::Result<PathBuf> {
    let namespace = std::fs::metadata("/proc/thread-self/ns/net")?.ino();
    Ok(Path::new(MOUNTED).join(format!("{PREFIX}{tun}-{namespace}")))
}
