//! Questions about the history, and their answers.

use super::clock::{ClockState, Stretches};
use super::file::{BITS, HistoryFile, ROWS, Stored, last_of, read_row};
use super::note::{Happened, Standing};
use crate::nat::{BindingState, Qualified, StoredBinding};
use crate::store::row::key;
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Entries of one answer, at most.
pub const MOST_ENTRIES: u64 = 10_000;
/// Entries that are read for one answer, at most, whether or not they are what was asked for.
const MOST_READ: u64 = MOST_ENTRIES;
/// Virtual IPs of a terminal that are looked at, and those of each time that the clock showed what was asked, at most.
const MOST_LOOKED_AT: usize = 1000;

/// What is asked. Times are milliseconds of the wall clock since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryQuestion {
    /// Of this virtual IP.
    pub virtual_ip: Option<IpAddr>,
    /// Of this terminal.
    pub terminal: Option<Qualified>,
    /// Who had it then.
    pub at: Option<u64>,
    /// What happened then or later.
    pub since: Option<u64>,
    /// What happened before.
    pub until: Option<u64>,
    /// Entries older than the one of this number, for a further page.
    pub before: Option<u64>,
    /// So many entries at most, the newest.
    pub limit: Option<u64>,
}

/// The answer. Times are milliseconds of the wall clock since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryAnswer {
    /// From when on nothing is missing; before, that nobody had a virtual IP cannot be told.
    pub whole_since: u64,
    /// From when on nothing of bindings is missing that were ever answered.
    pub answered_whole_since: u64,
    /// How far it goes: now, or when a gateway last ran.
    pub until: u64,
    /// Who had it, for each moment that the clock showed the time asked for; empty unless such a time was.
    pub owners: Vec<Owner>,
    /// What happened, the oldest first; empty if it was asked who had it.
    pub entries: Vec<Entry>,
    /// Ask for entries before this number to have the next page, which there may be though this one is empty: no more than
    /// 10,000 entries are read for an answer. `None`: there are no more.
    pub more: Option<u64>,
    /// Whether a terminal has had so many virtual IPs, or the clock was set so often, that not all are in `owners`.
    #[serde(default)]
    pub left_out: bool,
    /// Entries that are not what was written, and left out.
    pub damaged: u64,
}

/// What happened to a binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number: a later one has a higher.
    pub id: u64,
    /// When, in milliseconds since the Unix epoch by the wall clock.
    pub at: u64,
    /// How that was told.
    pub clock: ClockState,
    /// What became of the binding.
    pub event: Happened,
    /// `gateway`, `command`, `reload`, `start`, `occupied` or `import`.
    pub by: String,
    /// The number of the user who gave the command; `None`: it was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The virtual IP.
    pub virtual_ip: IpAddr,
    /// Whose it was.
    pub terminal: IpAddr,
    /// In which inside.
    pub realm: String,
    /// When the binding was made.
    pub created: u64,
    /// Who may call, where that is not as the pool has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
    /// Whether any peer had answered.
    pub answered: bool,
}

/// Who had a virtual IP at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The virtual IP.
    pub virtual_ip: IpAddr,
    /// Milliseconds since the Unix epoch, as the wall clock showed them.
    pub at: u64,
    /// How it was told.
    pub clock: ClockState,
    /// Who; `None`: nobody.
    pub owner: Option<Ownership>,
    /// Where nobody had it, whether that is certain: nothing is missing in the history of that time.
    pub certain: bool,
    /// What happened to it last before.
    pub last: Option<Entry>,
    /// What happened next.
    pub next: Option<Entry>,
}

/// A virtual IP belongs to a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// Its own address.
    pub terminal: IpAddr,
    /// In which inside.
    pub realm: String,
    /// `active` or `dormant`; `None`: that is not kept any more.
    pub state: Option<BindingState>,
    /// Since when.
    pub since: u64,
    /// How that time was told.
    pub since_clock: ClockState,
    /// When it ended; `None`: it has not.
    pub until: Option<u64>,
    /// Who ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
    /// The user who did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by_uid: Option<u32>,
}

/// Answers. `held` has the bindings there are now with an address, whose times this file's are `ahead` of.
pub fn look_up(
    file: &HistoryFile,
    question: &HistoryQuestion,
    held: &dyn Fn(IpAddr) -> Vec<StoredBinding>,
    ahead: i64,
) -> rusqlite::Result<HistoryAnswer> {
    let clock = file.stretches()?;
    let look = Look { file, clock, held, ahead };
    let until = file.noted()?.0.map_or(0, |moment| moment.time.as_millis());
    let mut answer = HistoryAnswer {
        whole_since: look.clock.wall(file.reach.whole).0,
        answered_whole_since: look.clock.wall(file.reach.answered).0,
        until: look.clock.wall(until).0,
        owners: Vec::new(),
        entries: Vec::new(),
        more: None,
        left_out: false,
        damaged: 0,
    };
    match question.at {
        Some(at) => look.owners(question, at, &mut answer)?,
        None => look.entries(question, &mut answer)?,
    }
    Ok(answer)
}

