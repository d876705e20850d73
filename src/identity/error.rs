//! What is wrong with a file, a key or a request.

use std::io;
use std::path::PathBuf;

/// What is wrong with a file, a key or a request. Each is one line: what it is, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The system refused a file or directory.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// Others could put files of theirs into the directory.
    #[error(
        "{0} belongs to another user, or can be written by others; the state directory must be private (chown, chmod 700)"
    )]
    NotPrivate(PathBuf),
    /// Others can read or change a secret.
    #[error(
        "{path} can be read or written by others (mode {mode:04o}); if nobody has read it, chmod 600 is enough, else \
         this key must be replaced"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others can change a certificate.
    #[error("{path} can be written by others (mode {mode:04o}); see that it is the right one, and chmod 644")]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file belongs to another user.
    #[error("{0} belongs to another user; chown it to the user that kamei runs as")]
    Foreign(PathBuf),
    /// It is not what was written.
    #[error("{path} is damaged: {what}; put it back from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A certificate that another can be made of the key for.
    #[error("{path} is not the certificate of {key}: {what}; remove it, and another is made")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What was found.
        what: String,
    },
    /// There are no CA certificates where the operator's should be.
    #[error("{path} has no certificates of a CA to know members by: {what}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A certificate for another key than one's own.
    #[error("the certificate is for another key than this agent's; it is not kept")]
    OtherKey,
    /// What should have been signed is no certification request, or its signature is wrong.
    #[error("not a certification request that can be signed: {0}")]
    Request(String),
    /// The clock is before 1970 or after the year 9000.
    #[error("the clock of this machine is wrong by centuries; set it")]
    Clock,
    /// There are no random numbers, or a TLS library refused what it was given.
    #[error("{what}: {error}")]
    Crypto {
        /// What was being done.
        what: &'static str,
        /// What the library said.
        error: String,
    },
    /// The file system is no place for the register.
    #[error("{0} can have no log beside it here; put the state directory on a local file system that can be written")]
    NoLog(PathBuf),
    /// A later kamei wrote it.
    #[error("{path} is of version {version}, this kamei knows {known} at most; use the kamei that wrote it")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: i32,
        /// The latest known.
        known: i32,
    },
    /// SQLite refused something: a full disk, mostly.
    #[error("{path}: {error}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What it said.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl IdentityError {
    /// For `map_err`: a library refused `what`.
    pub fn crypto<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Crypto { what, error: error.to_string() }
    }
}
