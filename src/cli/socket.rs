//! Which gateway to ask.

use crate::config::DEFAULT_CONTROL;
use clap::Args;
use std::path::PathBuf;

/// Which gateway to ask.
#[derive(Args)]
pub struct Socket {
    /// Control socket of the gateway
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL, global = true)]
    pub control: PathBuf,
}
