//! `kamei status`.

use super::{CliError, Socket, show};
use crate::control::{Client, ClientError, Status};
use crate::nat::{DropReason, PoolView};
use anstyle::AnsiColor;
use clap::Args;
use std::io::Write;
use std::time::{Duration, Instant};

/// How often `--wait` asks.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Length of the bar that shows how full a pool is.
const BAR: usize = 20;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    socket: Socket,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Wait until the gateway is ready, at most this long; exit code 4 if it is not by then
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u32>,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let client = Client::new(&arguments.socket.control);
    let deadline = Instant::now() + Duration::from_secs(arguments.wait.unwrap_or(0).into());
    let raw = loop {
        match client.status_text() {
            Ok(raw) => break raw,
            Err(ClientError::NoGateway { .. } | ClientError::Starting(_)) if Instant::now() < deadline => {
                std::thread::sleep(ASK_EVERY)
            }
            Err(error) => return Err(error.into()),
        }
    };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        out.write_all(&raw)?;
        return Ok(());
    }
    let status: Status = serde_json::from_slice(&raw)
        .map_err(|error| ClientError::Garbled { path: arguments.socket.control.clone(), what: error.to_string() })?;
    print(&status, &mut out)
}

fn print(status: &Status, out: &mut dyn Write) -> Result<(), CliError> {
    let (gateway, nat) = (&status.gateway, &status.nat);
    let up = show::span(Duration::from_secs(gateway.uptime_seconds));
    let ready = if gateway.ready { show::paint("ready", AnsiColor::Green) } else { "starting".to_owned() };
    writeln!(out, "{} {}, {ready}, up {up}", show::bold("kamei"), gateway.version)?;
    let (insides, outsides) = (gateway.insides.join(", "), gateway.outsides.join(", "));
    writeln!(out, "inside     {insides}  (TUN {}-in0)", gateway.tun)?;
    writeln!(out, "outside    {outsides}  (TUN {}-out)", gateway.tun)?;
    writeln!(out, "workers    {}", gateway.workers)?;
    writeln!(out, "offloads   {}", gateway.offload)?;
    writeln!(out, "out        {} packets, {}", show::count(nat.out.packets), show::bytes(nat.out.bytes))?;
    writeln!(out, "in         {} packets, {}", show::count(nat.inward.packets), show::bytes(nat.inward.bytes))?;
    writeln!(out, "super      {} packets longer than 1,500 bytes", show::count(gateway.super_packets))?;
    writeln!(out, "callbacks  {}", show::count(nat.callbacks))?;
    writeln!(out, "bindings   {} made since the start\n", show::count(nat.created))?;
    let mut pools = show::table(&["POOL", "RANGE", "USE", ">ACTIVE", ">DORMANT", ">QUARANTINED", ">FREE", ">CAPACITY"]);
    for pool in &nat.pools {
        pools.add_row(vec![
            pool.name.clone(),
            pool.range.to_string(),
            bar(pool),
            show::count(pool.active),
            show::count(pool.dormant),
            show::count(pool.quarantined),
            show::count(pool.free),
            show::count(pool.capacity),
        ]);
    }
    for line in pools.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    let dropped: Vec<_> = nat.drops.iter().filter(|(_, number)| **number > 0).collect();
    if dropped.is_empty() && gateway.write_errors == 0 {
        writeln!(out, "\nnothing dropped")?;
        return Ok(());
    }
    let mut drops = show::table(&[">DROPPED", "REASON", "MEANING"]);
    for (name, number) in dropped {
        let meaning = DropReason::ALL.iter().find(|reason| reason.name() == name).map_or("", |reason| reason.explain());
        drops.add_row(vec![show::count(*number), name.clone(), meaning.to_owned()]);
    }
    if gateway.write_errors > 0 {
        let number = show::count(gateway.write_errors);
        drops.add_row(vec![
            number,
            "write_errors".to_owned(),
            "The kernel did not take a translated packet.".to_owned(),
        ]);
    }
    writeln!(out)?;
    for line in drops.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn bar(pool: &PoolView) -> String {
    let used = pool.capacity.saturating_sub(pool.free);
    let filled = (u128::from(used) * BAR as u128).div_ceil(u128::from(pool.capacity.max(1)));
    let filled = usize::try_from(filled).unwrap_or_default().min(BAR);
    let colour = if filled * 10 >= BAR * 9 { AnsiColor::Red } else { AnsiColor::Green };
    format!("{}{}", show::paint(&"█".repeat(filled), colour), "░".repeat(BAR - filled))
}
