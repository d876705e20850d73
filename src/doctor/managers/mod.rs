//! Programs that manage network devices, and the files by which they would take a gateway's own.

mod keyfile;
mod network_manager;
mod networkd;

use crate::config::Config;
use crate::doctor::finding::{Finding, ask};
use std::path::Path;

/// Made by NetworkManager when it starts.
const NETWORK_MANAGER: &str = "/run/NetworkManager";

/// Says who takes the gateway's devices, and how to keep them.
pub fn examine(config: &Config) -> Vec<Finding> {
    let mut devices = vec![format!("{}-nat", config.tun)];
    devices.extend((config.insides.len() > 1).then(|| format!("{}-in0", config.tun)));
    let mut findings = networkd::examine(Path::new("/"), &config.tun, &devices);
    if Path::new(NETWORK_MANAGER).is_dir()
        && let Some(merged) = ask("NetworkManager", &["--print-config"])
    {
        findings.extend(network_manager::judge(&merged, &config.tun, &devices));
    }
    findings
}
