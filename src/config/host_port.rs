//! Hosts with ports, as in `relay.example.com:443` and `[2001:db8::1]:443`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A host by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port; never 0.
    pub port: u16,
}

/// What is not a host with a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no HOST:PORT; write it as relay.example.com:443, 192.0.2.1:443 or [2001:db8::1]:443")]
pub struct HostPortError(String);

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let parsed = || {
            let (host, port) = text.rsplit_once(':')?;
            let port =
                port.parse().ok().filter(|parsed| *parsed > 0 && port.bytes().all(|byte| byte.is_ascii_digit()))?;
            let host = match host.strip_prefix('[') {
                Some(host) => host.strip_suffix(']').filter(|host| host.parse::<Ipv6Addr>().is_ok())?,
                None if host.contains(':') => return None,
                None => host,
            };
            // RFC 1123 §2.1; underscores are in names of the real world.
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
            let is_host = (1..=253).contains(&host.len()) && host.bytes().all(fits) && !host.starts_with(['-', '.']);
            is_host.then(|| Self { host: host.to_owned(), port })
        };
        parsed().ok_or_else(|| HostPortError(text.chars().take(300).flat_map(char::escape_default).collect()))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_with_ports_as_people_write_them() {
        for good in ["relay.example.com:443", "10.0.0.5:80", "[2001:db8::1]:22", "db_1:5432"] {
            assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
        }
        for bad in [
            "relay",
            "relay:",
            ":443",
            "relay:0",
            "relay:70000",
            "relay:+1",
            "2001:db8::1:22",
            "[relay]:1",
            "a b:1",
            "-x:1",
        ] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_a_host_or_an_error_of_one_line(text: String) {
            match text.parse::<HostPort>() {
                Ok(parsed) => prop_assert_eq!(parsed.to_string().parse(), Ok(parsed)),
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
        }
    }
}
