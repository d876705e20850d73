//! `kamei doctor`.

use super::error::CliError;
use super::{input, show};
use crate::doctor::{Finding, Grade, examine};
use anstyle::AnsiColor;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

#[derive(Args)]
pub struct Arguments {
    /// Configuration file of the gateway that is, or is to be, on this host; without it only the kernel is looked at
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Examines the host; an error if something is wrong with it.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let config = arguments.config.as_ref().map(|file| {
        let problems = |problems| CliError::Config { file: Some(file.clone()), problems };
        input::read_config(file)?.check().map_err(problems)
    });
    let mut findings = examine(config.transpose()?.as_ref(), arguments.config.as_deref());
    findings.sort_by_key(|finding| finding.grade);
    let mut out = std::io::stdout().lock();
    for Finding { grade, text } in &findings {
        let word = match grade {
            Grade::Fine => show::paint("fine ", AnsiColor::Green),
            Grade::Note => show::paint("note ", AnsiColor::Yellow),
            Grade::Wrong => show::paint("WRONG", AnsiColor::Red),
        };
        writeln!(out, "{word}  {}", input::plain(text))?;
    }
    match findings.iter().filter(|finding| finding.grade == Grade::Wrong).count() {
        0 => Ok(()),
        number => Err(CliError::Unfit(number)),
    }
}
