//! The relay's register: its members, the open invitations, and clients with a password.
//!
//! SQLite with a write-ahead log, synced at each commit: what an agent was told outlives a power cut. Of a secret only the
//! hash is in the file, of a member only the fingerprint of the key, of a password only a slow hash.

use super::error::IdentityError;
use super::files;
use super::fingerprint::Fingerprint;
use super::invitation::Secret;
use crate::session::{NameError, checked_name};
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// How long an invitation is valid unless said.
pub const INVITATION_LIFE: Duration = Duration::from_secs(3600);
/// All that a refused member is told, whatever the cause (requirement C2). The relay's log has the [`Refusal`].
pub const REFUSED: &str = "refused: the relay does not know this key, or the invitation is unknown, spent or expired; ask its operator for one";

/// How far the clock may go back between an invitation and its use before the invitation counts as not yet valid.
const CLOCK_STEPS_BACK: Duration = Duration::from_secs(300);
/// Servers of one member.
const MOST_SERVERS: usize = 256;
/// Marks the file as a register of kamei ("kamr").
const APPLICATION: i32 = 0x6b61_6d72;
/// Step `n` brings a file of version `n` to version `n + 1`. Times are milliseconds since the epoch; `servers` has names
/// with commas between; `kind` is 0 for an agent and 1 for a client.
const STEPS: &[&str] = &[
    "CREATE TABLE members (name TEXT PRIMARY KEY, kind INTEGER NOT NULL, servers TEXT NOT NULL, key BLOB NOT NULL UNIQUE,
        since INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE invitations (name TEXT PRIMARY KEY, kind INTEGER NOT NULL, servers TEXT NOT NULL,
        hash BLOB NOT NULL UNIQUE, issued INTEGER NOT NULL, expires INTEGER NOT NULL, spent_by BLOB) STRICT, WITHOUT ROWID",
    // Names that certificates of the operator's CA cannot use.
    "CREATE TABLE revoked (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    // Clients that prove who they are by a password; `hash` is a PHC string.
    "CREATE TABLE passwords (name TEXT PRIMARY KEY, servers TEXT NOT NULL, hash TEXT NOT NULL, since INTEGER NOT NULL)
        STRICT, WITHOUT ROWID",
];
/// How long one connection waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

/// The members of a relay, and whom it has invited. Shared by all threads; each call waits for the disk.
pub struct Register {
    connection: Mutex<Connection>,
    path: PathBuf,
}

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberKind {
    /// It publishes servers.
    Agent,
    /// It calls them.
    Client,
}

/// An agent or a client whose key the relay knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it is called; no other member is called so.
    pub name: String,
    /// What it does.
    pub kind: MemberKind,
    /// Its key; no other member has it.
    pub key: Fingerprint,
    /// What an agent may publish or a client may call, in order; none stands for any. See [`Member::may`].
    pub servers: Vec<String>,
    /// When it showed its invitation, by the relay's clock.
    pub since: SystemTime,
}

/// A client that proves who it is by a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordClient {
    /// What it is called; no member is called so.
    pub name: String,
    /// What it may call; none stands for any.
    pub servers: Vec<String>,
    /// Of the password: a PHC string.
    pub hash: String,
    /// When it got the password, by the relay's clock.
    pub since: SystemTime,
}

/// Who was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// One with a key.
    Member(Member),
    /// One with a password.
    Client(PasswordClient),
}

/// An invitation that nobody has spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenInvitation {
    /// What the member will be called.
    pub name: String,
    /// What it will do.
    pub kind: MemberKind,
    /// As in [`Member::servers`].
    pub servers: Vec<String>,
    /// From when on it is refused, by the relay's clock.
    pub expires: SystemTime,
}

/// Why the register does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// A member or server cannot be called so.
    #[error(transparent)]
    Name(#[from] NameError),
    /// More servers than one member can have.
    #[error("{0} servers are too many for one member; 256 are the most")]
    Servers(usize),
    /// The invitation would never be valid, or its end cannot be written.
    #[error("an invitation cannot be valid for {}; one hour is usual", humantime::format_duration(*.0))]
    Valid(Duration),
    /// A member of this name has a key already.
    #[error(
        "'{0}' is a member already; `kamei relay revoke {0}` ends that, and then another can be invited by this name"
    )]
    Member(String),
    /// The proof is wrong. Its sender is told [`REFUSED`].
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The register cannot be read or written.
    #[error(transparent)]
    File(#[from] IdentityError),
}

