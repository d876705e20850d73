//! Netfilter at the ports of an outside bridge: it comes before the bridge itself, where packets are translated.

use std::collections::BTreeMap;
use std::path::Path;

/// For all bridges of the namespace.
const FOR_ALL: [&str; 2] = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"];
/// For one, as `ip link` names them.
const FOR_ONE: [&str; 2] = ["nf_call_iptables", "nf_call_ip6tables"];

/// The commands that would switch it off, for each bridge where it is on; `bridges` says by its own settings.
pub(super) fn look(bridges: &BTreeMap<String, (bool, bool)>) -> BTreeMap<String, Vec<String>> {
    let found = bridges.iter().map(|(name, own)| (name.clone(), commands(name, *own)));
    found.filter(|(_, commands)| !commands.is_empty()).collect()
}

/// What is wrong with the bridge `name`, and what to do; `None`: nothing. `own` are the settings of this one: IPv4, IPv6.
pub fn filtered_at_ports(name: &str, own: (bool, bool)) -> Option<String> {
    let commands = commands(name, own);
    (!commands.is_empty()).then(|| sentence(name, &commands))
}

pub(super) fn sentence(name: &str, commands: &[String]) -> String {
    format!(
        "the outside '{name}' is a bridge, and prerouting and connection tracking see packets at its ports, where they still \
         have virtual IPs: rules by `ct state` do not know answers there, and calls end when the kernel carries them; {}",
        commands.join("; ")
    )
}

fn commands(name: &str, (v4, v6): (bool, bool)) -> Vec<String> {
    let is_on = |key: &&str| {
        let path = Path::new("/proc/sys/net/bridge").join(key);
        std::fs::read_to_string(path).is_ok_and(|value| value.trim() != "0")
    };
    let for_all = FOR_ALL.into_iter().filter(is_on).map(|key| format!("sysctl -w net.bridge.{key}=0"));
    let own = FOR_ONE.into_iter().zip([v4, v6]).filter(|(_, on)| *on);
    for_all.chain(own.map(|(key, _)| format!("ip link set {name} type bridge {key} 0"))).collect()
}
