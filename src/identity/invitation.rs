//! Invitations: what an operator hands to a new member.

use super::fingerprint::{BASE32, Fingerprint};
use ring::digest::{Context, SHA256};
use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;
use zeroize::{Zeroize, Zeroizing};

/// How every invitation begins; the number is the version.
const PREFIX: &str = "kamei1-";
/// Bytes of a secret: 160 bits.
const SECRET: usize = 20;
/// Bytes of the checksum. With these the token is 55 bytes, which base32 writes without bits left over.
const SUM: usize = 3;
/// Letters after the prefix.
const LETTERS: usize = 88;
/// Letters of a secret as text.
const SECRET_LETTERS: usize = 32;
/// More than this is no invitation, whatever it is.
const LONGEST: u64 = 4096;

/// The secret of an invitation: 160 random bits, good for one member. Wiped when dropped, never shown by `Debug`.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; SECRET]>);

/// An invitation as one token: `kamei1-` and 88 letters of base32.
///
/// The letters are 55 bytes: the [`Fingerprint`] of the relay's key (32), the [`Secret`] (20), and the first 3 of the
/// SHA-256 of all before, prefix included. So a mistyped invitation is told apart from one that the relay does not know.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Of the relay's key.
    pub relay: Fingerprint,
    /// What the register has the hash of.
    pub secret: Secret,
}

/// Why a text is no invitation. None of it shows the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvitationError {
    /// Nothing is written.
    #[error("the invitation is empty; `kamei relay invite NAME` on the relay makes one")]
    Empty,
    /// It begins with something else.
    #[error("this is no invitation: one begins with 'kamei1-'")]
    Other,
    /// It is of a version that this kamei does not know.
    #[error("the invitation is of a later kamei (it begins with 'kamei{0}-'); this one knows 'kamei1-'")]
    Newer(u32),
    /// Letters are missing, or too many.
    #[error("the invitation has {0} letters after 'kamei1-' instead of 88; copy it whole")]
    Length(usize),
    /// A letter that cannot be there.
    #[error("the invitation is mistyped: letter {0} after 'kamei1-' is none of a-z and 2-7")]
    Letter(usize),
    /// The checksum is another.
    #[error("the invitation is mistyped: its checksum is wrong; copy it again")]
    Sum,
    /// It could not be read.
    #[error("the invitation cannot be read: {0}")]
    Unreadable(String),
}

impl Secret {
    /// A new one, of the system's random numbers.
    ///
    /// # Errors
    /// The system has none.
    pub fn random() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; SECRET]);
        getrandom::fill(&mut *bytes).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self(bytes))
    }

    /// What is stored of it: SHA-256. A secret of 160 random bits cannot be guessed from that, so no slow hash is needed.
    pub fn hash(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(b"kamei invitation secret\0");
        context.update(&*self.0);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }

    /// The secret itself as 32 letters of base32, to show it to the relay through TLS. [`FromStr`] reads it.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE32.encode(&*self.0))
    }
}

impl PartialEq for Secret {
    /// Compares hashes, so that the time says nothing about the bytes.
    fn eq(&self, other: &Self) -> bool {
        self.hash() == other.hash()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl FromStr for Secret {
    type Err = InvitationError;

    /// Reads what [`Secret::reveal`] writes.
    fn from_str(text: &str) -> Result<Self, InvitationError> {
        let mut secret = Zeroizing::new([0; SECRET]);
        decode(text, SECRET_LETTERS, &mut *secret)?;
        Ok(Self(secret))
    }
}

impl Invitation {
    /// Reads an invitation from a file or standard input: one token, with white space around it.
    ///
    /// # Errors
    /// [`InvitationError`]: it cannot be read, or is none.
    pub fn read(from: &mut dyn Read) -> Result<Self, InvitationError> {
        let unreadable = |error: io::Error| InvitationError::Unreadable(error.to_string());
        // Room for all from the start: a text that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(usize::try_from(LONGEST).unwrap_or(0) + 1));
        let read = from.take(LONGEST + 1).read_to_string(&mut text).map_err(unreadable)?;
        if read as u64 > LONGEST {
            return Err(InvitationError::Other);
        }
        text.parse()
    }
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Zeroizing::new([0; 32 + SECRET + SUM]);
        bytes[..32].copy_from_slice(self.relay.as_bytes());
        bytes[32..32 + SECRET].copy_from_slice(&*self.secret.0);
        let sum = sum(&bytes[..32 + SECRET]);
        bytes[32 + SECRET..].copy_from_slice(&sum);
        f.write_str(PREFIX)?;
        f.write_str(&Zeroizing::new(BASE32.encode(&*bytes)))
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invitation").field("relay", &self.relay).field("secret", &self.secret).finish()
    }
}

impl FromStr for Invitation {
    type Err = InvitationError;

