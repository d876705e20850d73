//! From a draft to a checked configuration.

use super::draft::{Draft, InsideDraft, Located, PinDraft, PoolDraft};
use super::problem::{Place, Problem, Wrong};
use super::{Config, DEFAULT_CONTROL, DEFAULT_STATE_DIR, DEFAULT_TUN, FastPath, HistorySettings, Inside, Pinning};
use crate::nat::{
    Alg, AlgSettings, CallbackPolicy, CreationLimit, InboundRefresh, InsideNumber, Lifetimes, Policy, PoolKind,
    PoolSettings,
};
use crate::wire::{Address, AddressRange};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// The longest path of a socket: `sun_path` less the final zero (unix(7)).
pub const MOST_SOCKET_PATH: usize = 107;
/// The longest name a Linux interface can have (`IFNAMSIZ` less the final zero).
const MOST_NAME: usize = 15;
/// The longest base name of the TUN devices: a suffix such as `-in15` is still to follow.
const MOST_TUN: usize = 10;
/// Longer than any pause between the packets of a busy link.
const MOST_BUSY_POLL: Duration = Duration::from_millis(10);
/// The highest number of a processor that the kernel's sets have room for.
const LAST_PROCESSOR: i64 = 1023;
/// More workers than any machine this is meant for has cores.
const MOST_WORKERS: i64 = 256;
/// The least segment size that leaves room for data beside all headers and options (RFC 791: every host takes 68 bytes).
const LEAST_MSS: i64 = 88;
/// The largest that the field can say.
const MOST_MSS: i64 = 65_535;
/// Flows of the fast path unless told otherwise, and the most that can be asked for.
const FLOWS: u32 = 262_144;
const MOST_FLOWS: i64 = 1 << 24;
/// The longest prefix that can be translated without memory: behind it a 16-bit word must be free (RFC 6296 §3.5).
const MOST_TRANSLATED: u8 = 64;
/// The longest name of a group (`LOGIN_NAME_MAX` and the like).
const MOST_GROUP: usize = 32;
/// Bindings that an IPv6 prefix may hold unless told otherwise: of addresses it has more than any memory.
const PER_PREFIX_V6: u32 = 65_536;
/// Bindings of an inside that may wait for their first answer at one time unless told otherwise.
const UNANSWERED: u32 = 16_384;
/// Time between two syncs of the state file.
const SYNC_INTERVAL: Duration = Duration::from_millis(100);
/// The longest: more would be asking to lose bindings.
const LONGEST_SYNC_INTERVAL: Duration = Duration::from_secs(60);
/// How long the history is kept unless told otherwise, and what can be asked for.
const HISTORY: Duration = Duration::from_secs(180 * 86_400);
const LEAST_HISTORY: Duration = Duration::from_secs(3600);
const MOST_HISTORY: Duration = Duration::from_secs(3650 * 86_400);
/// Entries of the history unless told otherwise (140 MB of IPv4, 220 MB of IPv6), and what can be asked for.
const ENTRIES: u32 = 1_000_000;
const LEAST_ENTRIES: i64 = 1000;
const MOST_ENTRIES: i64 = 1_000_000_000;
/// Name of the inside realm that was not given one.
const INSIDE: &str = "inside";
/// The longest name of an inside realm.
const MOST_INSIDE: usize = 32;

