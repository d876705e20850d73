//! What is known of relays, kept over restarts: the key of each that this agent has joined.

use super::error::AgentError;
use crate::config::HostPort;
use crate::identity::{Fingerprint, IdentityError, files};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The file in the state directory.
const NAME: &str = "relays.json";

/// A relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joined {
    /// The key that it proves to have.
    pub key: Fingerprint,
    /// What this agent is called there.
    pub name: String,
}

/// All relays that were joined.
#[derive(Debug)]
pub struct Relays {
    path: PathBuf,
    joined: BTreeMap<String, Joined>,
}

impl Relays {
    /// Reads the file; none is as an empty one.
    pub fn open(directory: &Path) -> Result<Self, AgentError> {
        let path = directory.join(NAME);
        let unreadable = |error: serde_json::Error| {
            let what = format!("it cannot be read ({error}); remove it, and join the relays anew");
            AgentError::File { path: path.clone(), error: io::Error::other(what) }
        };
        let joined = match files::read_private(&path)? {
            Some(text) => serde_json::from_str(&text).map_err(unreadable)?,
            None => BTreeMap::new(),
        };
        Ok(Self { path, joined })
    }

    /// The key of this relay, if it was joined.
    pub fn fingerprint(&self, relay: &HostPort) -> Option<Fingerprint> {
        self.joined.get(&relay.to_string()).map(|joined| joined.key)
    }

    /// What this agent is called there.
    pub fn name(&self, relay: &HostPort) -> Option<String> {
        self.joined.get(&relay.to_string()).map(|joined| joined.name.clone())
    }

    /// Notes a relay, on the disk before this returns.
    pub fn join(&mut self, relay: &HostPort, joined: Joined) -> Result<(), IdentityError> {
        self.joined.insert(relay.to_string(), joined);
        files::replace(&self.path, &serde_json::to_string_pretty(&self.joined).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_was_joined_is_known_after_a_restart_and_a_damaged_file_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut relays = Relays::open(directory.path()).unwrap();
        let relay: HostPort = "[2001:db8::1]:443".parse().unwrap();
        assert_eq!(relays.fingerprint(&relay), None);
        let key = Fingerprint::of_public_key(b"key");
        relays.join(&relay, Joined { key, name: "factory-7".to_owned() }).unwrap();
        assert_eq!(Relays::open(directory.path()).unwrap().fingerprint(&relay), Some(key));
        std::fs::write(directory.path().join(NAME), b"{").unwrap();
        let said = Relays::open(directory.path()).unwrap_err().to_string();
        assert!(said.contains("relays.json") && said.contains("join the relays anew"), "{said}");
    }
}
