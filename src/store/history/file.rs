//! The history's file: SQLite with a write-ahead log, as the state file, and nothing that any packet waits for.

use super::clock::{Stretch, Stretches};
use super::note::{By, Happened, Standing};
use crate::nat::StoredBinding;
use crate::store::moment::{Moment, Reading, millis};
use crate::store::row::key;
use crate::time::Time;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use rustix::fs::{Mode, OFlags};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Marks the file as kamei's history ("kamh").
const APPLICATION: i32 = 0x6b61_6d68;
/// The version of its tables.
const VERSION: i32 = 1;
const TABLES: &str = "
    CREATE TABLE history (id INTEGER PRIMARY KEY, what INTEGER NOT NULL, who INTEGER NOT NULL, uid INTEGER,
        virtual_ip BLOB NOT NULL, inside TEXT NOT NULL, terminal BLOB NOT NULL, created INTEGER NOT NULL,
        standing INTEGER NOT NULL, pinned INTEGER NOT NULL, callback TEXT, answered INTEGER NOT NULL,
        sum INTEGER NOT NULL) STRICT;
    CREATE INDEX of_virtual_ips ON history (virtual_ip, id);
    CREATE INDEX of_terminals ON history (terminal, id);
    CREATE INDEX unanswered ON history (id) WHERE answered = 0;
    CREATE INDEX put_aside ON history (virtual_ip) WHERE what = 7;
    CREATE TABLE clock (since INTEGER PRIMARY KEY, ahead INTEGER NOT NULL, synchronised INTEGER NOT NULL,
        boot BLOB NOT NULL) STRICT;
    CREATE TABLE now (one INTEGER PRIMARY KEY CHECK (one = 1), time INTEGER NOT NULL, boot BLOB NOT NULL,
        since_boot INTEGER NOT NULL, wall INTEGER NOT NULL, synchronised INTEGER NOT NULL, sum INTEGER NOT NULL,
        whole INTEGER NOT NULL, answered INTEGER NOT NULL) STRICT;";
/// Which virtual IPs a terminal has had, each found by one look.
const HELD: &str = "CREATE INDEX IF NOT EXISTS had ON history (terminal, virtual_ip)";
/// What [`read_row`] reads.
pub const ROWS: &str = "SELECT id, what, who, uid, virtual_ip, inside, terminal, created, standing, pinned, callback, \
     answered, sum FROM history";
/// The number of an entry is its time in milliseconds, and so many bits that tell apart those of one. Together they fit the
/// 53 bits that every JSON parser has for a whole number.
pub const BITS: u32 = 10;
/// Stretches of the wall clock that are kept.
pub const STRETCHES: i64 = 4096;
/// Free pages that are given back at once, and what part of a file may be free before any is.
const GIVEN_BACK_AT_ONCE: u64 = 4096;
const FREE_PART: u64 = 4;
/// Entries removed in one transaction.
const REMOVED_AT_ONCE: u64 = 2000;
/// How long one connection waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// An entry as it is in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub id: u64,
    pub what: Happened,
    pub by: By,
    pub virtual_ip: IpAddr,
    pub inside: Arc<str>,
    pub terminal: IpAddr,
    /// In milliseconds of the history's time.
    pub created: u64,
    pub standing: Standing,
    pub pinned: bool,
    pub callback: Option<String>,
    pub answered: bool,
}

/// From when on the history is whole, in milliseconds of its own time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// All of it.
    pub whole: u64,
    /// That of bindings which were ever answered.
    pub answered: u64,
}

/// One connection to it.
pub struct HistoryFile {
    pub connection: Connection,
    pub reach: Reach,
    last: Option<Stretch>,
}

impl Stored {
    /// When it happened, in milliseconds of the history's time.
    pub fn at(&self) -> u64 {
        self.id >> BITS
    }

    pub fn is_of(&self, binding: &StoredBinding) -> bool {
        self.terminal == binding.terminal && self.inside == binding.inside
    }

    fn sum(&self) -> i64 {
        let mut hasher = SipHasher13::new();
        let (who, uid) = self.by.numbers();
        for number in [self.id, self.what.number(), who, uid.map_or(u64::MAX, u64::from), self.created] {
            hasher.write_u64(number);
        }
        for text in [key(self.virtual_ip).bytes(), key(self.terminal).bytes(), self.inside.as_bytes()] {
            hasher.write(text);
            hasher.write_u8(b'/');
        }
        hasher.write_u64(self.standing.number());
        hasher.write_u8(self.pinned.into());
        hasher.write(self.callback.as_deref().unwrap_or("/").as_bytes());
        hasher.finish().cast_signed()
    }
}

