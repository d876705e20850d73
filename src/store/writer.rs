//! The writer: one thread that syncs, and writes what can wait.

use super::backend::{Backend, Reopen, Write};
use super::{Moment, Store, StoreError};
use crate::nat::{ContactKey, StoredBinding};
use crate::time::Time;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Least time between two rounds that write last uses.
const ROUND: Duration = Duration::from_secs(60);
/// Bindings whose last use is written in a second: a round over a million takes a quarter of an hour.
const USES_A_SECOND: u64 = 1000;
/// Rows of such a round in one transaction.
const USES_AT_ONCE: usize = 500;
/// How often the time is noted while the wall clock is not set.
const NOTE: Duration = Duration::from_secs(60);
/// How often contacts that are too old are removed.
const FORGET: Duration = Duration::from_secs(3600);
/// Time between two attempts while the disk takes nothing.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The running thread.
pub struct Writer {
    shared: Arc<Store>,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What the thread has.
struct Round {
    shared: Arc<Store>,
    /// A way of its own, so that tidying does not keep workers waiting; `None` while there is nothing to work on.
    backend: Option<Box<dyn Backend>>,
    /// How to go on with what was written anew.
    reopen: Option<Reopen>,
    now: Box<dyn Fn() -> Moment + Send>,
    on_news: Box<dyn Fn() + Send>,
    contact: Duration,
    /// Contacts whose rows are to be written.
    contacts: Vec<ContactKey>,
    uses_from: Time,
    next_uses: Time,
    next_forget: Time,
    /// When the time was noted.
    noted: Option<Moment>,
}

impl Writer {
    /// Starts it. `on_news` is called whenever a commit has reached the disk or none can, `contact` is how long contacts
    /// live.
    pub fn start(
        shared: Arc<Store>,
        contact: Duration,
        now: impl Fn() -> Moment + Send + 'static,
        on_news: impl Fn() + Send + 'static,
    ) -> Result<Self, StoreError> {
        let backend = shared.with_backend(|backend| backend.again())?;
        let stopping = Arc::new(AtomicBool::new(false));
        let begin = now().time;
        let mut round = Round {
            shared: Arc::clone(&shared),
            backend: Some(backend),
            reopen: None,
            now: Box::new(now),
            on_news: Box::new(on_news),
            contact,
            contacts: Vec::new(),
            uses_from: begin,
            next_uses: begin + ROUND,
            next_forget: begin + FORGET,
            noted: None,
        };
        let flag = Arc::clone(&stopping);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || round.run(&flag))
            .map_err(|error| StoreError::File { path: shared.path().to_owned(), error })?;
        Ok(Self { shared, stopping, thread })
    }

    /// Writes and syncs what there is, and ends. Call it when nobody changes bindings any more.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        self.shared.commits().want();
        let _ = self.thread.join();
    }
}

impl Round {
    fn run(&mut self, stopping: &AtomicBool) {
        let interval = self.shared.settings().sync_interval;
        loop {
            let is_last = stopping.load(Ordering::Acquire);
            let result = self.turn(is_last);
            if let Err(error) = &result {
                self.shared.fail(error);
                (self.on_news)();
            } else {
                self.shared.recover();
            }
            if is_last {
                return;
            }
            let pause = if result.is_ok() { interval } else { TRY_AGAIN };
            let is_strict = self.shared.is_strict() && result.is_ok();
            self.shared
                .commits()
                .rest(pause, |are_some_late| (is_strict && are_some_late) || stopping.load(Ordering::Acquire));
        }
    }

    fn turn(&mut self, is_last: bool) -> Result<(), StoreError> {
        let is_doubted = self.shared.take_doubt();
        let result = self.try_turn(is_doubted, is_last);
        if is_doubted && result.is_err() {
            self.shared.doubt();
        }
        result
    }

