//! `kamei status`.

use super::error::CliError;
use super::show;
use super::table::{Cell, Table};
use super::which::Which;
use crate::control::{Client, ClientError, GatewayStatus, RealmStatus, Status};
use crate::fastpath;
use crate::nat::{DropReason, PoolView};
use crate::store::history::HistoryStatus;
use anstyle::AnsiColor;
use clap::Args;
use std::io::Write;
use std::time::{Duration, Instant};

/// How often `--wait` asks.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Addresses of other hosts that are named.
const OCCUPIED: usize = 8;
/// Length of the bar that shows how full a pool is.
const BAR: usize = 20;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Wait until it is ready, at most this long; exit code 4 if it is not by then
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u32>,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let deadline = Instant::now() + Duration::from_secs(arguments.wait.unwrap_or(0).into());
    let ask = || -> Result<(Client, Vec<u8>), CliError> {
        let client = arguments.which.client()?;
        let raw = client.status_text()?;
        Ok((client, raw))
    };
    let (client, raw) =
        loop {
            match ask() {
                Err(CliError::Client(
                    ClientError::NoGateway { .. } | ClientError::Starting(_) | ClientError::Busy(_),
                )) if Instant::now() < deadline => std::thread::sleep(ASK_EVERY),
                asked => break asked?,
            }
        };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        out.write_all(&raw)?;
        return Ok(());
    }
    let garbled = |error: serde_json::Error| client.not_understood(error);
    match client.role() {
        #[cfg(feature = "relay")]
        "relay" => super::relay::status(serde_json::from_slice(&raw).map_err(garbled)?, &mut out),
        #[cfg(feature = "relay")]
        "agent" => super::agent::status(serde_json::from_slice(&raw).map_err(garbled)?, &mut out),
        _ => print(&serde_json::from_slice::<Status>(&raw).map_err(garbled)?, &mut out),
    }
}

fn print(status: &Status, out: &mut dyn Write) -> Result<(), CliError> {
    let (gateway, nat) = (&status.gateway, &status.nat);
    let up = show::span(Duration::from_secs(gateway.uptime_seconds));
    let ready = if gateway.ready { show::paint("ready", AnsiColor::Green) } else { "starting".to_owned() };
    writeln!(out, "{} {}, {ready}, up {up}", show::bold("kamei"), gateway.version)?;
    writeln!(out, "inside     {}", insides(gateway))?;
    writeln!(out, "outside    {}", gateway.outsides.join(", "))?;
    if gateway.devices.len() > 1 {
        let names: Vec<&str> = gateway.devices.iter().map(|device| device.name.as_str()).collect();
        writeln!(out, "devices    {}", names.join(", "))?;
    }
    writeln!(out, "workers    {}", gateway.workers)?;
    writeln!(out, "offloads   {}", gateway.offload)?;
    writeln!(out, "out        {} packets, {}", show::count(nat.out.packets), show::bytes(nat.out.bytes))?;
    writeln!(out, "in         {} packets, {}", show::count(nat.inward.packets), show::bytes(nat.inward.bytes))?;
    writeln!(out, "super      {} packets longer than 1,500 bytes", show::count(gateway.super_packets))?;
    let fast = &gateway.fast_path;
    let left: u64 = fast.slow.values().sum();
    let numbers = [fast.flows, fast.hits, left].map(show::count);
    let [flows, hits, left] = &numbers;
    match fast.mode.as_str() {
        "off" => writeln!(out, "fast path  off")?,
        mode => writeln!(out, "fast path  {mode}: {flows} flows, {hits} packets; {left} left to the slow path")?,
    }
    writeln!(out, "callbacks  {}", show::count(nat.callbacks))?;
    let [active, dormant, quarantined] =
        [status.bindings.active, status.bindings.dormant, status.bindings.quarantined].map(show::count);
    let created = show::count(nat.created);
    writeln!(
        out,
        "bindings   {active} active, {dormant} dormant, {quarantined} quarantined; {created} made since the start\n"
    )?;
    say_history(&gateway.history, out)?;
    if let Some(why) = &gateway.state_file.failing {
        let failing = show::paint("cannot be written", AnsiColor::Red);
        writeln!(out, "state file {failing}: {why}\n")?;
    }
    if !gateway.occupied.is_empty() {
        writeln!(out, "not given  {}\n", occupied(gateway))?;
    }
    let mut pools = Table::new(["POOL", "RANGE", "USE", ">ACTIVE", ">DORMANT", ">QUARANTINED", ">FREE", ">CAPACITY"]);
    for pool in &nat.pools {
        let name = if pool.draining { format!("{} (draining)", pool.name) } else { pool.name.clone() };
        pools.row([
            name.into(),
            pool.range.to_string().into(),
            bar(pool),
            show::count(pool.active).into(),
            show::count(pool.dormant).into(),
            show::count(pool.quarantined).into(),
            if pool.draining { "-".into() } else { show::count(pool.free).into() },
            show::count(pool.capacity).into(),
        ]);
    }
    pools.write(show::colours(), out)?;
    let dropped: Vec<_> = nat.drops.iter().filter(|(_, number)| **number > 0).collect();
    let noted: Vec<_> = fast.noted.iter().filter(|(_, number)| **number > 0).collect();
    if dropped.is_empty() && noted.is_empty() && gateway.write_errors == 0 {
        writeln!(out, "\nnothing dropped")?;
        return Ok(());
    }
    let mut drops = Table::new([">DROPPED", "REASON", "MEANING"]);
    for (name, number) in dropped {
        let meaning = DropReason::ALL.iter().find(|reason| reason.name() == name).map_or("", |reason| reason.explain());
        drops.row([show::count(*number).into(), name.as_str().into(), meaning.into()]);
    }
    for (name, number) in noted {
        drops.row([show::count(*number).into(), name.as_str().into(), fastpath::meaning(name).into()]);
    }
    if gateway.write_errors > 0 {
        let number = show::count(gateway.write_errors);
        drops.row([number.into(), "write_errors".into(), "The kernel did not take a translated packet.".into()]);
    }
    writeln!(out)?;
    Ok(drops.write(show::colours(), out)?)
}

