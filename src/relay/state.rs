//! A relay's state as one file: what makes it itself, to move it to another host.
//!
//! One JSON document: its keys and certificates, the register of members, which server has which virtual IP. What it is
//! configured with is not in it. A reader of it can take the relay's place.

use super::error::RelayError;
use super::virtual_ips::{self, VirtualIps};
use crate::host::LockFile;
use crate::identity::{Authority, Fingerprint, IdentityError, Register, files};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What the document says that it is.
const KIND: &str = "state of a kamei relay";
/// The one version there is.
const VERSION: u32 = 1;
/// No relay's state is as long.
pub const LONGEST: u64 = 256 << 20;
/// The register of members.
const REGISTER: &str = "relay.db";
/// Files that every relay has, and those that it may have.
const NEEDED: [&str; 3] = ["relay.key", "ca.key", REGISTER];
const POSSIBLE: [&str; 3] = ["relay.crt", "ca.crt", virtual_ips::NAME];

/// Why a state is not exported or imported; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is none.
    #[error("there is no state of a relay in {}; --state-dir says where it is", .0.display())]
    None(PathBuf),
    /// A relay runs with it.
    #[error("a relay uses {}; stop it first: what happens meanwhile would be lost", .0.display())]
    InUse(PathBuf),
    /// There is one already.
    #[error("there is a relay's state in {} already, which nothing replaces; move it away, or name another --state-dir", .0.display())]
    There(PathBuf),
    /// The document is none.
    #[error("it is no state of a relay: {0}; `kamei relay state export` writes one")]
    Document(String),
    /// It is of a later kamei.
    #[error("it is of version {0}, this kamei knows {VERSION}; use the kamei that wrote it")]
    Newer(u32),
    /// The system refused a file.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// Keys, certificates or register.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Virtual IPs.
    #[error(transparent)]
    Relay(#[from] RelayError),
}

/// Whose state was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Of the key that members pin.
    pub fingerprint: Fingerprint,
    /// How many have joined.
    pub members: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    kind: String,
    version: u32,
    /// In base64, by name.
    files: BTreeMap<String, String>,
}