/// Why a secret is refused, for the relay's log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No invitation has it: it was replaced, revoked, long expired, or never made.
    #[error("no invitation has this secret")]
    Unknown,
    /// Its time is over.
    #[error("the invitation of '{0}' has expired")]
    Expired(String),
    /// The clock stands before the time at which it was made.
    #[error("the invitation of '{0}' is not valid yet: the clock of the relay has gone back")]
    Early(String),
    /// Another key has spent it.
    #[error("the invitation of '{0}' is spent by another key")]
    Spent(String),
    /// The operator has revoked the name, which a certificate of the operator's CA has.
    #[error("'{0}' is revoked, whatever its certificate says")]
    Revoked(String),
    /// A member with another key is called as the certificate of the operator's CA says.
    #[error("'{0}' is a member with another key; a certificate of a CA does not change that")]
    OtherKey(String),
    /// The key is a member under another name.
    #[error("the invitation is of '{invited}', but the key is that of member '{member}'; revoke that first")]
    OtherName {
        /// Whom the invitation is of.
        invited: String,
        /// Whose the key is.
        member: String,
    },
}

/// An invitation as it is in the file.
struct Invited {
    name: String,
    kind: MemberKind,
    servers: Vec<String>,
    issued: i64,
    expires: i64,
    spent_by: Option<Fingerprint>,
}

impl RegisterError {
    /// Whether the proof was wrong, and its sender is to be told [`REFUSED`].
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

impl Member {
    /// Whether an agent may publish, or a client may call, the server `name`.
    pub fn may(&self, name: &str) -> bool {
        permits(&self.servers, name)
    }
}

impl PasswordClient {
    /// Whether it may call the server `name`.
    pub fn may(&self, name: &str) -> bool {
        permits(&self.servers, name)
    }
}

fn permits(servers: &[String], name: &str) -> bool {
    servers.is_empty() || servers.iter().any(|server| server == name)
}

impl MemberKind {
    const fn number(self) -> i64 {
        match self {
            Self::Agent => 0,
            Self::Client => 1,
        }
    }
}

impl fmt::Display for MemberKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Agent => "agent",
            Self::Client => "client",
        })
    }
}

