//! Fingerprints: public keys in 32 bytes.

use data_encoding::{Encoding, Specification};
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// Letters of a fingerprint's text.
const LETTERS: usize = 52;

/// Base32 of RFC 4648, section 6, in small letters and without padding. Capitals are read too, and `0` and `1`, which the
/// alphabet lacks, as the letters that they look like. Bits after the last byte must be zero.
pub(super) static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.translate.from.push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZ01");
    specification.translate.to.push_str("abcdefghijklmnopqrstuvwxyzol");
    // The specification is a constant, which the tests try.
    specification.encoding().unwrap_or(data_encoding::BASE32_NOPAD_NOCASE)
});

/// The SHA-256 of a public key: of the SubjectPublicKeyInfo of a certificate, as DER (RFC 5280, section 4.1; the "pin" of
/// RFC 7469, section 2.4). As text it is 52 letters of base32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

/// Why a text is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FingerprintError {
    /// It is shorter or longer.
    #[error("a fingerprint has 52 letters, not {0}; copy it whole")]
    Length(usize),
    /// It has other letters, or ends in one that cannot be the last.
    #[error("a fingerprint has only a-z and 2-7; letter {0} is mistyped")]
    Letter(usize),
}

impl Fingerprint {
    /// The fingerprint of a SubjectPublicKeyInfo, as DER.
    pub fn of_public_key(info: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, info).as_ref());
        Self(bytes)
    }

    /// The fingerprint that these bytes are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the SHA-256.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The fingerprint of the key in a certificate; `None` if that is no X.509 certificate of version 3.
///
/// The parser is the one by which TLS reads the key that must have signed the handshake, so both mean the same key.
pub fn fingerprint_of(certificate: &CertificateDer<'_>) -> Option<Fingerprint> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    Some(Fingerprint::of_public_key(parsed.subject_public_key_info().as_ref()))
}

/// The fingerprint of the key in a certification request (RFC 2986, DER); `None` if that is none. The signature of the
/// request is not looked at.
pub fn fingerprint_of_request(request: &[u8]) -> Option<Fingerprint> {
    let (rest, request) = X509CertificationRequest::from_der(request).ok()?;
    let info = &request.certification_request_info.subject_pki;
    rest.is_empty().then(|| Fingerprint::of_public_key(info.raw))
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE32.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let letters = text.chars().count();
        if letters != LETTERS {
            return Err(FingerprintError::Length(letters));
        }
        let mistyped = text.bytes().position(|letter| !letter.is_ascii_alphanumeric() || matches!(letter, b'8' | b'9'));
        if let Some(at) = mistyped {
            return Err(FingerprintError::Letter(at + 1));
        }
        let bytes = BASE32.decode(text.as_bytes()).map_err(|error| FingerprintError::Letter(error.position + 1))?;
        bytes.try_into().map(Self).map_err(|_| FingerprintError::Length(letters))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;

    fn try_from(text: String) -> Result<Self, FingerprintError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fingerprint_is_base32_of_rfc_4648() {
        let fingerprint = Fingerprint::from_bytes([0xff; 32]);
        let text = fingerprint.to_string();
        assert_eq!(text, data_encoding::BASE32_NOPAD.encode(&[0xff; 32]).to_lowercase());
        assert_eq!(text.parse(), Ok(fingerprint));
        assert_eq!(text.to_uppercase().parse(), Ok(fingerprint));
        assert_eq!(BASE32.decode(b"o1o1"), BASE32.decode(b"olol"));
        assert_eq!(BASE32.decode(b"0101"), BASE32.decode(b"olol"));
        let json = serde_json::to_string(&fingerprint).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Fingerprint>(&json).unwrap(), fingerprint);
    }

    #[test]
    fn a_wrong_fingerprint_says_where() {
        let good = Fingerprint::from_bytes([0; 32]).to_string();
        assert_eq!(good[1..].parse::<Fingerprint>(), Err(FingerprintError::Length(51)));
        assert_eq!(format!("{}8{}", &good[..9], &good[10..]).parse::<Fingerprint>(), Err(FingerprintError::Letter(10)));
        assert_eq!(format!("{}ä{}", &good[..9], &good[10..]).parse::<Fingerprint>(), Err(FingerprintError::Letter(10)));
        // Bits after the last byte: two texts must not be one fingerprint.
        assert_eq!(format!("{}b", &good[..51]).parse::<Fingerprint>(), Err(FingerprintError::Letter(52)));
        assert!(serde_json::from_str::<Fingerprint>("\"a\"").is_err());
    }

    #[test]
    fn what_is_no_certificate_has_no_fingerprint() {
        for bytes in [&[][..], &[0x30], &[0x30, 0x82, 0xff, 0xff], &[0; 100]] {
            assert_eq!(fingerprint_of(&CertificateDer::from(bytes)), None);
            assert_eq!(fingerprint_of_request(bytes), None);
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back_from_text(bytes in any::<[u8; 32]>()) {
            let fingerprint = Fingerprint::from_bytes(bytes);
            prop_assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        }

        #[test]
        fn any_text_is_judged(text in "[a-zA-Z0-9ä]{52}|.*") {
            if let Ok(fingerprint) = text.parse::<Fingerprint>() {
                let plain = text.to_lowercase().replace('0', "o").replace('1', "l");
                prop_assert_eq!(fingerprint.to_string(), plain);
            }
        }

        #[test]
        fn any_bytes_are_judged(bytes in any::<Vec<u8>>()) {
            let _ = fingerprint_of(&CertificateDer::from(bytes.as_slice()));
            let _ = fingerprint_of_request(&bytes);
        }
    }
}