    fn try_turn(&mut self, is_doubted: bool, is_last: bool) -> Result<(), StoreError> {
        if is_doubted {
            self.replace()?;
        }
        let moment = (self.now)();
        let now = moment.time;
        // Before the sync: who changed something by hand is told of it behind that.
        self.shared.turn_history(&moment, is_last);
        self.shared.write_marked()?;
        self.write_contacts()?;
        if now >= self.next_uses || is_last {
            let count = self.write_uses()?;
            let pause = Duration::from_secs(count / USES_A_SECOND).max(ROUND);
            (self.uses_from, self.next_uses) = (now, now + pause);
        }
        if now >= self.next_forget {
            let before = Time::from_millis(now.as_millis().saturating_sub(as_millis(self.contact)));
            self.backend()?.forget_contacts(before.as_secs())?;
            self.next_forget = now + FORGET;
        }
        if is_last || self.is_news(&moment) {
            // Not worth a sync: after a power cut an older one will do.
            self.backend()?.note(&moment)?;
            self.noted = Some(moment);
        }
        self.sync()?;
        self.backend()?.tidy()
    }

    /// Whether the next process should know of it.
    fn is_news(&self, moment: &Moment) -> bool {
        self.noted.is_none_or(|noted| {
            let is_set = noted.ahead().abs_diff(moment.ahead()) > 1000;
            is_set
                || noted.reading.is_synchronised != moment.reading.is_synchronised
                || moment.time >= noted.time + NOTE
        })
    }

    /// Has another file made in place of one for which a sync has failed. Whatever fails here, the next call goes on.
    fn replace(&mut self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        if let Some(backend) = &self.backend {
            let of_all = shared.take_backend();
            match backend.rewrite(&shared.nat()) {
                Ok(reopen) => self.reopen = Some(reopen),
                Err(error) => {
                    shared.put_backend(of_all);
                    return Err(error);
                }
            }
        }
        // All ways to the one before must be closed: the last one removes the log of a state file.
        self.backend = None;
        let reopen = self.reopen.as_ref().ok_or_else(|| shared.being_replaced())?;
        let of_all = reopen()?;
        self.backend = Some(of_all.again()?);
        shared.put_backend(Some(of_all));
        log::warn!("{} was written anew, because a sync had failed", shared.path().display());
        Ok(())
    }

    /// Puts on disk what the system has.
    fn sync(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        let commit = shared.commits().last();
        if shared.commits().on_disk() < commit {
            self.backend()?.sync()?;
            shared.commits().arrive(commit);
            (self.on_news)();
        }
        Ok(())
    }

    fn backend(&self) -> Result<&dyn Backend, StoreError> {
        self.backend.as_deref().ok_or_else(|| self.shared.being_replaced())
    }

    /// What cannot be written is kept for the next turn: a disk that is still full must not look well for want of work.
    fn write_contacts(&mut self) -> Result<(), StoreError> {
        if self.contacts.is_empty() {
            self.contacts = self.shared.nat().changed_contacts();
        }
        let mut done = 0;
        let result = self.contacts.chunks(USES_AT_ONCE).try_for_each(|some| {
            self.shared.write_now(|nat| (Vec::new(), some.iter().filter_map(|key| nat.contact_now(key)).collect()))?;
            done += some.len();
            Ok(())
        });
        self.contacts.drain(..done);
        result
    }

    /// Writes the bindings that were used since the last round. How many bindings there are.
    fn write_uses(&self) -> Result<u64, StoreError> {
        let nat = self.shared.nat();
        let mut count = 0;
        let mut some = Vec::new();
        let write = |some: &mut Vec<StoredBinding>| {
            let used = std::mem::take(some);
            self.shared.write_now(|nat| {
                let now = used.iter().filter_map(|used| Some(Write::Put(nat.stored(used.virtual_ip)?.0)));
                (now.collect(), Vec::new())
            })
        };
        for binding in nat.used_since(self.uses_from.as_secs(), &mut count) {
            some.push(binding);
            if some.len() >= USES_AT_ONCE {
                write(&mut some)?;
            }
        }
        if !some.is_empty() {
            write(&mut some)?;
        }
        Ok(count)
    }
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
