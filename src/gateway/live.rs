//! The state in force, and who may ask for another.

use crate::control::Reloaded;
use crate::nat::Nat;
use crossbeam_channel::Sender;
use parking_lot::RwLock;
use std::sync::Arc;

/// The state in force. A thread that changes bindings holds the lock, so that no change falls into a reload.
pub type Live = Arc<RwLock<Arc<Nat>>>;

/// Asks housekeeping for a reload.
pub struct ReloadRequest {
    /// Only say what would change.
    pub dry_run: bool,
    /// Where to say it.
    pub reply: Option<Sender<Result<Reloaded, String>>>,
}
