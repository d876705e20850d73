//! The translator. Pure: no clock, no I/O, no unsafe; `now` and bytes are handed in.
//!
//! [`Nat`] is what all workers share; each worker has a [`Translator`] of its own. The way of a packet is
//! [`Translator::translate`], on one page; the rooms beside it are
//!
//! | file | what |
//! | --- | --- |
//! | `table.rs` | the bindings: index (`index.rs`), flat slots (`slots.rs`), life cycle (`ledger.rs`, `vacancy.rs`) |
//! | `parts.rs` | pools as slot numbers |
//! | `selection.rs` | which pool serves which peer, and which pool a virtual IP is from |
//! | `callback.rs`, `contacts.rs` | who may call back |
//! | `limit.rs` | how fast bindings may be made |
//! | `decide.rs` | what becomes of a packet that a worker has not seen the like of |
//! | `prefix.rs` | IPv6 prefixes translated without memory (RFC 6296) |
//! | `explain.rs` | the same decision about a packet that is only talked about |
//! | `stored.rs`, `owed.rs` | bindings that outlive the translator, and those not on record yet |
//! | `alg/` | applications that carry addresses in their text |
//! | `unsolicited.rs` | calls that reach nobody |
//! | `flows.rs` | what a worker remembers of the flows it serves |
//! | `drops.rs` | what was dropped, and whose it was |
//! | `offload.rs` | flows that somebody faster carries |
//! | `icmp_error.rs`, `strangers.rs` | errors, with the packet they quote |
//! | `succession.rs` | other settings, the same bindings |
//! | `admin.rs`, `named.rs`, `event.rs`, `verdict.rs` | what the rest of the program sees |

#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

mod admin;
mod alg;
mod callback;
mod contacts;
mod counters;
mod decide;
mod drops;
mod event;
mod explain;
mod flows;
mod icmp_error;
mod index;
mod ledger;
mod limit;
mod named;
mod offload;
mod owed;
mod parts;
mod policy;
mod prefix;
mod selection;
mod settings;
mod slots;
mod stored;
mod strangers;
mod succession;
mod table;
mod translate;
mod unsolicited;
mod vacancy;
mod verdict;

pub use admin::{AdminError, BindingState, BindingView, Choice, PoolView, StatusView, TrafficView};
pub use counters::Counter;
pub use drops::{DropRow, Dropped, End};
pub use event::{Event, EventKind};
pub use explain::{Explanation, Question};
pub use flows::SlotRef;
pub use named::{Named, ParseNamedError};
pub use offload::{Carried, Offer, Offload};
pub use policy::{ContactView, Direction, PolicyFrom, PolicyView};
pub use settings::{
    Alg, AlgSettings, CallbackPolicy, CreationLimit, Exhausted, Hairpin, Inbound, InsideSettings, Lifetimes, Multipath,
    PoolKind, PoolSettings, Settings, Unsolicited,
};
pub use stored::{
    ContactChange, ContactKey, Misfit, Receipt, Restored, Restoring, StoredBinding, StoredContact, Unfit,
};
pub use succession::Succession;
pub use translate::Translator;
pub use verdict::{DropReason, Realm, Refused, Replaced, Verdict};

use crate::time::Time;
use crate::wire::Address;
use alg::Helpers;
use callback::Policies;
use contacts::{Contacts, Owner};
use counters::Counters;
use drops::DropBook;
use flows::Flows;
use ipnet::IpNet;
use limit::Limiter;
use offload::Offloaded;
use parking_lot::{Mutex, RwLock};
use parts::Parts;
use prefix::Prefixes;
use selection::Selection;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use table::{Aged, Found, Table};

/// Bindings aged at most in one call of [`Nat::tick`] and table.
const AGED_AT_ONCE: usize = 10_000;

/// What all workers share: pools with their bindings, contacts, counters. Hand one [`Translator`] to each worker.
pub struct Nat {
    insides: Vec<String>,
    pools: Vec<PoolSettings>,
    /// By their numbers; a number that a reload has left vacant has a table without slots.
    tables: Vec<Arc<Table>>,
    selection: Selection,
    contacts: Contacts,
    callback: CallbackPolicy,
    policies: Arc<Policies>,
    prefixes: Prefixes,
    hairpin: Hairpin,
    inbound_refresh: Inbound,
    unsolicited: Unsolicited,
    mss: Option<u16>,
    mptcp: Multipath,
    alg: Vec<AlgSettings>,
    helpers: Option<Arc<Helpers>>,
    exhausted: Exhausted,
    restore_hop: bool,
    lifetimes: Lifetimes,
    creation: CreationLimit,
    limiter: Arc<Limiter>,
    hash_key: [u8; 16],
    surroundings: RwLock<Arc<Surroundings>>,
    counters: Arc<Mutex<Vec<Arc<Counters>>>>,
    offloaded: Arc<Offloaded>,
    /// Counts the changes after which a worker must not trust what it remembers.
    epoch: AtomicU64,
    /// Whether new bindings are recorded (see `stored.rs`).
    is_recording: AtomicBool,
    /// Whether new bindings are refused because they cannot be.
    cannot_record: AtomicBool,
}