impl Draft {
    /// Checks everything; says all that is wrong, not only the first.
    pub fn check(&self) -> Result<Config, Vec<Problem>> {
        let mut problems = Problems(Vec::new());
        if self.inside.is_empty() && self.insides.is_empty() {
            problems.add(Place::Missing, Wrong::NoInside);
        }
        let outsides = self.outsides(&mut problems);
        let pools = self.pools(&mut problems);
        let insides = self.insides(&pools, &mut problems);
        let exempt = self.exempt(&pools, &mut problems);
        let callback = self.callback.as_ref().and_then(|words| problems.take(words.place, policy(&words.value)));
        let lifetimes = self.lifetimes(&mut problems);
        let creation = self.creation(&mut problems);
        let mss = self.number("mss", LEAST_MSS, MOST_MSS, &mut problems).and_then(|mss| u16::try_from(mss).ok());
        let alg = self.alg(&mut problems);
        let flows = self.number("fast-path-flows", 1, MOST_FLOWS, &mut problems);
        let flows = flows.unwrap_or(FLOWS);
        let metrics = self.metrics.as_ref().and_then(|text| problems.take(text.place, loopback(&text.value)));
        let workers = self.workers.as_ref().and_then(|workers| {
            problems.take(workers.place, number("workers", workers.value, 1, MOST_WORKERS)).and_then(NonZeroUsize::new)
        });
        let busy_poll = self.busy_poll.as_ref().and_then(|text| problems.take(text.place, busy_poll(&text.value)));
        let pin = self.pin.as_ref().and_then(|draft| problems.take(draft.place, pin(&draft.value)));
        let tun = self.tun.as_ref().map_or(DEFAULT_TUN, |tun| &tun.value).to_owned();
        if !is_tun_name(&tun) {
            problems.add(self.tun.as_ref().map_or(Place::Missing, |tun| tun.place), Wrong::TunName(tun.clone()));
        }
        let control_group = self.control_group(&mut problems);
        let control = path("control", self.control.as_ref(), DEFAULT_CONTROL, &mut problems);
        let state_dir = path("state-dir", self.state_dir.as_ref(), DEFAULT_STATE_DIR, &mut problems);
        if let Some(given) = self.control.as_ref().filter(|given| given.value.len() > MOST_SOCKET_PATH) {
            problems.add(given.place, Wrong::SocketPath(given.value.clone()));
        }
        let sync_interval = self.sync_interval(&mut problems);
        let history = self.history(&mut problems);
        problems.0.sort_by_key(|problem| problem.place);
        if !problems.0.is_empty() {
            return Err(problems.0);
        }
        Ok(Config {
            insides,
            outsides,
            pools,
            exempt,
            policy: Policy {
                callback: callback.unwrap_or_default(),
                lifetimes,
                creation,
                exhausted: self.exhausted.unwrap_or_default(),
                hairpin: self.hairpin.unwrap_or_default(),
                inbound_refresh: match self.inbound_refresh {
                    Some(true) => InboundRefresh::Refreshes,
                    _ => InboundRefresh::Ignored,
                },
                unsolicited: self.unsolicited.unwrap_or_default(),
                mss,
                mptcp: self.mptcp.unwrap_or_default(),
                alg,
            },
            control,
            metrics,
            control_group,
            state_dir,
            durability: self.durability.unwrap_or_default(),
            when_disk_fails: self.when_disk_fails.unwrap_or_default(),
            sync_interval,
            history,
            workers,
            busy_poll: busy_poll.unwrap_or_default(),
            pin: pin.unwrap_or_default(),
            tun,
            offload: self.offload,
            log_format: self.log_format.unwrap_or_default(),
            log_terminals: self.log_terminals.unwrap_or_default(),
            hardening: self.hardening,
            on_stop: self.on_stop.unwrap_or_default(),
            fast_path: FastPath { mode: self.fast_path.unwrap_or_default(), hook: self.fast_path_hook, flows },
        })
    }

    fn control_group(&self, problems: &mut Problems) -> Option<String> {
        let group = self.control_group.as_ref()?;
        if !is_group_name(&group.value) {
            problems.add(group.place, Wrong::GroupName(group.value.clone()));
        }
        Some(group.value.clone())
    }

    /// The inside without a name first, then the others in their order.
    fn insides(&self, pools: &[PoolSettings], problems: &mut Problems) -> Vec<Inside> {
        let unnamed = InsideDraft {
            name: Located { value: INSIDE.to_owned(), place: self.inside.first().map_or(Place::Missing, |i| i.place) },
            interfaces: self.inside.clone(),
            prefixes: self.inside_prefixes.clone(),
        };
        let unnamed = (!self.inside.is_empty()).then_some(unnamed);
        if let (None, Some(first)) = (&unnamed, self.inside_prefixes.first()) {
            problems.add(first.place, Wrong::PrefixesOfNoInside);
        }
        let mut insides: Vec<Inside> = Vec::new();
        let mut seen: HashMap<&str, &str> = HashMap::new();
        for draft in unnamed.iter().chain(&self.insides) {
            let name = &draft.name.value;
            if !is_inside_name(name) {
                problems.add(draft.name.place, Wrong::InsideName(name.clone()));
            } else if insides.iter().any(|other| other.name == *name) {
                problems.add(draft.name.place, Wrong::InsideNameTwice(name.clone()));
            }
            if draft.interfaces.is_empty() {
                problems.add(draft.name.place, Wrong::InsideWithoutInterface(name.clone()));
            }
            for interface in &draft.interfaces {
                if !is_interface_name(&interface.value) {
                    problems.add(interface.place, Wrong::InterfaceName(interface.value.clone()));
                }
                match seen.insert(&interface.value, name) {
                    None => {}
                    Some(first) if first == name => {
                        problems.add(interface.place, Wrong::InterfaceTwice(interface.value.clone()));
                    }
                    Some(first) => {
                        let (interface_name, first) = (interface.value.clone(), first.to_owned());
                        let wrong = Wrong::InterfaceInTwoInsides { interface: interface_name, first };
                        problems.add(interface.place, wrong);
                    }
                }
            }
            insides.push(Inside {
                name: name.clone(),
                interfaces: draft.interfaces.iter().map(|interface| interface.value.clone()).collect(),
                prefixes: inside_prefixes(&draft.prefixes, pools, problems),
            });
        }
        insides
    }

