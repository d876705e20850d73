//! What a test is asked, what it goes by, and what it tells.

use super::ground::Way;
use crate::control::{Client, ClientError, ExplainRequest, Status};
use crate::wire::protocol;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Virtual IPs that a pool must have left: the test takes one, and a terminal may come meanwhile.
pub const SPARE: u64 = 2;

/// What to test.
#[derive(Clone, Debug)]
pub struct Request {
    /// Control socket of the gateway.
    pub control: PathBuf,
    /// The inside interface behind which the terminal is; `None`: behind each.
    pub interface: Option<String>,
    /// The terminal's address, at most one of each family, instead of one that is found.
    pub address: Vec<IpAddr>,
    /// The peer's, likewise.
    pub peer: Vec<IpAddr>,
    /// The TCP port that is called.
    pub port: u16,
    /// How long each step is waited for.
    pub patience: Duration,
    /// Set when the test is to end: it takes away what it has made first.
    pub stop: Arc<AtomicBool>,
}

/// How it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether all that was tried went as it should.
    pub passed: bool,
    /// A test for each inside interface and address family.
    pub tests: Vec<Test>,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Test {
    /// The inside interface.
    pub interface: String,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// The steps, up to the first that fails.
    pub steps: Vec<Step>,
}

/// One step of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was tried, in a few words.
    pub step: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// What was seen.
    pub text: String,
    /// Where it failed: likely reasons with what to do, the likeliest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Ok,
    /// It stopped here.
    Failed,
    /// There is nothing to see.
    Skipped,
}

/// Why nothing could be tested.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// Not by this user.
    #[error("only root can make network namespaces and look at the gateway's; run kamei test as root")]
    NotRoot,
    /// There is no such inside interface.
    #[error("{interface} is no inside interface of this gateway; there are {}", .there.join(", "))]
    NoInside {
        /// What was asked for.
        interface: String,
        /// What there is.
        there: Vec<String>,
    },
    /// The gateway is elsewhere.
    #[error("the gateway's interface {0}; run kamei test in the gateway's network namespace")]
    Elsewhere(String),
    /// Another test runs.
    #[error("another test of this gateway is running; try again when it has ended")]
    Busy,
    /// The file that remembers the binding.
    #[error("cannot write {path}: {error}; without it, a test that is killed would leave its binding")]
    Note {
        /// In the state directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The gateway did not answer, or said no.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// What a test goes by.
pub struct Scene<'a> {
    pub request: &'a Request,
    pub client: Client,
    pub status: Status,
    pub note: PathBuf,
}

impl Scene<'_> {
    pub fn is_stopped(&self) -> bool {
        self.request.stop.load(Ordering::Relaxed)
    }

    pub fn has_pool(&self, is_v4: bool) -> bool {
        self.status.nat.pools.iter().any(|pool| pool.range.is_v4() == is_v4)
    }

    pub fn question(&self, source: IpAddr, destination: IpAddr, realm: Option<&str>) -> ExplainRequest {
        let realm = realm.map(str::to_owned);
        ExplainRequest { realm, source, destination, protocol: protocol::TCP, opens: true }
    }
}

/// Who takes part.
pub struct Cast {
    /// Its own address.
    pub terminal: IpAddr,
    /// Who is called, and calls back.
    pub peer: IpAddr,
    /// Who calls without having been called.
    pub stranger: IpAddr,
    /// The way to the peer.
    pub way: Way,
    /// What the gateway has dropped until now, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// A binding that a test makes, in the file that outlives it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    pub terminal: IpAddr,
    pub peer: IpAddr,
}

impl Scene<'_> {
    /// To be called before the first packet.
    pub fn note(&self, terminal: IpAddr, peer: IpAddr) -> Result<(), TestError> {
        let text = serde_json::to_vec(&Note { terminal, peer }).unwrap_or_default();
        std::fs::write(&self.note, text).map_err(|error| TestError::Note { path: self.note.clone(), error })
    }
}
