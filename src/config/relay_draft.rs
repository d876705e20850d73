//! What the operator wrote for a relay, and what is wrong with it.

use super::draft::Located;
use super::mistakes::{self, line_of};
use super::problem::{Place, Problem, Wrong};
use super::relay::{RelayConfig, RelayLimits, ServerConfig};
use super::{Hardening, HostPort, LogFormat, Probing};
use crate::session::{DataChannel, Name, Published, Transport};
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;

/// The file with every key explained.
const EXAMPLE: &str = include_str!("../../scripts/packaging/relay.toml");
/// The longest time that can be said.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A relay's configuration, not yet checked. A list that is empty was not given.
#[derive(Clone, Debug, Default)]
pub struct RelayDraft {
    /// Where agents come in.
    pub listen: Vec<Located<String>>,
    /// What invitations name.
    pub public: Option<Located<String>>,
    /// Prefixes of virtual IPs.
    pub pool: Vec<Located<String>>,
    /// Servers with a port.
    pub servers: Vec<ServerDraft>,
    /// State directory.
    pub state_dir: Option<Located<String>>,
    /// Control socket.
    pub control: Option<Located<String>>,
    /// Address and port of the metrics.
    pub metrics: Option<Located<String>>,
    /// Times, by key.
    pub times: BTreeMap<&'static str, Located<String>>,
    /// Limits, by key.
    pub limits: BTreeMap<&'static str, Located<i64>>,
    /// Hardening.
    pub hardening: Option<Hardening>,
    /// How the log is written.
    pub log_format: Option<LogFormat>,
}

