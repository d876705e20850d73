//! Answers to requests.

use super::drops;
use super::filter::Filter;
use super::limits::{CHUNK, CHUNKS, Patience};
use super::order::{First, Order};
use super::query::Query;
use super::refusal::{Refusal, bad};
use super::watch::{Format, Watch};
use super::{Admin, CallbackBody, Change, ChangeError, Failure, Pin, ReleasedAll, Status, metrics, watch};
use crate::config::parse_callback;
use crate::nat::{AdminError, BindingView, Choice, Nat, Qualified};
use crate::store::history::Happened;
use crate::time::Time;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, Uri};
use serde::Serialize;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin as Pinned;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// Bytes of a request body that are read; a pin needs some forty.
const LARGEST_BODY: usize = 64 * 1024;
/// Bytes of a body too large that are still taken from the caller, who would otherwise be cut off while writing and
/// never read the answer.
const LARGEST_DRAINED: u64 = 1024 * 1024;
/// Bindings released at one time where there are many.
const RELEASED_AT_ONCE: usize = 10_000;
/// Pools that are named to who asks for one that there is not.
const POOLS_NAMED: usize = 8;

/// Who asks, and how far the answer has come.
pub struct RequestContext<'a> {
    /// Counts what the caller has taken.
    pub progress: &'a Arc<AtomicU64>,
    /// How long the caller may take.
    pub patience: &'a Patience,
    /// The caller's user number.
    pub user: u32,
}

/// An answer on its way.
pub type Answering<'a> = Pinned<Box<dyn Future<Output = Result<Response<AnswerBody>, Refusal>> + Send + 'a>>;

/// What can be asked of a role: known before it has started.
#[derive(Clone, Copy)]
pub struct Requests {
    /// Refuses what makes no sense, from every caller and at any time.
    pub check: fn(&Method, &Uri) -> Result<(), Refusal>,
    /// Why this path is not for those who may only look.
    pub for_root_alone: fn(&str) -> Option<&'static str>,
}

/// What a role answers on its control socket.
pub trait Role: Send + Sync + 'static {
    /// Carries a request out.
    fn answer<'a>(&'a self, head: Parts, body: Incoming, context: &'a RequestContext<'a>) -> Answering<'a>;
    /// The metrics, as OpenMetrics text.
    fn metrics(&self) -> Answering<'_>;
    /// The server stops: what is being watched ends.
    fn close(&self);
}

/// Carries a request of `user` out. `progress` counts the pieces of the answer that the caller has taken.
pub async fn answer(
    query: Query,
    body: Incoming,
    admin: &Arc<dyn Admin>,
    context: &RequestContext<'_>,
) -> Result<Response<AnswerBody>, Refusal> {
    let RequestContext { progress, patience, user } = *context;
    match query {
        Query::Status => {
            sync_counts(admin).await;
            json(&Status::new(admin.status(), admin.nat().status()))
        }
        Query::Metrics => metrics(admin).await,
        Query::Trace(watch) => watched(&watch, Format::Lines, admin, progress).await,
        Query::Capture(watch) => watched(&watch, Format::Pcapng, admin, progress).await,
        Query::Drops(request) => json(&in_time(admin, move |admin| request.answer(admin)).await?),
        Query::Flows(request) => json(&in_time(admin, move |admin| request.answer(admin)).await?),
        Query::Explain(request) => {
            sync_counts(admin).await;
            let question = request.question(&admin.nat())?;
            let mut explanation = admin.nat().explain(&question, admin.now());
            explanation.binding = explanation.binding.map(|binding| binding.shown(admin.moment().seconds_ahead()));
            explanation.steps.extend(drops::met(&request, &**admin));
            json(&explanation)
        }
        Query::History(question) => {
            let done = in_time(admin, move |admin| admin.history(&question)).await?;
            json(&done.map_err(|error| Refusal::new(StatusCode::CONFLICT, error))?)
        }
        Query::List(filter, order) => {
            has_pool(&filter, &admin.nat())?;
            Ok(list(filter, order, admin, progress))
        }
        Query::Show { which, contacts } => {
            sync_counts(admin).await;
            show(&which, contacts, admin)
        }
        Query::Pin(terminal) => pin(terminal, &whole(body, patience.body).await?, admin, user).await,
        Query::SetCallback(which) => set_callback(which, &whole(body, patience.body).await?, admin, user).await,
        Query::Reload { dry_run } => {
            let done = in_time(admin, move |admin| admin.reload(dry_run)).await?;
            json(&done.map_err(|error| Refusal::new(StatusCode::CONFLICT, error))?)
        }
        Query::ReleaseAll { filter, dry_run } => {
            has_pool(&filter, &admin.nat())?;
            let done = in_time(admin, move |admin| release_all(&filter, dry_run, admin, user)).await?;
            json(&done.map_err(|error| Refusal::new(StatusCode::INSUFFICIENT_STORAGE, error))?)
        }
        Query::Release(which) => shown(change(Change::Release(which), admin, user).await?, admin),
    }
}

