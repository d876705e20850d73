//! The thread that serves the control socket.

use super::Admin;
use super::answer::{self, AnswerBody, RequestContext, Requests, Role};
use super::connections::{Connection, Connections};
use super::credentials::{self, Access};
use super::gateway::{self, GatewayRole};
use super::limits::Patience;
use super::refusal::Refusal;
use super::socket::{ControlError, SocketFile};
use crate::host::confine::Confinement;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::oneshot;

/// Callers of root and the gateway's own user that are served at once; more wait their turn.
const MOST_OF_ROOT: u32 = 16;
/// The same of everybody else on the control socket: these take no place from root.
const MOST_READERS: u32 = 16;
/// The same on the port of the metrics, which every user of this machine can reach.
const MOST_SCRAPES: u32 = 16;
/// Time until a port that cannot be had is tried again; doubles up to the other.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Said to whom there is no place for.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\
    connection: close\r\n\r\n{\"error\":\"busy\"}";
/// Time that requests have to end when the gateway does.
const FAREWELL_TIME: Duration = Duration::from_millis(500);
/// Size of a request's head.
const LARGEST_HEAD: usize = 16 * 1024;
/// Headers of a request.
const MOST_HEADERS: usize = 64;

/// Where the socket is and who may come in.
pub struct SocketSettings {
    path: PathBuf,
    readers: Option<u32>,
    metrics: Option<SocketAddr>,
    confinement: Option<Confinement>,
    patience: Patience,
    requests: Requests,
}

impl SocketSettings {
    /// A socket at `path` for root and this user.
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            readers: None,
            metrics: None,
            confinement: None,
            patience: Patience::default(),
            requests: gateway::REQUESTS,
        }
    }

    /// What can be asked there; of a gateway unless told otherwise.
    pub(super) fn asked(self, requests: Requests) -> Self {
        Self { requests, ..self }
    }

    /// The members of this group may look.
    pub fn readable_by(self, group: Option<u32>) -> Self {
        Self { readers: group, ..self }
    }

    /// Beside it, a port that tells metrics to everybody who reaches it.
    pub fn with_metrics(self, metrics: Option<SocketAddr>) -> Self {
        Self { metrics, ..self }
    }

    /// The thread that serves confines itself like this before it takes the first caller.
    pub fn confined_by(self, confinement: Option<Confinement>) -> Self {
        Self { confinement, ..self }
    }

    /// As patient as it is told to be.
    #[cfg(test)]
    pub(super) fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }
}

/// A control socket that tells everybody that the gateway is starting. Dropping it removes the socket.
pub struct Listener(Running);

/// A control socket that is served. Dropping it removes the socket.
pub struct Server(Running);

/// Who answers, from when it has started.
struct Answerer {
    role: OnceLock<Arc<dyn Role>>,
    requests: Requests,
}

impl Answerer {
    fn get(&self) -> Option<&Arc<dyn Role>> {
        self.role.get()
    }
}

struct Running {
    answerer: Arc<Answerer>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Removed last, when nobody answers any more.
    _file: SocketFile,
}

impl Listener {
    /// Makes the socket, private from its first moment, and its directory if only that is missing. Everything that can fail
    /// does so here; not the port of the metrics, which anybody on this machine can take first: that is tried until it is had.
    pub fn bind(settings: SocketSettings) -> Result<Self, ControlError> {
        let SocketSettings { path, readers, metrics, confinement, patience, requests } = settings;
        let (file, listener) = SocketFile::listen(&path, readers)?;
        let port = metrics.map(|address| (address, listen(address)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads((MOST_OF_ROOT + MOST_READERS + MOST_SCRAPES) as usize)
            .build()
            .map_err(ControlError::Thread)?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::from_std(listener).map_err(ControlError::Thread)?
        };
        let answerer = Arc::new(Answerer { role: OnceLock::new(), requests });
        let (stop, stopped) = oneshot::channel();
        let known = Arc::clone(&answerer);
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                if let Some(Err(error)) = confinement.map(|confinement| confinement.enter()) {
                    log::error!("{error}"); // `main` meets the same, and ends
                }
                if let Some((address, port)) = port {
                    runtime.spawn(serve_metrics(address, port, Arc::clone(&known), patience));
                }
                runtime.block_on(serve(listener, readers, known, stopped, patience));
                runtime.shutdown_timeout(FAREWELL_TIME);
            })
            .map_err(ControlError::Thread)?;
        Ok(Self(Running { answerer, stop: Some(stop), thread: Some(thread), _file: file }))
    }

    /// From now on a gateway answers.
    pub fn serve(self, admin: Arc<dyn Admin>) -> Server {
        self.serve_role(Arc::new(GatewayRole(admin)))
    }

    /// From now on this role answers.
    pub(super) fn serve_role(self, role: Arc<dyn Role>) -> Server {
        let _ = self.0.answerer.role.set(role);
        Server(self.0)
    }
}

