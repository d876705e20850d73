//! Looking at bindings and changing them by hand.

use super::callback::CallbackPolicy;
use super::counters::{Counters, Traffic};
use super::event::{Event, EventKind};
use super::settings::PoolKind;
use super::table::slots::Slot;
use super::table::{Found, PinError, Pinned};
use crate::nat::binding::BindingState;
use crate::nat::binding::Realm;
use crate::nat::bound::Bound;
use crate::nat::numbers::{InsideNumber, PoolNumber};
use crate::nat::qualified::Qualified;
use crate::nat::reason::DropReason;
use crate::nat::state::Nat;
use crate::nat::surroundings::contain;
use crate::nat::views::BindingView;
use crate::nat::views::PoolView;
use crate::nat::views::StatusView;
use crate::nat::views::TrafficView;
use crate::time::Time;
use crate::wire::Address;
use std::net::IpAddr;
use std::time::Duration;

/// What is to become of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It stays.
    Keep,
    /// It ends.
    Release,
    /// It stays, and so do all that follow.
    Stop,
}

/// Why a change by hand was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// No binding has this address.
    #[error("no binding has {0} as its terminal or virtual IP; `kamei bindings` lists them")]
    NotFound(IpAddr),
    /// The virtual IP is in no pool.
    #[error("{0} is in none of this gateway's pools; `kamei status` lists them")]
    NotInAPool(IpAddr),
    /// The address is in a pool, but reserved or occupied by another host.
    #[error(
        "{0} is reserved, or another host of the outside network has it: it is given to no terminal; choose another"
    )]
    Reserved(IpAddr),
    /// Families differ.
    #[error("{terminal} and {virtual_ip} are of different address families; choose a virtual IP of the terminal's")]
    Family {
        /// The terminal asked for.
        terminal: IpAddr,
        /// The virtual IP asked for.
        virtual_ip: IpAddr,
    },
    /// Another terminal has it.
    #[error("{virtual_ip} belongs to {holder} ({state}); release it first")]
    Taken {
        /// The virtual IP asked for.
        virtual_ip: IpAddr,
        /// Who has it.
        holder: IpAddr,
        /// Its state, in words.
        state: &'static str,
    },
    /// Nobody has it, and nobody gets it yet.
    #[error(
        "{virtual_ip} was {holder}'s and is in quarantine for {seconds} s more, for packets to it may still be meant for that \
         terminal; wait, or take it all the same with --force"
    )]
    Quarantined {
        /// The virtual IP asked for.
        virtual_ip: IpAddr,
        /// Who had it.
        holder: IpAddr,
        /// Until it is free.
        seconds: u64,
    },
    /// There is nothing to end or to change any more.
    #[error(
        "{virtual_ip} is released already: it was {holder}'s, is in quarantine for {seconds} s more, and then free"
    )]
    Ended {
        /// The virtual IP.
        virtual_ip: IpAddr,
        /// Who had it.
        holder: IpAddr,
        /// Until it is free.
        seconds: u64,
    },
    /// The address cannot be a terminal.
    #[error("{0} is in none of the inside prefixes; no terminal can have this address")]
    NotInside(IpAddr),
    /// No inside has this name.
    #[error("there is no inside named '{0}'; `kamei bindings` shows the names")]
    NoInside(String),
    /// The terminal's address exists in several insides.
    #[error("{0} exists in several insides; name one as ADDRESS@INSIDE")]
    Ambiguous(IpAddr),
}

impl Nat {
    /// Calls `each` for every binding that is active, dormant or quarantined, in the order of the pools and of the
    /// virtual IPs, until it returns `false`. Packets do not wait for it.
    pub fn for_each_binding(&self, now: Time, each: &mut dyn FnMut(BindingView) -> bool) {
        for pool in self.pools.numbers() {
            for (number, table) in self.tables.iter() {
                let Some((mut next, end)) =
                    table.pools().iter().find(|part| part.pool() == pool).map(|part| part.slots())
                else {
                    continue;
                };
                while let Some(found) = table.next_at(next).filter(|found| found.index < end) {
                    if !each(self.view(&Bound { table: number, found }, now)) {
                        return;
                    }
                    next = found.index + 1;
                }
            }
        }
    }

    /// The binding of a virtual IP.
    pub fn of_virtual_ip(&self, virtual_ip: IpAddr, now: Time) -> Option<BindingView> {
        Some(self.view(&self.bound_of(virtual_ip.into())?, now))
    }

    /// The binding of a virtual IP, in whatever state.
    pub(super) fn bound_of(&self, virtual_ip: Address) -> Option<Bound> {
        let table = self.selection.of_virtual_ip(virtual_ip)?;
        let found = self.tables.get(table)?.of_virtual_ip(virtual_ip)?;
        Some(Bound { table, found })
    }

