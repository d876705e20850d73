//! The guard against undeclared ways out: no packet of an inside is forwarded where nobody would translate it.
//!
//! It is the last hook of `forward` in the network namespace, where the kernel has chosen the interface that the packet
//! really leaves by. It looks at packets that came in by an inside; and at those that leave by an interface that is none of
//! the gateway's: an inside may have been made again, or be behind a bridge that nobody has heard of yet. It stays when the
//! process is killed. Where the kernel has links of netfilter (6.4) and a BPF file system is mounted it is a program;
//! elsewhere a table of nf_tables.

mod batch;
mod bpf;
mod link;
mod nftables;
#[cfg(test)]
mod tests;
mod ways;

pub use link::{LinkError, names};
pub use nftables::RulesetMonitor;
pub use ways::Ways;

use super::pin_directory::PinDirectory;
use link::Links;
use nftables::Table;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use ways::{REASONS, Reason};

/// Why there is no guard, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// No kind of it can be had.
    #[error(
        "nothing keeps packets of an inside from undeclared ways: {tables}. It takes CAP_NET_ADMIN and a kernel with \
         nf_tables; or Linux 6.4 with a BPF file system at /sys/fs/bpf ({program})"
    )]
    Unavailable {
        /// Why not nf_tables.
        tables: io::Error,
        /// Why not BPF.
        program: String,
    },
    /// The table is another process's.
    #[error(
        "the table 'inet kamei-guard-{0}' belongs to another process, perhaps another gateway of this name; stop it"
    )]
    Owned(String),
    /// The rules.
    #[error("the kernel does not take the table 'inet kamei-guard-{tun}': {why}")]
    Tables {
        /// Name of the gateway.
        tun: String,
        /// What the kernel answers.
        why: io::Error,
    },
    /// The program.
    #[error(transparent)]
    Program(#[from] LinkError),
}

/// The guard of one gateway, of the kind that this kernel has. It stays in force when this is dropped;
/// [`Guard::remove`] ends it.
pub struct Guard {
    tun: String,
    /// The pin directory, where there is one that lasts.
    directory: Option<std::path::PathBuf>,
    kind: Kind,
    /// What is in force.
    ways: Option<Ways>,
    /// Dropped before the ways changed last.
    dropped: [u64; REASONS],
}

enum Kind {
    Program(Box<Links>),
    Table(Table),
}

impl Guard {
    /// Finds out which kind of guard this kernel has for the gateway `tun`: the program where it can be made to last in
    /// `pins`, else the table. Nothing is in force before [`Guard::set`], but what a guard before has left.
    ///
    /// # Errors
    /// [`GuardError::Unavailable`]
    pub fn new(tun: &str, pins: &PinDirectory) -> Result<Self, GuardError> {
        let directory = match pins {
            PinDirectory::Lasting(path) => Some(path.clone()),
            PinDirectory::Private(_) => None,
        };
        let program = match &directory {
            Some(path) => Links::new(path).map_err(|error| error.to_string()),
            None => Err("no BPF file system is mounted, so a program would not outlive the process".to_owned()),
        };
        let kind = match program {
            Ok(links) => Kind::Program(Box::new(links)),
            Err(program) => match Table::new(tun) {
                Ok(table) => {
                    log::debug!("undeclared ways out are guarded by nf_tables, not by a program: {program}");
                    Kind::Table(table)
                }
                Err(tables) => return Err(GuardError::Unavailable { tables, program }),
            },
        };
        Ok(Self { tun: tun.to_owned(), directory, kind, ways: None, dropped: [0; REASONS] })
    }

    /// These ways and no others are open when this returns. At no instant is one open that is neither among these nor among
    /// those before. Does nothing when nothing changes.
    ///
    /// # Errors
    /// What the kernel answers; what was in force stays then.
    pub fn set(&mut self, ways: &Ways) -> Result<(), GuardError> {
        if self.ways.as_ref() == Some(ways) {
            return Ok(());
        }
        self.put(ways)?;
        self.ways = Some(ways.clone());
        Ok(())
    }

    /// Whether it is in force as it was set. Another program may have flushed the ruleset, detached the program, or
    /// removed its name, so that it would not outlive the process.
    pub fn is_whole(&mut self) -> bool {
        match &mut self.kind {
            Kind::Program(links) => links.is_whole(),
            Kind::Table(table) => table.is_whole(),
        }
    }

    /// Puts it back after [`Guard::is_whole`] has said no.
    ///
    /// # Errors
    /// As [`Guard::set`].
    pub fn renew(&mut self) -> Result<(), GuardError> {
        match self.ways.take() {
            None => Ok(()),
            Some(ways) => {
                let renewed = self.put(&ways);
                self.ways = Some(ways);
                renewed
            }
        }
    }

    /// What it is: "bpf" or "nftables".
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Program(_) => "bpf",
            Kind::Table(_) => "nftables",
        }
    }

    /// Packets dropped since this guard was made, by reason. Those of rules that another program removed are lost.
    pub fn dropped(&mut self) -> BTreeMap<&'static str, u64> {
        let current = self.counted();
        let all = Reason::ALL.iter().zip(self.dropped).zip(current);
        all.map(|((reason, before), now)| (reason.name(), before + now)).collect()
    }

    /// Opens all ways and leaves nothing.
    ///
    /// # Errors
    /// What the kernel answers; something may be left then.
    pub fn remove(&mut self) -> io::Result<()> {
        self.ways = None;
        match &mut self.kind {
            Kind::Program(links) => links.remove(),
            Kind::Table(table) => table.remove(),
        }
        .map(|_| ())
    }

    fn put(&mut self, ways: &Ways) -> Result<(), GuardError> {
        // Counters are new with what is put.
        let current = self.counted();
        let left = match &mut self.kind {
            Kind::Program(links) => {
                links.set(ways)?;
                nftables::remove(&self.tun)
            }
            Kind::Table(table) => {
                table.set(ways).map_err(|why| match Errno::from_io_error(&why) {
                    Some(Errno::PERM) => GuardError::Owned(self.tun.clone()),
                    _ => GuardError::Tables { tun: self.tun.clone(), why },
                })?;
                self.directory.as_deref().map_or(Ok(false), link::remove)
            }
        };
        if let Err(error) = left {
            log::warn!("a guard of an earlier gateway stays, and drops what that one did not know: {error}");
        }
        self.dropped.iter_mut().zip(current).for_each(|(all, now)| *all += now);
        Ok(())
    }

    fn counted(&mut self) -> [u64; REASONS] {
        // Before it is set there may be a table of a gateway before.
        if self.ways.is_none() {
            return [0; REASONS];
        }
        let counted = match &mut self.kind {
            Kind::Program(links) => links.dropped().map_err(|error| error.to_string()),
            Kind::Table(table) => table.dropped().map_err(|error| error.to_string()),
        };
        counted.unwrap_or_else(|error| {
            log::debug!("counters of the guard: {error}");
            [0; REASONS]
        })
    }
}

/// Removes the table that a dead gateway `tun` has left in this network namespace; says whether there was one. Links go
/// with the directory that they are in.
///
/// # Errors
/// What the kernel answers.
pub fn remove(tun: &str) -> io::Result<bool> {
    nftables::remove(tun)
}
