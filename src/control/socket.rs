//! The socket file: one server a path, private from its first moment, gone when the server is.

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Connections that wait to be taken.
const BACKLOG: i32 = 64;
/// How often the lock file may be pulled away under us before we give up.
const LOCK_ATTEMPTS: usize = 100;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process serves it.
    #[error("another gateway serves {0}; stop it, or choose another socket with --control")]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{0} is there and is no socket; remove it, or choose another socket with --control")]
    NotASocket(PathBuf),
    /// The path has no directory, or names one.
    #[error("{0} cannot be a socket: give the path of a file with --control")]
    NotAFile(PathBuf),
    /// The directory cannot be made.
    #[error("cannot make {directory} for the control socket: {error}; choose another socket with --control")]
    Directory {
        /// Which.
        directory: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The lock file cannot be had.
    #[error("cannot lock {lock} for the control socket: {error}; choose another socket with --control")]
    Lock {
        /// Which.
        lock: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The socket cannot be made.
    #[error("cannot make the control socket {path}: {error}; choose another with --control")]
    Socket {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The port of the metrics cannot be had.
    #[error("cannot tell metrics on {address}: {error}; choose another port with --metrics")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The thread that serves it cannot be started.
    #[error("cannot start the thread of the control socket: {0}")]
    Thread(io::Error),
}

/// A socket file that is ours. Dropping it removes the file.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    lock_path: PathBuf,
    /// Device and inode of the socket file.
    identity: (u64, u64),
    /// Locked for as long as it is open.
    _lock: OwnedFd,
}

impl SocketFile {
    /// Makes the socket and listens. What a dead process left at `path` is replaced.
    pub fn listen(path: &Path) -> Result<(Self, UnixListener), ControlError> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ControlError::NotAFile(path.to_owned()));
        };
        make_directory(directory)?;
        let mut lock_name = name.to_owned();
        lock_name.push(".lock");
        let lock_path = directory.join(lock_name);
        let lock = lock(&lock_path, path)?;
        // From here on nobody else comes near the path.
        let made = remove_stale(path).and_then(|()| {
            let failed = |error: io::Error| ControlError::Socket { path: path.to_owned(), error };
            let listener = private_listener(path).map_err(failed)?;
            let made = std::fs::symlink_metadata(path).map_err(failed)?;
            Ok((listener, (made.dev(), made.ino())))
        });
        match made {
            Ok((listener, identity)) => {
                Ok((Self { path: path.to_owned(), lock_path, identity, _lock: lock }, listener))
            }
            Err(error) => {
                let _ = std::fs::remove_file(&lock_path);
                Err(error)
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
        // While locked: whoever waits for it sees that it is gone and makes another.
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Makes the last component if it is missing: `/run/kamei` is gone after each boot.
fn make_directory(directory: &Path) -> Result<(), ControlError> {
    match std::fs::DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(ControlError::Directory { directory: directory.to_owned(), error })
        }
        _ => Ok(()),
    }
}

/// The lock, not the socket, says whether somebody serves: it ends with its process, and taking it is atomic.
fn lock(lock: &Path, path: &Path) -> Result<OwnedFd, ControlError> {
    let failed = |error: Errno| ControlError::Lock { lock: lock.to_owned(), error: error.into() };
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..LOCK_ATTEMPTS {
        let file = rustix::fs::open(lock, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(ControlError::InUse(path.to_owned())),
            Err(error) => return Err(failed(error)),
        }
        // Its last owner may have removed it between our opening and our locking: then others lock another file.
        let ours = rustix::fs::fstat(&file).map_err(failed)?;
        match rustix::fs::lstat(lock) {
            Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => return Ok(file),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(ControlError::InUse(path.to_owned()))
}

fn remove_stale(path: &Path) -> Result<(), ControlError> {
    let failed = |error| ControlError::Socket { path: path.to_owned(), error };
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => {}
        Ok(_) => return Err(ControlError::NotASocket(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    // A program that knows nothing of our lock may serve it.
    match connects(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(failed),
        _ => Err(ControlError::InUse(path.to_owned())),
    }
}

/// Without waiting: a full queue means that somebody serves, if slowly.
fn connects(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?)
}

/// The file appears with mode 0600: Linux gives it the mode of the socket, less the umask.
fn private_listener(path: &Path) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
