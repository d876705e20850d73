//! What relay and agent check in the same way, and how each of their drafts becomes a configuration.

use super::check::{MOST_SOCKET_PATH, is_group_name};
use super::draft::Located;
use super::mistakes;
use super::problem::{Place, Problem, Wrong};
use super::{Hardening, LogFormat, Probing};
use crate::session::{Name, Published, Transport};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Time from an answer to the next probe: a shorter one is load, with a longer one a dead session is found too late.
const PROBE_EVERY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// Time for the answer to a probe; a round trip by satellite takes most of a second.
const PROBE_PATIENCE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// What was written for a role, by file or flags, not yet checked.
pub trait RoleDraft: Sized {
    /// The same, checked.
    type Config;

    /// Reads a configuration file.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of its lines: also what a check finds in the rest of it.
    fn parse(text: &str) -> Result<Self, Vec<Problem>>;

    /// This, and where `flags` say something, what they say.
    fn overridden_by(self, flags: Self) -> Self;

    /// Checks it. State directory and control socket are these unless it says others.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the lines.
    fn check(self, state_dir: PathBuf, control: PathBuf) -> Result<Self::Config, Vec<Problem>>;

    /// How the log is written.
    fn log_format(config: &Self::Config) -> LogFormat;
}

/// A configuration, read anew each time that this is called. The error is a line or more.
pub type ConfigSource<C> = Box<dyn Fn() -> Result<C, String> + Send + Sync>;

/// What is written in the same way for relay and agent, not yet checked.
#[derive(Clone, Debug, Default)]
pub struct CommonDraft {
    /// State directory.
    pub state_dir: Option<Located<String>>,
    /// Control socket.
    pub control: Option<Located<String>>,
    /// Group that may look.
    pub control_group: Option<Located<String>>,
    /// Address and port of the metrics.
    pub metrics: Option<Located<String>>,
    /// Times, by key.
    pub times: BTreeMap<&'static str, Located<String>>,
    /// Hardening.
    pub hardening: Option<Hardening>,
    /// How the log is written.
    pub log_format: Option<LogFormat>,
    /// What is wrong already: flags that could not be taken apart.
    pub wrong: Vec<Problem>,
}

impl CommonDraft {
    /// This, and where `flags` say something, what they say.
    pub fn overridden_by(self, flags: Self) -> Self {
        Self {
            state_dir: flags.state_dir.or(self.state_dir),
            control: flags.control.or(self.control),
            control_group: flags.control_group.or(self.control_group),
            metrics: flags.metrics.or(self.metrics),
            times: if flags.times.is_empty() { self.times } else { flags.times },
            hardening: flags.hardening.or(self.hardening),
            log_format: flags.log_format.or(self.log_format),
            wrong: [self.wrong, flags.wrong].concat(),
        }
    }
}

/// Reads a file; where some of it cannot be read, the rest is checked, so that all that is wrong is said at once.
pub fn read<F: DeserializeOwned, D: RoleDraft>(
    text: &str,
    example: &'static str,
    draft: fn(F, &str) -> D,
) -> Result<D, Vec<Problem>> {
    let (file, mut problems) = mistakes::read::<F>(text, example);
    let draft = file.map(|file| draft(file, text));
    if problems.is_empty()
        && let Some(draft) = draft
    {
        return Ok(draft);
    }
    let others = draft.and_then(|draft| draft.check("/".into(), "/".into()).err()).into_iter().flatten();
    // What is missing may be what was taken out.
    problems.extend(others.filter(|problem| problem.place != Place::Missing));
    problems.sort_by_key(|problem| problem.place);
    Err(problems)
}

/// Collects what is wrong.
#[derive(Default)]
pub struct Checks(Vec<Problem>);

impl Checks {
    /// Beside what is known to be wrong.
    pub fn beside(known: Vec<Problem>) -> Self {
        Self(known)
    }

    pub fn wrong(&mut self, key: &str, place: Place, what: impl Into<String>) {
        let wrong = Wrong::Value { key: key.to_owned(), what: what.into(), example: None };
        self.0.push(Problem { place, wrong });
    }

    pub fn done<T>(mut self, config: T) -> Result<T, Vec<Problem>> {
        self.0.sort_by_key(|problem| problem.place);
        if self.0.is_empty() { Ok(config) } else { Err(self.0) }
    }

    pub fn parsed<T: FromStr<Err: ToString>>(&mut self, key: &str, text: &Located<String>) -> Option<T> {
        text.value.parse().map_err(|error: T::Err| self.wrong(key, text.place, error.to_string())).ok()
    }

    /// `:443` is every IPv4 and IPv6 address.
    pub fn socket(&mut self, key: &str, text: &Located<String>) -> Option<SocketAddr> {
        let port = |text: &str| text.parse::<u16>().ok().map(|port| (Ipv6Addr::UNSPECIFIED, port).into());
        let parsed = text.value.strip_prefix(':').map_or_else(|| text.value.parse().ok(), port);
        let parsed = parsed.filter(|address: &SocketAddr| address.port() > 0);
        if parsed.is_none() {
            let what =
                format!("'{}' is no address and port; write :443, 192.0.2.1:443 or [2001:db8::1]:443", text.value);
            self.wrong(key, text.place, what);
        }
        parsed
    }

