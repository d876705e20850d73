//! What the process may still do once it is set up: a few capabilities, a few directories, the system calls it needs.
//!
//! All three belong to a thread and are handed on to the threads it starts, so each thread that is not started by a
//! confined one confines itself: a gateway's `main` when the host's network is set up, the control socket's thread before
//! it takes the first caller; relay and agent before they start their threads. What a thread needs is its [`Profile`]: that
//! of its role, so that two roles in one process each have their own. A gateway's workers then give up what only the others
//! need.
//!
//! A system call in none of the groups below fails with ENOSYS: a C library that tries a newer call than we know falls
//! back to an older one, and a packet that finds a forgotten path costs an error, not the gateway. A call that only
//! an attacker who has taken over the process would make (`NEVER`) ends the process: inside packets are blocked then,
//! and systemd starts it anew.

mod calls;
mod profile;

pub use profile::Profile;

use calls::{MAP_COMMANDS, NEVER};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope,
};
use libc::c_long;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The newest Landlock whose rights are asked for; an older kernel grants what it knows (5.13 and later).
const LANDLOCK: ABI = ABI::V6;

/// Says which servers resolve names: often a link, on some systems to where nobody would look (WSL: `/mnt/wsl`).
const RESOLVER: &str = "/etc/resolv.conf";

/// Why the process could not be confined; it does not go on then.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Capabilities.
    #[error("cannot give up capabilities: {0}; hardening = \"off\" goes without")]
    Capabilities(io::Error),
    /// Directories.
    #[error("cannot limit the process to its directories: {0}; hardening = \"off\" goes without")]
    Landlock(#[from] landlock::RulesetError),
    /// System calls.
    #[error("cannot filter system calls: {0}; hardening = \"off\" goes without")]
    Seccomp(String),
}

/// How a thread is to be confined.
#[derive(Clone, Debug)]
pub struct Confinement {
    profile: Profile,
    written: Vec<PathBuf>,
    read: Vec<PathBuf>,
    /// TCP ports that may be opened all the same.
    ports: Vec<u16>,
}

impl Confinement {
    /// Of a role that writes below the directories `written`, beside those of its profile. They must exist when a thread is
    /// confined: one that does not is closed for good.
    pub fn new(profile: Profile, written: Vec<PathBuf>) -> Self {
        let written = written.into_iter().chain(profile.written.iter().map(PathBuf::from)).collect();
        Self { profile, written, read: profile.read.iter().map(PathBuf::from).collect(), ports: Vec::new() }
    }

    /// Of a role with a state directory, a control socket and perhaps a port for metrics.
    pub fn of_role(profile: Profile, state_dir: &Path, control: &Path, metrics: Option<SocketAddr>) -> Self {
        let written = [Some(state_dir), control.parent()];
        let written = written.into_iter().flatten().map(Path::to_owned).collect();
        let mut confinement = Self::new(profile, written);
        confinement.ports = metrics.iter().map(SocketAddr::port).collect();
        if profile.connects {
            confinement.read.extend(directory_behind(Path::new(RESOLVER)));
        }
        confinement
    }

    /// The configuration file may be read again: its directory, for editors put another one in its place; where it is a
    /// link, both directories.
    pub fn reading(mut self, file: Option<&Path>) -> Self {
        let files = [file.map(Path::to_owned), file.and_then(|file| file.canonicalize().ok())];
        let directory = |file: PathBuf| std::path::absolute(file).ok()?.parent().map(Path::to_owned);
        self.read.extend(files.into_iter().flatten().filter_map(directory));
        self
    }

    /// [`Confinement::enter`], with a line in the log for what the kernel lacks.
    pub fn enter_and_tell(&self) -> Result<(), ConfineError> {
        if let Some(lacking) = self.enter()? {
            log::warn!("{lacking}");
        }
        Ok(())
    }

