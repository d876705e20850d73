//! The file that remembers what a clean stop puts back, also when the one who stops is not the one who started.
//!
//! It is written and on disk before a setting changes. It counts only in the boot and network namespace it was written in.

use super::error::KernelError;
use super::setting::Key;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Nobody has that many interfaces; a larger file is not ours.
const LARGEST: u64 = 4 << 20;

/// One setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: Key,
    /// What it was.
    pub(super) old: String,
    /// What the gateway set it to.
    pub(super) new: String,
    /// Not changed by the gateway, but it will be when another one goes back: `all` takes every interface with it.
    pub(super) held: bool,
}

/// The file as it is written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    tun: String,
    boot: String,
    namespace: String,
    settings: Vec<Entry>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: String,
    old: String,
    new: String,
    held: bool,
}

/// Where the records are kept.
#[derive(Clone, Debug)]
pub(super) struct UndoFile {
    path: PathBuf,
}

impl UndoFile {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// What a predecessor of the same name noted here, in this boot and network namespace. Anything else is ignored:
    /// better no memory than a wrong one.
    pub(super) fn load(&self, tun: &str) -> Vec<Record> {
        let content = match self.read() {
            Ok(bytes) => parse(&bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(e) => Err(e.to_string()),
        };
        let (content, records) = match content {
            Ok(good) => good,
            Err(why) => {
                log::warn!("{} is ignored, settings of a killed gateway stay as they are: {why}", self.path.display());
                return Vec::new();
            }
        };
        let here = whereabouts().ok();
        if content.tun != tun || Some((content.boot, content.namespace)) != here {
            log::info!("{} is of another gateway, boot or network namespace; it is ignored", self.path.display());
            return Vec::new();
        }
        records
    }

    /// What a predecessor of the same name noted elsewhere is noted here from now on, if nothing is.
    pub(super) fn take_from(&self, elsewhere: &Path, tun: &str) -> Result<(), KernelError> {
        if elsewhere == self.path || self.path.exists() {
            return Ok(());
        }
        let before = Self::new(elsewhere);
        match before.load(tun).as_slice() {
            [] => Ok(()),
            records => self.save(tun, records).and_then(|()| before.remove()),
        }
    }

    /// Writes the records and waits until they are on disk.
    pub(super) fn save(&self, tun: &str, records: &[Record]) -> Result<(), KernelError> {
        self.write(tun, records).map_err(|source| self.error(source))
    }

    /// Removes the file; that it is not there is fine.
    pub(super) fn remove(&self) -> Result<(), KernelError> {
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.error(e)),
            _ => Ok(()),
        }
    }

    fn error(&self, source: io::Error) -> KernelError {
        KernelError::UndoFile { path: self.path.clone(), source }
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        // Neither a link nor a pipe that another user has put there.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(&self.path, flags, Mode::empty())?);
        let about = file.metadata()?;
        let me = rustix::process::geteuid().as_raw();
        if !about.is_file() || about.uid() != me || about.mode() & 0o022 != 0 {
            return Err(io::Error::other("it is not a file that only this user can write"));
        }
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&self, tun: &str, records: &[Record]) -> io::Result<()> {
        let (boot, namespace) = whereabouts()?;
        let settings = records
            .iter()
            .map(|r| Entry { key: r.key.to_string(), old: r.old.clone(), new: r.new.clone(), held: r.held })
            .collect();
        let content = Content { tun: tun.to_owned(), boot, namespace, settings };
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut draft = self.path.clone().into_os_string();
        draft.push(".new");
        let _ = std::fs::remove_file(&draft);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(&draft, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(&serde_json::to_vec_pretty(&content)?)?;
        file.sync_all()?;
        std::fs::rename(&draft, &self.path)?;
        File::open(directory)?.sync_all()
    }
}

fn parse(bytes: &[u8]) -> Result<(Content, Vec<Record>), String> {
    if bytes.len() as u64 > LARGEST {
        return Err("it is too large".to_owned());
    }
    let content: Content = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let number = |text: &str| text.len() <= 11 && text.parse::<i32>().is_ok();
    let mut records = Vec::with_capacity(content.settings.len());
    for entry in &content.settings {
        let key = entry.key.parse().map_err(|()| format!("'{}' is not a setting of the gateway", entry.key))?;
        if !number(&entry.old) || !number(&entry.new) {
            return Err(format!("the values of {} are not numbers", entry.key));
        }
        records.push(Record { key, old: entry.old.clone(), new: entry.new.clone(), held: entry.held });
    }
    Ok((content, records))
}

/// The boot and the network namespace of this thread.
fn whereabouts() -> io::Result<(String, String)> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    let namespace = std::fs::metadata("/proc/thread-self/ns/net")?;
    Ok((boot, format!("{}:{}", namespace.dev(), namespace.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(key: &str, old: &str) -> Record {
        Record { key: key.parse().expect("a key"), old: old.to_owned(), new: "1".to_owned(), held: false }
    }

    #[test]
    fn what_was_saved_is_loaded_by_the_same_gateway_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = UndoFile::new(&directory.path().join("undo.json"));
        let records = vec![record("net/ipv4/conf/go/forwarding", "0"), record("net/ipv6/conf/all/forwarding", "0")];
        assert_eq!(file.load("kamei"), []);
        file.save("kamei", &records).expect("saved");
        assert_eq!(file.load("kamei"), records);
        assert_eq!(file.load("other"), []);
        let mode = std::fs::metadata(&file.path).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
        file.remove().expect("removed");
        file.remove().expect("removed twice");
        assert_eq!(file.load("kamei"), []);
    }

    #[test]
    fn another_boot_a_link_and_a_foreign_setting_are_ignored() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = UndoFile::new(&directory.path().join("undo.json"));
        file.save("kamei", &[record("net/ipv4/conf/go/forwarding", "0")]).expect("saved");
        let good = std::fs::read_to_string(&file.path).expect("text");
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
        std::fs::write(&file.path, good.replace(boot.trim(), "another")).expect("written");
        assert_eq!(file.load("kamei"), []);
        std::fs::write(&file.path, good.replace("net/ipv4/conf/go/forwarding", "kernel/core_pattern"))
            .expect("written");
        assert_eq!(file.load("kamei"), []);
        let link = UndoFile::new(&directory.path().join("link.json"));
        std::fs::write(&file.path, good).expect("written");
        std::os::unix::fs::symlink(&file.path, &link.path).expect("a link");
        assert_eq!(link.load("kamei"), []);
        assert_eq!(file.load("kamei").len(), 1);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_not_fatal(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&bytes).is_err());
        }

        #[test]
        fn hostile_values_are_refused(key in "\\PC{0,40}", old in "\\PC{0,20}") {
            let text = serde_json::json!({"tun": "kamei", "boot": "", "namespace": "",
                "settings": [{"key": key, "old": old, "new": "1", "held": false}]}).to_string();
            prop_assert!(parse(text.as_bytes()).is_err());
        }
    }
}