impl HistoryFile {
    /// Opens it, or makes it. One that is no history, or a damaged one, is an error of SQLite's.
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(std::io::Error::from(error))))?;
        let connection = Self::connect(path)?;
        // So that pages can be given back; it counts for a file that is empty yet.
        connection.execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA synchronous = NORMAL; PRAGMA journal_mode = WAL;",
        )?;
        if connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))? == 0 {
            connection.execute_batch(&format!(
                "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT"
            ))?;
        }
        let file = Self::over(connection, path)?;
        // A file of before has none.
        file.connection.execute_batch(HELD)?;
        Ok(file)
    }

    /// Another connection, to read.
    pub fn look(path: &Path) -> rusqlite::Result<Self> {
        Self::over(Self::connect(path)?, path)
    }

    fn connect(path: &Path) -> rusqlite::Result<Connection> {
        use rusqlite::OpenFlags as Flags;
        let flags = Flags::SQLITE_OPEN_READ_WRITE | Flags::SQLITE_OPEN_NO_MUTEX | Flags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(PATIENCE)?;
        connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON")?;
        Ok(connection)
    }

    fn over(connection: Connection, path: &Path) -> rusqlite::Result<Self> {
        let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        if (number("application_id")?, number("user_version")?) != (APPLICATION, VERSION) {
            return Err(rusqlite::Error::InvalidPath(path.to_owned()));
        }
        let reach = connection.query_row("SELECT whole, answered FROM now", [], |row| {
            Ok(Reach { whole: unsigned(row, 0)?, answered: unsigned(row, 1)? })
        });
        let reach = reach.optional()?.unwrap_or_default();
        let mut file = Self { connection, reach, last: None };
        file.last = file.stretches()?.last();
        Ok(file)
    }

    /// What was last noted of the time, and the latest time of an entry.
    pub fn noted(&self) -> rusqlite::Result<(Option<Moment>, Time)> {
        let select = "SELECT time, boot, since_boot, wall, synchronised, sum FROM now";
        let noted = self.connection.query_row(select, [], |row| {
            let boot = row.get::<_, [u8; 16]>(1)?;
            let reading = Reading {
                boot: u128::from_be_bytes(boot),
                since_boot: Duration::from_millis(unsigned(row, 2)?),
                wall: Duration::from_millis(unsigned(row, 3)?),
                is_synchronised: row.get(4)?,
            };
            let moment = Moment { time: Time::from_millis(unsigned(row, 0)?), reading };
            Ok((row.get::<_, i64>(5)? == moment.sum()).then_some(moment))
        });
        let newest =
            self.connection.query_row("SELECT max(id) FROM history", [], |row| row.get::<_, Option<i64>>(0))?;
        let since = self.last.map_or(0, |stretch| stretch.since);
        let newest = (newest.unwrap_or(0).max(0).cast_unsigned() >> BITS).max(since);
        Ok((noted.optional()?.flatten(), Time::from_millis(newest)))
    }

    /// Notes the time, and a new stretch where the wall clock was set.
    pub fn note_time(&mut self, moment: &Moment) -> rusqlite::Result<()> {
        let Moment { time, reading } = moment;
        let is_new = self.last.is_none();
        if is_new {
            self.reach = Reach { whole: time.as_millis(), answered: time.as_millis() };
        }
        let stretch = Stretch {
            since: time.as_millis(),
            ahead: moment.ahead(),
            is_synchronised: reading.is_synchronised,
            boot: reading.boot,
        };
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if self.last.is_none_or(|last| is_other(&last, &stretch)) {
            insert_stretch(&transaction, &stretch)?;
            transaction.execute(
                "DELETE FROM clock WHERE since < (SELECT since FROM clock ORDER BY since DESC LIMIT 1 OFFSET ?1)",
                [STRETCHES],
            )?;
        }
        transaction.execute(
            "INSERT OR REPLACE INTO now VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                time.as_millis().cast_signed(),
                reading.boot.to_be_bytes(),
                millis(reading.since_boot).cast_signed(),
                millis(reading.wall).cast_signed(),
                reading.is_synchronised,
                moment.sum(),
                self.reach.whole.cast_signed(),
                self.reach.answered.cast_signed()
            ],
        )?;
        transaction.commit()?;
        if self.last.is_none_or(|last| is_other(&last, &stretch)) {
            self.last = Some(stretch);
        }
        Ok(())
    }

    /// Whether the wall clock has been set since the last time that was noted.
    pub fn is_news(&self, moment: &Moment) -> bool {
        let Moment { time, reading } = moment;
        let (since, boot) = (time.as_millis(), reading.boot);
        let now = Stretch { since, ahead: moment.ahead(), is_synchronised: reading.is_synchronised, boot };
        self.last.is_none_or(|last| is_other(&last, &now))
    }

    /// What the wall clock said.
    pub fn stretches(&self) -> rusqlite::Result<Stretches> {
        self.all_stretches().map(Stretches::of)
    }

    /// The same, as it was noted.
    pub fn all_stretches(&self) -> rusqlite::Result<Vec<Stretch>> {
        let mut select =
            self.connection.prepare_cached("SELECT since, ahead, synchronised, boot FROM clock ORDER BY since")?;
        let read = |row: &Row<'_>| {
            let boot = u128::from_be_bytes(row.get(3)?);
            Ok(Stretch { since: unsigned(row, 0)?, ahead: row.get(1)?, is_synchronised: row.get(2)?, boot })
        };
        select.query_map([], read)?.collect()
    }

    /// One more, later than all there are.
    pub fn put_stretch(&mut self, stretch: Stretch) -> rusqlite::Result<()> {
        insert_stretch(&self.connection, &stretch)?;
        self.last = Some(stretch);
        Ok(())
    }

    /// The virtual IPs whose bindings were kept aside when they were last heard of.
    pub fn aside(&self) -> rusqlite::Result<Vec<IpAddr>> {
        let mut select = self.connection.prepare("SELECT DISTINCT virtual_ip FROM history WHERE what = 7")?;
        let found = select.query_map([], |row| address(row, 0))?.collect::<Result<Vec<_>, _>>()?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The virtual IPs that a terminal has had, `most` of them at most.
    pub fn had(&self, terminal: IpAddr, most: usize) -> rusqlite::Result<Vec<IpAddr>> {
        // From one to the next: that of all entries is not read.
        let select = "SELECT min(virtual_ip) FROM history WHERE terminal = ?1 AND virtual_ip > ?2";
        let mut select = self.connection.prepare_cached(select)?;
        let (mut found, mut after) = (Vec::new(), Vec::new());
        while found.len() < most {
            let next =
                select.query_row(params![key(terminal).bytes(), after], |row| row.get::<_, Option<Vec<u8>>>(0))?;
            let Some(next) = next else { break };
            found.extend(address_of(&next));
            after = next;
        }
        Ok(found)
    }

    /// Gives back to the file system what has become free, some of it, where that is a good part of the file.
    fn shrink(&self) -> rusqlite::Result<()> {
        let number = |name| self.connection.pragma_query_value(None, name, |row| unsigned(row, 0));
        if number("freelist_count")? > number("page_count")? / FREE_PART {
            // It gives back a page for each row that is asked for.
            let mut vacuum = self.connection.prepare(&format!("PRAGMA incremental_vacuum({GIVEN_BACK_AT_ONCE})"))?;
            let mut pages = vacuum.query([])?;
            while pages.next()?.is_some() {}
        }
        Ok(())
    }

    /// How many entries there are.
    pub fn count(&self) -> rusqlite::Result<u64> {
        self.connection.query_row("SELECT count(*) FROM history", [], |row| unsigned(row, 0))
    }

    /// Removes all that is older than `oldest`, and the oldest of more than `most`: first of bindings that were never answered,
    /// where these are more than a quarter, so that packets with made-up sources push out each other's entries and not those of
    /// others. `is_answered` says whether a binding has been answered since.
    pub fn trim(&mut self, oldest: u64, most: u64, is_answered: &dyn Fn(&Stored) -> bool) -> rusqlite::Result<()> {
        let limit = (oldest << BITS).cast_signed();
        loop {
            let remove = "DELETE FROM history WHERE id IN (SELECT id FROM history WHERE id < ?1 ORDER BY id LIMIT ?2)";
            if self.connection.execute(remove, params![limit, REMOVED_AT_ONCE.cast_signed()])? == 0 {
                break;
            }
        }
        self.reach.whole = self.reach.whole.max(oldest);
        self.reach.answered = self.reach.answered.max(oldest);
        let mut all = self.count()?;
        let select = "SELECT count(*) FROM history WHERE answered = 0";
        let mut unanswered = self.connection.query_row(select, [], |row| unsigned(row, 0))?;
        while all > most {
            let some = (all - most).min(REMOVED_AT_ONCE);
            let (removed, kept) = if unanswered > most / 4 {
                self.remove_unanswered(some.min(unanswered - most / 4), is_answered)?
            } else {
                self.remove_oldest(some)?
            };
            all = all.saturating_sub(removed);
            unanswered = unanswered.saturating_sub(removed + kept);
            if removed + kept == 0 {
                break;
            }
        }
        self.shrink()
    }

    /// How many entries it has removed, and how many turned out to be of answered bindings.
    fn remove_unanswered(&mut self, some: u64, is_answered: &dyn Fn(&Stored) -> bool) -> rusqlite::Result<(u64, u64)> {
        let rows = {
            let mut select =
                self.connection.prepare_cached(&format!("{ROWS} WHERE answered = 0 ORDER BY id LIMIT ?1"))?;
            let rows = select.query_map([some.cast_signed()], |row| Ok((unsigned(row, 0)?, read_row(row)?)))?;
            rows.collect::<Result<Vec<_>, _>>()?
        };
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (mut removed, mut kept) = (0, 0);
        for (id, row) in rows {
            if row.is_some_and(|row| is_answered(&row)) {
                kept += 1;
                transaction
                    .prepare_cached("UPDATE history SET answered = 1 WHERE id = ?1")?
                    .execute([id.cast_signed()])?;
            } else {
                removed += 1;
                transaction.prepare_cached("DELETE FROM history WHERE id = ?1")?.execute([id.cast_signed()])?;
                self.reach.whole = self.reach.whole.max((id >> BITS) + 1);
            }
        }
        transaction.commit()?;
        Ok((removed, kept))
    }

    fn remove_oldest(&mut self, some: u64) -> rusqlite::Result<(u64, u64)> {
        let select = "SELECT max(id), count(*) FROM (SELECT id FROM history ORDER BY id LIMIT ?1)";
        let (last, number) = self.connection.query_row(select, [some.cast_signed()], |row| {
            Ok((row.get::<_, Option<i64>>(0)?.unwrap_or(0), unsigned(row, 1)?))
        })?;
        self.connection.execute("DELETE FROM history WHERE id <= ?1", [last])?;
        let behind = (last.cast_unsigned() >> BITS) + 1;
        self.reach.whole = self.reach.whole.max(behind);
        self.reach.answered = self.reach.answered.max(behind);
        Ok((number, 0))
    }
}

