//! Another configuration, without dropping a connection that may stay.

use super::front::Fronts;
use super::shared::Relay;
use crate::config::{ConfigSource, RelayConfig};
use crate::control::Reloaded;
use parking_lot::Mutex;
use std::sync::Arc;

/// Changes a running relay over to another configuration.
pub struct Changer {
    pub relay: Arc<Relay>,
    pub fronts: Fronts,
    /// What would be read now.
    pub source: ConfigSource<RelayConfig>,
    /// One at a time.
    pub alone: Mutex<()>,
}

impl Changer {
    /// Reads the configuration anew and changes over to it, or only says what that would change.
    ///
    /// # Errors
    /// A line or more; nothing has changed then.
    pub fn reload(&self, dry_run: bool) -> Result<Reloaded, String> {
        let _alone = self.alone.lock();
        let relay = &self.relay;
        let (before, after) = (relay.config(), (self.source)()?);
        let planned = Reloaded::planned(before.difference(&after), dry_run)?;
        if dry_run || *before == after {
            return Ok(planned);
        }
        // All that can fail.
        self.fronts.change(relay, &after).map_err(|error| format!("{error}; nothing was changed"))?;
        let after = Arc::new(after);
        *relay.in_force.write() = Arc::clone(&after);
        relay.connections.limit(after.limits);
        relay.sessions.list().iter().for_each(|session| session.limit(after.limits));
        relay.end_what_may_not_stay();
        // Virtual IPs serve whom the servers' sections say, too.
        relay.sessions.teller().send_replace(());
        log::info!("reloaded: {}", planned.changes.join(", "));
        Ok(Reloaded { applied: true, ..planned })
    }

    /// The same, where nobody waits for the answer.
    pub fn reload_and_log(&self) {
        match self.reload(false) {
            Ok(Reloaded { applied: false, .. }) => log::info!("reloaded: nothing has changed"),
            Ok(_) => {}
            Err(error) => log::error!("not reloaded: {error}"),
        }
    }
}
