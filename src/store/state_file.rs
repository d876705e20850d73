//! The state file: SQLite with a write-ahead log.
//!
//! A commit is handed to the system by `write`, without a sync: it outlives the process whatever ends it. The log's frames
//! have checksums, so that after a power cut the file is as it was after one of the last commits.

use super::StoreError;
use super::backend::{Backend, Reopen, Write};
use super::files::{beside, private};
use super::moment::{Moment, Reading, millis};
use super::progress::Progress;
use super::row::{self, ContactRow, key};
use crate::nat::{ContactChange, Nat, StoredBinding, StoredContact};
use crate::time::Time;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, Transaction, TransactionBehavior, params};
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Marks the file as kamei's ("kame").
const APPLICATION: i32 = 0x6b61_6d65;
/// Step `n` brings a file of version `n` to version `n + 1`.
pub(super) const STEPS: &[&str] = &[
    "CREATE TABLE bindings (virtual_ip BLOB PRIMARY KEY, inside TEXT NOT NULL, terminal BLOB NOT NULL,
        state INTEGER NOT NULL, pinned INTEGER NOT NULL, created INTEGER NOT NULL, last_used INTEGER NOT NULL,
        packets_out INTEGER NOT NULL, packets_in INTEGER NOT NULL, callbacks INTEGER NOT NULL, callback TEXT,
        sum INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE contacts (virtual_ip BLOB, peer BLOB, created INTEGER NOT NULL, last INTEGER NOT NULL,
        sum INTEGER NOT NULL, PRIMARY KEY (virtual_ip, peer)) STRICT, WITHOUT ROWID",
    // What was bound before it was asked for counts as answered.
    "ALTER TABLE bindings ADD COLUMN answered INTEGER NOT NULL DEFAULT 1",
    "ALTER TABLE contacts ADD COLUMN answered INTEGER NOT NULL DEFAULT 0",
    // One row, or none: the times of all others are of the wall clock then.
    "CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), time INTEGER NOT NULL, boot BLOB NOT NULL,
        since_boot INTEGER NOT NULL, wall INTEGER NOT NULL, synchronised INTEGER NOT NULL, sum INTEGER NOT NULL) STRICT",
    // When a quarantine began; 0 is not known.
    "ALTER TABLE bindings ADD COLUMN ended INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE bindings ADD COLUMN bytes_out INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE bindings ADD COLUMN bytes_in INTEGER NOT NULL DEFAULT 0",
    // When a contact became one; 0 is not known.
    "ALTER TABLE contacts ADD COLUMN first INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE contacts ADD COLUMN called_back INTEGER NOT NULL DEFAULT 0",
];
/// What [`row::read_binding`] reads.
pub const BINDINGS: &str = "SELECT virtual_ip, inside, terminal, state, pinned, created, last_used, packets_out, \
     packets_in, callbacks, callback, sum, answered, ended, bytes_out, bytes_in FROM bindings";
/// What [`row::read_contact`] reads.
pub const CONTACTS: &str = "SELECT virtual_ip, peer, created, last, sum, answered, first, called_back FROM contacts";
/// How long one connection waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of log after which it is brought into the file.
const LOG_LONG: u64 = 4 << 20;
/// Bytes of log after which writers have to wait for that.
const LOG_TOO_LONG: u64 = 64 << 20;

/// Damaged places that salvage looks around.
const SALVAGE_TRIES: u32 = 4096;
/// Rows that are counted as written together.
const COUNTED: usize = 1000;
/// A key above every address.
const ABOVE_ALL: [u8; 17] = [0xff; 17];

/// Rows of a salvaged file written in one transaction.
pub const AT_ONCE: usize = 10_000;

type EachRow<'a> = dyn FnMut(&Row<'_>) -> rusqlite::Result<()> + 'a;

/// One connection to the state file.
pub struct Database {
    connection: Connection,
    pub(super) path: PathBuf,
    /// The log, of a further connection: what it says of a sync is all since that was made.
    log: Option<File>,
}

/// How many rows were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub bindings: u64,
    /// Rows that are not what was written.
    pub bad: u64,
}

/// What could not be read of a damaged file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Bindings that are not what was written.
    pub bad_rows: u64,
    /// Places at which reading ended.
    pub holes: u32,
}

