//! `kamei drops`.

use super::error::CliError;
use super::show;
use super::socket::Socket;
use super::table::{Cell, Table};
use crate::control::{Client, ClientError, DropLine, Drops, DropsRequest, QUEUE_FULL};
use crate::fastpath;
use crate::nat::DropReason;
use crate::time::Time;
use clap::Args;
use std::io::Write;
use std::net::IpAddr;

/// Nothing has to be switched on before: the gateway counts by address all the time.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    socket: Socket,
    /// Only those of this peer, terminal or virtual IP
    #[arg(value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// All since the start [default: those of the last ten minutes or a little more]
    #[arg(long)]
    since_start: bool,
    /// So many rows of either table at most
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let client = Client::new(&arguments.socket.control);
    let Arguments { address, since_start, limit, .. } = *arguments;
    let request = DropsRequest { address, since_start, limit: Some(limit) };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        out.write_all(&client.drops_text(&request)?)?;
        return Ok(());
    }
    write(&client.drops(&request)?, &request, &mut out).map_err(|error| CliError::Client(ClientError::Output(error)))
}

fn write(drops: &Drops, request: &DropsRequest, out: &mut dyn Write) -> std::io::Result<()> {
    let all: u64 = drops.reasons.values().sum();
    let within = show::span(drops.now - drops.since);
    let since =
        if request.since_start { format!("since the start, {within} ago") } else { format!("in the last {within}") };
    match all {
        0 => writeln!(out, "No packets were dropped {since}.")?,
        1 => writeln!(out, "1 packet was dropped {since}.")?,
        _ => writeln!(out, "{} were dropped {since}.", show::number_of(all, "packet"))?,
    }
    let mut table = Table::new([">PACKETS", "REASON", "MEANING"]);
    if request.address.is_none() && all > 0 {
        let mut reasons: Vec<_> = drops.reasons.iter().collect();
        reasons.sort_by_key(|(_, packets)| std::cmp::Reverse(**packets));
        for (name, packets) in reasons {
            let known = DropReason::ALL.iter().find(|reason| reason.name() == name);
            row(&mut table, *packets, name, known.map_or("", |reason| reason.explain()));
        }
        writeln!(out)?;
        table.write(show::colours(), out)?;
    }
    let is_of_nobody = drops.peers.is_empty() && drops.terminals.is_empty();
    match request.address {
        Some(address) if is_of_nobody => writeln!(out, "None of them is known to be of {address}.")?,
        _ if is_of_nobody => {}
        _ => {
            by_address("By peer", &drops.peers, drops.now, out)?;
            by_address("By terminal or virtual IP", &drops.terminals, drops.now, out)?;
        }
    }
    if drops.left_out > 0 {
        writeln!(out, "\n{} more rows; --limit shows more of them.", drops.left_out)?;
    }
    if request.address.is_none() && !drops.kernel.is_empty() {
        writeln!(out, "\nDropped in the kernel since its programs were loaded; it does not say whose:\n")?;
        let mut table = Table::new([">PACKETS", "REASON", "MEANING"]);
        for (name, packets) in &drops.kernel {
            let meaning = if name == "queue_full" { QUEUE_FULL } else { fastpath::meaning(name) };
            row(&mut table, *packets, name, meaning);
        }
        table.write(show::colours(), out)?;
    }
    Ok(())
}

fn by_address(title: &str, lines: &[DropLine], now: Time, out: &mut dyn Write) -> std::io::Result<()> {
    let mut table = Table::new([">PACKETS", "PEER", "REASON", "TERMINAL", "VIRTUAL IP", ">LAST"]);
    for line in lines {
        let at_least = if line.may_be_more { "≥ " } else { "" };
        let several = line.terminal.is_none() && line.virtual_ip.is_none();
        let own = |address: Option<IpAddr>| address.map_or(if several { "several" } else { "-" }.to_owned(), text);
        table.row([
            format!("{at_least}{}", show::count(line.packets)).into(),
            line.peer.map_or_else(|| "several".to_owned(), text).into(),
            line.reason.as_str().into(),
            own(line.terminal).into(),
            own(line.virtual_ip).into(),
            format!("{} ago", show::span(now - line.last)).into(),
        ]);
    }
    writeln!(out, "\n{title}:\n")?;
    table.write(show::colours(), out)
}

fn text(address: IpAddr) -> String {
    address.to_string()
}

/// A row whose meaning goes on below where the screen is narrow.
fn row(table: &mut Table<3>, packets: u64, name: &str, meaning: &str) {
    let room = show::width().unwrap_or(80).saturating_sub(MEANING_BEGINS).max(30);
    let mut before: [Cell; 2] = [show::count(packets).into(), name.into()];
    for line in wrapped(meaning, room) {
        let [packets, name] = std::mem::replace(&mut before, ["".into(), "".into()]);
        table.row([packets, name, line.into()]);
    }
}

/// Columns before a meaning: a count, and the longest reason.
const MEANING_BEGINS: usize = 32;

/// In lines of so many characters at most, if no word is longer.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_fit_into_eighty_columns() {
        let line = |peer: Option<[u8; 4]>, virtual_ip: Option<[u8; 4]>, may_be_more| DropLine {
            packets: 12_000,
            may_be_more,
            reason: "contact_forgotten".to_owned(),
            from: "outside".to_owned(),
            peer: peer.map(IpAddr::from),
            terminal: virtual_ip.map(|_| IpAddr::from([10, 0, 0, 5])),
            virtual_ip: virtual_ip.map(IpAddr::from),
            last: Time::from_secs(990),
        };
        let drops = Drops {
            since: Time::from_secs(340),
            now: Time::from_secs(1000),
            reasons: DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), 7)).collect(),
            kernel: [("queue_full".to_owned(), 3), ("undeclared_way".to_owned(), 2)].into(),
            peers: vec![line(Some([203, 0, 113, 5]), None, true)],
            terminals: vec![line(Some([203, 0, 113, 5]), Some([198, 18, 100, 100]), false)],
            left_out: 4,
        };
        let mut text = Vec::new();
        write(&drops, &DropsRequest::default(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for said in ["in the last 11m 0s", "≥ 12.0 k  203.0.113.5  contact_forgotten  several", "4 more rows"] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }
}
