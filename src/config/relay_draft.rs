//! What the operator wrote for a relay, and what is wrong with it.

use super::checks::{self, Checks, CommonDraft, RoleDraft};
use super::draft::Located;
use super::mistakes::line_of;
use super::problem::{Place, Problem};
use super::relay::{ProxyConfig, RelayConfig, RelayLimits, ServerConfig, ServerName};
use super::{Hardening, HostPort, LogFormat};
use crate::session::DataChannel;
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// The file with every key explained.
pub const EXAMPLE: &str = include_str!("../../scripts/packaging/relay.toml");
/// How long a call may wait for an agent that is away: no client waits longer for its first byte.
const HOLD: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// When a connection without a byte may end: not while a user thinks about a line, and at all.
const IDLE: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(365 * 24 * 3600);
/// Any of the limits.
const LIMIT: RangeInclusive<usize> = 1..=10_000_000;

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
    /// Where clients ask for a server.
    pub proxy_listen: Vec<Located<String>>,
    /// Who may ask without proving who it is.
    pub proxy_clients: Vec<Located<String>>,
    /// Limits, by key.
    pub limits: BTreeMap<&'static str, Located<i64>>,
    /// What an agent has as well.
    pub common: CommonDraft,
}

/// A server with a port, not yet checked.
#[derive(Clone, Debug)]
pub struct ServerDraft {
    /// Its name.
    pub name: Located<String>,
    /// The relay's port.
    pub port: Option<Located<i64>>,
    /// TLS server names.
    pub sni: Vec<Located<String>>,
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
    control_group: Option<Spanned<String>>,
    metrics: Option<Spanned<String>>,
    hold: Option<Spanned<String>>,
    idle: Option<Spanned<String>>,
    probe_every: Option<Spanned<String>>,
    probe_patience: Option<Spanned<String>>,
    hardening: Option<Hardening>,
    log_format: Option<LogFormat>,
    #[serde(default)]
    proxy: FileProxy,
    #[serde(default)]
    limits: FileLimits,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileProxy {
    #[serde(default)]
    listen: Vec<Spanned<String>>,
    #[serde(default)]
    clients: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileServer {
    name: Spanned<String>,
    port: Option<Spanned<i64>>,
    #[serde(default)]
    sni: Vec<Spanned<String>>,
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
    fn of_file(file: File, text: &str) -> Self {
        let here = |span: Range<usize>| Place::Line(line_of(text, span.start));
        let one = |value: Spanned<String>| Located { place: here(value.span()), value: value.into_inner() };
        let number = |value: Spanned<i64>| Located { place: here(value.span()), value: value.into_inner() };
        let all = |values: Vec<Spanned<String>>| values.into_iter().map(one).collect::<Vec<_>>();
        let server = |server: FileServer| ServerDraft {
            name: one(server.name),
            port: server.port.map(number),
            sni: all(server.sni),
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
            proxy_listen: all(file.proxy.listen),
            proxy_clients: all(file.proxy.clients),
            limits: limits.into_iter().filter_map(|(key, value)| Some((key, number(value?)))).collect(),
            common: CommonDraft {
                state_dir: file.state_dir.map(one),
                control: file.control.map(one),
                control_group: file.control_group.map(one),
                metrics: file.metrics.map(one),
                times: times.into_iter().filter_map(|(key, value)| Some((key, one(value?)))).collect(),
                hardening: file.hardening,
                log_format: file.log_format,
                wrong: Vec::new(),
            },
        }
    }
}

impl RoleDraft for RelayDraft {
    type Config = RelayConfig;

    fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        checks::read(text, EXAMPLE, Self::of_file)
    }

    fn overridden_by(self, flags: Self) -> Self {
        Self {
            listen: checks::list(self.listen, flags.listen),
            public: flags.public.or(self.public),
            pool: checks::list(self.pool, flags.pool),
            servers: checks::list(self.servers, flags.servers),
            proxy_listen: checks::list(self.proxy_listen, flags.proxy_listen),
            proxy_clients: checks::list(self.proxy_clients, flags.proxy_clients),
            limits: self.limits,
            common: self.common.overridden_by(flags.common),
        }
    }

    fn check(self, state_dir: PathBuf, control: PathBuf) -> Result<RelayConfig, Vec<Problem>> {
        let mut checks = Checks::beside(self.common.wrong.clone());
        if self.listen.is_empty() {
            let what = "says where agents come in; give it by --listen :443 or `listen = [\":443\"]`";
            checks.wrong("listen", Place::Missing, what);
        }
        let listen: Vec<SocketAddr> =
            checks.listen("listen", &self.listen).into_iter().map(|listen| listen.value).collect();
        let public = self.public.as_ref().and_then(|text| checks.parsed::<HostPort>("public", text));
        let pools = checks.pools(&self.pool);
        let servers = checks.servers(&self.servers, &listen, !pools.is_empty());
        checks.server_names(&self.servers, &servers, public.as_ref());
        let proxy = checks.proxy(&self, &listen, &servers);
        let taken = listen.iter().chain(&proxy.listen).copied().chain(servers.iter().flat_map(ServerConfig::sockets));
        let common = self.common;
        let metrics = common.metrics.as_ref().and_then(|text| checks.relay_metrics(text, taken));
        let config = RelayConfig {
            listen,
            public,
            servers,
            proxy,
            pools,
            state_dir: checks.path("state-dir", common.state_dir, state_dir),
            control: checks.control(common.control, control),
            control_group: checks.group(common.control_group),
            metrics,
            limits: checks.limits(&self.limits),
            probing: checks.probing(&common.times),
            hold: checks.time(&common.times, "hold", HOLD).unwrap_or_default(),
            idle: checks.time(&common.times, "idle", IDLE),
            hardening: common.hardening.unwrap_or_default(),
            log_format: common.log_format.unwrap_or_default(),
        };
        checks.done(config)
    }

    fn log_format(config: &RelayConfig) -> LogFormat {
        config.log_format
    }
}

impl Checks {
    fn listen(&mut self, key: &str, drafts: &[Located<String>]) -> Vec<Located<SocketAddr>> {
        let mut all: Vec<Located<SocketAddr>> = Vec::new();
        for draft in drafts {
            let Some(value) = self.socket(key, draft) else { continue };
            match all.iter().map(|there| there.value).find(|there| checks::meet(*there, value)) {
                Some(there) if there == value => {
                    self.wrong(key, draft.place, format!("{value} is named twice; name it once"));
                }
                Some(there) => {
                    let what = format!("{value} is within {there}, which is named as well; name one of them");
                    self.wrong(key, draft.place, what);
                }
                None => all.push(Located { place: draft.place, value }),
            }
        }
        all
    }

