//! Which table serves which peer (N1), and which table a virtual IP belongs to.

use super::numbers::{PoolNumber, TableNumber};
use super::settings::{PoolKind, PoolSettings};
use crate::wire::{Address, AddressRange};
use ipnet::IpNet;
use std::net::IpAddr;

/// Finds the table of a peer, and that of a virtual IP.
#[derive(Debug, Default)]
pub struct Selection {
    /// Longest prefix first.
    by_destination: Vec<(IpNet, TableNumber)>,
    default_v4: Option<TableNumber>,
    default_v6: Option<TableNumber>,
    /// Sorted; they do not overlap.
    ranges: Vec<(AddressRange, TableNumber)>,
}

/// Which pools share a table (those translated by prefix have none): all of a family that name no destinations, and those that name the same ones.
pub fn groups(pools: &[PoolSettings]) -> Vec<Vec<PoolNumber>> {
    let mut groups: Vec<(&PoolSettings, Vec<PoolNumber>)> = Vec::new();
    let numbered = (0..=u16::MAX).map(PoolNumber::new).zip(pools);
    for (number, pool) in numbered.filter(|(_, pool)| pool.kind == PoolKind::Bindings) {
        let alike =
            |other: &PoolSettings| other.range.is_v4() == pool.range.is_v4() && other.destinations == pool.destinations;
        match groups.iter_mut().find(|(first, _)| alike(first)) {
            Some((_, members)) => members.push(number),
            None => groups.push((pool, vec![number])),
        }
    }
    groups.into_iter().map(|(_, members)| members).collect()
}

impl Selection {
    /// Notes that `pool` is part of table `table`.
    pub fn add(&mut self, table: TableNumber, pool: &PoolSettings) {
        if pool.destinations.is_empty() {
            let default = if pool.range.is_v4() { &mut self.default_v4 } else { &mut self.default_v6 };
            default.get_or_insert(table);
        }
        self.by_destination.extend(pool.destinations.iter().map(|prefix| (*prefix, table)));
        self.by_destination.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
        self.ranges.push((pool.range, table));
        self.ranges.sort_by_key(|(range, _)| range.first());
    }

    /// The table whose virtual IPs are for calls to `peer`.
    pub fn for_peer(&self, peer: Address) -> Option<TableNumber> {
        if !self.by_destination.is_empty() {
            let address = IpAddr::from(peer);
            if let Some((_, table)) = self.by_destination.iter().find(|(prefix, _)| prefix.contains(&address)) {
                return Some(*table);
            }
        }
        if peer.is_v4() { self.default_v4 } else { self.default_v6 }
    }

    /// The table that `virtual_ip` belongs to.
    pub fn of_virtual_ip(&self, virtual_ip: Address) -> Option<TableNumber> {
        let behind = self.ranges.partition_point(|(range, _)| range.first() <= virtual_ip);
        let (range, table) = self.ranges.get(behind.checked_sub(1)?)?;
        range.contains(virtual_ip).then_some(*table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(range: &str, destinations: &[&str]) -> PoolSettings {
        PoolSettings {
            name: range.to_owned(),
            range: range.parse().unwrap(),
            reserved: Vec::new(),
            destinations: destinations.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            callback: None,
            draining: false,
            kind: Default::default(),
        }
    }

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn n1_the_longest_destination_prefix_chooses_the_pool() {
        let pools = [
            pool("198.18.0.0/24", &[]),
            pool("198.18.1.0/24", &["192.0.2.0/24"]),
            pool("198.18.2.0/24", &["192.0.2.7/32", "203.0.113.0/24"]),
            pool("198.18.3.0/24", &[]),
            pool("fd00::/64", &[]),
        ];
        let groups = groups(&pools);
        let of_groups: Vec<Vec<u16>> =
            groups.iter().map(|group| group.iter().map(|pool| pool.get()).collect()).collect();
        assert_eq!(of_groups, [vec![0, 3], vec![1], vec![2], vec![4]]);
        let mut selection = Selection::default();
        for (table, group) in groups.iter().enumerate() {
            for pool in group {
                selection.add(TableNumber::of_place(table), &pools[usize::from(pool.get())]);
            }
        }
        let table = |peer: &str| selection.for_peer(address(peer)).map(TableNumber::get);
        assert_eq!((table("192.0.2.8"), table("192.0.2.7"), table("203.0.113.1")), (Some(1), Some(2), Some(2)));
        assert_eq!((table("198.51.100.1"), table("2001:db8::1")), (Some(0), Some(3)));
        let of = |virtual_ip: &str| selection.of_virtual_ip(address(virtual_ip)).map(TableNumber::get);
        assert_eq!((of("198.18.3.255"), of("198.18.2.0"), of("198.18.4.0")), (Some(0), Some(2), None));
        assert_eq!((of("fd00::ffff"), of("198.17.255.255")), (Some(3), None));
    }
}
