//! The fast path as a whole: programs on interfaces, flows in the kernel, and who may touch them when.

use super::abilities::{Abilities, XdpFeatures};
use super::books::Books;
use super::layout::{Exit, realm_number};
use super::program::{Exits, Loader};
use super::seat::Seat;
use super::{Common, Entrance, FastPathError, NoXdp, Site};
use crate::nat::{Nat, Offer, Offload, SlotRef};
use crate::time::Time;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every flow is looked at once in so many calls of [`FastPath::look`].
const ROUND: usize = 5;
/// Flows looked at in one hold of the lock.
const SLICE: usize = 1024;

/// The seats of the programs on one interface; `None` where there is none to be had, or none wanted.
struct Seats {
    entrance: Entrance,
    tc: Option<Seat>,
    xdp: Option<Seat>,
}

impl Seats {
    /// Whether they are right for this interface; its name does not matter.
    fn are_of(&self, entrance: &Entrance) -> bool {
        let Entrance { index, realm, hardware, is_local, name: _ } = &self.entrance;
        (index, realm, hardware, is_local) == (&entrance.index, &entrance.realm, &entrance.hardware, &entrance.is_local)
    }

    fn leave(self) {
        self.xdp.into_iter().chain(self.tc).for_each(Seat::leave);
    }

    fn all(&self) -> impl Iterator<Item = &Seat> + Clone {
        self.tc.iter().chain(&self.xdp)
    }
}

/// The fast path.
pub struct FastPath {
    loader: Mutex<Loader>,
    books: Mutex<Books>,
    exits: Mutex<Exits>,
    /// By index of the interface.
    seats: Mutex<BTreeMap<u32, Seats>>,
    /// What drivers can, where XDP is asked for.
    abilities: Mutex<Option<Abilities>>,
    /// The time of the last look (milliseconds): soon enough for a flow that is entered.
    now: AtomicU64,
}

impl FastPath {
    /// Makes the maps and has the kernel check the program; nothing is attached yet.
    ///
    /// # Errors
    /// What the kernel does not have or refuses.
    pub fn new(common: Common, now: Time) -> Result<Self, FastPathError> {
        let abilities = common.xdp.then(Abilities::open).transpose().map_err(FastPathError::Abilities)?;
        let (loader, flows, exits) = Loader::new(common)?;
        Ok(Self {
            loader: Mutex::new(loader),
            books: Mutex::new(Books::new(flows)),
            exits: Mutex::new(exits),
            seats: Mutex::default(),
            abilities: Mutex::new(abilities),
            now: AtomicU64::new(now.as_millis()),
        })
    }

    /// Sits on exactly these interfaces from now on. Returns, once for each, where it cannot: what comes in there is
    /// served by the slower path.
    pub fn follow(&self, site: &Site) -> Vec<FastPathError> {
        let entrances = &site.entrances;
        if let Err(error) = self.exits.lock().set_ruled(site.ruled_v4, site.ruled_v6) {
            log::warn!("the fast path cannot be told of routing rules of others: {error}");
        }
        let features = self.abilities.lock().as_mut().and_then(|abilities| abilities.xdp().ok()).unwrap_or_default();
        let mut seats = self.seats.lock();
        for (index, left) in seats.extract_if(.., |_, seats| !entrances.iter().any(|entrance| seats.are_of(entrance))) {
            // Of an interface that is still there but has changed: another program takes the seat below.
            if entrances.iter().all(|entrance| entrance.index != index) {
                left.leave();
            }
        }
        let mut unseated = Vec::new();
        for entrance in entrances {
            seats.entry(entrance.index).or_insert_with(|| {
                let features = features.get(&entrance.index).copied().unwrap_or_default();
                self.sit(entrance, features, &mut unseated)
            });
        }
        let any_xdp = seats.values().any(|seats| seats.xdp.is_some());
        self.open_exits(entrances, any_xdp.then_some(&features));
        unseated
    }