/// What a reload hands on.
struct Inherited {
    contacts: Contacts,
    policies: Arc<Policies>,
    limiter: Arc<Limiter>,
    helpers: Option<Arc<Helpers>>,
    counters: Arc<Mutex<Vec<Arc<Counters>>>>,
    offloaded: Arc<Offloaded>,
    epoch: u64,
}

/// What the network around the gateway looks like; changes while it runs.
#[derive(Clone, Debug, Default, PartialEq)]
struct Surroundings {
    /// For each inside realm, the prefixes whose addresses may get a binding: in order, none within another.
    sources: Vec<Vec<IpNet>>,
    /// The gateway's own addresses inside.
    own_inside: Vec<IpAddr>,
    /// The gateway's own addresses outside.
    own_outside: Vec<IpAddr>,
    /// The networks they are in, each with such an address.
    outside_networks: Vec<IpNet>,
}

/// Why [`Nat::new`] refused its settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// There are more insides than a slot can tell apart.
    #[error("{0} insides are too many; {max} are possible", max = slots::MAX_INSIDE)]
    TooManyInsides(usize),
    /// There are more pools than can be numbered.
    #[error("{0} pools are too many; 65,535 are possible")]
    TooManyPools(usize),
    /// The system refused the memory.
    #[error("the pools {0} are too large together for this machine's memory; use smaller ones")]
    TooLarge(String),
}

impl Nat {
    /// Builds the shared state. Refuses only what no machine could hold; that pools and prefixes do not contradict each
    /// other has been checked before.
    pub fn new(settings: Settings) -> Result<Arc<Self>, SettingsError> {
        if settings.insides.len() > usize::from(slots::MAX_INSIDE) {
            return Err(SettingsError::TooManyInsides(settings.insides.len()));
        }
        let mut tables = Vec::new();
        for parts in parts_of_tables(&settings.pools)? {
            tables.push(new_table(parts, &settings)?);
        }
        let inherited = Inherited {
            contacts: Contacts::new(&settings.lifetimes),
            policies: Arc::default(),
            limiter: Arc::new(Limiter::new(settings.creation.clone())),
            helpers: Helpers::new(&settings.alg).map(Arc::new),
            counters: Arc::default(),
            offloaded: Arc::default(),
            epoch: 0,
        };
        Ok(Arc::new(Self::assemble(settings, tables, inherited)))
    }

    fn assemble(settings: Settings, tables: Vec<Arc<Table>>, inherited: Inherited) -> Self {
        let mut selection = Selection::default();
        for (number, table) in tables.iter().enumerate() {
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            for pool in settings.pools.iter().filter(|pool| table.parts().has(pool.range)) {
                selection.add(number, pool);
            }
        }
        let surroundings = Surroundings {
            sources: settings.insides.iter().map(|inside| in_order(&inside.sources)).collect(),
            own_inside: Vec::new(),
            own_outside: settings.own_outside,
            outside_networks: Vec::new(),
        };
        Self {
            insides: settings.insides.into_iter().map(|inside| inside.name).collect(),
            tables,
            selection,
            contacts: inherited.contacts,
            callback: settings.callback,
            policies: inherited.policies,
            prefixes: Prefixes::new(&settings.pools),
            hairpin: settings.hairpin,
            inbound_refresh: settings.inbound_refresh,
            unsolicited: settings.unsolicited,
            mss: settings.mss,
            mptcp: settings.mptcp,
            alg: settings.alg,
            helpers: inherited.helpers,
            exhausted: settings.exhausted,
            restore_hop: settings.restore_hop,
            lifetimes: settings.lifetimes,
            creation: settings.creation,
            limiter: inherited.limiter,
            hash_key: settings.hash_key,
            surroundings: RwLock::new(Arc::new(surroundings)),
            counters: inherited.counters,
            offloaded: inherited.offloaded,
            epoch: AtomicU64::new(inherited.epoch),
            is_recording: AtomicBool::new(false),
            cannot_record: AtomicBool::new(false),
            pools: settings.pools,
        }
    }

    /// The virtual IPs of many terminals of one inside, in their order: `None` for one that has no binding for calls to
    /// `peer`. Costs much less than asking for each by itself.
    pub fn virtual_ips(&self, inside: u16, terminals: &[Address], peer: Address) -> Vec<Option<Address>> {
        let mut all = Vec::with_capacity(terminals.len());
        if let Some(table) = self.selection.for_peer(peer).and_then(|number| self.table(number).ok()) {
            table.of_terminals(inside, terminals, |found| all.push(found.map(|found| found.slot.virtual_ip)));
        }
        all.resize(terminals.len(), None);
        all
    }

