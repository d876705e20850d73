//! Likely reasons why a test stops where it stops, each with what to do, the likeliest first.

use super::ground;
use super::scene::{Cast, Scene};
use crate::config::Draft;
use crate::control::{PacketLine, Status};
use crate::doctor::{Grade, examine};
use crate::nat::DropReason;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Where no route leads outside.
pub const NO_ROUTE: &str =
    "a route to the peers is missing, or leads elsewhere; `ip route`, or another peer: --peer ADDRESS";

/// What a drop reason means, in words.
pub fn reason(name: &str) -> String {
    let known = DropReason::ALL.iter().find(|known| known.name() == name);
    known.map_or_else(|| name.to_owned(), |known| format!("{name}: {}", known.explain()))
}

/// What the gateway and its programs have dropped, by reason.
pub fn dropped(status: &Status) -> BTreeMap<String, u64> {
    let noted = &status.gateway.fast_path.noted;
    status.nat.drops.iter().chain(noted).map(|(reason, count)| (reason.clone(), *count)).collect()
}

/// No address is free for the terminal.
pub fn no_address(interface: &str, is_v4: bool) -> Vec<String> {
    if ground::prefixes(interface, is_v4).is_empty() {
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        return vec![format!(
            "{interface} has no {family} address and no {family} route, so terminals there are not this gateway's: give it one, \
             or name a terminal's address with --address"
        )];
    }
    vec!["the network is full, or as small as a point-to-point link's; name an address that is not in use: --address ADDRESS".to_owned()]
}

/// No address is free for the peer.
pub fn no_peer() -> Vec<String> {
    vec!["name a destination that nobody uses just now: --peer ADDRESS".to_owned()]
}

/// What the kernel's word for a packet that it would not forward means.
pub fn not_forwarded(words: &str, interface: &str) -> Vec<String> {
    let why = match words {
        "No route to host" => format!(
            "forwarding is off at {interface}, or a route of the kind `unreachable` takes the packet; \
             sysctl net.ipv4.conf.{interface}.forwarding"
        ),
        "Invalid cross-device link" => {
            format!(
                "the reverse-path filter: the way back does not lead by {interface}; `ip route`, or rp_filter = 2 there"
            )
        }
        "Network is unreachable" => NO_ROUTE.to_owned(),
        "Permission denied" | "Invalid argument" => {
            "a route of the kind `prohibit` or `blackhole` takes the packet; another peer: --peer ADDRESS".to_owned()
        }
        _ => NO_ROUTE.to_owned(),
    };
    vec![why]
}

/// The call has not come to the gateway.
pub fn not_arrived(scene: &Scene<'_>, cast: &Cast, interface: &str) -> Vec<String> {
    let mut why = Vec::new();
    let (next, outside) = (cast.way.router.unwrap_or(cast.peer), &cast.way.interface);
    if let Some(router) = cast.way.router.filter(|_| ground::is_found(next, outside) == Some(false)) {
        why.push(format!("the router {router} does not answer at {outside}: is it up, and the cable in?"));
    }
    why.extend(findings(scene));
    why.extend(counted(scene, cast));
    if why.is_empty() {
        why.push(format!(
            "a rule of this machine's firewall, a policy rule or a program at tc takes it between {interface} and {outside}; \
             kamei doctor --config FILE"
        ));
    }
    why
}

/// It is translated, but has not come out.
pub fn not_left(scene: &Scene<'_>, outside: &str) -> Vec<String> {
    let mut why = findings(scene);
    if why.is_empty() {
        why.push(format!(
            "a program of others at tc takes it at {outside}; tc filter show dev {outside} egress, bpftool net"
        ));
    }
    why
}

/// The answer has not come to the terminal.
pub fn not_inside(scene: &Scene<'_>, cast: &Cast, interface: &str, lines: &[PacketLine]) -> Vec<String> {
    let mut why = Vec::new();
    let inward = || lines.iter().filter(|line| line.from == "outside");
    if let Some(reason) = inward().find_map(|line| line.reason.as_ref()) {
        why.push(format!("the gateway drops it: {}", self::reason(reason)));
        return why;
    }
    if inward().next().is_none() {
        why.push(format!(
            "it has not come to the gateway: a rule before it takes it at {} (an nftables table of the kind netdev, XDP, tc)",
            cast.way.interface
        ));
    }
    if let Some(back) = way_back(cast, interface) {
        why.push(back);
    }
    why.extend(findings(scene));
    if why.is_empty() {
        why.push(
            "the firewall's rule for answers: ct state established,related accept; kamei doctor --config FILE"
                .to_owned(),
        );
    }
    why
}

/// The callback has not come to the terminal.
pub fn no_callback(scene: &Scene<'_>, cast: &Cast, virtual_ip: IpAddr, lines: &[PacketLine]) -> Vec<String> {
    if let Some(reason) = lines.iter().find_map(|line| line.reason.as_ref()) {
        let mut why = vec![format!("the gateway drops it: {}", self::reason(reason))];
        let asked = scene.client.explain(&scene.question(cast.peer, virtual_ip, Some("outside")));
        why.extend(asked.ok().and_then(|explanation| explanation.hint).map(|hint| format!("{hint}.")));
        return why;
    }
    let mut why = findings(scene);
    if why.is_empty() {
        why.push(format!(
            "the firewall has no rule for callbacks: accept what comes in by {} and goes out by the inside; kamei doctor --config FILE",
            cast.way.interface
        ));
    }
    why
}

/// Where the way to the terminal does not lead back.
fn way_back(cast: &Cast, interface: &str) -> Option<String> {
    match ground::way(cast.peer, cast.terminal, &cast.way.interface) {
        Ok(way) if way.interface == interface => None,
        Ok(way) => {
            Some(format!("the way to {} leads by {}, not {interface}; `ip route`", cast.terminal, way.interface))
        }
        Err(words) => Some(format!("the kernel forwards nothing to {}: {words}", cast.terminal)),
    }
}

/// What the gateway's counters say that has grown during the test.
fn counted(scene: &Scene<'_>, cast: &Cast) -> Vec<String> {
    let Ok(status) = scene.client.status() else { return vec!["the gateway has stopped".to_owned()] };
    let grown = dropped(&status)
        .into_iter()
        .filter(|(reason, now)| cast.dropped.get(reason).is_some_and(|before| now > before));
    grown.map(|(name, _)| format!("packets were dropped meanwhile: {}", reason(&name))).collect()
}

/// What `kamei doctor` finds wrong.
pub fn findings(scene: &Scene<'_>) -> Vec<String> {
    let names = |names: &[String]| names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let gateway = &scene.status.gateway;
    let mut text = format!("inside = [{}]\noutside = [{}]\n", names(&gateway.insides), names(&gateway.outsides));
    text.push_str(&format!("tun = {:?}\n", gateway.tun));
    for pool in &scene.status.nat.pools {
        text.push_str(&format!("[[pool]]\nrange = \"{}\"\n", pool.range));
    }
    let config = Draft::parse(&text).ok().and_then(|draft| draft.check().ok());
    let wrong = config.map(|config| examine(Some(&config), None)).unwrap_or_default();
    wrong.into_iter().filter(|finding| finding.grade == Grade::Wrong).map(|finding| finding.text).collect()
}
