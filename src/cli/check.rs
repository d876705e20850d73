//! `kamei check`.

use super::error::CliError;
use super::input;
#[cfg(feature = "relay")]
use super::role;
#[cfg(feature = "relay")]
use crate::config::{AgentDraft, RelayDraft};
use clap::Args;
#[cfg(feature = "relay")]
use std::path::Path;
use std::path::PathBuf;

#[derive(Args)]
pub struct Arguments {
    /// The configuration file
    file: PathBuf,
}

/// What the file of a relay or an agent says, told by a key that only such a file has; `None` for a gateway's.
#[cfg(feature = "relay")]
fn check_role(file: &Path) -> Result<Option<String>, CliError> {
    let text = input::read_text(file).map_err(|error| CliError::File { path: file.to_owned(), error })?;
    let wrong = |problems| CliError::Config { file: Some(file.to_owned()), problems };
    let has = |key: &str| text.lines().any(|line| line.split_once('=').is_some_and(|(name, _)| name.trim() == key));
    let has_section = |name: &str| text.lines().any(|line| line.trim() == name);
    if has("listen") || has_section("[[server]]") {
        let draft = RelayDraft::parse(&text).map_err(wrong)?;
        let config = draft.check(role::state_dir("relay"), role::control("relay")).map_err(wrong)?;
        let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
        return Ok(Some(format!(
            "relay, agents at {}, {} servers have ports",
            listen.join(", "),
            config.servers.len()
        )));
    }
    if has("relay") || has_section("[[publish]]") {
        let draft = AgentDraft::parse(&text).map_err(wrong)?;
        let config = draft.check(role::state_dir("agent"), role::control("agent")).map_err(wrong)?;
        let relays: Vec<String> = config.relays.iter().map(ToString::to_string).collect();
        return Ok(Some(format!("agent, relays {}, publishes {} servers", relays.join(", "), config.publish.len())));
    }
    Ok(None)
}

/// Checks a file, a gateway's or that of another role; nothing of the host is looked at.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let file = &arguments.file;
    #[cfg(feature = "relay")]
    if let Some(said) = check_role(file)? {
        println!("{}: ok, {said}", file.display());
        return Ok(());
    }
    let config = input::read_config(file)?
        .check()
        .map_err(|problems| CliError::Config { file: Some(file.clone()), problems })?;
    let insides: Vec<String> = match config.insides.as_slice() {
        [only] => only.interfaces.clone(),
        several => several.iter().map(|inside| format!("{}={}", inside.name, inside.interfaces.join(","))).collect(),
    };
    let pools: Vec<String> = config.pools.iter().map(|pool| pool.range.to_string()).collect();
    println!(
        "{}: ok, inside {}, outside {}, pools {}",
        file.display(),
        insides.join(", "),
        config.outsides.join(", "),
        pools.join(", ")
    );
    Ok(())
}