    /// The bindings in which `address` is the terminal or the virtual IP.
    pub fn find(&self, address: IpAddr, now: Time) -> Vec<BindingView> {
        self.find_named(&address.into(), now)
    }

    /// The same, in one inside.
    pub fn find_named(&self, which: &Qualified, now: Time) -> Vec<BindingView> {
        let found = self.named(which).unwrap_or_default();
        found.iter().map(|bound| self.full_view(bound, now)).collect()
    }

    /// Ties `terminal` to `virtual_ip` for good (until released): such a binding never goes dormant. An existing binding
    /// of the terminal in that pool moves; its old virtual IP is quarantined. Workers heed it before this returns.
    pub fn pin(
        &self,
        terminal: IpAddr,
        virtual_ip: IpAddr,
        now: Time,
    ) -> Result<(BindingView, Vec<Event>), AdminError> {
        self.pin_named(&terminal.into(), virtual_ip, false, now)
    }

    /// The same for the terminal of one inside; `force`: even if the virtual IP is in quarantine after another's use.
    pub fn pin_named(
        &self,
        which: &Qualified,
        virtual_ip: IpAddr,
        force: bool,
        now: Time,
    ) -> Result<(BindingView, Vec<Event>), AdminError> {
        let terminal = which.address;
        let named = which.inside.as_ref().map(|name| self.inside_number(name)).transpose()?;
        if terminal.is_ipv4() != virtual_ip.is_ipv4() {
            return Err(AdminError::Family { terminal, virtual_ip });
        }
        let (terminal_address, address) = (Address::from(terminal), Address::from(virtual_ip));
        let number = self.selection.of_virtual_ip(address).ok_or(AdminError::NotInAPool(virtual_ip))?;
        let table = self.table(number).map_err(|_| AdminError::NotInAPool(virtual_ip))?;
        let surroundings = self.surroundings();
        let insides: Vec<InsideNumber> = self
            .insides
            .numbers()
            .filter(|inside| named.is_none_or(|named| named == *inside))
            .filter(|inside| surroundings.is_source(*inside, terminal_address))
            .collect();
        let inside = match insides.as_slice() {
            [] => return Err(AdminError::NotInside(terminal)),
            [inside] => *inside,
            _ => return Err(AdminError::Ambiguous(terminal)),
        };
        let Pinned { found, moved, is_new } =
            table.pin(inside, terminal_address, address, force, now).map_err(|error| match error {
                PinError::Reserved => AdminError::Reserved(virtual_ip),
                PinError::Taken(found) => taken(virtual_ip, &found, table.left(&found, now)),
            })?;
        let bound = Bound { table: number, found };
        let mut events = Vec::new();
        if let Some(moved) = moved.map(|found| Bound { table: number, found }) {
            self.forget_ended(&moved);
            events.push(self.event(EventKind::Released, &moved));
        }
        if is_new {
            self.limiter.enter(inside, terminal_address);
        }
        self.invalidate(Some(bound.slot()));
        events.push(self.event(EventKind::Pinned, &bound));
        Ok((self.view(&bound, now), events))
    }

    /// Releases every binding in which `address` is the terminal or the virtual IP; the virtual IPs are quarantined.
    /// Returns the bindings as they were. Workers heed it before this returns.
    pub fn release(&self, address: IpAddr, now: Time) -> Result<(Vec<BindingView>, Vec<Event>), AdminError> {
        self.release_named(&address.into(), now)
    }

    /// The same in one inside.
    pub fn release_named(&self, which: &Qualified, now: Time) -> Result<(Vec<BindingView>, Vec<Event>), AdminError> {
        let address = which.address;
        let matching = self.named(which)?;
        let mut terminals = matching.iter().filter(|bound| bound.found.slot.terminal == address.into());
        let first = terminals.next().map(|bound| bound.found.slot.inside);
        if terminals.any(|bound| Some(bound.found.slot.inside) != first) {
            return Err(AdminError::Ambiguous(address));
        }
        let (mut views, mut events) = (Vec::new(), Vec::new());
        for bound in matching {
            let view = self.view(&bound, now);
            let Some(released) = self.end(&bound, now) else { continue };
            views.push(view);
            events.push(released);
        }
        if views.is_empty() { Err(self.not_found(which, now)) } else { Ok((views, events)) }
    }

