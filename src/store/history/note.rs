//! What has become of a binding, and who did it.

use crate::nat::StoredBinding;
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What became of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Happened {
    /// A terminal got a virtual IP.
    Made,
    /// It was used again after it was dormant.
    Woken,
    /// It was idle; its virtual IP stays reserved.
    Dormant,
    /// It ended; its virtual IP is quarantined, and belongs to nobody.
    Released,
    /// The operator tied it.
    Pinned,
    /// The operator said who may call.
    Callback,
    /// It is in force no more, for the configuration has no place for it, and comes back when that has one.
    KeptAside,
    /// It is in force again.
    Back,
}

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The gateway: a call, idleness, a full pool.
    Itself,
    /// A user of this number, by a command.
    Operator(u32),
    /// Another configuration, by a reload.
    Reload,
    /// A start, which found another configuration than the last process had.
    Start,
    /// Another host, or this one, has the virtual IP.
    Occupied,
    /// A user of this number, who put other bindings in place of those there were.
    Import(u32),
}

/// Where in its life a binding was when an entry was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// In use.
    Active,
    /// Reserved.
    Dormant,
    /// The virtual IP is nobody's.
    Ended,
    /// The same until the binding comes back.
    Aside,
}

/// What a binding has become.
#[derive(Clone, Debug)]
pub struct Note {
    pub(super) at: Time,
    pub(super) by: By,
    pub(super) virtual_ip: IpAddr,
    /// As it is, and whether it is kept aside; `None`: it is not any more.
    pub(super) binding: Option<(StoredBinding, bool)>,
    /// What was done to it by hand: of a binding that is older than the history nothing else tells.
    pub(super) done: Option<Happened>,
}

impl Happened {
    const ALL: [Self; 8] = [
        Self::Made,
        Self::Woken,
        Self::Dormant,
        Self::Released,
        Self::Pinned,
        Self::Callback,
        Self::KeptAside,
        Self::Back,
    ];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Woken => "woken",
            Self::Dormant => "dormant",
            Self::Released => "released",
            Self::Pinned => "pinned",
            Self::Callback => "callback",
            Self::KeptAside => "kept aside",
            Self::Back => "back",
        }
    }

    pub(super) fn number(self) -> u64 {
        1 + Self::ALL.iter().position(|what| *what == self).unwrap_or(0) as u64
    }

    pub(super) fn of_number(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?.checked_sub(1)?).copied()
    }
}

impl By {
    pub(super) fn numbers(self) -> (u64, Option<u32>) {
        match self {
            Self::Itself => (1, None),
            Self::Operator(uid) => (2, Some(uid)),
            Self::Reload => (3, None),
            Self::Start => (4, None),
            Self::Occupied => (5, None),
            Self::Import(uid) => (6, Some(uid)),
        }
    }

    pub(super) fn of_numbers(number: u64, uid: Option<u32>) -> Option<Self> {
        Some(match (number, uid) {
            (1, _) => Self::Itself,
            (2, Some(uid)) => Self::Operator(uid),
            (3, _) => Self::Reload,
            (4, _) => Self::Start,
            (5, _) => Self::Occupied,
            (6, Some(uid)) => Self::Import(uid),
            _ => return None,
        })
    }

    /// In a word, and the user's number where there is one.
    pub fn named(self) -> (&'static str, Option<u32>) {
        let name = match self {
            Self::Itself => "gateway",
            Self::Operator(_) => "command",
            Self::Reload => "reload",
            Self::Start => "start",
            Self::Occupied => "occupied",
            Self::Import(_) => "import",
        };
        (name, self.numbers().1)
    }

    pub(super) fn of_name(name: &str, uid: Option<u32>) -> Option<Self> {
        (1..=6).filter_map(|number| Self::of_numbers(number, uid)).find(|by| by.named() == (name, uid))
    }

    pub(super) fn is_import(self) -> bool {
        matches!(self, Self::Import(_))
    }
}

impl Standing {
    pub(super) fn number(self) -> u64 {
        match self {
            Self::Active => 1,
            Self::Dormant => 2,
            Self::Ended => 3,
            Self::Aside => 4,
        }
    }

    pub(super) fn of_number(number: u64) -> Option<Self> {
        [Self::Active, Self::Dormant, Self::Ended, Self::Aside].into_iter().find(|standing| standing.number() == number)
    }
}
