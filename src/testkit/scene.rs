//! Settings that most tests of the translator begin with.

use crate::nat::{InsideSettings, Policy, PoolSettings, Settings};

/// A pool, for these destinations or for all.
pub fn pool(range: &str, destinations: &[&str]) -> PoolSettings {
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

/// One inside with these pools.
pub fn settings(pools: Vec<PoolSettings>) -> Settings {
    Settings {
        insides: vec![InsideSettings {
            name: "inside".to_owned(),
            sources: vec!["10.0.0.0/8".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        }],
        pools,
        own_outside: vec!["203.0.113.1".parse().unwrap()],
        hash_key: [7; 16],
        restore_hop: false,
        policy: Policy::default(),
    }
}

/// The same with a policy that differs.
pub fn with_policy(mut settings: Settings, change: impl FnOnce(&mut Policy)) -> Settings {
    change(&mut settings.policy);
    settings
}
