//! What the operator wrote, as it was written, with the place of every value.

use super::mistakes::{self, line_of};
use super::problem::{Place, Problem};
use super::{
    Durability, FastPathHook, FastPathMode, Hardening, LogFormat, LogTerminals, Offload, OnStop, WhenDiskFails,
};
use crate::nat::{Exhausted, Hairpin, Multipath, Unsolicited};
use crate::wire::AddressRange;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::fmt;
use std::net::IpAddr;
use toml::Spanned;

/// The file with every key explained.
pub const EXAMPLE: &str = include_str!("../../scripts/packaging/gateway.toml");

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub place: Place,
}

/// Everything that can be configured, not yet checked. A list that is empty was not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// Interfaces of the inside that needs no name.
    pub inside: Vec<Located<String>>,
    /// Its prefixes beside those the kernel knows.
    pub inside_prefixes: Vec<Located<String>>,
    /// Insides with a name, each apart from the others.
    pub insides: Vec<InsideDraft>,
    /// Destinations that are not translated.
    pub exempt: Vec<Located<String>>,
    /// Outside interfaces.
    pub outside: Vec<Located<String>>,
    /// Pools.
    pub pools: Vec<PoolDraft>,
    /// Callback policy: one word, or prefixes.
    pub callback: Option<Located<Vec<String>>>,
    /// Answer when a pool is full.
    pub exhausted: Option<Exhausted>,
    /// Whether terminals may call each other's virtual IPs.
    pub hairpin: Option<Hairpin>,
    /// Whether packets from outside keep a binding alive.
    pub inbound_refresh: Option<bool>,
    /// Answer to a call that reaches nobody.
    pub unsolicited: Option<Unsolicited>,
    /// Whether terminals and peers may agree on Multipath TCP.
    pub mptcp: Option<Multipath>,
    /// Applications whose text is looked into.
    pub alg: Vec<Located<String>>,
    /// Control socket.
    pub control: Option<Located<String>>,
    /// Address and port of the metrics.
    pub metrics: Option<Located<String>>,
    /// Group that may look.
    pub control_group: Option<Located<String>>,
    /// State directory.
    pub state_dir: Option<Located<String>>,
    /// When the first packet of a binding may leave.
    pub durability: Option<Durability>,
    /// What becomes of new bindings while the state file cannot be written.
    pub when_disk_fails: Option<WhenDiskFails>,
    /// Time between two syncs of the state file.
    pub sync_interval: Option<Located<String>>,
    /// How long the history is kept.
    pub history: Option<Located<String>>,
    /// Workers.
    pub workers: Option<Located<i64>>,
    /// Time to look for packets before sleeping.
    pub busy_poll: Option<Located<String>>,
    /// Processors of the workers.
    pub pin: Option<Located<PinDraft>>,
    /// Base name of the TUN devices.
    pub tun: Option<Located<String>>,
    /// Offloads.
    pub offload: Offload,
    /// How the log is written.
    pub log_format: Option<LogFormat>,
    /// What it calls terminals.
    pub log_terminals: Option<LogTerminals>,
    /// Hardening.
    pub hardening: Hardening,
    /// What a stop leaves.
    pub on_stop: Option<OnStop>,
    /// Where packets of known flows are translated.
    pub fast_path: Option<FastPathMode>,
    /// At which hook of tc.
    pub fast_path_hook: Option<FastPathHook>,
    /// Times, by key.
    pub lifetimes: Vec<(&'static str, Located<String>)>,
    /// Numbers, by key.
    pub numbers: Vec<(&'static str, Located<i64>)>,
}

/// An inside realm, not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsideDraft {
    /// Its name.
    pub name: Located<String>,
    /// Its interfaces.
    pub interfaces: Vec<Located<String>>,
    /// Its prefixes beside those the kernel knows.
    pub prefixes: Vec<Located<String>>,
}

/// A pool, not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolDraft {
    /// Its addresses.
    pub range: Located<String>,
    /// Its name.
    pub name: Option<Located<String>>,
    /// The peers it is for.
    pub destinations: Vec<Located<String>>,
    /// Addresses never to give.
    pub reserved: Vec<Located<String>>,
    /// Who may call back.
    pub callback: Option<Located<Vec<String>>>,
    /// Whether addresses that end in .0 or .255 are never given.
    pub skip_network_addresses: bool,
    /// Whether it makes no new bindings.
    pub draining: bool,
    /// The terminals' own prefix, where the pool is another prefix for it.
    pub translates: Option<Located<String>>,
}

