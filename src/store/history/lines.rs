//! The history as text: JSON, one a line, behind the lines of bindings.
//!
//! ```text
//! {"kamei":"history","version":1,"time":1763724000000,"boot":"…","since_boot":…,"wall":…,"synchronised":true,"whole":…,"answered":…}
//! {"clock":{"since":1763720000000,"ahead":0,"synchronised":true,"boot":"…"}}
//! {"entry":{"id":1806053376000000,"event":"made","by":"gateway","virtual_ip":"198.18.1.22","terminal":"10.0.0.11",…}}
//! ```
//!
//! Times are milliseconds of the history's own time, which only goes on; the `clock` lines say what the wall clock was ahead of
//! it from when on. An entry's `id` is its time times 1024, and what tells it from others of that time.

use super::clock::Stretch;
use super::file::{BITS, HistoryFile, ROWS, Reach, STRETCHES, Stored, insert, read_row};
use super::note::{By, Happened, Standing};
use crate::config::is_inside_name;
use crate::store::files::beside;
use crate::store::moment::{Moment, Reading, millis};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Version of the format.
const VERSION: u32 = 1;
/// What the line begins with behind which all is history.
pub const BEGIN: &[u8] = b"{\"kamei\":";
/// Lines that are written into the file in one transaction.
const LINES_AT_ONCE: u64 = 10_000;
/// The longest text of a policy.
const LONGEST_POLICY: usize = 1 << 20;

/// Why a history could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// What SQLite says.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// What the system says.
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    kamei: String,
    version: u32,
    time: u64,
    boot: String,
    since_boot: u64,
    wall: u64,
    synchronised: bool,
    whole: u64,
    answered: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Clock(ClockLine),
    Entry(EntryLine),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockLine {
    since: u64,
    ahead: i64,
    synchronised: bool,
    boot: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryLine {
    id: u64,
    event: Happened,
    by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    virtual_ip: IpAddr,
    terminal: IpAddr,
    inside: String,
    created: u64,
    standing: Standing,
    #[serde(default)]
    pinned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    callback: Option<String>,
    answered: bool,
}

/// A history as it is at one moment, to be written as lines or checked.
pub struct Outgoing {
    file: HistoryFile,
}

/// What was found in a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// How many entries it has.
    pub entries: u64,
    /// Entries that are not what was written, and were left out.
    pub damaged: u64,
}

