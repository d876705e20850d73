//! One agent's session: its control channel, and the calls that wait for a data channel.

use super::clock::Clock;
use crate::config::{Probing, RelayLimits};
use crate::identity::{Fingerprint, Member};
use crate::session::{
    Beat, CallChannel, ConnectionId, Decoder, Joining, Limits, Liveness, Message, Outcome, Published, RefuseReason,
    RelaySide, Unreadable, Violation,
};
use crate::splice::{self, Leg};
use crate::time::Time;
use bytes::Bytes;
use h2::{RecvStream, SendStream};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Messages that may wait for an agent that does not read: more, and calls are refused.
const OUTBOX: usize = 1024;
/// How often it is looked for calls whose time is over.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Time for a call to be acknowledged.
const ACKNOWLEDGE_TIME: Duration = Duration::from_secs(5);
/// Time for its data channel to come: the agent dials the server meanwhile, which takes as long as a SYN is repeated.
const CHANNEL_TIME: Duration = Duration::from_secs(30);

/// Why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    #[error("the agent has closed it")]
    AgentLeft,
    #[error("the agent does not answer")]
    Silent,
    #[error("a newer session of the same key has replaced it")]
    Replaced,
    #[error("the agent was revoked")]
    Revoked,
    #[error("the agent does not keep to the protocol: {0}")]
    Violation(&'static str),
    #[error("the relay stops")]
    RelayStops,
}

/// What a call becomes.
pub type Answered = Result<Box<dyn Leg>, RefuseReason>;

/// What all sessions of a relay have in common.
#[derive(Clone)]
pub struct Common {
    pub clock: Clock,
    pub limits: RelayLimits,
    pub probing: Probing,
    /// Told when a server has come.
    pub changed: watch::Sender<()>,
}

/// One agent's session.
pub struct Session {
    common: Common,
    pub agent: String,
    pub key: Fingerprint,
    pub permitted: Vec<String>,
    pub address: SocketAddr,
    pub since: Time,
    side: Mutex<RelaySide>,
    waiting: Mutex<HashMap<ConnectionId, oneshot::Sender<Answered>>>,
    outbox: mpsc::Sender<Message>,
    /// Told when a call is acknowledged or over.
    acknowledged: watch::Sender<()>,
    round_trip: Mutex<Option<Duration>>,
    end: watch::Sender<Option<End>>,
}

impl Session {
    /// A session that publishes nothing yet, and what it has to say.
    pub fn new(common: Common, member: &Member, address: SocketAddr) -> (Arc<Self>, mpsc::Receiver<Message>) {
        let (outbox, said) = mpsc::channel(OUTBOX);
        let session = Self {
            agent: member.name.clone(),
            key: member.key,
            permitted: member.servers.clone(),
            address,
            since: common.clock.now(),
            side: Mutex::new(RelaySide::new(of_session(common.limits))),
            waiting: Mutex::default(),
            outbox,
            acknowledged: watch::Sender::new(()),
            round_trip: Mutex::default(),
            end: watch::Sender::new(None),
            common,
        };
        (Arc::new(session), said)
    }

    /// New servers and calls meet these limits.
    pub fn limit(&self, limits: RelayLimits) {
        self.side.lock().limit(of_session(limits));
    }

    /// Ends it, for the first reason that is given.
    pub fn end(&self, why: End) {
        self.end.send_if_modified(|end| end.is_none() && end.replace(why).is_none());
    }

    pub fn ended(&self) -> Option<End> {
        *self.end.borrow()
    }

    /// Waits for its end.
    pub async fn wait_end(&self) -> End {
        let mut end = self.end.subscribe();
        let why = end.wait_for(Option::is_some).await.ok().and_then(|why| *why);
        why.unwrap_or(End::AgentLeft)
    }

    pub fn connections(&self) -> usize {
        self.side.lock().connections()
    }

    /// What it publishes, with the port that each server really has.
    pub fn published(&self) -> Vec<(Published, u16)> {
        self.side.lock().published().map(|(published, port)| (published.clone(), port)).collect()
    }

    pub fn publishes(&self, server: &Published) -> bool {
        self.side.lock().published().any(|(published, _)| published == server)
    }

    pub fn round_trip(&self) -> Option<Duration> {
        *self.round_trip.lock()
    }

    /// Puts a call to the agent. What becomes of it comes by the receiver; [`Session::finish`] is owed in any case.
    pub fn call(
        &self,
        published: &Published,
        connection: ConnectionId,
        client: (SocketAddr, CallChannel),
        now: Time,
    ) -> Result<oneshot::Receiver<Answered>, RefuseReason> {
        let message = self.side.lock().call(published, connection, client, now)?;
        let (tell, told) = oneshot::channel();
        self.waiting.lock().insert(connection, tell);
        if self.outbox.try_send(message).is_err() {
            self.waiting.lock().remove(&connection);
            self.side.lock().end(connection);
            return Err(RefuseReason::AgentSilent);
        }
        Ok(told)
    }

    /// Whether a data channel for this connection is wanted; only one ever is. Waits where it has overtaken the
    /// acknowledgement of its call, which comes within its time or the call is over.
    pub async fn join(&self, connection: ConnectionId) -> bool {
        let mut changed = self.acknowledged.subscribe();
        loop {
            let joining = self.side.lock().join(connection);
            match joining {
                Joining::Joined => return true,
                Joining::Unwanted => return false,
                Joining::Early => drop(changed.changed().await),
            }
        }
    }