    pub fn loopback(&mut self, text: &Located<String>) -> Option<SocketAddr> {
        let parsed = self.socket("metrics", text)?;
        if !parsed.ip().is_loopback() {
            self.wrong("metrics", text.place, format!("{parsed} is no loopback address; write 127.0.0.1:9101"));
            return None;
        }
        Some(parsed)
    }

    pub fn prefix(&mut self, key: &str, text: &Located<String>) -> Option<IpNet> {
        let address = || text.value.parse::<IpAddr>().map(IpNet::from);
        match text.value.parse::<IpNet>().or_else(|_| address()) {
            Ok(prefix) if prefix.addr() == prefix.network() => Some(prefix),
            Ok(prefix) => {
                let what = format!("'{}' has host bits set; did you mean {}?", text.value, prefix.trunc());
                self.wrong(key, text.place, what);
                None
            }
            Err(_) => {
                self.wrong(key, text.place, format!("'{}' is no prefix such as 203.0.113.0/24", text.value));
                None
            }
        }
    }

    pub fn published(&mut self, name: &Located<String>) -> Option<Published> {
        let parsed = self.parsed::<Name>("name", name)?;
        Some(Published { name: parsed, transport: Transport::Tcp })
    }

    /// A path from the root on: what another directory is, depends on who starts it.
    pub fn path(&mut self, key: &'static str, given: Option<Located<String>>, default: PathBuf) -> PathBuf {
        let Some(Located { value, place }) = given else { return default };
        if !Path::new(&value).is_absolute() {
            self.0.push(Problem { place, wrong: Wrong::RelativePath { key, value: value.clone() } });
        }
        value.into()
    }

    /// The path of the control socket.
    pub fn control(&mut self, given: Option<Located<String>>, default: PathBuf) -> PathBuf {
        if let Some(Located { value, place }) = given.as_ref().filter(|given| given.value.len() > MOST_SOCKET_PATH) {
            self.0.push(Problem { place: *place, wrong: Wrong::SocketPath(value.clone()) });
        }
        self.path("control", given, default)
    }

    /// The name or number of the group that may look at the control socket.
    pub fn group(&mut self, given: Option<Located<String>>) -> Option<String> {
        let Located { value, place } = given?;
        if !is_group_name(&value) {
            self.0.push(Problem { place, wrong: Wrong::GroupName(value.clone()) });
        }
        Some(value)
    }

    /// A number of things that are counted.
    pub fn count(&mut self, key: &str, number: &Located<i64>, bounds: RangeInclusive<usize>) -> Option<usize> {
        let parsed = usize::try_from(number.value).ok().filter(|count| bounds.contains(count));
        if parsed.is_none() {
            let what = format!("{} is out of range; {} to {} can be said", number.value, bounds.start(), bounds.end());
            self.wrong(key, number.place, what);
        }
        parsed
    }

    /// How often the other end is probed.
    pub fn probing(&mut self, times: &BTreeMap<&'static str, Located<String>>) -> Probing {
        let defaults = Probing::default();
        Probing {
            every: self.time(times, "probe-every", PROBE_EVERY).unwrap_or(defaults.every),
            patience: self.time(times, "probe-patience", PROBE_PATIENCE).unwrap_or(defaults.patience),
        }
    }

    /// A time between these two.
    pub fn time(
        &mut self,
        times: &BTreeMap<&'static str, Located<String>>,
        key: &str,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let text = times.get(key)?;
        let zero = (text.value == "0").then_some(Duration::ZERO);
        let Some(time) = zero.or_else(|| humantime::parse_duration(&text.value).ok()) else {
            self.wrong(key, text.place, format!("'{}' is no time; write 15s, 2m or 1h", text.value));
            return None;
        };
        if bounds.contains(&time) {
            return Some(time);
        }
        let [least, most] = [bounds.start(), bounds.end()].map(|time| humantime::format_duration(*time).to_string());
        let word = if time < *bounds.start() { "short" } else { "long" };
        self.wrong(key, text.place, format!("{} is too {word}; {least} to {most} can be said", text.value));
        None
    }
}

/// A list, or what flags say instead.
pub fn list<T>(own: Vec<T>, flags: Vec<T>) -> Vec<T> {
    if flags.is_empty() { own } else { flags }
}

/// Whether two sockets want one port of one address; `[::]` is every IPv4 address, too.
pub fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |wide: IpAddr, narrow: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4());
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}

/// An example with every key in force, also those that it only shows.
#[cfg(test)]
pub fn uncommented(example: &str) -> String {
    let is_key = |key: &str| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let lines = example.lines().map(|line| {
        let shown = line.strip_prefix('#').map(|rest| rest.strip_prefix(' ').unwrap_or(rest));
        let shows = |text: &str| text.starts_with('[') || text.split_once(" = ").is_some_and(|(key, _)| is_key(key));
        format!("{}\n", shown.filter(|shown| shows(shown)).unwrap_or(line))
    });
    lines.collect()
}
