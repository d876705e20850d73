//! What the operator wrote for an agent, and what is wrong with it.

use super::agent::{AgentConfig, PublishConfig};
use super::checks::{self, Checks, CommonDraft, RoleDraft};
use super::draft::Located;
use super::mistakes::line_of;
use super::problem::{Place, Problem};
use super::{Hardening, HostPort, LogFormat, Via};
use serde::Deserialize;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// The file with every key explained.
pub const EXAMPLE: &str = include_str!("../../scripts/packaging/agent.toml");
/// How long a server may take to accept unless told otherwise.
const DIAL_TIME: Duration = Duration::from_secs(10);
/// Connections unless told otherwise.
const CONNECTIONS: usize = 16_384;
/// How many can be said.
const MOST_CONNECTIONS: usize = 10_000_000;
/// How long a server may take that can be said; the kernel itself gives up after some two minutes (tcp(7)).
const DIAL_TIMES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(120);

/// An agent's configuration, not yet checked. A list that is empty was not given.
#[derive(Clone, Debug, Default)]
pub struct AgentDraft {
    /// The relays.
    pub relay: Vec<Located<String>>,
    /// A proxy on the way.
    pub via: Option<Located<String>>,
    /// What is published.
    pub publish: Vec<PublishDraft>,
    /// Connections at once.
    pub connections: Option<Located<i64>>,
    /// What a relay has as well.
    pub common: CommonDraft,
}

