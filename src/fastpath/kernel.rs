//! The fast path as a whole: programs on interfaces, flows in the kernel, and who may touch them when.

use super::books::Books;
use super::program::{Attached, Exits, Loader};
use super::{Common, Entrance, FastPathError};
use crate::nat::{Nat, Offer, Offload, Realm, SlotRef};
use crate::time::Time;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every flow is looked at once in so many calls of [`FastPath::look`].
const ROUND: usize = 5;
/// Flows looked at in one hold of the lock.
const SLICE: usize = 1024;

/// The fast path.
pub struct FastPath {
    loader: Mutex<Loader>,
    books: Mutex<Books>,
    exits: Mutex<Exits>,
    /// By index of the interface; `None` where it could not be attached.
    attached: Mutex<BTreeMap<u32, (Realm, Option<Attached>)>>,
    /// The time of the last look (milliseconds): soon enough for a flow that is entered.
    now: AtomicU64,
}

impl FastPath {
    /// Makes the maps and has the kernel check the program; nothing is attached yet.
    ///
    /// # Errors
    /// What the kernel does not have or refuses.
    pub fn new(common: Common, now: Time) -> Result<Self, FastPathError> {
        let (loader, flows, exits) = Loader::new(common)?;
        Ok(Self {
            loader: Mutex::new(loader),
            books: Mutex::new(Books::new(flows)),
            exits: Mutex::new(exits),
            attached: Mutex::default(),
            now: AtomicU64::new(now.as_millis()),
        })
    }

    /// Sits on exactly these interfaces from now on. What cannot be attached is logged, once, and served by the slow path.
    pub fn follow(&self, entrances: &[Entrance]) {
        let mut attached = self.attached.lock();
        let stays = |index: &u32, realm: &Realm| {
            entrances.iter().any(|entrance| entrance.index == *index && entrance.realm == *realm)
        };
        let same = attached.len() == entrances.len() && attached.iter().all(|(index, (realm, _))| stays(index, realm));
        if !same && let Err(error) = self.exits.lock().set(entrances) {
            log::warn!("what the fast path translates is forwarded the longer way: {error}");
        }
        for (_, (_, program)) in attached.extract_if(.., |index, (realm, _)| !stays(index, realm)) {
            program.into_iter().for_each(Attached::remove);
        }
        for Entrance { name, index, realm } in entrances {
            attached.entry(*index).or_insert_with(|| {
                let program = self.loader.lock().attach(name, *index, *realm).inspect_err(|error| {
                    log::warn!("no fast path for what comes in by '{name}': {error}");
                });
                (*realm, program.ok())
            });
        }
    }

    /// Takes over the flows that a predecessor has left, as far as the translator would decide the same, and drops the
    /// others. To be called once the programs are attached.
    pub fn adopt(&self, nat: &Nat, now: Time) {
        let indices: Vec<u32> = self.attached.lock().keys().copied().collect();
        self.loader.lock().tidy(&indices);
        let (kept, dropped) = self.books.lock().adopt(nat, now);
        if kept + dropped > 0 {
            log::info!("fast path: {kept} flows taken over, {dropped} dropped");
        }
    }

    /// Takes everything off and leaves nothing.
    pub fn remove(&self) {
        for (_, program) in std::mem::take(&mut *self.attached.lock()).into_values() {
            program.into_iter().for_each(Attached::remove);
        }
        self.loader.lock().remove();
    }

    /// Goes on with other settings: new programs on the same interfaces. To be called while nobody offers flows.
    pub fn renew(&self, common: Common, entrances: &[Entrance]) {
        self.loader.lock().set_common(common);
        self.attached.lock().clear();
        self.follow(entrances);
    }

    /// Looks at a part of the flows: all of them in five calls. Call it once a second.
    pub fn look(&self, nat: &Nat, now: Time) {
        let all = self.books.lock().len();
        self.look_at(nat, all.div_ceil(ROUND), now);
    }

    /// Looks at all flows, so that bindings and [`FastPath::view`] say what is true now.
    pub fn settle(&self, nat: &Nat, now: Time) {
        let all = self.books.lock().len();
        self.look_at(nat, all, now);
    }

    /// While it is bypassed it carries nothing: when this returns every flow is out, and none is entered.
    pub fn bypass(&self, on: bool, nat: &Nat, now: Time) {
        if self.books.lock().close(on) || !on {
            return;
        }
        self.settle(nat, now);
        self.books.lock().revoke_all();
    }

    /// In numbers: flows, packets carried, and packets that went the slow way by reason.
    pub fn view(&self) -> (u64, u64, BTreeMap<String, u64>) {
        let books = self.books.lock();
        (books.len() as u64, books.hits(), books.slow().map(|(why, number)| (why.to_owned(), number)).collect())
    }

    fn look_at(&self, nat: &Nat, mut most: usize, now: Time) {
        self.now.store(now.as_millis(), Ordering::Relaxed);
        while most > 0 {
            let slice = most.min(SLICE);
            self.books.lock().look(nat, slice, now);
            most -= slice;
        }
    }
}

impl Offload for FastPath {
    fn offer(&self, nat: &Nat, offer: &Offer) {
        let mut books = self.books.lock();
        if nat.is_current(offer) {
            books.enter(offer, Time::from_millis(self.now.load(Ordering::Relaxed)));
        }
    }

    fn revoke(&self, binding: Option<SlotRef>) {
        let mut books = self.books.lock();
        match binding {
            Some(binding) => books.revoke(binding),
            None => books.revoke_all(),
        }
    }
}
