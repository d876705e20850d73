//! `kamei reload`.

use super::{CliError, Socket};
use crate::control::{Client, Reloaded};
use clap::Args;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    socket: Socket,
    /// Change nothing: say what would change, and which bindings would be released
    #[arg(long)]
    dry_run: bool,
}

/// Has the gateway read its configuration anew.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let reloaded = Client::new(&arguments.socket.control).reload(arguments.dry_run)?;
    print!("{}", describe(&reloaded, arguments.dry_run));
    Ok(())
}

fn describe(reloaded: &Reloaded, dry_run: bool) -> String {
    let mut lines: Vec<String> = reloaded.changes.clone();
    if reloaded.moved > 0 {
        lines.push(format!("{} bindings are kept in pools that change", reloaded.moved));
    }
    let word = if dry_run { "would be released" } else { "released" };
    let released = reloaded.released.iter().map(|binding| {
        format!("{} ({}) was {} ({}): {word}", binding.terminal, binding.realm, binding.virtual_ip, binding.pool)
    });
    lines.extend(released);
    lines.push(match (reloaded.applied, reloaded.changes.is_empty()) {
        (true, _) => "in force".to_owned(),
        (false, true) => "nothing has changed".to_owned(),
        (false, false) => "nothing was changed: this was a dry run".to_owned(),
    });
    lines.iter().map(|line| format!("{line}\n")).collect()
}
