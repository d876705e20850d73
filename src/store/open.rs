//! The lock, opening, and what becomes of a damaged file.

use super::StoreError;
use super::backend::Write;
use super::files::{beside, finish};
use super::log_check::torn;
use super::moment::{Moment, Reading};
use super::progress::{Progress, Stage};
use super::state_file::{AT_ONCE, Database, Salvaged};
use crate::nat::{ContactChange, StoredBinding, StoredContact};
use crate::time::Time;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The right to a gateway's state file, for as long as it lives.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    progress: Progress,
    _lock: rustix::fd::OwnedFd,
}

/// A state file that is open, and what it says.
pub struct Opened {
    pub(super) store: Database,
    pub(super) file: StateFile,
    pub(super) bindings: Vec<StoredBinding>,
    /// What the last process has noted of the time.
    last: Option<Moment>,
}

impl Opened {
    /// The gateway's time now, when the clocks say `now`.
    pub fn resumed(&self, now: Reading) -> Moment {
        let times = |binding: &StoredBinding| {
            let contacts = binding.contacts.iter().map(|contact| contact.last).max().unwrap_or(0);
            binding.created.max(binding.last_used).max(contacts)
        };
        let newest = self.bindings.iter().map(times).max().unwrap_or(0);
        Moment::resumed(self.last, Time::from_secs(newest.into()), now)
    }
}

/// What a state file says.
pub struct Found {
    /// The bindings that can be read, with times of the wall clock, as it was last noted.
    pub bindings: Vec<StoredBinding>,
    /// Why there may have been more.
    pub damage: Option<StoreError>,
}

impl StateFile {
    /// Takes the file of the gateway `tun` in `state_dir`, which is made if it is not there.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::NotPrivate`], or what the system said.
    pub fn take(state_dir: &Path, tun: &str) -> Result<Self, StoreError> {
        let failed = |path: &Path, error| StoreError::File { path: path.to_owned(), error };
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
        made.map_err(|error| failed(state_dir, error))?;
        let metadata = std::fs::metadata(state_dir).map_err(|error| failed(state_dir, error))?;
        let me = rustix::process::geteuid().as_raw();
        if metadata.mode() & 0o022 != 0 || ![0, me].contains(&metadata.uid()) {
            return Err(StoreError::NotPrivate(state_dir.to_owned()));
        }
        let lock_path = state_dir.join(format!("{tun}.lock"));
        let path = Self::path_in(state_dir, tun);
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = rustix::fs::open(&lock_path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| failed(&lock_path, error.into()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                finish(&path).map_err(|error| failed(&path, error))?;
                Ok(Self { path, progress: Progress::default(), _lock: lock })
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse(path)),
            Err(error) => Err(failed(&lock_path, error.into())),
        }
    }

    /// Where the file of the gateway `tun` is.
    pub fn path_in(state_dir: &Path, tun: &str) -> PathBuf {
        state_dir.join(format!("{tun}.db"))
    }

    /// The holder of `progress` sees how far reading and writing have come.
    pub fn watched(self, progress: &Progress) -> Self {
        Self { progress: progress.clone(), ..self }
    }