struct Look<'a> {
    file: &'a HistoryFile,
    clock: Stretches,
    held: &'a dyn Fn(IpAddr) -> Vec<StoredBinding>,
    ahead: i64,
}

impl Look<'_> {
    fn owners(&self, question: &HistoryQuestion, at: u64, answer: &mut HistoryAnswer) -> rusqlite::Result<()> {
        let virtual_ips = match (question.virtual_ip, &question.terminal) {
            (Some(virtual_ip), _) => vec![virtual_ip],
            (None, Some(terminal)) => self.virtual_ips_of(terminal.address)?,
            (None, None) => Vec::new(),
        };
        let is_asked = |owner: &Owner| match (&question.terminal, &owner.owner) {
            (None, _) => true,
            (Some(named), Some(found)) => is_named(named, found.terminal, &found.realm),
            (Some(_), None) => question.virtual_ip.is_some(),
        };
        let moments = self.clock.moments(at);
        let all = moments.iter().flat_map(|moment| virtual_ips.iter().map(move |virtual_ip| (*moment, *virtual_ip)));
        answer.left_out = moments.len().saturating_mul(virtual_ips.len()) > MOST_LOOKED_AT;
        for ((moment, clock), virtual_ip) in all.take(MOST_LOOKED_AT) {
            let owner = self.owner(virtual_ip, moment, at, clock)?;
            answer.owners.extend(Some(owner).filter(is_asked));
        }
        Ok(())
    }

    fn virtual_ips_of(&self, terminal: IpAddr) -> rusqlite::Result<Vec<IpAddr>> {
        // Those of now first: there are few, and they are not to be left out.
        let mut found: Vec<IpAddr> = (self.held)(terminal).iter().map(|binding| binding.virtual_ip).collect();
        let had = self.file.had(terminal, MOST_LOOKED_AT + 1)?;
        let held: std::collections::HashSet<IpAddr> = found.iter().copied().collect();
        found.extend(had.into_iter().filter(|virtual_ip| !held.contains(virtual_ip)));
        Ok(found)
    }

    /// Who had `virtual_ip` at a moment, when the wall clock showed `at`.
    fn owner(&self, virtual_ip: IpAddr, moment: u64, at: u64, clock: ClockState) -> rusqlite::Result<Owner> {
        let last = last_of(&self.file.connection, virtual_ip, moment)?;
        let next = self.next_of(virtual_ip, moment, None)?;
        let reach = self.file.reach;
        let owner = match (&last, &next) {
            (Some(last), _) if last.holds() => Some(self.ownership(last, None, moment)?),
            // Its beginning is not kept any more.
            (_, Some(next)) if self.began_before(next, last.as_ref(), moment) => {
                Some(self.ownership(next, Some(last.as_ref().map_or(0, Stored::at)), moment)?)
            }
            (_, Some(_)) => None,
            (_, None) => self.present(virtual_ip, last.as_ref(), moment),
        };
        Ok(Owner {
            virtual_ip,
            at,
            clock,
            certain: owner.is_some() || moment >= reach.whole,
            owner,
            last: last.map(|entry| self.entry(&entry)),
            next: next.map(|entry| self.entry(&entry)),
        })
    }

    /// Whether the binding of an entry was there at a moment before it, after all that is known of others.
    fn began_before(&self, entry: &Stored, last: Option<&Stored>, moment: u64) -> bool {
        let starts = entry.what == Happened::Made && (last.is_some() || !entry.by.is_import());
        let after_last = last.is_none_or(|last| entry.created + 999 >= last.at());
        let was_aside = entry.what == Happened::Back;
        !starts && !was_aside && after_last && entry.created <= moment
    }

    /// The binding that has the virtual IP now, if nothing else is known since.
    fn present(&self, virtual_ip: IpAddr, last: Option<&Stored>, moment: u64) -> Option<Ownership> {
        let found = (self.held)(virtual_ip).into_iter().find(|binding| binding.virtual_ip == virtual_ip)?;
        let created = (u64::from(found.created) * 1000).saturating_add_signed(self.ahead);
        let is_it = found.state != BindingState::Quarantined
            && created <= moment
            && last.is_none_or(|last| last.standing != Standing::Aside && created + 999 >= last.at());
        let (since, since_clock) = self.clock.wall(created.max(last.map_or(0, Stored::at)));
        is_it.then(|| Ownership {
            terminal: found.terminal,
            realm: found.inside.to_string(),
            state: None,
            since,
            since_clock,
            until: None,
            ended_by: None,
            ended_by_uid: None,
        })
    }

    /// What an entry of before `moment` says, or one of later: then with the time of the entry before, which was another's.
    fn ownership(&self, entry: &Stored, before: Option<u64>, moment: u64) -> rusqlite::Result<Ownership> {
        let end = self.next_of(entry.virtual_ip, moment, Some(entry))?;
        let standing = before.is_none().then_some(entry.standing);
        // Of a binding that was made in the second in which another ended, the second alone may be known.
        let (since, since_clock) = self.clock.wall(entry.created.max(before.unwrap_or(0)));
        let by = end.as_ref().map(|end| end.by.named());
        Ok(Ownership {
            terminal: entry.terminal,
            realm: entry.inside.to_string(),
            state: standing.and_then(|standing| match standing {
                Standing::Active => Some(BindingState::Active),
                Standing::Dormant => Some(BindingState::Dormant),
                Standing::Ended | Standing::Aside => None,
            }),
            since,
            since_clock,
            until: end.map(|end| self.clock.wall(end.at()).0),
            ended_by: by.map(|(name, _)| name.to_owned()),
            ended_by_uid: by.and_then(|(_, uid)| uid),
        })
    }

    /// The next entry of a virtual IP after a moment; with `held`, the next that ends what that one says.
    fn next_of(&self, virtual_ip: IpAddr, moment: u64, held: Option<&Stored>) -> rusqlite::Result<Option<Stored>> {
        let from = (moment + 1).saturating_mul(1 << BITS).min(i64::MAX.cast_unsigned()).cast_signed();
        let terminal = held.map(|held| key(held.terminal));
        let ends = if held.is_some() { "AND (standing IN (3, 4) OR terminal <> ?3)" } else { "AND ?3 IS NULL" };
        let query = format!("{ROWS} WHERE virtual_ip = ?1 AND id >= ?2 {ends} ORDER BY id LIMIT 1");
        let mut select = self.file.connection.prepare_cached(&query)?;
        let terminal = terminal.as_ref().map(|terminal| terminal.bytes());
        let found = select.query_row(params![key(virtual_ip).bytes(), from, terminal], read_row);
        found.optional().map(Option::flatten)
    }

    fn entries(&self, question: &HistoryQuestion, answer: &mut HistoryAnswer) -> rusqlite::Result<()> {
        // One index finds them; what else is asked for is looked at here, so that what is read can be counted.
        let (condition, address) = match (question.virtual_ip, &question.terminal) {
            (Some(virtual_ip), _) => ("virtual_ip = ?3", Some(key(virtual_ip))),
            (None, Some(terminal)) => ("terminal = ?3", Some(key(terminal.address))),
            (None, None) => ("?3 IS NULL", None),
        };
        let is_asked = |stored: &Stored| {
            question.terminal.as_ref().is_none_or(|named| is_named(named, stored.terminal, &stored.inside))
        };
        let limit = question.limit.unwrap_or(100).clamp(1, MOST_ENTRIES);
        let query = format!("{ROWS} WHERE {condition} AND id >= ?1 AND id < ?2 ORDER BY id DESC");
        let mut select = self.file.connection.prepare(&query)?;
        let mut read = 0;
        let mut oldest = question.before.unwrap_or(u64::MAX);
        'all: for (from, to) in self.clock.within(question.since, question.until).into_iter().rev() {
            let id = |moment: u64| moment.saturating_mul(1 << BITS).min(i64::MAX.cast_unsigned());
            let behind = id(to).min(question.before.unwrap_or(u64::MAX)).min(i64::MAX.cast_unsigned());
            let address = address.as_ref().map(|address| address.bytes());
            let mut rows = select.query(params![id(from).cast_signed(), behind.cast_signed(), address])?;
            while let Some(row) = rows.next()? {
                if read == MOST_READ || answer.entries.len() as u64 == limit {
                    answer.more = Some(oldest);
                    break 'all;
                }
                read += 1;
                oldest = row.get::<_, i64>(0)?.max(0).cast_unsigned();
                match read_row(row)? {
                    Some(stored) if is_asked(&stored) => answer.entries.push(self.entry(&stored)),
                    Some(_) => {}
                    None => answer.damaged += 1,
                }
            }
        }
        answer.entries.reverse();
        Ok(())
    }

    fn entry(&self, stored: &Stored) -> Entry {
        let (at, clock) = self.clock.wall(stored.at());
        let (by, uid) = stored.by.named();
        Entry {
            id: stored.id,
            at,
            clock,
            event: stored.what,
            by: by.to_owned(),
            uid,
            virtual_ip: stored.virtual_ip,
            terminal: stored.terminal,
            realm: stored.inside.to_string(),
            created: self.clock.wall(stored.created).0,
            callback: stored.callback.clone(),
            answered: stored.answered,
        }
    }
}

fn is_named(named: &Qualified, terminal: IpAddr, realm: &str) -> bool {
    named.address == terminal && named.inside.as_ref().is_none_or(|inside| inside == realm)
}
