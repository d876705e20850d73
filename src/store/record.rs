//! The store as all threads share it: it records bindings as they are now.

use super::backend::{Backend, Write};
use super::commits::Commits;
use super::error::StoreError;
use super::history::{By, Happened, History, HistoryAnswer, HistoryQuestion, HistorySettings, HistoryStatus};
use super::moment::Moment;
use super::open::{Opened, StateFile};
use crate::config::{Durability, WhenDiskFails};
use crate::nat::{ContactChange, Nat, Receipt, Restored, StoredBinding};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the store may take, and what it does when it cannot write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// When a first packet may leave.
    pub durability: Durability,
    /// What becomes of new bindings while the disk takes nothing.
    pub when_disk_fails: WhenDiskFails,
    /// Time between two syncs: what a power cut can cost at most.
    pub sync_interval: Duration,
    /// How much of the history is kept; `None`: nothing.
    pub history: Option<HistorySettings>,
}

/// What all threads share of the store.
pub struct Store {
    nat: RwLock<Arc<Nat>>,
    settings: StoreSettings,
    path: PathBuf,
    /// `None` while another one is made.
    backend: Mutex<Option<Box<dyn Backend>>>,
    /// Virtual IPs whose rows are to be written when there is time.
    marked: Mutex<HashSet<IpAddr>>,
    commits: Commits,
    /// Why nothing can be written, while that is so.
    failing: Mutex<Option<String>>,
    is_failing: AtomicBool,
    /// A sync has failed, and all that is kept has not been written again since.
    is_doubted: AtomicBool,
    history: Option<History>,
    clock: Box<dyn Fn() -> Moment + Send + Sync>,
    _file: StateFile,
}

/// Bindings that the system has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The commit, for [`Store::may_leave`].
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

/// How the store is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Commits since the start.
    pub commits: u64,
    /// The last of them that is on disk.
    pub synced: u64,
    /// Why nothing can be written; `None`: it can.
    pub failing: Option<String>,
}

impl Store {
    /// Puts what the file says into `nat` and records from there on.
    pub fn start(
        opened: Opened,
        nat: Arc<Nat>,
        settings: StoreSettings,
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
        let store = Self {
            nat: RwLock::new(nat),
            settings,
            path: file.path().to_owned(),
            backend: Mutex::new(Some(Box::new(store))),
            marked: Mutex::new(restored.changed.iter().copied().collect()),
            commits: Commits::default(),
            failing: Mutex::default(),
            is_failing: AtomicBool::new(false),
            is_doubted: AtomicBool::new(false),
            history,
            clock: Box::new(clock),
            _file: file,
        };
        (Arc::new(store), restored)
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

    /// What the operator changed, and how: recorded and on disk when this returns, and in the history.
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
        let is_on_disk = self.commits.wait(recorded.commit, self.settings.sync_interval + Duration::from_secs(5));
        self.mark_recorded(&recorded);
        if is_on_disk { Ok(()) } else { Err(failed(&"the disk is slow")) }
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
        let nat = self.nat();
        history.ask(question, &nat, &(self.clock)())
    }

    /// How the history is.
    pub fn history_status(&self) -> HistoryStatus {
        self.history.as_ref().map(History::status).unwrap_or_default()
    }

    /// Whether the packets of a commit may leave: it is on disk, or nothing can be and that is allowed.
    pub fn may_leave(&self, commit: u64) -> bool {
        self.commits.on_disk() >= commit || (self.is_failing.load(Ordering::Acquire) && !self.refuses())
    }

    /// The packets of these bindings may leave from now on.
    pub fn mark_recorded(&self, recorded: &Recorded) {
        let nat = self.nat.read();
        recorded.receipts.iter().for_each(|receipt| nat.mark_recorded(receipt));
    }

    /// How it is.
    pub fn status(&self) -> StoreStatus {
        StoreStatus {
            commits: self.commits.last(),
            synced: self.commits.on_disk(),
            failing: self.failing.lock().clone(),
        }
    }