/// Whether the workers stay on a processor, or on which, not yet checked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "true, false or a list of processors")]
pub enum PinDraft {
    /// Whether.
    Whether(bool),
    /// On which.
    To(Vec<i64>),
}

impl Draft {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of its lines: also what a check finds in the rest of it.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let (file, mut problems) = mistakes::read(text, EXAMPLE);
        let draft = file.map(|file| Self::of_file(file, text));
        if problems.is_empty()
            && let Some(draft) = draft
        {
            return Ok(draft);
        }
        // What is missing may be what was taken out.
        let others = draft.and_then(|draft| draft.check().err()).into_iter().flatten();
        problems.extend(others.filter(|problem| problem.place != Place::Missing));
        problems.sort_by_key(|problem| problem.place);
        Err(problems)
    }

    fn of_file(file: File, text: &str) -> Self {
        let here = |span: std::ops::Range<usize>| Place::Line(line_of(text, span.start));
        let one = |value: Spanned<String>| Located { place: here(value.span()), value: value.into_inner() };
        let number = |value: Spanned<i64>| Located { place: here(value.span()), value: value.into_inner() };
        let all = |values: Vec<Spanned<String>>| values.into_iter().map(one).collect::<Vec<_>>();
        let policy = |value: Spanned<CallbackDraft>| Located {
            place: here(value.span()),
            value: value.into_inner().into_words(),
        };
        let lifetimes =
            file.lifetimes.times().into_iter().filter_map(|(key, value)| Some((key, one(value?)))).collect();
        let numbers = file.numbers().into_iter().filter_map(|(key, value)| Some((key, number(value?)))).collect();
        let pools = file
            .pool
            .into_iter()
            .flat_map(FilePool::one_range_each)
            .map(|pool| PoolDraft {
                range: one(pool.range.first()),
                name: pool.name.map(one),
                destinations: all(pool.destinations),
                reserved: all(pool.reserved),
                callback: pool.callback.map(policy),
                skip_network_addresses: pool.skip_network_addresses,
                draining: pool.draining,
                translates: pool.translates.map(one),
            })
            .collect();
        let (mut inside, mut insides) = (Vec::new(), Vec::new());
        for entry in file.inside {
            let place = here(entry.span());
            match entry.into_inner() {
                InsideEntry::Interface(value) => inside.push(Located { value, place }),
                InsideEntry::Realm(realm) => insides.push(InsideDraft {
                    name: one(realm.name),
                    interfaces: all(realm.interfaces),
                    prefixes: all(realm.prefixes),
                }),
            }
        }
        Self {
            inside,
            inside_prefixes: all(file.inside_prefixes),
            insides,
            exempt: all(file.exempt),
            outside: all(file.outside),
            pools,
            callback: file.callback.map(policy),
            exhausted: file.exhausted,
            hairpin: file.hairpin,
            inbound_refresh: file.inbound_refresh,
            unsolicited: file.unsolicited,
            mptcp: file.mptcp,
            alg: all(file.alg),
            control: file.control.map(one),
            metrics: file.metrics.map(one),
            control_group: file.control_group.map(one),
            state_dir: file.state_dir.map(one),
            durability: file.durability,
            when_disk_fails: file.when_disk_fails,
            sync_interval: file.sync_interval.map(one),
            history: file.history.map(one),
            workers: file.workers.map(number),
            busy_poll: file.busy_poll.map(one),
            pin: file.pin.map(|value| Located { place: here(value.span()), value: value.into_inner() }),
            tun: file.tun.map(one),
            offload: file.offload,
            log_format: file.log_format,
            log_terminals: file.log_terminals,
            hardening: file.hardening,
            on_stop: file.on_stop,
            fast_path: file.fast_path,
            fast_path_hook: file.fast_path_hook,
            lifetimes,
            numbers,
        }
    }

    /// What `flags` say instead: a list replaces a list, a value a value.
    pub fn overridden_by(self, flags: Draft) -> Draft {
        fn list<T>(ours: Vec<T>, theirs: Vec<T>) -> Vec<T> {
            if theirs.is_empty() { ours } else { theirs }
        }
        // Which insides there are is one question: flags that answer it answer all of it.
        let (inside, insides) = if flags.inside.is_empty() && flags.insides.is_empty() {
            (self.inside, self.insides)
        } else {
            (flags.inside, flags.insides)
        };
        Draft {
            inside,
            inside_prefixes: list(self.inside_prefixes, flags.inside_prefixes),
            insides,
            exempt: list(self.exempt, flags.exempt),
            outside: list(self.outside, flags.outside),
            pools: list(self.pools, flags.pools),
            callback: flags.callback.or(self.callback),
            exhausted: flags.exhausted.or(self.exhausted),
            hairpin: flags.hairpin.or(self.hairpin),
            inbound_refresh: flags.inbound_refresh.or(self.inbound_refresh),
            unsolicited: flags.unsolicited.or(self.unsolicited),
            mptcp: flags.mptcp.or(self.mptcp),
            alg: list(self.alg, flags.alg),
            control: flags.control.or(self.control),
            metrics: flags.metrics.or(self.metrics),
            control_group: flags.control_group.or(self.control_group),
            state_dir: flags.state_dir.or(self.state_dir),
            durability: flags.durability.or(self.durability),
            when_disk_fails: flags.when_disk_fails.or(self.when_disk_fails),
            sync_interval: flags.sync_interval.or(self.sync_interval),
            history: flags.history.or(self.history),
            workers: flags.workers.or(self.workers),
            busy_poll: flags.busy_poll.or(self.busy_poll),
            pin: flags.pin.or(self.pin),
            tun: flags.tun.or(self.tun),
            offload: self.offload,
            log_format: flags.log_format.or(self.log_format),
            log_terminals: flags.log_terminals.or(self.log_terminals),
            hardening: self.hardening,
            on_stop: flags.on_stop.or(self.on_stop),
            fast_path: flags.fast_path.or(self.fast_path),
            fast_path_hook: self.fast_path_hook,
            lifetimes: list(self.lifetimes, flags.lifetimes),
            numbers: list(self.numbers, flags.numbers),
        }
    }
}

