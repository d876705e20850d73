//! The socket file: one server a path, private from its first moment, gone when the server is.

use crate::host::LockFile;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Connections that wait to be taken: more than the members of the readers' group are likely to fill at once.
const BACKLOG: i32 = 1024;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process serves it.
    #[error("another process of kamei serves {0}; stop it, or choose another socket with --control")]
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
        /// Of the socket file.
        directory: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The lock file cannot be had.
    #[error("cannot lock {lock} for the control socket: {error}; choose another socket with --control")]
    Lock {
        /// The file beside the socket.
        lock: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The socket cannot be made.
    #[error("cannot make the control socket {path}: {error}; choose another with --control")]
    Socket {
        /// The socket file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The thread that serves it cannot be started.
    #[error("cannot start the thread of the control socket: {0}; this machine may be out of threads or memory")]
    Thread(io::Error),
}

/// A socket file that is ours. Dropping it removes the file.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode of the socket file.
    identity: (u64, u64),
    /// The lock, not the socket, says whether another process serves: taking it is atomic. Dropped last.
    _lock: LockFile,
}

impl SocketFile {
    /// Makes the socket and listens. What a dead process left at `path` is replaced.
    ///
    /// Members of the group `readers` may connect as well.
    pub fn listen(path: &Path, readers: Option<u32>) -> Result<(Self, UnixListener), ControlError> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ControlError::NotAFile(path.to_owned()));
        };
        make_directory(directory)?;
        let mut lock_name = name.to_owned();
        lock_name.push(".lock");
        let lock_path = directory.join(lock_name);
        let lock = LockFile::take(&lock_path)
            .map_err(|error| ControlError::Lock { lock: lock_path, error })?
            .ok_or_else(|| ControlError::InUse(path.to_owned()))?;
        // From here on nobody else comes near the path.
        remove_stale(path)?;
        let failed = |error: io::Error| ControlError::Socket { path: path.to_owned(), error };
        let listener = private_listener(path, readers).map_err(failed)?;
        let made = std::fs::symlink_metadata(path).map_err(failed)?;
        Ok((Self { path: path.to_owned(), identity: (made.dev(), made.ino()), _lock: lock }, listener))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
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

/// Without waiting: a full queue means that a process serves, if slowly.
fn connects(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?)
}

/// The file appears with mode 0600: Linux gives it the mode of the socket, less the umask.
fn private_listener(path: &Path, readers: Option<u32>) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    if let Some(group) = readers {
        rustix::fs::chown(path, None, Some(rustix::fs::Gid::from_raw(group)))?;
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP)?;
    }
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