    /// Has the programs know where packets may leave; `features` if some of them are at XDP.
    fn open_exits(&self, entrances: &[Entrance], features: Option<&BTreeMap<u32, XdpFeatures>>) {
        let mut exits = self.exits.lock();
        let takes_frames = |index| features.and_then(|all| all.get(&index)).is_some_and(|found| found.takes_frames());
        for Entrance { name, index, .. } in entrances {
            if features.is_some() && !takes_frames(*index) && exits.takes_frames(*index) != Some(false) {
                log::warn!(
                    "'{name}' takes no frames from XDP, what leaves by it goes the longer way; for a veth, \
                     `ethtool -K INTERFACE gro on` at its other end mends that"
                );
            }
        }
        let all = entrances.iter().map(|Entrance { index, realm, .. }| {
            (*index, Exit { realm: realm_number(*realm), takes_frames: takes_frames(*index).into() })
        });
        if let Err(error) = exits.set(all.collect()) {
            log::warn!("what the fast path translates is forwarded the longer way: {error}");
        }
    }

    fn sit(&self, entrance: &Entrance, features: XdpFeatures, unseated: &mut Vec<FastPathError>) -> Seats {
        let loader = self.loader.lock();
        let name = || entrance.name.clone();
        let mut seats = Seats { entrance: entrance.clone(), tc: None, xdp: None };
        match loader.at_tc(entrance) {
            Ok(seat) => seats.tc = Some(seat),
            Err(why) => unseated.push(FastPathError::Tc { name: name(), why: Box::new(why) }),
        }
        if let Some(abilities) = &mut *self.abilities.lock() {
            match suits(entrance, features, abilities).and_then(|()| loader.at_xdp(entrance)) {
                Ok(seat) => seats.xdp = Some(seat),
                Err(why) => unseated.push(FastPathError::Xdp { name: name(), why }),
            }
        }
        seats
    }

    /// Takes over the flows that a predecessor has left, as far as the translator would decide the same, and drops the
    /// others. To be called once the programs are attached.
    pub fn adopt(&self, nat: &Nat, now: Time) {
        let seats = self.seats.lock();
        self.loader.lock().tidy(seats.values().flat_map(Seats::all));
        drop(seats);
        let (kept, dropped) = self.books.lock().adopt(nat, now);
        if kept + dropped > 0 {
            log::info!("fast path: {kept} flows taken over, {dropped} dropped");
        }
    }

    /// Takes everything off and leaves nothing.
    pub fn remove(&self) {
        std::mem::take(&mut *self.seats.lock()).into_values().for_each(Seats::leave);
        self.loader.lock().remove();
    }

    /// Goes on with other settings, with the programs that are loaded when [`FastPath::follow`] is called next. To be
    /// called while nobody offers flows.
    pub fn renew(&self, common: Common) {
        self.loader.lock().set_common(common);
        self.seats.lock().clear();
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

/// Removes what a dead gateway `tun` has left in this network namespace; says whether there was anything.
///
/// # Errors
/// What the file system or the kernel refuses.
pub fn remove(tun: &str) -> io::Result<bool> {
    let filters = super::clsact::remove_elsewhere(&[], tun)?;
    Ok(super::place::remove(tun)? || filters)
}

/// Whether XDP would see whole packets that come in by an interface.
fn suits(entrance: &Entrance, features: XdpFeatures, abilities: &mut Abilities) -> Result<(), NoXdp> {
    if !features.runs_programs() {
        return Err(NoXdp::NotNative);
    }
    let mut on = abilities.switched_on(entrance.index).map_err(|error| NoXdp::Kernel(error.to_string()))?;
    // What the sender at the other end of a veth leaves undone cannot be seen from here; that this end leaves nothing
    // undone tells that somebody has thought of it.
    on.retain(|name| {
        if entrance.is_local {
            name.starts_with("tx-checksum-ip") || name.starts_with("tx-vlan-") && name.ends_with("-insert")
        } else {
            name.starts_with("rx-vlan-") && name.ends_with("-parse")
        }
    });
    let settings: Vec<String> = on.iter().map(|name| format!("{name} off")).collect();
    let command = format!("ethtool -K {} {}", entrance.name, settings.join(" "));
    match (on.is_empty(), entrance.is_local) {
        (true, _) => Ok(()),
        (false, true) => Err(NoXdp::Unfinished { command }),
        (false, false) => Err(NoXdp::HiddenTags { command }),
    }
}
