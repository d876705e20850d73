//! Virtual IPs as slot numbers: the pools of one table, laid end to end.

use crate::nat::numbers::PoolNumber;
use crate::nat::settings::PoolSettings;
use crate::wire::{Address, AddressRange};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

/// Slots of a pool that is larger than memory: 2^24, as many as an IPv4 /8 has.
const SPARSE_SLOTS: u32 = 1 << 24;

/// Slots of such a pool that are given first: those of few bindings lie close together, and each does not take pages of memory
/// of its own. Which address a slot stands for is drawn from all (see [`TablePools::address`]).
const FIRST_SLOTS: u32 = 1 << 16;

/// One pool, as part of a table.
#[derive(Debug)]
pub struct TablePool {
    /// Index of the pool in the settings, which a reload may number anew.
    pool: AtomicU16,
    pub range: AddressRange,
    draining: AtomicBool,
    /// Addresses that are never given.
    reserved: Vec<Address>,
    /// Its first slot.
    first_slot: u32,
    /// How many slots.
    slots: u32,
}

/// All parts of a table.
#[derive(Debug)]
pub struct TablePools {
    parts: Vec<TablePool>,
    len: u32,
}

impl TablePools {
    /// Lays the pools end to end. `None` if they have more than 2^32 slots together.
    pub fn new<'a>(pools: impl Iterator<Item = (PoolNumber, &'a PoolSettings)>) -> Option<Self> {
        let mut all = Self::none();
        for (pool, settings) in pools {
            let slots = u32::try_from(settings.range.size()).unwrap_or(SPARSE_SLOTS).min(SPARSE_SLOTS);
            let mut reserved: Vec<Address> = settings.reserved.iter().map(|address| Address::from(*address)).collect();
            reserved.retain(|address| settings.range.contains(*address));
            if !settings.range.is_v4() && settings.range.size() > u128::from(SPARSE_SLOTS) {
                reserved.push(settings.range.first()); // the routers' anycast address (RFC 4291 §2.6.1)
            }
            reserved.sort_unstable();
            reserved.dedup();
            all.parts.push(TablePool {
                pool: AtomicU16::new(pool.get()),
                range: settings.range,
                draining: AtomicBool::new(settings.draining),
                reserved,
                first_slot: all.len,
                slots,
            });
            all.len = all.len.checked_add(slots)?;
        }
        Some(all)
    }

    /// No pools.
    pub fn none() -> Self {
        Self { parts: Vec::new(), len: 0 }
    }

    /// How many slots in all.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether one of the pools has this range.
    pub fn has(&self, range: AddressRange) -> bool {
        self.parts.iter().any(|part| part.range == range)
    }

    /// Every part with its number.
    pub fn iter(&self) -> impl Iterator<Item = &TablePool> {
        self.parts.iter()
    }

    /// The part that slot `index` belongs to, and its number.
    pub fn of_slot(&self, index: u32) -> Option<(usize, &TablePool)> {
        self.parts.iter().enumerate().find(|(_, part)| index.wrapping_sub(part.first_slot) < part.slots)
    }

    /// The slot of a virtual IP: its offset in the pool, of which in a sparse pool the low 24 bits count.
    pub fn slot_of(&self, virtual_ip: Address) -> Option<(u32, &TablePool)> {
        let part = self.parts.iter().find(|part| part.range.contains(virtual_ip))?;
        let offset = virtual_ip.bits() - part.range.first().bits();
        Some((part.first_slot + u32::try_from(offset % u128::from(part.slots)).ok()?, part))
    }

    /// The slot to give to the terminal with hash `hash`, if it is free.
    pub fn first_choice(&self, hash: u64) -> u32 {
        let index = u32::try_from((u128::from(hash) * u128::from(self.len)) >> 64).unwrap_or_default();
        match self.of_slot(index) {
            Some((_, part)) if part.range.size() > u128::from(SPARSE_SLOTS) => {
                part.first_slot + (index - part.first_slot) % FIRST_SLOTS
            }
            _ => index,
        }
    }

    /// The virtual IP to give with slot `index` to the terminal with hash `hash`.
    pub fn address(&self, index: u32, hash: u64) -> Option<Address> {
        let (_, part) = self.of_slot(index)?;
        let low = u128::from(index - part.first_slot);
        // In a sparse pool the hash chooses the upper bits, so that addresses are spread and not guessable.
        let rows = part.range.size() / u128::from(part.slots);
        let high = if rows > 1 { spread(hash) % rows } else { 0 };
        Some(Address::from_bits(part.range.first().bits() + high * u128::from(part.slots) + low))
    }

    /// Whether both have the same slots for the same addresses, so that the bindings of one fit the other as they are.
    pub fn is_like(&self, other: &Self) -> bool {
        let same = |(a, b): (&TablePool, &TablePool)| a.range == b.range && a.reserved == b.reserved;
        self.parts.len() == other.parts.len() && self.parts.iter().zip(&other.parts).all(same)
    }

    /// Takes over what `other`, which is like this one, says of its pools: their numbers, and which are draining.
    pub fn take_settings_of(&self, other: &Self) {
        for (own, other) in self.parts.iter().zip(&other.parts) {
            own.pool.store(other.pool().get(), Ordering::Relaxed);
            own.draining.store(other.is_draining(), Ordering::Relaxed);
        }
    }

    /// Slots that must never be given.
    pub fn reserved_slots(&self) -> impl Iterator<Item = u32> {
        self.parts.iter().flat_map(|part| part.reserved.iter()).filter_map(|address| Some(self.slot_of(*address)?.0))
    }
}