    fn from_str(text: &str) -> Result<Self, InvitationError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvitationError::Empty);
        }
        let letters = after_prefix(text)?;
        let mut bytes = Zeroizing::new([0; 32 + SECRET + SUM]);
        decode(letters, LETTERS, &mut *bytes)?;
        if sum(&bytes[..32 + SECRET]) != bytes[32 + SECRET..] {
            return Err(InvitationError::Sum);
        }
        let (mut relay, mut secret) = ([0; 32], Zeroizing::new([0; SECRET]));
        relay.copy_from_slice(&bytes[..32]);
        secret.copy_from_slice(&bytes[32..32 + SECRET]);
        Ok(Self { relay: Fingerprint::from_bytes(relay), secret: Secret(secret) })
    }
}

/// What follows `kamei1-`, in whatever case that is written.
fn after_prefix(text: &str) -> Result<&str, InvitationError> {
    let (head, letters) = text.split_once('-').ok_or(InvitationError::Other)?;
    let head = head.to_ascii_lowercase();
    let version = head.strip_prefix("kamei").ok_or(InvitationError::Other)?;
    match version.parse() {
        Ok(1) if version == "1" => Ok(letters),
        Ok(version @ 2..) => Err(InvitationError::Newer(version)),
        _ => Err(InvitationError::Other),
    }
}

/// Reads exactly `letters` letters of base32 into `bytes`.
fn decode(text: &str, letters: usize, bytes: &mut [u8]) -> Result<(), InvitationError> {
    let found = text.chars().count();
    if found != letters {
        return Err(InvitationError::Length(found));
    }
    if let Some(at) = text.chars().position(|letter| !letter.is_ascii_alphanumeric() || matches!(letter, '8' | '9')) {
        return Err(InvitationError::Letter(at + 1));
    }
    match BASE32.decode_mut(text.as_bytes(), bytes) {
        Ok(read) if read == bytes.len() => Ok(()),
        Ok(_) => Err(InvitationError::Length(found)),
        Err(partial) => {
            bytes.zeroize();
            Err(InvitationError::Letter(partial.error.position + 1))
        }
    }
}

