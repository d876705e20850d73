//! `kamei agent`.

use super::error::CliError;
use super::role::{self, Common, given, pairs};
use super::table::Table;
use super::{input, show};
use crate::config::{AgentDraft, PublishDraft};
use crate::control::{AgentStatus, Client};
use crate::identity::Invitation;
use clap::{Args, Subcommand};
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Duration;

/// Without a subcommand, the agent runs until SIGTERM or SIGINT.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    question: Option<Question>,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct Run {
    /// The relay to keep a session with; repeatable
    #[arg(long, value_name = "HOST:PORT")]
    relay: Vec<String>,
    /// The invitation, the first time; other users of this machine can see it while this runs, so better:
    #[arg(long, value_name = "TOKEN", conflicts_with = "invite_file")]
    invite: Option<String>,
    /// A file with the invitation; `-` is standard input
    #[arg(long, value_name = "FILE")]
    invite_file: Option<PathBuf>,
    /// A server to publish: its name for clients, and where it is; repeatable
    #[arg(long, value_name = "NAME=HOST:PORT")]
    publish: Vec<String>,
    /// A proxy on the way to the relay, http:// (CONNECT) or socks5://; a password belongs into the configuration file
    #[arg(long, value_name = "URL")]
    via: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Question {
    /// Say how the agent is: its relays, and what is published there
    Status {
        /// Control socket of the agent [default: /run/kamei/agent.sock, for users below XDG_RUNTIME_DIR]
        #[arg(long, value_name = "PATH")]
        control: Option<PathBuf>,
        /// JSON instead of a table
        #[arg(long)]
        json: bool,
    },
}

/// Runs the agent, or asks it.
pub fn run(arguments: Arguments) -> Result<(), CliError> {
    match arguments.question {
        None => serve(arguments.run),
        Some(Question::Status { control, json }) => {
            let client = Client::of("agent", &control.unwrap_or_else(|| role::control("agent")));
            if json {
                role::copy(&client.look("/v1/status")?)
            } else {
                status(client.read("/v1/status")?, &mut stdout().lock())
            }
        }
    }
}

fn serve(arguments: Run) -> Result<(), CliError> {
    let invitation = arguments.invitation()?;
    let flags = arguments.draft()?;
    let (config, _) = role::begin("agent", &arguments.common, flags)?;
    Ok(crate::agent::run(config, invitation)?)
}

impl Run {
    fn invitation(&self) -> Result<Option<Invitation>, CliError> {
        let text = match (&self.invite, &self.invite_file) {
            (Some(token), _) => token.clone(),
            (None, Some(path)) if path.as_os_str() == "-" => {
                return Invitation::read(&mut std::io::stdin())
                    .map(Some)
                    .map_err(|error| CliError::Question(format!("--invite-file -: {error}")));
            }
            (None, Some(path)) => {
                input::read_text(path).map_err(|error| CliError::File { path: path.clone(), error })?
            }
            (None, None) => return Ok(None),
        };
        let parsed = text.trim().parse::<Invitation>();
        parsed.map(Some).map_err(|error| CliError::Question(format!("--invite: {error}")))
    }

    fn draft(&self) -> Result<AgentDraft, CliError> {
        let mut wrong = Vec::new();
        let publish = pairs("--publish", &self.publish, &mut wrong, |name, target| {
            Ok(PublishDraft { name, target: given("--publish", target.to_owned()), proxy_protocol: false })
        });
        Ok(AgentDraft {
            relay: self.relay.iter().map(|relay| given("--relay", relay.clone())).collect(),
            via: self.via.as_ref().map(|via| given("--via", via.clone())),
            publish,
            common: self.common.draft(wrong)?,
            ..AgentDraft::default()
        })
    }
}

pub fn status(status: AgentStatus, out: &mut dyn Write) -> Result<(), CliError> {
    let up = show::span(Duration::from_secs(status.uptime_seconds));
    writeln!(out, "{} {}, agent, up {up}", show::bold("kamei"), status.version)?;
    for relay in &status.relays {
        let name = relay.name.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
        let state = match relay.connected_seconds {
            Some(seconds) => format!("connected{name} for {}", show::span(Duration::from_secs(seconds))),
            None => "not connected".to_owned(),
        };
        writeln!(out, "relay        {}, {state}", relay.relay)?;
        if let (None, Some(error)) = (relay.connected_seconds, &relay.last_error) {
            writeln!(out, "             {error}")?;
        }
    }
    let mut table = Table::new(["SERVER", "TARGET", "RELAY", "STATE"]);
    for relay in &status.relays {
        for published in &relay.published {
            let state = published.refused.clone().unwrap_or_else(|| "published".to_owned());
            table.row([
                published.server.to_string().into(),
                published.target.clone().into(),
                relay.relay.clone().into(),
                state.into(),
            ]);
        }
    }
    Ok(table.write(show::colours(), out)?)
}
