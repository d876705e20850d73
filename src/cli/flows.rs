//! `kamei flows`.

use super::error::CliError;
use super::show;
use super::socket::Socket;
use super::table::Table;
use crate::control::{Client, ClientError, Flows, FlowsRequest, protocol_number};
use clap::Args;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

/// A flow is all that goes between two addresses in one direction: ports are never changed, so the kernel's table has none.
#[derive(Args)]
#[command(after_help = "Example: kamei flows 10.0.0.11 203.0.113.5 tcp/443")]
pub struct Arguments {
    #[command(flatten)]
    socket: Socket,
    /// Only those of this terminal, virtual IP or peer
    #[arg(value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// Only those between the two, and why packets between them take the slow path
    #[arg(value_name = "OTHER")]
    other: Option<IpAddr>,
    /// Packets of this protocol and port, as tcp/443
    #[arg(value_name = "PROTOCOL[/PORT]", value_parser = protocol)]
    protocol: Option<(u8, Option<u16>)>,
    /// So many at most, those that carry most (10000 at most)
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let Arguments { address, other, limit, .. } = *arguments;
    let (protocol, port) = arguments.protocol.map_or((None, None), |(protocol, port)| (Some(protocol), port));
    let request = FlowsRequest { address, other, protocol, port, limit: Some(limit) };
    let client = Client::new(&arguments.socket.control);
    let mut out = std::io::stdout().lock();
    if arguments.json {
        out.write_all(&client.flows_text(&request)?)?;
        return Ok(());
    }
    write(&client.flows(&request)?, &request, show::width().unwrap_or(80), &mut out)
        .map_err(|error| CliError::Client(ClientError::Output(error)))
}

fn protocol(text: &str) -> Result<(u8, Option<u16>), String> {
    let (name, port) = text.split_once('/').map_or((text, None), |(name, port)| (name, Some(port)));
    let wrong = || format!("'{text}' is no protocol; write it like tcp, udp/53 or 47");
    let number = protocol_number(name).ok_or_else(wrong)?;
    Ok((number, port.map(str::parse).transpose().map_err(|_| wrong())?))
}

/// From so many columns on, all there is to tell has room.
const WIDE: usize = 120;

fn write(flows: &Flows, request: &FlowsRequest, columns: usize, out: &mut dyn Write) -> std::io::Result<()> {
    let of = match (request.address, request.other) {
        (Some(address), Some(other)) => format!(" between {address} and {other}"),
        (Some(address), None) => format!(" of {address}"),
        _ => String::new(),
    };
    match flows.found {
        0 => writeln!(out, "No flows{of} are in the kernel (of {}, {}).", show::count(flows.all), flows.way)?,
        _ => {
            let told = flows.flows.len() as u64;
            let more = if told < flows.found { format!(", {told} are shown") } else { String::new() };
            let are = if flows.found == 1 { "is" } else { "are" };
            let found = show::number_of(flows.found, "flow");
            writeln!(out, "{found}{of} {are} in the kernel ({}){more}.\n", flows.way)?;
            if columns < WIDE { narrow(flows, out)? } else { wide(flows, out)? }
        }
    }
    if !flows.why.is_empty() {
        writeln!(out)?;
    }
    flows.why.iter().try_for_each(|sentence| writeln!(out, "{sentence}"))
}

fn narrow(flows: &Flows, out: &mut dyn Write) -> std::io::Result<()> {
    let mut table = Table::new(["TERMINAL", "WAY", "PEER", ">AGE", ">IDLE", ">PACKETS", ">RATE"]);
    for flow in &flows.flows {
        table.row([
            flow.terminal.to_string().into(),
            flow.direction.as_str().into(),
            flow.peer.to_string().into(),
            seconds(flow.age_seconds).into(),
            seconds(flow.idle_seconds).into(),
            show::count(flow.packets).into(),
            format!("{}/s", show::bytes(flow.bytes_per_second)).into(),
        ]);
    }
    table.write(show::colours(), out)
}

fn wide(flows: &Flows, out: &mut dyn Write) -> std::io::Result<()> {
    let mut table = Table::new([
        "TERMINAL",
        "INSIDE",
        "VIRTUAL IP",
        "WAY",
        "PEER",
        ">AGE",
        ">IDLE",
        ">PACKETS",
        ">BYTES",
        ">PACKETS/S",
        ">RATE",
    ]);
    for flow in &flows.flows {
        table.row([
            flow.terminal.to_string().into(),
            flow.realm.as_str().into(),
            flow.virtual_ip.to_string().into(),
            flow.direction.as_str().into(),
            flow.peer.to_string().into(),
            seconds(flow.age_seconds).into(),
            seconds(flow.idle_seconds).into(),
            show::count(flow.packets).into(),
            show::bytes(flow.bytes).into(),
            show::count(flow.packets_per_second).into(),
            format!("{}/s", show::bytes(flow.bytes_per_second)).into(),
        ]);
    }
    table.write(show::colours(), out)
}

fn seconds(seconds: u64) -> String {
    show::span(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::FlowLine;

    #[test]
    fn a_protocol_may_have_a_port() {
        assert_eq!(protocol("tcp/443"), Ok((6, Some(443))));
        assert_eq!(protocol("47"), Ok((47, None)));
        for wrong in ["", "tpc", "tcp/", "tcp/x", "tcp/70000", "/1"] {
            assert!(protocol(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn flows_fit_the_screen() {
        let line = FlowLine {
            terminal: [10, 100, 100, 100].into(),
            realm: "inside".to_owned(),
            virtual_ip: [198, 118, 100, 100].into(),
            peer: [203, 100, 113, 105].into(),
            direction: "out".to_owned(),
            age_seconds: 3599,
            idle_seconds: 119,
            packets: 123_456,
            bytes: 1 << 30,
            packets_per_second: 999,
            bytes_per_second: 1000 << 20,
        };
        let flows = Flows { way: "tc".into(), all: 9, found: 2, flows: vec![line], why: vec!["So it is.".into()] };
        for columns in [80, 200] {
            let mut text = Vec::new();
            write(&flows, &FlowsRequest::default(), columns, &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.lines().all(|line| line.chars().count() <= columns), "{text}");
            assert!(text.starts_with("2 flows are in the kernel (tc), 1 are shown.\n"), "{text}");
            assert_eq!(text.contains("198.118.100.100"), columns > 80, "{text}");
        }
    }
}