    /// Releases the bindings that `choose` chooses, in the order of [`Nat::for_each_binding`], until it says stop. Returns what
    /// happened to each. Workers heed it before this returns.
    pub fn release_where(&self, now: Time, choose: &mut dyn FnMut(&BindingView) -> Choice) -> Vec<Event> {
        let mut events = Vec::new();
        for (number, table) in self.tables.iter() {
            let mut next = 0;
            while let Some(found) = table.next_at(next) {
                next = found.index.saturating_add(1);
                if found.slot.state == BindingState::Quarantined {
                    continue;
                }
                let bound = Bound { table: number, found };
                match choose(&self.view(&bound, now)) {
                    Choice::Keep => continue,
                    Choice::Release => {}
                    Choice::Stop => return events,
                }
                events.extend(self.end(&bound, now));
            }
        }
        events
    }

    /// Ends a binding; `None` if it has ended meanwhile.
    fn end(&self, bound: &Bound, now: Time) -> Option<Event> {
        let found = self.tables.get(bound.table)?.end(bound.found.stamp(), now)?;
        let ended = Bound { found, ..*bound };
        self.forget_ended(&ended);
        Some(self.event(EventKind::Released, &ended))
    }

    /// Keeps exactly these virtual IPs from being given, for other hosts have them: a binding that has one ends, and
    /// its terminal gets another. Returns what ended. Workers heed it before this returns.
    pub fn set_occupied(&self, virtual_ips: &[IpAddr], now: Time) -> Vec<Event> {
        let mut events = Vec::new();
        for (number, table) in self.tables.iter() {
            table.set_occupied(virtual_ips.iter().map(|virtual_ip| Address::from(*virtual_ip)));
            for virtual_ip in virtual_ips {
                let found = table.of_virtual_ip((*virtual_ip).into());
                events.extend(found.and_then(|found| self.end(&Bound { table: number, found }, now)));
            }
        }
        events
    }

    /// Gives the bindings in which an address is the terminal or the virtual IP a callback policy of their own, or (`None`)
    /// takes it away. Workers heed it before this returns.
    pub fn set_callback(
        &self,
        which: &Qualified,
        policy: Option<&CallbackPolicy>,
        now: Time,
    ) -> Result<Vec<BindingView>, AdminError> {
        let mut found = self.named(which)?;
        found.retain(|bound| bound.found.slot.state != BindingState::Quarantined);
        for bound in &found {
            self.policies.set(bound.owner(), policy.cloned());
            self.invalidate(Some(bound.slot()));
        }
        if found.is_empty() {
            return Err(self.not_found(which, now));
        }
        Ok(found.iter().map(|bound| self.view(bound, now)).collect())
    }

    /// Counters and pool use.
    pub fn status(&self) -> StatusView {
        let mut pools = Vec::new();
        for (number, settings) in self.pools.iter() {
            if settings.kind != PoolKind::Bindings {
                let capacity = u64::try_from(settings.range.size()).unwrap_or(u64::MAX);
                let (name, range) = (settings.name.clone(), settings.range);
                let (active, dormant, quarantined, draining) = (0, 0, 0, settings.draining);
                let free = capacity;
                pools.push(PoolView { name, range, capacity, active, dormant, quarantined, free, draining });
                continue;
            }
            for table in self.tables.all() {
                let counts = table.counts().into_iter().zip(table.count_occupied());
                let part = table.pools().iter().zip(counts).find(|(part, _)| part.pool() == number);
                let Some((part, (counts, occupied))) = part else { continue };
                let capacity = part.capacity().saturating_sub(occupied);
                let used = counts.active + counts.dormant + counts.quarantined;
                pools.push(PoolView {
                    name: settings.name.clone(),
                    range: settings.range,
                    capacity,
                    active: counts.active,
                    dormant: counts.dormant,
                    quarantined: counts.quarantined,
                    free: capacity.saturating_sub(used),
                    draining: part.is_draining(),
                });
            }
        }
        let workers = self.counters.lock();
        let sum = |count: &dyn Fn(&Counters) -> u64| workers.iter().map(|counters| count(counters)).sum::<u64>();
        let traffic = |of: &dyn Fn(&Counters) -> &Traffic| TrafficView {
            packets: sum(&|counters| of(counters).packets.get()),
            bytes: sum(&|counters| of(counters).bytes.get()),
        };
        StatusView {
            pools,
            out: traffic(&|counters| &counters.out),
            inward: traffic(&|counters| &counters.inward),
            callbacks: sum(&|counters| counters.callbacks.get()),
            created: sum(&|counters| counters.created.get()),
            drops: DropReason::ALL
                .iter()
                .map(|reason| (reason.name().to_owned(), sum(&|counters| counters.drops(*reason).get())))
                .collect(),
        }
    }

    /// Names of the pools, in their order.
    pub fn pool_names(&self) -> impl Iterator<Item = &str> {
        self.pools.all().iter().map(|pool| pool.name.as_str())
    }

    /// Name of a pool, as events number them.
    pub fn pool_name(&self, pool: PoolNumber) -> &str {
        self.pools.get(pool).map_or("?", |pool| &pool.name)
    }

