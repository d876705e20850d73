//! Why an agent does not run, and why a session with a relay does not.

use crate::config::HostPort;
use crate::control::ControlError;
use crate::host::confine::ConfineError;
use crate::identity::{IdentityError, WrongRelay};
use std::io;
use std::path::PathBuf;

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The system refuses something that always works.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A relay that this agent has not joined, and nothing to join it with.
    #[error(
        "this agent has not joined {0} yet: `kamei relay invite NAME` there prints the line to paste here, with --invite"
    )]
    NoInvitation(HostPort),
    /// The relay refuses.
    #[error("{relay} refuses the invitation: {text}")]
    Refused {
        /// Which relay.
        relay: HostPort,
        /// What it says.
        text: String,
    },
    /// The relay is not reached, or does not do as it should.
    #[error("not joined {relay}: {text}; nothing is kept here")]
    NotJoined {
        /// Which relay.
        relay: HostPort,
        /// What was wrong.
        text: String,
    },
    /// An invitation is one relay's.
    #[error("an invitation joins one relay, and {0} are named; name one, and add the others to the file later")]
    OneRelay(usize),
    /// What is known of relays cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another one has the state.
    #[error("another agent uses the state directory {}; give each its own by --state-dir", .0.display())]
    Locked(PathBuf),
    /// Its key or certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It cannot be confined.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// The group that may look at the control socket.
    #[error("{0}")]
    Group(String),
    /// Its control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Why a session is not begun, or is over.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The relay is not reached.
    #[error("{0}")]
    Connect(io::Error),
    /// Another answers.
    #[error(transparent)]
    WrongRelay(WrongRelay),
    /// It took too long.
    #[error("{0} took too long")]
    TimedOut(&'static str),
    /// HTTP/2 has failed.
    #[error("HTTP/2: {0}")]
    Http(#[from] h2::Error),
    /// The relay says no.
    #[error("the relay refuses: {0}")]
    Refused(String),
    /// The invitation does.
    #[error("the relay refuses the invitation: {0}")]
    NotInvited(String),
    /// The relay does not keep to the protocol.
    #[error("the relay does not keep to the protocol: {0}")]
    Violation(&'static str),
    /// The relay does not answer.
    #[error("the relay does not answer")]
    Silent,
    /// The relay has ended it.
    #[error("the relay has closed the session")]
    Closed,
    /// The relay says that it is about to leave.
    #[error("the relay is about to leave")]
    Leaving,
    /// The key or certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}
