//! A lock that is a file: it ends with its process, whatever kills it, and only who may write the directory can take it.

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// How often the file may be pulled away under us before we give up.
const ATTEMPTS: usize = 100;

/// A file that is locked for as long as this lives, and removed when it is dropped.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    _locked: OwnedFd,
}

impl LockFile {
    /// Takes the lock at `path`, private to this user; `None` if another holds it.
    ///
    /// # Errors
    /// What the system says of the file.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..ATTEMPTS {
            let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // Its last owner may have removed it between our opening and our locking: then others lock another file.
            let ours = rustix::fs::fstat(&file)?;
            match rustix::fs::lstat(path) {
                Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => {
                    return Ok(Some(Self { path: path.to_owned(), _locked: file }));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Whether another holds the lock at `path`. Asking takes it for a moment.
    pub fn is_taken(path: &Path) -> bool {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else { return false };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // While locked: a process that waits for it sees that it is gone and makes another.
        let _ = std::fs::remove_file(&self.path);
    }
}
