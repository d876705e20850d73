//! What the host says of its interfaces, routes and neighbours, by `ip`; and addresses there that nobody has.

use crate::fastpath::Port;
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often something is looked at that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// So long the kernel is given to find a neighbour; it asks once a second, and who is there answers the first time.
const NEIGHBOUR_TIME: Duration = Duration::from_millis(700);
/// Addresses that are tried until one is free.
const TRIES: usize = 8;
/// Prefixes of one interface that are looked at.
const PREFIXES: usize = 64;

/// For documentation (RFC 5737, RFC 3849): nobody has such an address.
const NOBODYS: [&str; 4] = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"];

#[derive(Deserialize)]
struct Link {
    ifindex: u32,
    #[serde(default)]
    link_type: String,
    address: Option<String>,
}

#[derive(Deserialize)]
struct Addresses {
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    local: Option<IpAddr>,
    #[serde(default)]
    prefixlen: u8,
    #[serde(default)]
    scope: String,
}

#[derive(Deserialize)]
struct Neighbour {
    dst: IpAddr,
    #[serde(default)]
    state: Vec<String>,
}

#[derive(Deserialize)]
struct RouteLine {
    dst: Option<String>,
    gateway: Option<IpAddr>,
    dev: Option<String>,
}

/// Where a packet would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The interface that it would leave by.
    pub interface: String,
    /// The router that it would go to; `None`: it is for a neighbour.
    pub router: Option<IpAddr>,
}

/// An interface of this network namespace.
pub fn port(name: &str) -> Result<Port, String> {
    let links: Vec<Link> = read(&["link", "show", "dev", name])?;
    let link = links.into_iter().next().ok_or_else(|| format!("there is no interface {name}"))?;
    let hardware = (link.link_type == "ether").then(|| link.address.as_deref().and_then(hardware)).flatten();
    Ok(Port { name: name.to_owned(), index: link.ifindex, hardware })
}

/// The way of a packet that comes in by `from`, as the routing tables have it, or what the kernel says instead.
pub fn way(source: IpAddr, destination: IpAddr, from: &str) -> Result<Way, String> {
    let (source, destination) = (source.to_string(), destination.to_string());
    let routes: Vec<RouteLine> = read(&["route", "get", &destination, "from", &source, "iif", from])?;
    let route = routes.into_iter().next().ok_or("no answer")?;
    Ok(Way { interface: route.dev.unwrap_or_default(), router: route.gateway })
}

/// The prefixes behind an interface: those of its own addresses first, then those that are routed by it.
pub fn prefixes(name: &str, is_v4: bool) -> Vec<IpNet> {
    let own: Vec<Addresses> = read(&["address", "show", "dev", name]).unwrap_or_default();
    let own = own.into_iter().flat_map(|each| each.addr_info).filter(|address| address.scope == "global");
    let own = own.filter_map(|address| IpNet::new(address.local?, address.prefixlen).ok());
    let family = if is_v4 { "-4" } else { "-6" };
    let routes: Vec<RouteLine> = read(&[family, "route", "show", "dev", name]).unwrap_or_default();
    let routed = routes.into_iter().filter(|route| route.gateway.is_some()).filter_map(|route| route.dst?.parse().ok());
    let all = own.chain(routed).map(|prefix: IpNet| prefix.trunc());
    all.filter(|prefix| prefix.addr().is_ipv4() == is_v4 && prefix.prefix_len() > 0).take(PREFIXES).collect()
}

/// An address behind this interface that nobody has, as far as can be found out; `fits` says what is wanted besides.
pub fn free_behind(name: &str, is_v4: bool, fits: &mut dyn FnMut(IpAddr) -> bool) -> Option<IpAddr> {
    let known = neighbours(name);
    let own = own_addresses();
    for prefix in prefixes(name, is_v4) {
        let candidates =
            candidates(prefix, random()).filter(|address| !known.contains(address) && !own.contains(address));
        for address in candidates.take(TRIES) {
            if fits(address) && !is_answered(address, name) {
                return Some(address);
            }
        }
    }
    None
}

