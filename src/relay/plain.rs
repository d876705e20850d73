//! Data channels in the clear: each is known by the token that its call has taken to the agent.

use super::session::Session;
use crate::session::{CallChannel, ConnectionId, DataChannel, RefuseReason, Token};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Calls that wait for a data channel in the clear.
#[derive(Default)]
pub struct PlainCalls(Mutex<HashMap<Token, (Arc<Session>, ConnectionId)>>);

/// What a call says of its data channel. A token is good once, and while this lives.
pub struct Announced<'a> {
    calls: &'a PlainCalls,
    pub channel: CallChannel,
}

impl PlainCalls {
    /// What the call of this connection says of its data channel.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn announce(
        &self,
        channel: DataChannel,
        session: &Arc<Session>,
        connection: ConnectionId,
    ) -> Result<Announced<'_>, RefuseReason> {
        let channel = match channel {
            DataChannel::Shared => CallChannel::Shared,
            DataChannel::Own => CallChannel::Own,
            DataChannel::Plain => {
                let mut token = [0; 16];
                getrandom::fill(&mut token).map_err(|_| RefuseReason::OutOfResources)?;
                self.0.lock().insert(Token(token), (Arc::clone(session), connection));
                CallChannel::Plain(Token(token))
            }
        };
        Ok(Announced { calls: self, channel })
    }

    /// The session whose call for this connection has this token, which is spent now.
    pub fn take(&self, token: &Token, connection: ConnectionId) -> Option<Arc<Session>> {
        let (session, announced) = self.0.lock().remove(token)?;
        (announced == connection).then_some(session)
    }

    /// Whether any is waited for.
    pub fn is_expected(&self) -> bool {
        !self.0.lock().is_empty()
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        if let CallChannel::Plain(token) = &self.channel {
            self.calls.0.lock().remove(token);
        }
    }
}
