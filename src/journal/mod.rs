//! The journal: bindings survive.
//!
//! | file | what |
//! | --- | --- |
//! | `store.rs` | the state file |
//! | `row.rs` | its rows, each with a sum |
//! | `moment.rs` | how time goes on from one process to the next |
//! | `open.rs` | the lock, opening, what becomes of a damaged file |
//! | `tail.rs` | whether all of its write-ahead log can be read |
//! | `lines.rs` | bindings as text, to take them elsewhere |
//! | `keeper.rs` | the thread that syncs, and writes what can wait |
//! | `anew.rs` | another file in place of one that a sync has failed for |
//! | `history/` | who had which virtual IP when, in a file of its own |
//!
//! The table is the truth, the file follows: a change is recorded by reading what the table says *now* about a virtual IP
//! and writing that, under one lock. So it does not matter in which order threads bring their changes.
//!
//! A worker records new bindings, their waking and new contacts before it writes the packets that made them. Everything
//! else (last use, what housekeeping changes) is marked and written by the keeper within the sync interval.

mod anew;
pub mod history;
mod keeper;
mod lines;
mod moment;
mod open;
mod progress;
mod row;
mod store;
mod tail;

pub use keeper::Keeper;
pub use lines::{LineError, read as read_lines, read_with as read_lines_with, write as write_lines};
pub use moment::{Moment, Reading};
pub use open::{Found, Opened, StateFile, look, look_at};
pub use progress::{Progress, Stage};

use crate::nat::{Nat, Receipt, Restored, StoredBinding};
use history::{By, Happened, History, HistoryAnswer, HistoryQuestion, HistorySettings, HistoryStatus};
use parking_lot::{Condvar, Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use store::{Store, Write};

/// How long the journal may take, and what it does when it cannot write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    /// When a first packet may leave.
    pub durability: Durability,
    /// What becomes of new bindings while the disk takes nothing.
    pub when_disk_fails: WhenDiskFails,
    /// Time between two syncs: what a power cut can cost at most.
    pub sync_interval: Duration,
    /// How much of the history is kept; `None`: nothing.
    pub history: Option<HistorySettings>,
}

pub use crate::config::{Durability, WhenDiskFails};

/// What is wrong with the state file.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused a file or directory.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// There is nothing to look at.
    #[error("there is no state file {0}; --config, --state-dir and --tun say which")]
    Missing(PathBuf),
    /// Others could put files of theirs into the directory.
    #[error(
        "{0} belongs to another user, or can be written by others; the state directory must be private (chown, chmod 700)"
    )]
    NotPrivate(PathBuf),
    /// Somebody has it open.
    #[error("{0} is in use by another process: a running gateway of that name, or `kamei state`")]
    InUse(PathBuf),
    /// The file system is no place for it.
    #[error("{0} can have no log beside it here; put the state directory on a local file system that can be written")]
    NoLog(PathBuf),
    /// A later kamei wrote it.
    #[error("{path} is of version {version}, this kamei knows {known} at most; use the kamei that wrote it")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: i32,
        /// The latest known.
        known: i32,
    },
    /// It is not what was written.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// What the system has of it may never reach the disk.
    #[error("{path} cannot be synced: {error}")]
    NotSynced {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: String,
    },
    /// A sync has failed, and it is not replaced yet.
    #[error("{0} is being written anew, because a sync has failed")]
    BeingReplaced(PathBuf),
    /// SQLite refused something else: a full disk, mostly.
    #[error("{path}: {error}")]
    Store {
        /// The file.
        path: PathBuf,
        /// What it said.
        error: rusqlite::Error,
    },
}

