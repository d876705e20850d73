//! The other end: what the command line asks with.

use super::filter::Filter;
use super::relay::{Admit, Admitted, Invite, Invited, Revoked};
use super::{
    CallbackBody, Drops, DropsRequest, ExplainRequest, Failure, Flows, FlowsRequest, Order, Pin, ReleasedAll, Reloaded,
    Status, Watch, history,
};
use crate::nat::{BindingView, Explanation, Qualified};
use crate::session::ConnectionId;
use crate::store::history::{HistoryAnswer, HistoryQuestion};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// Time for an answer to begin.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// Time for the queue in front of the gateway to have room.
const QUEUE_TIME: Duration = Duration::from_secs(10);
/// Time between two pieces of it.
const PIECE_TIME: Duration = Duration::from_secs(60);
/// How soon a signal ends watching, and room in the queue is found.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A control socket, and whose it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `gateway`, `relay` or `agent`.
    pub role: &'static str,
    /// The socket file.
    pub path: PathBuf,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} on {}", self.role, self.path.display())
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no {} answers on {} ({error}): is it running? --control names another socket", .asked.role, .asked.path.display())]
    NoGateway {
        /// Who was asked.
        asked: Asked,
        /// What the system said.
        error: io::Error,
    },
    /// The role is not ready.
    #[error("{0} is still starting; `kamei status --wait 10` waits for it")]
    Starting(Asked),
    /// No socket can have this path (unix(7)).
    #[error("--control {} is longer than the 107 bytes that the path of a socket can have; no {} has that one", .0.path.display(), .0.role)]
    TooLong(Asked),
    /// Others have all the places.
    #[error("{0} is busy: as many callers as it serves at once are there already; try again later")]
    Busy(Asked),
    /// The socket is not for this user.
    #[error("not allowed to ask {0}; run as root")]
    NotAllowed(Asked),
    /// It understood and said no.
    #[error("{0}")]
    Refused(String),
    /// Another role answers there.
    #[error("{} is the socket of {}, not of {}: it answers `kamei {there} …` and `kamei status`", .asked.path.display(), with_article(.there), with_article(.asked.role))]
    AnotherRole {
        /// Who was asked.
        asked: Asked,
        /// Who is there.
        there: &'static str,
    },
    /// The conversation failed.
    #[error("{asked} gave no proper answer: {what}; is it of another version than this program?")]
    Garbled {
        /// Who was asked.
        asked: Asked,
        /// What was wrong with the answer.
        what: String,
    },
    /// What was answered cannot be passed on.
    #[error("cannot write: {0}")]
    Output(io::Error),
}

fn with_article(role: &str) -> String {
    format!("{} {role}", if role == "agent" { "an" } else { "a" })
}

/// Asks the role behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    asked: Asked,
}

/// What a request can carry.
#[derive(Serialize)]
#[serde(untagged)]
enum Body {
    Pin(Pin),
    Callback(CallbackBody),
    Invite(Invite),
    Admit(Admit),
}

impl Client {
    /// Of a gateway. Does not connect yet.
    pub fn new(path: &Path) -> Self {
        Self::of("gateway", path)
    }

    /// Of a `relay` or an `agent`. Does not connect yet.
    pub fn of(role: &'static str, path: &Path) -> Self {
        Self { asked: Asked { role, path: path.to_owned() } }
    }

