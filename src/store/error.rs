//! What is wrong with the state file.

use std::io;
use std::path::{Path, PathBuf};

/// What is wrong with the state file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused a file or directory.
    #[error("{path}: {error}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// There is nothing to look at.
    #[error("there is no state file {0}; --config, --state-dir and --tun say which")]
    Missing(PathBuf),
    /// Others could put files of theirs into the directory.
    #[error(
        "{0} belongs to another user, or can be written by others; the state directory must be private (chown, chmod 700)"
    )]
    NotPrivate(PathBuf),
    /// Another process has it open.
    #[error("{0} is in use by another process: a running gateway of that name, or `kamei state`")]
    InUse(PathBuf),
    /// The file system is no place for it.
    #[error("{0} can have no log beside it here; put the state directory on a local file system that can be written")]
    NoLog(PathBuf),
    /// A later kamei wrote it.
    #[error("{path} is of version {version}, this kamei knows {known} at most; use the kamei that wrote it")]
    Newer {
        /// The state file.
        path: PathBuf,
        /// The one that it says it has.
        version: i32,
        /// The latest known.
        known: i32,
    },
    /// It is not what was written.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// What the system has of it may never reach the disk.
    #[error("{path} cannot be synced: {error}")]
    NotSynced {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        error: String,
    },
    /// A sync has failed, and it is not replaced yet.
    #[error("{0} is being written anew, because a sync has failed")]
    BeingReplaced(PathBuf),
    /// SQLite refused something else: a full disk, mostly.
    #[error("{path}: {error}")]
    Database {
        /// The state file.
        path: PathBuf,
        /// What it said.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    pub(super) fn not_synced(path: &Path, error: &io::Error) -> Self {
        Self::NotSynced { path: path.to_owned(), error: error.to_string() }
    }

    pub(super) fn of_file(path: &Path, error: io::Error) -> Self {
        Self::File { path: path.to_owned(), error }
    }
}