/// What all threads share of the journal.
pub struct Journal {
    nat: RwLock<Arc<Nat>>,
    settings: JournalSettings,
    path: PathBuf,
    /// `None` while another file is made.
    store: Mutex<Option<Store>>,
    /// Virtual IPs whose rows are to be written when there is time.
    marked: Mutex<HashSet<IpAddr>>,
    /// Counts commits.
    written: AtomicU64,
    /// The last commit that is on disk.
    synced: Mutex<u64>,
    /// Signalled when a commit waits for the disk, and when one is there.
    waiting: Condvar,
    arrived: Condvar,
    /// Why nothing can be written, while that is so.
    failing: Mutex<Option<String>>,
    is_failing: AtomicBool,
    /// A sync has failed, and all that the file holds has not been written again since.
    is_doubted: AtomicBool,
    history: Option<History>,
    clock: Box<dyn Fn() -> Moment + Send + Sync>,
    _file: StateFile,
}

/// Bindings that the system has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The commit, for [`Journal::may_leave`].
    pub commit: u64,
    receipts: Vec<Receipt>,
}

impl Recorded {
    /// Takes out what is about bindings that were on record before: they wait for no disk.
    pub fn take_known(&mut self) -> Self {
        let known = self.receipts.extract_if(.., |receipt| !receipt.is_of_a_new_binding()).collect();
        Self { commit: self.commit, receipts: known }
    }
}

/// How the journal is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Commits since the start.
    pub commits: u64,
    /// The last of them that is on disk.
    pub synced: u64,
    /// Why nothing can be written; `None`: it can.
    pub failing: Option<String>,
}

impl Journal {
    /// Puts what the file says into `nat` and records from there on.
    pub fn start(
        opened: Opened,
        nat: Arc<Nat>,
        settings: JournalSettings,
        clock: impl Fn() -> Moment + Send + Sync + 'static,
    ) -> (Arc<Self>, Restored) {
        let Opened { store, file, bindings, .. } = opened;
        let now = clock();
        let restored = nat.restore(bindings, now.time);
        let history = settings.history.map(|settings| History::start(file.path(), settings, &nat, &now));
        match &history {
            Some(history) => {
                let misfits = restored.misfits.iter().map(|misfit| misfit.binding.clone());
                history.note_aside(misfits, By::Start, now.time);
                history.note(&nat, &restored.changed, (By::Start, None), now.time);
            }
            None => History::remove(file.path()),
        }
        nat.start_recording();
        let journal = Self {
            nat: RwLock::new(nat),
            settings,
            path: file.path().to_owned(),
            store: Mutex::new(Some(store)),
            marked: Mutex::new(restored.changed.iter().copied().collect()),
            written: AtomicU64::new(0),
            synced: Mutex::new(0),
            waiting: Condvar::new(),
            arrived: Condvar::new(),
            failing: Mutex::default(),
            is_failing: AtomicBool::new(false),
            is_doubted: AtomicBool::new(false),
            history,
            clock: Box::new(clock),
            _file: file,
        };
        (Arc::new(journal), restored)
    }

    /// Whether first packets wait for the disk.
    pub fn is_strict(&self) -> bool {
        self.settings.durability == Durability::Strict
    }

    /// Records bindings as they are now, and those of their contacts that packets wait for. When this returns, the system
    /// has them, and they outlive this process.
    ///
    /// # Errors
    /// Nothing could be written: packets of new bindings must not leave. (Where those are allowed all the same, there is no
    /// such error.)
    pub fn record(&self, virtual_ips: &[IpAddr]) -> Result<Recorded, NotRecorded> {
        self.note(virtual_ips, By::Itself);
        match self.write(virtual_ips) {
            Ok(recorded) => Ok(recorded),
            Err(error) => {
                self.fail(&error);
                self.marked.lock().extend(virtual_ips);
                let nat = self.nat.read();
                virtual_ips.iter().for_each(|virtual_ip| nat.let_go(*virtual_ip));
                match self.settings.when_disk_fails {
                    WhenDiskFails::Refuse => Err(NotRecorded),
                    WhenDiskFails::Allow => Ok(Recorded { commit: 0, receipts: Vec::new() }),
                }
            }
        }
    }

