//! Limits the connections to a socket. When the limit is reached, it closes the oldest connection that has sent no request
//! yet, so that nobody keeps others out by saying nothing.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// So long nobody has to make room: a request that is on its way arrives in less.
const GRACE: Duration = Duration::from_millis(200);
/// How often those who stand look for a place.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The places of callers of one kind.
pub struct Connections {
    most: u32,
    free: Arc<Semaphore>,
    /// Where those stand who have no place yet.
    standing: Semaphore,
    hurried: bool,
    /// In the order in which they came.
    callers: Mutex<Vec<Arc<Caller>>>,
}

/// A caller who has a place.
struct Caller {
    since: Instant,
    has_asked: AtomicBool,
    leave: Notify,
}

/// A place that is taken. Dropping it makes it free.
pub struct Connection {
    caller: Arc<Caller>,
    places: Arc<Connections>,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    /// This many, and room for four times as many who wait for one.
    pub fn new(most: u32) -> Self {
        let standing = Semaphore::new(4 * most as usize);
        Self {
            most,
            free: Arc::new(Semaphore::new(most as usize)),
            standing,
            hurried: false,
            callers: Mutex::default(),
        }
    }

    /// The caller that has been there longest makes room, also one that has asked: an answer takes no time here.
    pub fn hurried(self) -> Self {
        Self { hurried: true, ..self }
    }

    /// A place, if one becomes free in this time.
    pub async fn enter(self: &Arc<Self>, patience: Duration) -> Option<Connection> {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _standing = self.standing.try_acquire().ok()?;
                tokio::time::timeout(patience, self.wait()).await.ok()?
            }
        };
        let caller =
            Arc::new(Caller { since: Instant::now(), has_asked: AtomicBool::new(false), leave: Notify::new() });
        self.callers.lock().push(Arc::clone(&caller));
        Some(Connection { caller, places: Arc::clone(self), _permit: permit })
    }

    /// Ends when every place is free.
    pub async fn all_free(&self) {
        let _ = self.free.acquire_many(self.most).await;
    }

    async fn wait(&self) -> OwnedSemaphorePermit {
        loop {
            self.make_room();
            let free = Arc::clone(&self.free).acquire_owned();
            if let Ok(Ok(permit)) = tokio::time::timeout(LOOK_EVERY, free).await {
                return permit;
            }
        }
    }

    fn make_room(&self) {
        let mut callers = self.callers.lock();
        let had_time = callers.iter().take_while(|caller| caller.since.elapsed() >= GRACE);
        let (mut silent, mut any) = (None, None);
        for (number, caller) in had_time.enumerate() {
            any = any.or(Some(number));
            silent = silent.or((!caller.has_asked.load(Ordering::Relaxed)).then_some(number));
        }
        if let Some(who) = silent.or(any.filter(|_| self.hurried)) {
            callers.remove(who).leave.notify_one();
        }
    }
}

impl Connection {
    /// The caller has said what he wants.
    pub fn has_asked(&self) {
        self.caller.has_asked.store(true, Ordering::Relaxed);
    }

    /// Ends when the caller has to leave.
    pub async fn is_wanted(&self) {
        self.caller.leave.notified().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.places.callers.lock().retain(|caller| !Arc::ptr_eq(caller, &self.caller));
    }
}
