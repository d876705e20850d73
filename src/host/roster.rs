//! The gateways of this network namespace: which interfaces and pools each has, written down while it is set up, so that
//! two do not serve the same.
//!
//! A file each in the directory of the locks. It stays when a gateway is killed, as what closes its inside does.

use super::claim::{self, place};
use super::error::KernelError;
use super::plan::{Plan, ProgramsLeft};
use crate::wire::AddressRange;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Nobody has that many interfaces and pools; a larger file is not ours.
const LARGEST: u64 = 1 << 20;

/// One gateway.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) tun: String,
    pub(super) insides: Vec<String>,
    pub(super) outsides: Vec<String>,
    pub(super) pools: Vec<AddressRange>,
    /// Whether it runs. Else it was killed, and what it has left in the kernel keeps its inside closed.
    pub(super) alive: bool,
}

/// The gateways that are written down.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    entries: Vec<Entry>,
}

/// A file as it is written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    tun: String,
    boot: String,
    insides: Vec<String>,
    outsides: Vec<String>,
    pools: Vec<String>,
    /// Where it notes what a clean stop puts back.
    #[serde(default)]
    undo_file: Option<PathBuf>,
}

impl Roster {
    /// Who is there now. `is_alive` says whether a gateway of a name runs. What cannot be read counts for nothing: the
    /// roster spares operators a mistake, what keeps an inside closed does not depend on it.
    pub(super) fn read(is_alive: &dyn Fn(&str) -> bool, programs_left: ProgramsLeft) -> Self {
        let Ok(sample) = place(claim::directory(), "gateway-") else { return Self::default() };
        // gateway-{tun}.{namespace}.plan
        let ending = sample.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ending = ending.trim_start_matches("gateway-").trim_end_matches("lock").to_owned() + "plan";
        let Ok(files) = std::fs::read_dir(claim::directory()) else { return Self::default() };
        let names = files.flatten().filter(|file| file.file_name().to_string_lossy().ends_with(&ending));
        let boot = boot().unwrap_or_default();
        let entries = names.filter_map(|file| {
            let content = read(&file.path())?;
            let alive = is_alive(&content.tun);
            // Of a namespace before, whose number this one has got: nothing of it is left in the kernel.
            let is_left = || programs_left(&content.tun).unwrap_or(false);
            (content.boot == boot && (alive || is_left())).then(|| Entry {
                insides: content.insides,
                outsides: content.outsides,
                pools: content.pools.iter().filter_map(|pool| pool.parse().ok()).collect(),
                tun: content.tun,
                alive,
            })
        });
        Self { entries: entries.collect() }
    }

    /// All but the one of this name.
    pub(super) fn others(&self, tun: &str) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.tun != tun)
    }

    /// The names of those that were killed.
    pub(super) fn dead(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|entry| !entry.alive).map(|entry| entry.tun.as_str())
    }

    #[cfg(test)]
    pub(super) fn of(entries: Vec<Entry>) -> Self {
        Self { entries }
    }
}

/// Writes a gateway down.
pub(super) fn enter(plan: &Plan) -> Result<(), KernelError> {
    write(plan).map_err(|source| KernelError::Lock { directory: claim::directory().to_owned(), source })
}

/// Strikes a gateway out.
pub(super) fn leave(tun: &str) {
    if let Ok(path) = file(tun) {
        let _ = std::fs::remove_file(path); // gone already, or it counts for nothing when the gateway has left nothing
    }
}

/// Where the gateway of this name that was killed has noted what a clean stop puts back.
pub(super) fn undo_file(tun: &str) -> Option<PathBuf> {
    let content = read(&file(tun).ok()?)?;
    content.undo_file.filter(|_| content.tun == tun && boot().is_ok_and(|boot| boot == content.boot))
}

fn read(path: &Path) -> Option<Content> {
    let about = std::fs::symlink_metadata(path).ok()?;
    let is_ours = about.is_file() && about.len() <= LARGEST;
    is_ours.then(|| serde_json::from_slice(&std::fs::read(path).ok()?).ok()).flatten()
}

fn write(plan: &Plan) -> io::Result<()> {
    let content = Content {
        tun: plan.tun.clone(),
        boot: boot()?,
        insides: plan.insides.iter().flat_map(|inside| inside.interfaces.clone()).collect(),
        outsides: plan.outsides.clone(),
        pools: plan.pools.iter().map(ToString::to_string).collect(),
        undo_file: Some(plan.undo_file.clone()),
    };
    let path = file(&plan.tun)?;
    let draft = path.with_extension("new");
    std::fs::write(&draft, serde_json::to_vec(&content)?)?;
    std::fs::rename(&draft, &path)
}

fn file(tun: &str) -> io::Result<PathBuf> {
    Ok(place(claim::directory(), &format!("gateway-{tun}"))?.with_extension("plan"))
}

fn boot() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