/// Interfaces; where there are several insides, with the names of those.
fn insides(gateway: &GatewayStatus) -> String {
    if gateway.realms.len() < 2 {
        return gateway.insides.join(", ");
    }
    let named = |realm: &RealmStatus| format!("{} ({})", realm.interfaces.join(", "), realm.name);
    gateway.realms.iter().map(named).collect::<Vec<_>>().join(", ")
}

/// Said where the operator should know of it.
fn say_history(history: &HistoryStatus, out: &mut dyn Write) -> std::io::Result<()> {
    if let Some(why) = &history.failing {
        writeln!(out, "history    {}: {why}\n", show::paint("cannot be written", AnsiColor::Red))?;
    }
    if history.removed > 0 || history.lost > 0 {
        let [entries, most, removed, lost] =
            [history.entries, history.most, history.removed, history.lost].map(show::count);
        writeln!(out, "history    {entries} entries of {most}; {removed} removed, {lost} missing\n")?;
    }
    Ok(())
}

/// Addresses of pools that other hosts have.
fn occupied(gateway: &GatewayStatus) -> String {
    let all = &gateway.occupied;
    let named = all
        .iter()
        .take(OCCUPIED)
        .map(|host| format!("{} (in use by {} on '{}')", host.address, host.hardware, host.interface));
    let mut text = named.collect::<Vec<_>>().join(", ");
    if all.len() > OCCUPIED {
        text += &format!(", {} more", all.len() - OCCUPIED);
    }
    match gateway.claims_passed_over {
        0 => text,
        more => format!("{text}; {} further claims not heeded", show::count(more)),
    }
}

fn bar(pool: &PoolView) -> Cell {
    let used = pool.capacity.saturating_sub(pool.free);
    let filled = (u128::from(used) * BAR as u128).div_ceil(u128::from(pool.capacity.max(1)));
    let filled = usize::try_from(filled).unwrap_or_default().min(BAR);
    let colour = if filled * 10 >= BAR * 9 { AnsiColor::Red } else { AnsiColor::Green };
    Cell::styled(format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled)), colour.on_default())
}