    /// What the administrator changed, and how: recorded and on disk when this returns, and in the history.
    ///
    /// # Errors
    /// What to tell them.
    pub fn record_and_sync(&self, virtual_ips: &[IpAddr], done: Happened, by: By) -> Result<(), String> {
        self.note_done(virtual_ips, by, Some(done));
        let failed = |why: &dyn std::fmt::Display| {
            format!("done, but not on disk ({why}); it will be written as soon as that is possible")
        };
        let recorded = self.write(virtual_ips).map_err(|error| {
            self.fail(&error);
            self.marked.lock().extend(virtual_ips);
            failed(&error)
        })?;
        let mut synced = self.synced.lock();
        self.waiting.notify_one();
        let patience = self.settings.sync_interval + Duration::from_secs(5);
        let late = self.arrived.wait_while_for(&mut synced, |synced| *synced < recorded.commit, patience).timed_out();
        drop(synced);
        self.settle(&recorded);
        if late { Err(failed(&"the disk is slow")) } else { Ok(()) }
    }

    /// A binding was changed in a way that can wait.
    pub fn mark(&self, virtual_ip: IpAddr, by: By) {
        self.note(&[virtual_ip], by);
        self.marked.lock().insert(virtual_ip);
    }

    /// Bindings are in force again as they were recorded.
    pub fn note(&self, virtual_ips: &[IpAddr], by: By) {
        self.note_done(virtual_ips, by, None);
    }

    fn note_done(&self, virtual_ips: &[IpAddr], by: By, done: Option<Happened>) {
        if let Some(history) = &self.history {
            history.note(&self.nat.read(), virtual_ips, (by, done), (self.clock)().time);
        }
    }

    /// Bindings are in force no more; their rows are kept.
    pub fn note_aside(&self, bindings: impl Iterator<Item = StoredBinding>, by: By) {
        if let Some(history) = &self.history {
            history.note_aside(bindings, by, (self.clock)().time);
        }
    }

    /// Who had which virtual IP when.
    ///
    /// # Errors
    /// What to tell who asks.
    pub fn history(&self, question: &HistoryQuestion) -> Result<HistoryAnswer, String> {
        let history = self.history.as_ref().ok_or("history = \"0\": this gateway keeps none")?;
        let nat = Arc::clone(&self.nat.read());
        history.ask(question, &nat, &(self.clock)())
    }

    /// How the history is.
    pub fn history_status(&self) -> HistoryStatus {
        self.history.as_ref().map(History::status).unwrap_or_default()
    }

    /// Whether the packets of a commit may leave: it is on disk, or nothing can be and that is allowed.
    pub fn may_leave(&self, commit: u64) -> bool {
        *self.synced.lock() >= commit || (self.is_failing.load(Ordering::Acquire) && !self.refuses())
    }

    /// The packets of these bindings may leave from now on.
    pub fn settle(&self, recorded: &Recorded) {
        let nat = self.nat.read();
        recorded.receipts.iter().for_each(|receipt| nat.recorded(receipt));
    }

    /// How it is.
    pub fn status(&self) -> JournalStatus {
        JournalStatus {
            commits: self.written.load(Ordering::Acquire),
            synced: *self.synced.lock(),
            failing: self.failing.lock().clone(),
        }
    }