    fn pools(&mut self, drafts: &[Located<String>]) -> Vec<IpNet> {
        let mut all: Vec<IpNet> = Vec::new();
        for draft in drafts {
            let Some(pool) = self.pool(draft) else { continue };
            if let Some(there) = all.iter().find(|there| there.contains(&pool) || pool.contains(*there)) {
                self.wrong("pool", draft.place, format!("{pool} overlaps {there}; make them disjoint"));
                continue;
            }
            all.push(pool);
        }
        all
    }

    fn relay_metrics(
        &mut self,
        text: &Located<String>,
        mut taken: impl Iterator<Item = SocketAddr>,
    ) -> Option<SocketAddr> {
        let metrics = self.loopback(text)?;
        if let Some(there) = taken.find(|there| checks::meet(*there, metrics)) {
            let what =
                format!("{metrics} is taken by this relay itself, which listens at {there}; choose another port");
            self.wrong("metrics", text.place, what);
        }
        Some(metrics)
    }

    /// Where clients ask: at ports that are nothing else's.
    fn proxy(&mut self, draft: &RelayDraft, agents: &[SocketAddr], servers: &[ServerConfig]) -> ProxyConfig {
        let (listen, clients) = (&draft.proxy_listen, &draft.proxy_clients);
        if let Some(first) = clients.first().filter(|_| listen.is_empty()) {
            self.wrong("proxy.clients", first.place, "says who may ask where nobody can; give proxy.listen as well");
        }
        let listen = self.listen("proxy.listen", listen);
        for Located { place, value } in &listen {
            let meets = |there: SocketAddr| checks::meet(there, *value);
            let of_agents = agents.iter().any(|there| meets(*there)).then(|| "agents come in".to_owned());
            let of_server = || servers.iter().find(|server| server.sockets().any(meets));
            let whose = of_agents.or_else(|| Some(format!("server '{}' is called", of_server()?.published)));
            if let Some(whose) = whose {
                self.wrong("proxy.listen", *place, format!("{value} is where {whose}; choose another port"));
            }
        }
        let clients = clients.iter().filter_map(|text| self.prefix("proxy.clients", text)).collect();
        ProxyConfig { listen: listen.into_iter().map(|listen| listen.value).collect(), clients }
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

    fn servers(&mut self, drafts: &[ServerDraft], listen: &[SocketAddr], has_pools: bool) -> Vec<ServerConfig> {
        let mut servers: Vec<ServerConfig> = Vec::new();
        for draft in drafts {
            let published = self.published(&draft.name);
            let given = draft.port.as_ref();
            let place = given.map_or(draft.name.place, |port| port.place);
            let port = given.and_then(|port| u16::try_from(port.value).ok()).filter(|port| *port > 0);
            if let Some(given) = given.filter(|_| port.is_none()) {
                self.wrong("port", place, format!("{} is no port; the ports are 1 to 65535", given.value));
            }
            let sni: Vec<ServerName> = draft.sni.iter().filter_map(|text| self.parsed("sni", text)).collect();
            if given.is_none() && draft.sni.is_empty() && !has_pools {
                let what = "no client could name this server; give it a port, or a TLS server name by sni";
                self.wrong("server", place, what);
            }
            let addresses = draft.addresses.iter().filter_map(|text| self.parsed::<IpAddr>("address", text)).collect();
            let clients = draft.clients.iter().filter_map(|text| self.prefix("clients", text)).collect();
            let Some(published) = published else { continue };
            let server = ServerConfig {
                published,
                port,
                sni,
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
            let meets = |address: SocketAddr| server.sockets().any(|own| checks::meet(own, address));
            if let Some(there) = servers.iter().find(|there| there.sockets().any(meets)) {
                let (port, there) = (port.unwrap_or_default(), &there.published);
                self.wrong(
                    "port",
                    place,
                    format!("port {port} is that of server '{there}' already; a port has one server"),
                );
            }
            if let Some(there) = listen.iter().find(|there| meets(**there)) {
                let port = port.unwrap_or_default();
                self.wrong(
                    "port",
                    place,
                    format!("port {port} is where agents come in ({there}); give the server another"),
                );
            }
            servers.push(server);
        }
        servers
    }

    /// Each name is of one server, and none is the relay's own.
    fn server_names(&mut self, drafts: &[ServerDraft], servers: &[ServerConfig], public: Option<&HostPort>) {
        for (at, text) in drafts.iter().enumerate().flat_map(|(at, draft)| draft.sni.iter().map(move |text| (at, text)))
        {
            let Ok(name) = text.value.parse::<ServerName>() else { continue };
            let holders = servers.iter().filter(|server| server.sni.contains(&name));
            let first = holders.map(|server| server.published.clone()).next();
            let own = drafts.get(at).map(|draft| draft.name.value.clone()).unwrap_or_default();
            if let Some(first) = first.filter(|first| first.name.as_str() != own) {
                self.wrong(
                    "sni",
                    text.place,
                    format!("{name} is that of server '{first}' already; a name has one server"),
                );
            }
            if public
                .is_some_and(|public| public.to_string().rsplit_once(':').is_some_and(|(host, _)| host == text.value))
            {
                let what = format!(
                    "{name} is the relay's own name (public), by which agents come in; give the server another"
                );
                self.wrong("sni", text.place, what);
            }
        }
    }

    fn limits(&mut self, given: &BTreeMap<&'static str, Located<i64>>) -> RelayLimits {
        let defaults = RelayLimits::default();
        let mut limit = |key: &str, default: usize| {
            given.get(key).and_then(|number| self.count(key, number, LIMIT)).unwrap_or(default)
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Probing;

    fn check(text: &str) -> Result<RelayConfig, Vec<String>> {
        let said = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        let draft = RelayDraft::parse(text).map_err(said)?;
        draft.check("/var/lib/x".into(), "/run/x.sock".into()).map_err(said)
    }

    #[test]
    fn the_example_with_every_key_is_right_and_says_the_defaults() {
        let whole = checks::uncommented(EXAMPLE);
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
        let starts = [
            "line 1: listen: '443'",
            "line 2: pool: '198.18.0.1/16' has host bits",
            "line 3: idle: 'soon'",
            "line 4: hold: takes text in quotes",
            "line 6: name",
            "line 7: port: 0",
        ];
        assert_eq!(said.len(), starts.len(), "{said:?}");
        for (line, start) in said.iter().zip(starts) {
            assert!(line.starts_with(start), "{line} / {start}");
        }
        let said = check("listen = [\":443\"]\nlissten = 1\n").unwrap_err();
        assert!(said[0].contains("lissten") && said[0].contains("listen"), "{said:?}");
    }

    #[test]
    fn where_clients_ask_is_nothing_else_and_who_may_needs_a_place() {
        let proxy = |lines: &str| {
            check(&format!("listen = [\":443\"]\n[proxy]\n{lines}\n[[server]]\nname = \"a\"\nport = 80\n"))
        };
        let config = proxy("listen = [\"127.0.0.1:1080\"]\nclients = [\"127.0.0.0/8\", \"192.0.2.1\"]").unwrap().proxy;
        let trusts = |address: &str| config.trusts(address.parse().unwrap());
        assert!(trusts("127.9.9.9") && trusts("192.0.2.1") && !trusts("192.0.2.2") && !trusts("::1"));
        assert!(!proxy("listen = [\":1080\"]").unwrap().proxy.trusts("127.0.0.1".parse().unwrap()));
        for (lines, line, said) in [
            ("listen = [\":443\"]", 3, "[::]:443 is where agents come in"),
            ("listen = [\"192.0.2.1:80\"]", 3, "192.0.2.1:80 is where server 'a' is called"),
            ("listen = [\":1080\", \":1080\"]", 3, "is named twice"),
            ("clients = [\"127.0.0.0/8\"]", 3, "give proxy.listen as well"),
            ("listen = [\":1080\"]\nclients = [\"127.0.0.1/8\"]", 4, "has host bits set"),
        ] {
            let problems = proxy(lines).unwrap_err();
            assert!(problems.len() == 1 && problems[0].starts_with(&format!("line {line}: proxy.")), "{problems:?}");
            assert!(problems[0].contains(said), "{problems:?}");
        }
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

    #[test]
    fn server_names_are_names_and_of_one_server_each() {
        let text = |one: &str, two: &str| {
            let head = "listen = [\":443\"]\npublic = \"relay.example.org:443\"\n[[server]]\nname = \"a\"\n";
            format!("{head}{one}\n[[server]]\nname = \"b\"\nport = 80\n{two}\n")
        };
        let config =
            check(&text("sni = [\"WEB.example.org\", \"*.example.org\"]", "sni = [\"b.example.org\"]")).unwrap();
        let named = |name: &str| config.named(name).map(|server| server.published.name.to_string());
        assert_eq!(named("web.example.org").as_deref(), Some("a"));
        assert_eq!(named("b.example.org").as_deref(), Some("b"), "the whole name goes first");
        assert_eq!(named("c.example.org").as_deref(), Some("a"));
        assert_eq!((named("example.org"), named("a.b.example.org"), named("x")), (None, None, None));
        for (one, two, expected) in [
            ("sni = [\"web\"]", "", "line 5: sni: 'web' is no server name"),
            ("sni = [\"192.0.2.1\"]", "", "line 5: sni: '192.0.2.1' is no server name"),
            ("sni = [\"\u{e4}.org\"]", "", "line 5: sni: '\u{e4}.org' is no server name"),
            ("sni = [\"*.*.org\"]", "", "line 5: sni: '*.*.org' is no server name"),
            ("sni = [\"x.org\"]", "sni = [\"X.org\"]", "line 9: sni: x.org is that of server 'a' already"),
            ("sni = [\"relay.example.org\"]", "", "line 5: sni: relay.example.org is the relay's own name"),
            ("", "", "line 4: server: no client could name this server"),
        ] {
            let said = check(&text(one, two)).unwrap_err();
            assert!(said.len() == 1 && said[0].starts_with(expected), "{one}: {said:?}");
        }
        assert!(check("listen = [\":443\"]\npool = [\"198.18.0.0/24\"]\n[[server]]\nname = \"a\"\n").is_ok());
    }

    #[test]
    fn what_the_start_would_stumble_over_is_said_by_the_check() {
        let long = format!("/{}", "x".repeat(120));
        let server = "[[server]]\nname = \"a\"\nport";
        for (text, expected) in [
            ("listen = [\":443\", \":443\"]".to_owned(), "line 1: listen: [::]:443 is named twice"),
            ("listen = [\":443\", \"192.0.2.1:443\"]".to_owned(), "line 1: listen: 192.0.2.1:443 is within [::]:443"),
            (
                "listen = [\":443\"]\npool = [\"198.18.0.0/16\", \"198.18.7.0/24\"]".to_owned(),
                "line 2: pool: 198.18.7.0/24 overlaps 198.18.0.0/16",
            ),
            ("listen = [\":443\"]\nstate-dir = \"x\"".to_owned(), "line 2: state-dir 'x' is not an absolute path"),
            ("listen = [\":443\"]\ncontrol = \"x\"".to_owned(), "line 2: control 'x' is not an absolute path"),
            (format!("listen = [\":443\"]\ncontrol = \"{long}\""), "line 2: control '/xxx"),
            ("listen = [\":443\"]\ncontrol-group = \"a:b\"".to_owned(), "line 2: 'a:b' cannot be the name of a group"),
            (
                "listen = [\":443\"]\nprobe-every = \"1ns\"".to_owned(),
                "line 2: probe-every: 1ns is too short; 1s to 1h",
            ),
            ("listen = [\":443\"]\nprobe-patience = \"0\"".to_owned(), "line 2: probe-patience: 0 is too short"),
            ("listen = [\":443\"]\nidle = \"9000 days\"".to_owned(), "line 2: idle: 9000 days is too long"),
            ("listen = [\":443\"]\nhold = \"2h\"".to_owned(), "line 2: hold: 2h is too long; 0s to 1h"),
            ("listen = [\":443\"]\n[limits]\nin-all = 0".to_owned(), "line 3: in-all: 0 is out of range"),
            (
                format!("listen = [\":443\"]\n{server} = 443"),
                "line 4: port: port 443 is where agents come in ([::]:443)",
            ),
            (
                "listen = [\":443\"]\nmetrics = \"127.0.0.1:443\"".to_owned(),
                "line 2: metrics: 127.0.0.1:443 is taken by this relay itself",
            ),
        ] {
            let said = check(&text).unwrap_err();
            assert_eq!(said.len(), 1, "{text}: {said:?}");
            assert!(said[0].starts_with(expected), "{text}: {said:?}");
        }
        assert!(check("listen = [\"192.0.2.1:443\", \"[2001:db8::1]:443\", \"192.0.2.2:443\"]\nhold = \"0\"").is_ok());
        let apart = "listen = [\"192.0.2.1:443\"]\n[[server]]\nname = \"a\"\nport = 443\naddress = [\"192.0.2.2\"]";
        assert!(check(apart).is_ok());
    }
}
