//! A call and a callback through the running gateway, by a terminal and a peer that this process makes in network namespaces
//! of its own.
//!
//! ```text
//!  namespace of the terminal      the gateway's namespace                              namespace of the peer
//!  eth0 ── {tun}-tin ─bring─► inside interface ─► routes, firewall ─► kamei ─► outside ─catch─► {tun}-tout ── eth0
//!       ◄──────────── catch ◄───────────────────────────────────────────────── interface ◄─bring─
//! ```
//!
//! Their packets are received by the real interfaces, and are routed, filtered and translated as everybody's; what the
//! interfaces would send to the two is caught behind the gateway's own programs, so none of it gets to a card. The terminal
//! has an address behind the inside interface that nobody answers for; the peer one of those that are for documentation, or
//! one of the outside network that nobody answers for. What is made: two wires, two programs at each interface, neighbour
//! entries, connection tracking, and one binding, which is released. All but the binding end with this process, however it
//! ends; the binding is noted in a file beside the control socket, and the next test releases it.
//!
//! It does not prove that the cards and cables work, that the peers have a route for the pool, or what drivers do (`xdp`).

mod bed;
mod ground;
mod steps;
mod why;

pub use ground::{Way, own_addresses, way};
pub use why::not_forwarded;

use crate::control::{Client, ClientError, ExplainRequest, LockFile, Status};
use crate::fastpath;
use crate::nat::{BindingState, Named};
use crate::wire::protocol;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Virtual IPs that a pool must have left: the test takes one, and a terminal may come meanwhile.
const SPARE: u64 = 2;
/// A note is shorter.
const LONGEST_NOTE: usize = 64 * 1024;

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
    /// Its name.
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
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The gateway did not answer, or said no.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// What a test goes by.
struct Scene<'a> {
    request: &'a Request,
    client: Client,
    status: Status,
    note: PathBuf,
}

/// Tests, and hands each step on as it is done.
///
/// # Errors
/// When nothing could be tested; a test that fails is a [`Report`].
pub fn run(request: &Request, said: &mut dyn FnMut(&Test, &Step)) -> Result<Report, TestError> {
    if !rustix::process::geteuid().is_root() {
        return Err(TestError::NotRoot);
    }
    let client = Client::new(&request.control);
    let status = client.status()?;
    let interfaces = interfaces(request, &status)?;
    for name in interfaces.iter().chain(&status.gateway.outsides) {
        ground::port(name).map_err(|_| TestError::Elsewhere(format!("{name} is not here")))?;
    }
    let note = request.control.with_extension("test");
    let cannot = |error| TestError::Note { path: note.clone(), error };
    let lock = LockFile::take(&request.control.with_extension("test-lock")).map_err(cannot)?;
    let _lock = lock.ok_or(TestError::Busy)?;
    clear(&client, &note, interfaces.iter().chain(&status.gateway.outsides));
    let scene = Scene { request, client, status, note };
    let mut report = Report { passed: true, tests: Vec::new() };
    for interface in &interfaces {
        for is_v4 in [true, false].into_iter().filter(|is_v4| scene.has_pool(*is_v4)) {
            if scene.is_stopped() {
                break;
            }
            let family = if is_v4 { "IPv4" } else { "IPv6" };
            let mut test = Test { interface: interface.clone(), family, steps: Vec::new() };
            steps::run(&scene, is_v4, &mut test, said)?;
            report.passed &= test.steps.iter().all(|step| step.outcome != Outcome::Failed);
            report.tests.push(test);
        }
    }
    Ok(report)
}

fn interfaces(request: &Request, status: &Status) -> Result<Vec<String>, TestError> {
    let there = &status.gateway.insides;
    match &request.interface {
        None => Ok(there.clone()),
        Some(interface) if there.contains(interface) => Ok(vec![interface.clone()]),
        Some(interface) => Err(TestError::NoInside { interface: interface.clone(), there: there.clone() }),
    }
}

impl Scene<'_> {
    fn is_stopped(&self) -> bool {
        self.request.stop.load(Ordering::Relaxed)
    }

    fn has_pool(&self, is_v4: bool) -> bool {
        self.status.nat.pools.iter().any(|pool| pool.range.is_v4() == is_v4)
    }

    fn question(&self, source: IpAddr, destination: IpAddr, realm: Option<&str>) -> ExplainRequest {
        let realm = realm.map(str::to_owned);
        ExplainRequest { realm, source, destination, protocol: protocol::TCP, opens: true }
    }
}

/// A binding that a test makes, in the file that outlives it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    terminal: IpAddr,
    peer: IpAddr,
}

impl Scene<'_> {
    /// To be called before the first packet.
    fn note(&self, terminal: IpAddr, peer: IpAddr) -> Result<(), TestError> {
        let text = serde_json::to_vec(&Note { terminal, peer }).unwrap_or_default();
        std::fs::write(&self.note, text).map_err(|error| TestError::Note { path: self.note.clone(), error })
    }
}

/// Takes away what a test that was killed has left.
fn clear<'a>(client: &Client, note: &Path, interfaces: impl Iterator<Item = &'a String>) {
    for port in interfaces.filter_map(|name| ground::port(name).ok()) {
        if let Err(error) = fastpath::clear(port.index) {
            log::warn!("{}: {error}; filters of a test that was killed may stay", port.name);
        }
    }
    let Ok(text) = std::fs::read(note) else { return };
    if let Some(note) =
        text.get(..text.len().min(LONGEST_NOTE)).and_then(|text| serde_json::from_slice::<Note>(text).ok())
    {
        let named = Named { address: note.terminal, inside: None };
        // Where a host has taken the address since, it has called others as well.
        let is_ours = client.show(&named).is_ok_and(|found| {
            let mut live = found.iter().filter(|binding| binding.state != BindingState::Quarantined);
            live.next().is_some_and(|binding| binding.contacts <= 1) && live.next().is_none()
        });
        if is_ours {
            let _ = client.release(&named);
        }
    }
    let _ = std::fs::remove_file(note);
}

#[cfg(test)]
mod tests;
