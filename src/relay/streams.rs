//! The streams of one HTTP/2 connection of an agent: enrolment, its control channel, data channels (RFC 9113, RFC 8441).

use super::caller::Caller;
use super::enrol;
use super::respond::{answer, refuse};
use super::session::{End, Session};
use super::shared::Relay;
use super::unproved::Place;
use crate::identity::{Member, MemberKind};
use crate::session::requests::{ACCEPT, ACCEPT_PATH, ENROL_PATH, LISTEN, LISTEN_PATH, VERSION_HEADER};
use crate::session::{ConnectionId, VERSION};
use crate::splice::H2Leg;
use bytes::Bytes;
use h2::RecvStream;
use h2::ext::Protocol;
use h2::server::{Connection, SendResponse};
use http::{Method, Request, StatusCode};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::server::TlsStream;

/// Bytes that may be on their way to the relay in one stream before they are read.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same of all streams of a connection together: so many that readers which have stopped do not use it up, and stop the
/// others (the limits of connections bound the sum).
const CONNECTION_WINDOW: u32 = 1 << 30;
/// Bytes that a stream holds while the agent does not take them.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams beside data channels: the control channel, and a few that end soon.
const OTHER_STREAMS: u32 = 8;
/// Size of a request's headers.
const LARGEST_HEADERS: u32 = 8 * 1024;
/// Time for HTTP/2 to begin, and then for a session.
const BEGIN_TIME: Duration = Duration::from_secs(30);
/// Time for the last frames.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

type Http2 = Connection<TlsStream<TcpStream>, Bytes>;

/// What the streams of a connection share.
struct Shared {
    relay: Arc<Relay>,
    caller: Caller,
    session: Mutex<Option<Arc<Session>>>,
    /// Whether an invitation is being judged: one at a time, so that a stranger holds one body and not thousands.
    is_enrolling: AtomicBool,
}

/// Serves the connection until it ends. `unproved` is given back when it has a session.
pub async fn serve(relay: Arc<Relay>, stream: TlsStream<TcpStream>, caller: Caller, unproved: Place) {
    let mut builder = h2::server::Builder::new();
    let streams = u32::try_from(relay.config().limits.of_agent).unwrap_or(u32::MAX).saturating_add(OTHER_STREAMS);
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(streams)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(LARGEST_HEADERS)
        .enable_connect_protocol();
    let begun = timeout(BEGIN_TIME, builder.handshake::<_, Bytes>(stream)).await;
    let Ok(Ok(mut connection)) = begun else { return };
    let shared = Arc::new(Shared { relay, caller, session: Mutex::default(), is_enrolling: AtomicBool::new(false) });
    let why = accept(&shared, &mut connection, unproved).await;
    if let Some(why) = why {
        connection.graceful_shutdown();
        log::debug!("{}: {why}", shared.caller.address);
    }
    let _ = timeout(FAREWELL_TIME, std::future::poll_fn(|cx| connection.poll_closed(cx))).await;
    if let Some(session) = shared.session.lock().take() {
        session.end(End::AgentLeft);
    }
}

/// Takes streams until the connection ends, or its session does.
async fn accept(shared: &Arc<Shared>, connection: &mut Http2, unproved: Place) -> Option<End> {
    let mut unproved = Some(unproved);
    let deadline = Instant::now() + BEGIN_TIME;
    loop {
        let session = shared.session.lock().clone();
        if session.is_some() {
            unproved = None;
        }
        let ended = async {
            match &session {
                Some(session) => Some(session.wait_end().await),
                None => {
                    sleep_until(deadline).await;
                    None
                }
            }
        };
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    // What it is asked first decides whether there is a session: it is answered before the next.
                    if unproved.is_some() {
                        handle(shared, request, respond).await;
                    } else {
                        tokio::spawn({
                            let shared = Arc::clone(shared);
                            async move { handle(&shared, request, respond).await }
                        });
                    }
                }
                Some(Err(_)) | None => return None,
            },
            why = ended => return why,
        }
    }
}

