//! From the configuration and the host to what the translator is told.

use super::GatewayError;
use super::kernel::Host;
use crate::config::Config;
use crate::nat::{InsideSettings, PoolSettings, Settings};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// File of the hash key in the state directory: the same key gives terminals the same first choice of virtual IP.
const KEY_FILE: &str = "hash-key";

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
        callback: config.callback.clone(),
        lifetimes: config.lifetimes.clone(),
        creation: config.creation.clone(),
        exhausted: config.exhausted,
        hairpin: config.hairpin,
        inbound_refresh: config.inbound_refresh,
        unsolicited: config.unsolicited,
        mss: config.mss,
        alg: config.alg.clone(),
        own_outside: host.own_outside(),
        hash_key,
        restore_hop: true,
    })
}

/// Reads the key, or draws one on the first start.
fn hash_key(state_dir: &Path) -> io::Result<[u8; 16]> {
    std::fs::create_dir_all(state_dir)?;
    let path = state_dir.join(KEY_FILE);
    let mut key = [0; 16];
    match File::open(&path) {
        Ok(mut file) => match file.read_exact(&mut key) {
            Ok(()) => return Ok(key),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                log::warn!("{}: too short to be a key; drawing a new one", path.display());
            }
            Err(error) => return Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_stays_the_same_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = hash_key(&state).unwrap();
        assert_ne!(first, [0; 16]);
        assert_eq!(hash_key(&state).unwrap(), first);
        assert_eq!(std::fs::metadata(state.join(KEY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(state.join(KEY_FILE), b"short").unwrap();
        assert_ne!(hash_key(&state).unwrap(), first);
    }
}