impl Outgoing {
    /// The one beside a state file, as it is now; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn look(state_file: &Path) -> Result<Option<Self>, CarryError> {
        let path = state_file.with_extension("history");
        if !path.exists() {
            return Ok(None);
        }
        let file = HistoryFile::look(&path)?;
        file.connection.execute_batch("BEGIN")?;
        // The first look is what the transaction sees from then on.
        file.noted()?;
        Ok(Some(Self { file }))
    }

    /// Writes it as lines, and says what was in it.
    ///
    /// # Errors
    /// It cannot be read, or they cannot be written.
    pub fn write(&self, out: &mut dyn Write) -> Result<Checked, CarryError> {
        let stretches = self.file.all_stretches()?;
        let (noted, newest) = self.file.noted()?;
        let ahead = stretches.last().map_or(0, |stretch| stretch.ahead);
        // Nothing was noted: it goes on behind the last entry.
        let moment = noted.unwrap_or_else(|| {
            let wall = Duration::from_millis(newest.shifted(ahead).as_millis());
            let reading = Reading { boot: 0, since_boot: Duration::ZERO, wall, is_synchronised: false };
            Moment { time: newest, reading }
        });
        let header = Header {
            kamei: "history".to_owned(),
            version: VERSION,
            time: moment.time.as_millis(),
            boot: hex(moment.reading.boot),
            since_boot: millis(moment.reading.since_boot),
            wall: millis(moment.reading.wall),
            synchronised: moment.reading.is_synchronised,
            whole: self.file.reach.whole,
            answered: self.file.reach.answered,
        };
        writeln!(out, "{}", serde_json::to_string(&header).map_err(io::Error::from)?)?;
        for Stretch { since, ahead, is_synchronised, boot } in stretches {
            let line = Line::Clock(ClockLine { since, ahead, synchronised: is_synchronised, boot: hex(boot) });
            writeln!(out, "{}", serde_json::to_string(&line).map_err(io::Error::from)?)?;
        }
        self.each(&mut |stored| {
            let line = Line::Entry(EntryLine::from(stored));
            Ok(writeln!(out, "{}", serde_json::to_string(&line).map_err(io::Error::from)?)?)
        })
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn check(&self) -> Result<Checked, CarryError> {
        self.each(&mut |_| Ok(()))
    }

    fn each(&self, each: &mut dyn FnMut(Stored) -> Result<(), CarryError>) -> Result<Checked, CarryError> {
        let mut checked = Checked::default();
        let mut select = self.file.connection.prepare(&format!("{ROWS} ORDER BY id"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            match read_row(row)? {
                Some(stored) => {
                    checked.entries += 1;
                    each(stored)?;
                }
                None => checked.damaged += 1,
            }
        }
        Ok(checked)
    }
}

/// A history that is read from lines, in a file beside the one whose place it takes when all of it is there.
pub struct Incoming {
    state_file: PathBuf,
    file: Option<HistoryFile>,
    moment: Option<Moment>,
    reach: Reach,
    clocks: i64,
    last: u64,
    entries: u64,
    lines: u64,
}

impl Incoming {
    /// Of the gateway with this state file. Nothing is written before there is a line.
    pub fn new(state_file: &Path) -> Self {
        Self {
            state_file: state_file.to_owned(),
            file: None,
            moment: None,
            reach: Reach::default(),
            clocks: 0,
            last: 0,
            entries: 0,
            lines: 0,
        }
    }

    fn path(&self) -> PathBuf {
        beside(&self.state_file.with_extension("history"), ".import")
    }

    /// One line. Whatever the bytes, never panics.
    ///
    /// # Errors
    /// What is wrong with it, or that it cannot be written.
    pub fn line(&mut self, bytes: &[u8]) -> Result<(), String> {
        let wrong = |error: serde_json::Error| {
            let text = error.to_string();
            text.rsplit_once(" at line ").map_or(text.clone(), |(what, _)| what.to_owned())
        };
        if self.moment.is_none() {
            let header = serde_json::from_slice(bytes).map_err(wrong)?;
            return self.begin(&header);
        }
        let line = serde_json::from_slice(bytes).map_err(wrong)?;
        match line {
            Line::Clock(clock) => self.clock(&clock)?,
            Line::Entry(entry) => self.entry(entry)?,
        }
        self.lines += 1;
        if self.lines.is_multiple_of(LINES_AT_ONCE) {
            self.execute("COMMIT; BEGIN")?;
        }
        Ok(())
    }

    fn begin(&mut self, header: &Header) -> Result<(), String> {
        if header.kamei != "history" || header.version != VERSION {
            return Err(format!("{} in version {} is not known here", header.kamei, header.version));
        }
        let reading = Reading {
            boot: boot(&header.boot)?,
            since_boot: Duration::from_millis(header.since_boot),
            wall: Duration::from_millis(header.wall),
            is_synchronised: header.synchronised,
        };
        let most = i64::MAX.cast_unsigned() >> BITS;
        if [header.time, header.since_boot, header.wall, header.whole, header.answered].iter().any(|time| *time > most)
        {
            return Err("a time is too far away".to_owned());
        }
        self.remove();
        self.file = Some(HistoryFile::open(&self.path()).map_err(|error| self.failed(&error))?);
        self.moment = Some(Moment { time: Time::from_millis(header.time), reading });
        self.reach = Reach { whole: header.whole, answered: header.answered };
        // It counts for nothing until it is synced as a whole.
        self.execute("PRAGMA synchronous = OFF; BEGIN")
    }

    fn clock(&mut self, line: &ClockLine) -> Result<(), String> {
        if self.entries > 0 || (self.clocks > 0 && line.since <= self.last) {
            return Err("a clock line must be before all entries, and later than those before".to_owned());
        }
        self.clocks += 1;
        if self.clocks > STRETCHES + 1 || line.since > i64::MAX.cast_unsigned() >> BITS {
            return Err("there are too many clock lines, or a time is too far away".to_owned());
        }
        self.last = line.since;
        let stretch = Stretch {
            since: line.since,
            ahead: line.ahead,
            is_synchronised: line.synchronised,
            boot: boot(&line.boot)?,
        };
        let Some(file) = &mut self.file else { return Ok(()) };
        let put = file.put_stretch(stretch);
        put.map_err(|error| self.failed(&error))
    }

    fn entry(&mut self, line: EntryLine) -> Result<(), String> {
        let stored = stored(line)?;
        if self.clocks == 0 {
            return Err("an entry needs a clock line before".to_owned());
        }
        if self.entries > 0 && stored.id <= self.last {
            return Err(format!("entry {} is not behind the one before", stored.id));
        }
        self.last = stored.id;
        self.entries += 1;
        let Some(file) = &self.file else { return Ok(()) };
        insert(&file.connection, &stored).map_err(|error| self.failed(&error))
    }

    fn execute(&self, what: &str) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        file.connection.execute_batch(what).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> String {
        format!("{}: {error}", self.path().display())
    }

    /// Puts it in the place of the one there is, which gets another name. How many entries it has; `None`: there were no lines,
    /// and nothing is changed.
    ///
    /// # Errors
    /// What to tell who asks; the one there was is there still.
    pub fn finish(mut self) -> Result<Option<u64>, String> {
        let Some(moment) = self.moment else { return Ok(None) };
        self.execute("COMMIT")?;
        let Some(mut file) = self.file.take() else { return Ok(None) };
        file.reach = self.reach;
        file.note_time(&moment).map_err(|error| self.failed(&error))?;
        file.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").map_err(|error| self.failed(&error))?;
        drop(file);
        let path = self.state_file.with_extension("history");
        let put = || -> io::Result<()> {
            std::fs::File::open(self.path())?.sync_all()?;
            let former = beside(&path, ".before-import");
            if path.exists() {
                for suffix in ["-wal", "-shm", ""] {
                    match std::fs::rename(beside(&path, suffix), beside(&former, suffix)) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
            }
            std::fs::rename(self.path(), &path)?;
            path.parent().map_or(Ok(()), |directory| std::fs::File::open(directory)?.sync_all())
        };
        put().map_err(|error| self.failed(&error))?;
        Ok(Some(self.entries))
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(beside(&self.path(), suffix)); // there may be none
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.file = None;
        self.remove();
    }
}

impl From<Stored> for EntryLine {
    fn from(stored: Stored) -> Self {
        let (by, uid) = stored.by.named();
        Self {
            id: stored.id,
            event: stored.what,
            by: by.to_owned(),
            uid,
            virtual_ip: stored.virtual_ip,
            terminal: stored.terminal,
            inside: stored.inside.to_string(),
            created: stored.created,
            standing: stored.standing,
            pinned: stored.pinned,
            callback: stored.callback,
            answered: stored.answered,
        }
    }
}

fn stored(line: EntryLine) -> Result<Stored, String> {
    if line.terminal.is_ipv4() != line.virtual_ip.is_ipv4() {
        return Err(format!("{} and {} are of different address families", line.terminal, line.virtual_ip));
    }
    if !is_inside_name(&line.inside) {
        return Err(format!("{:?} is not the name of an inside", line.inside));
    }
    if line.id > i64::MAX.cast_unsigned() || line.created > i64::MAX.cast_unsigned() >> BITS {
        return Err("a time is too far away".to_owned());
    }
    if line.callback.as_ref().is_some_and(|policy| policy.len() > LONGEST_POLICY) {
        return Err("the callback policy is too long".to_owned());
    }
    Ok(Stored {
        id: line.id,
        what: line.event,
        by: By::of_name(&line.by, line.uid).ok_or_else(|| format!("by {:?} is nobody, or lacks a uid", line.by))?,
        virtual_ip: line.virtual_ip,
        inside: Arc::from(line.inside),
        terminal: line.terminal,
        created: line.created,
        standing: line.standing,
        pinned: line.pinned,
        callback: line.callback,
        answered: line.answered,
    })
}

fn hex(boot: u128) -> String {
    format!("{boot:032x}")
}

fn boot(text: &str) -> Result<u128, String> {
    u128::from_str_radix(text, 16).map_err(|_| format!("{text:?} is no boot: 32 hexadecimal digits"))
}
