//! Ports that clients call.

use super::call;
use super::error::RelayError;
use super::shared::Relay;
use crate::config::ServerConfig;
use crate::session::RefuseReason;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 4096;
/// Time until the next try where no connection can be accepted: descriptors may come free.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Opens the ports of all servers.
pub fn open(relay: &Arc<Relay>) -> Result<JoinSet<()>, RelayError> {
    let mut tasks = JoinSet::new();
    for server in &relay.config.servers {
        for listener in listeners(server)? {
            tasks.spawn(accept(Arc::clone(relay), server.clone(), listener));
        }
    }
    Ok(tasks)
}

fn listeners(server: &ServerConfig) -> Result<Vec<TcpListener>, RelayError> {
    if server.addresses.is_empty() {
        return everywhere(server.port).map(|listener| vec![listener]);
    }
    server.addresses.iter().map(|address| listen(SocketAddr::new(*address, server.port))).collect()
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

/// Serves whoever calls at this port, until it is aborted.
pub async fn accept(relay: Arc<Relay>, server: ServerConfig, listener: TcpListener) {
    let server = Arc::new(server);
    loop {
        match listener.accept().await {
            Ok((client, address)) => {
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                tokio::spawn(call::serve(Arc::clone(&relay), Arc::clone(&server), client, address));
            }
            Err(error) => {
                relay.refuse(RefuseReason::OutOfResources);
                log::warn!("port {} of server {}: {error}", server.port, server.published);
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}