async fn handle(shared: &Arc<Shared>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let protocol = request.extensions().get::<Protocol>().map(|protocol| protocol.as_str().to_owned());
    match (request.method(), protocol.as_deref(), path.as_str()) {
        (&Method::POST, None, ENROL_PATH) => {
            if shared.is_enrolling.swap(true, Ordering::Relaxed) {
                return refuse(respond, StatusCode::TOO_MANY_REQUESTS, "one invitation at a time");
            }
            let shared = Arc::clone(shared);
            // Beside the connection's own task, which has to go on for the body to come.
            tokio::spawn(async move {
                enrol::serve(&shared.relay, shared.caller, request.into_body(), respond).await;
                shared.is_enrolling.store(false, Ordering::Relaxed);
            });
        }
        (&Method::CONNECT, Some(LISTEN), LISTEN_PATH) => listen(shared, request, respond).await,
        (&Method::CONNECT, Some(ACCEPT), path) => accept_data(shared, path, request.into_body(), respond).await,
        _ => refuse(respond, StatusCode::NOT_FOUND, "a relay of kamei has nothing here"),
    }
}

/// Begins the control channel.
async fn listen(shared: &Arc<Shared>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let spoken = request.headers().get(VERSION_HEADER).and_then(|version| version.to_str().ok());
    if spoken.and_then(|version| version.parse().ok()) != Some(VERSION) {
        let text = format!(
            "this relay speaks version {VERSION} of the protocol, the agent {}; upgrade the older of the two",
            spoken.unwrap_or("another")
        );
        return refuse(respond, StatusCode::UPGRADE_REQUIRED, &text);
    }
    let Some(member) = member(shared) else {
        let text = "this relay knows no agent with this key: it was revoked, or never invited; `kamei relay invite NAME` there makes an invitation";
        return refuse(respond, StatusCode::FORBIDDEN, text);
    };
    let (session, said) = Session::new(shared.relay.sessions_common(), &member, shared.caller.address);
    if shared.relay.sessions.enter(&session).is_err() {
        let text = "another agent with this key is connected, and the two keep replacing each other; each agent needs an invitation of its own";
        log::warn!("agent {} at {}: {text}", member.name, shared.caller.address);
        return refuse(respond, StatusCode::CONFLICT, text);
    }
    // A revocation that found no session yet counts all the same.
    if self::member(shared).is_none() {
        session.end(End::Revoked);
    }
    let answer = answer(StatusCode::OK);
    let Ok(sender) = respond.send_response(answer, false) else { return shared.relay.sessions.leave(&session) };
    if shared.session.lock().replace(Arc::clone(&session)).is_some() {
        session.end(End::Violation("two control channels in one connection"));
    }
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        log::info!("agent {} is here, from {}", session.agent, session.address);
        session.run(request.into_body(), sender, said).await;
        shared.relay.sessions.leave(&session);
        let why = session.ended().unwrap_or(End::AgentLeft);
        log::info!("agent {} is away: {why}", session.agent);
    });
}

/// Who has this key, and may publish.
fn member(shared: &Shared) -> Option<Member> {
    let key = shared.caller.key?;
    // The register waits for the disk.
    match tokio::task::block_in_place(|| shared.relay.register.by_key(&key)) {
        Ok(member) => member.filter(|member| member.kind == MemberKind::Agent),
        Err(error) => {
            log::error!("{error}");
            None
        }
    }
}

/// Joins a data channel to the call that it names. An agent that asks for a call of another one hears the same as where there is none.
async fn accept_data(shared: &Shared, path: &str, receiver: RecvStream, mut respond: SendResponse<Bytes>) {
    let named = path.strip_prefix(ACCEPT_PATH).and_then(|rest| rest.strip_suffix('/'));
    let connection: Option<ConnectionId> = named.and_then(|id| id.parse().ok());
    let session = shared.session.lock().clone();
    let nobody = "no call waits for this data channel";
    let Some((connection, session)) = connection.zip(session) else {
        return refuse(respond, StatusCode::NOT_FOUND, nobody);
    };
    if !session.join(connection).await {
        return refuse(respond, StatusCode::NOT_FOUND, nobody);
    }
    match respond.send_response(answer(StatusCode::OK), false) {
        Ok(sender) => session.deliver(connection, Box::new(H2Leg::new(sender, receiver))),
        Err(_) => session.fail(connection),
    }
}
