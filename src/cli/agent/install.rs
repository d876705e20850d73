//! `kamei agent install`: the line that a relay has printed becomes a service.

use super::flags::Run;
use crate::cli::error::CliError;
use crate::cli::role;
use crate::config::{AgentConfig, AgentDraft, RoleDraft, role_of};
use crate::identity::Invitation;
use clap::{Args, Parser};
use rustix::fs::{Gid, Mode};
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The unit that the package brings.
const UNIT: &str = "kamei-agent.service";
/// Who may read the configuration: a proxy's password may stand there. The package makes it.
const GROUP: &str = "kamei-agent";
/// More than this is no line.
const LONGEST: u64 = 64 * 1024;

#[derive(Args)]
pub struct Arguments {
    /// A file with the line; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    line: PathBuf,
    /// Change nothing: say what would be written and done
    #[arg(long)]
    dry_run: bool,
    /// The directory that is the root of the machine to be; there, the service is enabled but not started
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    root: PathBuf,
}

/// The pasted line, without `kamei agent`.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Line {
    #[command(flatten)]
    run: Run,
}

/// What is done and undone.
struct Plan<'a> {
    arguments: &'a Arguments,
    file: PathBuf,
    state: PathBuf,
    text: String,
}

/// Writes the configuration, enables the unit, spends the invitation, starts the unit: what fails undoes what was before it.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let line = read_line(&arguments.line)?;
    let run = parse(&line)?;
    let invitation = run.invitation()?.ok_or_else(|| wrong("the line has no --invite; paste it whole"))?;
    let state = arguments.root.join("var/lib/kamei-agent");
    let config = run.draft()?.check(state.clone(), role::control("agent"));
    let config = config.map_err(|problems| CliError::Config { file: None, problems })?;
    let text = written(&config, &run)?;
    let plan = Plan { arguments, file: arguments.root.join("etc/kamei/agent.toml"), state, text };
    plan.examine()?;
    if arguments.dry_run {
        return plan.describe();
    }
    plan.carry_out(config, invitation)
}

fn wrong(what: impl Into<String>) -> CliError {
    CliError::Question(what.into())
}

fn read_line(path: &Path) -> Result<String, CliError> {
    let failed = |error| CliError::File { path: path.to_owned(), error };
    let mut text = String::new();
    if path.as_os_str() == "-" {
        if io::stdin().is_terminal() {
            println!("Paste the line that `kamei relay invite` has printed:");
            io::stdin().read_line(&mut text)?;
        } else {
            io::stdin().take(LONGEST).read_to_string(&mut text)?;
        }
    } else {
        File::open(path).map_err(failed)?.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    }
    Ok(text)
}