/// Addresses that are nobody's anywhere, in pairs; `own` are this machine's, which may have taken some of them.
pub fn nobodys(is_v4: bool, own: BTreeSet<IpAddr>) -> impl Iterator<Item = [IpAddr; 2]> {
    let prefixes = NOBODYS.iter().filter_map(|prefix| prefix.parse::<IpNet>().ok());
    prefixes.filter(move |prefix| prefix.addr().is_ipv4() == is_v4).filter_map(move |prefix| {
        let mut some = candidates(prefix, random()).filter(|address| !own.contains(address));
        Some([some.next()?, some.next()?])
    })
}

/// The addresses next to this one, the nearest first.
pub fn beside(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    (1..8_u8).map(move |step| match address {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() ^ u32::from(step)).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() ^ u128::from(step)).into()),
    })
}

/// Whether a host on the interface's LAN says that it has the address: the kernel is made to ask, as if it had a packet for it.
pub fn is_answered(address: IpAddr, name: &str) -> bool {
    let text = address.to_string();
    if run(&["neighbour", "replace", &text, "dev", name, "nud", "none", "use"]).is_err() {
        return false; // no interface with neighbours
    }
    let found = wait_until(NEIGHBOUR_TIME, || is_found(address, name) == Some(true));
    let _ = run(&["neighbour", "delete", &text, "dev", name]);
    found
}

/// Whether the neighbour has been found; `None` if nobody has looked.
pub fn is_found(address: IpAddr, name: &str) -> Option<bool> {
    let text = address.to_string();
    let neighbours: Vec<Neighbour> = read(&["neighbour", "show", &text, "dev", name]).unwrap_or_default();
    let state = &neighbours.iter().find(|neighbour| neighbour.dst == address)?.state;
    let is = |names: &[&str]| state.iter().any(|state| names.contains(&state.as_str()));
    if is(&["REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT", "NOARP"]) { Some(true) } else { Some(false) }
}

/// Takes back what the kernel has learnt of a host of the test.
pub fn forget_neighbour(address: IpAddr, name: &str) {
    let _ = run(&["neighbour", "delete", &address.to_string(), "dev", name]);
}

/// Removes a device of the test, if it is there.
pub fn forget_device(name: &str) {
    let _ = run(&["link", "delete", "dev", name]);
}

/// Has `ip` carry these lines out.
pub fn batch(lines: &str) -> io::Result<()> {
    let mut child = ip(&["-batch", "-"]).stdin(Stdio::piped()).spawn().map_err(no_ip)?;
    child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(lines.as_bytes()))?;
    let output = child.wait_with_output()?;
    if output.status.success() { Ok(()) } else { Err(io::Error::other(words(&output.stderr))) }
}

fn read<T: DeserializeOwned>(arguments: &[&str]) -> Result<T, String> {
    let text = run(&[&["-json"], arguments].concat())?;
    let text = if text.trim_ascii().is_empty() { b"[]".to_vec() } else { text };
    serde_json::from_slice(&text)
        .map_err(|error| format!("`ip {}` says what cannot be read: {error}", arguments.join(" ")))
}

fn run(arguments: &[&str]) -> Result<Vec<u8>, String> {
    let output = ip(arguments).stdin(Stdio::null()).output().map_err(|error| no_ip(error).to_string())?;
    if output.status.success() { Ok(output.stdout) } else { Err(words(&output.stderr)) }
}

fn ip(arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C");
    command
}

fn no_ip(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`ip` cannot be run ({error}); install iproute2"))
}

/// The first line, without the name of who says it.
fn words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().next().unwrap_or("ip failed").trim();
    line.trim_start_matches("RTNETLINK answers: ").trim_start_matches("Error: ").to_owned()
}

