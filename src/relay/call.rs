//! One connection of a client, from the call to the end.

use super::answer::Answer;
use super::connections::{Connection, Origin, Stage};
use super::session::Session;
use super::shared::Relay;
use crate::config::ServerConfig;
use crate::session::RefuseReason;
use crate::splice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;

/// Serves a client. What it has sent already stays in its socket until the way is open, so that it arrives first and whole,
/// and is bounded by the socket's buffer (C6). A client that is refused hears why, if it has asked; otherwise it sees a reset,
/// and no byte.
pub async fn serve(
    relay: Arc<Relay>,
    server: Arc<ServerConfig>,
    mut client: TcpStream,
    (address, origin, answer): (SocketAddr, Origin, Answer),
) {
    let place = match relay.connections.enter((address, origin), &server.published, relay.now()) {
        // Once it is listed: a reload puts its configuration in force and then looks through the list.
        Ok(place) if !(server.welcomes(address.ip()) && is_admitted(&relay, &place.connection)) => {
            Err(RefuseReason::NotAllowed)
        }
        place => place,
    };
    let served = match &place {
        Ok(place) => carry(&relay, &server, (&mut client, answer), &place.connection).await,
        Err(reason) => Err(*reason),
    };
    if let Err(reason) = served {
        relay.refuse(reason);
        let id = place.as_ref().map(|place| format!("{} ", place.connection.id)).unwrap_or_default();
        log::info!("connection {id}of {address} to {} refused: {}", server.published, reason.name());
        drop(place);
        answer.refuse(client, reason).await;
    }
}

fn is_admitted(relay: &Relay, connection: &Connection) -> bool {
    match connection.origin {
        Origin::Called => relay.admits(connection),
        // The register waits for the disk.
        Origin::Asked(_) => tokio::task::block_in_place(|| relay.admits(connection)),
    }
}

/// Puts the call to an agent, and carries bytes until the end.
async fn carry(
    relay: &Relay,
    server: &ServerConfig,
    (client, answer): (&mut TcpStream, Answer),
    connection: &Connection,
) -> Result<(), RefuseReason> {
    splice::prepare(client).map_err(|_| RefuseReason::ClientGone)?;
    splice::end_abruptly_if_killed(&*client);
    let session = tokio::select! {
        session = find(relay, server) => session?,
        () = gone(client) => return Err(RefuseReason::ClientGone),
        () = connection.close.notified() => return Err(RefuseReason::SessionEnded),
    };
    *connection.agent.lock() = Some(session.agent.clone());
    connection.enter(Stage::Called);
    let announced = relay.plain.announce(server.channel, &session, connection.id)?;
    let told = session.call(&server.published, connection.id, (connection.client, announced.channel), relay.now())?;
    let finish = Finish { session: &session, connection };
    let mut data = tokio::select! {
        answer = told => answer.unwrap_or(Err(RefuseReason::SessionEnded))?,
        // One that ended just before the call was put to it answers no more.
        _ = session.wait_end() => return Err(RefuseReason::SessionEnded),
        () = gone(client) => return Err(RefuseReason::ClientGone),
        () = connection.close.notified() => return Err(RefuseReason::SessionEnded),
    };
    drop(announced);
    client.write_all(&answer.granted()).await.map_err(|_| RefuseReason::ClientGone)?;
    connection.enter(Stage::Joined);
    relay.carried.fetch_add(1, Ordering::Relaxed);
    log::info!(
        "connection {} of {}{} to {} open, by agent {}",
        connection.id,
        connection.origin.name().map(|name| format!("{name} at ")).unwrap_or_default(),
        connection.client,
        server.published,
        session.agent
    );
    let ended = tokio::select! {
        ended = splice::join(client, &mut data, &connection.counts, relay.config().idle) => Some(ended),
        _ = session.wait_end() => None,
        () = connection.close.notified() => None,
    };
    drop(finish);
    let how = ended.map_or("closed by the relay".to_owned(), |ended| ended.words("client", "agent"));
    let (forth, back) =
        (connection.counts.forth.load(Ordering::Relaxed), connection.counts.back.load(Ordering::Relaxed));
    log::info!("connection {} ended ({how}): {forth} bytes to the server, {back} to the client", connection.id);
    Ok(())
}

/// The session of an agent that publishes the server, waited for as long as the operator says.
async fn find(relay: &Relay, server: &ServerConfig) -> Result<Arc<Session>, RefuseReason> {
    match relay.sessions.serving(&server.published) {
        Some(session) => Ok(session),
        None => tokio::time::timeout(relay.config().hold, relay.sessions.wait_serving(&server.published))
            .await
            .map_err(|_| RefuseReason::AgentAway),
    }
}

/// Waits until the client has reset the connection. One that has only said its last word still wants an answer.
async fn gone(client: &TcpStream) {
    if client.ready(Interest::ERROR).await.is_err() {
        std::future::pending().await
    }
}

/// Tells the session that the connection is over, however it ends.
struct Finish<'a> {
    session: &'a Session,
    connection: &'a Connection,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.session.finish(self.connection.id);
    }
}
