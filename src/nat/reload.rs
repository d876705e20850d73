//! A reload: other settings, the same bindings.
//!
//! [`Nat::prepare_reload`] builds the state for the new settings beside the one in force and changes nothing in that; what it
//! returns says what would become of the bindings. [`PreparedReload::commit`] makes it so. Tables whose pools and times stay
//! as they are go over whole, at once; bindings of others move one by one, and those that fit nowhere end.
//!
//! Insides come and go by a reload too. One that stays keeps its number, whatever its place in the new settings: slots, keys
//! and the kernel's programs know it by that. [`Nat::inside`] says which number a new one has. A number that has become
//! vacant is given to another one by a later reload at the earliest, when no binding has it any more.

use super::table::pools::TablePools;
use crate::nat::alg::Helpers;
use crate::nat::binding::BindingState;
use crate::nat::binding::Owner;
use crate::nat::bound::Bound;
use crate::nat::event::{Event, EventKind};
use crate::nat::limit::Limiter;
use crate::nat::numbers::InsideNumber;
use crate::nat::settings::{InsideSettings, PoolKind, Settings};
use crate::nat::state::{Inherited, Nat, SettingsError, new_table, pools_of_tables};
use crate::nat::table::{Found, Table};
use crate::nat::views::BindingView;
use crate::time::Time;
use std::sync::Arc;

/// A state that is ready to take over.
pub struct PreparedReload {
    before: Arc<Nat>,
    after: Arc<Nat>,
    /// Tables that go over whole, with what the new settings say of their pools.
    kept: Vec<(Arc<Table>, TablePools)>,
    /// Bindings that have another place now: before and after.
    moved: Vec<(Owner, Owner)>,
    /// Bindings that fit nowhere.
    misfits: Vec<Bound>,
    now: Time,
}

impl Nat {
    /// The state for other settings, with the bindings of this one. From here until the prepared reload is dropped or
    /// committed nobody may translate with this state or change bindings of it.
    ///
    /// # Errors
    /// As [`Nat::new`].
    pub fn prepare_reload(
        self: &Arc<Self>,
        mut settings: Settings,
        now: Time,
    ) -> Result<PreparedReload, SettingsError> {
        self.keep_numbers(&mut settings);
        if settings.insides.len() > usize::from(super::table::slots::MAX_INSIDE) {
            return Err(SettingsError::TooManyInsides(settings.insides.len()));
        }
        let (tables, kept) = self.tables_for(&settings)?;
        let limiter = if settings.policy.creation == self.policy.creation {
            Arc::clone(&self.limiter)
        } else {
            Arc::new(Limiter::new(settings.policy.creation.clone()))
        };
        let helpers = if settings.policy.alg == self.policy.alg {
            self.helpers.clone()
        } else {
            Helpers::new(&settings.policy.alg).map(Arc::new)
        };
        let inherited = Inherited {
            contacts: self.contacts.under(&settings.policy.lifetimes),
            policies: Arc::clone(&self.policies),
            limiter,
            helpers,
            counters: Arc::clone(&self.counters),
            carrier_account: Arc::clone(&self.carrier_account),
            // Whatever a worker remembers was decided under the state before.
            epoch: self.epoch.now() + 1,
        };
        let after = Arc::new(Self::assemble(settings, tables, inherited));
        let mut prepared =
            PreparedReload { before: Arc::clone(self), after, kept, moved: Vec::new(), misfits: Vec::new(), now };
        prepared.move_bindings(now);
        Ok(prepared)
    }

    /// Puts the insides in the places that they have in this state; a new one comes into a vacant place, or behind all.
    fn keep_numbers(&self, settings: &mut Settings) {
        let vacant = || InsideSettings { name: String::new(), sources: Vec::new() };
        let places = self.insides.all().iter().map(|name| {
            let stays = settings.insides.iter().find(|inside| inside.name == *name && !name.is_empty());
            stays.cloned().unwrap_or_else(vacant)
        });
        let mut places: Vec<InsideSettings> = places.collect();
        let mut free =
            self.insides.iter().filter(|(_, name)| name.is_empty()).map(|(number, _)| usize::from(number.get()));
        for new in settings.insides.iter().filter(|inside| self.inside(&inside.name).is_none()) {
            match free.next().and_then(|place| places.get_mut(place)) {
                Some(place) => *place = new.clone(),
                None => places.push(new.clone()),
            }
        }
        for pool in &mut settings.pools {
            if let PoolKind::Prefix { inside, .. } = &mut pool.kind
                && let Some(named) = settings.insides.get(usize::from(inside.get()))
                && let Some(place) = places.iter().position(|place| place.name == named.name)
            {
                *inside = InsideNumber::of_place(place);
            }
        }
        settings.insides = places;
    }

