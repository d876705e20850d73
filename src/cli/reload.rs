//! `kamei reload`.

use super::error::CliError;
use super::show;
use super::which::Which;
use crate::control::{ClientError, KeptAside, Reloaded, Restart};
use clap::Args;
use std::io::Write;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Change nothing: say of each change whether a reload or only a restart brings it, and which bindings it would cost
    #[arg(long)]
    dry_run: bool,
    /// JSON instead of words
    #[arg(long)]
    json: bool,
}

/// Has the role that runs here read its configuration anew.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let client = arguments.which.client()?;
    let reloaded = client.reload(arguments.dry_run)?;
    if arguments.json {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &reloaded).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        print!("{}", describe(&reloaded, arguments.dry_run, client.role()));
    }
    match &reloaded.restart {
        // As the reload itself would end.
        Some(restart) => {
            let keys = restart.keys.join(", ");
            let error = format!("{keys} can only be changed by a restart; nothing was changed");
            Err(ClientError::Refused(error).into())
        }
        None => Ok(()),
    }
}

fn describe(reloaded: &Reloaded, dry_run: bool, role: &str) -> String {
    let when = if dry_run { ": by a reload" } else { "" };
    let mut lines: Vec<String> = reloaded.changes.iter().map(|change| format!("{change}{when}")).collect();
    if reloaded.moved > 0 {
        lines.push(format!("{} kept in pools that change", show::number_of(reloaded.moved as u64, "binding")));
    }
    let word = if dry_run { "would be released" } else { "released" };
    let released = reloaded.released.iter().map(|binding| {
        format!("{} ({}) was {} ({}): {word}", binding.terminal, binding.realm, binding.virtual_ip, binding.pool)
    });
    lines.extend(released);
    match (&reloaded.restart, reloaded.applied, reloaded.changes.is_empty()) {
        (Some(restart), ..) => of_restart(restart, role, &mut lines),
        (None, true, _) => lines.push("in force".to_owned()),
        (None, false, true) => lines.push("nothing has changed".to_owned()),
        (None, false, false) => lines.push("nothing was changed: this was a dry run".to_owned()),
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn of_restart(restart: &Restart, role: &str, lines: &mut Vec<String>) {
    lines.extend(restart.keys.iter().map(|key| format!("{key} changes: by a restart only")));
    lines.push("a restart brings all of it; a reload brings the others alone, once these are as they were".to_owned());
    if role != "gateway" {
        return;
    }
    let named = restart.named.iter().map(|KeptAside { terminal, realm, virtual_ip, why }| {
        format!("{terminal} ({realm}) was {virtual_ip}: would be kept aside after the restart: {why}")
    });
    lines.extend(named);
    let more = restart.kept_aside.saturating_sub(u64::try_from(restart.named.len()).unwrap_or(u64::MAX));
    lines.extend((more > 0).then(|| format!("… and {more} more")));
    lines.push(format!("{} would not fit after the restart", show::number_of(restart.kept_aside, "binding")));
    lines.extend(restart.notes.iter().cloned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_says_of_each_change_when_it_takes_effect() {
        let change =
            |restart| Reloaded { changes: vec!["callback changes".to_owned()], restart, ..Reloaded::default() };
        let live = "callback changes: by a reload\nnothing was changed: this was a dry run\n";
        assert_eq!(describe(&change(None), true, "gateway"), live);
        let aside = KeptAside {
            terminal: [10, 0, 0, 1].into(),
            realm: "inside".to_owned(),
            virtual_ip: [198, 18, 0, 1].into(),
            why: "its virtual IP is in no pool".to_owned(),
        };
        let restart =
            Restart { keys: vec!["workers".to_owned()], kept_aside: 3, named: vec![aside], notes: Vec::new() };
        let expected = "callback changes: by a reload\nworkers changes: by a restart only\n\
                        a restart brings all of it; a reload brings the others alone, once these are as they were\n\
                        10.0.0.1 (inside) was 198.18.0.1: would be kept aside after the restart: its virtual IP is in no pool\n\
                        … and 2 more\n3 bindings would not fit after the restart\n";
        assert_eq!(describe(&change(Some(restart)), true, "gateway"), expected);
    }
}