fn is_other(last: &Stretch, now: &Stretch) -> bool {
    last.ahead.abs_diff(now.ahead) > 1000 || last.is_synchronised != now.is_synchronised || last.boot != now.boot
}

/// The last entry of a virtual IP at `until` or before.
pub fn last_of(connection: &Connection, virtual_ip: IpAddr, until: u64) -> rusqlite::Result<Option<Stored>> {
    let query = format!("{ROWS} WHERE virtual_ip = ?1 AND id < ?2 ORDER BY id DESC LIMIT 1");
    let behind = until.saturating_add(1).saturating_mul(1 << BITS).min(i64::MAX.cast_unsigned()).cast_signed();
    let mut select = connection.prepare_cached(&query)?;
    select.query_row(params![key(virtual_ip).bytes(), behind], read_row).optional().map(Option::flatten)
}

fn insert_stretch(connection: &Connection, stretch: &Stretch) -> rusqlite::Result<()> {
    let Stretch { since, ahead, is_synchronised, boot } = stretch;
    connection.prepare_cached("INSERT OR REPLACE INTO clock VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        since.cast_signed(),
        ahead,
        is_synchronised,
        boot.to_be_bytes()
    ])?;
    Ok(())
}

/// Writes an entry.
pub fn insert(connection: &Connection, row: &Stored) -> rusqlite::Result<()> {
    let put = "INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    let (who, uid) = row.by.numbers();
    connection.prepare_cached(put)?.execute(params![
        row.id.cast_signed(),
        row.what.number().cast_signed(),
        who.cast_signed(),
        uid,
        key(row.virtual_ip).bytes(),
        &*row.inside,
        key(row.terminal).bytes(),
        row.created.cast_signed(),
        row.standing.number().cast_signed(),
        row.pinned,
        row.callback,
        row.answered,
        row.sum(),
    ])?;
    Ok(())
}

