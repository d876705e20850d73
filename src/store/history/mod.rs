//! The history: who had which virtual IP, and when.
//!
//! | file | what |
//! | --- | --- |
//! | `file.rs` | the file of entries, and how many are kept |
//! | `writing.rs` | what is new about a binding, as entries |
//! | `note.rs` | what has become of a binding, and who did it |
//! | `clock.rs` | what the wall clock said meanwhile |
//! | `answer.rs` | questions and their answers |
//! | `lines.rs` | the history as text, to be kept elsewhere and put back |
//!
//! It is a file of its own beside the state file. No packet waits for it: who changes a binding leaves a note of what it has
//! become, and the writer writes what is new about that before it syncs, so that an operator's change is in it when he is
//! told of it. What a process has not come to write is found by the next in the state file, and its time there. A history
//! that is damaged, or has no room, costs no binding and no time.

mod answer;
mod clock;
mod file;
mod lines;
mod note;
mod writing;

pub use crate::config::HistorySettings;
pub use answer::{Entry, HistoryAnswer, HistoryQuestion, MOST_ENTRIES, Owner, Ownership};
pub use clock::ClockState;
pub use lines::{BEGIN, CarryError, Checked, Incoming, Outgoing};
pub use note::{By, Happened, Note, Standing};

use crate::nat::{BindingState, Nat, StoredBinding};
use crate::store::moment::{Moment, Reading};
use crate::time::Time;
use answer::look_up;
use file::{HistoryFile, Stored};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Notes that wait to be written, at most: some ten megabytes. What comes while there are as many is not in the history, which
/// says from when on it is whole.
const MOST_NOTES: usize = 65_536;
/// Notes written in one transaction.
const NOTES_AT_ONCE: usize = 2000;
/// How often the time is noted while the wall clock is not set.
const NOTE_TIME: Duration = Duration::from_secs(60);
/// How often entries that are too old are removed.
const TRIM: Duration = Duration::from_secs(3600);
/// Time between two attempts while the disk takes nothing.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// How the history is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryStatus {
    /// Whether one is kept.
    pub kept: bool,
    /// How many entries it has.
    pub entries: u64,
    /// How many it may have.
    pub most: u64,
    /// Entries that were removed since the start, for they were too old or too many.
    pub removed: u64,
    /// Changes that are not in it, for too many waited to be written.
    pub lost: u64,
    /// Why nothing can be written; `None`: it can.
    pub failing: Option<String>,
}

/// The history of one gateway: notes that wait, and the file that they are written into.
pub struct History {
    settings: HistorySettings,
    path: PathBuf,
    notes: Mutex<PendingNotes>,
    writer: Mutex<Writer>,
    status: Mutex<HistoryStatus>,
}

#[derive(Default)]
struct PendingNotes {
    waiting: Vec<Note>,
    lost: u64,
}

/// Held while something is written or asked.
struct Writer {
    /// `None` while it cannot be opened.
    file: Option<HistoryFile>,
    /// By how many milliseconds the history's time is ahead of the gateway's.
    ahead: i64,
    next_time: Time,
    next_trim: Time,
    next_try: Time,
}

impl Stored {
    /// Whether the terminal has the virtual IP from then on.
    fn holds(&self) -> bool {
        matches!(self.standing, Standing::Active | Standing::Dormant)
    }
}

/// Why something is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occasion {
    Interval,
    /// A caller waits for the answer.
    Question,
    /// The process ends.
    End,
}

impl History {
    /// Where the history of the gateway `tun` is.
    pub fn path_in(state_dir: &Path, tun: &str) -> PathBuf {
        state_dir.join(format!("{tun}.history"))
    }

    /// Goes on with the one of a gateway whose bindings are in `nat`. What cannot be opened is tried again later.
    pub fn start(state_file: &Path, settings: HistorySettings, nat: &Nat, now: &Moment) -> Self {
        let status = HistoryStatus { kept: true, most: settings.entries, ..HistoryStatus::default() };
        let writer = Writer { file: None, ahead: 0, next_time: now.time, next_trim: now.time, next_try: now.time };
        let history = Self {
            settings,
            path: state_file.with_extension("history"),
            notes: Mutex::default(),
            writer: Mutex::new(writer),
            status: Mutex::new(status),
        };
        let mut writer = history.writer.lock();
        match history.open(&mut writer, now, nat) {
            Ok(missed) => history.notes.lock().waiting.extend(missed),
            Err(error) => history.fail(&mut writer, &error, now.time),
        }
        drop(writer);
        history
    }

