//! The table against a model that a child could check: a list, searched from its start.

use crate::nat::binding::BindingState::{self, Active, Dormant, Quarantined};
use crate::nat::table::pools::TablePools;
use crate::nat::table::slots::Usage;
use crate::nat::table::{Aged, Found, PinError, Pinned, Table};
use crate::nat::{InsideNumber, Lifetimes, PoolNumber, PoolSettings};
use crate::time::Time;
use crate::wire::Address;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

const HOLD: u32 = 7_440;
const DORMANT: u32 = 20_000;
const QUARANTINE: u32 = 120;
const INSIDES: u16 = 2;
const TERMINALS: u8 = 9;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// A terminal calls: its binding is made, or woken.
    Call {
        inside: InsideNumber,
        terminal: u8,
    },
    /// A worker notes that a binding was used.
    Note {
        inside: InsideNumber,
        terminal: u8,
    },
    Pin {
        inside: InsideNumber,
        terminal: u8,
        virtual_ip: u8,
    },
    Release {
        virtual_ip: u8,
    },
    /// The clock moves, forth or back, by so many milliseconds.
    Clock(i64),
    Age {
        budget: usize,
    },
}

#[derive(Clone, Debug, PartialEq)]
struct Row {
    inside: InsideNumber,
    terminal: Address,
    virtual_ip: Address,
    state: BindingState,
    pinned: bool,
    created: u32,
    last_used: u32,
    /// Second from which on a dormant or quarantined row changes.
    due: u32,
}

struct Model {
    rows: Vec<Row>,
    /// In the order they went dormant.
    sleepers: Vec<Address>,
    free: BTreeSet<Address>,
    now: Time,
}

struct Pair {
    table: Table,
    model: Model,
}

fn terminal(n: u8) -> Address {
    Address::from_v4([10, 0, 0, n])
}

/// Some are of the first pool, some of the second, one is reserved, one is of no pool.
fn virtual_ip(n: u8) -> Address {
    Address::from_v4([198, 18, n % 3, n / 3])
}

fn pools() -> Vec<PoolSettings> {
    let pool = |range: &str, reserved: &[&str]| PoolSettings {
        name: range.to_owned(),
        range: range.parse().unwrap(),
        reserved: reserved.iter().map(|address| address.parse().unwrap()).collect(),
        destinations: Vec::new(),
        callback: None,
        draining: false,
        kind: Default::default(),
    };
    vec![pool("198.18.0.0/30", &["198.18.0.1"]), pool("198.18.1.0-198.18.1.2", &[])]
}

