//! Files that only their owner can read, written whole or not at all.

use super::error::IdentityError;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Keys and certificates are far smaller.
const LARGEST: u64 = 64 << 10;

/// Makes the directory with mode 0700 if it is not there.
///
/// # Errors
/// [`IdentityError::NotPrivate`] if others own it or can write to it, or what the system said.
pub fn private_directory(path: &Path) -> Result<(), IdentityError> {
    let failed = |error| IdentityError::File { path: path.to_owned(), error };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.mode() & 0o022 != 0 || !is_trusted(metadata.uid()) {
        return Err(IdentityError::NotPrivate(path.to_owned()));
    }
    Ok(())
}

/// What is in a file that only its owner may read; `None` if there is none.
///
/// # Errors
/// [`IdentityError::Exposed`], [`IdentityError::Foreign`], [`IdentityError::Damaged`] if it is no file or far too long, or
/// what the system said.
pub fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>, IdentityError> {
    let exposed = |mode| IdentityError::Exposed { path: path.to_owned(), mode };
    read(path, &|mode| if mode & 0o077 == 0 { Ok(()) } else { Err(exposed(mode)) })
}

/// What is in a file that all may read and only its owner may write; `None` if there is none.
///
/// # Errors
/// Those of [`read_private`], but [`IdentityError::Writable`] instead of [`IdentityError::Exposed`].
pub fn read_public(path: &Path) -> Result<Option<Zeroizing<String>>, IdentityError> {
    let writable = |mode| IdentityError::Writable { path: path.to_owned(), mode };
    read(path, &|mode| if mode & 0o022 == 0 { Ok(()) } else { Err(writable(mode)) })
}

/// What is in a file, if its permission bits are right.
fn read(
    path: &Path,
    check: &dyn Fn(u32) -> Result<(), IdentityError>,
) -> Result<Option<Zeroizing<String>>, IdentityError> {
    let failed = |error| IdentityError::File { path: path.to_owned(), error };
    let damaged = |what: &str| IdentityError::Damaged { path: path.to_owned(), what: what.to_owned() };
    // Opening a pipe must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => {
            return Err(failed(io::Error::other("it is a symbolic link; the file itself must be here")));
        }
        Err(error) => return Err(failed(error.into())),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(damaged("it is no file"));
    }
    check(metadata.mode() & 0o7777)?;
    if !is_trusted(metadata.uid()) {
        return Err(IdentityError::Foreign(path.to_owned()));
    }
    if metadata.len() > LARGEST {
        return Err(damaged("it is far too long"));
    }
    // Room for all from the start: a text that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    match file.take(LARGEST).read_to_string(&mut text) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(damaged("it is no text")),
        Err(error) => Err(failed(error)),
    }
}

/// Writes the file, whole and on disk, in place of what was there.
pub fn replace(path: &Path, text: &str) -> Result<(), IdentityError> {
    draft(path, text)
        .and_then(|draft| draft.persist(path))
        .map_err(|error| IdentityError::File { path: path.to_owned(), error })
}

/// Writes the file, whole and on disk, unless there is one already: then it is left as it is, and `false` is returned.
pub fn create(path: &Path, text: &str) -> Result<bool, IdentityError> {
    match draft(path, text).and_then(|draft| draft.persist_new(path)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(IdentityError::File { path: path.to_owned(), error }),
    }
}

/// Makes the file if it is not there, and lets nobody else read it: SQLite gives its log the same mode.
pub fn private(path: &Path) -> Result<(), IdentityError> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let owner = Mode::RUSR | Mode::WUSR;
    let made = rustix::fs::open(path, flags, owner).and_then(|file| rustix::fs::fchmod(&file, owner));
    made.map_err(|error| IdentityError::File { path: path.to_owned(), error: error.into() })
}

/// A file beside the one that it becomes, removed when it does not.
struct Draft(Option<PathBuf>);

impl Draft {
    fn persist(mut self, path: &Path) -> io::Result<()> {
        if let Some(draft) = &self.0 {
            std::fs::rename(draft, path)?;
        }
        self.0 = None;
        sync_directory(path)
    }

    /// A link, other than a rename, fails where there is a file.
    fn persist_new(self, path: &Path) -> io::Result<()> {
        if let Some(draft) = &self.0 {
            std::fs::hard_link(draft, path)?;
        }
        drop(self);
        sync_directory(path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(draft) = &self.0 {
            let _ = std::fs::remove_file(draft); // nothing depends on it
        }
    }
}

fn draft(path: &Path, text: &str) -> io::Result<Draft> {
    let number = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number:016x}.new"));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::open(&name, flags, Mode::RUSR | Mode::WUSR)?);
    let draft = Draft(Some(name.into()));
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(draft)
}

/// Names are on disk with the directory they are in.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Whether a file of this user can be believed: root's, and one's own.
fn is_trusted(user: u32) -> bool {
    [0, rustix::process::geteuid().as_raw()].contains(&user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn files_are_written_whole_and_for_their_owner_only() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("a/b");
        private_directory(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);
        let path = directory.join("key");
        assert!(read_private(&path).unwrap().is_none());
        assert!(create(&path, "one").unwrap());
        assert!(!create(&path, "two").unwrap());
        assert_eq!(read_private(&path).unwrap().unwrap().as_str(), "one");
        replace(&path, "three").unwrap();
        assert_eq!(read_private(&path).unwrap().unwrap().as_str(), "three");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "drafts are left");
    }

    #[test]
    fn what_others_can_read_or_put_there_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("key");
        create(&path, "one").unwrap();
        for wrong in [0o640, 0o604, 0o620, 0o601] {
            chmod(&path, wrong);
            assert!(matches!(read_private(&path), Err(IdentityError::Exposed { mode, .. }) if mode == wrong));
        }
        chmod(&path, 0o400);
        assert!(read_private(&path).is_ok());
        chmod(&path, 0o644);
        assert!(read_public(&path).is_ok());
        chmod(&path, 0o646);
        assert!(matches!(read_public(&path), Err(IdentityError::Writable { mode: 0o646, .. })));
        let link = scratch.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(read_private(&link).unwrap_err().to_string().contains("symbolic link"));
        assert!(matches!(read_private(scratch.path()), Err(IdentityError::Damaged { .. })));
        chmod(scratch.path(), 0o770);
        assert!(matches!(private_directory(scratch.path()), Err(IdentityError::NotPrivate(_))));
        chmod(scratch.path(), 0o755);
        assert!(private_directory(scratch.path()).is_ok());
    }

    #[test]
    fn what_is_no_text_or_too_long_is_damaged() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("key");
        create(&path, "").unwrap();
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(read_private(&path), Err(IdentityError::Damaged { .. })));
        std::fs::write(&path, vec![b'a'; 100_000]).unwrap();
        assert!(matches!(read_private(&path), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error_with_its_path() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("none/key");
        for error in [create(&path, "a").unwrap_err(), replace(&path, "a").unwrap_err(), private(&path).unwrap_err()] {
            assert!(error.to_string().contains("none/key"), "{error}");
        }
        assert!(private_directory(Path::new("/dev/null/a")).is_err());
    }
}
