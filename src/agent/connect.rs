//! TCP, TLS and HTTP/2 to a relay.

use super::error::SessionError;
use super::via;
use crate::config::{HostPort, Via};
use crate::identity::WrongRelay;
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use h2::{Ping, Reason};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Protocol of a session (RFC 7301).
pub const SESSION: &[&[u8]] = &[b"h2"];
/// Protocol of a data channel of its own.
pub const DATA: &[&[u8]] = &[b"http/1.1"];

/// Bytes that may be on their way to the agent in one stream before they are read.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same of all streams together: so many that readers which have stopped do not use it up, and stop the others (the limits
/// of connections bound the sum).
const CONNECTION_WINDOW: u32 = 1 << 30;
/// Bytes that a stream holds while the relay does not take them.
const SEND_BUFFER: usize = 64 * 1024;
/// Time to one address, TLS included.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Time for HTTP/2 to begin.
const BEGIN_TIME: Duration = Duration::from_secs(10);

/// A TLS connection to a relay that has proved its key.
pub async fn tls(
    relay: &HostPort,
    via: Option<&Via>,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, SessionError> {
    let connecting = async {
        let stream = via::reach(relay, via).await?;
        let name = ServerName::try_from(relay.host.clone()).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await
    };
    let connected = timeout(CONNECT_TIME, connecting).await.map_err(|_| SessionError::TimedOut("connecting"))?;
    connected
        .map_err(|error| WrongRelay::in_error(&error).map_or(SessionError::Connect(error), SessionError::WrongRelay))
}

/// A connection of HTTP/2 whose relay has said what it can, and the task that carries it.
pub struct Http2 {
    /// Begins streams.
    pub requests: SendRequest<Bytes>,
    /// Carries frames; ends with this.
    _task: AbortOnDrop,
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins HTTP/2.
pub async fn http2(stream: TlsStream<TcpStream>) -> Result<Http2, SessionError> {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false);
    let begin = async {
        let (requests, mut connection): (_, Connection<_, Bytes>) = builder.handshake(stream).await?;
        let mut ping = connection.ping_pong().ok_or(h2::Error::from(Reason::INTERNAL_ERROR))?;
        let task = AbortOnDrop(tokio::spawn(async move {
            if let Err(error) = connection.await {
                log::debug!("HTTP/2 with the relay ended: {error}");
            }
        }));
        // The relay's settings come before its first answer: extended CONNECT (RFC 8441 §3) must be among them.
        ping.ping(Ping::opaque()).await?;
        let requests = requests.ready().await?;
        Ok(Http2 { requests, _task: task })
    };
    let http = timeout(BEGIN_TIME, begin).await.map_err(|_| SessionError::TimedOut("HTTP/2"))?;
    let http = http.map_err(SessionError::Http)?;
    if !http.requests.is_extended_connect_protocol_enabled() {
        return Err(SessionError::Violation("it does not speak extended CONNECT; is it a relay of kamei?"));
    }
    Ok(http)
}