impl Database {
    /// Opens the file, or makes it, and brings it to the present version.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not what was written, [`StoreError::Newer`] if a later kamei wrote it,
    /// [`StoreError::Database`] for all else.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        private(path).map_err(|error| StoreError::File { path: path.to_owned(), error: error.into() })?;
        let store = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        store.check_and_upgrade().map_err(|error| store.explain(error))??;
        Ok(store)
    }

    /// A further connection to a file that is open.
    pub fn again(&self) -> Result<Self, StoreError> {
        let path = beside(&self.path, "-wal");
        let log = File::open(&path).map_err(|error| StoreError::File { path, error })?;
        Ok(Self { log: Some(log), ..Self::connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)? })
    }

    /// What can be read of a damaged file, without changing it.
    pub fn open_damaged(path: &Path) -> Result<Self, StoreError> {
        Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Self, StoreError> {
        let error = |error| StoreError::Database { path: path.to_owned(), error: Box::new(error) };
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags).map_err(error)?;
        connection.busy_timeout(PATIENCE).map_err(error)?;
        Ok(Self { connection, path: path.to_owned(), log: None })
    }

    fn check_and_upgrade(&self) -> rusqlite::Result<Result<(), StoreError>> {
        let connection = &self.connection;
        connection.execute_batch(
            "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; \
             PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0;",
        )?;
        let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            return Ok(Err(StoreError::NoLog(self.path.clone())));
        }
        let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        let (application, version) = (number("application_id")?, number("user_version")?);
        let damaged = |what: String| Ok(Err(StoreError::Damaged { path: self.path.clone(), what }));
        let steps = i32::try_from(STEPS.len()).unwrap_or(i32::MAX);
        if application == 0 && version == 0 && self.tables()?.is_empty() {
            connection.pragma_update(None, "application_id", APPLICATION)?;
        } else if application != APPLICATION {
            return damaged("it is not a state file of kamei".to_owned());
        }
        if version > steps {
            return Ok(Err(StoreError::Newer { path: self.path.clone(), version, known: steps }));
        }
        let done = usize::try_from(version).unwrap_or(0);
        if self.tables()? != tables_after(done)? {
            return damaged(format!("its tables are not those of version {version}"));
        }
        if done < STEPS.len() {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            for step in STEPS.iter().skip(done) {
                connection.execute_batch(step)?;
            }
            connection.pragma_update(None, "user_version", steps)?;
            connection.execute_batch("COMMIT")?;
        }
        if !beside(&self.path, "-wal").exists() {
            return Ok(Err(StoreError::NoLog(self.path.clone())));
        }
        let verdict = connection.pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0))?;
        if verdict == "ok" { Ok(Ok(())) } else { damaged(verdict.lines().last().unwrap_or_default().to_owned()) }
    }

    fn tables(&self) -> rusqlite::Result<Vec<String>> {
        tables(&self.connection)
    }

    /// How many bindings there are to read; zero if that cannot be said.
    pub fn count(&self) -> u64 {
        let count = self.connection.query_row("SELECT count(*) FROM bindings", [], |row| row.get::<_, i64>(0));
        count.ok().and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
    }

    /// Reads every binding with its contacts, in the order of the virtual IPs. Stops at the first row that is not what was
    /// written.
    pub fn load(&self, mut each: impl FnMut(StoredBinding)) -> Result<Loaded, StoreError> {
        let loaded = self.try_load(&mut each).map_err(|error| self.explain(error))?;
        match loaded.bad {
            0 => Ok(loaded),
            bad => Err(StoreError::Damaged { path: self.path.clone(), what: format!("{bad} rows have a wrong sum") }),
        }
    }

    fn try_load(&self, each: &mut impl FnMut(StoredBinding)) -> rusqlite::Result<Loaded> {
        let mut loaded = Loaded::default();
        let mut insides = Vec::new();
        let mut contacts = self.connection.prepare(&format!("{CONTACTS} ORDER BY virtual_ip, peer"))?;
        let mut contacts = contacts.query([])?;
        let mut next_contact =
            || -> rusqlite::Result<Option<Option<ContactRow>>> { contacts.next()?.map(row::read_contact).transpose() };
        let mut contact = next_contact()?;
        let mut bindings = self.connection.prepare(&format!("{BINDINGS} ORDER BY virtual_ip"))?;
        let mut bindings = bindings.query([])?;
        while let Some(row) = bindings.next()? {
            let Some(mut binding) = row::read_binding(row, &mut insides)? else {
                loaded.bad += 1;
                continue;
            };
            loaded.bindings += 1;
            let of_this = key(binding.virtual_ip);
            loop {
                match contact {
                    None => break,
                    Some(None) => loaded.bad += 1,
                    Some(Some(ref row)) => {
                        if key(row.virtual_ip).bytes() > of_this.bytes() {
                            break;
                        }
                        if row.virtual_ip == binding.virtual_ip && row.created == binding.created {
                            binding.contacts.push(row.contact);
                        }
                    }
                }
                contact = next_contact()?;
            }
            each(binding);
        }
        Ok(loaded)
    }

    /// Reads what can be read, however damaged: from both ends and between.
    pub fn salvage(&self, mut each: impl FnMut(StoredBinding)) -> Salvaged {
        let mut bad_rows = 0;
        let mut insides = Vec::new();
        let mut contacts: std::collections::HashMap<(IpAddr, u32), Vec<StoredContact>> = Default::default();
        let mut tries = SALVAGE_TRIES;
        self.salvage_range(CONTACTS, Vec::new(), &ABOVE_ALL, &mut tries, &mut |row| {
            if let Some(row) = row::read_contact(row)? {
                contacts.entry((row.virtual_ip, row.created)).or_default().push(row.contact);
            }
            Ok(())
        });
        let holes = SALVAGE_TRIES - tries;
        let mut tries = SALVAGE_TRIES;
        self.salvage_range(BINDINGS, Vec::new(), &ABOVE_ALL, &mut tries, &mut |row| {
            match row::read_binding(row, &mut insides)? {
                Some(mut binding) => {
                    let key = (binding.virtual_ip, binding.created);
                    binding.contacts = contacts.remove(&key).unwrap_or_default();
                    each(binding);
                }
                None => bad_rows += 1,
            }
            Ok(())
        });
        Salvaged { bad_rows, holes: holes + SALVAGE_TRIES - tries }
    }

    /// Calls `each` with the rows whose keys are from `low` to below `high`, around places that cannot be read: from both
    /// ends, then from the middle of what is left, and so on. `tries` bounds the search.
    fn salvage_range(&self, select: &str, low: Vec<u8>, high: &[u8], tries: &mut u32, each: &mut EachRow<'_>) {
        let from = low;
        let mut low = from.clone();
        if *tries == 0
            || self.read_range(select, "ASC", &from, high, &mut |key, row| {
                low = [key, &[0]].concat(); // the next key there can be
                each(row)
            })
        {
            return;
        }
        *tries -= 1;
        let mut top = high.to_vec();
        if self.read_range(select, "DESC", &low, high, &mut |key, row| {
            top = key.to_vec();
            each(row)
        }) {
            return;
        }
        let middle = middle(&low, &top);
        if middle > low && middle < top {
            self.salvage_range(select, low, &middle, tries, each);
            self.salvage_range(select, middle, &top, tries, each);
        }
    }

    /// Whether all rows of the range could be read.
    fn read_range(
        &self,
        select: &str,
        order: &str,
        low: &[u8],
        high: &[u8],
        each: &mut dyn FnMut(&[u8], &Row<'_>) -> rusqlite::Result<()>,
    ) -> bool {
        let query = format!("{select} WHERE virtual_ip >= ?1 AND virtual_ip < ?2 ORDER BY virtual_ip {order}");
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = self.connection.prepare(&query)?;
            let mut rows = statement.query([low, high])?;
            while let Some(row) = rows.next()? {
                let Ok(key) = row.get_ref(0)?.as_blob() else { continue };
                each(key, row)?;
            }
            Ok(())
        };
        read().is_ok()
    }

    /// Writes rows in one transaction. When this returns, the system has them.
    pub fn write(&mut self, writes: &[Write], contacts: &[ContactChange]) -> Result<(), StoreError> {
        self.try_write(writes, contacts).map_err(|error| self.explain(error))
    }

    /// The same in place of all rows there are.
    pub fn rewrite(
        &mut self,
        writes: &[Write],
        contacts: &[ContactChange],
        progress: &Progress,
    ) -> Result<(), StoreError> {
        self.try_rewrite(writes, contacts, progress).map_err(|error| self.explain(error))
    }

    fn try_rewrite(
        &mut self,
        writes: &[Write],
        contacts: &[ContactChange],
        progress: &Progress,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch("DELETE FROM bindings; DELETE FROM contacts; DELETE FROM clock;")?;
        for some in writes.chunks(COUNTED) {
            put_bindings(&transaction, some)?;
            progress.add(some.len() as u64);
        }
        for some in contacts.chunks(COUNTED) {
            put_contacts(&transaction, some)?;
            progress.add(some.len() as u64);
        }
        transaction.commit()
    }

    fn try_write(&mut self, writes: &[Write], contacts: &[ContactChange]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        put_bindings(&transaction, writes)?;
        put_contacts(&transaction, contacts)?;
        transaction.commit()
    }

    /// What the last process has noted of the time; `None` if nothing, or not what it wrote.
    pub fn moment(&self) -> Result<Option<Moment>, StoreError> {
        let select = "SELECT time, boot, since_boot, wall, synchronised, sum FROM clock";
        let read = self.connection.query_row(select, [], |row| {
            let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
            let reading = Reading {
                boot: u128::from_be_bytes(row.get(1)?),
                since_boot: Duration::from_millis(number(2)?),
                wall: Duration::from_millis(number(3)?),
                is_synchronised: row.get(4)?,
            };
            let moment = Moment { time: Time::from_millis(number(0)?), reading };
            Ok((row.get::<_, i64>(5)? == moment.sum()).then_some(moment))
        });
        match read {
            Ok(moment) => Ok(moment),
            Err(rusqlite::Error::QueryReturnedNoRows | rusqlite::Error::FromSqlConversionFailure(..)) => Ok(None),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Notes it for the next process.
    pub fn note(&self, moment: &Moment) -> Result<(), StoreError> {
        let Moment { time, reading } = moment;
        let put = "INSERT OR REPLACE INTO clock VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)";
        let done = self.connection.prepare_cached(put).and_then(|mut put| {
            put.execute(params![
                time.as_millis().cast_signed(),
                reading.boot.to_be_bytes(),
                millis(reading.since_boot).cast_signed(),
                millis(reading.wall).cast_signed(),
                reading.is_synchronised,
                moment.sum()
            ])
        });
        done.map(|_| ()).map_err(|error| self.explain(error))
    }

    /// The file may have no more pages than this.
    #[cfg(test)]
    pub fn limit_pages(&self, pages: u32) -> Result<(), StoreError> {
        self.connection.pragma_update(None, "max_page_count", pages).map_err(|error| self.explain(error))
    }

    /// Has the next commit begin the log anew, over what is in it.
    #[cfg(test)]
    pub fn restart_log(&self) -> Result<(), StoreError> {
        let done = self.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
        done.map_err(|error| self.explain(error))
    }

    /// Removes contacts that were last called before second `before`.
    pub fn forget_contacts(&self, before: u32) -> Result<(), StoreError> {
        let done = self.connection.execute("DELETE FROM contacts WHERE last < ?1", [before]);
        done.map(|_| ()).map_err(|error| self.explain(error))
    }

    /// Puts on disk what was written by any connection.
    pub fn sync(&self) -> Result<(), StoreError> {
        let Some(log) = &self.log else { return self.again()?.sync() };
        log.sync_data().map_err(|error| StoreError::not_synced(&self.path, &error))
    }

    /// Brings a log that has become long into the file. Others can write meanwhile, unless it is far too long.
    pub fn shorten_log(&self) -> Result<(), StoreError> {
        let length = std::fs::metadata(beside(&self.path, "-wal")).map_or(0, |metadata| metadata.len());
        if length < LOG_LONG {
            return Ok(());
        }
        let how = if length < LOG_TOO_LONG { "wal_checkpoint(PASSIVE)" } else { "wal_checkpoint(TRUNCATE)" };
        let done = self.connection.query_row(&format!("PRAGMA {how}"), [], |_| Ok(()));
        done.map_err(|error| self.explain(error))
    }

    /// Brings all of the log into the file and syncs both. Nobody else may have it open.
    pub fn empty_log(&self) -> Result<(), StoreError> {
        let done = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
        match done {
            Ok(false) => Ok(()),
            Ok(true) => Err(StoreError::InUse(self.path.clone())),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Has the log stay as it is when this is closed, for others to look at.
    pub fn leave_log(&self) {
        let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true); // known since 3.16
    }

    fn explain(&self, error: rusqlite::Error) -> StoreError {
        let path = self.path.clone();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Damaged { path, what: error.to_string() }
            }
            _ if failed_sync(&error) => StoreError::NotSynced { path, error: error.to_string() },
            _ => StoreError::Database { path, error: Box::new(error) },
        }
    }
}

