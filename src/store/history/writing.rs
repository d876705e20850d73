//! What is new about a binding, as entries.

use super::file::{BITS, HistoryFile, Reach, Stored, insert, last_of};
use super::note::{By, Happened, Note, Standing};
use crate::nat::{BindingState, StoredBinding};
use crate::store::row::key;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use std::net::IpAddr;
use std::sync::Arc;

/// Times of bindings are whole seconds; an entry that is no further from one is of the same instant.
const SAME: u64 = 2000;

impl HistoryFile {
    /// Writes what is new about each binding, in one transaction. `ahead` is what this file's time is ahead of the notes'.
    /// How many entries that made.
    pub fn append(&mut self, notes: &[Note], ahead: i64) -> rusqlite::Result<u64> {
        let (reach, before) = (self.reach, self.connection.total_changes());
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        notes.iter().try_for_each(|note| append_one(&transaction, note, reach, ahead))?;
        transaction.commit()?;
        // Those that were marked as answered count too: the next trim counts the entries anew.
        Ok(self.connection.total_changes() - before)
    }
}

/// Writes what is new by a note.
pub fn append_one(transaction: &Transaction<'_>, note: &Note, reach: Reach, ahead: i64) -> rusqlite::Result<()> {
    let last = last_of(transaction, note.virtual_ip, u64::MAX >> BITS)?;
    let at = note.at.as_millis().saturating_add_signed(ahead);
    let mut writing = Writing {
        transaction,
        note,
        ahead,
        last: last.as_ref(),
        made: None,
        id: last.as_ref().map_or(0, |last| last.id + 1),
    };
    let (binding, is_aside) = match &note.binding {
        Some((binding, is_aside)) => (binding, *is_aside),
        // It has gone without a word.
        None => {
            let Some(last) = last.filter(Stored::holds) else { return Ok(()) };
            let row =
                Stored { id: 0, what: Happened::Released, by: note.by, standing: Standing::Ended, ..last.clone() };
            let id = vacant(transaction, (last.id + 1).max(at << BITS))?;
            return insert(transaction, &Stored { id, ..row });
        }
    };
    let was_aside = last.as_ref().is_some_and(|last| last.standing == Standing::Aside && last.is_of(binding));
    let held = last.as_ref().filter(|last| last.holds() && last.is_of(binding));
    if is_aside || binding.state == BindingState::Quarantined {
        let what = if is_aside { Happened::KeptAside } else { Happened::Released };
        // It may have waited in vain since the last time anything was written, or be older than the history.
        let is_unknown = last.as_ref().is_none_or(|last| !last.is_of(binding) && !is_aside);
        if held.is_some() || is_unknown || (was_aside && !is_aside) {
            writing.put(what, at, binding, if is_aside { Standing::Aside } else { Standing::Ended })?;
        }
        return if binding.answered { all_answered(transaction, binding.virtual_ip) } else { Ok(()) };
    }
    let standing = if binding.state == BindingState::Dormant { Standing::Dormant } else { Standing::Active };
    let Some(held) = held else {
        if was_aside {
            return writing.put(Happened::Back, at, binding, standing);
        }
        let created = (u64::from(binding.created) * 1000).saturating_add_signed(ahead);
        let is_older = last.is_none() && created.saturating_add(999) < reach.answered;
        if !is_older {
            let made = if at.abs_diff(created) < SAME || note.by.is_import() { at } else { created };
            writing.put(Happened::Made, made, binding, standing)?;
        }
        // What it was before nobody knows here, only what was done to it.
        let is_pinned = binding.pinned && note.done == Some(Happened::Pinned);
        let is_told = is_older && note.done == Some(Happened::Callback);
        let is_dormant = is_older && standing == Standing::Dormant && note.by == By::Itself;
        for (happened, what) in
            [(is_dormant, Happened::Dormant), (is_pinned, Happened::Pinned), (is_told, Happened::Callback)]
        {
            if happened {
                writing.put(what, at, binding, standing)?;
            }
        }
        return Ok(());
    };
    let callback = binding.callback.as_ref().map(crate::store::row::policy_text);
    if held.standing != standing {
        let what = if standing == Standing::Dormant { Happened::Dormant } else { Happened::Woken };
        writing.put(what, at, binding, standing)?;
    }
    if binding.pinned && !held.pinned {
        writing.put(Happened::Pinned, at, binding, standing)?;
    }
    if callback != held.callback {
        writing.put(Happened::Callback, at, binding, standing)?;
    }
    Ok(())
}

/// The entries that a note makes.
struct Writing<'a> {
    transaction: &'a Transaction<'a>,
    note: &'a Note,
    ahead: i64,
    /// The entry before.
    last: Option<&'a Stored>,
    /// When it was made, if it has just been.
    made: Option<u64>,
    /// The next has no lower number.
    id: u64,
}

impl Writing<'_> {
    fn put(&mut self, what: Happened, at: u64, binding: &StoredBinding, standing: Standing) -> rusqlite::Result<()> {
        let created = (u64::from(binding.created) * 1000).saturating_add_signed(self.ahead);
        let before = self.last.filter(|last| last.is_of(binding) && last.created.abs_diff(created) < SAME);
        // To the millisecond where that is known: within a second one may end and another be made.
        let created = match (what, before) {
            (Happened::Made, _) if at.abs_diff(created) < SAME => at,
            (Happened::Made, _) | (_, None) => created,
            (_, Some(before)) => before.created,
        };
        let created = *self.made.get_or_insert(created);
        let callback = binding.callback.as_ref().map(crate::store::row::policy_text);
        let row = Stored {
            id: vacant(self.transaction, self.id.max(at << BITS))?,
            what,
            by: self.note.by,
            virtual_ip: binding.virtual_ip,
            inside: Arc::clone(&binding.inside),
            terminal: binding.terminal,
            created,
            standing,
            pinned: binding.pinned,
            // Who puts a binding aside has no policy of its own at hand.
            callback: if standing == Standing::Aside {
                callback.or_else(|| self.last.filter(|last| last.is_of(binding))?.callback.clone())
            } else {
                callback
            },
            answered: binding.answered,
        };
        self.id = row.id + 1;
        insert(self.transaction, &row)
    }
}

/// A number that no entry has: this, or the next above.
fn vacant(transaction: &Transaction<'_>, mut from: u64) -> rusqlite::Result<u64> {
    let mut select = transaction.prepare_cached("SELECT max(id) FROM history WHERE id >= ?1 AND id < ?2")?;
    loop {
        let behind = ((from >> BITS) + 1) << BITS;
        let highest: Option<i64> = select.query_row([from.cast_signed(), behind.cast_signed()], |row| row.get(0))?;
        match highest {
            None => return Ok(from),
            Some(highest) if highest.cast_unsigned() + 1 < behind => return Ok(highest.cast_unsigned() + 1),
            Some(_) => from = behind,
        }
    }
}

/// The entries of the binding that a virtual IP has, or had last, are of an answered one.
fn all_answered(transaction: &Transaction<'_>, virtual_ip: IpAddr) -> rusqlite::Result<()> {
    let update = "UPDATE history SET answered = 1 WHERE virtual_ip = ?1 AND answered = 0 AND created = \
         (SELECT created FROM history WHERE virtual_ip = ?1 ORDER BY id DESC LIMIT 1)";
    transaction.prepare_cached(update)?.execute([key(virtual_ip).bytes()])?;
    Ok(())
}
