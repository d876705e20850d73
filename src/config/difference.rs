//! What is different about another configuration, for a reload.

use super::Config;
use crate::nat::{Policy, PoolSettings};
use ipnet::IpNet;

/// See [`Config::difference`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What a running gateway can change to, one line each.
    pub changes: Vec<String>,
    /// Keys that only a restart can change.
    pub restart: Vec<&'static str>,
}

impl Config {
    /// What is different about `other`.
    pub fn difference(&self, other: &Self) -> Difference {
        // Taken apart, so that a new key cannot be forgotten here.
        let Self {
            insides: _,
            outsides,
            pools,
            exempt,
            policy,
            control,
            metrics,
            state_dir,
            durability,
            when_disk_fails,
            sync_interval,
            history,
            workers,
            busy_poll,
            pin,
            tun,
            offload,
            log_format,
            log_terminals,
            control_group,
            hardening,
            on_stop,
            fast_path,
        } = self;
        let Policy { callback, lifetimes, creation, exhausted, hairpin, inbound_refresh, unsolicited, mss, mptcp, alg } =
            policy;
        let mut difference = Difference::default();
        let restart = [
            ("inside", !interfaces(self).eq(interfaces(other))),
            ("outside", *outsides != other.outsides),
            ("control", *control != other.control),
            ("metrics", *metrics != other.metrics),
            ("state-dir", *state_dir != other.state_dir),
            ("durability", *durability != other.durability),
            ("when-disk-fails", *when_disk_fails != other.when_disk_fails),
            ("sync-interval", *sync_interval != other.sync_interval),
            ("history", *history != other.history),
            ("workers", *workers != other.workers),
            ("busy-poll", *busy_poll != other.busy_poll),
            ("pin", *pin != other.pin),
            ("tun", *tun != other.tun),
            ("offload", *offload != other.offload),
            ("log-format", *log_format != other.log_format),
            ("log-terminals", *log_terminals != other.log_terminals),
            ("control-group", *control_group != other.control_group),
            ("on-stop", *on_stop != other.on_stop),
            ("hardening", *hardening != other.hardening),
            ("fast-path", *fast_path != other.fast_path),
        ];
        difference.restart.extend(restart.iter().filter(|(_, differs)| *differs).map(|(key, _)| *key));
        difference.pools(pools, &other.pools);
        let live = [
            ("inside-prefixes", !prefixes(self).eq(prefixes(other))),
            ("exempt", *exempt != other.exempt),
            ("callback", *callback != other.policy.callback),
            ("lifetimes", *lifetimes != other.policy.lifetimes),
            ("creation", *creation != other.policy.creation),
            ("exhausted", *exhausted != other.policy.exhausted),
            ("hairpin", *hairpin != other.policy.hairpin),
            ("inbound-refresh", *inbound_refresh != other.policy.inbound_refresh),
            ("unsolicited", *unsolicited != other.policy.unsolicited),
            ("mss", *mss != other.policy.mss),
            ("mptcp", *mptcp != other.policy.mptcp),
            ("alg", *alg != other.policy.alg),
        ];
        let changed = live.iter().filter(|(_, differs)| *differs).map(|(key, _)| format!("{key} changes"));
        difference.changes.extend(changed);
        difference
    }
}

fn interfaces(config: &Config) -> impl Iterator<Item = (&String, &Vec<String>)> {
    config.insides.iter().map(|inside| (&inside.name, &inside.interfaces))
}

fn prefixes(config: &Config) -> impl Iterator<Item = &Vec<IpNet>> {
    config.insides.iter().map(|inside| &inside.prefixes)
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.restart.is_empty()
    }

    fn pools(&mut self, before: &[PoolSettings], after: &[PoolSettings]) {
        let same_range =
            |pools: &[PoolSettings], pool: &PoolSettings| pools.iter().find(|other| other.range == pool.range).cloned();
        for pool in before.iter().filter(|pool| same_range(after, pool).is_none()) {
            self.changes.push(format!("pool {} goes", pool.name));
        }
        for pool in after {
            match same_range(before, pool) {
                None => self.changes.push(format!("pool {} comes", pool.name)),
                Some(old) if old != *pool => self.changes.push(format!("pool {} changes", pool.name)),
                Some(_) => {}
            }
        }
        if self.changes.is_empty() && before != after {
            self.changes.push("the order of the pools changes".to_owned());
        }
    }
}
