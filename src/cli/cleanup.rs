//! `kamei cleanup`.

use super::{CliError, Socket};
use crate::config::DEFAULT_TUN;
use crate::fastpath;
use crate::gateway::{self, kernel};
use clap::Args;
use std::path::Path;

#[derive(Args)]
pub struct Arguments {
    /// Base name of the TUN devices of the gateway that was killed
    #[arg(long, value_name = "NAME", default_value = DEFAULT_TUN)]
    tun: String,
    #[command(flatten)]
    socket: Socket,
}

/// Removes what a dead gateway left in the kernel.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let cleaned = kernel::clean_up(&arguments.tun, &gateway::undo_file(&arguments.socket.control, &arguments.tun))?;
    let path = Path::new("/sys/fs/bpf");
    let fast = fastpath::remove(&arguments.tun).map_err(|error| CliError::File { path: path.to_owned(), error })?;
    let fast = if fast { "; took the programs off" } else { "" };
    println!(
        "removed {} rules, {} routes, {} neighbours; put back {} settings{fast}",
        cleaned.rules, cleaned.routes, cleaned.neighbours, cleaned.settings
    );
    Ok(())
}