    fn outsides(&self, problems: &mut Problems) -> Vec<String> {
        if self.outside.is_empty() {
            problems.add(Place::Missing, Wrong::NoOutside);
        }
        let inside = |name: &String| {
            let named = self.insides.iter().flat_map(|inside| &inside.interfaces);
            self.inside.iter().chain(named).any(|interface| interface.value == *name)
        };
        let mut names: Vec<String> = Vec::new();
        for Located { value: name, place } in &self.outside {
            if !is_interface_name(name) {
                problems.add(*place, Wrong::InterfaceName(name.clone()));
            }
            if inside(name) {
                problems.add(*place, Wrong::InterfaceInBoth(name.clone()));
            } else if names.contains(name) {
                problems.add(*place, Wrong::InterfaceTwice(name.clone()));
            }
            names.push(name.clone());
        }
        names
    }

    fn exempt(&self, pools: &[PoolSettings], problems: &mut Problems) -> Vec<IpNet> {
        let mut exempt = Vec::new();
        for text in &self.exempt {
            let Some(net) = problems.take(text.place, prefix(&text.value)) else { continue };
            let is_of_it = |pool: &PoolSettings| pool.range.is_v4() == net.addr().is_ipv4();
            if net.prefix_len() == 0 && pools.iter().any(is_of_it) {
                problems.add(text.place, Wrong::ExemptAll(net.to_string()));
            } else if let Some(pool) = pools.iter().find(|pool| is_of_it(pool) && pool.range.overlaps(&net.into())) {
                let wrong = Wrong::ExemptIsPool { prefix: net.to_string(), range: pool.range.to_string() };
                problems.add(text.place, wrong);
            }
            exempt.push(net);
        }
        IpNet::aggregate(&exempt)
    }

    fn pools(&self, problems: &mut Problems) -> Vec<PoolSettings> {
        if self.pools.is_empty() {
            problems.add(Place::Missing, Wrong::NoPool);
        }
        let mut pools: Vec<PoolSettings> = Vec::new();
        for draft in &self.pools {
            let Some(pool) = pool(draft, problems) else { continue };
            if let Some(other) = pools.iter().find(|other| other.range.overlaps(&pool.range)) {
                let wrong = Wrong::PoolsOverlap(pool.range.to_string(), other.range.to_string());
                problems.add(draft.range.place, wrong);
            } else if pools.iter().any(|other| other.name == pool.name) {
                let place = draft.name.as_ref().map_or(draft.range.place, |name| name.place);
                problems.add(place, Wrong::PoolNameTwice(pool.name.clone()));
            }
            for (prefix, text) in pool.destinations.iter().zip(&draft.destinations) {
                // Pools with the same list are one pool of several ranges; a partly shared list is a contradiction.
                let rival = pools
                    .iter()
                    .find(|other| other.destinations != pool.destinations && other.destinations.contains(prefix));
                if let Some(rival) = rival {
                    let (prefix, first) = (prefix.to_string(), rival.name.clone());
                    problems.add(text.place, Wrong::DestinationTwice { prefix, first });
                }
            }
            pools.push(pool);
        }
        pools
    }