/// The state in a directory, as a document.
///
/// # Errors
/// [`StateError::None`], [`StateError::InUse`], or what is damaged.
pub fn export(directory: &Path) -> Result<Zeroizing<String>, StateError> {
    if !directory.join("relay.key").exists() {
        return Err(StateError::None(directory.to_owned()));
    }
    let _lock = lock(directory)?;
    // What is damaged is said here, not on the other host.
    Authority::open(directory)?;
    let register = Register::open(&directory.join(REGISTER))?;
    let mut files = BTreeMap::new();
    for name in NEEDED.into_iter().chain(POSSIBLE) {
        let path = directory.join(name);
        let read = if name == REGISTER { register.whole().map(Some)? } else { read(&path)? };
        if let Some(bytes) = read {
            files.insert(name.to_owned(), BASE64.encode(&bytes));
        }
    }
    let document = Document { kind: KIND.to_owned(), version: VERSION, files };
    Ok(Zeroizing::new(serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"))
}

/// Puts a document in place, whole or not at all: into a directory that has no relay's state.
///
/// # Errors
/// [`StateError`]; the directory is as it was.
pub fn import(directory: &Path, text: &str) -> Result<Imported, StateError> {
    let document: Document = serde_json::from_str(text).map_err(|error| StateError::Document(error.to_string()))?;
    if document.kind != KIND {
        return Err(StateError::Document(format!("it says '{}'", document.kind.escape_debug())));
    }
    if document.version != VERSION {
        return Err(StateError::Newer(document.version));
    }
    let mut files = Vec::new();
    for (name, text) in &document.files {
        let known = NEEDED.into_iter().chain(POSSIBLE).find(|known| known == name);
        let known = known.ok_or_else(|| StateError::Document(format!("it has a file '{}'", name.escape_debug())))?;
        let bytes =
            BASE64.decode(text.as_bytes()).map_err(|error| StateError::Document(format!("{known}: {error}")))?;
        files.push((known, Zeroizing::new(bytes)));
    }
    if let Some(missing) = NEEDED.iter().find(|needed| files.iter().all(|(name, _)| name != *needed)) {
        return Err(StateError::Document(format!("{missing} is missing")));
    }
    // A service with a user of its own has a link there.
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let there = std::fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_some());
    if there {
        return Err(StateError::There(directory));
    }
    let failed = |path: &Path, error| StateError::File { path: path.to_owned(), error };
    let parent = directory.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
    let part = parent.join(format!(".kamei-import-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&part).map_err(|error| failed(&part, error))?;
    let placed = put(&part, &files).and_then(|imported| {
        std::fs::rename(&part, &directory).map(|()| imported).map_err(|error| failed(&directory, error))
    });
    if placed.is_err() {
        let _ = std::fs::remove_dir_all(&part);
    }
    placed
}

/// Writes the files, and opens them as a relay would.
fn put(part: &Path, files: &[(&str, Zeroizing<Vec<u8>>)]) -> Result<Imported, StateError> {
    let failed = |path: &Path, error| StateError::File { path: path.to_owned(), error };
    for (name, bytes) in files {
        let path = part.join(name);
        files::private(&path)?;
        std::fs::write(&path, bytes)
            .and_then(|()| std::fs::File::open(&path)?.sync_all())
            .map_err(|error| failed(&path, error))?;
    }
    let fingerprint = Authority::open(part)?.fingerprint();
    let members = Register::open(&part.join(REGISTER))?.members()?.len();
    VirtualIps::open(part, &[])?;
    Ok(Imported { fingerprint, members })
}

fn lock(directory: &Path) -> Result<LockFile, StateError> {
    let taken = LockFile::take(&directory.join("lock"));
    let taken = taken.map_err(|error| StateError::File { path: directory.join("lock"), error })?;
    taken.ok_or_else(|| StateError::InUse(directory.to_owned()))
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StateError::File { path: path.to_owned(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::MemberKind;
    use std::time::{Duration, SystemTime};

    fn relay(directory: &Path) -> Fingerprint {
        let register = Register::open(&directory.join(REGISTER)).unwrap();
        let hour = Duration::from_secs(3600);
        register.invite("factory-7", MemberKind::Agent, &["web".to_owned()], hour, SystemTime::now()).unwrap();
        Authority::open(directory).unwrap().fingerprint()
    }

    #[test]
    fn a_relay_moves_with_its_key_and_its_register() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        assert!(matches!(export(&from), Err(StateError::None(_))));
        let fingerprint = relay(&from);
        let text = export(&from).unwrap();
        assert_eq!(import(&to, &text).unwrap(), Imported { fingerprint, members: 0 });
        assert_eq!(Authority::open(&to).unwrap().fingerprint(), fingerprint);
        let invited = Register::open(&to.join(REGISTER)).unwrap().invitations(SystemTime::now()).unwrap();
        assert_eq!(invited[0].name, "factory-7");
        assert!(matches!(import(&to, &text), Err(StateError::There(_))), "nothing is replaced");
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 2, "nothing is left over");
        // An empty directory is no state; one in use is not read.
        let empty = scratch.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        assert!(import(&empty, &text).is_ok());
        let _runs = LockFile::take(&from.join("lock")).unwrap().unwrap();
        assert!(matches!(export(&from), Err(StateError::InUse(_))));
    }

    #[test]
    fn what_is_no_state_changes_nothing_and_says_why() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        relay(&from);
        let good = export(&from).unwrap();
        let with = |change: &dyn Fn(&mut Document)| {
            let mut document: Document = serde_json::from_str(&good).unwrap();
            change(&mut document);
            serde_json::to_string(&document).unwrap()
        };
        for (text, expected) in [
            (String::new(), "it is no state of a relay: EOF"),
            (good[..good.len() / 2].to_owned(), "it is no state of a relay: EOF"),
            (with(&|document| document.kind = "x\n".to_owned()), "it is no state of a relay: it says 'x\\n'"),
            (with(&|document| document.version = 9), "it is of version 9"),
            (with(&|document| drop(document.files.remove("ca.key"))), "it is no state of a relay: ca.key is missing"),
            (
                with(&|document| drop(document.files.insert("../x".to_owned(), String::new()))),
                "it is no state of a relay: it has a file '../x'",
            ),
            (
                with(&|document| drop(document.files.insert("relay.key".to_owned(), "!".to_owned()))),
                "it is no state of a relay: relay.key",
            ),
        ] {
            let said = import(&to, &text).unwrap_err().to_string();
            assert!(said.starts_with(expected) && said.lines().count() == 1, "{said}");
        }
        for name in ["relay.key", "relay.db", "virtual-ips.json"] {
            let text = with(&|document| drop(document.files.insert(name.to_owned(), BASE64.encode(b"nonsense"))));
            assert!(import(&to, &text).is_err(), "{name}");
        }
        assert!(!to.exists() && std::fs::read_dir(scratch.path()).unwrap().count() == 1, "nothing is left over");
    }
}
