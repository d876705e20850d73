//! `kamei check`.

use super::error::CliError;
use super::input;
#[cfg(feature = "relay")]
use super::role;
#[cfg(feature = "relay")]
use crate::config::{AgentDraft, RelayDraft, RoleDraft};
use crate::config::{Draft, Problem, role_of};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Arguments {
    /// The configuration file
    file: PathBuf,
    /// Whose it is [default: the role that knows most of its keys]
    #[arg(long, value_parser = super::which::ROLES)]
    role: Option<String>,
}

/// Checks a file, a gateway's or that of another role; nothing of the host is looked at.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let file = &arguments.file;
    let text = input::read_text(file).map_err(|error| CliError::File { path: file.clone(), error })?;
    let role = arguments.role.as_deref().unwrap_or_else(|| role_of(&text));
    let checked = match role {
        #[cfg(feature = "relay")]
        "relay" => relay(&text),
        #[cfg(feature = "relay")]
        "agent" => agent(&text),
        _ => gateway(&text),
    };
    let said = checked.map_err(|problems| CliError::Config { file: Some(file.clone()), problems })?;
    println!("{}: ok, {said}", file.display());
    Ok(())
}

#[cfg(feature = "relay")]
fn relay(text: &str) -> Result<String, Vec<Problem>> {
    let config = RelayDraft::parse(text)?.check(role::state_dir("relay"), role::control("relay"))?;
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    Ok(format!("relay, agents at {}, {} servers have ports", listen.join(", "), config.servers.len()))
}

#[cfg(feature = "relay")]
fn agent(text: &str) -> Result<String, Vec<Problem>> {
    let config = AgentDraft::parse(text)?.check(role::state_dir("agent"), role::control("agent"))?;
    let relays: Vec<String> = config.relays.iter().map(ToString::to_string).collect();
    Ok(format!("agent, relays {}, publishes {} servers", relays.join(", "), config.publish.len()))
}

fn gateway(text: &str) -> Result<String, Vec<Problem>> {
    let config = Draft::parse(text)?.check()?;
    let insides: Vec<String> = match config.insides.as_slice() {
        [only] => only.interfaces.clone(),
        several => several.iter().map(|inside| format!("{}={}", inside.name, inside.interfaces.join(","))).collect(),
    };
    let pools: Vec<String> = config.pools.iter().map(|pool| pool.range.to_string()).collect();
    Ok(format!("inside {}, outside {}, pools {}", insides.join(", "), config.outsides.join(", "), pools.join(", ")))
}
