//! `kamei agent`.

mod flags;
mod install;

use super::error::CliError;
use super::role;
use super::show;
use super::table::Table;
use crate::control::{AgentStatus, Client};
use clap::{Args, Subcommand};
use flags::Run;
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

#[derive(Subcommand)]
enum Question {
    /// Make a service of the line that `kamei relay invite` has printed: paste it when this runs (as root)
    Install(install::Arguments),
    /// Say how the agent is: its relays, and what is published there
    Status {
        /// Control socket of the agent [default: /run/kamei-agent/agent.sock, for users below XDG_RUNTIME_DIR]
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
        Some(Question::Install(arguments)) => install::run(&arguments),
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
    let (config, source) = role::begin("agent", &arguments.role, flags)?;
    Ok(crate::agent::run(config, source, arguments.role.config.as_deref(), invitation)?)
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