/// The file, key by key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    inside: Vec<Spanned<InsideEntry>>,
    #[serde(default)]
    inside_prefixes: Vec<Spanned<String>>,
    #[serde(default)]
    exempt: Vec<Spanned<String>>,
    #[serde(default)]
    outside: Vec<Spanned<String>>,
    #[serde(default)]
    pool: Vec<FilePool>,
    callback: Option<Spanned<CallbackDraft>>,
    exhausted: Option<Exhausted>,
    hairpin: Option<Hairpin>,
    inbound_refresh: Option<bool>,
    unsolicited: Option<Unsolicited>,
    mss: Option<Spanned<i64>>,
    mptcp: Option<Multipath>,
    #[serde(default)]
    alg: Vec<Spanned<String>>,
    control: Option<Spanned<String>>,
    metrics: Option<Spanned<String>>,
    control_group: Option<Spanned<String>>,
    state_dir: Option<Spanned<String>>,
    durability: Option<Durability>,
    when_disk_fails: Option<WhenDiskFails>,
    sync_interval: Option<Spanned<String>>,
    history: Option<Spanned<String>>,
    history_entries: Option<Spanned<i64>>,
    workers: Option<Spanned<i64>>,
    busy_poll: Option<Spanned<String>>,
    pin: Option<Spanned<PinDraft>>,
    tun: Option<Spanned<String>>,
    #[serde(default)]
    offload: Offload,
    log_format: Option<LogFormat>,
    log_terminals: Option<LogTerminals>,
    fast_path: Option<FastPathMode>,
    fast_path_hook: Option<FastPathHook>,
    fast_path_flows: Option<Spanned<i64>>,
    #[serde(default)]
    hardening: Hardening,
    on_stop: Option<OnStop>,
    #[serde(default)]
    lifetimes: FileLifetimes,
    #[serde(default)]
    creation: FileCreation,
}

impl File {
    /// All numbers but that of the workers, by their keys.
    fn numbers(&self) -> [(&'static str, Option<Spanned<i64>>); 11] {
        let creation = &self.creation;
        [
            ("contacts-per-binding", self.lifetimes.contacts_per_binding.clone()),
            ("per-second", creation.per_second.clone()),
            ("burst", creation.burst.clone()),
            ("prefix-v4", creation.prefix_v4.clone()),
            ("prefix-v6", creation.prefix_v6.clone()),
            ("per-prefix", creation.per_prefix.clone()),
            ("total", creation.total.clone()),
            ("unanswered", creation.unanswered.clone()),
            ("mss", self.mss.clone()),
            ("fast-path-flows", self.fast_path_flows.clone()),
            ("history-entries", self.history_entries.clone()),
        ]
    }
}

impl FileLifetimes {
    /// All times, by their keys.
    fn times(&self) -> [(&'static str, Option<Spanned<String>>); 5] {
        [
            ("hold", self.hold.clone()),
            ("unanswered", self.unanswered.clone()),
            ("dormant", self.dormant.clone()),
            ("quarantine", self.quarantine.clone()),
            ("contact", self.contact.clone()),
        ]
    }
}

/// `inside = ["lan0"]`, or one `[[inside]]` section.
enum InsideEntry {
    Interface(String),
    Realm(FileInside),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileInside {
    name: Spanned<String>,
    #[serde(default)]
    interfaces: Vec<Spanned<String>>,
    #[serde(default)]
    prefixes: Vec<Spanned<String>>,
}

// By hand: an untagged enum forgets where in the file its values are.
impl<'de> Deserialize<'de> for InsideEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> Visitor<'de> for Entry {
            type Value = InsideEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an interface or an [[inside]] section")
            }

