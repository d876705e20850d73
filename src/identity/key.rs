//! One private key in a file, and what is made of it.

use super::error::IdentityError;
use super::files;
use super::fingerprint::{Fingerprint, fingerprint_of};
use rcgen::{KeyPair, PublicKeyData, SerialNumber};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{default_provider, sign::any_supported_type};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The private key in a file: PKCS #8 as PEM. Made as ECDSA on P-256, which every TLS library knows; another that the
/// operator has put there (P-384, Ed25519, RSA) is taken as it is.
pub struct Key {
    path: PathBuf,
    pair: KeyPair,
}

impl Key {
    /// Reads the key; makes it if there is no file. A file that cannot be used is never overwritten.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let text = match files::read_private(path)? {
            Some(text) => text,
            None => {
                let pair = KeyPair::generate().map_err(IdentityError::crypto("making a key"))?;
                let text = Zeroizing::new(pair.serialize_pem());
                // Another process may have made one meanwhile: that one counts then.
                if files::create(path, &text)? { text } else { files::read_private(path)?.unwrap_or_default() }
            }
        };
        let damaged = |what: String| IdentityError::Damaged { path: path.to_owned(), what };
        if text.trim().is_empty() {
            return Err(damaged("it is empty".to_owned()));
        }
        let pair = KeyPair::from_pem(&text).map_err(|error| damaged(format!("no private key as PEM ({error})")))?;
        Ok(Self { path: path.to_owned(), pair })
    }

    /// The pair itself, to sign with.
    pub const fn pair(&self) -> &KeyPair {
        &self.pair
    }

    /// Of its public half.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_public_key(&self.pair.subject_public_key_info())
    }

    /// Key and certificates as TLS wants them.
    pub fn certified(&self, chain: Vec<CertificateDer<'static>>) -> Result<Arc<CertifiedKey>, IdentityError> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.pair.serialize_der()));
        let key = any_supported_type(&key).map_err(IdentityError::crypto("reading the key"))?;
        Ok(Arc::new(CertifiedKey::new(chain, key)))
    }

    /// The certificates in a file, the one of this key first; `None` if there is no file.
    pub fn read_chain(&self, path: &Path) -> Result<Option<Vec<CertificateDer<'static>>>, IdentityError> {
        let Some(text) = files::read_public(path)? else { return Ok(None) };
        let wrong = |what: String| IdentityError::Certificate { path: path.to_owned(), key: self.path.clone(), what };
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let chain = read.map_err(|error| wrong(error.to_string()))?;
        let first = chain.first().ok_or_else(|| wrong("it has none".to_owned()))?;
        match fingerprint_of(first) {
            Some(found) if found == self.fingerprint() => Ok(Some(chain)),
            Some(_) => Err(wrong("it is of another key".to_owned())),
            None => Err(wrong("it is no X.509 certificate of version 3".to_owned())),
        }
    }
}

/// A certificate as PEM (RFC 7468).
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = data_encoding::BASE64.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|letter| char::from(*letter)));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// A serial number that no other certificate has: 16 random bytes, positive (RFC 5280, section 4.1.2.2).
pub fn serial() -> Result<SerialNumber, IdentityError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(IdentityError::crypto("random numbers"))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// The algorithms of `ring`, whatever the process has chosen as its default.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::fingerprint_of;

    #[test]
    fn a_key_is_made_once() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a.key");
        let made = Key::open(&path).unwrap().fingerprint();
        assert_eq!(Key::open(&path).unwrap().fingerprint(), made);
        let other = Key::open(&scratch.path().join("b.key")).unwrap().fingerprint();
        assert_ne!(made, other);
    }

    #[test]
    fn threads_that_make_one_at_once_have_the_same() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a.key");
        let made: Vec<Fingerprint> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| Key::open(&path).unwrap().fingerprint())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(made.iter().all(|fingerprint| *fingerprint == made[0]), "{made:?}");
    }

    #[test]
    fn a_damaged_key_is_an_error_and_stays_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a.key");
        Key::open(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        for length in (0..good.len() - 2).step_by(7) {
            std::fs::write(&path, &good[..length]).unwrap();
            let error = Key::open(&path).err().unwrap();
            assert!(matches!(error, IdentityError::Damaged { .. }), "{length}: {error}");
            assert!(!error.to_string().contains('\n') && error.to_string().contains("a.key"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), good[..length]);
        }
        // The private and the public half of another pair.
        let at = good.len() / 2;
        let mut flipped = good.clone();
        flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
        std::fs::write(&path, &flipped).unwrap();
        assert!(matches!(Key::open(&path), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn other_kinds_of_keys_are_taken() {
        let scratch = tempfile::tempdir().unwrap();
        for (name, kind) in [("p384", &rcgen::PKCS_ECDSA_P384_SHA384), ("ed25519", &rcgen::PKCS_ED25519)] {
            let path = scratch.path().join(name);
            let pair = KeyPair::generate_for(kind).unwrap();
            files::create(&path, &pair.serialize_pem()).unwrap();
            let key = Key::open(&path).unwrap();
            let certificate = rcgen::CertificateParams::default().self_signed(key.pair()).unwrap();
            assert_eq!(fingerprint_of(certificate.der()), Some(key.fingerprint()));
            assert!(key.certified(vec![certificate.der().clone()]).unwrap().keys_match().is_ok());
        }
    }

    #[test]
    fn a_chain_must_begin_with_the_certificate_of_the_key() {
        let scratch = tempfile::tempdir().unwrap();
        let key = Key::open(&scratch.path().join("a.key")).unwrap();
        let other = Key::open(&scratch.path().join("b.key")).unwrap();
        let path = scratch.path().join("a.crt");
        assert!(key.read_chain(&path).unwrap().is_none());
        let of = |key: &Key| rcgen::CertificateParams::default().self_signed(key.pair()).unwrap().der().clone();
        let (own, foreign) = (of(&key), of(&other));
        files::replace(&path, &(pem(&own) + &pem(&foreign))).unwrap();
        assert_eq!(key.read_chain(&path).unwrap().unwrap(), [own.clone(), foreign.clone()]);
        let cut = &pem(&own)[..100];
        for wrong in [pem(&foreign).as_str(), "", cut, &pem(&CertificateDer::from(vec![1, 2, 3]))] {
            files::replace(&path, wrong).unwrap();
            assert!(matches!(key.read_chain(&path), Err(IdentityError::Certificate { .. })), "{wrong}");
        }
    }

    #[test]
    fn serial_numbers_are_positive_and_differ() {
        let numbers: std::collections::BTreeSet<Vec<u8>> = (0..100).map(|_| serial().unwrap().to_bytes()).collect();
        assert_eq!(numbers.len(), 100);
        assert!(numbers.iter().all(|number| number.len() == 16 && number[0] & 0x80 == 0));
    }
}
