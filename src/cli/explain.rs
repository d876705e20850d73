//! `kamei explain`.

use super::error::CliError;
use super::socket::Socket;
use super::{host, input, show};
use crate::control::{Client, ClientError, ExplainRequest, protocol_number};
use crate::nat::Explanation;
use crate::selftest::own_addresses;
use anstyle::AnsiColor;
use clap::Args;
use std::io::{self, Write};
use std::net::IpAddr;

/// Nothing is sent and nothing changes: the running gateway decides about the packet as if it saw it now.
#[derive(Args)]
#[command(after_help = "Example: kamei explain 203.0.113.5 198.18.1.22 tcp/443")]
pub struct Arguments {
    #[command(flatten)]
    socket: Socket,
    /// SOURCE DESTINATION [PROTOCOL[/PORT]], or with an arrow and quoted: 'SOURCE -> DESTINATION tcp/443'; the protocol
    /// is tcp unless named
    #[arg(value_name = "PACKET", required = true, num_args = 1..)]
    packet: Vec<String>,
    /// Where it comes from: inside, outside or the name of an inside [default: as its source suggests]
    #[arg(long, value_name = "REALM")]
    realm: Option<String>,
    /// A packet that opens a connection: a TCP SYN, an ICMP query (the default)
    #[arg(long, conflicts_with = "established")]
    syn: bool,
    /// A packet of a connection that exists already
    #[arg(long)]
    established: bool,
    /// JSON instead of words
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let (source, destination, protocol) = packet(&arguments.packet.join(" ")).ok_or(CliError::Usage(
        "a packet is SOURCE DESTINATION [PROTOCOL[/PORT]], such as 10.0.0.11 203.0.113.5 tcp/443",
    ))?;
    let opens = arguments.syn || !arguments.established;
    let request = ExplainRequest { realm: arguments.realm.clone(), source, destination, protocol, opens };
    let client = Client::new(&arguments.socket.control);
    let own = own_addresses();
    let mut explanation =
        client.explain(&request)?.unless_own((source, destination), &|address| own.contains(&address));
    // The gateway itself is confined and runs no programs.
    explanation.host = host::in_the_way(&explanation, (source, destination), &client.status()?);
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &explanation).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    write(&explanation, &mut out).map_err(|error| ClientError::Output(error).into())
}

fn write(explanation: &Explanation, out: &mut dyn Write) -> io::Result<()> {
    for step in &explanation.steps {
        writeln!(out, "- {step}")?;
    }
    match (&explanation.to, explanation.source, explanation.destination) {
        _ if explanation.is_of_this_machine => {
            let passed_by = show::paint("not translated", AnsiColor::Yellow);
            writeln!(out, "It is {passed_by}: it is this machine's own affair.")?;
        }
        (Some(to), Some(source), Some(destination)) => {
            let passes = show::paint("passes", AnsiColor::Green);
            writeln!(out, "It {passes}: to {to}, as {source} → {destination}.")?;
        }
        _ => {
            let dropped = show::paint("dropped", AnsiColor::Red);
            writeln!(out, "It is {dropped}: {}.", explanation.reason.as_deref().unwrap_or_default())?;
        }
    }
    if let Some(hint) = &explanation.hint {
        writeln!(out, "{hint}.")?;
    }
    if !explanation.host.is_empty() {
        let but = show::paint("But on this machine", AnsiColor::Red);
        writeln!(out, "{but}:")?;
    }
    explanation.host.iter().try_for_each(|sentence| writeln!(out, "- {}", input::plain(sentence)))
}

/// The port tells people what they meant; who may call whom does not depend on it.
fn packet(text: &str) -> Option<(IpAddr, IpAddr, u8)> {
    let mut words = text.split_whitespace().filter(|word| !matches!(*word, "->" | "→" | "to"));
    let (source, destination) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (name, port) = words.next().map_or(("tcp", None), |word| match word.split_once('/') {
        Some((name, port)) => (name, Some(port)),
        None => (word, None),
    });
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let protocol = protocol_number(name)?;
    (is_port && words.next().is_none()).then_some((source, destination, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_can_be_written_with_and_without_an_arrow() {
        let expected = Some(([10, 0, 0, 1].into(), [192, 0, 2, 9].into(), 6));
        for good in [
            "10.0.0.1 192.0.2.9",
            "10.0.0.1 -> 192.0.2.9 tcp/443",
            "10.0.0.1 → 192.0.2.9 tcp",
            "10.0.0.1 to 192.0.2.9 6",
        ] {
            assert_eq!(packet(good), expected, "{good}");
        }
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1 -",
            "10.0.0.1 192.0.2.9 tpc",
            "10.0.0.1 192.0.2.9 tcp/x",
            "10.0.0.1 192.0.2.9 tcp/1 2",
        ] {
            assert_eq!(packet(bad), None, "{bad}");
        }
    }
}
