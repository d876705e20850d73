//! The state that all workers share.

use super::alg::Helpers;
use super::binding::SlotRef;
use super::bound::Bound;
use super::callback::Policies;
use super::contacts::Contacts;
use super::counters::Counters;
use super::drops::{self, Dropped};
use super::event::{Event, EventKind};
use super::flow::carrier::{CarrierAccount, Epoch};
use super::limit::Limiter;
use super::numbers::{InsideNumber, Numbered, PoolNumber, TableNumber};
use super::prefix::Prefixes;
use super::selection::{self, Selection};
use super::settings::{Policy, PoolSettings, Settings};
use super::surroundings::{Surroundings, in_order};
use super::table::pools::{TablePool, TablePools};
use super::table::{self, Aged, Table};
use crate::time::Time;
use crate::wire::Address;
use ipnet::IpNet;
use parking_lot::{Mutex, RwLock};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Bindings aged at most in one call of [`Nat::tick`] and table.
const AGED_AT_ONCE: usize = 10_000;

/// What all workers share: pools with their bindings, contacts, counters. Hand one [`Translator`](crate::nat::Translator) to each worker.
pub struct Nat {
    pub(super) insides: Numbered<InsideNumber, String>,
    pub(super) pools: Numbered<PoolNumber, PoolSettings>,
    /// By their numbers; a number that a reload has left vacant has a table without slots.
    pub(super) tables: Numbered<TableNumber, Arc<Table>>,
    pub(super) selection: Selection,
    pub(super) contacts: Contacts,
    pub(super) policy: Policy,
    pub(super) policies: Arc<Policies>,
    pub(super) prefixes: Prefixes,
    pub(super) helpers: Option<Arc<Helpers>>,
    pub(super) restore_hop: bool,
    pub(super) limiter: Arc<Limiter>,
    pub(super) hash_key: [u8; 16],
    pub(super) surroundings: RwLock<Arc<Surroundings>>,
    pub(super) counters: Arc<Mutex<Vec<Arc<Counters>>>>,
    pub(super) carrier_account: Arc<CarrierAccount>,
    /// Counts the changes after which a worker must not trust what it remembers.
    pub(super) epoch: Epoch,
    /// Whether new bindings are recorded (see `stored.rs`).
    pub(super) is_recording: AtomicBool,
    /// Whether new bindings are refused because they cannot be.
    pub(super) cannot_record: AtomicBool,
}

/// What a reload hands on.
pub(super) struct Inherited {
    pub(super) contacts: Contacts,
    pub(super) policies: Arc<Policies>,
    pub(super) limiter: Arc<Limiter>,
    pub(super) helpers: Option<Arc<Helpers>>,
    pub(super) counters: Arc<Mutex<Vec<Arc<Counters>>>>,
    pub(super) carrier_account: Arc<CarrierAccount>,
    pub(super) epoch: u64,
}

