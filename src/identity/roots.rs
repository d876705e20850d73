//! The operator's own CA: who has a certificate of it needs no invitation.

use super::error::IdentityError;
use super::files;
use super::key::provider;
use crate::session::checked_name;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// CA certificates of the operator. Here dates, issuers and uses of a certificate count, other than for invited members:
/// the CA says who is who, not a registered key. [`super::Register::vouched`] says whether the name may be used.
#[derive(Debug)]
pub struct Roots(Arc<dyn ClientCertVerifier>);

impl Roots {
    /// Reads CA certificates from a PEM file that only its owner can write.
    ///
    /// # Errors
    /// [`IdentityError::Authorities`] if it has none, or one that cannot be a CA; [`IdentityError::Writable`], or what the
    /// system said.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let wrong = |what: String| IdentityError::Authorities { path: path.to_owned(), what };
        let text = files::read_public(path)?.ok_or_else(|| wrong("there is no such file".to_owned()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        let judge = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        Ok(Self(judge.map_err(|error| wrong(error.to_string()))?))
    }

    /// The name that the CA has given to the key of `chain`, the peer's certificates as TLS has them: the first DNS name of
    /// the first certificate, or its common name if it has none. `None` if the chain does not lead to the CA, is not valid
    /// at `now`, is not for clients of TLS (RFC 5280, section 4.2.1.12), or names what no member can be called.
    pub fn name_of(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Option<String> {
        let (first, others) = chain.split_first()?;
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).ok()?);
        self.0.verify_client_cert(first, others, now).ok()?;
        let (_, certificate) = X509Certificate::from_der(first).ok()?;
        let names = certificate.subject_alternative_name().ok()?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let mut names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        });
        let common = || certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        checked_name(names.next().or_else(common)?).ok().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::pem;
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
    };
    use std::time::Duration;

    fn named(name: &str) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters
    }

    fn authority() -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let mut parameters = named("operator");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        (parameters.self_signed(&key).unwrap().der().clone(), Issuer::new(parameters, key))
    }

    fn signed(parameters: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> CertificateDer<'static> {
        parameters.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn the_ca_of_the_operator_says_who_is_who() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("ca.pem");
        let ((certificate, issuer), (_, stranger)) = (authority(), authority());
        files::replace(&path, &pem(&certificate)).unwrap();
        let roots = Roots::open(&path).unwrap();
        let name = |certificate: CertificateDer<'static>| roots.name_of(&[certificate], now());
        let web = Some("web".to_owned());
        assert_eq!(name(signed(&named("web"), &issuer)), web);
        let mut with_name = named("Something Else");
        with_name.subject_alt_names = vec![rcgen::SanType::DnsName("web".try_into().unwrap())];
        assert_eq!(name(signed(&with_name, &issuer)), web);

        assert_eq!(name(signed(&named("web"), &stranger)), None);
        assert_eq!(name(signed(&named("Web"), &issuer)), None);
        assert_eq!(name(CertificateDer::from(vec![1, 2, 3])), None);
        assert_eq!(roots.name_of(&[], now()), None);
        let mut expired = named("web");
        expired.not_after = date_time_ymd(2020, 1, 1);
        assert_eq!(name(signed(&expired, &issuer)), None);
        let mut for_servers = named("web");
        for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        assert_eq!(name(signed(&for_servers, &issuer)), None);
    }

    #[test]
    fn what_has_no_ca_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("ca.pem");
        assert!(matches!(Roots::open(&path), Err(IdentityError::Authorities { .. })));
        for wrong in ["", "no PEM", &pem(&CertificateDer::from(vec![1, 2, 3]))] {
            files::replace(&path, wrong).unwrap();
            assert!(matches!(Roots::open(&path), Err(IdentityError::Authorities { .. })), "{wrong}");
        }
    }
}
