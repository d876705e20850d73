//! All sessions: which server is whose.

use super::session::{End, Session};
use crate::identity::Fingerprint;
use crate::session::Published;
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// So many times a session may be replaced by another of the same key within [`SWAP_TIME`].
const MOST_SWAPS: usize = 3;
/// Time in which swaps count.
const SWAP_TIME: Duration = Duration::from_secs(60);

/// All sessions.
pub struct Sessions {
    all: Mutex<All>,
    /// Told when a server has come or gone.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct All {
    live: Vec<Arc<Session>>,
    /// When a session of this key has replaced another that was alive.
    swaps: Vec<(Fingerprint, Instant)>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { all: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

/// Two agents with one key replace each other again and again.
#[derive(Clone, Copy, Debug)]
pub struct Swapping;

impl Sessions {
    /// A new session of a key replaces the one before: that may hang without anybody knowing. Where two that live keep
    /// replacing each other, the newer is refused.
    pub fn enter(&self, session: &Arc<Session>) -> Result<(), Swapping> {
        let mut all = self.all.lock();
        let now = Instant::now();
        all.swaps.retain(|(_, at)| now.duration_since(*at) < SWAP_TIME);
        let before: Vec<Arc<Session>> = all.live.iter().filter(|live| live.key == session.key).cloned().collect();
        if before.iter().any(|old| old.ended().is_none()) {
            let swaps = all.swaps.iter().filter(|(key, _)| *key == session.key).count();
            if swaps >= MOST_SWAPS {
                return Err(Swapping);
            }
            all.swaps.push((session.key, now));
        }
        for old in before {
            old.end(End::Replaced);
        }
        all.live.retain(|live| live.key != session.key);
        all.live.push(Arc::clone(session));
        Ok(())
    }

    /// The session is over.
    pub fn leave(&self, session: &Arc<Session>) {
        self.all.lock().live.retain(|live| !Arc::ptr_eq(live, session));
        self.changed();
    }

    /// The session of this key.
    pub fn of_key(&self, key: &Fingerprint) -> Option<Arc<Session>> {
        self.all.lock().live.iter().find(|live| live.key == *key).cloned()
    }

    /// Whether an agent is here that came from this address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.all.lock().live.iter().any(|live| live.address.ip() == address)
    }

    pub fn list(&self) -> Vec<Arc<Session>> {
        self.all.lock().live.clone()
    }

    /// The session whose agent publishes this server; of several, the one with the fewest connections.
    pub fn serving(&self, published: &Published) -> Option<Arc<Session>> {
        let all = self.all.lock();
        let serving = all.live.iter().filter(|live| live.ended().is_none() && live.publishes(published));
        serving.min_by_key(|live| live.connections()).cloned()
    }

    /// Waits until an agent publishes this server.
    pub async fn wait_serving(&self, published: &Published) -> Arc<Session> {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(session) = self.serving(published) {
                return session;
            }
            let _ = changed.changed().await;
        }
    }

    /// Is told whenever a server has come or gone.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What tells so.
    pub fn teller(&self) -> watch::Sender<()> {
        self.changed.clone()
    }

    fn changed(&self) {
        self.changed.send_replace(());
    }

    pub fn end_all(&self, why: End) {
        for session in self.list() {
            session.end(why);
        }
    }
}