    /// Confines this thread and those it starts from now on. Says what the kernel lacks.
    pub fn enter(&self) -> Result<Option<&'static str>, ConfineError> {
        keep_capabilities(self.profile.capabilities).map_err(|error| ConfineError::Capabilities(error.into()))?;
        let lacking = self.close_directories()?;
        filter(all_of(NEVER), SeccompAction::Allow, SeccompAction::KillProcess)?;
        allow_only(all_of(self.profile.calls.iter().copied().flatten()))?;
        Ok(lacking)
    }

    fn close_directories(&self) -> Result<Option<&'static str>, ConfineError> {
        let all = AccessFs::from_all(LANDLOCK);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let mut closed = BitFlags::empty();
        if !self.profile.connects {
            closed |= AccessNet::ConnectTcp;
        }
        if !self.profile.listens {
            closed |= AccessNet::BindTcp;
        }
        let mut rules = Ruleset::default().handle_access(all)?;
        if !closed.is_empty() {
            rules = rules.handle_access(closed)?;
        }
        let mut rules = rules.scope(Scope::Signal)?.create()?;
        for (paths, access) in [(&self.written, all & !AccessFs::Execute), (&self.read, read)] {
            for path in paths {
                // What is not there cannot be opened later either; that is as well.
                let Ok(open) = PathFd::new(path) else { continue };
                let access = if path.is_dir() { access } else { access & AccessFs::from_file(LANDLOCK) };
                rules = rules.add_rule(PathBeneath::new(open, access))?;
            }
        }
        if closed.contains(AccessNet::BindTcp) {
            for port in &self.ports {
                rules = rules.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
            }
        }
        Ok(match rules.restrict_self()?.ruleset {
            RulesetStatus::FullyEnforced => None,
            RulesetStatus::PartiallyEnforced => {
                Some("this kernel's Landlock is an old one: it limits files, not all else")
            }
            RulesetStatus::NotEnforced => Some("this kernel has no Landlock: files are protected by their modes alone"),
        })
    }
}

/// Where a file really is, whatever links lead there.
fn directory_behind(file: &Path) -> Option<PathBuf> {
    Some(file.canonicalize().ok()?.parent()?.to_owned())
}

/// Leaves a confined thread of the gateway what a worker needs: descriptors it has, state it keeps; no new sockets, threads
/// or devices. There is no way back.
pub fn narrow_to_worker() -> Result<(), ConfineError> {
    hold(profile::WORKERS_CAPABILITIES).map_err(|error| ConfineError::Capabilities(error.into()))?;
    let mut allowed = all_of(profile::WORKER.iter().copied().flatten());
    allowed.insert(libc::SYS_bpf, MAP_COMMANDS.iter().map(|command| first_is(*command)).collect::<Result<_, _>>()?);
    allow_only(allowed)
}

/// All other system calls are taken for unknown.
fn allow_only(calls: BTreeMap<c_long, Vec<SeccompRule>>) -> Result<(), ConfineError> {
    let unknown = SeccompAction::Errno(Errno::NOSYS.raw_os_error().unsigned_abs());
    filter(calls, unknown, SeccompAction::Allow)
}

/// These, with whatever arguments.
fn all_of<'a>(calls: impl IntoIterator<Item = &'a c_long>) -> BTreeMap<c_long, Vec<SeccompRule>> {
    calls.into_iter().map(|call| (*call, Vec::new())).collect()
}

/// A call whose first argument is this.
fn first_is(value: u32) -> Result<SeccompRule, ConfineError> {
    SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into())
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| ConfineError::Seccomp(error.to_string()))
}

fn filter(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    then: SeccompAction,
) -> Result<(), ConfineError> {
    let failed = |error: &dyn std::fmt::Display| ConfineError::Seccomp(error.to_string());
    let machine = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| failed(&error))?;
    let filter = SeccompFilter::new(rules, otherwise, then, machine).map_err(|error| failed(&error))?;
    let program = seccompiler::BpfProgram::try_from(filter).map_err(|error| failed(&error))?;
    seccompiler::apply_filter(&program).map_err(|error| failed(&error))
}

/// Of those the process has, the ones it needs; no way back to the others, not even by a set-uid program.
fn keep_capabilities(needed: CapabilitySet) -> Result<(), Errno> {
    let have = rustix::thread::capabilities(None)?;
    if have.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(needed).iter() {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // One that this kernel does not have yet.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    hold(needed)?;
    rustix::thread::set_no_new_privs(true)
}

/// Of those this thread has, these.
fn hold(capabilities: CapabilitySet) -> Result<(), Errno> {
    let kept = rustix::thread::capabilities(None)?.permitted.intersection(capabilities);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

#[cfg(test)]
mod tests;
