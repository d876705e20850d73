//! Passwords of clients: the register keeps a hash that is slow to guess (Argon2id, RFC 9106), never the password.

use super::error::IdentityError;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Argon2, Params};
use data_encoding::BASE32_NOPAD;
use std::fmt;
use zeroize::Zeroizing;

/// Random bytes of a password that nobody has chosen.
const DRAWN: usize = 16;
/// Bytes of a password: fewer are guessed, more do not fit into SOCKS5 (RFC 1929 §2).
const LENGTHS: std::ops::RangeInclusive<usize> = 8..=255;
/// Bytes of salt (RFC 9106 §3.1).
const SALT: usize = 16;

/// A password in the clear.
pub struct Password(Zeroizing<String>);

/// Why a text is no password. None of it shows the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short or too long.
    #[error("a password has 8 to 255 bytes, not {0}")]
    Length(usize),
    /// Programs cannot send it.
    #[error("a password has no line break and no other control character")]
    Control,
}

impl Password {
    /// One of 128 random bits, in small letters and digits.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn random() -> Result<Self, IdentityError> {
        let mut bytes = Zeroizing::new([0; DRAWN]);
        getrandom::fill(&mut *bytes).map_err(IdentityError::crypto("random numbers"))?;
        Ok(Self(Zeroizing::new(BASE32_NOPAD.encode(&*bytes).to_ascii_lowercase())))
    }

    /// One that an operator has chosen.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub fn chosen(text: String) -> Result<Self, PasswordError> {
        let text = Zeroizing::new(text);
        if !LENGTHS.contains(&text.len()) {
            return Err(PasswordError::Length(text.len()));
        }
        if text.chars().any(char::is_control) { Err(PasswordError::Control) } else { Ok(Self(text)) }
    }

    /// To be told once.
    pub fn show(&self) -> &str {
        &self.0
    }

    /// What the register keeps. Takes some 20 ms and 19 MiB.
    ///
    /// # Errors
    /// The system has no random numbers or no memory.
    pub fn hash(&self) -> Result<String, IdentityError> {
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).map_err(IdentityError::crypto("random numbers"))?;
        let salt = SaltString::encode_b64(&salt).map_err(IdentityError::crypto("a password's salt"))?;
        let hash = slow().hash_password(self.0.as_bytes(), &salt);
        Ok(hash.map_err(IdentityError::crypto("a password's hash"))?.to_string())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Whether the hash is of this password. Where there is no hash it takes as long and is wrong (requirement C2).
pub fn is_password(hash: Option<&str>, password: &[u8]) -> bool {
    let nobody = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let Ok(parsed) = PasswordHash::new(hash.unwrap_or(nobody)) else { return false };
    let is_it = slow().verify_password(password, &parsed).is_ok();
    is_it && hash.is_some()
}

/// Argon2id with 19 MiB and two passes, what OWASP asks for at least.
fn slow() -> Argon2<'static> {
    Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, Params::DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_by_its_hash_alone() {
        let drawn = Password::random().unwrap();
        assert_eq!(drawn.show().len(), 26);
        let (one, two) = (drawn.hash().unwrap(), drawn.hash().unwrap());
        assert!(one != two && !one.contains(drawn.show()) && one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(is_password(Some(&one), drawn.show().as_bytes()) && is_password(Some(&two), drawn.show().as_bytes()));
        for wrong in ["", "x", &drawn.show()[1..]] {
            assert!(!is_password(Some(&one), wrong.as_bytes()) && !is_password(None, wrong.as_bytes()));
        }
        assert!(!is_password(Some("no hash"), b"x"));
        assert_eq!(format!("{drawn:?}"), "Password(…)");
    }

    #[test]
    fn passwords_that_cannot_be_are_refused() {
        let chosen = |text: &str| Password::chosen(text.to_owned()).map(|password| password.show().to_owned());
        assert_eq!(chosen("correct horse ä:"), Ok("correct horse ä:".to_owned()));
        assert_eq!(chosen("short"), Err(PasswordError::Length(5)));
        assert_eq!(chosen(&"a".repeat(256)), Err(PasswordError::Length(256)));
        assert_eq!(chosen("two\nlines"), Err(PasswordError::Control));
    }
}