impl Register {
    /// Opens the register, or makes it, readable by its owner only, and brings it to the present version.
    ///
    /// # Errors
    /// [`IdentityError::Damaged`] if it is not what was written, [`IdentityError::Newer`] if a later kamei wrote it,
    /// [`IdentityError::NotPrivate`] if others can write to its directory, [`IdentityError::NoLog`], or what the system or
    /// SQLite said.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            files::private_directory(directory)?;
        }
        files::private(path)?;
        let failed = |error: rusqlite::Error| explain(path, error);
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(PATIENCE).map_err(failed)?;
        check_and_upgrade(&mut connection, path).map_err(failed)??;
        let register = Self { connection: Mutex::new(connection), path: path.to_owned() };
        register.members()?;
        register.all_invitations()?;
        register.clients()?;
        Ok(register)
    }

    /// All of it, as the bytes of a file that [`Register::open`] opens.
    ///
    /// # Errors
    /// What the system or SQLite said.
    pub fn whole(&self) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
        let copy = self.path.with_extension("db.copy");
        let _ = std::fs::remove_file(&copy); // of a process that was killed
        files::private(&copy)?;
        let name = copy.to_string_lossy().into_owned();
        let read = self.read(|connection| connection.execute("VACUUM INTO ?1", [name]));
        let bytes =
            read.and_then(|_| std::fs::read(&copy).map_err(|error| IdentityError::File { path: copy.clone(), error }));
        let _ = std::fs::remove_file(&copy);
        bytes.map(Zeroizing::new)
    }

    /// Invites an agent or a client that will be called `name`, for `valid` from `now`. `servers` is [`Member::servers`]. An invitation
    /// of the same name that nobody has spent is replaced: its secret is unknown from now on.
    ///
    /// # Errors
    /// [`RegisterError::Name`], [`RegisterError::Servers`] and [`RegisterError::Valid`] for what cannot be;
    /// [`RegisterError::Member`] if a member is called so; [`RegisterError::File`].
    pub fn invite(
        &self,
        name: &str,
        kind: MemberKind,
        servers: &[String],
        valid: Duration,
        now: SystemTime,
    ) -> Result<Secret, RegisterError> {
        checked_name(name)?;
        let servers = checked_servers(servers)?;
        let issued = millis(now)?;
        let expires = now.checked_add(valid).and_then(|expires| millis(expires).ok());
        let expires = expires.filter(|expires| *expires > issued).ok_or(RegisterError::Valid(valid))?;
        let secret = Secret::random().map_err(IdentityError::crypto("random numbers"))?;
        let is_member = self.change(|transaction| {
            let is_member = member_where(transaction, "name", &name)?.is_some() || client(transaction, name)?.is_some();
            if !is_member {
                transaction.execute("DELETE FROM invitations WHERE expires <= ?1", [issued])?;
                transaction.execute(
                    "INSERT OR REPLACE INTO invitations VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL)",
                    params![name, kind.number(), servers, secret.hash(), issued, expires],
                )?;
            }
            Ok(is_member)
        })?;
        if is_member { Err(RegisterError::Member(name.to_owned())) } else { Ok(secret) }
    }

    /// Spends the invitation with this secret: the owner of `key` is a member from now on. All of it happens in one
    /// transaction, so of two keys that show the secret at once one wins. The same key can show it again while it is valid,
    /// if the answer was lost.
    ///
    /// # Errors
    /// [`RegisterError::Refused`], of which the sender is told [`REFUSED`] only; [`RegisterError::File`].
    pub fn redeem(&self, secret: &Secret, key: Fingerprint, now: SystemTime) -> Result<Member, RegisterError> {
        let (hash, now) = (secret.hash(), millis(now)?);
        // A wrong proof reads and does not write: it takes no lock from others.
        self.read(|connection| judge(connection, &hash, key, now))??;
        let redeemed = self.change(|transaction| {
            let invited = match judge(transaction, &hash, key, now)? {
                Ok(invited) => invited,
                Err(refusal) => return Ok(Err(refusal)),
            };
            if let Some(member) = member_where(transaction, "name", &invited.name)? {
                // Spent by this key before; another member of this name has shown another invitation.
                let is_same = member.key == key;
                return Ok(if is_same { Ok(member) } else { Err(Refusal::Spent(invited.name)) });
            }
            let spend = "UPDATE invitations SET spent_by = ?2 WHERE hash = ?1";
            transaction.execute(spend, params![hash, key.as_bytes()])?;
            let servers = invited.servers.join(",");
            transaction.execute(
                "INSERT INTO members VALUES (?1, ?2, ?3, ?4, ?5)",
                params![invited.name, invited.kind.number(), servers, key.as_bytes(), now],
            )?;
            let Invited { name, kind, servers, .. } = invited;
            Ok(Ok(Member { name, kind, key, servers, since: moment(now) }))
        })?;
        Ok(redeemed?)
    }

    /// Whose key this is; `None` for a stranger, who is to be told [`REFUSED`].
    ///
    /// # Errors
    /// [`RegisterError::File`].
    pub fn by_key(&self, key: &Fingerprint) -> Result<Option<Member>, RegisterError> {
        Ok(self.read(|connection| member_where(connection, "key", &key.as_bytes()))?)
    }

    /// All members, by name.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn members(&self) -> Result<Vec<Member>, IdentityError> {
        self.read(|connection| {
            let mut select = connection.prepare(&format!("{MEMBERS} ORDER BY name"))?;
            select.query_map([], read_member)?.collect()
        })
    }

    /// Invitations that can be spent at `now`, by name.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn invitations(&self, now: SystemTime) -> Result<Vec<OpenInvitation>, IdentityError> {
        let now = millis(now)?;
        let all = self.all_invitations()?.into_iter();
        let open = all.filter(|invited| invited.spent_by.is_none() && invited.expires > now);
        Ok(open
            .map(|Invited { name, kind, servers, expires, .. }| OpenInvitation {
                name,
                kind,
                servers,
                expires: moment(expires),
            })
            .collect())
    }

    /// Lets a client in by a password of which this is the hash, to call these servers: [`PasswordClient`]. Of one that is
    /// there already, password and rights are these from now on.
    ///
    /// # Errors
    /// [`RegisterError::Name`] and [`RegisterError::Servers`] for what cannot be; [`RegisterError::Member`] if one with a key
    /// is called so, or is invited; [`RegisterError::File`].
    pub fn admit(&self, name: &str, servers: &[String], hash: &str, now: SystemTime) -> Result<(), RegisterError> {
        checked_name(name)?;
        let (servers, since) = (checked_servers(servers)?, millis(now)?);
        let is_other = self.change(|transaction| {
            let select = format!("{INVITATIONS} WHERE name = ?1 AND expires > ?2");
            let is_invited = transaction.prepare_cached(&select)?.exists(params![name, since])?;
            let is_other = is_invited || member_where(transaction, "name", &name)?.is_some();
            if !is_other {
                let insert = "INSERT OR REPLACE INTO passwords VALUES (?1, ?2, ?3, ?4)";
                transaction.execute(insert, params![name, servers, hash, since])?;
            }
            Ok(is_other)
        })?;
        if is_other { Err(RegisterError::Member(name.to_owned())) } else { Ok(()) }
    }

    /// The client with a password that is called so.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn client(&self, name: &str) -> Result<Option<PasswordClient>, IdentityError> {
        self.read(|connection| client(connection, name))
    }

    /// All clients with a password, by name.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn clients(&self) -> Result<Vec<PasswordClient>, IdentityError> {
        self.read(|connection| {
            let mut select = connection.prepare(&format!("{PASSWORDS} ORDER BY name"))?;
            select.query_map([], read_client)?.collect()
        })
    }

    /// Sets what a member may publish or call, and returns it as it is now; `None` if nobody is called so.
    ///
    /// # Errors
    /// [`RegisterError::Name`] and [`RegisterError::Servers`] for what cannot be; [`RegisterError::File`].
    pub fn permit(&self, name: &str, servers: &[String]) -> Result<Option<Member>, RegisterError> {
        let servers = checked_servers(servers)?;
        Ok(self.change(|transaction| {
            transaction.execute("UPDATE members SET servers = ?2 WHERE name = ?1", [name, &servers])?;
            member_where(transaction, "name", &name)
        })?)
    }

    /// Whether `key`, of which a certificate of the operator's CA ([`super::Roots`]) says that it is `name`'s, may be called
    /// so: no member with another key is, and the name is not revoked. Nothing is noted.
    ///
    /// # Errors
    /// [`RegisterError::Refused`], of which the sender is told [`REFUSED`] only; [`RegisterError::File`].
    pub fn vouched(&self, name: &str, key: &Fingerprint) -> Result<(), RegisterError> {
        let name = checked_name(name)?.to_owned();
        let (member, is_revoked) = self.read(|connection| {
            let is_revoked = connection.prepare_cached("SELECT 1 FROM revoked WHERE name = ?1")?.exists([&name])?;
            Ok((member_where(connection, "name", &name)?, is_revoked))
        })?;
        match member {
            Some(member) if member.key == *key => Ok(()),
            Some(_) => Err(Refusal::OtherKey(name).into()),
            None if is_revoked => Err(Refusal::Revoked(name).into()),
            None => Ok(()),
        }
    }

    /// Takes back that certificates of the operator's CA cannot use `name`; whether they could not. Who was invited has to
    /// be invited again instead.
    ///
    /// # Errors
    /// [`RegisterError::File`].
    pub fn pardon(&self, name: &str) -> Result<bool, RegisterError> {
        let gone = self.change(|transaction| transaction.execute("DELETE FROM revoked WHERE name = ?1", [name]))?;
        Ok(gone > 0)
    }

    /// Forgets the member or client and its invitations, and returns what was known; `None` if nobody is called so.
    /// Certificates of the operator's CA cannot use the name from now on. Its connections are the caller's to end.
    ///
    /// # Errors
    /// [`RegisterError::Name`] if nobody can be called so; [`RegisterError::File`].
    pub fn revoke(&self, name: &str) -> Result<Option<Revoked>, RegisterError> {
        checked_name(name)?;
        Ok(self.change(|transaction| {
            let member = member_where(transaction, "name", &name)?.map(Revoked::Member);
            let client = client(transaction, name)?.map(Revoked::Client);
            transaction.execute("DELETE FROM passwords WHERE name = ?1", [name])?;
            transaction.execute("DELETE FROM members WHERE name = ?1", [name])?;
            // A spent one too: it would let the same key in again while it is valid.
            transaction.execute("DELETE FROM invitations WHERE name = ?1", [name])?;
            transaction.execute("INSERT OR REPLACE INTO revoked VALUES (?1)", [name])?;
            Ok(member.or(client))
        })?)
    }

    fn all_invitations(&self) -> Result<Vec<Invited>, IdentityError> {
        self.read(|connection| {
            let mut select = connection.prepare(&format!("{INVITATIONS} ORDER BY name"))?;
            select.query_map([], read_invited)?.collect()
        })
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, IdentityError> {
        read(&self.connection.lock()).map_err(|error| explain(&self.path, error))
    }

    /// Does it as a whole, or not at all. When this returns it is on disk.
    fn change<T>(&self, change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, IdentityError> {
        let mut connection = self.connection.lock();
        let changed = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|transaction| {
            let changed = change(&transaction)?;
            transaction.commit()?;
            Ok(changed)
        });
        changed.map_err(|error| explain(&self.path, error))
    }
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Register").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What [`read_member`] reads.
const MEMBERS: &str = "SELECT name, kind, servers, key, since FROM members";
/// What [`read_invited`] reads.
const INVITATIONS: &str = "SELECT name, kind, servers, issued, expires, spent_by FROM invitations";
/// What [`read_client`] reads.
const PASSWORDS: &str = "SELECT name, servers, hash, since FROM passwords";

/// The invitation with this secret, if `key` may be a member by it.
fn judge(
    connection: &Connection,
    hash: &[u8; 32],
    key: Fingerprint,
    now: i64,
) -> rusqlite::Result<Result<Invited, Refusal>> {
    let mut select = connection.prepare_cached(&format!("{INVITATIONS} WHERE hash = ?1"))?;
    let Some(invited) = select.query_row([hash], read_invited).optional()? else { return Ok(Err(Refusal::Unknown)) };
    let steps_back = i64::try_from(CLOCK_STEPS_BACK.as_millis()).unwrap_or(i64::MAX);
    let name = invited.name.clone();
    if now >= invited.expires {
        return Ok(Err(Refusal::Expired(name)));
    }
    if now.saturating_add(steps_back) < invited.issued {
        return Ok(Err(Refusal::Early(name)));
    }
    if invited.spent_by.is_some_and(|spent_by| spent_by != key) {
        return Ok(Err(Refusal::Spent(name)));
    }
    match member_where(connection, "key", &key.as_bytes())? {
        Some(member) if member.name != name => Ok(Err(Refusal::OtherName { invited: name, member: member.name })),
        _ => Ok(Ok(invited)),
    }
}

fn member_where(connection: &Connection, column: &str, is: &dyn rusqlite::ToSql) -> rusqlite::Result<Option<Member>> {
    connection.prepare_cached(&format!("{MEMBERS} WHERE {column} = ?1"))?.query_row([is], read_member).optional()
}

fn read_member(row: &Row<'_>) -> rusqlite::Result<Member> {
    Ok(Member {
        name: row.get(0)?,
        kind: kind(row, 1)?,
        servers: servers(row, 2)?,
        key: Fingerprint::from_bytes(row.get(3)?),
        since: moment(row.get(4)?),
    })
}

fn client(connection: &Connection, name: &str) -> rusqlite::Result<Option<PasswordClient>> {
    connection.prepare_cached(&format!("{PASSWORDS} WHERE name = ?1"))?.query_row([name], read_client).optional()
}

fn read_client(row: &Row<'_>) -> rusqlite::Result<PasswordClient> {
    Ok(PasswordClient { name: row.get(0)?, servers: servers(row, 1)?, hash: row.get(2)?, since: moment(row.get(3)?) })
}

fn read_invited(row: &Row<'_>) -> rusqlite::Result<Invited> {
    Ok(Invited {
        name: row.get(0)?,
        kind: kind(row, 1)?,
        servers: servers(row, 2)?,
        issued: row.get(3)?,
        expires: row.get(4)?,
        spent_by: row.get::<_, Option<[u8; 32]>>(5)?.map(Fingerprint::from_bytes),
    })
}

fn kind(row: &Row<'_>, column: usize) -> rusqlite::Result<MemberKind> {
    match row.get(column)? {
        0 => Ok(MemberKind::Agent),
        1 => Ok(MemberKind::Client),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(column, other)),
    }
}

