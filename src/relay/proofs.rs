//! Names and passwords of clients, judged.

use super::connections::network;
use crate::identity::{IdentityError, Register, is_password};
use crate::session::Credentials;
use parking_lot::Mutex;
use ring::hmac;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Passwords that are looked at once: each takes a processor and 19 MiB.
const AT_ONCE: usize = 2;
/// Wrong proofs of one address in [`TIME`]; after these none is looked at, but what was right before.
const MOST_WRONG: u32 = 20;
/// See [`MOST_WRONG`].
const TIME: Duration = Duration::from_secs(60);
/// Addresses whose wrong proofs are counted.
const MOST_ADDRESSES: usize = 65_536;

/// Judges proofs, and remembers those that were right, so that each connection of a client does not cost what the first does.
pub struct Proofs {
    places: Semaphore,
    /// Of this process: what is remembered is of no use to anybody else.
    key: hmac::Key,
    /// By the client's name: a tag of its hash and the password that was right.
    right: Mutex<HashMap<String, hmac::Tag>>,
    wrong: Mutex<HashMap<IpAddr, (u32, Instant)>>,
}

impl Proofs {
    /// Nothing was judged yet.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new() -> Result<Self, IdentityError> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new());
        Ok(Self {
            places: Semaphore::new(AT_ONCE),
            key: key.map_err(IdentityError::crypto("random numbers"))?,
            right: Mutex::default(),
            wrong: Mutex::default(),
        })
    }

    /// The name of the client, if it has proved it. A name that nobody has takes as long as a wrong password (requirement C2).
    pub async fn prove(&self, register: &Register, proof: &Credentials, from: IpAddr) -> Option<String> {
        let name = str::from_utf8(&proof.name).ok()?.to_owned();
        let hash = tokio::task::block_in_place(|| register.client(&name));
        let hash =
            hash.map_err(|error| log::error!("no client can be let in: {error}")).ok()?.map(|client| client.hash);
        let tag = hash.as_ref().map(|hash| self.tag(hash, &proof.password));
        if tag.is_some_and(|tag| self.is_remembered(&name, &tag)) {
            return Some(name);
        }
        if self.has_failed_too_often(from) {
            return None;
        }
        let _place = self.places.acquire().await.ok()?;
        let is_right = tokio::task::block_in_place(|| is_password(hash.as_deref(), &proof.password));
        if !is_right {
            self.note_failure(from);
            return None;
        }
        self.right.lock().insert(name.clone(), tag?);
        Some(name)
    }

    /// The client is forgotten.
    pub fn forget(&self, name: &str) {
        self.right.lock().remove(name);
    }

    fn tag(&self, hash: &str, password: &[u8]) -> hmac::Tag {
        hmac::sign(&self.key, &[hash.as_bytes(), b"\0", password].concat())
    }

    fn is_remembered(&self, name: &str, tag: &hmac::Tag) -> bool {
        let right = self.right.lock();
        // A client that guesses passwords does not know their tags: time tells nothing of them.
        right.get(name).is_some_and(|remembered| remembered.as_ref() == tag.as_ref())
    }

    fn has_failed_too_often(&self, from: IpAddr) -> bool {
        let wrong = self.wrong.lock();
        wrong.get(&network(from)).is_some_and(|(number, since)| *number >= MOST_WRONG && since.elapsed() < TIME)
    }

    fn note_failure(&self, from: IpAddr) {
        let mut wrong = self.wrong.lock();
        if wrong.len() >= MOST_ADDRESSES {
            wrong.retain(|_, (_, since)| since.elapsed() < TIME);
        }
        if wrong.len() < MOST_ADDRESSES || wrong.contains_key(&network(from)) {
            let (number, since) = wrong.entry(network(from)).or_insert((0, Instant::now()));
            if since.elapsed() >= TIME {
                (*number, *since) = (0, Instant::now());
            }
            *number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Password;
    use std::time::SystemTime;

    #[tokio::test(flavor = "multi_thread")]
    async fn who_fails_too_often_is_not_looked_at_but_what_was_right_stays_right() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let register = Register::open(&directory.path().join("relay.db")).unwrap();
        let admit = |name: &str, password: &str| {
            let hash = Password::chosen(password.to_owned()).unwrap().hash().unwrap();
            register.admit(name, &[], &hash, SystemTime::now()).unwrap();
        };
        admit("alice", "alice's own");
        admit("bob", "bob's own");
        let proofs = Proofs::new().unwrap();
        let prove = async |name: &str, password: &str, from: &str| {
            let proof = Credentials { name: name.into(), password: password.into() };
            proofs.prove(&register, &proof, from.parse().unwrap()).await
        };
        assert_eq!(prove("alice", "alice's own", "192.0.2.1").await.as_deref(), Some("alice"));
        for number in 0..MOST_WRONG {
            let name = if number % 2 == 0 { "alice" } else { "nobody" };
            assert_eq!(prove(name, "bob's own", "192.0.2.1").await, None);
        }
        assert_eq!(prove("bob", "bob's own", "192.0.2.1").await, None);
        assert_eq!(prove("alice", "alice's own", "192.0.2.1").await.as_deref(), Some("alice"));
        assert_eq!(prove("bob", "bob's own", "192.0.2.2").await.as_deref(), Some("bob"));
        // Another password: what was remembered is worth nothing.
        admit("alice", "alice's next");
        assert_eq!(prove("alice", "alice's own", "192.0.2.2").await, None);
        assert_eq!(prove("alice", "alice's next", "192.0.2.2").await.as_deref(), Some("alice"));
        register.revoke("bob").unwrap();
        assert_eq!(prove("bob", "bob's own", "192.0.2.2").await, None);
    }
}