/// A server with a port, not yet checked.
#[derive(Clone, Debug)]
pub struct ServerDraft {
    /// Its name.
    pub name: Located<String>,
    /// The relay's port.
    pub port: Located<i64>,
    /// The relay's addresses.
    pub addresses: Vec<Located<String>>,
    /// Who may call.
    pub clients: Vec<Located<String>>,
    /// How its bytes travel.
    pub channel: Option<DataChannel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    listen: Vec<Spanned<String>>,
    public: Option<Spanned<String>>,
    #[serde(default)]
    pool: Vec<Spanned<String>>,
    #[serde(default)]
    server: Vec<FileServer>,
    state_dir: Option<Spanned<String>>,
    control: Option<Spanned<String>>,
    metrics: Option<Spanned<String>>,
    hold: Option<Spanned<String>>,
    idle: Option<Spanned<String>>,
    probe_every: Option<Spanned<String>>,
    probe_patience: Option<Spanned<String>>,
    hardening: Option<Hardening>,
    log_format: Option<LogFormat>,
    #[serde(default)]
    limits: FileLimits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileServer {
    name: Spanned<String>,
    port: Spanned<i64>,
    #[serde(default)]
    address: Vec<Spanned<String>>,
    #[serde(default)]
    clients: Vec<Spanned<String>>,
    channel: Option<DataChannel>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileLimits {
    servers: Option<Spanned<i64>>,
    of_server: Option<Spanned<i64>>,
    of_agent: Option<Spanned<i64>>,
    of_client: Option<Spanned<i64>>,
    in_all: Option<Spanned<i64>>,
    unproved: Option<Spanned<i64>>,
}

impl RelayDraft {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// Every key that does not exist or has a value of another kind, in the order of the lines.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let (file, problems) = mistakes::read::<File>(text, EXAMPLE);
        match file {
            Some(file) if problems.is_empty() => Ok(Self::of_file(file, text)),
            _ => Err(problems),
        }
    }

    fn of_file(file: File, text: &str) -> Self {
        let here = |span: Range<usize>| Place::Line(line_of(text, span.start));
        let one = |value: Spanned<String>| Located { place: here(value.span()), value: value.into_inner() };
        let number = |value: Spanned<i64>| Located { place: here(value.span()), value: value.into_inner() };
        let all = |values: Vec<Spanned<String>>| values.into_iter().map(one).collect::<Vec<_>>();
        let server = |server: FileServer| ServerDraft {
            name: one(server.name),
            port: number(server.port),
            addresses: all(server.address),
            clients: all(server.clients),
            channel: server.channel,
        };
        let times = [
            ("hold", file.hold),
            ("idle", file.idle),
            ("probe-every", file.probe_every),
            ("probe-patience", file.probe_patience),
        ];
        let limits = [
            ("servers", file.limits.servers),
            ("of-server", file.limits.of_server),
            ("of-agent", file.limits.of_agent),
            ("of-client", file.limits.of_client),
            ("in-all", file.limits.in_all),
            ("unproved", file.limits.unproved),
        ];
        Self {
            listen: all(file.listen),
            public: file.public.map(one),
            pool: all(file.pool),
            servers: file.server.into_iter().map(server).collect(),
            state_dir: file.state_dir.map(one),
            control: file.control.map(one),
            metrics: file.metrics.map(one),
            times: times.into_iter().filter_map(|(key, value)| Some((key, one(value?)))).collect(),
            limits: limits.into_iter().filter_map(|(key, value)| Some((key, number(value?)))).collect(),
            hardening: file.hardening,
            log_format: file.log_format,
        }
    }

    /// This, and where `flags` say something, what they say.
    pub fn overridden_by(self, flags: Self) -> Self {
        let list = |own: Vec<Located<String>>, given: Vec<Located<String>>| if given.is_empty() { own } else { given };
        Self {
            listen: list(self.listen, flags.listen),
            public: flags.public.or(self.public),
            pool: list(self.pool, flags.pool),
            servers: if flags.servers.is_empty() { self.servers } else { flags.servers },
            state_dir: flags.state_dir.or(self.state_dir),
            control: flags.control.or(self.control),
            metrics: flags.metrics.or(self.metrics),
            times: self.times,
            limits: self.limits,
            hardening: flags.hardening.or(self.hardening),
            log_format: flags.log_format.or(self.log_format),
        }
    }

    /// Checks it. State directory and control socket are these unless it says others.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the lines.
    pub fn check(self, state_dir: PathBuf, control: PathBuf) -> Result<RelayConfig, Vec<Problem>> {
        let mut checks = Checks::default();
        let listen: Vec<SocketAddr> = self.listen.iter().filter_map(|text| checks.socket("listen", text)).collect();
        if self.listen.is_empty() {
            let what = "says where agents come in; give it by --listen :443 or `listen = [\":443\"]`";
            checks.wrong("listen", Place::Missing, what);
        }
        let public = self.public.as_ref().and_then(|text| checks.parsed::<HostPort>("public", text));
        let pools = self.pool.iter().filter_map(|text| checks.pool(text)).collect();
        let servers = checks.servers(&self.servers);
        let metrics = self.metrics.as_ref().and_then(|text| checks.loopback(text));
        let defaults = Probing::default();
        let (times, limits) = (self.times, self.limits);
        let config = RelayConfig {
            listen,
            public,
            servers,
            pools,
            state_dir: self.state_dir.map_or(state_dir, |path| path.value.into()),
            control: self.control.map_or(control, |path| path.value.into()),
            metrics,
            limits: checks.limits(&limits),
            probing: Probing {
                every: checks.time(&times, "probe-every").unwrap_or(defaults.every),
                patience: checks.time(&times, "probe-patience").unwrap_or(defaults.patience),
            },
            hold: checks.time_or_zero(&times, "hold").unwrap_or_default(),
            idle: checks.time(&times, "idle"),
            hardening: self.hardening.unwrap_or_default(),
            log_format: self.log_format.unwrap_or_default(),
        };
        checks.done(config)
    }
}

/// Collects what is wrong.
#[derive(Default)]
pub(super) struct Checks(Vec<Problem>);

impl Checks {
    pub(super) fn wrong(&mut self, key: &str, place: Place, what: impl Into<String>) {
        let wrong = Wrong::Value { key: key.to_owned(), what: what.into(), example: None };
        self.0.push(Problem { place, wrong });
    }

    pub(super) fn done<T>(mut self, config: T) -> Result<T, Vec<Problem>> {
        self.0.sort_by_key(|problem| problem.place);
        if self.0.is_empty() { Ok(config) } else { Err(self.0) }
    }

