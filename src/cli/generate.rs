//! `kamei generate`: manual pages and completions, from what the program knows of itself.

use super::error::CliError;
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs;
use std::path::PathBuf;

/// A configuration file with every key explained, as it is installed.
struct Example {
    /// Of the manual page.
    name: &'static str,
    role: &'static str,
    text: &'static str,
}

/// Those of all roles.
const EXAMPLES: [Example; 3] = [
    Example { name: "kamei.toml", role: "gateway", text: include_str!("../../scripts/packaging/gateway.toml") },
    Example { name: "kamei-relay.toml", role: "relay", text: include_str!("../../scripts/packaging/relay.toml") },
    Example { name: "kamei-agent.toml", role: "agent", text: include_str!("../../scripts/packaging/agent.toml") },
];

#[derive(Args)]
pub struct Arguments {
    /// Where to write them; made if it is not there
    directory: PathBuf,
}

/// Writes `kamei*.1`, `kamei*.toml.5`, `kamei.bash`, `_kamei` and `kamei.fish`.
pub fn run(arguments: &Arguments, command: Command) -> Result<(), CliError> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory)?;
    let command = command.name("kamei");
    clap_mangen::generate_to(command.clone(), directory)?;
    for example in &EXAMPLES {
        fs::write(directory.join(format!("{}.5", example.name)), example.page())?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command.clone(), "kamei", directory)?;
    }
    Ok(())
}

impl Example {
    /// The manual page of the configuration file: the comments of the example explain the keys.
    fn page(&self) -> String {
        let Self { name, role, text } = self;
        let article = if *role == "agent" { "an" } else { "a" };
        let mut page = Roff::new();
        page.control("TH", [*name, "5", "", concat!("kamei ", env!("CARGO_PKG_VERSION"))]);
        // Flags and values are not to be cut in two.
        page.control("nh", []);
        page.control("SH", ["NAME"]).text([roman(format!("{name} - configuration of {article} kamei {role}"))]);
        page.control("SH", ["SYNOPSIS"]).text([bold(format!("/etc/kamei/{role}.toml"))]);
        page.control("SH", ["DESCRIPTION"]).text([roman("A file in TOML.")]).control("PP", []);
        for paragraph in text.split("\n\n") {
            describe(paragraph, &mut page);
        }
        page.control("SH", ["FILES"]);
        page.text([
            bold(format!("/usr/share/doc/kamei/examples/{role}.toml")),
            roman(" has the same explanations, to be copied. Beside it are pages for operators."),
        ]);
        page.control("SH", ["SEE ALSO"]);
        page.text([bold("kamei"), roman("(1), "), bold(format!("kamei-{role}")), roman("(1)")]);
        page.to_roff()
    }
}

/// A paragraph of the example: a title, or keys behind the comment that explains them.
fn describe(paragraph: &str, page: &mut Roff) {
    let mut comment = Vec::new();
    let mut is_explained = false;
    for line in paragraph.lines() {
        if let Some(title) = line.strip_prefix("# --- ") {
            page.control("SH", [title.trim_end_matches(['-', ' ']).to_uppercase().as_str()]);
        } else if let Some((shown, what)) = setting(line) {
            if shown.starts_with('[') {
                page.control("SS", [shown]);
            } else {
                page.control("TP", []).text([bold(shown), roman(what)]);
            }
            explain(&comment, "IP", page);
            is_explained = true;
            comment.clear();
        } else {
            comment.push(line.trim_start_matches('#'));
        }
    }
    if !is_explained {
        explain(&comment, "PP", page);
        page.control("PP", []);
    }
}

/// A line that shows a key or the head of a section, and what its value is.
fn setting(line: &str) -> Option<(&str, &'static str)> {
    let (shown, what) = match (line.strip_prefix("# "), line.strip_prefix('#')) {
        (Some(shown), _) => (shown, " (an example)"),
        (None, Some(shown)) => (shown, " (the default)"),
        (None, None) => (line, " (needed)"),
    };
    let is_key = |key: &str| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let shows = shown.starts_with('[') || shown.split_once(" = ").is_some_and(|(key, _)| is_key(key));
    shows.then_some((shown, what))
}

/// A comment: flowing text, commands as they stand, and `paragraph` for an empty line.
fn explain(comment: &[&str], paragraph: &str, page: &mut Roff) {
    for line in comment {
        match line.strip_prefix("   ") {
            Some(command) => {
                page.control("RS", []).control("nf", []).text([roman(command)]).control("fi", []).control("RE", [])
            }
            None if line.is_empty() => page.control(paragraph, []),
            None => page.text([roman(line.trim_start())]),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    #[test]
    fn there_is_a_page_for_every_subcommand_and_a_completion_for_every_shell() {
        let scratch = tempfile::tempdir().unwrap();
        run(&Arguments { directory: scratch.path().join("new") }, Cli::command()).unwrap();
        let there = |name: &str| fs::read_to_string(scratch.path().join("new").join(name)).unwrap_or_default();
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(there(&format!("kamei-{name}.1")).contains(".SH"), "kamei-{name}.1");
            for completion in ["kamei.bash", "_kamei", "kamei.fish"] {
                assert!(there(completion).contains(name), "{name} in {completion}");
            }
        }
        assert!(there("kamei.toml.5").contains("contacts\\-per\\-binding"));
        assert!(there("kamei-relay.toml.5").contains("of\\-client"));
        assert!(there("kamei-agent.toml.5").contains("dial\\-time"));
    }

    #[test]
    fn the_page_of_a_configuration_has_every_key_of_the_example_and_all_that_is_said_of_it() {
        for (example, least) in EXAMPLES.iter().zip([50, 20, 10]) {
            let page = example.page().replace("\\-", "-").replace("\\(aq", "'");
            let mut keys = 0;
            for line in example.text.lines() {
                let text = line.trim_start_matches(['#', ' ']);
                let is_key = text.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
                if is_key {
                    keys += 1;
                    assert!(page.contains(&format!(".TP\n\\fB{text}\\fR")), "{text} has no entry");
                } else if !line.starts_with("# ---") {
                    assert!(page.contains(text), "not in the page: {text}");
                }
            }
            assert!(keys > least, "{}: {keys}", example.name);
        }
    }
}