    /// Removes the history of a gateway that is to keep none.
    pub fn remove(state_file: &Path) {
        let path = state_file.with_extension("history");
        let all = ["", ".damaged", ".before-import"].map(|name| crate::store::files::beside(&path, name));
        all.iter().for_each(|path| remove(path));
    }

    /// Opens the file; what has happened to bindings that the process before has not come to write.
    fn open(&self, writer: &mut Writer, now: &Moment, nat: &Nat) -> rusqlite::Result<Vec<Note>> {
        let mut file = HistoryFile::open(&self.path).or_else(|error| self.rename_damaged(error))?;
        let (last, newest) = file.noted()?;
        let resumed = Moment::resumed(last, newest, now.reading);
        let ahead = i64::try_from(resumed.time.as_millis()).unwrap_or(i64::MAX);
        writer.ahead = ahead.saturating_sub_unsigned(now.time.as_millis());
        file.note_time(&resumed)?;
        let since = last.map_or(now.time, |last| last.time.shifted(-writer.ahead));
        let mut missed = Vec::new();
        // What was noted a second before may have happened after it.
        for binding in nat.used_since(since.as_secs().saturating_sub(1), &mut 0) {
            if missed.len() < MOST_NOTES / 2 {
                let at = Time::from_secs(binding.last_used.max(binding.ended).into());
                missed.push(Note {
                    at,
                    by: By::Itself,
                    virtual_ip: binding.virtual_ip,
                    binding: Some((binding, false)),
                    done: None,
                });
            }
        }
        for virtual_ip in file.aside()?.into_iter().take(MOST_NOTES / 2) {
            if let Some((binding, _)) = nat.stored(virtual_ip) {
                let binding = Some((binding, false));
                missed.push(Note { at: now.time, by: By::Start, virtual_ip, binding, done: None });
            }
        }
        self.status.lock().entries = file.count()?;
        writer.file = Some(file);
        Ok(missed)
    }

