//! What is different about another configuration, for a reload.

use super::{AgentConfig, Config, PublishConfig, RelayConfig, ServerConfig};
use crate::nat::{Policy, PoolSettings};
use crate::session::Published;
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
        difference.keys_of_restart(&restart);
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
        difference.keys_of_reload(&live);
        difference
    }
}

impl RelayConfig {
    /// What is different about `other`.
    pub fn difference(&self, other: &Self) -> Difference {
        // Taken apart, so that a new key cannot be forgotten here.
        let Self {
            listen,
            public,
            servers,
            proxy,
            pools,
            state_dir,
            control,
            control_group,
            metrics,
            limits,
            probing,
            hold,
            idle,
            hardening,
            log_format,
        } = self;
        let mut difference = Difference::default();
        difference.keys_of_restart(&[
            ("listen", *listen != other.listen),
            ("pool", *pools != other.pools),
            ("state-dir", *state_dir != other.state_dir),
            ("control", *control != other.control),
            ("control-group", *control_group != other.control_group),
            ("metrics", *metrics != other.metrics),
            ("unproved", limits.unproved != other.limits.unproved),
            ("hardening", *hardening != other.hardening),
            ("log-format", *log_format != other.log_format),
        ]);
        let name = |server: &ServerConfig| server.published.clone();
        difference.servers(servers, &other.servers, name);
        difference.keys_of_reload(&[
            ("public", *public != other.public),
            ("proxy", *proxy != other.proxy),
            ("limits", *limits != other.limits),
            ("probing", *probing != other.probing),
            ("hold", *hold != other.hold),
            ("idle", *idle != other.idle),
        ]);
        difference
    }
}

impl AgentConfig {
    /// What is different about `other`.
    pub fn difference(&self, other: &Self) -> Difference {
        let Self {
            relays,
            via,
            publish,
            state_dir,
            control,
            control_group,
            metrics,
            connections,
            dial_time,
            probing,
            hardening,
            log_format,
        } = self;
        let mut difference = Difference::default();
        difference.keys_of_restart(&[
            ("relay", *relays != other.relays),
            ("state-dir", *state_dir != other.state_dir),
            ("control", *control != other.control),
            ("control-group", *control_group != other.control_group),
            ("metrics", *metrics != other.metrics),
            ("connections", *connections != other.connections),
            ("hardening", *hardening != other.hardening),
            ("log-format", *log_format != other.log_format),
        ]);
        let name = |publish: &PublishConfig| publish.published.clone();
        difference.servers(publish, &other.publish, name);
        difference.keys_of_reload(&[
            ("via", *via != other.via),
            ("dial-time", *dial_time != other.dial_time),
            ("probing", *probing != other.probing),
        ]);
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

    fn keys_of_restart(&mut self, keys: &[(&'static str, bool)]) {
        self.restart.extend(keys.iter().filter(|(_, differs)| *differs).map(|(key, _)| *key));
    }

    fn keys_of_reload(&mut self, keys: &[(&'static str, bool)]) {
        self.changes.extend(keys.iter().filter(|(_, differs)| *differs).map(|(key, _)| format!("{key} changes")));
    }

    fn servers<T: PartialEq>(&mut self, before: &[T], after: &[T], name: impl Fn(&T) -> Published) {
        let of = |all: &'_ [T], one: &T| all.iter().position(|other| name(other) == name(one));
        for server in before.iter().filter(|server| of(after, server).is_none()) {
            self.changes.push(format!("server {} goes", name(server)));
        }
        for server in after {
            match of(before, server).and_then(|at| before.get(at)) {
                None => self.changes.push(format!("server {} comes", name(server))),
                Some(old) if old != server => self.changes.push(format!("server {} changes", name(server))),
                Some(_) => {}
            }
        }
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

#[cfg(test)]
mod tests {
    use super::super::{AgentDraft, RelayDraft, RoleDraft};

    #[test]
    fn a_role_says_what_a_reload_brings_and_what_only_a_restart() {
        let relay = |text: &str| RelayDraft::parse(text).unwrap().check("/x".into(), "/y".into()).unwrap();
        let before =
            relay("listen = [\":443\"]\n[[server]]\nname = \"a\"\nport = 1\n[[server]]\nname = \"b\"\nport = 2");
        assert!(before.difference(&before).is_empty());
        let after = "listen = [\":444\"]\nhold = \"5s\"\n[[server]]\nname = \"b\"\nport = 3\n[[server]]\nname = \"c\"\nport = 1";
        let difference = before.difference(&relay(after));
        assert_eq!(difference.changes, ["server a goes", "server b changes", "server c comes", "hold changes"]);
        assert_eq!(difference.restart, ["listen"]);
        let agent = |text: &str| AgentDraft::parse(text).unwrap().check("/x".into(), "/y".into()).unwrap();
        let publish = "[[publish]]\nname = \"a\"\ntarget";
        let before = agent(&format!("relay = [\"r:1\"]\n{publish} = \"h:1\""));
        let difference = before.difference(&agent(&format!("relay = [\"s:1\"]\n{publish} = \"h:2\"")));
        assert_eq!((difference.changes, difference.restart), (vec!["server a changes".to_owned()], vec!["relay"]));
    }
}
