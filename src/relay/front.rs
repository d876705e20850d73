//! Ports that clients call.

use super::answer::Answer;
use super::call;
use super::connections::Origin;
use super::error::RelayError;
use super::proxy;
use super::shared::Relay;
use crate::config::{RelayConfig, ServerConfig};
use crate::session::RefuseReason;
use crate::splice;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 4096;
/// Time until the next try where no connection can be accepted: descriptors may come free.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Whom a client calls at a port.
#[derive(Clone, PartialEq, Eq)]
pub enum Called {
    /// This server.
    Server(Arc<ServerConfig>),
    /// The one for which it asks.
    Asked,
}

/// The ports of all servers, and those at which clients ask for one.
pub struct Fronts {
    /// Where ports are served, also those that a reload in another thread has opened.
    runtime: Handle,
    open: Mutex<BTreeMap<SocketAddr, Front>>,
}

/// A port, and who is called there. It closes when this is dropped; what was accepted goes on.
pub struct Front {
    listener: Arc<TcpListener>,
    called: Called,
    accepting: JoinHandle<()>,
}

impl Fronts {
    /// No port is open yet.
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, open: Mutex::default() }
    }

    /// Opens the ports of this configuration and closes all others. Ports that stay open lose nobody who waits there.
    ///
    /// # Errors
    /// One of them cannot be had; nothing has changed then.
    pub fn change(&self, relay: &Arc<Relay>, config: &RelayConfig) -> Result<(), RelayError> {
        let _inside = self.runtime.enter();
        let mut open = self.open.lock();
        let of_server = |server: &ServerConfig| {
            let called = Called::Server(Arc::new(server.clone()));
            server.sockets().map(|at| (at, called.clone())).collect::<Vec<_>>()
        };
        let asked = config.proxy.listen.iter().map(|at| (*at, Called::Asked));
        let wanted: BTreeMap<SocketAddr, Called> = config.servers.iter().flat_map(of_server).chain(asked).collect();
        let new = wanted.iter().filter(|(at, _)| !open.contains_key(at));
        let opened: Vec<(SocketAddr, Front)> = new
            .map(|(at, called)| {
                let is_everywhere = at.ip() == Ipv6Addr::UNSPECIFIED;
                let listener = if is_everywhere { everywhere(at.port()) } else { listen(*at) };
                Ok((*at, Front::start(relay, called.clone(), Arc::new(listener?))))
            })
            .collect::<Result<_, RelayError>>()?;
        open.retain(|at, _| wanted.contains_key(at));
        for (at, front) in open.iter_mut() {
            wanted.get(at).into_iter().for_each(|called| front.serve(relay, called.clone()));
        }
        open.extend(opened);
        Ok(())
    }

    /// Closes all of them.
    pub fn close(&self) {
        self.open.lock().clear();
    }
}

impl Front {
    /// Serves the clients that call there.
    pub fn start(relay: &Arc<Relay>, called: Called, listener: Arc<TcpListener>) -> Self {
        let (relay, accepted_at) = (Arc::clone(relay), Arc::clone(&listener));
        let accepting = match &called {
            Called::Server(server) => {
                // Those that wait to be accepted, too.
                splice::end_abruptly_if_killed(&*accepted_at);
                tokio::spawn(accept(relay, Arc::clone(server), accepted_at))
            }
            Called::Asked => tokio::spawn(proxy::accept(relay, accepted_at)),
        };
        Self { listener, called, accepting }
    }

    /// Who calls from now on is served so.
    pub fn serve(&mut self, relay: &Arc<Relay>, called: Called) {
        if self.called != called {
            *self = Self::start(relay, called, Arc::clone(&self.listener));
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Every IPv4 and IPv6 address; where the kernel has no IPv6, every IPv4 address.
fn everywhere(port: u16) -> Result<TcpListener, RelayError> {
    match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(RelayError::Port { error, .. })
            if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) =>
        {
            listen((Ipv4Addr::UNSPECIFIED, port).into())
        }
        listening => listening,
    }
}

/// Listens at an address that nobody else listens at; at `[::]` for IPv4 as well.
pub fn listen(address: SocketAddr) -> Result<TcpListener, RelayError> {
    // Sockets that share a port do not tell that another program has it: one that does not share it is tried first.
    let error = |error| RelayError::Port { address, error };
    drop(bind(address, (false, false)).map_err(error)?);
    bind(address, (true, false)).map_err(error)
}

/// Listens at one of this relay's virtual IPs: also at a port that the relay has at all addresses.
pub fn listen_at(address: SocketAddr) -> Result<TcpListener, RelayError> {
    bind(address, (true, true)).map_err(|error| RelayError::Port { address, error })
}

/// Whether it shares its port with other sockets of this relay, and whether the address is a virtual IP.
fn bind(address: SocketAddr, (shares_port, is_virtual): (bool, bool)) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(shares_port)?;
    if address.is_ipv6() {
        // An address of a prefix that is routed to this machine as a whole is nobody's single one.
        rustix::net::sockopt::set_ipv6_freebind(&socket, is_virtual)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves the clients that call at this port, until it is aborted.
async fn accept(relay: Arc<Relay>, server: Arc<ServerConfig>, listener: Arc<TcpListener>) {
    loop {
        match listener.accept().await {
            Ok((client, address)) => {
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                let from = (address, Origin::Called, Answer::None);
                tokio::spawn(call::serve(Arc::clone(&relay), Arc::clone(&server), client, from));
            }
            Err(error) => {
                relay.refuse(RefuseReason::OutOfResources);
                log::warn!("no client of server {} can be accepted: {error}", server.published);
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}
