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
mod scene;
mod steps;
mod why;

pub use ground::{Way, own_addresses, way};
pub use scene::{Outcome, Report, Request, Step, Test, TestError};
pub use why::not_forwarded;

use scene::{Note, Scene};

use crate::control::{Client, Status};
use crate::fastpath;
use crate::host::LockFile;
use crate::nat::{BindingState, Qualified};
use std::path::Path;

/// A note is shorter.
const LONGEST_NOTE: usize = 64 * 1024;

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
        let named = Qualified { address: note.terminal, inside: None };
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
