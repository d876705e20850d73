//! Why a relay does not run.

use crate::control::ControlError;
use crate::host::NetlinkError;
use crate::host::confine::ConfineError;
use crate::identity::{IdentityError, RegisterError};
use ipnet::IpNet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a relay does not run.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The system refuses something that always works.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A port cannot be had.
    #[error("cannot listen at {address}: {error}{}", advice(.error, .address))]
    Port {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// A pool cannot be made this machine's.
    #[error("pool {pool}: {error}; virtual IPs are for root, or for who has CAP_NET_ADMIN")]
    Pool {
        /// Which.
        pool: IpNet,
        /// What the kernel said.
        error: NetlinkError,
    },
    /// A file of its state cannot be read.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another one has the state.
    #[error("another relay uses the state directory {}; give each its own by --state-dir", .0.display())]
    Locked(PathBuf),
    /// Its key or certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its register of members.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// It cannot be confined.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// The group that may look at the control socket.
    #[error("{0}")]
    Group(String),
    /// Its control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
}

fn advice(error: &io::Error, address: &SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("; another program has the port: ss -lntp 'sport = :{}'", address.port())
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 are for root, or for who has CAP_NET_BIND_SERVICE".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address".to_owned(),
        _ => String::new(),
    }
}