    /// Which role this is to be.
    pub fn role(&self) -> &'static str {
        self.asked.role
    }

    /// A client of the role that answers at this socket.
    pub fn of_whoever(path: &Path) -> Result<Self, ClientError> {
        let client = Self::new(path);
        let there = client.whose()?;
        Ok(Self::of(there, path))
    }

    /// Which role answers: a gateway does not say.
    fn whose(&self) -> Result<&'static str, ClientError> {
        #[derive(serde::Deserialize)]
        struct Status {
            role: Option<String>,
        }
        let request = self.request(Method::GET, "/v1/status", None)?;
        let mut text = Vec::new();
        self.converse(request, &mut |piece| {
            text.extend_from_slice(piece);
            Ok(())
        })?;
        let status: Status = serde_json::from_slice(&text).map_err(|error| self.garbled(error))?;
        match status.role.as_deref() {
            None => Ok("gateway"),
            Some("relay") => Ok("relay"),
            Some("agent") => Ok("agent"),
            Some(other) => Err(self.garbled(format!("it is the role '{other}'"))),
        }
    }

    /// The same error, unless another role was asked than was meant.
    fn or_another_role(&self, error: ClientError) -> ClientError {
        let may_be = matches!(&error, ClientError::Garbled { .. })
            || matches!(&error, ClientError::Refused(said) if said.starts_with("no such path"));
        if !may_be {
            return error;
        }
        match self.whose() {
            Ok(there) if there != self.asked.role => ClientError::AnotherRole { asked: self.asked.clone(), there },
            _ => error,
        }
    }

    /// What is at this path, as it is said.
    pub fn look(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        self.text(Method::GET, path, None)
    }

    /// The same, read.
    pub fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, None)
    }

    /// Has a relay make an invitation.
    pub fn invite(&self, invite: Invite) -> Result<Invited, ClientError> {
        self.ask(Method::POST, "/v1/invitations", Some(&Body::Invite(invite)))
    }

    /// Has a relay let a client in.
    pub fn admit(&self, admit: Admit) -> Result<Admitted, ClientError> {
        self.ask(Method::POST, "/v1/clients", Some(&Body::Admit(admit)))
    }

    /// Has a relay end a member or a client.
    pub fn revoke(&self, name: &str) -> Result<Revoked, ClientError> {
        self.ask(Method::DELETE, &format!("/v1/agents/{name}"), None)
    }

    /// Has a relay end a connection.
    pub fn close(&self, connection: ConnectionId) -> Result<(), ClientError> {
        self.text(Method::DELETE, &format!("/v1/connections/{connection}"), None).map(drop)
    }

    /// How the gateway is, as it says it.
    pub fn status_text(&self) -> Result<Vec<u8>, ClientError> {
        self.text(Method::GET, "/v1/status", None)
    }

    /// How the gateway is.
    pub fn status(&self) -> Result<Status, ClientError> {
        self.ask(Method::GET, "/v1/status", None)
    }

    /// Bindings, in the order of the pools.
    pub fn bindings(&self, filter: &Filter) -> Result<Vec<BindingView>, ClientError> {
        self.bindings_in(filter, None)
    }

    /// The same in another order: the first [`MOST_SORTED`](super::MOST_SORTED) at most.
    pub fn bindings_in(&self, filter: &Filter, order: Option<Order>) -> Result<Vec<BindingView>, ClientError> {
        let (mut bindings, mut line) = (Vec::new(), Vec::new());
        self.pieces(&ordered_path(filter, order), &mut |piece| {
            for byte in piece {
                if *byte != b'\n' {
                    line.push(*byte);
                    continue;
                }
                self.read_line(&line, &mut bindings)?;
                line.clear();
            }
            Ok(())
        })?;
        self.read_line(&line, &mut bindings)?;
        Ok(bindings)
    }

    /// Writes the JSON of a listing as it comes.
    pub fn copy_bindings(&self, filter: &Filter, order: Option<Order>, out: &mut dyn Write) -> Result<(), ClientError> {
        self.pieces(&ordered_path(filter, order), &mut |piece| out.write_all(piece).map_err(ClientError::Output))
    }

    /// The bindings with this address.
    pub fn show(&self, which: &Qualified) -> Result<Vec<BindingView>, ClientError> {
        self.ask(Method::GET, &binding_path(which), None)
    }

    /// The same, each with so many contacts at most.
    pub fn show_contacts(&self, which: &Qualified, contacts: usize) -> Result<Vec<BindingView>, ClientError> {
        self.ask(Method::GET, &format!("{}?contacts={contacts}", binding_path(which)), None)
    }

    /// Ties a terminal to a virtual IP; `force`: even if that is in quarantine after another's use.
    pub fn pin(&self, terminal: &Qualified, virtual_ip: IpAddr, force: bool) -> Result<BindingView, ClientError> {
        self.ask(Method::PUT, &binding_path(terminal), Some(&Body::Pin(Pin { virtual_ip, force })))
    }

    /// Gives the bindings with this address a callback policy of their own, or takes it away.
    pub fn set_callback(
        &self,
        which: &Qualified,
        callback: Option<Vec<String>>,
    ) -> Result<Vec<BindingView>, ClientError> {
        self.ask(Method::PATCH, &binding_path(which), Some(&Body::Callback(CallbackBody { callback })))
    }

    /// Has the gateway read its configuration anew and change over to it, or only say what that would change.
    pub fn reload(&self, dry_run: bool) -> Result<Reloaded, ClientError> {
        self.ask(Method::POST, if dry_run { "/v1/reload?dry-run" } else { "/v1/reload" }, None)
    }

    /// Releases the bindings with this address; gives them as they were.
    pub fn release(&self, which: &Qualified) -> Result<Vec<BindingView>, ClientError> {
        self.ask(Method::DELETE, &binding_path(which), None)
    }

    /// Ends all bindings that the filter lets pass, or only says how many those are.
    pub fn release_all(&self, filter: &Filter, dry_run: bool) -> Result<ReleasedAll, ClientError> {
        let dry_run = if dry_run { "&dry-run" } else { "" };
        self.ask(Method::DELETE, &format!("{}{dry_run}", list_path(filter)), None)
    }

    /// Packets as they pass, a [`Line`](super::Line) each, until `stop` is set or the gateway stops; `begun` is called when the
    /// gateway has begun to watch.
    pub fn trace(
        &self,
        watch: &Watch,
        stop: &AtomicBool,
        begun: &mut dyn FnMut(),
        each: &mut dyn FnMut(&[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        self.watch(&format!("/v1/trace{}", watch.to_query()), stop, begun, each)
    }

    /// The same as the bytes of a pcapng file.
    pub fn capture(
        &self,
        watch: &Watch,
        stop: &AtomicBool,
        begun: &mut dyn FnMut(),
        each: &mut dyn FnMut(&[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        self.watch(&format!("/v1/capture{}", watch.to_query()), stop, begun, each)
    }

    /// Whose the packets are that were dropped.
    pub fn drops_text(&self, request: &DropsRequest) -> Result<Vec<u8>, ClientError> {
        self.text(Method::GET, &format!("/v1/drops{}", request.to_query()), None)
    }

    /// The same, read.
    pub fn drops(&self, request: &DropsRequest) -> Result<Drops, ClientError> {
        serde_json::from_slice(&self.drops_text(request)?).map_err(|error| self.garbled(error))
    }

    /// Flows in the kernel.
    pub fn flows_text(&self, request: &FlowsRequest) -> Result<Vec<u8>, ClientError> {
        self.text(Method::GET, &format!("/v1/flows{}", request.to_query()), None)
    }

    /// The same, read.
    pub fn flows(&self, request: &FlowsRequest) -> Result<Flows, ClientError> {
        serde_json::from_slice(&self.flows_text(request)?).map_err(|error| self.garbled(error))
    }

    /// What would become of a packet.
    pub fn explain_text(&self, request: &ExplainRequest) -> Result<Vec<u8>, ClientError> {
        self.text(Method::GET, &format!("/v1/explain{}", request.to_query()), None)
    }

    /// The same, read.
    pub fn explain(&self, request: &ExplainRequest) -> Result<Explanation, ClientError> {
        serde_json::from_slice(&self.explain_text(request)?).map_err(|error| self.garbled(error))
    }

    /// Who had which virtual IP when, as the gateway says it.
    pub fn history_text(&self, question: &HistoryQuestion) -> Result<Vec<u8>, ClientError> {
        self.text(Method::GET, &format!("/v1/history{}", history::to_query(question)), None)
    }

    /// The same, read.
    pub fn history(&self, question: &HistoryQuestion) -> Result<HistoryAnswer, ClientError> {
        serde_json::from_slice(&self.history_text(question)?).map_err(|error| self.garbled(error))
    }

    fn watch(
        &self,
        path: &str,
        stop: &AtomicBool,
        begun: &mut dyn FnMut(),
        each: &mut dyn FnMut(&[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let request = self.request(Method::GET, path, None)?;
        let watched = self.runtime()?.block_on(async {
            let response = self.begin(request).await?;
            if response.status() == StatusCode::OK {
                begun();
            }
            let stopped = async {
                while !stop.load(Ordering::Relaxed) {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            tokio::select! {
                ended = self.receive(response, Duration::MAX, each) => ended,
                () = stopped => Ok(()),
            }
        });
        watched.map_err(|error| self.or_another_role(error))
    }

    fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&Body>) -> Result<T, ClientError> {
        let text = self.text(method, path, body)?;
        serde_json::from_slice(&text).map_err(|error| self.not_understood(error))
    }

    fn text(&self, method: Method, path: &str, body: Option<&Body>) -> Result<Vec<u8>, ClientError> {
        let mut text = Vec::new();
        self.exchange(method, path, body, &mut |piece| {
            text.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(text)
    }

    fn pieces(&self, path: &str, each: &mut dyn FnMut(&[u8]) -> Result<(), ClientError>) -> Result<(), ClientError> {
        self.exchange(Method::GET, path, None, each)
    }

    /// A listing has one binding a line: no need to hold all of its text.
    fn read_line(&self, line: &[u8], bindings: &mut Vec<BindingView>) -> Result<(), ClientError> {
        let line = line.strip_suffix(b",").unwrap_or(line);
        if line.first() == Some(&b'{') {
            bindings.push(serde_json::from_slice(line).map_err(|error| self.garbled(error))?);
        }
        Ok(())
    }

    fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Body>,
        each: &mut dyn FnMut(&[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let request = self.request(method, path, body)?;
        self.converse(request, each).map_err(|error| self.or_another_role(error))
    }

    fn converse(
        &self,
        request: Request<Full<Bytes>>,
        each: &mut dyn FnMut(&[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        self.runtime()?.block_on(async {
            let response = self.begin(request).await?;
            self.receive(response, PIECE_TIME, each).await
        })
    }

    fn request(&self, method: Method, path: &str, body: Option<&Body>) -> Result<Request<Full<Bytes>>, ClientError> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| self.garbled(error))?.unwrap_or_default();
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", "kamei")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.garbled(error))
    }

    fn runtime(&self) -> Result<tokio::runtime::Runtime, ClientError> {
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| self.garbled(error))
    }

    /// Asks, and waits for the head of the answer.
    async fn begin(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        tokio::time::timeout(ANSWER_TIME, self.send(request))
            .await
            .unwrap_or_else(|_| Err(self.garbled("no answer in 15 seconds")))
    }

    /// A full queue is no reason to give up at once.
    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let begin = Instant::now();
        loop {
            match UnixStream::connect(&self.asked.path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && begin.elapsed() < QUEUE_TIME => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                tried => return tried.map_err(|error| self.unreachable(error)),
            }
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unfinished(error))?;
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| self.unfinished(error))
    }

    async fn receive(
        &self,
        response: Response<Incoming>,
        patience: Duration,
        each: &mut dyn FnMut(&[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let status = response.status();
        let mut body = response.into_body();
        let mut error = Vec::new();
        loop {
            let piece = tokio::time::timeout(patience, body.frame()).await;
            let piece = piece.map_err(|_| self.garbled("it stopped in the middle of an answer"))?;
            let Some(piece) = piece else { break };
            let Ok(piece) = piece.map_err(|error| self.garbled(error))?.into_data() else { continue };
            match status {
                StatusCode::OK => each(&piece)?,
                _ => error.extend_from_slice(&piece),
            }
        }
        if status == StatusCode::OK {
            return Ok(());
        }
        let error = serde_json::from_slice(&error).map_or_else(|_| status.to_string(), |Failure { error }| error);
        Err(match status {
            StatusCode::SERVICE_UNAVAILABLE if error == "busy" => ClientError::Busy(self.asked.clone()),
            StatusCode::SERVICE_UNAVAILABLE => ClientError::Starting(self.asked.clone()),
            StatusCode::FORBIDDEN => ClientError::NotAllowed(self.asked.clone()),
            status if status.is_client_error() => ClientError::Refused(error),
            _ => self.garbled(error),
        })
    }

    fn unreachable(&self, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::WouldBlock => ClientError::Busy(self.asked.clone()),
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(self.asked.clone()),
            io::ErrorKind::InvalidInput => ClientError::TooLong(self.asked.clone()),
            _ => ClientError::NoGateway { asked: self.asked.clone(), error },
        }
    }

    /// The gateway took the connection and ended before it answered.
    fn unfinished(&self, error: hyper::Error) -> ClientError {
        let error = io::Error::new(io::ErrorKind::ConnectionAborted, error);
        ClientError::NoGateway { asked: self.asked.clone(), error }
    }

    /// An answer that cannot be read, perhaps for it is another role's.
    pub fn not_understood(&self, error: serde_json::Error) -> ClientError {
        self.or_another_role(self.garbled(error))
    }

    /// An answer that cannot be read.
    pub fn garbled(&self, what: impl ToString) -> ClientError {
        ClientError::Garbled { asked: self.asked.clone(), what: what.to_string() }
    }
}

fn list_path(filter: &Filter) -> String {
    format!("/v1/bindings{}", filter.to_query())
}

fn ordered_path(filter: &Filter, order: Option<Order>) -> String {
    let path = list_path(filter);
    let sign = if path.contains('?') { '&' } else { '?' };
    order.map_or_else(|| path.clone(), |order| format!("{path}{sign}{}", order.to_query()))
}

fn binding_path(address: &Qualified) -> String {
    format!("/v1/bindings/{address}")
}
