//! What the calls of a session share.

use super::connect::Http2;
use crate::config::HostPort;
use crate::identity::Fingerprint;
use crate::session::{AgentSide, ConnectionId, Message};
use parking_lot::Mutex;
use std::collections::HashMap;
use tokio::sync::{mpsc, oneshot};

/// One session.
pub struct Session {
    pub relay: HostPort,
    pub key: Fingerprint,
    pub http: Http2,
    pub side: Mutex<AgentSide>,
    pub outbox: mpsc::Sender<Message>,
    /// Told when nobody waits for the connection any more.
    pub dialling: Mutex<HashMap<ConnectionId, oneshot::Sender<()>>>,
}

impl Session {
    /// The connection is over, or comes to nothing.
    pub fn end(&self, connection: ConnectionId) {
        self.dialling.lock().remove(&connection);
        self.side.lock().end(connection);
    }

    /// A relay that does not read for so long that there is no room is dead, and its probes will tell.
    pub fn say(&self, message: Message) {
        let _ = self.outbox.try_send(message);
    }
}
