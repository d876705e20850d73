//! In which order bindings are listed, where it is not that of the virtual IPs.

use crate::nat::{BindingState, BindingView};
use std::collections::BinaryHeap;
use std::net::IpAddr;

/// Bindings of a sorted list at most, however many there are: some megabytes for each caller while it is put in order.
pub const MOST_SORTED: usize = 100_000;

/// What to sort by; the first are those one looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Bytes of both directions, the most first.
    Bytes,
    /// Packets of both directions, the most first.
    Packets,
    /// Callbacks, the most first.
    Callbacks,
    /// Contacts, the most first.
    Contacts,
    /// When it was last used, the latest first.
    LastUsed,
    /// When it was made, the oldest first.
    Age,
    /// What is left of its state, the soonest to change first; those pinned last.
    Left,
}

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What to sort by.
    pub by: Sort,
    /// The other way round.
    pub reversed: bool,
}

impl Order {
    /// As a part of a query string.
    pub fn to_query(self) -> String {
        format!("sort={}{}", self.by.name(), if self.reversed { "&reverse" } else { "" })
    }
}

impl Sort {
    /// All there are.
    pub const ALL: [Self; 7] =
        [Self::Bytes, Self::Packets, Self::Callbacks, Self::Contacts, Self::LastUsed, Self::Age, Self::Left];

    /// As it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Packets => "packets",
            Self::Callbacks => "callbacks",
            Self::Contacts => "contacts",
            Self::LastUsed => "last-used",
            Self::Age => "age",
            Self::Left => "left",
        }
    }

    /// What is asked for by this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sort| sort.name() == name)
    }

    /// The larger, the nearer to the top.
    fn weight(self, binding: &BindingView) -> u64 {
        match self {
            Self::Bytes => binding.bytes_out.saturating_add(binding.bytes_in),
            Self::Packets => binding.packets_out.saturating_add(binding.packets_in),
            Self::Callbacks => binding.callbacks.into(),
            // Those of one that has ended are not its own any more.
            Self::Contacts if binding.state == BindingState::Quarantined => 0,
            Self::Contacts => binding.contacts.into(),
            Self::LastUsed => binding.last_used.as_millis(),
            Self::Age => u64::MAX - binding.created.as_millis(),
            Self::Left => u64::MAX - binding.seconds_left.unwrap_or(u64::MAX),
        }
    }
}

/// The first so many of all that pass, in order; equals keep the order in which they came.
pub struct First {
    order: Order,
    most: usize,
    came: u64,
    /// The last on top.
    kept: BinaryHeap<(u64, u64, IpAddr)>,
}

impl First {
    /// Nothing yet; keeps `most`, and never more than [`MOST_SORTED`].
    pub fn new(order: Order, most: u64) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(MOST_SORTED);
        Self { order, most, came: 0, kept: BinaryHeap::new() }
    }

    /// One more.
    pub fn add(&mut self, binding: &BindingView) {
        let weight = self.order.by.weight(binding);
        let place = if self.order.reversed { weight } else { !weight };
        self.kept.push((place, self.came, binding.virtual_ip));
        self.came += 1;
        if self.kept.len() > self.most {
            self.kept.pop();
        }
    }

    /// Their virtual IPs, in order.
    pub fn into_virtual_ips(self) -> impl Iterator<Item = IpAddr> {
        self.kept.into_sorted_vec().into_iter().map(|(_, _, virtual_ip)| virtual_ip)
    }
}
