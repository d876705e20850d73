//! Why a subcommand ended without doing what it was told.

use crate::config::{Place, Problem};
use crate::control::ClientError;
use crate::gateway::GatewayError;
use crate::host::KernelError;
use crate::selftest::TestError;
use crate::store::LineError;
use std::path::PathBuf;

/// Why a subcommand ended without doing what it was told.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration is wrong: one line a problem.
    #[error("{}", lines(.file, .problems))]
    Config {
        /// The file; none if all came from flags.
        file: Option<PathBuf>,
        /// What is wrong.
        problems: Vec<Problem>,
    },
    /// The same, of which the first problem is enough to say.
    #[error("{}{}", lines(.file, &.problems[..1.min(.problems.len())]), more(.file, .problems.len()))]
    Start {
        /// The file; none if all came from flags.
        file: Option<PathBuf>,
        /// What is wrong.
        problems: Vec<Problem>,
    },
    /// The configuration file cannot be read.
    #[error("cannot read {path}: {error}; give the path of a configuration file that this user can read")]
    File {
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file of bindings is wrong.
    #[error("{}:{error}", .file.display())]
    Import {
        file: PathBuf,
        /// The line, and what is wrong with it.
        error: LineError,
    },
    /// The gateway did not start, or ended.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The relay did not start.
    #[cfg(feature = "relay")]
    #[error(transparent)]
    Relay(#[from] crate::relay::RelayError),
    /// A relay's state is not exported or imported.
    #[cfg(feature = "relay")]
    #[error("{0}; nothing was changed")]
    RelayState(#[from] crate::relay::state::StateError),
    /// The agent did not start, or a relay has refused its invitation.
    #[cfg(feature = "relay")]
    #[error(transparent)]
    Agent(#[from] crate::agent::AgentError),
    /// The host's network could not be changed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The gateway did not answer, or said no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What `kamei doctor` found.
    #[error("{0} found wrong; the lines above say what to do")]
    Unfit(usize),
    /// What `kamei test` found.
    #[error("{0} of the tests stopped; the lines above say where, and what is likely")]
    Stopped(usize),
    /// `kamei test` could not begin.
    #[error(transparent)]
    Test(TestError),
    /// An agent cannot be made a service, and is none.
    #[cfg(feature = "relay")]
    #[error("{0}; nothing was installed")]
    NotInstalled(String),
    /// What is asked of the history makes no sense.
    #[error("{0}")]
    Question(String),
    /// There is no history to read.
    #[error("{0}")]
    NoHistory(String),
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(&'static str),
    /// The log cannot be written as asked.
    #[error("log-format journald: cannot reach the journal ({0}); choose text or json")]
    Log(std::io::Error),
    /// Output could not be written.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    /// What the process ends with.
    pub fn code(&self) -> u8 {
        match self {
            CliError::Config { .. }
            | CliError::Start { .. }
            | CliError::File { .. }
            | CliError::Import { .. }
            | CliError::Question(_)
            | CliError::Usage(_)
            | CliError::Client(ClientError::TooLong(_))
            | CliError::Test(TestError::NoInside { .. }) => 2,
            #[cfg(feature = "relay")]
            CliError::Agent(crate::agent::AgentError::NoInvitation(_) | crate::agent::AgentError::OneRelay(_)) => 2,
            #[cfg(feature = "relay")]
            CliError::Agent(crate::agent::AgentError::Refused { .. }) => 3,
            #[cfg(feature = "relay")]
            CliError::Relay(_) | CliError::RelayState(_) | CliError::Agent(_) | CliError::NotInstalled(_) => 1,
            CliError::Gateway(error) if error.is_final() => 5,
            CliError::Gateway(_)
            | CliError::Kernel(_)
            | CliError::Log(_)
            | CliError::Output(_)
            | CliError::NoHistory(_)
            | CliError::Unfit(_)
            | CliError::Stopped(_)
            | CliError::Test(_) => 1,
            CliError::Client(ClientError::Refused(_) | ClientError::NotAllowed(_)) => 3,
            CliError::Client(ClientError::NoGateway { .. } | ClientError::Starting(_) | ClientError::Busy(_)) => 4,
            CliError::Client(
                ClientError::Garbled { .. } | ClientError::AnotherRole { .. } | ClientError::Output(_),
            ) => 1,
        }
    }
}

impl From<TestError> for CliError {
    fn from(error: TestError) -> Self {
        match error {
            TestError::Client(error) => CliError::Client(error),
            other => CliError::Test(other),
        }
    }
}

/// `FILE:LINE: what`, as compilers have it.
fn lines(file: &Option<PathBuf>, problems: &[Problem]) -> String {
    let line = |problem: &Problem| match (file, problem.place) {
        (Some(file), Place::Line(line)) => format!("{}:{line}: {}", file.display(), problem.wrong),
        (Some(file), Place::Column(line, column)) => format!("{}:{line}:{column}: {}", file.display(), problem.wrong),
        (Some(file), Place::Missing) => format!("{}: {}", file.display(), problem.wrong),
        _ => problem.to_string(),
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn more(file: &Option<PathBuf>, problems: usize) -> String {
    match (problems, file) {
        (0 | 1, _) => String::new(),
        (_, Some(file)) => format!(" ({} more: kamei check {})", problems - 1, file.display()),
        (_, None) => format!(" ({} more)", problems - 1),
    }
}