    /// A translator for one more worker.
    pub fn translator(self: &Arc<Self>) -> Translator {
        let mut all = self.counters.lock();
        let flows = Flows::new(&self.hash_key, all.len() as u64 + 1);
        let counters = Arc::new(Counters::with_book(DropBook::new(&self.hash_key, all.len() as u64)));
        all.push(Arc::clone(&counters));
        Translator::new(Arc::clone(self), counters, flows)
    }

    /// Ages bindings: bounded work, call about once a second. Events of what changed go to `sink`.
    pub fn tick(&self, now: Time, sink: &mut dyn FnMut(Event)) {
        for (number, table) in self.tables.iter().enumerate() {
            table.age(now, AGED_AT_ONCE, &mut |aged| {
                let (kind, found) = match aged {
                    Aged::Dormant(found) => (EventKind::Dormant, found),
                    Aged::Released(found) => (EventKind::Released, found),
                    Aged::Freed(found) => (EventKind::Freed, found),
                };
                match kind {
                    EventKind::Released => self.ended(number, &found),
                    EventKind::Dormant => self.invalidate(Some(slot_ref(number, &found))),
                    _ => {}
                }
                sink(self.event(kind, number, &found));
            });
        }
    }

    /// The memory of the tables that have become dense since the last call: now it pays to have it in huge pages. Before, it
    /// would take many times what is in use.
    pub fn dense_memory(&self) -> impl Iterator<Item = Range<*const u8>> {
        self.tables.iter().filter_map(|table| table.dense_memory()).flatten()
    }

    /// Replaces what may send from the inside (see [`InsideSettings::sources`]): the kernel's routes changed.
    pub fn set_sources(&self, inside: usize, sources: Vec<IpNet>) {
        self.change_surroundings(|surroundings| {
            if let Some(place) = surroundings.sources.get_mut(inside) {
                *place = in_order(&sources);
            }
        });
    }

    /// Replaces the gateway's own outside addresses: shown as the sender of errors from hosts that have no virtual IP.
    pub fn set_own_outside(&self, addresses: Vec<IpAddr>) {
        self.change_surroundings(|surroundings| surroundings.own_outside = addresses);
    }

    /// Replaces the networks of the gateway's outside interfaces, each with the gateway's address in it: a peer there sees
    /// errors from that address.
    pub fn set_outside_networks(&self, networks: Vec<IpNet>) {
        self.change_surroundings(|surroundings| surroundings.outside_networks = networks);
    }

    /// Replaces the gateway's own inside addresses: the senders of what it tells terminals itself.
    pub fn set_own_inside(&self, addresses: Vec<IpAddr>) {
        self.change_surroundings(|surroundings| surroundings.own_inside = addresses);
    }

    fn change_surroundings(&self, change: impl FnOnce(&mut Surroundings)) {
        let mut place = self.surroundings.write();
        let mut surroundings = Surroundings::clone(&place);
        change(&mut surroundings);
        if surroundings == **place {
            return;
        }
        *place = Arc::new(surroundings);
        drop(place);
        self.invalidate(None);
    }

    fn surroundings(&self) -> Arc<Surroundings> {
        Arc::clone(&self.surroundings.read())
    }

    /// A binding ended: what was known about it goes.
    fn ended(&self, table: usize, found: &Found) {
        let owner = owner(table, found);
        self.contacts.forget(owner);
        self.policies.set(owner, None);
        self.limiter.leave(found.slot.inside, found.slot.terminal);
        if !found.slot.answered {
            self.limiter.answered(found.slot.inside, found.slot.created);
        }
        self.invalidate(Some(slot_ref(table, found)));
    }

    /// Workers decide anew about every flow; flows of the binding, or (`None`) all, are carried by nobody else any more.
    fn invalidate(&self, binding: Option<SlotRef>) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        if let Some(keeper) = self.keeper() {
            keeper.revoke(binding);
        }
    }

    fn event(&self, kind: EventKind, table: usize, found: &Found) -> Event {
        let pool = self.tables.get(table).and_then(|table| table.part(found.index)).map_or(0, |part| part.pool());
        let slot = &found.slot;
        Event {
            kind,
            inside: slot.inside,
            pool,
            made: Time::from_secs(slot.created.into()),
            terminal: slot.terminal,
            virtual_ip: slot.virtual_ip,
        }
    }
}

impl Surroundings {
    /// Whether `address` is in one of the prefixes of the inside realm.
    fn is_source(&self, inside: u16, address: Address) -> bool {
        self.sources.get(usize::from(inside)).is_some_and(|prefixes| contain(prefixes, address.into()))
    }