/// Does what may take long in a thread of its own: other callers are answered meanwhile.
async fn in_time<T: Send + 'static>(
    admin: &Arc<dyn Admin>,
    work: impl FnOnce(&dyn Admin) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let admin = Arc::clone(admin);
    let done = tokio::task::spawn_blocking(move || work(&*admin)).await;
    done.map_err(|_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping"))
}

async fn pin(
    terminal: Qualified,
    body: &[u8],
    admin: &Arc<dyn Admin>,
    user: u32,
) -> Result<Response<AnswerBody>, Refusal> {
    let Pin { virtual_ip, force } = serde_json::from_slice(body)
        .map_err(|error| bad(format!("the body is not {{\"virtual_ip\": \"ADDRESS\"}}: {error}")))?;
    let pinned = change(Change::Pin { terminal, virtual_ip, force }, admin, user).await?;
    let ahead = admin.moment().seconds_ahead();
    json(&pinned.into_iter().next().map(|binding| binding.shown(ahead)))
}

async fn set_callback(
    which: Qualified,
    body: &[u8],
    admin: &Arc<dyn Admin>,
    user: u32,
) -> Result<Response<AnswerBody>, Refusal> {
    let CallbackBody { callback } = serde_json::from_slice(body)
        .map_err(|error| bad(format!("the body is not {{\"callback\": [\"anyone\"]}} or the like: {error}")))?;
    let policy = callback.map(|words| parse_callback(&words)).transpose().map_err(|wrong| bad(wrong.to_string()))?;
    shown(change(Change::SetCallback { which, policy }, admin, user).await?, admin)
}

/// Changes are on disk before they are answered.
async fn change(change: Change, admin: &Arc<dyn Admin>, user: u32) -> Result<Vec<BindingView>, Refusal> {
    let done = in_time(admin, move |admin| {
        admin.sync_counts();
        admin.change(&change, user)
    });
    done.await?.map_err(|error| match error {
        ChangeError::Refused(error) => error.into(),
        ChangeError::NotRecorded(error) => Refusal::new(StatusCode::INSUFFICIENT_STORAGE, error),
    })
}

/// All metrics as OpenMetrics text.
pub async fn metrics(admin: &Arc<dyn Admin>) -> Result<Response<AnswerBody>, Refusal> {
    sync_counts(admin).await;
    let status = Status::new(admin.status(), admin.nat().status());
    open_metrics(metrics::write(status))
}

/// OpenMetrics text.
pub fn open_metrics(text: Result<String, std::fmt::Error>) -> Result<Response<AnswerBody>, Refusal> {
    let text = text.map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the metrics: {error}"))
    })?;
    Ok(respond_as(metrics::CONTENT_TYPE, StatusCode::OK, AnswerBody::whole(text.into_bytes())))
}

/// An error as a response.
pub fn refuse(refusal: Refusal) -> Response<AnswerBody> {
    // A String always becomes JSON.
    let text = serde_json::to_vec(&Failure { error: refusal.error }).unwrap_or_default();
    respond(refusal.status, AnswerBody::whole(text))
}

/// Not in the thread of the control socket: it may take a moment.
async fn sync_counts(admin: &Arc<dyn Admin>) {
    let admin = Arc::clone(admin);
    let _ = tokio::task::spawn_blocking(move || admin.sync_counts()).await;
}

