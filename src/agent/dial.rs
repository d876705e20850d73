//! Connects to a host by name or address.

use crate::config::HostPort;
use crate::splice;
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpStream, lookup_host};

/// Connects to a host, trying its addresses one after the other.
///
/// # Errors
/// What the system said of the last one, with its number.
pub async fn dial(host: &HostPort) -> io::Result<TcpStream> {
    let unresolved =
        |error| io::Error::new(io::ErrorKind::HostUnreachable, format!("{host} does not resolve: {error}"));
    let addresses: Vec<SocketAddr> = lookup_host((host.host.as_str(), host.port)).await.map_err(unresolved)?.collect();
    let mut failed = unresolved(io::Error::other("no addresses"));
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                splice::prepare(&stream)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_system_said_keeps_its_number() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = dial(&closed.to_string().parse().unwrap()).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
    }
}
