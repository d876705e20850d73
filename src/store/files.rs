//! The files of the store: beside each other, private, and on disk with their directory.

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// `path` with something appended to its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes the file if it is not there, and lets nobody else read it: SQLite gives its log the same mode.
pub fn private(path: &Path) -> rustix::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)
}

/// Step 2, if there is something to do; nobody may have the state file open.
pub fn finish(path: &Path) -> io::Result<()> {
    let whole = beside(path, ".whole");
    if whole.exists() {
        sync_directory(path)?;
        remove(&beside(path, "-wal"))?;
        remove(&beside(path, "-shm"))?;
        std::fs::rename(&whole, path)?;
        sync_directory(path)?;
    }
    remove_with_log(&beside(path, ".new"))
}

pub fn remove_with_log(path: &Path) -> io::Result<()> {
    ["", "-wal", "-shm"].into_iter().try_for_each(|suffix| remove(&beside(path, suffix)))
}

/// Removes a file that need not be there.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Renames are on disk with the directory they are in.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
