//! `kamei cleanup`.

use super::CliError;
use crate::config::DEFAULT_TUN;
use clap::Args;

#[derive(Args)]
pub struct Arguments {
    /// Base name of the TUN devices of the gateway that was killed
    #[arg(long, value_name = "NAME", default_value = DEFAULT_TUN)]
    tun: String,
}

/// Removes what a dead gateway left in the kernel.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let cleaned = crate::gateway::kernel::clean_up(&arguments.tun)?;
    println!("{cleaned}");
    Ok(())
}