    /// The bindings of the file that the tables do not hold, because no pool has their virtual IPs or they are reserved.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn kept_aside(&self) -> Result<Vec<StoredBinding>, StoreError> {
        let nat = self.nat();
        let mut aside = Vec::new();
        // A connection of its own: nobody waits for a long file to be read.
        self.with_backend(|backend| backend.again())?.read(&mut |binding| {
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
    pub fn switch_to(&self, nat: Arc<Nat>) {
        let mut place = self.nat.write();
        nat.start_recording();
        nat.refuse_unrecorded(self.refuses());
        *place = nat;
    }

    fn write(&self, virtual_ips: &[IpAddr]) -> Result<Recorded, StoreError> {
        let nat = self.nat();
        let (mut receipts, mut contacts) = (Vec::with_capacity(virtual_ips.len()), Vec::new());
        let commit = self.with_backend(|backend| {
            let writes: Vec<Write> = virtual_ips
                .iter()
                .filter_map(|virtual_ip| match nat.stored(*virtual_ip) {
                    Some((binding, mut receipt)) => {
                        contacts.extend(nat.unrecorded_contacts(*virtual_ip, &mut receipt));
                        receipts.push(receipt);
                        Some(Write::Put(binding))
                    }
                    // The row of one whose pool has gone is kept for the day it comes back.
                    None => nat.is_in_a_pool(*virtual_ip).then_some(Write::Remove(*virtual_ip)),
                })
                .collect();
            backend.write(&writes, &contacts)?;
            Ok(self.commits.add())
        })?;
        if self.is_strict() {
            self.commits.want();
        }
        Ok(Recorded { commit, receipts })
    }

    /// Works on what is kept. Nobody waits while that is being replaced.
    pub(super) fn with_backend<T>(
        &self,
        work: impl FnOnce(&mut dyn Backend) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut backend = self.backend.lock();
        work(backend.as_mut().ok_or_else(|| self.being_replaced())?.as_mut())
    }

    pub(super) fn being_replaced(&self) -> StoreError {
        StoreError::BeingReplaced(self.path.clone())
    }

    /// Takes it away: nothing is recorded until there is another.
    pub(super) fn take_backend(&self) -> Option<Box<dyn Backend>> {
        self.backend.lock().take()
    }

    /// Goes on with this one.
    pub(super) fn put_backend(&self, backend: Option<Box<dyn Backend>>) {
        *self.backend.lock() = backend;
    }

    /// Writes rows as they are at that moment: another thread may have recorded some of them meanwhile.
    pub(super) fn write_now(
        &self,
        rows: impl FnOnce(&Nat) -> (Vec<Write>, Vec<ContactChange>),
    ) -> Result<(), StoreError> {
        let nat = self.nat();
        self.with_backend(|backend| {
            let (writes, contacts) = rows(&nat);
            backend.write(&writes, &contacts)
        })?;
        self.commits.add();
        Ok(())
    }

    /// The translator in force.
    pub(super) fn nat(&self) -> Arc<Nat> {
        Arc::clone(&self.nat.read())
    }

    pub(super) fn commits(&self) -> &Commits {
        &self.commits
    }

    pub(super) fn settings(&self) -> &StoreSettings {
        &self.settings
    }

    /// Where it is, for the log.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what is kept is in doubt since the last call.
    pub(super) fn take_doubt(&self) -> bool {
        self.is_doubted.swap(false, Ordering::AcqRel)
    }

    /// It is in doubt.
    pub(super) fn doubt(&self) {
        self.is_doubted.store(true, Ordering::Release);
    }

    /// Lets the history do what it does now and then.
    pub(super) fn turn_history(&self, moment: &Moment, is_last: bool) {
        if let Some(history) = &self.history {
            history.turn(&self.nat(), moment, is_last);
        }
    }

    /// Writes what was marked.
    pub(super) fn write_marked(&self) -> Result<(), StoreError> {
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
                Ok(recorded) => self.mark_recorded(&recorded),
                Err(error) => {
                    self.marked.lock().extend(some);
                    return Err(error);
                }
            }
        }
    }

    pub(super) fn fail(&self, error: &StoreError) {
        if matches!(error, StoreError::NotSynced { .. }) {
            self.doubt();
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

    pub(super) fn recover(&self) {
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
