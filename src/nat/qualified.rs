//! How an operator names an address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address, and the inside realm that is meant where several insides have it: `10.0.0.5@north`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qualified {
    /// A terminal or a virtual IP.
    pub address: IpAddr,
    /// Name of the inside realm.
    pub inside: Option<String>,
}

/// Not an address, with or without an inside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither ADDRESS nor ADDRESS@INSIDE")]
pub struct ParseQualifiedError(String);

impl FromStr for Qualified {
    type Err = ParseQualifiedError;

    fn from_str(text: &str) -> Result<Self, ParseQualifiedError> {
        let (address, inside) = match text.split_once('@') {
            Some((address, inside)) => (address, Some(inside)),
            None => (text, None),
        };
        let wrong = || ParseQualifiedError(text.to_owned());
        // It goes into the path of a request as it is.
        let plain =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if inside.is_some_and(|name| !plain(name)) {
            return Err(wrong());
        }
        Ok(Self { address: address.parse().map_err(|_| wrong())?, inside: inside.map(str::to_owned) })
    }
}

impl fmt::Display for Qualified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inside {
            Some(inside) => write!(f, "{}@{inside}", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

impl From<IpAddr> for Qualified {
    fn from(address: IpAddr) -> Self {
        Self { address, inside: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_name_its_inside() {
        for good in ["10.0.0.5", "10.0.0.5@north", "fd00::1@south-2"] {
            assert_eq!(good.parse::<Qualified>().map(|named| named.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "@", "10.0.0.5@", "north@10.0.0.5", "10.0.0.5@a/b", "10.0.0.5@a@b", "10.0.0"] {
            assert!(bad.parse::<Qualified>().is_err(), "{bad}");
        }
    }
}