impl Pair {
    fn new() -> Self {
        let pools = pools();
        let parts = TablePools::new([0, 1].map(PoolNumber::new).into_iter().zip(&pools)).unwrap();
        let lifetimes = Lifetimes {
            hold: Duration::from_secs(HOLD.into()),
            dormant: Duration::from_secs(DORMANT.into()),
            quarantine: Duration::from_secs(QUARANTINE.into()),
            ..Lifetimes::default()
        };
        let given = |address: &Address| *address != Address::from_v4([198, 18, 0, 1]);
        let free = (0..4)
            .map(|n| Address::from_v4([198, 18, 0, n]))
            .chain((0..3).map(|n| Address::from_v4([198, 18, 1, n])))
            .filter(given)
            .collect();
        let now = Time::from_millis(1_000_000_000_250);
        let model = Model { rows: Vec::new(), sleepers: Vec::new(), free, now };
        Self { table: Table::new(parts, &[3; 16], lifetimes).unwrap_or_else(|_| panic!("no memory")), model }
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Call { inside, terminal: n } => self.call(inside, terminal(n))?,
            Step::Note { inside, terminal: n } => {
                if let Some(found) = self.table.of_terminal(inside, terminal(n)) {
                    self.table.add_usage(found.index, Usage { packets_out: 1, ..Usage::default() });
                    self.table.touch(found.index, self.model.now);
                }
                let now = self.model.now.as_secs();
                if let Some(row) = self.model.of_terminal(inside, terminal(n)) {
                    row.last_used = row.last_used.max(now);
                }
            }
            Step::Pin { inside, terminal: n, virtual_ip: v } => self.pin(inside, terminal(n), virtual_ip(v))?,
            Step::Release { virtual_ip: v } => self.release(virtual_ip(v))?,
            Step::Clock(by) => {
                let millis = self.model.now.as_millis().checked_add_signed(by).unwrap_or_default();
                self.model.now = Time::from_millis(millis);
            }
            Step::Age { budget } => self.age(budget)?,
        }
        self.compare()
    }

    fn call(&mut self, inside: InsideNumber, terminal: Address) -> Result<(), TestCaseError> {
        let now = self.model.now;
        if let Some(found) = self.table.of_terminal(inside, terminal) {
            let row = self.model.of_terminal(inside, terminal).expect("the model has it too");
            let woken = self.table.wake(found, now);
            prop_assert_eq!(woken.is_some(), row.state == Dormant);
            if row.state == Dormant {
                (row.state, row.last_used) = (Active, row.last_used.max(now.as_secs()));
                prop_assert!(self.table.wake(found, now).is_none(), "only once");
            }
            return Ok(());
        }
        prop_assert!(self.model.of_terminal(inside, terminal).is_none());
        let (made, ended) = self.table.create(inside, terminal, now);
        match made {
            Some((found, new)) => {
                prop_assert!(new && ended.is_none());
                prop_assert!(self.model.free.remove(&found.slot.virtual_ip), "{found:?} was not free");
                self.model.rows.push(row_of(&found, now.as_secs()));
                prop_assert_eq!(self.table.create(inside, terminal, now).0, Some((found, false)));
                prop_assert!(self.table.mark_answered(&found) && !self.table.mark_answered(&found));
            }
            None => {
                prop_assert!(self.model.free.is_empty(), "refused with addresses left");
                let any_quarantined = self.model.rows.iter().any(|row| row.state == Quarantined);
                let oldest = self.model.oldest_sleeper().filter(|_| !any_quarantined);
                prop_assert_eq!(ended.map(|found| found.slot.virtual_ip), oldest);
                if let Some(ended) = oldest {
                    self.model.quarantine(ended);
                }
            }
        }
        Ok(())
    }

    fn pin(&mut self, inside: InsideNumber, terminal: Address, virtual_ip: Address) -> Result<(), TestCaseError> {
        let now = self.model.now;
        let held = self.model.of_virtual_ip(virtual_ip).cloned();
        let exists = held.is_some() || self.model.free.contains(&virtual_ip);
        let before = self.model.of_terminal(inside, terminal).cloned();
        match self.table.pin(inside, terminal, virtual_ip, false, now) {
            Err(PinError::Reserved) => prop_assert!(!exists),
            Err(PinError::Taken(Found { slot, .. })) => {
                let held = held.expect("taken");
                prop_assert_eq!((slot.inside, slot.terminal), (held.inside, held.terminal));
                prop_assert_ne!((held.inside, held.terminal), (inside, terminal));
            }
            Ok(Pinned { found, moved, .. }) => {
                prop_assert!(exists && found.slot.pinned && found.slot.state == Active);
                let leaves = before.filter(|row| row.virtual_ip != virtual_ip).map(|row| row.virtual_ip);
                prop_assert_eq!(moved.map(|found| found.slot.virtual_ip), leaves);
                if let Some(leaves) = leaves {
                    self.model.quarantine(leaves);
                }
                let mut row = row_of(&found, now.as_secs());
                match held {
                    Some(held) if held.state != Quarantined => {
                        (row.created, row.last_used) = (held.created, held.last_used)
                    }
                    // Another binding than the one that has ended.
                    ended => row.created = now.as_secs().max(ended.map_or(0, |held| held.created + 1)),
                }
                self.model.free.remove(&virtual_ip);
                self.model.rows.retain(|row| row.virtual_ip != virtual_ip);
                self.model.rows.push(row);
            }
        }
        Ok(())
    }

    fn release(&mut self, virtual_ip: Address) -> Result<(), TestCaseError> {
        let found = self.table.of_virtual_ip(virtual_ip);
        let ended = found.and_then(|found| self.table.end(found.stamp(), self.model.now));
        let live = self.model.of_virtual_ip(virtual_ip).is_some_and(|row| row.state != Quarantined);
        prop_assert_eq!(ended.is_some(), live);
        if live {
            self.model.quarantine(virtual_ip);
            let stale = found.and_then(|found| self.table.end(found.stamp(), self.model.now));
            prop_assert!(stale.is_none(), "only once");
        }
        Ok(())
    }

    /// Everything the table says it has done was due; if it says it is through, nothing else was.
    fn age(&mut self, budget: usize) -> Result<(), TestCaseError> {
        let now = self.model.now;
        let mut all = Vec::new();
        let through = self.table.age(now, budget, &mut |aged| all.push(aged));
        prop_assert!(all.len() <= budget);
        for aged in all {
            let (Aged::Dormant(found) | Aged::Released(found) | Aged::Freed(found)) = aged;
            let address = found.slot.virtual_ip;
            let row = self.model.of_virtual_ip(address).expect("a row that aged");
            prop_assert!(row.is_due(now), "{aged:?} at {now:?}: {row:?}");
            match (aged, row.state) {
                (Aged::Dormant(_), Active) => {
                    (row.state, row.due) = (Dormant, due(now, DORMANT));
                    self.model.sleepers.retain(|sleeper| *sleeper != address);
                    self.model.sleepers.push(address);
                }
                (Aged::Released(_), Dormant) => self.model.quarantine(address),
                (Aged::Freed(_), Quarantined) => {
                    self.model.rows.retain(|row| row.virtual_ip != address);
                    self.model.free.insert(address);
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
        if through {
            let late = self.model.rows.iter().find(|row| row.is_overdue(now));
            prop_assert_eq!(late, None, "was due at {:?}", now);
        }
        Ok(())
    }

    /// Both know the same, whichever way they are asked.
    fn compare(&mut self) -> Result<(), TestCaseError> {
        for n in 0..12 {
            let address = virtual_ip(n);
            let found = self.table.of_virtual_ip(address);
            let row = self.model.of_virtual_ip(address).cloned();
            prop_assert_eq!(found.map(|found| shown(&found)), row.map(|row| shown_row(&row)));
        }
        for inside in (0..INSIDES).map(InsideNumber::new) {
            for n in 0..TERMINALS {
                let found = self.table.of_terminal(inside, terminal(n));
                let row = self.model.of_terminal(inside, terminal(n)).cloned();
                prop_assert_eq!(found.map(|found| shown(&found)), row.map(|row| shown_row(&row)));
            }
        }
        let mut listed = Vec::new();
        let mut from = 0;
        while let Some(found) = self.table.next_at(from) {
            listed.push(found.slot.virtual_ip);
            from = found.index + 1;
        }
        let mut rows: Vec<Address> = self.model.rows.iter().map(|row| row.virtual_ip).collect();
        rows.sort_unstable();
        prop_assert_eq!(listed, rows);
        for (part, counts) in self.table.counts().into_iter().enumerate() {
            let third = u8::try_from(part).unwrap();
            let count = |state: BindingState| {
                let mine = |row: &&Row| row.virtual_ip.v4_octets()[2] == third && row.state == state;
                self.model.rows.iter().filter(mine).count() as u64
            };
            prop_assert_eq!(
                (counts.active, counts.dormant, counts.quarantined),
                (count(Active), count(Dormant), count(Quarantined))
            );
        }
        Ok(())
    }
}

impl Model {
    fn of_virtual_ip(&mut self, virtual_ip: Address) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.virtual_ip == virtual_ip)
    }

    fn of_terminal(&mut self, inside: InsideNumber, terminal: Address) -> Option<&mut Row> {
        let mut its = self
            .rows
            .iter_mut()
            .filter(|row| row.inside == inside && row.terminal == terminal && row.state != Quarantined);
        let first = its.next();
        assert!(its.next().is_none(), "a terminal has two virtual IPs");
        first
    }

    fn oldest_sleeper(&self) -> Option<Address> {
        let sleeps =
            |address: &&Address| self.rows.iter().any(|row| row.virtual_ip == **address && row.state == Dormant);
        self.sleepers.iter().find(sleeps).copied()
    }

    fn quarantine(&mut self, virtual_ip: Address) {
        let due = due(self.now, QUARANTINE);
        let row = self.of_virtual_ip(virtual_ip).expect("a row to quarantine");
        (row.state, row.pinned, row.due) = (Quarantined, false, due);
    }
}