impl Backend for Database {
    fn write(&mut self, writes: &[Write], contacts: &[ContactChange]) -> Result<(), StoreError> {
        Database::write(self, writes, contacts)
    }

    fn read(&self, each: &mut dyn FnMut(StoredBinding)) -> Result<(), StoreError> {
        self.load(each).map(|_| ())
    }

    fn forget_contacts(&self, before: u32) -> Result<(), StoreError> {
        Database::forget_contacts(self, before)
    }

    fn note(&self, moment: &Moment) -> Result<(), StoreError> {
        Database::note(self, moment)
    }

    fn sync(&self) -> Result<(), StoreError> {
        Database::sync(self)
    }

    fn tidy(&self) -> Result<(), StoreError> {
        self.shorten_log()
    }

    fn again(&self) -> Result<Box<dyn Backend>, StoreError> {
        Ok(Box::new(Database::again(self)?))
    }

    fn rewrite(&self, nat: &Nat) -> Result<Reopen, StoreError> {
        self.write_whole_file(nat)?;
        let path = self.path.clone();
        Ok(Box::new(move || Ok(Box::new(Database::open_anew(&path)?))))
    }

    #[cfg(test)]
    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

fn failed_sync(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_FSYNC)
}

/// Writes the rows of bindings.
fn put_bindings(transaction: &Transaction<'_>, writes: &[Write]) -> rusqlite::Result<()> {
    let mut put = transaction.prepare_cached(
        "INSERT OR REPLACE INTO bindings VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
    )?;
    let mut remove = transaction.prepare_cached("DELETE FROM bindings WHERE virtual_ip = ?1")?;
    let mut forget = transaction.prepare_cached("DELETE FROM contacts WHERE virtual_ip = ?1")?;
    for write in writes {
        let gone = match write {
            Write::Put(binding) => {
                let policy = binding.callback.as_ref().map(row::policy_text);
                put.execute(params![
                    key(binding.virtual_ip).bytes(),
                    &*binding.inside,
                    key(binding.terminal).bytes(),
                    row::state_number(binding.state),
                    binding.pinned,
                    binding.created,
                    binding.last_used,
                    binding.packets_out.cast_signed(),
                    binding.packets_in.cast_signed(),
                    binding.callbacks,
                    policy,
                    row::binding_sum(binding, policy.as_deref()),
                    binding.answered,
                    binding.ended,
                    binding.bytes_out.cast_signed(),
                    binding.bytes_in.cast_signed(),
                ])?;
                (binding.state == crate::nat::BindingState::Quarantined).then_some(binding.virtual_ip)
            }
            Write::Remove(virtual_ip) => {
                remove.execute([key(*virtual_ip).bytes()])?;
                Some(*virtual_ip)
            }
        };
        if let Some(virtual_ip) = gone {
            forget.execute([key(virtual_ip).bytes()])?;
        }
    }
    Ok(())
}