/// A server, not yet checked.
#[derive(Clone, Debug)]
pub struct PublishDraft {
    /// Its name.
    pub name: Located<String>,
    /// What is dialled.
    pub target: Located<String>,
    /// Whether it is told who calls.
    pub proxy_protocol: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    relay: Vec<Spanned<String>>,
    via: Option<Spanned<String>>,
    #[serde(default)]
    publish: Vec<FilePublish>,
    state_dir: Option<Spanned<String>>,
    control: Option<Spanned<String>>,
    control_group: Option<Spanned<String>>,
    metrics: Option<Spanned<String>>,
    connections: Option<Spanned<i64>>,
    dial_time: Option<Spanned<String>>,
    probe_every: Option<Spanned<String>>,
    probe_patience: Option<Spanned<String>>,
    hardening: Option<Hardening>,
    log_format: Option<LogFormat>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FilePublish {
    name: Spanned<String>,
    target: Spanned<String>,
    #[serde(default)]
    proxy_protocol: bool,
}

impl AgentDraft {
    fn of_file(file: File, text: &str) -> Self {
        let here = |span: Range<usize>| Place::Line(line_of(text, span.start));
        let one = |value: Spanned<String>| Located { place: here(value.span()), value: value.into_inner() };
        let publish = |publish: FilePublish| PublishDraft {
            name: one(publish.name),
            target: one(publish.target),
            proxy_protocol: publish.proxy_protocol,
        };
        let times =
            [("dial-time", file.dial_time), ("probe-every", file.probe_every), ("probe-patience", file.probe_patience)];
        Self {
            relay: file.relay.into_iter().map(one).collect(),
            via: file.via.map(one),
            publish: file.publish.into_iter().map(publish).collect(),
            connections: file
                .connections
                .map(|number| Located { place: here(number.span()), value: number.into_inner() }),
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

impl RoleDraft for AgentDraft {
    type Config = AgentConfig;

    fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        checks::read(text, EXAMPLE, Self::of_file)
    }

    fn overridden_by(self, flags: Self) -> Self {
        Self {
            relay: checks::list(self.relay, flags.relay),
            via: flags.via.or(self.via),
            publish: checks::list(self.publish, flags.publish),
            connections: flags.connections.or(self.connections),
            common: self.common.overridden_by(flags.common),
        }
    }

    fn check(self, state_dir: PathBuf, control: PathBuf) -> Result<AgentConfig, Vec<Problem>> {
        let common = self.common;
        let mut checks = Checks::beside(common.wrong);
        let relays = relays(&mut checks, &self.relay);
        let publish = publish(&mut checks, &self.publish);
        let via = self.via.as_ref().and_then(|text| checks.parsed::<Via>("via", text));
        let connections =
            self.connections.and_then(|number| checks.count("connections", &number, 1..=MOST_CONNECTIONS));
        let config = AgentConfig {
            relays,
            via,
            publish,
            state_dir: checks.path("state-dir", common.state_dir, state_dir),
            control: checks.control(common.control, control),
            control_group: checks.group(common.control_group),
            metrics: common.metrics.as_ref().and_then(|text| checks.loopback(text)),
            connections: connections.unwrap_or(CONNECTIONS),
            dial_time: checks.time(&common.times, "dial-time", DIAL_TIMES).unwrap_or(DIAL_TIME),
            probing: checks.probing(&common.times),
            hardening: common.hardening.unwrap_or_default(),
            log_format: common.log_format.unwrap_or_default(),
        };
        checks.done(config)
    }

    fn log_format(config: &AgentConfig) -> LogFormat {
        config.log_format
    }
}

fn relays(checks: &mut Checks, drafts: &[Located<String>]) -> Vec<HostPort> {
    if drafts.is_empty() {
        let what = "says which relay to keep a session with; give it by --relay relay.example.com:443";
        checks.wrong("relay", Place::Missing, what);
    }
    let mut all: Vec<HostPort> = Vec::new();
    for draft in drafts {
        let Some(relay) = checks.parsed::<HostPort>("relay", draft) else { continue };
        if all.contains(&relay) {
            checks.wrong("relay", draft.place, format!("{relay} is named twice; name it once"));
        }
        all.push(relay);
    }
    all
}

fn publish(checks: &mut Checks, drafts: &[PublishDraft]) -> Vec<PublishConfig> {
    if drafts.is_empty() {
        let what = "nothing is published; give a server by --publish web=10.0.0.5:80 or a [[publish]] section";
        checks.wrong("publish", Place::Missing, what);
    }
    let mut all: Vec<PublishConfig> = Vec::new();
    for draft in drafts {
        let published = checks.published(&draft.name);
        let target = checks.parsed::<HostPort>("target", &draft.target);
        let (Some(published), Some(target)) = (published, target) else { continue };
        if all.iter().any(|there| there.published == published) {
            let what = format!("two servers are named '{published}'; give each its own name");
            checks.wrong("name", draft.name.place, what);
        }
        all.push(PublishConfig { published, target, proxy_protocol: draft.proxy_protocol });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Probing;

    fn check(text: &str) -> Result<AgentConfig, Vec<String>> {
        let said = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        let draft = AgentDraft::parse(text).map_err(said)?;
        draft.check("/var/lib/x".into(), "/run/x.sock".into()).map_err(said)
    }

    #[test]
    fn the_example_with_every_key_is_right_and_says_the_defaults() {
        let whole = checks::uncommented(EXAMPLE);
        let config = check(&whole).unwrap();
        assert_eq!(
            (config.connections, config.dial_time, config.probing),
            (CONNECTIONS, DIAL_TIME, Probing::default())
        );
        assert!(config.via.is_some() && config.publish.iter().any(|publish| publish.proxy_protocol));
        assert!(check(EXAMPLE).is_ok());
    }

    #[test]
    fn every_mistake_has_its_line() {
        let text = "relay = [\"relay\"]\nvia = \"proxy:1\"\n[[publish]]\nname = \"a\"\ntarget = \"10.0.0.5:80\"\n[[publish]]\nname = \"a\"\ntarget = \"10.0.0.5\"\n";
        let said = check(text).unwrap_err();
        let starts =
            ["line 1: relay: 'relay' is no HOST:PORT", "line 2: via: this is no proxy", "line 8: target: '10.0.0.5'"];
        assert_eq!(said.len(), starts.len(), "{said:?}");
        for (line, start) in said.iter().zip(starts) {
            assert!(line.starts_with(start), "{line} / {start}");
        }
        let said = check("").unwrap_err();
        assert!(said.iter().any(|line| line.contains("nothing is published")) && said.len() == 2, "{said:?}");
    }

    #[test]
    fn what_the_start_would_stumble_over_is_said_by_the_check() {
        let publish = "[[publish]]\nname = \"a\"\ntarget = \"10.0.0.5:80\"\n";
        for (line, expected) in [
            ("relay = [\"a:1\", \"a:1\"]", "line 1: relay: a:1 is named twice"),
            ("relay = [\"a:1\"]\nstate-dir = \"x\"", "line 2: state-dir 'x' is not an absolute path"),
            ("relay = [\"a:1\"]\ndial-time = \"1ns\"", "line 2: dial-time: 1ns is too short; 100ms to 2m"),
            ("relay = [\"a:1\"]\nprobe-every = \"1ns\"", "line 2: probe-every: 1ns is too short"),
            ("relay = [\"a:1\"]\nconnections = 0", "line 2: connections: 0 is out of range"),
        ] {
            let said = check(&format!("{line}\n{publish}")).unwrap_err();
            assert!(said.len() == 1 && said[0].starts_with(expected), "{line}: {said:?}");
        }
        // One key of a wrong kind hides nothing of the rest.
        let said = check("relay = [\"relay\"]\nmetrics = 5\ndial-time = \"soon\"\n").unwrap_err();
        let starts = ["line 1: relay", "line 2: metrics: takes", "line 3: dial-time"];
        assert!(said.len() == 3 && said.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{said:?}");
    }
}
