//! Through a proxy to the relay: HTTP CONNECT or SOCKS5, with a password where it asks for one (C15).

use super::dial::dial;
use crate::config::{HostPort, Via, ViaKind};
use crate::splice;
use data_encoding::BASE64;
use std::io;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

/// Size of the head of the proxy's answer.
const LARGEST_HEAD: usize = 8 * 1024;
/// Headers of it.
const MOST_HEADERS: usize = 64;

/// A TCP connection to the relay, through the proxy if there is one.
pub async fn reach(relay: &HostPort, via: Option<&Via>) -> io::Result<TcpStream> {
    let Some(via) = via else { return dial(relay).await };
    let stream = dial(&via.proxy).await?;
    let reached = match via.kind {
        ViaKind::Http => http(stream, relay, via.user.as_ref()).await,
        ViaKind::Socks5 => socks5(stream, relay, via.user.as_ref()).await,
    };
    reached.map_err(|error| io::Error::new(error.kind(), format!("proxy {via}: {error}")))
}

/// RFC 9110 §9.3.6, RFC 7617.
async fn http(mut stream: TcpStream, relay: &HostPort, user: Option<&(String, String)>) -> io::Result<TcpStream> {
    let proof = user.map(|(name, password)| {
        let both = BASE64.encode(format!("{name}:{password}").as_bytes());
        format!("Proxy-Authorization: Basic {both}\r\n")
    });
    let request = format!("CONNECT {relay} HTTP/1.1\r\nHost: {relay}\r\n{}\r\n", proof.unwrap_or_default());
    stream.write_all(request.as_bytes()).await?;
    // Nothing behind the head is read: the relay's TLS.
    let head = splice::take_head(&mut stream, LARGEST_HEAD).await;
    let head = head.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => io::Error::other("its answer is too long"),
        _ => error,
    })?;
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let parsed = answer.parse(&head).is_ok_and(|status| status.is_complete());
    match answer.code.filter(|_| parsed) {
        Some(200..=299) => Ok(stream),
        Some(407) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            if user.is_some() { "it refuses name and password (407)" } else { "it wants a name and a password (407)" },
        )),
        Some(code) => Err(io::Error::other(format!("it refuses to connect to {relay} ({code})"))),
        None => Err(io::Error::other("its answer is not HTTP")),
    }
}

/// RFC 1928, RFC 1929. The proxy resolves the relay's name.
async fn socks5(stream: TcpStream, relay: &HostPort, user: Option<&(String, String)>) -> io::Result<TcpStream> {
    let target = (relay.host.as_str(), relay.port);
    let reached = match user {
        Some((name, password)) => Socks5Stream::connect_with_password_and_socket(stream, target, name, password).await,
        None => Socks5Stream::connect_with_socket(stream, target).await,
    };
    reached.map(Socks5Stream::into_inner).map_err(io::Error::other)
}