    /// Tables for other settings, under numbers that say the same of a binding in both states; and which of them are
    /// this state's own, with what is new about their pools.
    #[expect(clippy::type_complexity, reason = "two lists, for one caller")]
    fn tables_for(
        &self,
        settings: &Settings,
    ) -> Result<(Vec<Arc<Table>>, Vec<(Arc<Table>, TablePools)>), SettingsError> {
        let (mut kept, mut fresh) = (Vec::new(), Vec::new());
        let mut tables: Vec<Option<Arc<Table>>> = vec![None; self.tables.all().len()];
        let same = self.policy.lifetimes.of_bindings() == settings.policy.lifetimes.of_bindings()
            && self.hash_key == settings.hash_key;
        for parts in pools_of_tables(&settings.pools)? {
            let like =
                self.tables.all().iter().zip(&mut tables).find(|(table, _)| same && table.pools().is_like(&parts));
            match like {
                Some((table, place)) => {
                    *place = Some(Arc::clone(table));
                    kept.push((Arc::clone(table), parts));
                }
                None => fresh.push(parts),
            }
        }
        for parts in fresh {
            let vacant = |(number, place): &(usize, &mut Option<Arc<Table>>)| {
                place.is_none() && self.tables.all().get(*number).is_none_or(|table| table.len() == 0)
            };
            let table = Some(new_table(parts, settings)?);
            match tables.iter_mut().enumerate().find(vacant) {
                Some((_, place)) => *place = table,
                None => tables.push(table),
            }
        }
        let none = new_table(TablePools::none(), settings)?;
        Ok((tables.into_iter().map(|table| table.unwrap_or_else(|| Arc::clone(&none))).collect(), kept))
    }
}

impl PreparedReload {
    /// The bindings that fit nowhere under the new settings: a commit releases them.
    pub fn misfits(&self, now: Time) -> Vec<BindingView> {
        self.misfits.iter().map(|bound| self.before.view(bound, now)).collect()
    }

    /// How many bindings have another place in the tables; each keeps its virtual IP.
    pub fn moved(&self) -> usize {
        self.moved.len()
    }

    /// Makes the new state the one in force: workers go on with [`crate::nat::Translator::switch_to`]. Returns it, and what
    /// ended, numbered as in the state before.
    pub fn commit(self) -> (Arc<Nat>, Vec<Event>) {
        let Self { before, after, kept, moved, misfits, now } = self;
        for (table, parts) in &kept {
            table.pools().take_settings_of(parts);
        }
        for (from, to) in moved {
            after.contacts.hand_over(from, to);
            after.policies.hand_over(from, to);
        }
        let mut events = Vec::new();
        for bound in misfits {
            if let Some(kept) = after.tables.get(bound.table) {
                kept.end(bound.found.stamp(), now);
            }
            before.forget_ended(&bound);
            events.push(before.event(EventKind::Released, &bound));
        }
        if !Arc::ptr_eq(&before.limiter, &after.limiter) {
            for table in after.tables.all() {
                table.each(&mut |found| {
                    if found.slot.state != BindingState::Quarantined {
                        after.limiter.enter(found.slot.inside, found.slot.terminal);
                    }
                });
            }
        }
        before.invalidate(None);
        (after, events)
    }

    /// Takes the bindings of every table that does not go over whole into the new one of their virtual IP, those first
    /// that have been idle longest: that is the order in which they make room.
    fn move_bindings(&mut self, now: Time) {
        let (before, after) = (&self.before.insides, &self.after.insides);
        let is_served = |found: &Found| before.get(found.slot.inside) == after.get(found.slot.inside);
        for (number, table) in self.before.tables.iter() {
            if self.kept.iter().any(|(kept, _)| Arc::ptr_eq(kept, table)) {
                if before != after {
                    table.each(&mut |found| {
                        if found.slot.state != BindingState::Quarantined && !is_served(&found) {
                            self.misfits.push(Bound { table: number, found });
                        }
                    });
                }
                continue;
            }
            let mut all = Vec::new();
            table.each(&mut |found| {
                let (usage, last_used) = table.usage(found.index);
                all.push((last_used, usage, found));
            });
            all.sort_by_key(|(last_used, ..)| *last_used);
            for (last_used, usage, found) in all {
                let bound = Bound { table: number, found };
                let to = self.after.selection.of_virtual_ip(found.slot.virtual_ip).filter(|_| is_served(&found));
                let taken = to.and_then(|to| {
                    let taken = self.after.table(to).ok()?.take_in(found.slot, usage, last_used, now)?;
                    Some(Bound { table: to, found: taken }.owner())
                });
                match taken {
                    Some(to) => self.moved.push((bound.owner(), to)),
                    None if found.slot.state == BindingState::Quarantined => {}
                    None => self.misfits.push(bound),
                }
            }
        }
    }
}
