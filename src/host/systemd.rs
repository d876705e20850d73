//! What systemd is told (sd_notify(3)): lines in a datagram to the socket that it names. Without systemd, nothing.

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The manager that started this process and wants to know how it is.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// As the environment says. What it says wrongly is logged and otherwise as if it were not said: the gateway is worth
    /// more than a word about it.
    pub fn from_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let socket = connect(&name)
            .inspect_err(|error| log::warn!("cannot talk to systemd at {}: {error}", name.to_string_lossy()))
            .ok();
        let variable = |name| std::env::var(name).ok();
        let ours = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC").filter(|_| ours).and_then(|text| text.parse().ok());
        Self { socket, watchdog: watchdog.map(Duration::from_micros) }
    }

    /// Virtual IPs are served; `status` is one line for people.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// Still well.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// How often it wants to hear that all is well, if it does: three times as often as it gets impatient.
    pub fn wants_to_hear(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some()).map(|patience| patience / 3)
    }

    /// Has systemd keep a descriptor for the next process of this service (`FileDescriptorStoreMax=`).
    pub fn keep(&self, name: &str, descriptor: impl AsFd) {
        let Some(socket) = &self.socket else { return };
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut room);
        let descriptors = [descriptor.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let lines = format!("FDSTORE=1\nFDNAME={name}");
        let sent = rustix::net::sendmsg(
            socket,
            &[IoSlice::new(lines.as_bytes())],
            &mut ancillary,
            rustix::net::SendFlags::empty(),
        );
        if let Err(error) = sent {
            log::warn!("systemd does not keep '{name}', a restart will have a gap: {error}");
        }
    }

    /// Has systemd give up what it keeps under this name.
    pub fn forget(&self, name: &str) {
        self.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    }

    fn say(&self, lines: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(lines.as_bytes())
        {
            log::warn!("systemd did not hear: {error}");
        }
    }
}

/// A path, or with `@` the name of an abstract socket.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_hears_at_a_path_and_at_an_abstract_name() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("notify");
        let name = format!("kamei-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (server, name) in [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}").into()),
        ] {
            let manager = Manager { socket: Some(connect(&name).unwrap()), watchdog: Some(Duration::from_secs(30)) };
            manager.ready("2 pools");
            let mut said = [0; 100];
            let length = server.recv(&mut said).unwrap();
            assert_eq!(&said[..length], b"READY=1\nSTATUS=2 pools");
            assert_eq!(manager.wants_to_hear(), Some(Duration::from_secs(10)));
        }
        assert!(connect(OsStr::new("/nowhere/at/all")).is_err());
        Manager::default().ready("nobody hears");
    }
}
