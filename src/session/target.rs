//! Whom a client names when it asks a proxy for a connection, and how it proves who it is.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// The longest name (RFC 1035 §2.3.4), and what fits into a byte of length.
const LONGEST_NAME: usize = 255;

/// Whom a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// By name or address.
    pub host: TargetHost,
    /// The port that it says.
    pub port: u16,
}

/// A name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetHost {
    /// An address, also one that was written as a name.
    Address(IpAddr),
    /// A name, in small letters and without the dot of the root at its end.
    Name(String),
}

impl TargetHost {
    /// The host that is written so; `None` if no host can be.
    pub fn read(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?;
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(bare) = bare {
            return bare.parse::<Ipv6Addr>().ok().map(|address| Self::Address(address.into()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Address(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_name =
            !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(|byte| byte.is_ascii_graphic());
        is_name.then(|| Self::Name(name.to_ascii_lowercase()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            TargetHost::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            TargetHost::Address(address) => write!(f, "{address}:{}", self.port),
            TargetHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// A name and the password that goes with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// As it was sent: perhaps nobody's.
    pub name: Vec<u8>,
    /// Shown to nobody.
    pub password: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name.escape_ascii().to_string()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_names() {
        let read = |text: &str| TargetHost::read(text.as_bytes());
        assert_eq!(read("Web.Example.ORG."), Some(TargetHost::Name("web.example.org".to_owned())));
        assert_eq!(read("198.18.0.1"), Some(TargetHost::Address([198, 18, 0, 1].into())));
        for v6 in ["[2001:db8::1]", "2001:db8::1"] {
            assert_eq!(read(v6), Some(TargetHost::Address("2001:db8::1".parse().unwrap())));
        }
        for wrong in ["", ".", "a b", "a\n", "ä", "[a]", "[198.18.0.1]", &"a".repeat(256)] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        let secret = Credentials { name: b"alice".to_vec(), password: b"secret".to_vec() };
        assert!(!format!("{secret:?}").contains("secret"));
    }
}
