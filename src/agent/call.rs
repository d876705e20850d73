//! One connection: dials the server, opens the data channel, carries bytes.

use super::enrol::uri;
use super::error::SessionError;
use super::session::Session;
use super::shared::Agent;
use super::{connect, dial, via};
use crate::config::PublishConfig;
use crate::session::requests::{ACCEPT, ACCEPT_PATH, BEARER};
use crate::session::{Call, CallChannel, ConnectionId, Message, Published, RefuseReason, Token};
use crate::splice::{self, Counts, H2Leg, Leg};
use h2::ext::Protocol;
use http::{Method, Request, StatusCode};
use ppp::v2;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Time for the relay to take a data channel.
const CHANNEL_TIME: Duration = Duration::from_secs(15);
/// Size of the head of the relay's answer.
const LARGEST_HEAD: usize = 2048;

/// Serves one call that matches a published server.
pub async fn serve(
    agent: Arc<Agent>,
    session: Arc<Session>,
    call: Call,
    published: Published,
    withdrawn: oneshot::Receiver<()>,
) {
    let _end = End { session: &session, connection: call.connection };
    tokio::select! {
        () = carry(&agent, &session, &call, &published) => {}
        // An error: the connection has ended by itself, or the session has.
        Ok(()) = withdrawn => log::debug!("connection {}: nobody waits for it any more", call.connection),
    }
}

async fn carry(agent: &Agent, session: &Session, call: &Call, published: &Published) {
    let id = call.connection;
    let config = agent.config();
    let found = config.publish.iter().find(|publish| publish.published == *published);
    let Some(publish) = found else { return session.say(Message::Decline(id, RefuseReason::NoServer)) };
    let dialled = tokio::select! {
        dialled = dial(agent, publish, call.client) => dialled,
        () = agent.wait_withdrawn(published) => return session.say(Message::Decline(id, RefuseReason::NoServer)),
    };
    let mut server = match dialled {
        Ok(server) => server,
        Err(error) => {
            log::warn!("connection {id}: {published} at {} is not reached: {error}", publish.target);
            return session.say(Message::Decline(id, reason(&error)));
        }
    };
    let mut data = match open(agent, session, call).await {
        Ok(data) => data,
        Err(error) => {
            log::warn!("connection {id}: no data channel: {error}");
            server.abort();
            return session.say(Message::Decline(id, RefuseReason::NoDataChannel));
        }
    };
    log::info!("connection {id} of {} to {published} open", call.client);
    let counts = Counts::default();
    let ended = tokio::select! {
        ended = splice::join(&mut data, &mut server, &counts, None) => ended.words("relay", "server"),
        // It is too late to decline the call.
        () = agent.wait_withdrawn(published) => {
            data.abort();
            server.abort();
            "it is published no more".to_owned()
        }
    };
    let (forth, back) = (counts.forth.load(Ordering::Relaxed), counts.back.load(Ordering::Relaxed));
    log::info!("connection {id} ended ({ended}): {forth} bytes to the server, {back} to the client");
}

/// Dials the server; it is told who calls, where the operator wants that.
async fn dial(agent: &Agent, publish: &PublishConfig, client: SocketAddr) -> io::Result<TcpStream> {
    let dialling = dial::dial(&publish.target);
    let mut server =
        timeout(agent.config().dial_time, dialling).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    splice::end_abruptly_if_killed(&server);
    if publish.proxy_protocol {
        let addresses = (client, server.peer_addr()?);
        let header =
            v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, v2::Protocol::Stream, addresses);
        server.write_all(&header.build()?).await?;
    }
    Ok(server)
}

/// Descriptors of the process and of the machine, buffers, memory; ports, where each is in use or was a moment ago.
const USED_UP: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];

fn reason(error: &io::Error) -> RefuseReason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => RefuseReason::ServerRefused,
        io::ErrorKind::TimedOut => RefuseReason::ServerTimedOut,
        _ if error.raw_os_error().is_some_and(|number| USED_UP.contains(&number)) => RefuseReason::OutOfResources,
        _ => RefuseReason::ServerUnreachable,
    }
}

