//! `kamei trace`.

use super::error::CliError;
use super::show;
use super::socket::Socket;
use crate::control::{Client, ClientError, Ends, Line, PacketLine, Watch};
use crate::nat::DropReason;
use crate::time::Time;
use anstyle::AnsiColor;
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    socket: Socket,
    #[command(flatten)]
    which: Which,
    /// JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Which packets.
#[derive(Args)]
pub struct Which {
    /// Only packets of this terminal; its own address or its virtual IP
    #[arg(long, value_name = "ADDRESS")]
    terminal: Option<IpAddr>,
    /// Only packets of this peer
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<IpAddr>,
    /// Only packets that are dropped
    #[arg(long)]
    drops: bool,
    /// End after so many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// See also the packets that a fast path in the kernel would carry: they take the slow one until this ends
    #[arg(long)]
    bypass_fast_path: bool,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let client = Client::new(&arguments.socket.control);
    let mut out = io::stdout().lock();
    let (mut packets, mut left_out) = (0_u64, 0_u64);
    let mut unfinished = Vec::new();
    let mut each = |piece: &[u8]| {
        unfinished.extend_from_slice(piece);
        let whole = unfinished.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let mut text = Vec::new();
        for line in unfinished.get(..whole).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            let read: Line = serde_json::from_slice(line).map_err(|error| client.garbled(error))?;
            match &read {
                Line::Packet(_) => packets += 1,
                Line::LeftOut { left_out: more } => left_out += more,
            }
            if arguments.json {
                text.extend_from_slice(line);
            } else {
                text.extend_from_slice(said(&read).as_bytes());
            }
        }
        unfinished.drain(..whole);
        out.write_all(&text).and_then(|()| out.flush()).map_err(ClientError::Output)
    };
    let stop = stopped_by_signal()?;
    let watch = arguments.which.watch(None);
    let fast = has_fast_path(&client)?;
    client.trace(&watch, &stop, &mut || begun(&watch, fast), &mut each)?;
    ended(&stop, watch.count, packets, left_out);
    Ok(())
}

impl Which {
    /// As the gateway is asked.
    pub fn watch(&self, snap: Option<usize>) -> Watch {
        Watch {
            terminal: self.terminal,
            peer: self.peer,
            drops: self.drops,
            count: self.count,
            snap,
            bypass_fast_path: self.bypass_fast_path,
        }
    }
}

/// Set by Ctrl-C and SIGTERM, which end watching in good order.
pub fn stopped_by_signal() -> Result<Arc<AtomicBool>, CliError> {
    let stop = Arc::default();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Whether there are packets that pass the workers by.
pub fn has_fast_path(client: &Client) -> Result<bool, ClientError> {
    Ok(client.status()?.gateway.fast_path.mode != "off")
}

/// Says on standard error that the gateway shows packets from now on.
pub fn begun(watch: &Watch, has_fast_path: bool) {
    let fast = match (has_fast_path, watch.bypass_fast_path) {
        (false, _) => "",
        (true, true) => "; the fast path is bypassed until this ends",
        (true, false) => "; packets that the fast path carries are not shown, --bypass-fast-path shows them",
    };
    let _ = writeln!(io::stderr(), "kamei: watching, Ctrl-C ends it{fast}");
}

/// Says on standard error how it went.
pub fn ended(stop: &AtomicBool, count: Option<u64>, packets: u64, left_out: u64) {
    let enough = count.is_some_and(|count| packets >= count) || stop.load(Ordering::Relaxed);
    let why = if enough { "" } else { "; the gateway has stopped" };
    let _ = writeln!(io::stderr(), "kamei: {packets} packets, {left_out} more left out{why}");
}

fn said(line: &Line) -> String {
    match line {
        Line::LeftOut { left_out } => format!("... {left_out} more left out\n"),
        Line::Packet(packet) => said_of(packet),
    }
}

fn said_of(packet: &PacketLine) -> String {
    let ends = |ends: &Ends| format!("{} > {}", ends.source, ends.destination);
    let PacketLine { at, at_micros, from, protocol, length, .. } = packet;
    let before = packet.before.as_ref().map(ends).unwrap_or_default();
    let mut line = format!("{} {from} {protocol} {length} B  {before}", clock(*at, *at_micros));
    match (&packet.reason, &packet.to) {
        (Some(reason), _) => {
            let known = DropReason::ALL.iter().find(|known| known.name() == reason);
            let meaning = known.map_or("", |known| known.explain());
            line.push_str(&format!("  {} {reason}: {meaning}", show::paint("dropped,", AnsiColor::Red)));
        }
        (None, Some(to)) if packet.after.is_empty() => {
            line.push_str(&format!("  → {to}: held back until its rest has come"))
        }
        (None, to) => {
            let after: Vec<String> = packet.after.iter().map(ends).collect();
            line.push_str(&format!("  → {} {}", to.as_deref().unwrap_or_default(), after.join(", ")));
        }
    }
    if let Some(event) = &packet.event {
        line.push_str(&format!("  (binding {event})"));
    }
    line.push('\n');
    line
}

/// The time of day here; `micros` may be missing.
fn clock(at: Time, micros: u64) -> String {
    let (micros, digits) =
        if micros == 0 { (at.as_millis().saturating_mul(1000), "%T.%3f") } else { (micros, "%T.%6f") };
    let here = |at: jiff::Timestamp| at.to_zoned(jiff::tz::TimeZone::system()).strftime(digits).to_string();
    jiff::Timestamp::from_microsecond(micros.try_into().unwrap_or(i64::MAX)).map_or_else(|_| "?".to_owned(), here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_before_and_after_and_why() {
        let ends = |source: &str, destination: &str| Ends { source: source.into(), destination: destination.into() };
        let packet = PacketLine {
            at: Time::from_millis(1_700_000_000_123),
            at_micros: 1_700_000_000_123_456,
            from: "inside".into(),
            to: Some("outside".into()),
            protocol: "tcp syn".into(),
            length: 60,
            before: Some(ends("10.0.0.1:5", "192.0.2.9:80")),
            after: vec![ends("198.18.0.1:5", "192.0.2.9:80")],
            reason: None,
            event: Some("created".into()),
        };
        let line = said_of(&packet);
        let behind = ".123456 inside tcp syn 60 B  10.0.0.1:5 > 192.0.2.9:80  → outside 198.18.0.1:5 > 192.0.2.9:80  (binding created)\n";
        assert!(line.ends_with(behind), "{line}");
        let dropped =
            PacketLine { to: None, after: Vec::new(), reason: Some("not_contacted".into()), event: None, ..packet };
        let line = said_of(&dropped);
        assert!(
            line.contains("dropped,") && line.ends_with("not_contacted: The peer may not call this virtual IP.\n"),
            "{line}"
        );
    }
}
