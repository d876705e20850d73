//! `kamei generate`: manual pages and completions, from what the program knows of itself.

use super::{Cli, CliError};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs;
use std::path::PathBuf;

/// The configuration file with every key explained, as it is installed.
const EXAMPLE: &str = include_str!("../../scripts/packaging/gateway.toml");

#[derive(Args)]
pub struct Arguments {
    /// Where to write them; made if it is not there
    directory: PathBuf,
}

/// Writes `kamei*.1`, `kamei.toml.5`, `kamei.bash`, `_kamei` and `kamei.fish`.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory)?;
    let command = Cli::command().name("kamei");
    clap_mangen::generate_to(command.clone(), directory)?;
    fs::write(directory.join("kamei.toml.5"), configuration_page())?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command.clone(), "kamei", directory)?;
    }
    Ok(())
}

/// The manual page of the configuration file: the example is the reference.
fn configuration_page() -> String {
    let mut page = Roff::new();
    page.control("TH", ["kamei.toml", "5", "", concat!("kamei ", env!("CARGO_PKG_VERSION"))]);
    page.control("SH", ["NAME"]).text([roman("kamei.toml - configuration of a kamei gateway")]);
    page.control("SH", ["SYNOPSIS"]).text([bold("/etc/kamei/gateway.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman("A file in TOML. What follows is one that explains every key.")]);
    page.control("PP", []).control("nf", []);
    for line in EXAMPLE.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    page.control("SH", ["SEE ALSO"]).text([bold("kamei"), roman("(1), "), bold("kamei-gateway"), roman("(1)")]);
    page.to_roff()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_every_subcommand_and_a_completion_for_every_shell() {
        let scratch = tempfile::tempdir().unwrap();
        run(&Arguments { directory: scratch.path().join("new") }).unwrap();
        let there = |name: &str| fs::read_to_string(scratch.path().join("new").join(name)).unwrap_or_default();
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(there(&format!("kamei-{name}.1")).contains(".SH"), "kamei-{name}.1");
            for completion in ["kamei.bash", "_kamei", "kamei.fish"] {
                assert!(there(completion).contains(name), "{name} in {completion}");
            }
        }
        assert!(there("kamei.toml.5").contains("contacts\\-per\\-binding"));
    }
}
