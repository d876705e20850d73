//! A proxy that an agent passes on its way to the relay.

use super::HostPort;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// What the proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViaKind {
    /// HTTP CONNECT (RFC 9110 §9.3.6), in the clear up to the proxy.
    Http,
    /// SOCKS5 (RFC 1928), which resolves the relay's name.
    Socks5,
}

/// A proxy, as in `http://user:password@proxy.example.com:3128` and `socks5://proxy.example.com:1080`.
#[derive(Clone, PartialEq, Eq)]
pub struct Via {
    /// What it speaks.
    pub kind: ViaKind,
    /// Where it is.
    pub proxy: HostPort,
    /// A name and a password, in the clear (RFC 7617, RFC 1929).
    pub user: Option<(String, String)>,
}

/// What is not a proxy. The text is not repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no proxy; write it as http://proxy.example.com:3128 or socks5://user:password@proxy.example.com:1080")]
pub struct ViaError;

impl FromStr for Via {
    type Err = ViaError;

    fn from_str(text: &str) -> Result<Self, ViaError> {
        let (scheme, rest) = text.split_once("://").ok_or(ViaError)?;
        let kind = match scheme {
            "http" => ViaKind::Http,
            "socks5" => ViaKind::Socks5,
            _ => return Err(ViaError),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, proxy) = match rest.rsplit_once('@') {
            Some((user, proxy)) => (Some(credentials(user)?), proxy),
            None => (None, rest),
        };
        Ok(Self { kind, proxy: proxy.parse().map_err(|_| ViaError)?, user })
    }
}

/// A name and a password, percent-encoded or not (RFC 3986 §2.1); neither may be longer than RFC 1929 has room for, or break the
/// line of a header.
fn credentials(text: &str) -> Result<(String, String), ViaError> {
    let (user, password) = text.split_once(':').ok_or(ViaError)?;
    let decode = |text| percent_decode_str(text).decode_utf8().map(Cow::into_owned).map_err(|_| ViaError);
    let (user, password) = (decode(user)?, decode(password)?);
    let fits = |text: &str| (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
    // Behind the first colon, the password begins (RFC 7617 §2).
    if fits(&user) && fits(&password) && !user.contains(':') { Ok((user, password)) } else { Err(ViaError) }
}

/// Without the password.
impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            ViaKind::Http => "http",
            ViaKind::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", self.proxy)
    }
}

impl fmt::Debug for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn proxies_as_people_write_them() {
        let via: Via = "http://alice:s3c@ret@proxy.example.com:3128/".parse().unwrap();
        assert_eq!((via.kind, via.proxy.port), (ViaKind::Http, 3128));
        assert_eq!(via.user, Some(("alice".to_owned(), "s3c@ret".to_owned())));
        let encoded: Via = "http://al%40ice:s3c%40ret%25:50%off@proxy.example.com:3128".parse().unwrap();
        assert_eq!(encoded.user, Some(("al@ice".to_owned(), "s3c@ret%:50%off".to_owned())));
        assert_eq!(format!("{via} {via:?}"), "http://proxy.example.com:3128 http://proxy.example.com:3128");
        assert_eq!("socks5://[2001:db8::1]:1080".parse::<Via>().unwrap().kind, ViaKind::Socks5);
        for bad in [
            "proxy:3128",
            "https://proxy:3128",
            "http://proxy",
            "http://alice@proxy:1",
            "http://a:\n@proxy:1",
            "http://a:%0a@proxy:1",
            "http://a:%ff@proxy:1",
            "http://a%3ab:c@proxy:1",
            "socks5://:@p:1",
        ] {
            assert_eq!(bad.parse::<Via>(), Err(ViaError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_a_proxy_or_an_error(text: String) {
            let _ = text.parse::<Via>();
            let _ = format!("http://{text}").parse::<Via>();
        }
    }
}