/// Writes the rows of contacts.
fn put_contacts(transaction: &Transaction<'_>, contacts: &[ContactChange]) -> rusqlite::Result<()> {
    let mut note =
        transaction.prepare_cached("INSERT OR REPLACE INTO contacts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    let mut drop = transaction.prepare_cached("DELETE FROM contacts WHERE virtual_ip = ?1 AND peer = ?2")?;
    for change in contacts {
        let ContactChange { virtual_ip, created, peer, contact } = *change;
        match contact {
            Some(contact) => {
                let sum = row::contact_sum(&ContactRow { virtual_ip, created, contact });
                let StoredContact { peer, first, last, answered, called_back } = contact;
                let (virtual_ip, peer) = (key(virtual_ip), key(peer));
                note.execute(params![
                    virtual_ip.bytes(),
                    peer.bytes(),
                    created,
                    last,
                    sum,
                    answered,
                    first,
                    called_back
                ])?
            }
            None => drop.execute(params![key(virtual_ip).bytes(), key(peer).bytes()])?,
        };
    }
    Ok(())
}

/// The tables as they were made, in their order.
fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// The tables of a file that has gone so many steps.
fn tables_after(steps: usize) -> rusqlite::Result<Vec<String>> {
    let model = Connection::open_in_memory()?;
    STEPS.iter().take(steps).try_for_each(|step| model.execute_batch(step))?;
    tables(&model)
}

/// A key between two.
fn middle(low: &[u8], high: &[u8]) -> Vec<u8> {
    let number = |key: &[u8]| {
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
        u128::from_be_bytes(bytes)
    };
    let (low, high) = (number(low), number(high));
    (low + (high.saturating_sub(low)) / 2).to_be_bytes().to_vec()
}