fn sum(bytes: &[u8]) -> [u8; SUM] {
    let mut context = Context::new(&SHA256);
    context.update(PREFIX.as_bytes());
    context.update(bytes);
    let mut sum = [0; SUM];
    sum.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn invitation() -> Invitation {
        Invitation { relay: Fingerprint::from_bytes([7; 32]), secret: Secret::random().unwrap() }
    }

    #[test]
    fn an_invitation_is_one_token() {
        let invitation = invitation();
        let text = invitation.to_string();
        assert_eq!(text.len(), PREFIX.len() + LETTERS);
        assert!(text[PREFIX.len()..].bytes().all(|letter| letter.is_ascii_alphanumeric()));
        for text in [text.clone(), format!("  {text}\r\n"), text.to_uppercase()] {
            assert_eq!(text.parse(), Ok(invitation.clone()));
            assert_eq!(Invitation::read(&mut text.as_bytes()), Ok(invitation.clone()));
        }
        let secret = invitation.secret.reveal();
        assert_eq!(secret.len(), SECRET_LETTERS);
        assert_eq!(secret.parse(), Ok(invitation.secret));
    }

    #[test]
    fn debug_shows_no_secret() {
        let invitation = invitation();
        let secret = invitation.secret.reveal();
        for shown in [format!("{invitation:?}"), format!("{invitation:#?}"), format!("{:?}", invitation.secret)] {
            assert!(!shown.contains(&**secret) && shown.contains("Secret(…)"), "{shown}");
        }
    }

    #[test]
    fn secrets_and_hashes_differ() {
        let (one, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_ne!(one, other);
        assert_ne!(one.hash(), other.hash());
        assert_eq!(one, one.clone());
    }

    #[test]
    fn a_wrong_invitation_says_what_is_wrong() {
        let good = invitation().to_string();
        let parsed = |text: &str| text.parse::<Invitation>().unwrap_err();
        assert_eq!(parsed(" \n"), InvitationError::Empty);
        assert_eq!(parsed("kamei"), InvitationError::Other);
        assert_eq!(parsed("kamei01-a"), InvitationError::Other);
        assert_eq!(parsed("ssh-ed25519 AAAA"), InvitationError::Other);
        assert_eq!(parsed(&good.replacen('1', "2", 1)), InvitationError::Newer(2));
        assert_eq!(parsed(&good[..good.len() - 3]), InvitationError::Length(85));
        assert_eq!(parsed(&format!("{good}a")), InvitationError::Length(89));
        assert_eq!(parsed(&format!("{}9{}", &good[..16], &good[17..])), InvitationError::Letter(10));
        assert_eq!(parsed(&format!("{}ä{}", &good[..16], &good[17..])), InvitationError::Letter(10));
        let long = vec![b'a'; 10_000];
        assert_eq!(Invitation::read(&mut long.as_slice()), Err(InvitationError::Other));
        assert!(matches!(Invitation::read(&mut &[0xff_u8, 0xfe][..]), Err(InvitationError::Unreadable(_))));
    }

    #[test]
    fn every_mistyped_letter_is_found() {
        // Of one secret, since a sum of 24 bits misses a mistake in 16 million.
        let good = of_secret([5; SECRET]).to_string();
        for at in PREFIX.len()..good.len() {
            for letter in "abcdefghijklmnopqrstuvwxyz234567".chars().filter(|letter| !good[at..].starts_with(*letter)) {
                let mistyped = format!("{}{letter}{}", &good[..at], &good[at + 1..]);
                assert_eq!(mistyped.parse::<Invitation>(), Err(InvitationError::Sum), "letter {at} as {letter}");
            }
        }
    }

    #[test]
    fn no_flipped_bit_passes() {
        let invitation = of_secret([5; SECRET]);
        let good = invitation.to_string();
        for (at, bit) in (0..good.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut text = good.clone().into_bytes();
            text[at] ^= 1_u8 << bit;
            if let Ok(flipped) = std::str::from_utf8(&text).unwrap_or_default().parse::<Invitation>() {
                assert_eq!((&flipped, bit), (&invitation, 5), "bit 5 only makes a capital of a letter");
            }
        }
    }

    fn of_secret(secret: [u8; SECRET]) -> Invitation {
        Invitation { relay: Fingerprint::from_bytes([3; 32]), secret: Secret(Zeroizing::new(secret)) }
    }

    proptest! {
        #[test]
        fn every_invitation_comes_back(relay in any::<[u8; 32]>(), secret in any::<[u8; SECRET]>()) {
            let invitation =
                Invitation { relay: Fingerprint::from_bytes(relay), secret: Secret(Zeroizing::new(secret)) };
            prop_assert_eq!(invitation.to_string().parse(), Ok(invitation));
        }

        #[test]
        fn any_text_is_judged(text in "(kamei[0-9]{0,12}-)?[a-zA-Z0-9ä -]{0,100}|.*") {
            let _ = text.parse::<Invitation>().map_err(|error| error.to_string());
            let _ = text.parse::<Secret>().map_err(|error| error.to_string());
        }
    }
}