fn servers(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    let names: String = row.get(column)?;
    Ok(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// The names in order, each once, with commas between.
fn checked_servers(servers: &[String]) -> Result<String, RegisterError> {
    let mut names = servers.iter().map(|server| checked_name(server)).collect::<Result<Vec<&str>, _>>()?;
    names.sort_unstable();
    names.dedup();
    if names.len() > MOST_SERVERS { Err(RegisterError::Servers(names.len())) } else { Ok(names.join(",")) }
}

/// Milliseconds since the epoch.
fn millis(moment: SystemTime) -> Result<i64, IdentityError> {
    let since = moment.duration_since(UNIX_EPOCH).map_err(|_| IdentityError::Clock)?;
    i64::try_from(since.as_millis()).map_err(|_| IdentityError::Clock)
}

/// The moment so many milliseconds after the epoch; none is before.
fn moment(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Brings the file to the present version. One that is not what was written is left as it is.
fn check_and_upgrade(connection: &mut Connection, path: &Path) -> rusqlite::Result<Result<(), IdentityError>> {
    connection.execute_batch(
        "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; \
         PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;",
    )?;
    let done = match steps_done(&connection.transaction()?, path)? {
        Ok(done) => done,
        Err(error) => return Ok(Err(error)),
    };
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Ok(Err(IdentityError::NoLog(path.to_owned())));
    }
    if done == STEPS.len() {
        return Ok(Ok(()));
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have done it meanwhile.
    let done = match steps_done(&transaction, path)? {
        Ok(done) => done,
        Err(error) => return Ok(Err(error)),
    };
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    for step in STEPS.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", i32::try_from(STEPS.len()).unwrap_or(i32::MAX))?;
    transaction.commit()?;
    Ok(Ok(()))
}

/// How many steps a sound file has gone.
fn steps_done(transaction: &Transaction<'_>, path: &Path) -> rusqlite::Result<Result<usize, IdentityError>> {
    let damaged = |what: String| Ok(Err(IdentityError::Damaged { path: path.to_owned(), what }));
    let number = |name| transaction.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let known = i32::try_from(STEPS.len()).unwrap_or(i32::MAX);
    let is_new = application == 0 && version == 0 && tables(transaction)?.is_empty();
    if !is_new && application != APPLICATION {
        return damaged("it is not a register of kamei".to_owned());
    }
    if version > known {
        return Ok(Err(IdentityError::Newer { path: path.to_owned(), version, known }));
    }
    let done = usize::try_from(version).unwrap_or(0);
    if tables(transaction)? != tables_after(done)? {
        return damaged(format!("its tables are not those of version {version}"));
    }
    let verdict = transaction.pragma_query_value(None, "integrity_check", |row| row.get::<_, String>(0))?;
    if verdict == "ok" { Ok(Ok(done)) } else { damaged(verdict.lines().last().unwrap_or_default().to_owned()) }
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

fn explain(path: &Path, error: rusqlite::Error) -> IdentityError {
    let path = path.to_owned();
    let is_damaged = match &error {
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => true,
        _ => matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)),
    };
    match is_damaged {
        true => IdentityError::Damaged { path, what: error.to_string() },
        false => IdentityError::Database { path, error: Box::new(error) },
    }
}