    /// Gives a damaged file another name, and begins anew.
    fn rename_damaged(&self, error: rusqlite::Error) -> rusqlite::Result<HistoryFile> {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let is_damaged = matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
            || matches!(error, rusqlite::Error::InvalidPath(_));
        if !is_damaged || !std::fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.is_file()) {
            return Err(error);
        }
        let aside = crate::store::files::beside(&self.path, ".damaged");
        log::error!(
            "{} cannot be read ({error}) and is {} now; another history is begun",
            self.path.display(),
            aside.display()
        );
        let _ = std::fs::rename(&self.path, &aside);
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(crate::store::files::beside(&self.path, suffix));
        }
        HistoryFile::open(&self.path)
    }

    /// Notes what bindings have become, and what was done to them where that was by hand. Costs little more than reading them.
    pub fn note(&self, nat: &Nat, virtual_ips: &[IpAddr], (by, done): (By, Option<Happened>), at: Time) {
        let found = virtual_ips.iter().map(|virtual_ip| Note {
            at,
            by,
            virtual_ip: *virtual_ip,
            binding: nat.stored(*virtual_ip).map(|(binding, _)| (binding, false)),
            done,
        });
        let mut notes = self.notes.lock();
        found.for_each(|note| notes.add(note));
    }

    /// Notes that bindings are in force no more, though they are kept.
    pub fn note_aside(&self, bindings: impl Iterator<Item = StoredBinding>, by: By, at: Time) {
        let mut notes = self.notes.lock();
        for binding in bindings {
            let virtual_ip = binding.virtual_ip;
            notes.add(Note { at, by, virtual_ip, binding: Some((binding, true)), done: None });
        }
    }

    /// Writes what was noted, and removes what is too much. To be called again and again; never fails for long.
    pub fn turn(&self, nat: &Nat, now: &Moment, is_last: bool) {
        let mut writer = self.writer.lock();
        let occasion = if is_last { Occasion::End } else { Occasion::Interval };
        if let Err(error) = self.try_turn(&mut writer, nat, now, occasion) {
            self.fail(&mut writer, &error, now.time);
        }
    }

    fn try_turn(&self, writer: &mut Writer, nat: &Nat, now: &Moment, occasion: Occasion) -> rusqlite::Result<()> {
        let is_last = occasion == Occasion::End;
        if now.time < writer.next_try && !is_last {
            return Ok(());
        }
        if writer.file.is_none() {
            let missed = self.open(writer, now, nat)?;
            self.notes.lock().waiting.extend(missed);
        }
        self.write_notes(writer)?;
        let Writer { file: Some(file), ahead, next_time, next_trim, .. } = writer else { return Ok(()) };
        let own = Moment { time: now.time.shifted(*ahead), reading: now.reading };
        let lost = std::mem::take(&mut self.notes.lock().lost);
        if lost > 0 {
            file.reach.whole = own.time.as_millis();
            file.reach.answered = own.time.as_millis();
            self.status.lock().lost += lost;
            log::error!("{lost} changes of bindings are not in the history: too many came at once");
        }
        let most = self.settings.entries;
        let is_full = self.status.lock().entries > most + most / 64 + 1;
        // Nobody waits for that.
        if (now.time >= *next_trim || is_full) && occasion != Occasion::Question {
            self.trim(file, nat, &own, *ahead)?;
            (*next_trim, *next_time) = (now.time + TRIM, now.time);
        }
        if is_last || lost > 0 || now.time >= *next_time || file.is_news(&own) {
            file.note_time(&own)?;
            *next_time = now.time + NOTE_TIME;
        }
        let mut status = self.status.lock();
        if status.failing.take().is_some() {
            log::info!("{} can be written again", self.path.display());
        }
        Ok(())
    }

    fn write_notes(&self, writer: &mut Writer) -> rusqlite::Result<()> {
        let Writer { file: Some(file), ahead, .. } = writer else { return Ok(()) };
        loop {
            let some: Vec<Note> = {
                let mut notes = self.notes.lock();
                let many = notes.waiting.len().min(NOTES_AT_ONCE);
                notes.waiting.drain(..many).collect()
            };
            if some.is_empty() {
                return Ok(());
            }
            match file.append(&some, *ahead) {
                Ok(added) => self.status.lock().entries += added,
                Err(error) => {
                    let mut notes = self.notes.lock();
                    let later = std::mem::replace(&mut notes.waiting, some);
                    notes.waiting.extend(later);
                    return Err(error);
                }
            }
        }
    }

    fn trim(&self, file: &mut HistoryFile, nat: &Nat, own: &Moment, ahead: i64) -> rusqlite::Result<()> {
        let keep = u64::try_from(self.settings.keep.as_millis()).unwrap_or(u64::MAX);
        let oldest = own.time.as_millis().saturating_sub(keep);
        let is_answered = |entry: &Stored| {
            nat.stored(entry.virtual_ip).is_some_and(|(now, _)| {
                let created = (u64::from(now.created) * 1000).saturating_add_signed(ahead);
                now.answered && now.terminal == entry.terminal && created.abs_diff(entry.created) < 5000
            })
        };
        for name in [".damaged", ".before-import"] {
            let former = crate::store::files::beside(&self.path, name);
            let written = std::fs::metadata(&former).and_then(|metadata| metadata.modified());
            if written.is_ok_and(|written| written.elapsed().is_ok_and(|age| age > self.settings.keep)) {
                remove(&former);
            }
        }
        let before = file.count()?;
        file.trim(oldest, self.settings.entries, &is_answered)?;
        let entries = file.count()?;
        let mut status = self.status.lock();
        status.entries = entries;
        status.removed += before.saturating_sub(entries);
        Ok(())
    }

    fn fail(&self, writer: &mut Writer, error: &rusqlite::Error, now: Time) {
        let error = format!("{}: {error}", self.path.display());
        let mut status = self.status.lock();
        if status.failing.is_none() {
            log::error!("the history cannot be written: {error}; bindings are made and recorded all the same");
        }
        status.failing = Some(error);
        writer.next_try = now + TRY_AGAIN;
    }

    /// How it is.
    pub fn status(&self) -> HistoryStatus {
        self.status.lock().clone()
    }

    /// Answers a question. What has just happened is written first.
    ///
    /// # Errors
    /// What to tell who asks.
    pub fn ask(&self, question: &HistoryQuestion, nat: &Nat, now: &Moment) -> Result<HistoryAnswer, String> {
        let ahead = {
            let mut writer = self.writer.lock();
            if let Err(error) = self.try_turn(&mut writer, nat, now, Occasion::Question) {
                self.fail(&mut writer, &error, now.time);
            }
            writer.ahead
        };
        let held = |address: IpAddr| -> Vec<StoredBinding> {
            let found = nat.find(address, now.time).into_iter();
            found.filter_map(|view| nat.stored(view.virtual_ip).map(|(binding, _)| binding)).collect()
        };
        HistoryFile::look(&self.path)
            .and_then(|file| look_up(&file, question, &held, ahead))
            .map_err(|error| format!("the history cannot be read: {}: {error}", self.path.display()))
    }
}