    /// Hands the data channel to the call; it is aborted where the client has gone meanwhile.
    pub fn deliver(&self, connection: ConnectionId, leg: Box<dyn Leg>) {
        let waiting = self.waiting.lock().remove(&connection);
        let undelivered = match waiting {
            Some(tell) => tell.send(Ok(leg)).err(),
            None => Some(Ok(leg)),
        };
        if let Some(Ok(mut leg)) = undelivered {
            leg.abort();
        }
    }

    /// The connection is over; the agent is told if it may still be dialling.
    pub fn finish(&self, connection: ConnectionId) {
        self.waiting.lock().remove(&connection);
        let message = self.side.lock().end(connection);
        self.acknowledged.send_replace(());
        if let Some(message) = message {
            // Where there is no room, the agent does not read, and its session ends soon.
            let _ = self.outbox.try_send(message);
        }
    }

    /// The data channel that was wanted has broken before it was open.
    pub fn fail(&self, connection: ConnectionId) {
        self.refuse(connection, RefuseReason::NoDataChannel);
    }

    fn refuse(&self, connection: ConnectionId, reason: RefuseReason) {
        if let Some(tell) = self.waiting.lock().remove(&connection) {
            let _ = tell.send(Err(reason));
        }
    }

    fn judge(&self, published: &Published) -> Result<(), RefuseReason> {
        let is_permitted = self.permitted.iter().any(|name| name == published.name.as_str());
        if is_permitted { Ok(()) } else { Err(RefuseReason::NotPermitted) }
    }

    fn read(&self, message: Message, liveness: &mut Liveness) -> Result<(), Violation> {
        let now = self.common.clock.now();
        let outcome = self.side.lock().read(message, now, &mut |published| self.judge(published))?;
        match outcome {
            Outcome::Published { reply, new, gone } => {
                for (published, word) in
                    new.iter().map(|new| (new, "published")).chain(gone.iter().map(|g| (g, "withdrawn")))
                {
                    log::info!("server {word}: {published} of agent {}", self.agent);
                }
                self.say(reply)?;
                self.common.changed.send_replace(());
            }
            Outcome::Reply(reply) => self.say(reply)?,
            Outcome::Declined(connection, reason) => self.refuse(connection, reason),
            Outcome::Answered(number) => {
                liveness.answered(number, now);
                *self.round_trip.lock() = liveness.round_trip();
            }
            Outcome::Acknowledged(_) => self.acknowledged.send_replace(()),
            Outcome::Leaving | Outcome::Late => {}
        }
        Ok(())
    }

    fn say(&self, message: Message) -> Result<(), Violation> {
        self.outbox.try_send(message).map_err(|_| Violation("it asks, and does not read the answers"))
    }

    /// Runs the control channel until the session ends.
    pub async fn run(&self, mut receiver: RecvStream, sender: SendStream<Bytes>, said: mpsc::Receiver<Message>) {
        let writing = tokio::spawn(write(sender, said));
        let (clock, probing) = (self.common.clock, self.common.probing);
        let mut liveness = Liveness::new(probing.every, probing.patience, clock.now());
        let mut decoder = Decoder::default();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let why = loop {
            tokio::select! {
                piece = receiver.data() => match piece {
                    Some(Ok(piece)) => {
                        let _ = receiver.flow_control().release_capacity(piece.len());
                        if let Err(Broken(why)) = self.take(&mut decoder, &piece, &mut liveness) {
                            break End::Violation(why);
                        }
                    }
                    Some(Err(_)) | None => break End::AgentLeft,
                },
                _ = look.tick() => {
                    self.expire(clock.now());
                    match liveness.beat(clock.now()) {
                        Beat::Dead => break End::Silent,
                        Beat::Send(probe) => drop(self.outbox.try_send(probe)),
                        Beat::WaitUntil(_) => {}
                    }
                }
                why = self.wait_end() => break why,
            }
        };
        self.end(why);
        writing.abort();
        for (_, tell) in self.waiting.lock().drain() {
            let _ = tell.send(Err(RefuseReason::SessionEnded));
        }
    }

    fn take(&self, decoder: &mut Decoder, piece: &[u8], liveness: &mut Liveness) -> Result<(), Broken> {
        decoder.read(piece, |kind, value| match Message::of_capsule(kind, value).map_err(Unreadable::from)? {
            Some(message) => self.read(message, liveness).map_err(|Violation(what)| Broken(what)),
            None => Ok(()),
        })
    }

    fn expire(&self, now: Time) {
        let expired = self.side.lock().expired(now);
        for (connection, reason) in expired {
            self.refuse(connection, reason);
            self.finish(connection);
        }
    }
}

fn of_session(limits: RelayLimits) -> Limits {
    let RelayLimits { servers, of_server, of_agent, .. } = limits;
    Limits { servers, of_server, of_agent, acknowledge: ACKNOWLEDGE_TIME, channel: CHANNEL_TIME }
}

/// What ends a session, as said in the log.
struct Broken(&'static str);

impl<E: Into<Unreadable>> From<E> for Broken {
    fn from(error: E) -> Self {
        match error.into() {
            Unreadable::Overlong(_) => Self("a capsule is too long"),
            Unreadable::Malformed(malformed) => Self(malformed.0),
        }
    }
}

/// Writes what is said; ends with the session, or when the agent takes nothing more.
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
