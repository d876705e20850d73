//! What a rule set does not tell.

use super::ruleset::{Maker, Ruleset};
use crate::config::Config;
use crate::doctor::finding::ask;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Clone, Debug, Default)]
pub struct Host {
    /// For a bridge its ports, for a bond what it bonds: frames pass there too.
    pub below: BTreeMap<String, Vec<String>>,
    /// `net.netfilter.nf_conntrack_tcp_be_liberal`.
    pub is_liberal: bool,
    /// firewalld's, by interface.
    pub zones: BTreeMap<String, String>,
}

impl Host {
    pub fn read(config: &Config, ruleset: &Ruleset) -> Self {
        let insides = config.insides.iter().flat_map(|inside| &inside.interfaces);
        let interfaces: Vec<&String> = insides.chain(&config.outsides).collect();
        let liberal = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal");
        let mut host = Self { is_liberal: liberal.is_ok_and(|value| value.trim() != "0"), ..Self::default() };
        for interface in &interfaces {
            let ports = ports(Path::new("/sys/class/net"), interface);
            if !ports.is_empty() {
                host.below.insert((*interface).clone(), ports);
            }
        }
        if ruleset.base_chains().any(|chain| chain.maker == Maker::Firewalld) {
            for interface in interfaces {
                let zone = |arguments: &[&str]| ask("firewall-cmd", arguments).map(|said| said.trim().to_owned());
                let zone = zone(&[&format!("--get-zone-of-interface={interface}")]);
                host.zones.extend(zone.map(|zone| (interface.clone(), zone)));
            }
        }
        host
    }
}

fn ports(interfaces: &Path, name: &str) -> Vec<String> {
    let directory = interfaces.join(name);
    if !directory.join("bridge").is_dir() && !directory.join("bonding").is_dir() {
        return Vec::new();
    }
    let names = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix("lower_").map(str::to_owned)).collect()
}