            fn visit_str<E>(self, name: &str) -> Result<InsideEntry, E> {
                Ok(InsideEntry::Interface(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<InsideEntry, A::Error> {
                FileInside::deserialize(MapAccessDeserializer::new(map)).map(InsideEntry::Realm)
            }
        }
        deserializer.deserialize_any(Entry)
    }
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FilePool {
    range: Ranges,
    name: Option<Spanned<String>>,
    #[serde(default)]
    destinations: Vec<Spanned<String>>,
    #[serde(default)]
    reserved: Vec<Spanned<String>>,
    callback: Option<Spanned<CallbackDraft>>,
    #[serde(default)]
    skip_network_addresses: bool,
    #[serde(default)]
    draining: bool,
    translates: Option<Spanned<String>>,
}

/// One range, or several (RFC 6888 REQ-3).
#[derive(Clone, Deserialize)]
#[serde(transparent)]
struct Ranges(Spanned<OneOrMore>);

#[derive(Clone, Deserialize)]
#[serde(untagged, expecting = "a range or a list of ranges")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Ranges {
    /// Of an empty list an empty text, which is no range.
    fn first(self) -> Spanned<String> {
        let span = self.0.span();
        let text = match self.0.into_inner() {
            OneOrMore::One(text) => text,
            OneOrMore::More(texts) => texts.into_iter().next().unwrap_or_default(),
        };
        Spanned::new(span, text)
    }
}

impl FilePool {
    /// A pool of several ranges is several pools of one range for the same peers: `x-1`, `x-2`…
    fn one_range_each(self) -> Vec<FilePool> {
        let texts = match self.range.0.get_ref() {
            OneOrMore::More(texts) if texts.len() > 1 => texts.clone(),
            _ => return vec![self],
        };
        let ranges: Vec<Option<AddressRange>> = texts.iter().map(|text| text.parse().ok()).collect();
        let home = |reserved: &Spanned<String>| {
            let address: Option<IpAddr> = reserved.get_ref().parse().ok();
            let within = |range: &Option<AddressRange>| {
                range.zip(address).is_some_and(|(range, address)| range.contains(address.into()))
            };
            // One that is nowhere is the first one's, for the check to find.
            ranges.iter().position(within).unwrap_or(0)
        };
        let one = |(number, text): (usize, &String)| FilePool {
            range: Ranges(Spanned::new(self.range.0.span(), OneOrMore::One(text.clone()))),
            name: self
                .name
                .as_ref()
                .map(|name| Spanned::new(name.span(), format!("{}-{}", name.get_ref(), number + 1))),
            reserved: self.reserved.iter().filter(|reserved| home(reserved) == number).cloned().collect(),
            ..self.clone()
        };
        texts.iter().enumerate().map(one).collect()
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileLifetimes {
    hold: Option<Spanned<String>>,
    unanswered: Option<Spanned<String>>,
    dormant: Option<Spanned<String>>,
    quarantine: Option<Spanned<String>>,
    contact: Option<Spanned<String>>,
    contacts_per_binding: Option<Spanned<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileCreation {
    per_second: Option<Spanned<i64>>,
    burst: Option<Spanned<i64>>,
    prefix_v4: Option<Spanned<i64>>,
    prefix_v6: Option<Spanned<i64>>,
    per_prefix: Option<Spanned<i64>>,
    total: Option<Spanned<i64>>,
    unanswered: Option<Spanned<i64>>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged, expecting = "\"contacted\", \"answered\", \"anyone\" or a list of prefixes")]
enum CallbackDraft {
    Word(String),
    Prefixes(Vec<String>),
}

impl CallbackDraft {
    fn into_words(self) -> Vec<String> {
        match self {
            CallbackDraft::Word(word) => vec![word],
            CallbackDraft::Prefixes(prefixes) => prefixes,
        }
    }
}

/// All keys that could have stood where `text` has one that does not exist.
#[cfg(test)]
pub(super) fn keys_known(text: &str) -> Vec<String> {
    let message = toml::from_str::<File>(text).err().map(|error| error.message().to_owned()).unwrap_or_default();
    message.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect()
}