impl Server {
    /// Lets requests end, for half a second, and removes the socket.
    pub fn stop(self) {
        drop(self.0);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: UnixListener,
    readers: Option<u32>,
    answerer: Arc<Answerer>,
    stopped: oneshot::Receiver<()>,
    patience: Patience,
) {
    let of_root = Arc::new(Connections::new(MOST_OF_ROOT));
    let of_readers = Arc::new(Connections::new(MOST_READERS));
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let access = access(&stream, readers);
                    let user = credentials::user(&stream);
                    let places = if access == Access::All { &of_root } else { &of_readers };
                    let (answerer, places) = (Arc::clone(&answerer), Arc::clone(places));
                    tokio::spawn(async move {
                        match places.enter(patience.head).await {
                            Some(place) => converse(stream, (access, user), &place, answerer, patience).await,
                            // As far as it goes: who does not take it is no worse off.
                            None => drop(stream.try_write(BUSY)),
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, say: that may pass.
                    log::warn!("control socket: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        _ = stopped => {}
    }
    drop(listener);
    if let Some(role) = answerer.get() {
        role.close();
    }
    let _ =
        tokio::time::timeout(FAREWELL_TIME, async { tokio::join!(of_root.all_free(), of_readers.all_free()) }).await;
}

/// One request a connection here too; ends with its runtime.
async fn serve_metrics(
    address: SocketAddr,
    tried: io::Result<std::net::TcpListener>,
    answerer: Arc<Answerer>,
    patience: Patience,
) {
    let places = Arc::new(Connections::new(MOST_SCRAPES).hurried());
    let port = have(address, tried).await;
    loop {
        match port.accept().await {
            Ok((stream, _)) => {
                let (answerer, places) = (Arc::clone(&answerer), Arc::clone(&places));
                tokio::spawn(async move {
                    if let Some(place) = places.enter(patience.head).await {
                        converse(stream, (Access::Metrics, credentials::NOBODY), &place, answerer, patience).await;
                    }
                });
            }
            Err(error) => {
                log::warn!("port of the metrics: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// The port, as soon as it can be had.
async fn have(address: SocketAddr, mut tried: io::Result<std::net::TcpListener>) -> TcpListener {
    let (mut pause, longest) = TRY_AGAIN;
    let mut said = None;
    loop {
        match tried.and_then(TcpListener::from_std) {
            Ok(port) => {
                if said.is_some() {
                    log::info!("metrics are told on {address} now");
                }
                return port;
            }
            Err(error) if said != Some(error.kind()) => {
                log::warn!(
                    "cannot tell metrics on {address}: {error}; trying again until it can be had: see who has it (`ss -ltnp`), \
                     or choose another port"
                );
                said = Some(error.kind());
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = longest.min(2 * pause);
        tried = listen(address);
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// One connection, one request.
async fn converse<S>(
    stream: S,
    (access, user): (Access, u32),
    place: &Connection,
    answerer: Arc<Answerer>,
    patience: Patience,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let progress = Arc::new(AtomicU64::new(0));
    let service = service_fn(|request| {
        place.has_asked();
        let (answerer, progress) = (Arc::clone(&answerer), Arc::clone(&progress));
        async move {
            let hidden = (answerer.requests.for_root_alone)(request.uri().path());
            let answered = match (access, request.method()) {
                (Access::Look, _) if let Some(why) = hidden => Err(forbidden(why)),
                (Access::All, _) | (Access::Look, &Method::GET) => {
                    handle(request, &answerer, &progress, &patience, user).await
                }
                (Access::Look, _) => Err(forbidden("members of the control group may look, not change; ask as root")),
                (Access::Metrics, _) => scrape(&request, &answerer).await,
                (Access::Nothing, _) => Err(forbidden("only root and the gateway's own user may ask")),
            };
            Ok::<Response<AnswerBody>, Infallible>(answered.unwrap_or_else(answer::refuse))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            log::debug!("control socket: {error}");
        },
        () = stalled(&progress, patience.stall) => log::debug!("control socket: a caller stopped reading"),
        () = place.is_wanted() => log::debug!("control socket: a caller makes room for another"),
    }
}

/// Prometheus asks for `/metrics` unless told otherwise.
async fn scrape(request: &Request<Incoming>, answerer: &Arc<Answerer>) -> Result<Response<AnswerBody>, Refusal> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics" | "/v1/metrics") => ready(answerer)?.metrics().await,
        _ => Err(Refusal::new(StatusCode::NOT_FOUND, "there is only GET /metrics here")),
    }
}

fn ready(answerer: &Arc<Answerer>) -> Result<&Arc<dyn Role>, Refusal> {
    answerer.get().ok_or_else(|| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "starting"))
}

fn forbidden(error: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, error)
}

fn access(stream: &UnixStream, readers: Option<u32>) -> Access {
    credentials::access(stream, readers).unwrap_or_else(|error| {
        log::warn!("control socket: cannot tell who calls: {error}");
        Access::Nothing
    })
}

async fn handle(
    request: Request<Incoming>,
    answerer: &Arc<Answerer>,
    progress: &Arc<AtomicU64>,
    patience: &Patience,
    user: u32,
) -> Result<Response<AnswerBody>, Refusal> {
    let (head, body) = request.into_parts();
    // Waiting for the start makes no sense of it.
    (answerer.requests.check)(&head.method, &head.uri)?;
    ready(answerer)?.answer(head, body, &RequestContext { progress, patience, user }).await
}

/// Ends when nothing has moved for a while.
async fn stalled(progress: &AtomicU64, patience: Duration) {
    let mut before = None;
    loop {
        let now = Some(progress.load(Ordering::Relaxed));
        if now == before {
            return;
        }
        before = now;
        tokio::time::sleep(patience).await;
    }
}