/// A row of [`ROWS`]; `None` if it is not what was written.
pub fn read_row(row: &Row<'_>) -> rusqlite::Result<Option<Stored>> {
    let (Some(virtual_ip), Some(terminal)) = (address(row, 4)?, address(row, 6)?) else { return Ok(None) };
    let Some(what) = Happened::of_number(unsigned(row, 1)?) else { return Ok(None) };
    let uid = row.get::<_, Option<i64>>(3)?.and_then(|uid| u32::try_from(uid).ok());
    let (Some(by), Some(standing)) = (By::of_numbers(unsigned(row, 2)?, uid), Standing::of_number(unsigned(row, 8)?))
    else {
        return Ok(None);
    };
    let (Ok(inside), Ok(callback)) = (row.get_ref(5)?.as_str(), row.get_ref(10)?.as_str_or_null()) else {
        return Ok(None);
    };
    let found = Stored {
        id: unsigned(row, 0)?,
        what,
        by,
        virtual_ip,
        inside: Arc::from(inside),
        terminal,
        created: unsigned(row, 7)?,
        standing,
        pinned: row.get::<_, i64>(9)? == 1,
        callback: callback.map(str::to_owned),
        answered: row.get::<_, i64>(11)? == 1,
    };
    Ok((row.get::<_, i64>(12)? == found.sum()).then_some(found))
}

pub fn address(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<IpAddr>> {
    Ok(row.get_ref(column)?.as_blob().ok().and_then(address_of))
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok();
    v4.or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| number.max(0).cast_unsigned())
}
