//! Who may touch the kernel: one gateway a name, one set-up at a time.
//!
//! Both are abstract unix sockets: such a name belongs to one network namespace and dies with the process that holds it.

use super::KernelError;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// How long a set-up waits for another one to finish.
const PATIENCE: Duration = Duration::from_secs(10);

/// The right to be *the* gateway of a `--tun` name in this network namespace, for as long as it lives.
#[derive(Debug)]
pub struct Claim {
    _socket: UnixDatagram,
}

impl Claim {
    /// Takes the name `tun`.
    ///
    /// # Errors
    /// [`KernelError::Running`] if another process holds it.
    pub fn take(tun: &str) -> Result<Self, KernelError> {
        match bind(&gateway_name(tun)) {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(KernelError::Running(tun.to_owned())),
            Err(source) => Err(KernelError::System { what: "claim the gateway's name", source }),
        }
    }

    /// Whether a gateway of that name is running, here or in another process.
    pub(super) fn is_taken(tun: &str) -> bool {
        let Ok(address) = SocketAddr::from_abstract_name(gateway_name(tun)) else { return false };
        UnixDatagram::unbound().and_then(|socket| socket.connect_addr(&address)).is_ok()
    }
}

/// Held while the network of this namespace is looked at and changed, so that two gateways cannot
/// both find a pool free.
#[derive(Debug)]
pub(super) struct SetUpLock {
    _socket: UnixDatagram,
}

impl SetUpLock {
    /// Waits up to ten seconds for its turn.
    pub(super) fn take() -> Result<Self, KernelError> {
        let start = Instant::now();
        loop {
            match bind("kamei/set-up") {
                Ok(socket) => return Ok(Self { _socket: socket }),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
                Err(source) => return Err(KernelError::System { what: "take the set-up lock", source }),
            }
            if start.elapsed() > PATIENCE {
                return Err(KernelError::Busy(PATIENCE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn gateway_name(tun: &str) -> String {
    format!("kamei/gateway/{tun}")
}

fn bind(name: &str) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_once_and_free_again_when_dropped() {
        let name = format!("t{}", std::process::id());
        assert!(!Claim::is_taken(&name));
        let claim = Claim::take(&name).expect("free");
        assert!(Claim::is_taken(&name));
        assert!(matches!(Claim::take(&name), Err(KernelError::Running(_))));
        drop(claim);
        assert!(Claim::take(&name).is_ok());
    }
}
