//! How each side judges the certificate of the other: by its key alone.
//!
//! The handshake proves that a side has the private key of its certificate (RFC 8446, section 4.4.3). An agent knows the
//! relay's key from its invitation. The relay takes every key here, and asks its register afterwards whose it is.

use super::fingerprint::{Fingerprint, fingerprint_of};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use std::sync::Arc;

/// Bytes of a client's certificates. Tickets carry them, so a stranger must not choose their size.
const LARGEST_CHAIN: usize = 16 << 10;

/// The host that answered is not the relay of the invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not the relay that the invitation is of: fingerprint {}, not {expected} (a TLS-inspecting proxy between?)",
    Shown(.found)
)]
pub struct WrongRelay {
    /// The key in the invitation.
    pub expected: Fingerprint,
    /// The key that answered; `None` if its certificate cannot be read.
    pub found: Option<Fingerprint>,
}

/// A fingerprint, or that there is none.
struct Shown<'a>(&'a Option<Fingerprint>);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(found) => found.fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl WrongRelay {
    /// The cause of a failed handshake, if it was this: looks through the sources of `error`, as tokio-rustls gives it.
    pub fn in_error(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))) = error.downcast_ref() {
            return cause.downcast_ref().copied();
        }
        // The source of an I/O error is the source of what it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Self::in_error(wrapped),
            None => Self::in_error(error.source()?),
        }
    }
}

/// The agent's judge: the relay is who has the pinned key, whatever its certificate says of names and times.
#[derive(Debug)]
pub struct PinnedRelay {
    pin: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedRelay {
    pub const fn new(pin: Fingerprint, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { pin, algorithms }
    }
}

impl ServerCertVerifier for PinnedRelay {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = fingerprint_of(end_entity);
        if found == Some(self.pin) {
            return Ok(ServerCertVerified::assertion());
        }
        let wrong = WrongRelay { expected: self.pin, found };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The relay's judge: any key, or none.
#[derive(Debug)]
pub struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyKey {
    pub const fn new(algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { algorithms }
    }
}

impl ClientCertVerifier for AnyKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bytes = others.iter().map(|certificate| certificate.len()).sum::<usize>() + end_entity.len();
        if bytes > LARGEST_CHAIN || fingerprint_of(end_entity).is_none() {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The settings of both sides allow no earlier version.
fn only_tls13() -> Error {
    Error::General("only TLS 1.3 is spoken here".to_owned())
}