/// Why [`Nat::new`] refused its settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// There are more insides than a slot can tell apart.
    #[error("{0} insides are too many; {max} are possible", max = table::slots::MAX_INSIDE)]
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
        if settings.insides.len() > usize::from(table::slots::MAX_INSIDE) {
            return Err(SettingsError::TooManyInsides(settings.insides.len()));
        }
        let mut tables = Vec::new();
        for parts in pools_of_tables(&settings.pools)? {
            tables.push(new_table(parts, &settings)?);
        }
        let inherited = Inherited {
            contacts: Contacts::new(&settings.policy.lifetimes),
            policies: Arc::default(),
            limiter: Arc::new(Limiter::new(settings.policy.creation.clone())),
            helpers: Helpers::new(&settings.policy.alg).map(Arc::new),
            counters: Arc::default(),
            carrier_account: Arc::default(),
            epoch: 0,
        };
        Ok(Arc::new(Self::assemble(settings, tables, inherited)))
    }

    pub(super) fn assemble(settings: Settings, tables: Vec<Arc<Table>>, inherited: Inherited) -> Self {
        let mut selection = Selection::default();
        let tables = Numbered::new(tables);
        for (number, table) in tables.iter() {
            for pool in settings.pools.iter().filter(|pool| table.pools().has(pool.range)) {
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
            insides: Numbered::new(settings.insides.into_iter().map(|inside| inside.name).collect()),
            tables,
            selection,
            contacts: inherited.contacts,
            policy: settings.policy,
            policies: inherited.policies,
            prefixes: Prefixes::new(&settings.pools),
            helpers: inherited.helpers,
            restore_hop: settings.restore_hop,
            limiter: inherited.limiter,
            hash_key: settings.hash_key,
            surroundings: RwLock::new(Arc::new(surroundings)),
            counters: inherited.counters,
            carrier_account: inherited.carrier_account,
            epoch: Epoch::after(inherited.epoch),
            is_recording: AtomicBool::new(false),
            cannot_record: AtomicBool::new(false),
            pools: Numbered::new(settings.pools),
        }
    }

    /// The virtual IPs of many terminals of one inside, in their order: `None` for one that has no binding for calls to
    /// `peer`. Costs much less than asking for each by itself.
    pub fn virtual_ips(&self, inside: InsideNumber, terminals: &[Address], peer: Address) -> Vec<Option<Address>> {
        let mut all = Vec::with_capacity(terminals.len());
        if let Some(table) = self.selection.for_peer(peer).and_then(|number| self.table(number).ok()) {
            table.of_terminals(inside, terminals, |found| all.push(found.map(|found| found.slot.virtual_ip)));
        }
        all.resize(terminals.len(), None);
        all
    }

    /// Ages bindings: bounded work, call about once a second. Events of what changed go to `sink`.
    pub fn tick(&self, now: Time, sink: &mut dyn FnMut(Event)) {
        for (number, table) in self.tables.iter() {
            table.age(now, AGED_AT_ONCE, &mut |aged| {
                let (kind, found) = match aged {
                    Aged::Dormant(found) => (EventKind::Dormant, found),
                    Aged::Released(found) => (EventKind::Released, found),
                    Aged::Freed(found) => (EventKind::Freed, found),
                };
                let bound = Bound { table: number, found };
                match kind {
                    EventKind::Released => self.forget_ended(&bound),
                    EventKind::Dormant => self.invalidate(Some(bound.slot())),
                    _ => {}
                }
                sink(self.event(kind, &bound));
            });
        }
    }

    /// What the workers have dropped: in the last ten to twelve minutes, or since the start.
    pub fn dropped(&self, since_start: bool, now: Time) -> Dropped {
        let counters = self.counters.lock();
        let mut books: Vec<_> =
            counters.iter().filter_map(|counters| counters.book.as_ref()).map(|book| book.lock()).collect();
        drops::sum(books.iter_mut().map(|book| &mut **book), since_start, now)
    }

    /// The memory of the tables that have become dense since the last call: now it pays to have it in huge pages. Before, it
    /// would take many times what is in use.
    pub fn dense_memory(&self) -> impl Iterator<Item = Range<*const u8>> {
        self.tables.all().iter().filter_map(|table| table.dense_memory()).flatten()
    }

    /// Replaces what may send from the inside (see [`InsideSettings::sources`](crate::nat::InsideSettings::sources)): the kernel's routes changed.
    pub fn set_sources(&self, inside: InsideNumber, sources: Vec<IpNet>) {
        self.change_surroundings(|surroundings| {
            if let Some(place) = surroundings.sources.get_mut(usize::from(inside.get())) {
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

    pub(super) fn change_surroundings(&self, change: impl FnOnce(&mut Surroundings)) {
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

    pub(super) fn surroundings(&self) -> Arc<Surroundings> {
        Arc::clone(&self.surroundings.read())
    }

    /// Forgets what was known about a binding that has ended.
    pub(super) fn forget_ended(&self, bound: &Bound) {
        let (owner, slot) = (bound.owner(), &bound.found.slot);
        self.contacts.forget(owner);
        self.policies.set(owner, None);
        self.limiter.leave(slot.inside, slot.terminal);
        if !slot.answered {
            self.limiter.forget_fresh(slot.inside, slot.created);
        }
        self.invalidate(Some(bound.slot()));
    }

    /// Workers decide anew about every flow; flows of the binding, or (`None`) all, are carried by nobody else any more.
    pub(super) fn invalidate(&self, binding: Option<SlotRef>) {
        self.epoch.advance();
        if let Some(carrier) = self.carrier_account.carrier.get() {
            carrier.revoke(binding);
        }
    }

    /// The pool that a binding is of.
    pub(super) fn pool_of(&self, bound: &Bound) -> PoolNumber {
        self.tables
            .get(bound.table)
            .and_then(|table| table.part(bound.found.index))
            .map_or_else(Default::default, TablePool::pool)
    }

    pub(super) fn event(&self, kind: EventKind, bound: &Bound) -> Event {
        let slot = &bound.found.slot;
        Event {
            kind,
            inside: slot.inside,
            pool: self.pool_of(bound),
            made: Time::from_secs(slot.created.into()),
            terminal: slot.terminal,
            virtual_ip: slot.virtual_ip,
        }
    }
}

/// The pools of each table.
pub(super) fn pools_of_tables(pools: &[PoolSettings]) -> Result<Vec<TablePools>, SettingsError> {
    if pools.len() > usize::from(u16::MAX) {
        return Err(SettingsError::TooManyPools(pools.len()));
    }
    let parts = |group: Vec<PoolNumber>| {
        let members = || group.iter().filter_map(|pool| Some((*pool, pools.get(usize::from(pool.get()))?)));
        let names = || members().map(|(_, pool)| pool.name.as_str()).collect::<Vec<_>>().join(", ");
        TablePools::new(members()).ok_or_else(|| SettingsError::TooLarge(names()))
    };
    selection::groups(pools).into_iter().map(parts).collect()
}

pub(super) fn new_table(parts: TablePools, settings: &Settings) -> Result<Arc<Table>, SettingsError> {
    let ranges = parts.iter().map(|part| part.range.to_string()).collect::<Vec<_>>().join(", ");
    let table = Table::new(parts, &settings.hash_key, settings.policy.lifetimes.clone());
    Ok(Arc::new(table.map_err(|_| SettingsError::TooLarge(ranges))?))
}
