//! Sends, answers and carries packets for `scripts/bench`; prints what it measured as a line of JSON.

#![allow(clippy::print_stdout, reason = "its output is read by scripts/bench")]
#![allow(missing_docs, reason = "a program; its help says what there is")]

mod bpf;
mod frames;
mod ping;
mod tun;

use clap::{Parser, Subcommand};
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

#[derive(Parser)]
#[command(about = "Sends, answers and carries packets for scripts/bench")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Put 60-byte frames into the receive path of an interface, as fast as they are taken
    Inject(frames::Inject),
    /// Drop what `inject` sends where it comes in by an interface, in XDP, until ended
    Drop {
        /// The interface
        interface: String,
    },
    /// Answer UDP datagrams, until ended
    Echo {
        /// Where to listen
        address: SocketAddr,
    },
    /// Send UDP datagrams to an `echo`, one at a time: round-trip times
    Ping {
        /// Where the `echo` is
        address: SocketAddr,
        /// For so many seconds
        seconds: f64,
    },
    /// Open a TUN device as kamei does and write back every packet as it was read, until ended
    Loop {
        /// Name of the device
        device: String,
    },
}

fn main() -> Result<(), Box<dyn Error>> {
    match Arguments::parse().task {
        Task::Inject(inject) => inject.run(),
        Task::Drop { interface } => frames::drop_at(&interface),
        Task::Echo { address } => ping::echo(address),
        Task::Ping { address, seconds } => ping::ping(address, seconds),
        Task::Loop { device } => tun::carry(&device),
    }
}

/// `aa:bb:cc:dd:ee:ff`, as `ip link` prints it.
fn hardware_address(text: &str) -> Result<[u8; 6], String> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|part| u8::from_str_radix(part, 16)).collect();
    bytes.ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| format!("'{text}' is no hardware address"))
}

/// The ends of the injected datagrams.
#[derive(clap::Args)]
struct Ends {
    /// Hardware address the frames come from
    #[arg(long, value_parser = hardware_address)]
    from_mac: [u8; 6],
    /// Hardware address they go to: the gateway's
    #[arg(long, value_parser = hardware_address)]
    to_mac: [u8; 6],
    /// Address they come from
    #[arg(long)]
    from: Ipv4Addr,
    /// Address they go to
    #[arg(long)]
    to: Ipv4Addr,
}
