//! The relay's side: its key, its CA, its TLS settings.

use super::error::IdentityError;
use super::files;
use super::fingerprint::{Fingerprint, fingerprint_of};
use super::key::{Key, pem, provider, serial};
use super::tls::AnyKey;
use crate::session::checked_name;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType,
    SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, version::TLS13};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// How long a certificate of an agent is valid.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How far the clocks of relay and agent may differ: a certificate is valid from so long before it is made.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3600);
/// A request for one key is far smaller.
const LARGEST_REQUEST: usize = 16 << 10;
/// The year 9000, since the epoch: certificates cannot end after the year 9999 (RFC 5280, section 4.1.2.5).
const LATEST: Duration = Duration::from_secs(221_845_392_000);

/// The relay's own key and certificate, and the CA that signs the certificates of its members.
///
/// | file | what |
/// | --- | --- |
/// | `relay.key` | the key that members pin by its fingerprint; it stays for the relay's life |
/// | `relay.crt` | its certificate, or a chain of the operator's own CA; only its key counts for members |
/// | `ca.key`, `ca.crt` | the CA of the members' certificates; one of the operator's that may sign is taken as it is |
pub struct Authority {
    fingerprint: Fingerprint,
    certified: Arc<CertifiedKey>,
    authority: Key,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// Reads the files of `dir`, and makes those that are not there. A lost certificate is made again of its key.
    ///
    /// # Errors
    /// [`IdentityError`]: the directory or a key is open to others, a file is damaged, or the system refused one. No file
    /// that is there is changed.
    pub fn open(dir: &Path) -> Result<Self, IdentityError> {
        files::private_directory(dir)?;
        let authority = Key::open(&dir.join("ca.key"))?;
        let own = Key::open(&dir.join("relay.key"))?;
        let certificate = own_chain(&authority, &dir.join("ca.crt"), &of_authority()?)?.swap_remove(0);
        let chain = own_chain(&own, &dir.join("relay.crt"), &of_relay()?)?;
        Ok(Self { fingerprint: own.fingerprint(), certified: own.certified(chain)?, authority, certificate })
    }

    /// Of the key that members pin.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The certificate of the CA, for others to check certificates of members with.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The relay's own certificate, for clients that are no members to check the relay with.
    pub fn server_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.certified.cert.first()
    }

    /// Settings for the relay's side of TLS 1.3; `alpn` lists the protocols in order of preference.
    ///
    /// A client may show a certificate, or none. TLS proves that it has the key; whose key it is and whether it may come in
    /// is the register's to say, by [`fingerprint_of`] the first of `peer_certificates`. Names, dates and issuer of the
    /// certificate are not looked at. Sessions can be resumed, with the same `peer_certificates`; early data is refused.
    ///
    /// Tickets are sealed by a key of these settings: make them once, and share them.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] if there are no random numbers.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, IdentityError> {
        let failed = "settings of TLS";
        let provider = provider();
        let judge = AnyKey::new(provider.signature_verification_algorithms);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(IdentityError::crypto(failed))?
            .with_client_cert_verifier(Arc::new(judge))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified))));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(IdentityError::crypto(failed))?;
        config.max_early_data_size = 0;
        config.send_half_rtt_data = false;
        Ok(Arc::new(config))
    }

    /// A certificate for the key in a certification request (PKCS #10, RFC 2986, DER), in the name of member `name`, valid
    /// for [`CERTIFICATE_LIFE`] from `now`. Of the request only the key counts; its signature must be made by that key.
    ///
    /// # Errors
    /// [`IdentityError::Request`] if it is none, its signature is wrong, or `name` is none; [`IdentityError::Clock`].
    pub fn sign(
        &self,
        request_der: &[u8],
        name: &str,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let wrong = |error: &dyn std::fmt::Display| IdentityError::Request(error.to_string());
        checked_name(name).map_err(|error| wrong(&error))?;
        if request_der.len() > LARGEST_REQUEST {
            return Err(wrong(&"it is far too long"));
        }
        let (rest, request) = X509CertificationRequest::from_der(request_der).map_err(|error| wrong(&error))?;
        if !rest.is_empty() {
            return Err(wrong(&"something follows it"));
        }
        request.verify_signature().map_err(|_| wrong(&"it is not signed by its own key"))?;
        let info = request.certification_request_info.subject_pki.raw;
        let key = SubjectPublicKeyInfo::from_der(info).map_err(|error| wrong(&error))?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, self.authority.pair());
        let issuer = issuer.map_err(IdentityError::crypto("reading the certificate of the CA"))?;
        let signed = of_member(name, now)?.signed_by(&key, &issuer).map_err(IdentityError::crypto("signing"))?;
        // The same key in other bytes would be a stranger to the register.
        if fingerprint_of(signed.der()) != Some(Fingerprint::of_public_key(info)) {
            return Err(wrong(&"its key is not written as DER"));
        }
        Ok(signed.into())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// The chain in the file; if there is none, a certificate that the key signs for itself is put there.
fn own_chain(
    key: &Key,
    path: &Path,
    parameters: &CertificateParams,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    if let Some(chain) = key.read_chain(path)? {
        return Ok(chain);
    }
    let made = parameters.self_signed(key.pair()).map_err(IdentityError::crypto("making a certificate"))?;
    let made = CertificateDer::from(made);
    match files::create(path, &pem(&made))? {
        true => Ok(vec![made]),
        false => key.read_chain(path).map(|chain| chain.unwrap_or_else(|| vec![made])),
    }
}

/// What is said of the CA. Times are those of rcgen, 1975 to 4096: nobody replaces this certificate.
fn of_authority() -> Result<CertificateParams, IdentityError> {
    let mut parameters = named("kamei relay CA")?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

/// What is said of the relay's own key; members look at the key alone.
fn of_relay() -> Result<CertificateParams, IdentityError> {
    let mut parameters = named("kamei relay")?;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(parameters)
}

/// What is said of a member.
fn of_member(name: &str, now: SystemTime) -> Result<CertificateParams, IdentityError> {
    let now = now.duration_since(UNIX_EPOCH).map_err(|_| IdentityError::Clock)?;
    if now > LATEST {
        return Err(IdentityError::Clock);
    }
    let mut parameters = named(name)?;
    let epoch = date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + now.saturating_sub(CLOCKS_DIFFER);
    parameters.not_after = epoch + now + CERTIFICATE_LIFE;
    let name = name.try_into().map_err(|error: rcgen::Error| IdentityError::Request(error.to_string()))?;
    parameters.subject_alt_names = vec![SanType::DnsName(name)];
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

fn named(name: &str) -> Result<CertificateParams, IdentityError> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.serial_number = Some(serial()?);
    Ok(parameters)
}