    fn lifetimes(&self, problems: &mut Problems) -> Lifetimes {
        let mut lifetimes = Lifetimes::default();
        for (key, text) in &self.lifetimes {
            let Ok(value) = humantime::parse_duration(&text.value) else {
                problems.add(text.place, Wrong::Duration { key, value: text.value.clone() });
                continue;
            };
            let (field, least, source) = match *key {
                "hold" => (&mut lifetimes.hold, 7440, "RFC 5382 REQ-5"),
                "unanswered" => (&mut lifetimes.unanswered, 240, "RFC 5382 REQ-5"),
                "quarantine" => (&mut lifetimes.quarantine, 120, "RFC 6888 REQ-8"),
                "dormant" => (&mut lifetimes.dormant, 1, "a binding must be dormant for some time"),
                _ => (&mut lifetimes.contact, 120, "RFC 4787 REQ-5"),
            };
            if value < Duration::from_secs(least) {
                let least = humantime::format_duration(Duration::from_secs(least)).to_string();
                let wrong = Wrong::TooShort { key, value: text.value.clone(), least, source_: source };
                problems.add(text.place, wrong);
            }
            *field = value;
        }
        if let Some(most) = self.number("contacts-per-binding", 1, 65_536, problems) {
            lifetimes.contacts_per_binding = most;
        }
        lifetimes
    }

    fn sync_interval(&self, problems: &mut Problems) -> Duration {
        let Some(text) = &self.sync_interval else { return SYNC_INTERVAL };
        let sensible = |interval: &Duration| (Duration::from_millis(1)..=LONGEST_SYNC_INTERVAL).contains(interval);
        match humantime::parse_duration(&text.value).ok().filter(sensible) {
            Some(interval) => interval,
            None => {
                problems.add(text.place, Wrong::SyncInterval(text.value.clone()));
                SYNC_INTERVAL
            }
        }
    }

    fn history(&self, problems: &mut Problems) -> Option<HistorySettings> {
        let entries = self.number("history-entries", LEAST_ENTRIES, MOST_ENTRIES, problems).unwrap_or(ENTRIES).into();
        let Some(text) = &self.history else { return Some(HistorySettings { keep: HISTORY, entries }) };
        if text.value == "0" {
            return None;
        }
        let sensible = |keep: &Duration| (LEAST_HISTORY..=MOST_HISTORY).contains(keep);
        let keep = humantime::parse_duration(&text.value).ok().filter(sensible);
        if keep.is_none() {
            problems.add(text.place, Wrong::History(text.value.clone()));
        }
        keep.map(|keep| HistorySettings { keep, entries })
    }

    fn creation(&self, problems: &mut Problems) -> CreationLimit {
        let default = CreationLimit::default();
        let bits = |value: Option<u32>, default| value.and_then(|bits| u8::try_from(bits).ok()).unwrap_or(default);
        let per_prefix = self.number("per-prefix", 1, 1 << 32, problems);
        CreationLimit {
            per_second: self.number("per-second", 1, 10_000_000, problems).unwrap_or(default.per_second),
            burst: self.number("burst", 1, 10_000_000, problems).unwrap_or(default.burst),
            prefix_v4: bits(self.number("prefix-v4", 0, 32, problems), default.prefix_v4),
            prefix_v6: bits(self.number("prefix-v6", 0, 128, problems), default.prefix_v6),
            per_prefix,
            per_prefix_v6: per_prefix.or(Some(PER_PREFIX_V6)),
            total: self.number("total", 1, 1 << 32, problems).map(u64::from).or(default.total),
            unanswered: self.number("unanswered", 16, 1 << 32, problems).or(Some(UNANSWERED)),
        }
    }

    fn alg(&self, problems: &mut Problems) -> Vec<AlgSettings> {
        let mut all: Vec<AlgSettings> = Vec::new();
        for text in &self.alg {
            let Some(one) = problems.take(text.place, alg(&text.value)) else { continue };
            if all.iter().any(|other| other.port == one.port) {
                problems.add(text.place, Wrong::AlgPortTwice(one.port));
            }
            all.push(one);
        }
        all
    }

    fn number(&self, key: &'static str, least: i64, most: i64, problems: &mut Problems) -> Option<u32> {
        let (_, given) = self.numbers.iter().find(|(name, _)| *name == key)?;
        let value = problems.take(given.place, number(key, given.value, least, most))?;
        u32::try_from(value).ok()
    }
}

fn inside_prefixes(texts: &[Located<String>], pools: &[PoolSettings], problems: &mut Problems) -> Vec<IpNet> {
    let mut prefixes = Vec::new();
    for text in texts {
        let Some(net) = problems.take(text.place, prefix(&text.value)) else { continue };
        if let Some(pool) = pools.iter().find(|pool| pool.range.overlaps(&net.into())) {
            let wrong = Wrong::InsideIsPool { prefix: net.to_string(), range: pool.range.to_string() };
            problems.add(text.place, wrong);
        }
        prefixes.push(net);
    }
    prefixes
}

