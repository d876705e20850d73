//! From the configuration and the host to what the translator is told.

use super::error::GatewayError;
use crate::config::Config;
use crate::host::{Host, Watched};
use crate::nat::{CreationLimit, InsideSettings, Policy, PoolKind, PoolSettings, Settings};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

/// File of the hash key in the state directory: the same key gives terminals the same first choice of virtual IP.
const KEY_FILE: &str = "hash-key";

/// What a binding takes in a table that is full, and in one that is nearly empty: pages of its own (`memory` in
/// `benches/table.rs`).
const BYTES_A_SLOT: u64 = 88;
const BYTES_ALONE: u64 = 8192;
/// Slots of a pool, however large (`SPARSE_SLOTS` in `nat/table/pools.rs`).
const SLOTS_AT_MOST: u64 = 1 << 24;

/// What this machine and its routers have of the pools.
pub fn reserved_in_pools(config: &Config, host: &Host) -> BTreeSet<IpAddr> {
    let is_pooled = |address: &IpAddr| config.pools.iter().any(|pool| pool.range.contains((*address).into()));
    host.reserved().into_iter().filter(is_pooled).collect()
}

/// The pools that terminals are given addresses of.
pub fn given(settings: &Settings) -> Vec<Watched> {
    let is_given = |pool: &&PoolSettings| pool.kind == PoolKind::Bindings && !pool.draining;
    let pools = settings.pools.iter().filter(is_given);
    pools.map(|pool| Watched { range: pool.range, never: pool.reserved.iter().copied().collect() }).collect()
}

/// The translator's settings.
pub fn settings(config: &Config, host: &Host) -> Result<Settings, GatewayError> {
    let hash_key =
        hash_key(&config.state_dir).map_err(|error| GatewayError::State { path: config.state_dir.clone(), error })?;
    let reserved = host.reserved();
    Ok(Settings {
        insides: config
            .insides
            .iter()
            .zip(host.sources())
            .map(|(inside, sources)| InsideSettings { name: inside.name.clone(), sources })
            .collect(),
        pools: config
            .pools
            .iter()
            .map(|pool| {
                let here = reserved.iter().copied().filter(|address| pool.range.contains((*address).into()));
                PoolSettings { reserved: pool.reserved.iter().copied().chain(here).collect(), ..pool.clone() }
            })
            .collect(),
        policy: Policy { creation: bounded(config), ..config.policy.clone() },
        own_outside: host.own_outside(),
        hash_key,
        restore_hop: true,
    })
}

/// As configured; where it is not said how many bindings there may be, as many as half of this machine's memory has room
/// for, if the pools have more.
fn bounded(config: &Config) -> CreationLimit {
    let most = || {
        let memory = memory_of_this_machine()? / 2;
        let slots = |pool: &PoolSettings| u64::try_from(pool.range.size()).unwrap_or(u64::MAX).min(SLOTS_AT_MOST);
        let full: u64 = config.pools.iter().map(|pool| slots(pool) * BYTES_A_SLOT).sum();
        (full > memory).then(|| (memory / BYTES_ALONE).max(1))
    };
    CreationLimit { total: config.policy.creation.total.or_else(most), ..config.policy.creation.clone() }
}

/// Bytes of memory that this process can have. Asked for once: what comes from a reload must be the same.
fn memory_of_this_machine() -> Option<u64> {
    static MEMORY: OnceLock<Option<u64>> = OnceLock::new();
    *MEMORY.get_or_init(|| {
        let info = rustix::system::sysinfo();
        let all = (info.totalram as u64).checked_mul(info.mem_unit.into())?;
        // Of a container or a unit, where it has one (cgroup-v2.rst).
        let group = std::fs::read_to_string("/proc/self/cgroup").ok();
        let path = group.as_deref().and_then(|group| group.trim_end().strip_prefix("0::/"));
        let own = path.and_then(|path| {
            let limit = Path::new("/sys/fs/cgroup").join(path).join("memory.max");
            std::fs::read_to_string(limit).ok()?.trim().parse().ok()
        });
        Some(own.map_or(all, |own: u64| own.min(all)))
    })
}

/// Reads the key, or draws one on the first start.
fn hash_key(state_dir: &Path) -> io::Result<[u8; 16]> {
    let path = state_dir.join(KEY_FILE);
    let mut key = [0; 16];
    // Neither what a link leads to nor a pipe.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(file) => {
            let mut file = File::from(file);
            let about = file.metadata()?;
            let me = rustix::process::geteuid().as_raw();
            if !about.is_file() || ![0, me].contains(&about.uid()) || about.mode() & 0o077 != 0 {
                return Err(unfit(
                    &path,
                    "is not a file that only the gateway's user can read and write: see who made it, and \
                    remove it; another key is drawn then",
                ));
            }
            match file.read_exact(&mut key) {
                Ok(()) => return Ok(key),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    log::warn!("{}: too short to be a key; drawing a new one", path.display());
                }
                Err(error) => return Err(error),
            }
        }
        Err(Errno::NOENT) => {}
        Err(Errno::LOOP) => {
            return Err(unfit(&path, "is a link: see who made it, and remove it; another key is drawn then"));
        }
        Err(error) => return Err(error.into()),
    }
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    // Whole or not at all: written beside, then renamed.
    let beside = state_dir.join(format!("{KEY_FILE}.new"));
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::open(&beside, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(&key)?;
    file.sync_all()?;
    std::fs::rename(&beside, &path)?;
    Ok(key)
}

fn unfit(path: &Path, what: &str) -> io::Error {
    io::Error::other(format!("{} {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_stays_the_same_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let first = hash_key(&state).unwrap();
        assert_ne!(first, [0; 16]);
        assert_eq!(hash_key(&state).unwrap(), first);
        assert_eq!(std::fs::metadata(state.join(KEY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(state.join(KEY_FILE), b"short").unwrap();
        assert_ne!(hash_key(&state).unwrap(), first);
    }

    #[test]
    fn a_key_of_somebody_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let refused = |what: &str| {
            let error = hash_key(dir.path()).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("remove it"), "{error}");
            std::fs::remove_file(&path).unwrap();
        };
        std::fs::write(dir.path().join("elsewhere"), [7; 16]).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        refused("is a link");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        refused("is not a file");
        std::fs::write(&path, [7; 16]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        refused("only the gateway's user");
        std::fs::write(&path, [7; 16]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        refused("only the gateway's user");
    }
}
