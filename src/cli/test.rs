//! `kamei test`.

use super::error::CliError;
use super::socket::Socket;
use super::{input, show};
use crate::selftest::{self, Outcome, Request, Step, Test};
use anstyle::AnsiColor;
use clap::Args;
use std::io::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

/// A terminal and a peer of the test's own, in network namespaces, call each other through the running gateway. Nothing
/// leaves by a card, one binding is made and released, and nobody else's packets are touched. It does not prove that cables
/// and cards work, or that peers have a route for the pool.
#[derive(Args)]
#[command(after_help = "Example: kamei test --terminal eth1")]
pub struct Arguments {
    #[command(flatten)]
    socket: Socket,
    /// Only behind this inside interface [default: behind each]
    #[arg(long, value_name = "IF")]
    terminal: Option<String>,
    /// The terminal's address, which no host may have [default: one that nobody answers for]; one of each family
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<IpAddr>,
    /// The peer's address; who really has it is not reached by anybody behind this gateway while the test lasts [default: one
    /// for documentation, or one of the outside network that nobody answers for]; one of each family
    #[arg(long, value_name = "ADDRESS")]
    peer: Vec<IpAddr>,
    /// The TCP port that is called, both ways
    #[arg(long, value_name = "PORT", default_value_t = 443, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// How many seconds each step is waited for
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    wait: u64,
    /// JSON instead of words
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(arguments: Arguments) -> Result<(), CliError> {
    let request = Request {
        control: arguments.socket.control,
        interface: arguments.terminal,
        address: arguments.address,
        peer: arguments.peer,
        port: arguments.port,
        patience: Duration::from_secs(arguments.wait),
        stop: super::trace::stopped_by_signal()?,
    };
    let mut out = io::stdout().lock();
    let mut written = Ok(());
    let mut each = |test: &Test, step: &Step| {
        if !arguments.json && written.is_ok() {
            written = write(test, step, &mut out);
        }
    };
    let report = selftest::run(&request, &mut each)?;
    written?;
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    }
    match report.tests.iter().filter(|test| test.steps.iter().any(|step| step.outcome == Outcome::Failed)).count() {
        0 if report.tests.is_empty() => Err(CliError::Usage("there is no pool: nothing to test")),
        0 => Ok(()),
        number => Err(CliError::Stopped(number)),
    }
}

fn write(test: &Test, step: &Step, out: &mut dyn Write) -> io::Result<()> {
    if test.steps.len() == 1 {
        writeln!(out, "{}, {}", test.interface, test.family)?;
    }
    let word = match step.outcome {
        Outcome::Ok => show::paint("ok   ", AnsiColor::Green),
        Outcome::Skipped => show::paint("-    ", AnsiColor::Yellow),
        Outcome::Failed => show::paint("FAILS", AnsiColor::Red),
    };
    writeln!(out, "{word}  {:<8}  {}", step.step, input::plain(&step.text))?;
    for why in &step.why {
        writeln!(out, "       likely: {}", input::plain(why))?;
    }
    out.flush()
}
