//! Streams that can be joined.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// One end of a joined connection.
pub trait Leg: AsyncRead + AsyncWrite + Unpin + Send {
    /// Has the far end see an abrupt end (a TCP reset, RST_STREAM) when this is dropped. Without it, or
    /// [shutdown](tokio::io::AsyncWriteExt::shutdown), what a dropped leg looks like is not said.
    fn abort(&mut self);

    /// The socket, where the bytes of this leg are the socket's: none is held or changed on the way.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl Leg for TcpStream {
    fn abort(&mut self) {
        // Zero linger: close sends RST (RFC 9293 §3.10.4). Where it fails, the socket is gone already.
        let _ = self.set_zero_linger();
    }

    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

// Without close_notify, the far end takes the end for a truncation (RFC 8446 §6.1).
impl Leg for tokio_rustls::server::TlsStream<TcpStream> {
    fn abort(&mut self) {
        self.get_mut().0.abort();
    }
}

impl Leg for tokio_rustls::client::TlsStream<TcpStream> {
    fn abort(&mut self) {
        self.get_mut().0.abort();
    }
}

impl Leg for Box<dyn Leg> {
    fn abort(&mut self) {
        (**self).abort();
    }

    fn socket(&self) -> Option<&TcpStream> {
        (**self).socket()
    }
}

/// Settings that every socket of a joined connection has: no delay of small segments, and probes that end it when its host
/// has vanished (RFC 9293 §3.8.4).
pub fn prepare(stream: &TcpStream) -> std::io::Result<SocketAddr> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    rustix::net::sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    rustix::net::sockopt::set_tcp_keepcnt(stream, 4)?;
    stream.peer_addr()
}

/// Of a process that is killed, the kernel ends connections in order: half an answer would be a whole one. Not after this, until
/// [`end_in_order`]. Of a socket that listens, this goes for all that it accepts.
pub fn end_abruptly_if_killed(socket: impl AsFd) {
    // Zero linger: close sends RST (RFC 9293 §3.10.4).
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// What was said last, and is still on its way, arrives after the socket is closed.
pub fn end_in_order(socket: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(socket, None);
}