    pub(super) fn parsed<T: FromStr<Err: ToString>>(&mut self, key: &str, text: &Located<String>) -> Option<T> {
        text.value.parse().map_err(|error: T::Err| self.wrong(key, text.place, error.to_string())).ok()
    }

    /// `:443` is every IPv4 and IPv6 address.
    fn socket(&mut self, key: &str, text: &Located<String>) -> Option<SocketAddr> {
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

    pub(super) fn loopback(&mut self, text: &Located<String>) -> Option<SocketAddr> {
        let parsed = self.socket("metrics", text)?;
        if !parsed.ip().is_loopback() {
            self.wrong("metrics", text.place, format!("{parsed} is no loopback address; write 127.0.0.1:9101"));
            return None;
        }
        Some(parsed)
    }

    fn prefix(&mut self, key: &str, text: &Located<String>) -> Option<IpNet> {
        let address = || text.value.parse::<IpAddr>().map(IpNet::from);
        match text.value.parse::<IpNet>().or_else(|_| address()) {
            Ok(prefix) if prefix.addr() == prefix.network() => Some(prefix),
            Ok(prefix) => {
                self.wrong(
                    key,
                    text.place,
                    format!("'{}' has host bits set; did you mean {}?", text.value, prefix.trunc()),
                );
                None
            }
            Err(_) => {
                self.wrong(key, text.place, format!("'{}' is no prefix such as 203.0.113.0/24", text.value));
                None
            }
        }
    }

    fn pool(&mut self, text: &Located<String>) -> Option<IpNet> {
        let pool = self.prefix("pool", text)?;
        let is_special = pool.addr().is_loopback() || pool.addr().is_multicast() || pool.prefix_len() == 0;
        if is_special {
            self.wrong("pool", text.place, format!("{pool} contains addresses that no host can have; choose another"));
            return None;
        }
        Some(pool)
    }

    pub(super) fn published(&mut self, name: &Located<String>) -> Option<Published> {
        let parsed = self.parsed::<Name>("name", name)?;
        Some(Published { name: parsed, transport: Transport::Tcp })
    }

    fn servers(&mut self, drafts: &[ServerDraft]) -> Vec<ServerConfig> {
        let mut servers: Vec<ServerConfig> = Vec::new();
        for draft in drafts {
            let published = self.published(&draft.name);
            let port = u16::try_from(draft.port.value).ok().filter(|port| *port > 0);
            if port.is_none() {
                let what = format!("{} is no port; the ports are 1 to 65535", draft.port.value);
                self.wrong("port", draft.port.place, what);
            }
            let addresses = draft.addresses.iter().filter_map(|text| self.parsed::<IpAddr>("address", text)).collect();
            let clients = draft.clients.iter().filter_map(|text| self.prefix("clients", text)).collect();
            let (Some(published), Some(port)) = (published, port) else { continue };
            let server = ServerConfig {
                published,
                port,
                addresses,
                clients,
                channel: draft.channel.unwrap_or(DataChannel::Shared),
            };
            if servers.iter().any(|there| there.published == server.published) {
                self.wrong(
                    "name",
                    draft.name.place,
                    format!("two servers are named '{}'; give each its own name", server.published),
                );
            }
            if let Some(there) = servers.iter().find(|there| meet(there, &server)) {
                let what =
                    format!("port {port} is that of server '{}' already; a port has one server", there.published);
                self.wrong("port", draft.port.place, what);
            }
            servers.push(server);
        }
        servers
    }

    fn limits(&mut self, given: &BTreeMap<&'static str, Located<i64>>) -> RelayLimits {
        let defaults = RelayLimits::default();
        let mut limit = |key: &str, default: usize| {
            let Some(number) = given.get(key) else { return default };
            usize::try_from(number.value).ok().filter(|limit| (1..=10_000_000).contains(limit)).unwrap_or_else(|| {
                self.wrong(key, number.place, format!("{} is out of range; 1 to 10000000 can be said", number.value));
                default
            })
        };
        RelayLimits {
            servers: limit("servers", defaults.servers),
            of_server: limit("of-server", defaults.of_server),
            of_agent: limit("of-agent", defaults.of_agent),
            of_client: limit("of-client", defaults.of_client),
            in_all: limit("in-all", defaults.in_all),
            unproved: limit("unproved", defaults.unproved),
        }
    }

    /// A time that is not zero.
    pub(super) fn time(&mut self, times: &BTreeMap<&'static str, Located<String>>, key: &str) -> Option<Duration> {
        let time = self.time_or_zero(times, key)?;
        if time.is_zero() {
            self.wrong(key, times.get(key)?.place, "0 is too short; write 15s, say");
            return None;
        }
        Some(time)
    }

    pub(super) fn time_or_zero(
        &mut self,
        times: &BTreeMap<&'static str, Located<String>>,
        key: &str,
    ) -> Option<Duration> {
        let text = times.get(key)?;
        let parsed = if text.value == "0" { Ok(Duration::ZERO) } else { humantime::parse_duration(&text.value) };
        match parsed {
            Ok(time) if time <= LONGEST => Some(time),
            Ok(_) => {
                self.wrong(key, text.place, format!("{} is longer than a year", text.value));
                None
            }
            Err(_) => {
                self.wrong(key, text.place, format!("'{}' is no time; write 15s, 2m or 1h", text.value));
                None
            }
        }
    }
}

/// Whether two servers want one port of one address.
fn meet(one: &ServerConfig, other: &ServerConfig) -> bool {
    let share = one.addresses.is_empty()
        || other.addresses.is_empty()
        || one.addresses.iter().any(|address| other.addresses.contains(address));
    one.port == other.port && share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<RelayConfig, Vec<String>> {
        let said = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        let draft = RelayDraft::parse(text).map_err(said)?;
        draft.check("/var/lib/x".into(), "/run/x.sock".into()).map_err(said)
    }

    #[test]
    fn the_example_with_every_key_is_right_and_says_the_defaults() {
        let whole: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                // Prose has a blank behind the sign, keys and sections have none.
                Some(rest) if !rest.starts_with([' ', '#']) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = check(&whole).unwrap();
        assert_eq!((config.limits, config.probing), (RelayLimits::default(), Probing::default()));
        assert_eq!(config.servers.len(), 2);
        let bare = check(EXAMPLE).unwrap();
        assert_eq!(bare.listen, ["[::]:443".parse().unwrap()]);
    }

    #[test]
    fn every_mistake_has_its_line() {
        let text = "listen = [\"443\"]\npool = [\"198.18.0.1/16\"]\nidle = \"soon\"\nhold = 5\n[[server]]\nname = \"Web\"\nport = 0\n";
        let said = check(text).unwrap_err();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("line 4: hold: takes text in quotes"), "{said:?}");
        let said = check(&text.replace("hold = 5\n", "")).unwrap_err();
        let starts = [
            "line 1: listen: '443'",
            "line 2: pool: '198.18.0.1/16' has host bits",
            "line 3: idle: 'soon'",
            "line 5: name",
            "line 6: port: 0",
        ];
        assert_eq!(said.len(), starts.len(), "{said:?}");
        for (line, start) in said.iter().zip(starts) {
            assert!(line.starts_with(start), "{line} / {start}");
        }
        let said = check("listen = [\":443\"]\nlissten = 1\n").unwrap_err();
        assert!(said[0].contains("lissten") && said[0].contains("listen"), "{said:?}");
    }

    #[test]
    fn names_and_ports_are_given_once() {
        let server =
            |name: &str, port: u16, more: &str| format!("[[server]]\nname = \"{name}\"\nport = {port}\n{more}\n");
        let text = |servers: [String; 2]| format!("listen = [\":443\"]\n{}", servers.concat());
        assert!(
            check(&text([server("a", 80, ""), server("b", 80, "")])).unwrap_err()[0].contains("server 'a' already")
        );
        assert!(check(&text([server("a", 80, ""), server("a", 81, "")])).unwrap_err()[0].contains("two servers"));
        let (one, two) = ("address = [\"192.0.2.1\"]", "address = [\"192.0.2.2\"]");
        assert!(check(&text([server("a", 80, one), server("b", 80, two)])).is_ok());
    }
}
