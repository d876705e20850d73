//! A data channel that is a connection of its own, by TLS or in the clear: HTTP/1.1 and an upgrade (RFC 9110 §7.8), then the
//! client's bytes.

use super::caller::Caller;
use super::session::Session;
use super::shared::Relay;
use super::unproved::Place;
use crate::session::requests::{ACCEPT, ACCEPT_PATH, BEARER};
use crate::session::{ConnectionId, Token};
use crate::splice::{self, Leg};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

/// Size of a request's head.
const LARGEST_HEAD: usize = 2048;
/// Headers of a request.
const MOST_HEADERS: usize = 16;
/// Time for a request.
const REQUEST_TIME: Duration = Duration::from_secs(10);

const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: connect-accept\r\n\r\n";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Serves one request.
pub async fn serve(relay: Arc<Relay>, mut stream: TlsStream<TcpStream>, caller: Caller) {
    let Ok(Ok(head)) = timeout(REQUEST_TIME, read_head(&mut stream)).await else { return };
    let Some(connection) = asked_for(&head) else {
        return farewell(stream, BAD_REQUEST).await;
    };
    // An agent that asks for a connection of another one hears the same as where there is none.
    let session = caller.key.and_then(|key| relay.sessions.of_key(&key));
    accept(session, connection.id, stream).await;
}

/// Serves one request in the clear. Who has not shown a token keeps the place of one who has proved nothing.
pub async fn serve_plain(relay: Arc<Relay>, mut stream: TcpStream, place: Place) {
    let prepared = splice::prepare(&stream);
    let Ok(Ok(head)) = timeout(REQUEST_TIME, splice::take_head(&mut stream, LARGEST_HEAD)).await else { return };
    let asked = asked_for(&head).and_then(|asked| Some((asked.id, asked.token?)));
    let Some((connection, token)) = asked.filter(|_| prepared.is_ok()) else {
        return farewell(stream, BAD_REQUEST).await;
    };
    let session = relay.plain.take(&token, connection);
    drop(place);
    accept(session, connection, stream).await;
}

/// Joins the data channel to the call of this session.
async fn accept(session: Option<Arc<Session>>, connection: ConnectionId, mut stream: impl Leg + 'static) {
    let Some(session) = session else { return farewell(stream, NOT_FOUND).await };
    if !session.join(connection).await {
        return farewell(stream, NOT_FOUND).await;
    }
    // Before the agent joins it to a server.
    stream.socket().into_iter().for_each(splice::end_abruptly_if_killed);
    if timeout(REQUEST_TIME, stream.write_all(ACCEPTED)).await.is_ok_and(|written| written.is_ok()) {
        session.deliver(connection, Box::new(stream));
    } else {
        stream.abort();
        session.fail(connection);
    }
}

async fn farewell(mut stream: impl Leg, words: &[u8]) {
    let _ = timeout(REQUEST_TIME, async {
        stream.write_all(words).await?;
        stream.shutdown().await
    })
    .await;
}

/// Byte by byte of what is opened already, so that nothing behind the head is read.
async fn read_head(stream: &mut TlsStream<TcpStream>) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LARGEST_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

/// The connection that a request accepts, and what it shows for that.
#[derive(Debug, PartialEq, Eq)]
struct AskedFor {
    id: ConnectionId,
    token: Option<Token>,
}

fn asked_for(head: &[u8]) -> Option<AskedFor> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let is_whole = request.parse(head).ok()?.is_complete();
    let upgrades = request.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("upgrade") && header.value.eq_ignore_ascii_case(ACCEPT.as_bytes())
    });
    let path = request.path.filter(|_| is_whole && upgrades && request.method == Some("GET"))?;
    let id = path.strip_prefix(ACCEPT_PATH)?.strip_suffix('/')?.parse().ok()?;
    let proof = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("authorization"));
    let token = proof.and_then(|proof| str::from_utf8(proof.value).ok()?.strip_prefix(BEARER)?.parse().ok());
    Some(AskedFor { id, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_a_connection_or_is_refused() {
        let head = |line: &str, upgrade: &str| format!("{line} HTTP/1.1\r\nHost: relay\r\nUpgrade: {upgrade}\r\n\r\n");
        let path = "/.well-known/masque/accept/00000000000000ff/";
        assert_eq!(
            asked_for(head(&format!("GET {path}"), "connect-accept").as_bytes()),
            Some(AskedFor { id: ConnectionId::new(255), token: None })
        );
        let token = Token([7; 16]);
        let shown = format!("GET {path} HTTP/1.1\r\nUpgrade: connect-accept\r\nAuthorization: Bearer {token}\r\n\r\n");
        assert_eq!(asked_for(shown.as_bytes()).unwrap().token, Some(token));
        assert_eq!(asked_for(shown.replace("Bearer", "Basic").as_bytes()).unwrap().token, None);
        for bad in [
            head(&format!("POST {path}"), "connect-accept"),
            head(&format!("GET {path}"), "websocket"),
            head("GET /.well-known/masque/accept/ff/", "connect-accept"),
            head("GET /", "connect-accept"),
            format!("GET {path} HTTP/1.1\r\n\r\n"),
            "\r\n\r\n".to_owned(),
        ] {
            assert_eq!(asked_for(bad.as_bytes()), None, "{bad}");
        }
    }
}
