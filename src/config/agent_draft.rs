//! What the operator wrote for an agent, and what is wrong with it.

use super::agent::{AgentConfig, PublishConfig};
use super::draft::Located;
use super::mistakes::{self, line_of};
use super::problem::{Place, Problem};
use super::relay_draft::Checks;
use super::{Hardening, HostPort, LogFormat, Probing, Via};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// The file with every key explained.
const EXAMPLE: &str = include_str!("../../scripts/packaging/agent.toml");
/// How long a server may take to accept unless told otherwise.
const DIAL_TIME: Duration = Duration::from_secs(10);
/// Connections unless told otherwise.
const CONNECTIONS: usize = 16_384;

/// An agent's configuration, not yet checked. A list that is empty was not given.
#[derive(Clone, Debug, Default)]
pub struct AgentDraft {
    /// The relays.
    pub relay: Vec<Located<String>>,
    /// A proxy on the way.
    pub via: Option<Located<String>>,
    /// What is published.
    pub publish: Vec<PublishDraft>,
    /// State directory.
    pub state_dir: Option<Located<String>>,
    /// Control socket.
    pub control: Option<Located<String>>,
    /// Address and port of the metrics.
    pub metrics: Option<Located<String>>,
    /// Connections at once.
    pub connections: Option<Located<i64>>,
    /// Times, by key.
    pub times: BTreeMap<&'static str, Located<String>>,
    /// Hardening.
    pub hardening: Option<Hardening>,
    /// How the log is written.
    pub log_format: Option<LogFormat>,
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
            state_dir: file.state_dir.map(one),
            control: file.control.map(one),
            metrics: file.metrics.map(one),
            connections: file
                .connections
                .map(|number| Located { place: here(number.span()), value: number.into_inner() }),
            times: times.into_iter().filter_map(|(key, value)| Some((key, one(value?)))).collect(),
            hardening: file.hardening,
            log_format: file.log_format,
        }
    }

    /// This, and where `flags` say something, what they say.
    pub fn overridden_by(self, flags: Self) -> Self {
        Self {
            relay: if flags.relay.is_empty() { self.relay } else { flags.relay },
            via: flags.via.or(self.via),
            publish: if flags.publish.is_empty() { self.publish } else { flags.publish },
            state_dir: flags.state_dir.or(self.state_dir),
            control: flags.control.or(self.control),
            metrics: flags.metrics.or(self.metrics),
            connections: flags.connections.or(self.connections),
            times: self.times,
            hardening: flags.hardening.or(self.hardening),
            log_format: flags.log_format.or(self.log_format),
        }
    }

    /// Checks it. State directory and control socket are these unless it says others.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the lines.
    pub fn check(self, state_dir: PathBuf, control: PathBuf) -> Result<AgentConfig, Vec<Problem>> {
        let mut checks = Checks::default();
        let relays: Vec<HostPort> = self.relay.iter().filter_map(|text| checks.parsed("relay", text)).collect();
        if self.relay.is_empty() {
            let what = "says which relay to keep a session with; give it by --relay relay.example.com:443";
            checks.wrong("relay", Place::Missing, what);
        }
        let publish = publish(&mut checks, &self.publish);
        if self.publish.is_empty() {
            let what = "nothing is published; give a server by --publish web=10.0.0.5:80 or a [[publish]] section";
            checks.wrong("publish", Place::Missing, what);
        }
        let via = self.via.as_ref().and_then(|text| checks.parsed::<Via>("via", text));
        let connections = self.connections.map_or(Some(CONNECTIONS), |number| {
            let parsed = usize::try_from(number.value).ok().filter(|limit| (1..=10_000_000).contains(limit));
            if parsed.is_none() {
                let what = format!("{} is out of range; 1 to 10000000 can be said", number.value);
                checks.wrong("connections", number.place, what);
            }
            parsed
        });
        let defaults = Probing::default();
        let config = AgentConfig {
            relays,
            via,
            publish,
            state_dir: self.state_dir.map_or(state_dir, |path| path.value.into()),
            control: self.control.map_or(control, |path| path.value.into()),
            metrics: self.metrics.as_ref().and_then(|text| checks.loopback(text)),
            connections: connections.unwrap_or(CONNECTIONS),
            dial_time: checks.time(&self.times, "dial-time").unwrap_or(DIAL_TIME),
            probing: Probing {
                every: checks.time(&self.times, "probe-every").unwrap_or(defaults.every),
                patience: checks.time(&self.times, "probe-patience").unwrap_or(defaults.patience),
            },
            hardening: self.hardening.unwrap_or_default(),
            log_format: self.log_format.unwrap_or_default(),
        };
        checks.done(config)
    }
}

fn publish(checks: &mut Checks, drafts: &[PublishDraft]) -> Vec<PublishConfig> {
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

    fn check(text: &str) -> Result<AgentConfig, Vec<String>> {
        let said = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        let draft = AgentDraft::parse(text).map_err(said)?;
        draft.check("/var/lib/x".into(), "/run/x.sock".into()).map_err(said)
    }

    #[test]
    fn the_example_with_every_key_is_right_and_says_the_defaults() {
        let whole: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with([' ', '#']) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
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
}
