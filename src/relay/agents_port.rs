//! Where agents come in: who they are, and what they speak. Clients that name a server by TLS are passed on unopened.

use super::answer::Answer;
use super::caller::Caller;
use super::connections::Origin;
use super::error::RelayError;
use super::shared::Relay;
use super::unproved::{Place, Unproved};
use super::{call, front, streams, upgrade};
use crate::config::ServerConfig;
use crate::identity::{Fingerprint, fingerprint_of};
use crate::session::{Hello, LONGEST_HELLO, read_hello};
use crate::splice;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Protocols that are spoken there (RFC 7301), the better first.
pub const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Time for a handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Time until the next try where no connection can be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Opens all addresses that agents come in by.
pub fn open(relay: &Arc<Relay>) -> Result<JoinSet<()>, RelayError> {
    let acceptor = TlsAcceptor::from(relay.authority.server_config(ALPN)?);
    let unproved = Unproved::new(relay.config().limits.unproved);
    let mut tasks = JoinSet::new();
    for address in &relay.config().listen {
        let listener = front::listen(*address)?;
        tasks.spawn(accept(Arc::clone(relay), listener, acceptor.clone(), unproved.clone()));
    }
    Ok(tasks)
}

async fn accept(relay: Arc<Relay>, listener: TcpListener, acceptor: TlsAcceptor, unproved: Unproved) {
    loop {
        // Who has not proved anything takes no place from who has: more wait in the kernel's queue.
        let Some(permit) = unproved.wait().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::warn!("no agent can be accepted: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let Some(place) = unproved.enter(permit, address.ip(), relay.sessions.has_address(address.ip())) else {
            log::debug!("{address} has as many connections as one may have that has proved nothing");
            continue;
        };
        let (relay, acceptor) = (Arc::clone(&relay), acceptor.clone());
        tokio::spawn(async move {
            match first(&relay, &stream).await {
                Ok(First::Client(server)) => {
                    drop(place);
                    return call::serve(relay, server, stream, (address, Origin::Called, Answer::None)).await;
                }
                Ok(First::Plain) => return upgrade::serve_plain(relay, stream, place).await,
                Ok(First::Agent) => {}
                Err(_) => return log::debug!("no TLS with {address}: it took too long"),
            }
            match timeout(HANDSHAKE_TIME, shake_hands(stream, &acceptor)).await {
                Ok(Ok((stream, key))) => {
                    speak(relay, stream, Caller { address, key }, place).await;
                }
                Ok(Err(error)) => log::debug!("no TLS with {address}: {error}"),
                Err(_) => log::debug!("no TLS with {address}: it took too long"),
            }
        });
    }
}

/// Who has come, by the first bytes.
enum First {
    /// A client that calls this server by a TLS server name.
    Client(Arc<ServerConfig>),
    /// A data channel in the clear.
    Plain,
    /// An agent, or nobody.
    Agent,
}

/// Looks who has come. Nothing of what was sent is taken from the socket, so that a server gets all of it.
async fn first(relay: &Relay, stream: &TcpStream) -> Result<First, Elapsed> {
    let has_names = relay.config().servers.iter().any(|server| !server.sni.is_empty());
    let expects_plain = relay.plain.is_expected();
    if !has_names && !expects_plain {
        return Ok(First::Agent);
    }
    let look = splice::peek(stream, LONGEST_HELLO, |bytes| match read_hello(bytes) {
        _ if expects_plain && bytes.first() == Some(&b'G') => Some(First::Plain),
        Hello::Incomplete if has_names => None,
        Hello::Incomplete | Hello::Unnamed => Some(First::Agent),
        Hello::To(name) => {
            let server = relay.config().named(&name).cloned();
            Some(server.map_or(First::Agent, |server| First::Client(Arc::new(server))))
        }
    });
    Ok(timeout(HANDSHAKE_TIME, look).await?.unwrap_or(First::Agent))
}

async fn shake_hands(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
) -> io::Result<(TlsStream<TcpStream>, Option<Fingerprint>)> {
    splice::prepare(&stream)?;
    let stream = acceptor.accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates();
    let key = certificates.and_then(|certificates| fingerprint_of(certificates.first()?));
    Ok((stream, key))
}

async fn speak(relay: Arc<Relay>, stream: TlsStream<TcpStream>, caller: Caller, unproved: Place) {
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => streams::serve(relay, stream, caller, unproved).await,
        _ => upgrade::serve(relay, stream, caller).await,
    }
}
