//! Translation in the kernel, as the configuration and the host want it.

use super::error::GatewayError;
use crate::config::{Config, FastPathMode};
use crate::control::{CarriedFlow, FastPathStatus, Taps};
use crate::fastpath::{self, Entrance, FastPath, FastPathError, FastPathSettings, KernelFlow, PrefixKind, Site};
use crate::host::{Framing, Kernel};
use crate::nat::{InsideNumber, Multipath, Nat, Offer, Realm};
use crate::time::Time;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Makes the maps and has the kernel check the programs; nothing is attached yet.
pub fn start(config: &Config, now: Time) -> Result<Arc<FastPath>, GatewayError> {
    Ok(Arc::new(FastPath::new(settings(config), now)?))
}

/// Puts the programs on the interfaces there are at the start. Those that are only faster have to be had where they were
/// asked for by name.
pub fn attach(fast: &FastPath, kernel: &Kernel) -> Result<(), GatewayError> {
    match fast.update_site(&site(kernel)?).into_iter().next() {
        None => Ok(()),
        Some(why) => Err(why.into()),
    }
}

/// Follows the host: interfaces, addresses, programs that another has taken off. Where a program cannot be, nothing
/// leaves.
pub fn update(fast: &FastPath, kernel: &Kernel) {
    let wrong = match site(kernel) {
        Ok(site) => fast.update_site(&site),
        Err(why) => vec![why],
    };
    for why in wrong {
        log::warn!("{why}");
    }
}

/// What the configuration says of the fast path.
pub fn settings(config: &Config) -> FastPathSettings {
    FastPathSettings {
        tun: config.tun.clone(),
        flows: config.fast_path.flows,
        control_ports: config.policy.alg.iter().map(|alg| alg.port).collect(),
        clamps: config.policy.mss.is_some(),
        strips: config.policy.mptcp == Multipath::Strip,
        carries: config.fast_path.mode != FastPathMode::Off,
        redirects: matches!(config.fast_path.mode, FastPathMode::Redirect | FastPathMode::Xdp),
        xdp: config.fast_path.mode == FastPathMode::Xdp,
        hook: config.fast_path.hook,
    }
}

/// The host, as the programs go by it.
fn site(kernel: &Kernel) -> Result<Site, FastPathError> {
    let mut entrances = Vec::new();
    for (name, index, realm, framing) in kernel.interfaces() {
        let ethernet = match (framing, realm) {
            (Framing::Ethernet(ethernet), _) => Some(ethernet),
            (Framing::Bare, _) | (Framing::Unknown, Realm::Inside(_)) => None,
            (Framing::Unknown, Realm::Outside) => return Err(FastPathError::UnknownLink(name)),
        };
        entrances.push(Entrance { name, index, realm, ethernet });
    }
    let is_entrance = |index| entrances.iter().any(|entrance: &Entrance| entrance.index == index);
    let ports = kernel.ports().into_iter().filter_map(|(name, index, realm, framing)| match framing {
        Framing::Ethernet(ethernet) if !is_entrance(index) => {
            Some(Entrance { name, index, realm, ethernet: Some(ethernet) })
        }
        _ => None,
    });
    let ports = ports.collect();
    let device = |(name, index)| Entrance { name, index, realm: Realm::Outside, ethernet: Some(Default::default()) };
    let devices: Vec<Entrance> = kernel.devices().into_iter().map(device).collect();
    if devices.is_empty() {
        return Err(FastPathError::NoDevice(kernel.plan().device.clone()));
    }
    let (ruled_v4, ruled_v6) = kernel.host().is_ruled_by_others();
    let own_v6 = kernel.host().own().iter().filter_map(|own| match own {
        IpAddr::V6(address) if !address.is_unicast_link_local() => Some(*address),
        _ => None,
    });
    Ok(Site {
        entrances,
        devices,
        ports,
        others: kernel.others(),
        prefixes: prefixes(kernel),
        exempt: kernel.plan().exempt.iter().map(IpNet::trunc).collect(),
        own_v6: own_v6.chain(kernel.host().anycast().iter().copied()).collect(),
        ruled_v4,
        ruled_v6,
    })
}