impl PendingNotes {
    fn add(&mut self, note: Note) {
        if self.waiting.len() < MOST_NOTES {
            self.waiting.push(note);
        } else {
            self.lost += 1;
        }
    }
}

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(crate::store::files::beside(path, suffix)); // there may be none
    }
}

/// The history of the gateway `tun`, while none of that name need run.
///
/// # Errors
/// What to tell who asks; there may be none.
pub fn look(state_dir: &Path, tun: &str, question: &HistoryQuestion) -> Result<HistoryAnswer, String> {
    let path = History::path_in(state_dir, tun);
    if !path.exists() {
        return Err(format!("there is no history {}; --state-dir and --tun say which", path.display()));
    }
    let bindings =
        super::look(state_dir, tun, &super::Progress::default()).map_or_else(|_| Vec::new(), |found| found.bindings);
    let held = |address: IpAddr| -> Vec<StoredBinding> {
        let is_it = |binding: &&StoredBinding| binding.virtual_ip == address || binding.terminal == address;
        bindings.iter().filter(is_it).cloned().collect()
    };
    let read = |path: &Path| {
        let file = HistoryFile::look(path)?;
        // Their times are of the wall clock as it was last noted, as the last stretch has it.
        let ahead = file.noted()?.0.map_or(0, |moment| moment.ahead());
        look_up(&file, question, &held, ahead.saturating_neg())
    };
    read(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Notes an import: whose virtual IPs changed by it.
///
/// # Errors
/// What SQLite says.
pub fn note_import(
    state_file: &Path,
    before: &[StoredBinding],
    after: &[StoredBinding],
    reading: Reading,
    uid: u32,
) -> rusqlite::Result<()> {
    let path = state_file.with_extension("history");
    if !path.exists() {
        return Ok(());
    }
    let mut file = HistoryFile::open(&path)?;
    let (last, newest) = file.noted()?;
    let now = Moment::resumed(last, newest, reading);
    // The bindings have times of the wall clock.
    let ahead = now.ahead().saturating_neg();
    let at = now.time.shifted(-ahead);
    let is_held = |binding: &&StoredBinding| binding.state != BindingState::Quarantined;
    let held = |bindings: &[StoredBinding]| -> HashMap<IpAddr, (IpAddr, String)> {
        let of = |binding: &StoredBinding| (binding.virtual_ip, (binding.terminal, binding.inside.to_string()));
        bindings.iter().filter(is_held).map(of).collect()
    };
    let (was, is) = (held(before), held(after));
    let changed: HashSet<IpAddr> =
        was.keys().chain(is.keys()).filter(|ip| was.get(ip) != is.get(ip)).copied().collect();
    let mut notes = Vec::new();
    for virtual_ip in changed.iter().filter(|virtual_ip| was.contains_key(virtual_ip)) {
        notes.push(Note { at, by: By::Import(uid), virtual_ip: *virtual_ip, binding: None, done: None });
    }
    for binding in after.iter().filter(is_held).filter(|binding| changed.contains(&binding.virtual_ip)) {
        let binding = StoredBinding { contacts: Vec::new(), ..binding.clone() };
        let virtual_ip = binding.virtual_ip;
        notes.push(Note { at, by: By::Import(uid), virtual_ip, binding: Some((binding, false)), done: None });
    }
    file.note_time(&now)?;
    notes.chunks(NOTES_AT_ONCE).try_for_each(|some| file.append(some, ahead).map(|_| ()))
}