    /// The bindings of the file that the tables do not hold, because no pool has their virtual IPs or they are reserved.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn kept_aside(&self) -> Result<Vec<StoredBinding>, JournalError> {
        let nat = Arc::clone(&self.nat.read());
        let mut aside = Vec::new();
        // A connection of its own: nobody waits for a long file to be read.
        self.with_store(|store| store.again())?.load(|binding| {
            if nat.stored(binding.virtual_ip).is_none() {
                aside.push(binding);
            }
        })?;
        // What is marked has ended, and its row is about to go.
        let marked = self.marked.lock();
        aside.retain(|binding| !marked.contains(&binding.virtual_ip) || !nat.is_in_a_pool(binding.virtual_ip));
        Ok(aside)
    }

    /// Other settings, and with them another translator, are in force.
    pub fn adopt(&self, nat: Arc<Nat>) {
        let mut place = self.nat.write();
        nat.start_recording();
        nat.refuse_unrecorded(self.refuses());
        *place = nat;
    }

    fn write(&self, virtual_ips: &[IpAddr]) -> Result<Recorded, JournalError> {
        let nat = Arc::clone(&self.nat.read());
        let (mut receipts, mut contacts) = (Vec::with_capacity(virtual_ips.len()), Vec::new());
        let commit = self.with_store(|store| {
            let writes: Vec<Write> = virtual_ips
                .iter()
                .filter_map(|virtual_ip| match nat.stored(*virtual_ip) {
                    Some((binding, mut receipt)) => {
                        contacts.extend(nat.owed_contacts(*virtual_ip, &mut receipt));
                        receipts.push(receipt);
                        Some(Write::Put(binding))
                    }
                    // The row of one whose pool has gone is kept for the day it comes back.
                    None => nat.is_in_a_pool(*virtual_ip).then_some(Write::Remove(*virtual_ip)),
                })
                .collect();
            store.write(&writes, &contacts)?;
            Ok(self.written.fetch_add(1, Ordering::AcqRel) + 1)
        })?;
        if self.is_strict() {
            self.waiting.notify_one();
        }
        Ok(Recorded { commit, receipts })
    }

    /// Works on the file. Nobody waits for one that is being replaced.
    fn with_store<T>(&self, work: impl FnOnce(&mut Store) -> Result<T, JournalError>) -> Result<T, JournalError> {
        let mut store = self.store.lock();
        work(store.as_mut().ok_or_else(|| JournalError::BeingReplaced(self.path.clone()))?)
    }

    /// Writes what was marked.
    fn write_marked(&self) -> Result<(), JournalError> {
        loop {
            let some: Vec<IpAddr> = {
                let mut marked = self.marked.lock();
                let some: Vec<IpAddr> = marked.iter().take(MARKED_AT_ONCE).copied().collect();
                some.iter().for_each(|virtual_ip| {
                    marked.remove(virtual_ip);
                });
                some
            };
            if some.is_empty() {
                return Ok(());
            }
            match self.write(&some) {
                Ok(recorded) => self.settle(&recorded),
                Err(error) => {
                    self.marked.lock().extend(some);
                    return Err(error);
                }
            }
        }
    }

    fn fail(&self, error: &JournalError) {
        if matches!(error, JournalError::NotSynced { .. }) {
            self.is_doubted.store(true, Ordering::Release);
        }
        let mut failing = self.failing.lock();
        if failing.is_none() {
            let what = match self.settings.when_disk_fails {
                WhenDiskFails::Refuse => "new bindings are refused until it can be written again",
                WhenDiskFails::Allow => "new bindings are made all the same and would be forgotten by a restart",
            };
            log::error!("cannot record bindings: {error}; {what}");
        }
        *failing = Some(error.to_string());
        self.is_failing.store(true, Ordering::Release);
        self.nat.read().refuse_unrecorded(self.refuses());
    }

    fn recover(&self) {
        if self.is_failing.swap(false, Ordering::AcqRel) {
            *self.failing.lock() = None;
            self.nat.read().refuse_unrecorded(false);
            log::info!("{} can be written again; all bindings are recorded", self.path.display());
        }
    }

    fn refuses(&self) -> bool {
        self.is_failing.load(Ordering::Acquire) && self.settings.when_disk_fails == WhenDiskFails::Refuse
    }
}

/// Marked rows written in one transaction.
const MARKED_AT_ONCE: usize = 512;

/// Nothing could be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRecorded;

#[cfg(test)]
mod tests;
