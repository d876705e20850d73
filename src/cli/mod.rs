//! The command line: one file a subcommand.
//!
//! Exit codes: 0 done, 1 this host cannot do it or it failed while running, 2 wrong usage or configuration (trying again
//! will not help), 3 refused by the gateway (no such binding, for example), 4 no gateway answers on the control socket, 5
//! this kernel cannot do it (trying again will not help either).

#![allow(clippy::print_stdout, reason = "the command line is the one place that prints")]

#[cfg(feature = "relay")]
mod agent;
mod bindings;
mod capture;
mod check;
mod cleanup;
mod doctor;
mod drops;
mod error;
mod explain;
mod flags;
mod flows;
mod gateway;
mod generate;
mod history;
mod host;
mod input;
mod logging;
mod progress;
#[cfg(feature = "relay")]
mod relay;
mod reload;
#[cfg(feature = "relay")]
mod role;
mod show;
mod socket;
mod state;
mod status;
mod table;
mod test;
mod top;
mod trace;
mod which;

use crate::control::ClientError;
use clap::{CommandFactory, Parser, Subcommand};
use error::CliError;
use std::process::ExitCode;

/// A virtual-IP gateway: every hidden host gets an address that the outside can call back.
#[derive(Parser)]
#[command(version, about, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done · 1 this host cannot do it, or it failed while running · 2 wrong usage or configuration · \
3 refused by the gateway · 4 no gateway answers · 5 this kernel cannot do it

Example, on a router with the hidden hosts behind eth1 and the world behind eth0:
  kamei gateway --inside eth1 --outside eth0 --pool 198.18.0.0/16";

#[derive(Subcommand)]
enum Command {
    /// Run the gateway (as root), until SIGTERM or SIGINT
    Gateway(gateway::Arguments),
    /// Run a relay, or ask it: servers behind firewalls that admit nothing are called here
    #[cfg(feature = "relay")]
    Relay(relay::Arguments),
    /// Run an agent: behind a firewall, it publishes servers at a relay
    #[cfg(feature = "relay")]
    Agent(agent::Arguments),
    /// Check a configuration file and say everything that is wrong with it
    Check(check::Arguments),
    /// List, show, pin and release bindings
    Bindings(bindings::Arguments),
    /// Say who had a virtual IP at a time, or what happened to bindings (as root)
    History(history::Arguments),
    /// Have the gateway, relay or agent read its configuration anew and change over to it, at once or not at all; as SIGHUP does
    Reload(reload::Arguments),
    /// Say how the gateway is, or the relay or agent that runs here
    Status(status::Arguments),
    /// Watch traffic, pools, drops and the liveliest bindings; of a relay, its servers and connections
    Top(top::Arguments),
    /// Show packets as they pass: before and after, or why they are dropped
    Trace(trace::Arguments),
    /// Say which peers and terminals dropped packets are of, and why they are dropped
    Drops(drops::Arguments),
    /// List the flows that the kernel carries, or say why one is not among them
    Flows(flows::Arguments),
    /// Say what would become of a packet, and why
    Explain(explain::Arguments),
    /// Make a call and a callback through the running gateway and say where it stops (as root)
    Test(test::Arguments),
    /// Write packets as they pass to a pcapng file, both sides of the translation
    Capture(capture::Arguments),
    /// Export, import or check the bindings on disk
    State(state::Arguments),
    /// Remove the rules and routes that a gateway which was killed left behind (they block its inside until then)
    Cleanup(cleanup::Arguments),
    /// Examine this host and say what is wrong with it for a gateway (as root)
    Doctor(doctor::Arguments),
    /// Write manual pages and completions for bash, zsh and fish into a directory
    Generate(generate::Arguments),
}

/// Parses the arguments, runs the subcommand, says what went wrong.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let result = match cli.command {
        Command::Gateway(arguments) => gateway::run(arguments),
        #[cfg(feature = "relay")]
        Command::Relay(arguments) => relay::run(arguments),
        #[cfg(feature = "relay")]
        Command::Agent(arguments) => agent::run(arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Bindings(arguments) => bindings::run(arguments),
        Command::History(arguments) => history::run(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Drops(arguments) => drops::run(&arguments),
        Command::Flows(arguments) => flows::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Test(arguments) => test::run(arguments),
        Command::Capture(arguments) => capture::run(&arguments),
        Command::State(arguments) => state::run(&arguments),
        Command::Cleanup(arguments) => cleanup::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments, Cli::command()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has had enough, as `kamei bindings | head`: not an error.
        Err(CliError::Output(error) | CliError::Client(ClientError::Output(error)))
            if error.kind() == std::io::ErrorKind::BrokenPipe =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            show::complain(&error.to_string());
            ExitCode::from(error.code())
        }
    }
}

/// Help and version as clap has them; of an error the one line that matters, with its tip.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.exit()
        }
        _ => {
            let text = error.render().to_string();
            let mut parts = text.split("\n\n");
            let what = parts.next().unwrap_or_default().trim_start_matches("error: ");
            let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
            let tip = parts.find_map(|part| part.trim().strip_prefix("tip: "));
            show::complain(&match tip {
                Some(tip) => format!("{what}; {}", tip.lines().next().unwrap_or_default()),
                None => format!("{what}; see `kamei help`"),
            });
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastpath::FastPathError;
    use crate::gateway::GatewayError;
    use std::io;

    #[test]
    fn what_the_system_says_has_no_numbers() {
        let said =
            "cannot read /etc: Is a directory (os error 21); give a file (as said: Permission denied (os error 13))";
        let plain = "cannot read /etc: Is a directory; give a file (as said: Permission denied)";
        assert_eq!(show::without_numbers(said), plain);
        assert_eq!(show::without_numbers(plain), plain);
    }

    /// The unit's RestartPreventExitStatus= goes by it.
    #[test]
    fn what_a_kernel_will_never_do_has_a_code_of_its_own() {
        let code = |kind: io::ErrorKind| {
            CliError::Gateway(GatewayError::FastPath(FastPathError::Abilities(kind.into()))).code()
        };
        assert_eq!((code(io::ErrorKind::NotFound), code(io::ErrorKind::OutOfMemory)), (5, 1));
        for unit in [
            include_str!("../../scripts/packaging/kamei.service"),
            include_str!("../../scripts/packaging/kamei@.service"),
        ] {
            assert!(unit.lines().any(|line| line == "RestartPreventExitStatus=2 5"), "{unit}");
        }
    }
}
