//! The control channel of one session with a relay: calls come in, answers go out.

use super::call;
use super::connect;
use super::enrol::{certify, read, sentence, uri};
use super::error::SessionError;
use super::session::Session;
use super::shared::Agent;
use super::state::RelayStateLock;
use crate::config::HostPort;
use crate::identity::Fingerprint;
use crate::session::requests::{LISTEN, LISTEN_PATH, VERSION_HEADER};
use crate::session::{AgentSide, Beat, Decoder, Liveness, Message, Taken, Unreadable, VERSION, Violation};
use crate::splice;
use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Messages that may wait for a relay that does not read.
const OUTBOX: usize = 4096;
/// Time for the relay to take the control channel.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// How often it is looked whether a probe is due.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Runs a session until it ends, and says why.
pub async fn run(agent: &Arc<Agent>, relay: &HostPort, key: Fingerprint, state: &RelayStateLock) -> SessionError {
    match begin(agent, relay, key).await {
        Ok((session, receiver, sender, said)) => {
            state.change(|state| state.connected = Some(agent.now()));
            log::info!("{relay}: connected");
            let writing = tokio::spawn(write(sender, said));
            let ended = listen(agent, &session, receiver, state).await;
            writing.abort();
            ended
        }
        Err(error) => error,
    }
}

type Begun = (Arc<Session>, RecvStream, SendStream<Bytes>, mpsc::Receiver<Message>);

async fn begin(agent: &Agent, relay: &HostPort, key: Fingerprint) -> Result<Begun, SessionError> {
    let config = agent.keys.client_config(key, connect::SESSION)?;
    let mut http = connect::http2(connect::tls(relay, agent.config().via.as_ref(), config).await?).await?;
    if agent.keys.renewal_due(SystemTime::now())
        && let Err(error) = certify(agent, &mut http, relay, None).await
    {
        log::warn!("{relay}: the certificate is not renewed: {error}"); // the key counts
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri(relay, LISTEN_PATH)?;
    request.headers_mut().insert(VERSION_HEADER, VERSION.into());
    request.headers_mut().insert("capsule-protocol", http::HeaderValue::from_static("?1"));
    request.extensions_mut().insert(Protocol::from_static(LISTEN));
    let (answer, sender) = http.requests.send_request(request, false)?;
    let answer = timeout(ANSWER_TIME, answer).await.map_err(|_| SessionError::TimedOut("the relay's answer"))??;
    let (status, receiver) = (answer.status(), answer.into_body());
    if status != StatusCode::OK {
        return Err(SessionError::Refused(sentence(&read(receiver).await?)));
    }
    let (outbox, said) = mpsc::channel(OUTBOX);
    let session = Session {
        relay: relay.clone(),
        key,
        http,
        side: Mutex::new(AgentSide::new(agent.config().connections)),
        outbox,
        dialling: Mutex::default(),
    };
    Ok((Arc::new(session), receiver, sender, said))
}

async fn listen(
    agent: &Arc<Agent>,
    session: &Arc<Session>,
    mut receiver: RecvStream,
    state: &RelayStateLock,
) -> SessionError {
    let mut changed = agent.changed.subscribe();
    publish(agent, session);
    let probing = agent.config().probing;
    let mut liveness = Liveness::new(probing.every, probing.patience, agent.now());
    let (mut decoder, mut calls) = (Decoder::default(), JoinSet::new());
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            piece = receiver.data() => {
                let piece = match piece {
                    Some(Ok(piece)) => piece,
                    Some(Err(error)) => return error.into(),
                    None => return SessionError::Closed,
                };
                let _ = receiver.flow_control().release_capacity(piece.len());
                let taken = decoder.read(&piece, |kind, value| match Message::of_capsule(kind, value).map_err(Unreadable::from)? {
                    Some(message) => take(agent, session, message, (&mut liveness, &mut calls, state)),
                    None => Ok(()),
                });
                if let Err(Broken(error)) = taken {
                    return error;
                }
            }
            _ = look.tick() => {
                state.change(|state| {
                    state.round_trip = liveness.round_trip();
                    state.connections = session.side.lock().connections();
                });
                match liveness.beat(agent.now()) {
                    Beat::Dead => return SessionError::Silent,
                    Beat::Send(probe) => session.say(probe),
                    Beat::WaitUntil(_) => {}
                }
            }
            Some(_) = calls.join_next() => {}
            Ok(()) = changed.changed() => publish(agent, session),
        }
    }
}

/// Says what is published, all of it.
fn publish(agent: &Agent, session: &Session) {
    let config = agent.config();
    let servers = config.publish.iter().map(|publish| (publish.published.clone(), publish.target.port));
    session.say(session.side.lock().publish(servers));
}

type Around<'a> = (&'a mut Liveness, &'a mut JoinSet<()>, &'a RelayStateLock);

fn take(agent: &Arc<Agent>, session: &Arc<Session>, message: Message, around: Around<'_>) -> Result<(), Broken> {
    let (liveness, calls, state) = around;
    let taken = session.side.lock().read(message)?;
    match taken {
        Taken::Dial(reply, call, published) => {
            session.say(reply);
            let (withdraw, withdrawn) = oneshot::channel();
            session.dialling.lock().insert(call.connection, withdraw);
            calls.spawn(call::serve(Arc::clone(agent), Arc::clone(session), call, published, withdrawn));
        }
        Taken::Reply(reply) => session.say(reply),
        Taken::Withdrawn(connection) => {
            if let Some(withdraw) = session.dialling.lock().remove(&connection) {
                let _ = withdraw.send(());
            }
        }
        Taken::Results(results) => {
            for (published, result) in &results {
                match result {
                    Ok(()) => log::info!("{}: publishes {published}", session.relay),
                    Err(reason) => log::error!("{}: {published} is not published: {}", session.relay, reason.explain()),
                }
            }
            state.change(|state| state.published = results.into_iter().collect());
        }
        Taken::Answered(number) => liveness.answered(number, agent.now()),
        Taken::Leaving => return Err(Broken(SessionError::Leaving)),
    }
    Ok(())
}

/// What ends a session.
struct Broken(SessionError);

impl From<Violation> for Broken {
    fn from(Violation(what): Violation) -> Self {
        Self(SessionError::Violation(what))
    }
}

impl From<crate::session::Overlong> for Broken {
    fn from(_: crate::session::Overlong) -> Self {
        Self(SessionError::Violation("a capsule is too long"))
    }
}

impl From<Unreadable> for Broken {
    fn from(error: Unreadable) -> Self {
        match error {
            Unreadable::Overlong(error) => error.into(),
            Unreadable::Malformed(malformed) => Self(SessionError::Violation(malformed.0)),
        }
    }
}

/// Writes what is said; ends with the session, or when the relay takes nothing more.
async fn write(mut sender: SendStream<Bytes>, mut said: mpsc::Receiver<Message>) {
    while let Some(message) = said.recv().await {
        let mut bytes = Vec::new();
        message.put(&mut bytes);
        while let Ok(next) = said.try_recv() {
            next.put(&mut bytes);
        }
        if !splice::send_all(&mut sender, Bytes::from(bytes)).await {
            return;
        }
    }
}
