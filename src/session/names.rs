//! Names of servers, and what can be published under them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest name, in bytes (RFC 1035, section 2.3.4).
const LONGEST: usize = 63;

/// Why a name is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is written.
    #[error("a name is missing; it has 1 to 63 of a-z, 0-9 and '-'")]
    Empty,
    /// It has more than 63 bytes.
    #[error("the name '{start}…' has {bytes} bytes; 63 are the most")]
    Long {
        /// How it begins.
        start: String,
        /// Its length.
        bytes: usize,
    },
    /// It has something else than a-z, 0-9 and `-`.
    #[error("the name {name:?} has {letter:?}; only a-z, 0-9 and '-' can be in it")]
    Letter {
        /// The name.
        name: String,
        /// The first wrong letter.
        letter: char,
    },
    /// It begins or ends with `-`.
    #[error("the name '{0}' begins or ends with '-'; a letter or digit must be there")]
    Hyphen(String),
    /// It could be an address.
    #[error("the name '{0}' has digits only, which clients take for an IPv4 address; put a letter into it")]
    Number(String),
}

/// `name`, if members and servers can be called so: 1 to 63 of `a-z`, `0-9` and `-`, neither begun nor ended by `-`.
///
/// Clients write names where host names stand (TLS server name, SOCKS5, HTTP CONNECT), so a name is a DNS label
/// (RFC 1123, section 2.1). One of digits alone is refused: URL parsers and `inet_aton` read it as an IPv4 address.
///
/// # Errors
/// [`NameError`] with the first thing that is wrong.
pub fn checked_name(name: &str) -> Result<&str, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > LONGEST {
        return Err(NameError::Long { start: name.chars().take(20).collect(), bytes: name.len() });
    }
    let is_good = |letter: &char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || *letter == '-';
    if let Some(letter) = name.chars().find(|letter| !is_good(letter)) {
        return Err(NameError::Letter { name: name.to_owned(), letter });
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(NameError::Hyphen(name.to_owned()));
    }
    if name.bytes().all(|letter| letter.is_ascii_digit()) {
        return Err(NameError::Number(name.to_owned()));
    }
    Ok(name)
}

/// The name of a server or an agent: a DNS label (RFC 1123 §2.1) in lower case, since clients write it into TLS server names,
/// SOCKS5 and CONNECT.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

impl Name {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        checked_name(text).map(|name| Self(name.into()))
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a server speaks; on the wire the number of the IP protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A stream of bytes.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    /// The number of the IP protocol.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The transport of this number.
    pub const fn of_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A server that an agent publishes. An agent has one of each name and transport.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Published {
    /// Its name.
    pub name: Name,
    /// What it speaks.
    pub transport: Transport,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => write!(f, "{}", self.name),
            Transport::Udp => write!(f, "{}/udp", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_dns_labels() {
        for name in ["a", "web-1", "1a", "0x", &"a".repeat(63)] {
            assert_eq!(checked_name(name), Ok(name));
        }
        assert_eq!(checked_name(""), Err(NameError::Empty));
        assert!(matches!(checked_name(&"a".repeat(64)), Err(NameError::Long { bytes: 64, .. })));
        assert!(matches!(checked_name(&"ä".repeat(40)), Err(NameError::Long { bytes: 80, .. })));
        for (name, letter) in [("Web", 'W'), ("a.b", '.'), ("a b", ' '), ("a\n", '\n'), ("ä", 'ä'), ("a_b", '_')] {
            assert_eq!(checked_name(name), Err(NameError::Letter { name: name.to_owned(), letter }));
        }
        for name in ["-a", "a-", "-"] {
            assert_eq!(checked_name(name), Err(NameError::Hyphen(name.to_owned())));
        }
        assert_eq!(checked_name("127"), Err(NameError::Number("127".to_owned())));
        assert!(!checked_name("a\u{1b}[0m").unwrap_err().to_string().contains('\u{1b}'));
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in any::<String>()) {
            let _ = checked_name(&text).map_err(|error| error.to_string());
        }
    }
}
