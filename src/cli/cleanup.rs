//! `kamei cleanup`.

use super::error::CliError;
use super::socket::Socket;
use crate::config::DEFAULT_TUN;
use crate::fastpath;
use crate::host;
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
    let cleaned = host::clean_up(
        &arguments.tun,
        &host::undo_file(&arguments.socket.control, &arguments.tun),
        fastpath::has_left,
    )?;
    let path = Path::new("/sys/fs/bpf");
    let fast = fastpath::remove(&arguments.tun).map_err(|error| CliError::File { path: path.to_owned(), error })?;
    let fast = if fast { "; took the programs off" } else { "" };
    println!(
        "removed {} rules, {} routes, {} neighbours; put back {} settings{fast}",
        cleaned.rules, cleaned.routes, cleaned.neighbours, cleaned.settings
    );
    let forwards = ["ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"].map(|key| {
        std::fs::read_to_string(Path::new("/proc/sys/net").join(key)).is_ok_and(|value| value.trim() != "0")
    });
    let families = match forwards {
        [true, true] => "IPv4 and IPv6",
        [true, false] => "IPv4",
        [false, true] => "IPv6",
        [false, false] => return Ok(()),
    };
    println!(
        "this machine forwards {families}: what comes from inside goes out untranslated from now on, unless the firewall or a \
         gateway stops it"
    );
    Ok(())
}