fn show(which: &Qualified, contacts: usize, admin: &Arc<dyn Admin>) -> Result<Response<AnswerBody>, Refusal> {
    let bindings = admin.nat().find_with_contacts(which, contacts, admin.now());
    if bindings.is_empty() { Err(AdminError::NotFound(which.address).into()) } else { shown(bindings, admin) }
}

/// With times of the wall clock.
fn shown(bindings: Vec<BindingView>, admin: &Arc<dyn Admin>) -> Result<Response<AnswerBody>, Refusal> {
    let ahead = admin.moment().seconds_ahead();
    json(&bindings.into_iter().map(|binding| binding.shown(ahead)).collect::<Vec<_>>())
}

/// A value as JSON.
pub fn json(value: &impl Serialize) -> Result<Response<AnswerBody>, Refusal> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the answer: {error}"))
    })?;
    text.push(b'\n');
    Ok(respond(StatusCode::OK, AnswerBody::whole(text)))
}

fn respond(status: StatusCode, body: AnswerBody) -> Response<AnswerBody> {
    respond_as("application/json", status, body)
}

fn respond_as(content_type: &'static str, status: StatusCode, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Without an end, unless the caller asks for one.
async fn watched(
    watch: &Watch,
    format: Format,
    admin: &Arc<dyn Admin>,
    progress: &Arc<AtomicU64>,
) -> Result<Response<AnswerBody>, Refusal> {
    let received = watch::start(watch, format, admin, progress)?;
    if watch.bypass_fast_path {
        sync_counts(admin).await; // from the answer on, every packet is seen
    }
    let content_type = match format {
        Format::Lines => "application/x-ndjson",
        Format::Pcapng => "application/x-pcapng",
    };
    Ok(respond_as(content_type, StatusCode::OK, AnswerBody::Pieces { received, progress: Arc::clone(progress) }))
}

/// Piece by piece: a million bindings are hundreds of megabytes of text.
fn list(
    filter: Filter,
    order: Option<Order>,
    admin: &Arc<dyn Admin>,
    progress: &Arc<AtomicU64>,
) -> Response<AnswerBody> {
    let (pieces, received) = mpsc::channel(CHUNKS);
    let admin = Arc::clone(admin);
    tokio::task::spawn_blocking(move || write_list(&filter, order, &*admin, &pieces));
    respond(StatusCode::OK, AnswerBody::Pieces { received, progress: Arc::clone(progress) })
}

fn write_list(filter: &Filter, order: Option<Order>, admin: &dyn Admin, pieces: &mpsc::Sender<Bytes>) {
    admin.sync_counts();
    let mut left = filter.limit.unwrap_or(u64::MAX);
    let mut text = Vec::with_capacity(CHUNK + CHUNK / 8);
    text.push(b'[');
    let mut before: &[u8] = b"\n";
    let mut taken = true;
    let (now, ahead) = (admin.now(), admin.moment().seconds_ahead());
    let mut each = |binding: BindingView| {
        if left == 0 {
            return false;
        }
        if !filter.lets_pass(&binding, now) {
            return true;
        }
        left -= 1;
        text.extend_from_slice(before);
        before = b",\n";
        // Writing plain data into memory does not fail.
        let _ = serde_json::to_writer(&mut text, &binding.shown(ahead));
        if text.len() >= CHUNK {
            let piece = std::mem::replace(&mut text, Vec::with_capacity(CHUNK + CHUNK / 8));
            taken = pieces.blocking_send(piece.into()).is_ok();
        }
        taken
    };
    // Not held: a caller that reads slowly must not keep a reload waiting.
    let nat = Arc::clone(&admin.nat());
    each_in_order(&nat, filter, order, now, &mut each);
    if taken {
        text.extend_from_slice(if before == b"\n" { b"]\n" } else { b"\n]\n" });
        let _ = pieces.blocking_send(text.into());
    }
}

/// Whether there is such a pool, if only one is asked for.
fn has_pool(filter: &Filter, nat: &Nat) -> Result<(), Refusal> {
    let Some(name) = filter.pool.as_ref().filter(|name| nat.pool_names().all(|pool| pool != **name)) else {
        return Ok(());
    };
    let mut names: Vec<String> = nat.pool_names().take(POOLS_NAMED).map(|pool| format!("'{pool}'")).collect();
    let more = nat.pool_names().count() - names.len();
    if more > 0 {
        names.push(format!("{more} more: `kamei status` lists them"));
    }
    let error = format!("there is no pool '{name}'; there are {}", names.join(", "));
    Err(Refusal::new(StatusCode::NOT_FOUND, error))
}

/// Calls `each` for the bindings in this order, or in that of the virtual IPs, until it returns `false`.
fn each_in_order(
    nat: &Nat,
    filter: &Filter,
    order: Option<Order>,
    now: Time,
    each: &mut dyn FnMut(BindingView) -> bool,
) {
    let Some(order) = order else { return nat.for_each_binding(now, each) };
    let mut first = First::new(order, filter.limit.unwrap_or(u64::MAX));
    nat.for_each_binding(now, &mut |binding| {
        if filter.lets_pass(&binding, now) {
            first.add(&binding);
        }
        true
    });
    for virtual_ip in first.into_virtual_ips() {
        if nat.of_virtual_ip(virtual_ip, now).is_some_and(|binding| !each(binding)) {
            return;
        }
    }
}

/// Releases what the filter lets pass, some at a time, so that others come to their turn between; or only counts it.
fn release_all(filter: &Filter, dry_run: bool, admin: &dyn Admin, user: u32) -> Result<ReleasedAll, String> {
    admin.sync_counts();
    let most = filter.limit.unwrap_or(u64::MAX);
    let mut bindings = 0;
    loop {
        let now = admin.now();
        let mut some = 0;
        let events = admin.nat().release_where(now, &mut |binding| {
            // Who pins one means it: it has a release of its own.
            if binding.pinned || !filter.lets_pass(binding, now) {
                return Choice::Keep;
            }
            if bindings == most || some == RELEASED_AT_ONCE {
                return Choice::Stop;
            }
            bindings += 1;
            if dry_run {
                return Choice::Keep;
            }
            some += 1;
            Choice::Release
        });
        let virtual_ips: Vec<IpAddr> = events.iter().map(|event| event.virtual_ip.into()).collect();
        events.into_iter().for_each(|event| admin.changed(event));
        if virtual_ips.is_empty() {
            return Ok(ReleasedAll { bindings, released: !dry_run });
        }
        admin.record(&virtual_ips, Happened::Released, user)?;
    }
}

/// The body of a request, if it is not too large and not too slow.
pub async fn whole(mut body: Incoming, time: Duration) -> Result<Vec<u8>, Refusal> {
    let too_large = || {
        let error = format!("the body is larger than {LARGEST_BODY} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error)
    };
    if body.size_hint().lower() > LARGEST_DRAINED {
        return Err(too_large());
    }
    let read = async {
        let (mut text, mut length) = (Vec::new(), 0_u64);
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("cannot read the body: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            length += data.len() as u64;
            if length > LARGEST_DRAINED {
                return Err(too_large());
            }
            if text.len() + data.len() <= LARGEST_BODY {
                text.extend_from_slice(&data);
            }
        }
        if length > LARGEST_BODY as u64 { Err(too_large()) } else { Ok(text) }
    };
    tokio::time::timeout(time, read)
        .await
        .unwrap_or_else(|_| Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")))
}

/// The body of a response.
pub enum AnswerBody {
    /// All of it, until it is taken.
    Whole(Option<Bytes>),
    /// More to come.
    Pieces {
        /// From the thread that writes them.
        received: mpsc::Receiver<Bytes>,
        /// Counts them.
        progress: Arc<AtomicU64>,
    },
}

impl AnswerBody {
    fn whole(text: Vec<u8>) -> Self {
        Self::Whole(Some(text.into()))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pinned<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.get_mut() {
            Self::Whole(text) => Poll::Ready(text.take()),
            Self::Pieces { received, progress } => {
                progress.fetch_add(1, Ordering::Relaxed);
                received.poll_recv(context)
            }
        };
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Pieces { .. } => SizeHint::default(),
        }
    }
}