async fn open(agent: &Agent, session: &Session, call: &Call) -> Result<Box<dyn Leg>, SessionError> {
    let opening = async {
        match call.channel {
            CallChannel::Shared => shared(session, call.connection).await,
            CallChannel::Own => own(agent, session, call.connection).await,
            CallChannel::Plain(token) => plain(agent, session, call.connection, token).await,
        }
    };
    timeout(CHANNEL_TIME, opening).await.map_err(|_| SessionError::TimedOut("the data channel"))?
}

/// A stream of the session.
async fn shared(session: &Session, connection: ConnectionId) -> Result<Box<dyn Leg>, SessionError> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri(&session.relay, &format!("{ACCEPT_PATH}{connection}/"))?;
    request.extensions_mut().insert(Protocol::from_static(ACCEPT));
    let mut requests = session.http.requests.clone().ready().await?;
    let (answer, sender) = requests.send_request(request, false)?;
    let answer = answer.await?;
    if answer.status() != StatusCode::OK {
        return Err(SessionError::Refused(format!("{} for a data channel", answer.status())));
    }
    Ok(Box::new(H2Leg::new(sender, answer.into_body())))
}

/// A TLS connection of its own.
async fn own(agent: &Agent, session: &Session, connection: ConnectionId) -> Result<Box<dyn Leg>, SessionError> {
    let config = agent.keys.client_config(session.key, connect::DATA)?;
    let mut stream = connect::tls(&session.relay, agent.config().via.as_ref(), config).await?;
    let asked = async {
        stream.write_all(request(session, connection, None).as_bytes()).await?;
        stream.flush().await?;
        // Byte by byte of what is opened already, so that nothing behind the head is read: the client's bytes.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < LARGEST_HEAD {
            head.push(stream.read_u8().await?);
        }
        Ok(head)
    };
    is_accepted(&asked.await.map_err(SessionError::Connect)?)?;
    Ok(Box::new(stream))
}

/// A TCP connection in the clear: the relay knows it by the token.
async fn plain(
    agent: &Agent,
    session: &Session,
    connection: ConnectionId,
    token: Token,
) -> Result<Box<dyn Leg>, SessionError> {
    let opened = async {
        let mut stream = via::reach(&session.relay, agent.config().via.as_ref()).await?;
        splice::prepare(&stream)?;
        // Before the relay joins it to a client.
        splice::end_abruptly_if_killed(&stream);
        stream.write_all(request(session, connection, Some(token)).as_bytes()).await?;
        let head = splice::take_head(&mut stream, LARGEST_HEAD).await?;
        Ok((stream, head))
    };
    let (stream, head) = opened.await.map_err(SessionError::Connect)?;
    is_accepted(&head)?;
    Ok(Box::new(stream))
}

/// Asks the relay to take a connection for this data channel.
fn request(session: &Session, connection: ConnectionId, token: Option<Token>) -> String {
    let proof = token.map(|token| format!("Authorization: {BEARER}{token}\r\n")).unwrap_or_default();
    format!(
        "GET {ACCEPT_PATH}{connection}/ HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: {ACCEPT}\r\n{proof}\r\n",
        session.relay
    )
}

fn is_accepted(head: &[u8]) -> Result<(), SessionError> {
    let is_accepted = head.starts_with(b"HTTP/1.1 101 ");
    is_accepted.then_some(()).ok_or_else(|| SessionError::Refused("a data channel of its own".to_owned()))
}

/// The connection is over, however it ends.
struct End<'a> {
    session: &'a Session,
    connection: ConnectionId,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.session.end(self.connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_here_is_no_fault_of_the_server() {
        let of = |number| reason(&io::Error::from_raw_os_error(number));
        assert_eq!(
            (of(libc::EADDRNOTAVAIL), of(libc::EMFILE)),
            (RefuseReason::OutOfResources, RefuseReason::OutOfResources)
        );
        assert_eq!(
            (of(libc::ECONNREFUSED), of(libc::EHOSTUNREACH)),
            (RefuseReason::ServerRefused, RefuseReason::ServerUnreachable)
        );
    }
}