fn neighbours(name: &str) -> BTreeSet<IpAddr> {
    let all: Vec<Neighbour> = read(&["neighbour", "show", "dev", name]).unwrap_or_default();
    let there = |neighbour: &Neighbour| !neighbour.state.iter().any(|state| state == "FAILED");
    all.into_iter().filter(there).map(|neighbour| neighbour.dst).collect()
}

/// Waits until `condition` holds, for as long as `patience` says.
pub fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// All addresses of this machine.
pub fn own_addresses() -> BTreeSet<IpAddr> {
    let all: Vec<Addresses> = read(&["address", "show"]).unwrap_or_default();
    all.into_iter().flat_map(|each| each.addr_info).filter_map(|address| address.local).collect()
}

/// Addresses of a prefix that a host may have, from a place that `seed` says, each once, no more than a few hundred.
fn candidates(prefix: IpNet, seed: u64) -> impl Iterator<Item = IpAddr> {
    let bits = u32::from(prefix.max_prefix_len() - prefix.prefix_len());
    let room: u128 = if bits >= 64 { 1 << 64 } else { 1 << bits };
    // Its ends are the network's and the broadcast address, but where there are no others (RFC 3021, RFC 6164).
    let (first, many) = if bits <= 1 { (0, room) } else { (1, room - 2) };
    (0..many.min(256)).map(move |step| {
        let at = first + (u128::from(seed) + step) % many;
        match prefix.network() {
            IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() + u32::try_from(at).unwrap_or(0)).into(),
            IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() + at).into(),
        }
    })
}

fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| std::process::id().into())
}

fn hardware(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_hosts_of_the_prefix_each_once() {
        let all = |prefix: &str, seed| candidates(prefix.parse().unwrap(), seed).collect::<Vec<_>>();
        for seed in [0, 5, u64::MAX] {
            let some = all("10.0.0.0/29", seed);
            let set: BTreeSet<&IpAddr> = some.iter().collect();
            assert_eq!((some.len(), set.len()), (6, 6), "{some:?}");
            assert!(!some.contains(&"10.0.0.0".parse().unwrap()) && !some.contains(&"10.0.0.7".parse().unwrap()));
            assert_eq!(all("10.0.0.2/31", seed).len(), 2);
            assert_eq!(all("10.0.0.2/32", seed), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
            let v6 = all("2001:db8::/32", seed);
            assert!(v6.len() == 256 && v6.iter().all(|address| address.to_string().starts_with("2001:db8:")));
        }
    }

    #[test]
    fn nobodys_addresses_that_this_machine_has_are_left_out() {
        let own = (0..=255).filter(|last| ![7, 200].contains(last)).map(|last| Ipv4Addr::new(203, 0, 113, last).into());
        let pairs: Vec<[IpAddr; 2]> = nobodys(true, own.collect()).collect();
        let of_it = pairs.iter().find(|[one, _]| one.to_string().starts_with("203.")).unwrap();
        let mut last = of_it.map(|address| address.to_string());
        last.sort();
        assert_eq!(last, ["203.0.113.200", "203.0.113.7"]);
        assert_eq!(beside("203.0.113.0".parse().unwrap()).next(), "203.0.113.1".parse().ok());
    }

    #[test]
    fn hardware_addresses_are_six_bytes() {
        assert_eq!(hardware("02:00:00:00:0a:ff"), Some([2, 0, 0, 0, 10, 255]));
        for bad in ["", "02:00:00:00:0a", "02:00:00:00:0a:ff:01", "0x:00:00:00:00:00"] {
            assert_eq!(hardware(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_kernels_words_come_without_the_name_of_who_says_them() {
        assert_eq!(words(b"RTNETLINK answers: No route to host\nmore"), "No route to host");
        assert_eq!(words(b"Error: any valid prefix is expected.\n"), "any valid prefix is expected.");
        assert_eq!(words(b""), "ip failed");
    }
}