/// The addresses of an IPv4 range that end in .0 or .255.
fn network_addresses(range: &AddressRange) -> impl Iterator<Item = IpAddr> {
    let bits = |address: Address| u32::try_from(address.bits() & u128::from(u32::MAX)).unwrap_or(u32::MAX);
    let (first, last) = (bits(range.first()), bits(range.last()));
    let networks = if range.is_v4() { first >> 8..(last >> 8) + 1 } else { 0..0 };
    let ends = networks.flat_map(|network| [network << 8, network << 8 | 0xff]);
    ends.filter(move |address| (first..=last).contains(address)).map(|address| Ipv4Addr::from(address).into())
}

fn pool(draft: &PoolDraft, problems: &mut Problems) -> Option<PoolSettings> {
    let range: AddressRange = problems.take(draft.range.place, draft.range.value.parse().map_err(Wrong::Range))?;
    problems.take(draft.range.place, sensible(&range));
    let destinations: Vec<IpNet> =
        draft.destinations.iter().filter_map(|text| problems.take(text.place, prefix(&text.value))).collect();
    for (destination, text) in destinations.iter().zip(&draft.destinations) {
        if destination.addr().is_ipv4() != range.is_v4() {
            let (prefix, range) = (destination.to_string(), range.to_string());
            problems.add(text.place, Wrong::DestinationFamily { prefix, range });
        }
    }
    let mut reserved = Vec::new();
    for text in &draft.reserved {
        match text.value.parse::<IpAddr>() {
            Ok(address) if range.contains(address.into()) => reserved.push(address),
            _ => problems.add(text.place, Wrong::ReservedElsewhere(text.value.clone())),
        }
    }
    if draft.skip_network_addresses {
        reserved.extend(network_addresses(&range));
        reserved.sort_unstable();
        reserved.dedup();
    }
    if range.size() <= reserved.len() as u128 {
        problems.add(draft.range.place, Wrong::PoolEmpty(range.to_string()));
    }
    let callback = draft.callback.as_ref().and_then(|words| problems.take(words.place, policy(&words.value)));
    let name = draft.name.as_ref().map_or_else(|| range.to_string(), |name| name.value.clone());
    let kind = match &draft.translates {
        None => PoolKind::Bindings,
        Some(text) => problems.take(text.place, translated(&text.value, &range))?,
    };
    Some(PoolSettings { name, range, reserved, destinations, callback, draining: draft.draining, kind })
}

/// The terminals' prefix that `range` is to stand for (RFC 6296).
fn translated(text: &str, range: &AddressRange) -> Result<PoolKind, Wrong> {
    let wrong = || Wrong::Translates { prefix: text.to_owned(), range: range.to_string() };
    let short = |net: &ipnet::Ipv6Net| net.prefix_len() <= MOST_TRANSLATED;
    match (prefix(text)?, range.prefixes().as_slice()) {
        (IpNet::V6(internal), [IpNet::V6(external)]) if short(&internal) && short(external) => {
            Ok(PoolKind::Prefix { internal, inside: InsideNumber::new(0) })
        }
        _ => Err(wrong()),
    }
}

