//! `kamei check`.

use super::error::CliError;
use super::input;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Arguments {
    /// The configuration file
    file: PathBuf,
}

/// Checks a file; nothing of the host is looked at.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let file = &arguments.file;
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
