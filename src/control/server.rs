//! The server: one thread, bounded in everything a caller can send.

use super::{Admin, Failure, Pin, Status};
use crate::nat::{AdminError, Event};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Channel, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::Serialize;
use std::convert::Infallible;
use std::fs::Permissions;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Longest body of a request.
const MOST_BODY: usize = 64 * 1024;
/// Longest head of a request.
const MOST_HEAD: usize = 16 * 1024;
/// Time for a request to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections served at once.
const MOST_CONNECTIONS: usize = 32;
/// Bytes of a listing sent at once.
const CHUNK: usize = 64 * 1024;

/// Why the control socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another gateway has it.
    #[error("another gateway serves the control socket {0}; choose another with --control")]
    InUse(PathBuf),
    /// There is a file that is no socket.
    #[error("{0} exists and is no socket; remove it or choose another path with --control")]
    NotASocket(PathBuf),
    /// Anything else.
    #[error("cannot make the control socket {path}: {error}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A control socket that is ours and not served yet.
pub struct Listener {
    socket: UnixListener,
    files: Files,
}

/// The files of the socket; removed when dropped.
struct Files {
    socket: PathBuf,
    lock: PathBuf,
    _locked: OwnedFd,
}

/// A served control socket.
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Body = BoxBody<Bytes, Infallible>;

impl Listener {
    /// Makes the socket. A lock beside it, which dies with the process, tells a dead gateway's socket from a live one's.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |error: io::Error| ControlError::Socket { path: path.to_owned(), error };
        if let Some(parent) = path.parent()
            && !parent.exists()
        {
            std::fs::create_dir(parent).map_err(failed)?;
        }
        let lock = lock_path(path);
        let locked = take_lock(&lock).map_err(failed)?.ok_or_else(|| ControlError::InUse(path.to_owned()))?;
        let files = Files { socket: path.to_owned(), lock, _locked: locked };
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if !is_socket(&metadata) => {
                files.keep_socket();
                return Err(ControlError::NotASocket(path.to_owned()));
            }
            // Somebody who does not know the lock may serve it.
            Ok(_) if UnixStream::connect(path).is_ok() => {
                files.keep_socket();
                return Err(ControlError::InUse(path.to_owned()));
            }
            Ok(_) => std::fs::remove_file(path).map_err(failed)?,
            Err(_) => {}
        }
        let socket = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self { socket, files })
    }

    /// Serves it in a thread of its own.
    pub fn serve(self, admin: Arc<dyn Admin>) -> Result<Server, ControlError> {
        let Self { socket, files } = self;
        let path = files.socket.clone();
        let failed = |error| ControlError::Socket { path, error };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => {
                    if let Err(error) = runtime.block_on(accept(socket, admin, stopped)) {
                        log::error!("control socket {}: {error}", files.socket.display());
                    }
                    runtime.shutdown_background();
                }
                Err(error) => log::error!("control socket {}: {error}", files.socket.display()),
            }
            drop(files);
        });
        Ok(Server { stop: Some(stop), thread: Some(thread.map_err(failed)?) })
    }
}