    /// Name of an inside realm, as events number them.
    pub fn inside_name(&self, inside: InsideNumber) -> &str {
        self.insides.get(inside).map_or("?", |name| name)
    }

    /// Names of the inside realms, in the order of their numbers; empty for a number that a reload has left vacant.
    pub fn inside_names(&self) -> impl Iterator<Item = &str> {
        self.insides.all().iter().map(String::as_str)
    }

    /// Name of a realm.
    pub fn realm_name(&self, realm: Realm) -> &str {
        match realm {
            Realm::Outside => "outside",
            Realm::Inside(inside) => self.inside_name(inside),
        }
    }

    /// The inside with this name.
    pub fn inside(&self, name: &str) -> Option<InsideNumber> {
        self.insides.number(|have| have == name && !name.is_empty())
    }

    fn inside_number(&self, name: &str) -> Result<InsideNumber, AdminError> {
        self.inside(name).ok_or_else(|| AdminError::NoInside(name.to_owned()))
    }

    pub(super) fn named(&self, which: &Qualified) -> Result<Vec<Bound>, AdminError> {
        let inside = which.inside.as_ref().map(|name| self.inside_number(name)).transpose()?;
        let mut all = self.matching(which.address.into());
        all.retain(|bound| inside.is_none_or(|inside| inside == bound.found.slot.inside));
        Ok(all)
    }

    /// Why there is no binding to change: it has ended, or there never was one.
    fn not_found(&self, which: &Qualified, now: Time) -> AdminError {
        let ended = self.named(which).unwrap_or_default().into_iter().next();
        let Some(Bound { table, found }) = ended else { return AdminError::NotFound(which.address) };
        let left = self.tables.get(table).and_then(|table| table.left(&found, now));
        let Slot { virtual_ip, terminal, .. } = found.slot;
        AdminError::Ended { virtual_ip: virtual_ip.into(), holder: terminal.into(), seconds: whole_seconds(left) }
    }

    fn matching(&self, address: Address) -> Vec<Bound> {
        let mut all = Vec::new();
        for (number, table) in self.tables.iter() {
            let bound = |found| Bound { table: number, found };
            all.extend(self.insides.numbers().filter_map(|inside| table.of_terminal(inside, address).map(bound)));
            all.extend(table.of_virtual_ip(address).map(bound));
        }
        if all.is_empty() && self.surroundings().sources.iter().any(|sources| contain(sources, address.into())) {
            for (number, table) in self.tables.iter() {
                let bound = |found| Bound { table: number, found };
                all.extend(self.insides.numbers().filter_map(|inside| table.ended_of(inside, address).map(bound)));
            }
        }
        all
    }

    pub(super) fn view(&self, bound: &Bound, now: Time) -> BindingView {
        let (table, found) = (self.tables.get(bound.table), &bound.found);
        let (usage, last_used) = table.map_or_else(Default::default, |table| table.usage(found.index));
        let slot = &found.slot;
        let left = table.and_then(|table| table.left(found, now));
        let (contacts, contacts_answered) = self.contacts.count(bound.owner(), now.as_secs());
        BindingView {
            terminal: slot.terminal.into(),
            realm: self.inside_name(slot.inside).to_owned(),
            virtual_ip: slot.virtual_ip.into(),
            pool: self.pool_name(self.pool_of(bound)).to_owned(),
            state: slot.state,
            pinned: slot.pinned,
            answered: slot.answered,
            created: Time::from_secs(slot.created.into()),
            last_used,
            seconds_left: left.map(|left| whole_seconds(Some(left))),
            contacts,
            contacts_answered,
            contacts_forgotten: self.contacts.forgotten(bound.owner()),
            callback: None,
            policy: self.own_policy(bound),
            contact_list: None,
            packets_out: usage.packets_out,
            packets_in: usage.packets_in,
            bytes_out: usage.bytes_out,
            bytes_in: usage.bytes_in,
            callbacks: usage.callbacks,
        }
    }
}

/// Why a virtual IP cannot be pinned to another terminal than that of `found`.
fn taken(virtual_ip: IpAddr, found: &Found, left: Option<Duration>) -> AdminError {
    let holder = found.slot.terminal.into();
    let taken = |state| AdminError::Taken { virtual_ip, holder, state };
    match found.slot.state {
        BindingState::Active => taken("active"),
        BindingState::Dormant => taken("dormant"),
        BindingState::Quarantined => AdminError::Quarantined { virtual_ip, holder, seconds: whole_seconds(left) },
    }
}

/// Rounded up: what has a moment left is not over.
fn whole_seconds(left: Option<Duration>) -> u64 {
    left.map_or(0, |left| u64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u64::MAX))
}