/// The flags of the line.
fn parse(line: &str) -> Result<Run, CliError> {
    let mut words: Vec<&str> = line.split_whitespace().filter(|word| *word != "\\").collect();
    if words.is_empty() {
        return Err(wrong("nothing was pasted; `kamei relay invite NAME --publish …` on the relay prints the line"));
    }
    let begin = words
        .windows(2)
        .position(|pair| pair.first().is_some_and(|word| word.ends_with("kamei")) && pair.get(1) == Some(&"agent"));
    if let Some(begin) = begin {
        words.drain(..begin + 2);
    }
    if line.contains(['"', '\'', '`', '$']) {
        return Err(wrong("no shell reads this line: write it without quotes and variables"));
    }
    let Line { run } = Line::try_parse_from(words).map_err(|error| {
        // Of several lines, the first says what is wrong; it does not repeat the invitation.
        let text = error.render().to_string();
        wrong(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
    })?;
    let role = &run.role;
    if role.config.is_some() || role.state_dir.is_some() || role.control.is_some() {
        return Err(wrong("the service has its own --config, --state-dir and --control; leave them out"));
    }
    Ok(run)
}

/// The configuration file that says the same.
fn written(config: &AgentConfig, run: &Run) -> Result<String, CliError> {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let relays: Vec<String> = config.relays.iter().map(|relay| quoted(&relay.to_string())).collect();
    let mut text = format!(
        "# Written by `kamei agent install`; man 5 kamei-agent.toml explains every key.\nrelay = [{}]\n",
        relays.join(", ")
    );
    if let Some(via) = &run.via {
        text.push_str(&format!("via = {}\n", quoted(via)));
    }
    if let Some(metrics) = &config.metrics {
        text.push_str(&format!("metrics = {}\n", quoted(&metrics.to_string())));
    }
    for publish in &config.publish {
        let (name, target) = (quoted(publish.published.name.as_str()), quoted(&publish.target.to_string()));
        text.push_str(&format!("\n[[publish]]\nname = {name}\ntarget = {target}\n"));
    }
    let reads = AgentDraft::parse(&text).is_ok() && role_of(&text) == "agent";
    if reads { Ok(text) } else { Err(wrong("the line cannot be written as a configuration file")) }
}

impl Plan<'_> {
    /// Whether it can be done, before anything is.
    fn examine(&self) -> Result<(), CliError> {
        let there = |path: &Path| path.symlink_metadata().is_ok();
        if there(&self.file) {
            return Err(refuse(format!("{} is there already; an agent of this machine has it", self.file.display())));
        }
        let is_empty = fs::read_dir(&self.state).map_or(true, |mut entries| entries.next().is_none());
        if there(&self.state) && !is_empty {
            let state = self.state.display();
            return Err(refuse(format!("{state} has an agent's key already; `systemctl enable --now {UNIT}` runs it")));
        }
        let units = ["usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system"];
        if !units.iter().any(|folder| there(&self.arguments.root.join(folder).join(UNIT))) {
            return Err(refuse(format!("there is no {UNIT} here; install the package of kamei")));
        }
        Ok(())
    }

    fn describe(&self) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        // A proxy's password is for the file alone.
        let mut shown = self.text.lines().map(|line| if line.starts_with("via = ") { "via = …" } else { line });
        writeln!(out, "would write {}:", self.file.display())?;
        shown.try_for_each(|line| writeln!(out, "  {line}"))?;
        writeln!(out, "would run: {}", shown_command(&self.systemctl(&["enable", UNIT])))?;
        writeln!(out, "would join the relay, which spends the invitation, with a key in {}", self.state.display())?;
        if self.is_running_machine() {
            writeln!(out, "would run: {}", shown_command(&self.systemctl(&["start", UNIT])))?;
        }
        writeln!(out, "nothing was changed: this was a dry run")?;
        Ok(())
    }

    fn carry_out(&self, config: AgentConfig, invitation: Invitation) -> Result<(), CliError> {
        let relay = config.relays.first().map(ToString::to_string).unwrap_or_default();
        let mut undo = Undo { plan: self, is_enabled: false, is_done: false };
        self.write().map_err(|error| refuse(format!("cannot write {}: {error}", self.file.display())))?;
        self.ask(&["enable", UNIT])?;
        undo.is_enabled = true;
        let name = crate::agent::join(config, invitation)?;
        undo.is_done = true;
        println!("joined {relay} as {name}; the configuration is {}", self.file.display());
        if self.is_running_machine() {
            // It has joined: that it does not start is another matter, and mended there.
            let started = self.run(&["start", UNIT]);
            started.map_err(|what| CliError::NoHistory(format!("{what}; it is installed: systemctl status {UNIT}")))?;
            println!("{UNIT} is enabled and runs; `kamei agent status` says how it is");
        } else {
            println!("{UNIT} is enabled");
        }
        Ok(())
    }

    fn is_running_machine(&self) -> bool {
        self.arguments.root == Path::new("/")
    }

    /// Whole or not at all, never readable for others.
    fn write(&self) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory)?;
        let part = self.file.with_extension("toml.part");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(self.text.as_bytes())?;
        if let Ok(group) = crate::control::group_number(GROUP) {
            rustix::fs::fchown(&file, None, Some(Gid::from_raw(group)))?;
            rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR | Mode::RGRP)?;
        }
        file.sync_all()?;
        fs::rename(&part, &self.file)
    }

    fn systemctl(&self, words: &[&str]) -> Command {
        let mut command = Command::new("systemctl");
        if !self.is_running_machine() {
            command.arg(format!("--root={}", self.arguments.root.display()));
        }
        command.args(words);
        command
    }

    fn ask(&self, words: &[&str]) -> Result<(), CliError> {
        self.run(words).map_err(refuse)
    }

    /// One line of what went wrong.
    fn run(&self, words: &[&str]) -> Result<(), String> {
        let mut command = self.systemctl(words);
        let shown = shown_command(&command);
        let ran = command.output().map_err(|error| format!("cannot run `{shown}`: {error}"))?;
        if ran.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ran.stderr);
        let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        Err(format!("`{shown}` has failed: {said}"))
    }
}

fn refuse(what: String) -> CliError {
    CliError::NotInstalled(what)
}

fn shown_command(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Takes back what was done, unless all was.
struct Undo<'a> {
    plan: &'a Plan<'a>,
    is_enabled: bool,
    is_done: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        if self.is_enabled {
            let _ = self.plan.run(&["disable", UNIT]);
        }
        // The key of an agent that has joined nothing is of no use; the directory was not there, or empty.
        let _ = fs::remove_dir_all(&self.plan.state);
        let _ = fs::remove_file(&self.plan.file);
        let _ = fs::remove_file(self.plan.file.with_extension("toml.part"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<String, String> {
        let run = parse(text).map_err(|error| error.to_string())?;
        let said = |problems| CliError::Config { file: None, problems }.to_string();
        let draft = run.draft().map_err(|error| error.to_string())?;
        let config = draft.check("/x".into(), "/y".into()).map_err(said)?;
        written(&config, &run).map_err(|error| error.to_string())
    }

    #[test]
    fn the_pasted_line_becomes_a_file_without_the_invitation() {
        let text = line(
            "sudo kamei agent --relay relay.example.com:443 --invite kamei1-x \\\n --publish web=10.0.0.5:80 --via http://a:b\u{fc}@p:1",
        );
        let text = text.unwrap();
        assert!(!text.contains("kamei1-"), "{text}");
        let config = AgentDraft::parse(&text).unwrap().check("/x".into(), "/y".into()).unwrap();
        assert_eq!(config.relays[0].to_string(), "relay.example.com:443");
        assert_eq!(config.publish[0].target.to_string(), "10.0.0.5:80");
        assert_eq!(config.via.unwrap().user.unwrap().1, "b\u{fc}");
        assert_eq!(line("--relay a:1 --publish web=b:2").unwrap().matches("[[publish]]").count(), 1);
    }

    #[test]
    fn what_is_no_line_is_told() {
        for (text, expected) in [
            ("", "nothing was pasted"),
            ("kamei agent --relay 'a:1'", "without quotes"),
            ("kamei agent --rely a:1", "unexpected argument"),
            ("kamei agent --relay a:1 --publish web=b:2 --state-dir /x", "leave them out"),
            ("kamei agent --relay a:1 --publish web=HOST:PORT", "'HOST:PORT' is no HOST:PORT"),
        ] {
            let said = line(text).unwrap_err();
            assert!(said.contains(expected) && said.lines().count() == 1, "{text}: {said}");
        }
    }
}