    /// Whether nobody outside may see `address`: it is in a prefix of an inside realm, or the gateway's own there.
    fn is_hidden(&self, address: Address) -> bool {
        let address = IpAddr::from(address);
        self.sources.iter().any(|prefixes| contain(prefixes, address)) || self.own_inside.contains(&address)
    }

    /// Whether `address` is the gateway's own.
    fn is_own(&self, address: Address) -> bool {
        let address = IpAddr::from(address);
        self.own_outside.contains(&address) || self.own_inside.contains(&address)
    }

    /// By which of its addresses outside `peer` hears of the gateway, as far as that can be told without the routes: that of
    /// the network in which the peer is; else one that reaches as far as the peer's own; else one that reaches farthest.
    fn own_outside(&self, peer: Address) -> Option<Address> {
        let of_family = || self.own_outside.iter().copied().filter(|own| Address::from(*own).is_v4() == peer.is_v4());
        let near = self.outside_networks.iter().filter(|net| net.contains(&IpAddr::from(peer)));
        let near =
            near.max_by_key(|net| net.prefix_len()).map(IpNet::addr).filter(|own| self.own_outside.contains(own));
        let wanted = reach(peer.into());
        let fits = || of_family().find(|own| reach(*own) == wanted);
        let farthest = || of_family().reduce(|one, other| if reach(other) > reach(one) { other } else { one });
        near.or_else(fits).or_else(farthest).map(Address::from)
    }

    /// The source of an error that the kernel has made itself. It goes by the route that the kernel has looked up, and has an
    /// address of that interface, unless an address inside was the better known one. `None`: there is no fit address.
    fn source_of_our_own(&self, source: Address, peer: Address) -> Option<Address> {
        if self.own_outside.contains(&source.into()) { Some(source) } else { self.own_outside(peer) }
    }

    /// The gateway's own address inside, of the family of `like`.
    fn own_inside(&self, like: Address) -> Option<Address> {
        first_of_family(&self.own_inside, like)
    }
}

/// How far an address is known: on a link, within a site, everywhere.
fn reach(address: IpAddr) -> u8 {
    let (is_of_a_link, is_of_a_site) = match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            // RFC 1918, RFC 6598.
            (address.is_link_local(), address.is_private() || (first == 100 && second & 0xc0 == 64))
        }
        IpAddr::V6(address) => (address.is_unicast_link_local(), address.is_unique_local()),
    };
    if is_of_a_link { 0 } else { 2 - u8::from(is_of_a_site) }
}

/// Prefixes in order, none within another.
fn in_order(prefixes: &[IpNet]) -> Vec<IpNet> {
    let mut all = IpNet::aggregate(&prefixes.iter().map(IpNet::trunc).collect());
    all.sort_unstable();
    all
}

/// Whether one of these, which are in order, has the address.
fn contain(prefixes: &[IpNet], address: IpAddr) -> bool {
    let after = prefixes.partition_point(|prefix| prefix.network() <= address);
    after.checked_sub(1).and_then(|last| prefixes.get(last)).is_some_and(|prefix| prefix.contains(&address))
}

/// The pools of each table.
fn parts_of_tables(pools: &[PoolSettings]) -> Result<Vec<Parts>, SettingsError> {
    if pools.len() > usize::from(u16::MAX) {
        return Err(SettingsError::TooManyPools(pools.len()));
    }
    let parts = |group: Vec<u16>| {
        let members = || group.iter().filter_map(|pool| Some((*pool, pools.get(usize::from(*pool))?)));
        let names = || members().map(|(_, pool)| pool.name.as_str()).collect::<Vec<_>>().join(", ");
        Parts::new(members()).ok_or_else(|| SettingsError::TooLarge(names()))
    };
    selection::groups(pools).into_iter().map(parts).collect()
}

fn new_table(parts: Parts, settings: &Settings) -> Result<Arc<Table>, SettingsError> {
    let ranges = parts.iter().map(|part| part.range.to_string()).collect::<Vec<_>>().join(", ");
    let table = Table::new(parts, &settings.hash_key, settings.lifetimes.clone());
    Ok(Arc::new(table.map_err(|_| SettingsError::TooLarge(ranges))?))
}

fn first_of_family(addresses: &[IpAddr], like: Address) -> Option<Address> {
    addresses.iter().map(|address| Address::from(*address)).find(|address| address.is_v4() == like.is_v4())
}

fn slot_ref(table: usize, found: &Found) -> SlotRef {
    SlotRef::new(u16::try_from(table).unwrap_or(u16::MAX), found.index)
}

fn owner(table: usize, found: &Found) -> Owner {
    Owner { table: u16::try_from(table).unwrap_or(u16::MAX), index: found.index, created: found.slot.created }
}

#[cfg(test)]
pub(crate) mod tests;