impl Row {
    /// An active row may go dormant up to a second late: the last use is known to the second only.
    fn is_overdue(&self, now: Time) -> bool {
        let last_used = self.last_used + u32::from(self.state == Active);
        Row { last_used, ..self.clone() }.is_due(now)
    }

    fn is_due(&self, now: Time) -> bool {
        match self.state {
            Active => !self.pinned && self.last_used.saturating_add(HOLD) <= now.as_secs(),
            Dormant | Quarantined => self.due <= now.as_secs(),
        }
    }
}

/// First whole second at which `span` seconds are over, no matter when in its second `now` is.
fn due(now: Time, span: u32) -> u32 {
    u32::try_from(now.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).saturating_add(span)
}

fn row_of(found: &Found, now: u32) -> Row {
    let slot = found.slot;
    Row {
        inside: slot.inside,
        terminal: slot.terminal,
        virtual_ip: slot.virtual_ip,
        state: slot.state,
        pinned: slot.pinned,
        created: now,
        last_used: now,
        due: 0,
    }
}

type Shown = (InsideNumber, Address, Address, BindingState, bool, u32);

fn shown(found: &Found) -> Shown {
    let slot = found.slot;
    (slot.inside, slot.terminal, slot.virtual_ip, slot.state, slot.pinned, slot.created)
}