impl Server {
    /// Stops serving and removes the socket.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl Files {
    /// Gives up the lock and leaves what is at the path of the socket alone: it is not ours.
    fn keep_socket(mut self) {
        self.socket = PathBuf::new();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.socket != Path::new("") {
            let _ = std::fs::remove_file(&self.socket);
        }
        let _ = std::fs::remove_file(&self.lock);
    }
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// `None`: somebody else has it. The holder removes the file when it ends, so what was locked must still be what is there.
fn take_lock(path: &Path) -> io::Result<Option<OwnedFd>> {
    loop {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let ours = rustix::fs::fstat(&file)?;
        match rustix::fs::stat(path) {
            Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => return Ok(Some(file)),
            Ok(_) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_socket(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.file_type().is_socket()
}

async fn accept(socket: UnixListener, admin: Arc<dyn Admin>, mut stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let socket = tokio::net::UnixListener::from_std(socket)?;
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let stream = tokio::select! {
            _ = &mut stopped => return Ok(()),
            stream = socket.accept() => match stream {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, for example: try again, but not in a hot loop.
                    log::warn!("control socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let _place = place;
            let allowed = stream.peer_cred().is_ok_and(|peer| may_ask(peer.uid()));
            let service = service_fn(move |request| {
                let admin = Arc::clone(&admin);
                async move { Ok::<_, Infallible>(answer(request, &admin, allowed).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .max_buf_size(MOST_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                log::debug!("control socket: {error}");
            }
        });
    }
}

/// Root, or whoever runs the gateway.
fn may_ask(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

async fn answer(request: Request<Incoming>, admin: &Arc<dyn Admin>, allowed: bool) -> Response<Body> {
    if !allowed {
        return fail(StatusCode::FORBIDDEN, "only root may ask the gateway");
    }
    let path = request.uri().path().to_owned();
    if path.starts_with("/v1/bindings/") {
        let admin = Arc::clone(admin);
        let _ = tokio::task::spawn_blocking(move || admin.settle()).await;
    }
    let method = request.method().clone();
    let address = path.strip_prefix("/v1/bindings/").map(str::parse::<IpAddr>);
    match (method, path.as_str(), address) {
        (Method::GET, "/v1/status", _) => {
            reply(StatusCode::OK, &Status { gateway: admin.status(), nat: admin.nat().status() })
        }
        (Method::GET, "/v1/bindings", _) => list(Arc::clone(admin)),
        (_, _, Some(Err(_))) => fail(StatusCode::BAD_REQUEST, &format!("{path}: the last part is not an address")),
        (Method::GET, _, Some(Ok(address))) => match admin.nat().find(address, admin.now()) {
            found if found.is_empty() => refuse(&AdminError::NotFound(address)),
            found => reply(StatusCode::OK, &found),
        },
        (Method::PUT, _, Some(Ok(terminal))) => match read_pin(request).await {
            Ok(pin) => conclude(admin, admin.nat().pin(terminal, pin.virtual_ip, admin.now())),
            Err(response) => response,
        },
        (Method::DELETE, _, Some(Ok(address))) => conclude(admin, admin.nat().release(address, admin.now())),
        (_, "/v1/status" | "/v1/bindings", _) | (_, _, Some(_)) => {
            fail(StatusCode::METHOD_NOT_ALLOWED, "this path does not know that method")
        }
        _ => fail(StatusCode::NOT_FOUND, "there are /v1/status, /v1/bindings and /v1/bindings/ADDRESS"),
    }
}

async fn read_pin(request: Request<Incoming>) -> Result<Pin, Response<Body>> {
    let body = Limited::new(request.into_body(), MOST_BODY).collect();
    let body = match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            return Err(fail(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 64 KiB"));
        }
        Ok(Err(error)) => return Err(fail(StatusCode::BAD_REQUEST, &error.to_string())),
        Err(_) => return Err(fail(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    };
    serde_json::from_slice(&body)
        .map_err(|error| fail(StatusCode::BAD_REQUEST, &format!("body: {error}; send {{\"virtual_ip\": \"ADDRESS\"}}")))
}

fn conclude<T: Serialize>(admin: &Arc<dyn Admin>, result: Result<(T, Vec<Event>), AdminError>) -> Response<Body> {
    match result {
        Ok((value, events)) => {
            events.into_iter().for_each(|event| admin.changed(event));
            reply(StatusCode::OK, &value)
        }
        Err(error) => refuse(&error),
    }
}

/// The listing goes out piece by piece: a million bindings need no room of their own.
fn list(admin: Arc<dyn Admin>) -> Response<Body> {
    let (mut sender, channel) = Channel::<Bytes, Infallible>::new(2);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        admin.settle();
        let mut chunk = vec![b'['];
        let mut first = true;
        let mut open = true;
        admin.nat().for_each_binding(admin.now(), &mut |view| {
            if !std::mem::take(&mut first) {
                chunk.push(b',');
            }
            chunk.push(b'\n');
            // Writing to memory does not fail, and a view has no map with odd keys.
            let _ = serde_json::to_writer(&mut chunk, &view);
            if chunk.len() >= CHUNK {
                open = runtime.block_on(sender.send_data(std::mem::take(&mut chunk).into())).is_ok();
            }
            open
        });
        chunk.extend_from_slice(b"\n]\n");
        let _ = runtime.block_on(sender.send_data(chunk.into()));
    });
    respond(StatusCode::OK, channel.boxed())
}

fn refuse(error: &AdminError) -> Response<Body> {
    let status = match error {
        AdminError::NotFound(_) => StatusCode::NOT_FOUND,
        AdminError::Family { .. } => StatusCode::BAD_REQUEST,
        _ => StatusCode::CONFLICT,
    };
    fail(status, &error.to_string())
}

fn fail(status: StatusCode, error: &str) -> Response<Body> {
    reply(status, &Failure { error: error.to_owned() })
}

fn reply(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut body = serde_json::to_vec_pretty(value).unwrap_or_default();
    body.push(b'\n');
    respond(status, Full::from(body).boxed())
}

fn respond(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
