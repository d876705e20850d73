//! Who may touch the kernel: one gateway a name, one set-up at a time.
//!
//! Both are locked files in a directory that only root can write, one for each network namespace: nobody else can hold
//! them, and they end with the process that does.

use super::error::KernelError;
use super::lock::LockFile;
use crate::config::DEFAULT_CONTROL;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a set-up waits for another one to finish.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a name may look taken because another process asks whether it is.
const ASKING: Duration = Duration::from_millis(100);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// The right to be *the* gateway of a `--tun` name in this network namespace, for as long as it lives.
#[derive(Debug)]
pub struct Claim {
    _lock: LockFile,
}

impl Claim {
    /// Takes the name `tun`, and removes the files of those who were killed.
    ///
    /// # Errors
    /// [`KernelError::Running`] if another process holds it; [`KernelError::NotPermitted`].
    pub fn take(tun: &str) -> Result<Self, KernelError> {
        super::access::may_change()?;
        let lock =
            lock(directory(), &gateway_name(tun), ASKING)?.ok_or_else(|| KernelError::Running(tun.to_owned()))?;
        sweep(directory());
        Ok(Self { _lock: lock })
    }

    /// Whether a gateway of that name is running, here or in another process.
    pub(super) fn is_taken(tun: &str) -> bool {
        place(directory(), &gateway_name(tun)).is_ok_and(|path| LockFile::is_taken(&path))
    }
}

/// Held while the network of this namespace is looked at and changed, so that two gateways cannot
/// both find a pool free.
#[derive(Debug)]
pub(super) struct SetUpLock {
    _lock: LockFile,
}

impl SetUpLock {
    /// Waits up to ten seconds for its turn.
    pub(super) fn take() -> Result<Self, KernelError> {
        let lock = lock(directory(), "set-up", PATIENCE)?.ok_or(KernelError::Busy(PATIENCE.as_secs()))?;
        Ok(Self { _lock: lock })
    }
}

/// The directory of the locks: the one of the default control socket, wherever this gateway has its own, for gateways
/// must find each other.
pub fn directory() -> &'static Path {
    Path::new(DEFAULT_CONTROL).parent().unwrap_or(Path::new("/run"))
}

fn gateway_name(tun: &str) -> String {
    format!("gateway-{tun}")
}

/// The file of a lock in the network namespace of this thread.
pub(super) fn place(directory: &Path, name: &str) -> io::Result<PathBuf> {
    let namespace = std::fs::metadata("/proc/thread-self/ns/net")?;
    Ok(directory.join(format!("{name}.{}-{}.lock", namespace.dev(), namespace.ino())))
}

/// Removes the locks of gateways that were killed, in whatever namespace. One that is held stays; a gateway that is about
/// to take one of them finds it gone and makes another.
fn sweep(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.starts_with(b"gateway-") && name.ends_with(b".lock") {
            drop(LockFile::take(&path)); // whatever it says, the next start tries again
        }
    }
}

fn lock(directory: &Path, name: &str, patience: Duration) -> Result<Option<LockFile>, KernelError> {
    let start = Instant::now();
    loop {
        match make_private(directory).and_then(|()| LockFile::take(&place(directory, name)?)) {
            Ok(None) if start.elapsed() < patience => std::thread::sleep(PAUSE),
            Ok(lock) => return Ok(lock),
            Err(source) => return Err(KernelError::Lock { directory: directory.to_owned(), source }),
        }
    }
}

/// `/run` is empty after each boot.
fn make_private(directory: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let about = std::fs::symlink_metadata(directory)?;
    let me = rustix::process::geteuid().as_raw();
    let private = about.is_dir() && (about.uid() == 0 || about.uid() == me) && about.mode() & 0o022 == 0;
    if private { Ok(()) } else { Err(io::Error::other("others than root can write there")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_name_is_taken_once_and_free_again_when_dropped() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (directory, no_time) = (scratch.path(), Duration::ZERO);
        let path = place(directory, "x").expect("a path");
        assert!(!LockFile::is_taken(&path));
        let first = lock(directory, "x", no_time).expect("asked");
        assert!(first.is_some() && LockFile::is_taken(&path));
        assert!(lock(directory, "x", no_time).expect("asked").is_none());
        assert!(lock(directory, "y", no_time).expect("asked").is_some());
        drop(first);
        assert!(!LockFile::is_taken(&path) && !path.exists());
        assert!(lock(directory, "x", no_time).expect("asked").is_some());
    }

    #[test]
    fn a_name_is_not_lost_to_somebody_who_only_asks() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = place(scratch.path(), "x").expect("a path");
        std::thread::scope(|scope| {
            scope.spawn(|| (0..2000).filter(|_| LockFile::is_taken(&path)).count());
            for _ in 0..100 {
                assert!(lock(scratch.path(), "x", PATIENCE).expect("asked").is_some());
            }
        });
    }

    #[test]
    fn the_locks_of_the_killed_are_removed_and_those_of_the_living_stay() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = |name: &str| scratch.path().join(name);
        let names = ["gateway-killed.4-1.lock", "gateway-living.4-2.lock", "other.lock", "gateway-notes.txt"];
        for name in names {
            std::fs::write(path(name), "").expect("written");
        }
        let living = LockFile::take(&path(names[1])).expect("asked").expect("free");
        sweep(scratch.path());
        assert_eq!(names.map(|name| path(name).exists()), [false, true, true, true]);
        assert!(LockFile::is_taken(&path(names[1])));
        drop(living);
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let scratch = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o777)).expect("changed");
        let refused = lock(scratch.path(), "x", Duration::ZERO).expect_err("not private");
        assert!(matches!(refused, KernelError::Lock { .. }), "{refused}");
    }
}
