//! Why the gateway did not start, or ended.

use crate::control::ControlError;
use crate::device::tap::TunError;
use crate::fastpath::FastPathError;
use crate::host::KernelError;
use crate::host::confine::ConfineError;
use crate::nat::SettingsError;
use crate::store::StoreError;
use std::io;
use std::path::PathBuf;

/// Why the gateway did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Setting up the host's network.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The TUN devices.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// Translation in the kernel.
    #[error(transparent)]
    FastPath(#[from] FastPathError),
    /// What the translator cannot hold.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The state file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state directory.
    #[error("state directory {path}: {error}; choose another with --state-dir")]
    State {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The group of the control socket.
    #[error("{0}")]
    Group(String),
    /// The system would not take back what the process no longer needs.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// Something the system would not give.
    #[error("{what}: {error}; this machine may be out of descriptors, threads or memory")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A worker ended: the process must not go on without it.
    #[error("{0}; inside packets are blocked until the gateway is started again")]
    WorkerEnded(String),
}

impl GatewayError {
    /// Whether it is this kernel that lacks something: trying again will not help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::FastPath(error) if error.is_final())
    }
}