    /// Puts `bindings` in place of all that it holds, all or none. It stays taken as long as what this returns is kept.
    pub fn replace(self, bindings: &[StoredBinding]) -> Result<Self, StoreError> {
        Database::open(&self.path)?.replace(bindings, &self.progress)?;
        Ok(self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it and reads it. A damaged one gets another name, and what can be read of it kept: `complain` is told.
    pub fn open(self, now: jiff::Timestamp, complain: &mut dyn FnMut(&str)) -> Result<Opened, StoreError> {
        let torn = torn(&self.path).map_err(|error| StoreError::File { path: self.path.clone(), error })?;
        if let Some(torn) = torn {
            complain(&format!("{}: {torn}", self.path.display()));
        }
        match read(&self.path, &self.progress) {
            Ok((store, bindings)) => {
                if torn.is_some() {
                    let _ = store.empty_log(); // so that it is said once; a full disk is met later
                }
                Ok(Opened { last: store.moment()?, store, file: self, bindings })
            }
            Err(StoreError::Damaged { path, what }) => {
                let aside = rename_damaged(&path, now)?;
                complain(&format!("{} is damaged: {what}; it is now {}", path.display(), aside.display()));
                let (bindings, last, Salvaged { bad_rows, .. }) = salvage(&aside);
                let mut store = Database::open(&path)?;
                for some in bindings.chunks(AT_ONCE) {
                    store.write_whole(some)?;
                }
                if let Some(last) = &last {
                    store.note(last)?;
                }
                complain(&format!(
                    "{} bindings of it could be read and are kept, {bad_rows} rows could not; what else it held is unknown, \
                     and its virtual IPs may be given to other terminals",
                    bindings.len()
                ));
                Ok(Opened { last, store, file: self, bindings })
            }
            Err(error) => Err(error),
        }
    }
}

/// What the file of the gateway `tun` says. The gateway may be running: what it writes meanwhile is not seen. `progress`
/// counts the bindings.
///
/// # Errors
/// [`StoreError::Missing`], [`StoreError::Damaged`], or what the system said. Nothing is renamed.
pub fn look(state_dir: &Path, tun: &str, progress: &Progress) -> Result<Found, StoreError> {
    let path = StateFile::path_in(state_dir, tun);
    if !path.exists() {
        return Err(StoreError::Missing(path));
    }
    let lock = match StateFile::take(state_dir, tun) {
        Err(StoreError::InUse(_)) => None,
        other => Some(other?),
    };
    // A running gateway has looked at its log when it started, and writes it now.
    let torn = if lock.is_some() { torn(&path) } else { Ok(None) };
    let torn = torn.map_err(|error| StoreError::File { path: path.clone(), error })?;
    let (store, mut bindings) = read(&path, progress)?;
    let ahead = store.moment()?.map_or(0, |moment| moment.seconds_ahead());
    bindings.iter_mut().for_each(|binding| binding.shift(ahead));
    store.leave_log();
    Ok(Found { bindings, damage: torn.map(|torn| StoreError::Damaged { path, what: torn.to_string() }) })
}

/// The bindings of a file that nobody is using.
///
/// # Errors
/// As [`look`].
pub fn look_at(path: &Path, progress: &Progress) -> Result<Vec<StoredBinding>, StoreError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    read(path, progress).map(|(_, bindings)| bindings)
}

fn read(path: &Path, progress: &Progress) -> Result<(Database, Vec<StoredBinding>), StoreError> {
    let store = Database::open(path)?;
    progress.begin(Stage::Reading, store.count());
    let mut bindings = Vec::new();
    store.load(|binding| {
        progress.add(1);
        bindings.push(binding);
    })?;
    Ok((store, bindings))
}

/// Gives a damaged file, with its log, another name.
fn rename_damaged(path: &Path, now: jiff::Timestamp) -> Result<PathBuf, StoreError> {
    let stamp = now.strftime("%Y%m%dT%H%M%SZ");
    let named =
        |n: u32| beside(path, &if n == 0 { format!(".damaged-{stamp}") } else { format!(".damaged-{stamp}-{n}") });
    let aside = (0..).map(named).find(|name| !name.exists()).unwrap_or_else(|| named(0));
    let failed = |error| StoreError::File { path: path.to_owned(), error };
    std::fs::rename(path, &aside).map_err(failed)?;
    let _ = std::fs::rename(beside(path, "-wal"), beside(&aside, "-wal")); // there may be none
    let _ = std::fs::remove_file(beside(path, "-shm")); // an index of the log, made anew by who reads it
    Ok(aside)
}

/// Every binding that can be read of a damaged file, and what could not.
fn salvage(path: &Path) -> (Vec<StoredBinding>, Option<Moment>, Salvaged) {
    let mut bindings = Vec::new();
    let opened = Database::open_damaged(path);
    let mut last = None;
    let salvaged = opened.map(|store| {
        last = store.moment().ok().flatten();
        store.salvage(|binding| bindings.push(binding))
    });
    bindings.sort_by_key(|binding| binding.virtual_ip);
    bindings.dedup_by_key(|binding| binding.virtual_ip);
    (bindings, last, salvaged.unwrap_or_default())
}

impl Database {
    /// Puts `bindings`, with times of the wall clock, in place of all rows, in one transaction.
    fn replace(&mut self, bindings: &[StoredBinding], progress: &Progress) -> Result<(), StoreError> {
        let (writes, contacts) = whole(bindings);
        progress.begin(Stage::Writing, (writes.len() + contacts.len()) as u64);
        self.rewrite(&writes, &contacts, progress)
    }

    /// Writes bindings with their contacts.
    pub(super) fn write_whole(&mut self, bindings: &[StoredBinding]) -> Result<(), StoreError> {
        let (writes, contacts) = whole(bindings);
        self.write(&writes, &contacts)
    }
}

fn whole(bindings: &[StoredBinding]) -> (Vec<Write>, Vec<ContactChange>) {
    let contacts = |binding: &StoredBinding| {
        let (virtual_ip, created) = (binding.virtual_ip, binding.created);
        let change = |contact: &StoredContact| ContactChange {
            virtual_ip,
            created,
            peer: contact.peer,
            contact: Some(*contact),
        };
        binding.contacts.iter().map(change).collect::<Vec<_>>()
    };
    (bindings.iter().cloned().map(Write::Put).collect(), bindings.iter().flat_map(contacts).collect())
}