/// Whose addresses are whose.
fn prefixes(kernel: &Kernel) -> BTreeMap<IpNet, PrefixKind> {
    let mut all = BTreeMap::new();
    for (inside, net, is_unclear) in kernel.hidden() {
        let kind = if is_unclear { PrefixKind::Unclear } else { PrefixKind::Inside(inside) };
        all.insert(net.trunc(), kind);
    }
    let pools = kernel.plan().pools.iter().flat_map(|pool| pool.prefixes());
    all.extend(pools.map(|net| (net.trunc(), PrefixKind::Pool)));
    let own_inside = kernel.host().own_inside();
    for own in kernel.host().own().iter().filter(|own| !own.is_loopback()) {
        let kind = if own_inside.contains(own) { PrefixKind::OwnInside } else { PrefixKind::OwnOutside };
        all.insert(IpNet::from(*own), kind);
    }
    all
}

/// The fast path as the control interface shows it.
pub fn status(fast: &FastPath, mode: FastPathMode) -> FastPathStatus {
    let view = fast.view();
    let mode = match mode {
        FastPathMode::Redirect => "redirect",
        FastPathMode::Xdp => "xdp",
        FastPathMode::Auto | FastPathMode::Tc => "tc",
        FastPathMode::Off => "off",
    };
    FastPathStatus { mode: mode.to_owned(), flows: view.flows, hits: view.hits, slow: view.slow, noted: view.noted }
}

/// A flow as the control interface has it.
pub fn carried(flow: &KernelFlow) -> CarriedFlow {
    let Offer { from, source, destination, address, to, .. } = flow.offer;
    let (inside, terminal, virtual_ip, peer) = match (from, to) {
        (Realm::Inside(inside), _) => (inside, source, address, destination),
        (Realm::Outside, Realm::Inside(inside)) => (inside, address, destination, source),
        (Realm::Outside, Realm::Outside) => (InsideNumber::new(u16::MAX), address, destination, source),
    };
    CarriedFlow {
        bytes_a_second: flow.bytes_a_second,
        bytes: flow.carried.bytes,
        packets: flow.carried.packets,
        packets_a_second: flow.packets_a_second,
        terminal,
        virtual_ip,
        peer,
        inside,
        is_outward: from != Realm::Outside,
        entered: flow.entered,
        moved: flow.moved,
    }
}

/// Tells the log of packets that the kernel's programs drop: each reason when it first counts, then once in a while.
pub struct NotedLog {
    said: BTreeMap<String, (u64, Option<Time>)>,
}

/// A reason that goes on counting is said again after this.
const SAID_AGAIN: Duration = Duration::from_secs(600);

impl NotedLog {
    /// What has counted so far, under a gateway before this one, is not said.
    pub fn new(fast: &FastPath) -> Self {
        Self { said: fast.view().noted.into_iter().map(|(why, number)| (why, (number, None))).collect() }
    }

    /// Looks at the counters. Call it every few seconds.
    pub fn look(&mut self, fast: &FastPath, now: Time) {
        for (why, number) in fast.view().noted {
            let (said, at) = self.said.get(&why).copied().unwrap_or_default();
            if number > said && at.is_none_or(|at| now - at >= SAID_AGAIN) {
                log::warn!("{} packets, {why}: {}", number - said, fastpath::meaning(&why));
                self.said.insert(why, (number, Some(now)));
            }
        }
    }
}

/// Bypasses the fast path for a watcher who wants to see all packets, and notes what was carried, so that bindings say
/// what is true now.
pub fn sync_counts(fast: &FastPath, taps: &Taps, nat: &Nat, now: Time) {
    fast.bypass(taps.bypass_fast_path(), nat, now);
    fast.sync_counts(nat, now);
}
