//! The agent's side: its key, its certificate, its TLS settings.

use super::error::IdentityError;
use super::files;
use super::fingerprint::{Fingerprint, fingerprint_of};
use super::key::{Key, pem, provider};
use super::tls::PinnedRelay;
use parking_lot::RwLock;
use rcgen::{CertificateParams, DnType};
use rustls::pki_types::CertificateDer;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, version::TLS13};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The agent's own key and what the relay has certified of it.
///
/// | file | what |
/// | --- | --- |
/// | `agent.key` | the key that the relay knows this agent by |
/// | `agent.crt` | the latest certificate of it that the relay has given, or one of the operator's own CA with its chain |
pub struct Keys {
    key: Key,
    path: PathBuf,
    certificate: RwLock<Held>,
}

/// The certificate that is shown to the relay.
struct Held {
    chain: Vec<CertificateDer<'static>>,
    /// From when to when it is valid, in seconds since the epoch; `None` for one that the relay has not given.
    valid: Option<(i64, i64)>,
}

impl Keys {
    /// Reads the files of `dir`, and makes the key if it is not there. Without a certificate of the relay, or with one that
    /// cannot be read (which is logged), the key signs one for itself: the relay knows the key, and gives another.
    ///
    /// # Errors
    /// [`IdentityError`]: the directory or the key is open to others, the key is damaged, or the system refused a file. No
    /// key that is there is changed.
    pub fn open(dir: &Path) -> Result<Self, IdentityError> {
        files::private_directory(dir)?;
        let key = Key::open(&dir.join("agent.key"))?;
        let path = dir.join("agent.crt");
        let given = key.read_chain(&path).unwrap_or_else(|error| {
            log::warn!("the certificate is not used, and another is asked for: {error}");
            None
        });
        let given = given.and_then(|chain| Some(Held { valid: Some(validity(chain.first()?)?), chain }));
        let held = match given {
            Some(held) => held,
            None => Held { chain: vec![self_signed(&key)?], valid: None },
        };
        Ok(Self { key, path, certificate: RwLock::new(held) })
    }

    /// Of the key that the relay knows this agent by.
    pub fn fingerprint(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    /// A certification request for the key (PKCS #10, RFC 2986, DER), signed by it. It says nothing else: the relay knows
    /// the name.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] if there are no random numbers.
    pub fn request(&self) -> Result<Vec<u8>, IdentityError> {
        let request = parameters().serialize_request(self.key.pair()).map_err(IdentityError::crypto("a request"))?;
        Ok(request.der().to_vec())
    }

    /// Takes a certificate of the relay, on disk too. [`Keys::client_config`] shows it from now on.
    ///
    /// # Errors
    /// [`IdentityError::OtherKey`] if it is not for this key, or none; what the system said if it cannot be written. Then
    /// the one before stays.
    pub fn keep(&self, certificate: CertificateDer<'static>) -> Result<(), IdentityError> {
        if fingerprint_of(&certificate) != Some(self.fingerprint()) {
            return Err(IdentityError::OtherKey);
        }
        let valid = Some(validity(&certificate).ok_or(IdentityError::OtherKey)?);
        let mut held = self.certificate.write();
        files::replace(&self.path, &pem(&certificate))?;
        *held = Held { chain: vec![certificate], valid };
        Ok(())
    }

    /// Whether to ask the relay for another certificate: it has given none, a third of the life of this one is left or
    /// less, or it is not valid yet because a clock was wrong.
    pub fn renewal_due(&self, now: SystemTime) -> bool {
        let Some((from, until)) = self.certificate.read().valid else { return true };
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let third = until.saturating_sub(from) / 3;
        now < from || now >= until.saturating_sub(third)
    }

    /// Settings for the agent's side of TLS 1.3; `alpn` lists the protocols in order of preference. The relay is who has the
    /// key with the fingerprint `relay`; names and dates of its certificate are not looked at. Failed handshakes with
    /// another have a [`super::WrongRelay`] as their cause. Make them again after [`Keys::keep`].
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] if TLS refuses the key.
    pub fn client_config(&self, relay: Fingerprint, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, IdentityError> {
        let provider = provider();
        let judge = PinnedRelay::new(relay, provider.signature_verification_algorithms);
        let certified = self.key.certified(self.certificate.read().chain.clone())?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(IdentityError::crypto("settings of TLS"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.enable_early_data = false;
        Ok(Arc::new(config))
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

/// From when to when a certificate is valid, in seconds since the epoch.
fn validity(certificate: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

fn self_signed(key: &Key) -> Result<CertificateDer<'static>, IdentityError> {
    let made = parameters().self_signed(key.pair()).map_err(IdentityError::crypto("making a certificate"))?;
    Ok(made.into())
}

fn parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "kamei agent");
    parameters
}