/// Whether hosts can have the addresses of a pool (RFC 6890, RFC 4291).
fn sensible(range: &AddressRange) -> Result<(), Wrong> {
    let large = if range.is_v4() { range.size() > 1 << 24 } else { range.size() > 1 << 96 };
    if large {
        return Err(Wrong::PoolTooLarge { range: range.to_string() });
    }
    let special: &[(&str, &str)] = if range.is_v4() {
        &[
            ("0.0.0.0/8", "\"this network\" (0.0.0.0/8)"),
            ("127.0.0.0/8", "loopback (127.0.0.0/8)"),
            ("169.254.0.0/16", "link-local addresses (169.254.0.0/16)"),
            ("224.0.0.0-255.255.255.255", "multicast, reserved or broadcast addresses (224.0.0.0 and up)"),
        ]
    } else {
        &[
            ("::-1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "addresses outside 2000::/3 and fc00::/7"),
            ("4000::-fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "addresses outside 2000::/3 and fc00::/7"),
            ("fe00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link-local, multicast or reserved addresses"),
        ]
    };
    for (text, what) in special {
        if text.parse().is_ok_and(|special: AddressRange| special.overlaps(range)) {
            return Err(Wrong::PoolSpecial { range: range.to_string(), what });
        }
    }
    Ok(())
}

fn prefix(text: &str) -> Result<IpNet, Wrong> {
    let net: IpNet = match (text.parse(), text.parse::<IpAddr>()) {
        (Ok(net), _) => net,
        (_, Ok(address)) => address.into(),
        _ => return Err(Wrong::Prefix(text.to_owned())),
    };
    if net.addr() == net.network() { Ok(net) } else { Err(Wrong::HostBits(text.to_owned(), net.trunc().to_string())) }
}

/// A callback policy as it is written: one word, or prefixes.
///
/// # Errors
/// [`Wrong::Callback`] or [`Wrong::HostBits`].
pub fn policy(words: &[String]) -> Result<CallbackPolicy, Wrong> {
    match words {
        [word] if word == "contacted" => Ok(CallbackPolicy::Contacted),
        [word] if word == "answered" => Ok(CallbackPolicy::Answered),
        [word] if word == "anyone" => Ok(CallbackPolicy::Anyone),
        [] => Err(Wrong::Callback(String::new())),
        _ => words
            .iter()
            .map(|word| match prefix(word.trim()) {
                Err(Wrong::Prefix(word)) => Err(Wrong::Callback(word)),
                other => other,
            })
            .collect::<Result<_, _>>()
            .map(CallbackPolicy::Prefixes),
    }
}

/// `ftp`, or with a port `ftp:2121`.
fn alg(text: &str) -> Result<AlgSettings, Wrong> {
    let wrong = || Wrong::Alg(text.to_owned());
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let alg = *Alg::ALL.iter().find(|alg| alg.name() == name).ok_or_else(wrong)?;
    let port = match port {
        None => alg.port(),
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?,
    };
    Ok(AlgSettings { alg, port })
}

fn number(key: &'static str, value: i64, least: i64, most: i64) -> Result<usize, Wrong> {
    let wrong = Wrong::OutOfRange { key, value, least, most };
    if (least..=most).contains(&value) { usize::try_from(value).map_err(|_| wrong) } else { Err(wrong) }
}

fn busy_poll(text: &str) -> Result<Duration, Wrong> {
    let key = "busy-poll";
    let value = || text.to_owned();
    match humantime::parse_duration(text) {
        Ok(time) if time <= MOST_BUSY_POLL => Ok(time),
        Ok(_) => {
            Err(Wrong::TooLong { key, value: value(), most: humantime::format_duration(MOST_BUSY_POLL).to_string() })
        }
        Err(_) => Err(Wrong::Duration { key, value: value() }),
    }
}

fn pin(draft: &PinDraft) -> Result<Pinning, Wrong> {
    match draft {
        PinDraft::Whether(true) => Ok(Pinning::Each),
        PinDraft::Whether(false) => Ok(Pinning::No),
        PinDraft::To(list) if list.is_empty() => Err(Wrong::PinToNone),
        PinDraft::To(list) => {
            list.iter().map(|cpu| number("pin", *cpu, 0, LAST_PROCESSOR)).collect::<Result<_, _>>().map(Pinning::To)
        }
    }
}

/// Metrics have no password: nobody but this machine may ask.
fn loopback(text: &str) -> Result<SocketAddr, Wrong> {
    let address: Option<SocketAddr> = text.parse().ok();
    address.filter(|address| address.ip().is_loopback() && address.port() != 0).ok_or(Wrong::Metrics(text.to_owned()))
}

fn is_interface_name(name: &str) -> bool {
    (1..=MOST_NAME).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'))
}

/// Whether an inside can have this name.
pub fn is_inside_name(name: &str) -> bool {
    (1..=MOST_INSIDE).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn is_tun_name(name: &str) -> bool {
    (1..=MOST_TUN).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && name.bytes().any(|byte| byte.is_ascii_alphanumeric())
}

/// What useradd(8) takes, or a number.
pub fn is_group_name(name: &str) -> bool {
    (1..=MOST_GROUP).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'$'))
        && !name.starts_with('-')
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, place: Place, wrong: Wrong) {
        self.0.push(Problem { place, wrong });
    }

    fn take<T>(&mut self, place: Place, result: Result<T, Wrong>) -> Option<T> {
        result.map_err(|wrong| self.add(place, wrong)).ok()
    }
}

fn path(key: &'static str, given: Option<&Located<String>>, default: &str, problems: &mut Problems) -> PathBuf {
    let path = PathBuf::from(given.map_or(default, |path| &path.value));
    if let Some(given) = given.filter(|_| !path.is_absolute()) {
        problems.add(given.place, Wrong::RelativePath { key, value: given.value.clone() });
    }
    path
}
