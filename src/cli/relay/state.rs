//! `kamei relay state`.

use crate::cli::error::CliError;
use crate::cli::{role, show};
use crate::config::{RelayDraft, RoleDraft};
use crate::relay::state::{self, LONGEST};
use clap::{Args, Subcommand};
use rustix::fs::OFlags;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Read, Write, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Configuration file of the relay, which says where its state is
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Directory of the state, whatever the configuration says [default: /var/lib/kamei-relay, for users below ~/.local/state]
    #[arg(long, value_name = "PATH", global = true)]
    state_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum What {
    /// Write the relay's keys, members and virtual IPs to a file; the relay must be stopped. Who has the file can take its place
    Export {
        /// A file that is not there yet; `-` is standard output
        file: PathBuf,
    },
    /// Make such a file the state of a relay on this host, which has none yet
    Import {
        /// The file; `-` is standard input
        file: PathBuf,
    },
}

pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let directory = directory(arguments)?;
    match &arguments.what {
        What::Export { file } => export(&directory, file),
        What::Import { file } => import(&directory, file),
    }
}

fn directory(arguments: &Arguments) -> Result<PathBuf, CliError> {
    if let Some(directory) = &arguments.state_dir {
        return std::path::absolute(directory).map_err(|error| CliError::File { path: directory.clone(), error });
    }
    let Some(file) = &arguments.config else { return Ok(role::state_dir("relay")) };
    let wrong = |problems| CliError::Config { file: Some(file.clone()), problems };
    let text = crate::cli::input::read_text(file).map_err(|error| CliError::File { path: file.clone(), error })?;
    let config = RelayDraft::parse(&text).map_err(wrong)?;
    Ok(config.check(role::state_dir("relay"), role::control("relay")).map_err(wrong)?.state_dir)
}

fn export(directory: &Path, file: &Path) -> Result<(), CliError> {
    let to_terminal = file.as_os_str() == "-" && stdout().is_terminal();
    if to_terminal {
        return Err(CliError::Usage("the state has the relay's keys, which are not for a screen; name a file"));
    }
    let text = state::export(directory)?;
    if file.as_os_str() == "-" {
        return role::copy(text.as_bytes());
    }
    let failed = |error: io::Error| CliError::Question(format!("cannot write {}: {error}", file.display()));
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(file);
    let out = out.as_mut().map_err(|error| failed(io::Error::new(error.kind(), error.to_string())))?;
    out.write_all(text.as_bytes()).and_then(|()| out.sync_all()).map_err(|error| {
        let _ = std::fs::remove_file(file);
        failed(error)
    })?;
    println!("exported to {}; who has that file can take this relay's place", file.display());
    Ok(())
}

fn import(directory: &Path, file: &Path) -> Result<(), CliError> {
    let failed = |error: io::Error| {
        CliError::Question(format!(
            "cannot read {}: {error}; name the file that `kamei relay state export` wrote",
            file.display()
        ))
    };
    let mut text = zeroize::Zeroizing::new(String::new());
    if file.as_os_str() == "-" {
        io::stdin().take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    } else {
        std::fs::File::open(file).map_err(failed)?.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    }
    let imported = state::import(directory, &text)?;
    let members = show::number_of(imported.members as u64, "member");
    println!("imported into {}: key {}, {members}", directory.display(), imported.fingerprint);
    println!("Start the relay here under the address that its agents know, and never there again.");
    Ok(())
}