fn shown_row(row: &Row) -> Shown {
    (row.inside, row.terminal, row.virtual_ip, row.state, row.pinned, row.created)
}

fn step() -> impl Strategy<Value = Step> {
    let who = || ((0..INSIDES).prop_map(InsideNumber::new), 0..TERMINALS);
    let clock = prop_oneof![
        4 => 0i64..3_000,
        4 => 100_000i64..130_000,
        4 => 7_000_000i64..8_000_000,
        2 => 19_000_000i64..21_000_000,
        1 => -10_000_000i64..0,
    ];
    prop_oneof![
        10 => who().prop_map(|(inside, terminal)| Step::Call { inside, terminal }),
        3 => who().prop_map(|(inside, terminal)| Step::Note { inside, terminal }),
        2 => (who(), 0u8..12).prop_map(|((inside, terminal), virtual_ip)| Step::Pin { inside, terminal, virtual_ip }),
        2 => (0u8..12).prop_map(|virtual_ip| Step::Release { virtual_ip }),
        6 => clock.prop_map(Step::Clock),
        6 => prop_oneof![3 => Just(1000usize), 1 => 0usize..4].prop_map(|budget| Step::Age { budget }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn c8_c11_n7_the_table_behaves_like_a_list(steps in prop::collection::vec(step(), 1..250)) {
        let mut pair = Pair::new();
        for (n, step) in steps.iter().enumerate() {
            pair.step(step).map_err(|error| TestCaseError::fail(format!("step {n}, {step:?}: {error}")))?;
        }
    }
}

#[test]
fn the_addresses_of_the_model_are_the_ones_meant() {
    let in_pools = |n: &u8| pools().iter().any(|pool| pool.range.contains(virtual_ip(*n)));
    assert_eq!((0..12).filter(in_pools).count(), 7);
    assert!((0..12).any(|n| IpAddr::from(virtual_ip(n)) == pools()[0].reserved[0]));
}