impl TablePool {
    /// Index of the pool in the settings.
    pub fn pool(&self) -> PoolNumber {
        PoolNumber::new(self.pool.load(Ordering::Relaxed))
    }

    /// Whether it keeps the bindings that it has and makes no new ones.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Its first slot and the one behind its last.
    pub fn slots(&self) -> (u32, u32) {
        (self.first_slot, self.first_slot + self.slots)
    }

    /// Whether `address` is never given. In a sparse pool neither is any other address of the same slot: once free, the
    /// slot would be given like every other.
    pub fn is_reserved(&self, address: Address) -> bool {
        let slots = u128::from(self.slots);
        if slots == self.range.size() {
            return self.reserved.binary_search(&address).is_ok();
        }
        let offset = |address: Address| address.bits().wrapping_sub(self.range.first().bits()) % slots;
        self.reserved.iter().any(|reserved| offset(*reserved) == offset(address))
    }

    /// How many virtual IPs it can give.
    pub fn capacity(&self) -> u64 {
        u64::from(self.slots) - self.reserved.len().min(self.slots as usize) as u64
    }
}

/// Draws 64 bits of hash out over 128 (the finalizer of SplitMix64).
fn spread(hash: u64) -> u128 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    u128::from(mix(hash)) << 64 | u128::from(mix(hash.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(ranges: &[&str]) -> TablePools {
        let pools: Vec<PoolSettings> = ranges
            .iter()
            .map(|range| PoolSettings {
                name: (*range).to_owned(),
                range: range.parse().unwrap(),
                reserved: Vec::new(),
                destinations: Vec::new(),
                callback: None,
                draining: false,
                kind: Default::default(),
            })
            .collect();
        TablePools::new((0..).map(PoolNumber::new).zip(&pools)).unwrap()
    }

    #[test]
    fn r3_the_slot_of_a_virtual_ip_is_its_offset_in_the_pool() {
        let parts = parts(&["198.18.0.0/24", "198.18.9.5-198.18.9.7"]);
        assert_eq!(parts.len(), 259);
        for index in 0..parts.len() {
            let address = parts.address(index, 0x1234_5678_9abc_def0).unwrap();
            assert_eq!(parts.slot_of(address).unwrap().0, index);
        }
        assert!(parts.slot_of("198.18.1.0".parse::<std::net::IpAddr>().unwrap().into()).is_none());
    }

    #[test]
    fn what_is_reserved_stays_so_with_its_whole_slot() {
        let address = |text: &str| Address::from(text.parse::<std::net::IpAddr>().unwrap());
        let sparse = parts(&["fd00::/64"]);
        let (slot, part) = sparse.slot_of(address("fd00::")).unwrap();
        assert!(sparse.reserved_slots().eq([slot]));
        assert_eq!(sparse.slot_of(address("fd00::7700:0")).unwrap().0, slot);
        assert!(part.is_reserved(address("fd00::")) && part.is_reserved(address("fd00::7700:0")));
        assert!(!part.is_reserved(address("fd00::7700:1")));
    }

    #[test]
    fn the_first_slots_of_a_sparse_pool_lie_close_together_and_their_addresses_far_apart() {
        let parts = parts(&["198.18.0.0/24", "fd00::/64"]);
        let hashes = (1..4000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let chosen: Vec<(u32, u64)> = hashes.map(|hash| (parts.first_choice(hash), hash)).collect();
        assert!(chosen.iter().all(|(slot, _)| *slot < 256 + FIRST_SLOTS));
        let slots: std::collections::BTreeSet<u32> = chosen.iter().map(|(slot, _)| *slot).collect();
        assert!(slots.len() > 3800, "{}", slots.len());
        let upper = chosen.iter().map(|(slot, hash)| parts.address(*slot, *hash).unwrap().bits() >> 24);
        assert!(upper.collect::<std::collections::BTreeSet<u128>>().len() > 3800);
    }

    #[test]
    fn the_capacity_counts_each_reserved_address_of_the_pool_once() {
        let reserved = ["198.18.0.0", "198.18.0.3", "198.18.0.3", "198.18.0.0", "192.0.2.1"];
        let pool = PoolSettings {
            name: "four".to_owned(),
            range: "198.18.0.0/30".parse().unwrap(),
            reserved: reserved.map(|address| address.parse().unwrap()).to_vec(),
            destinations: Vec::new(),
            callback: None,
            draining: false,
            kind: Default::default(),
        };
        let parts = TablePools::new([(PoolNumber::new(0), &pool)].into_iter()).unwrap();
        assert_eq!(parts.iter().next().unwrap().capacity(), 2);
        assert_eq!(parts.reserved_slots().count(), 2);
    }

    #[test]
    fn an_ipv6_pool_of_any_size_has_slots_that_fit_memory() {
        for range in ["2001:db8::/32", "fd00::/64", "fd00::/104", "fd00::/120"] {
            let parts = parts(&[range]);
            assert!(parts.len() <= SPARSE_SLOTS);
            for hash in [0, 1, u64::MAX, 0xdead_beef_0bad_cafe] {
                let address = parts.address(parts.len() - 1, hash).unwrap();
                assert!(range.parse::<AddressRange>().unwrap().contains(address), "{range} {address}");
                assert_eq!(parts.slot_of(address).unwrap().0, parts.len() - 1);
            }
        }
    }
}
