//! What a client and a SOCKS5 server say before bytes are carried (RFC 1928, RFC 1929), byte by byte.
//!
//! Each `read_…` is given the first bytes that have come, and says `None` until what it reads is whole; otherwise how many bytes
//! that was.

use super::reason::RefuseReason;
use super::target::{Credentials, Target, TargetHost};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The first byte of a greeting and of a request.
pub const VERSION: u8 = 5;
/// No message of a client is longer: a name and a password, each with its length, and the version.
pub const LONGEST: usize = 1 + 2 * 256;

/// Version of name and password (RFC 1929 §2).
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// A client says what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    /// It begins with another version.
    #[error("version {0} is not SOCKS5's")]
    Version(u8),
    /// Addresses of a kind that SOCKS5 does not have.
    #[error("addresses of kind {0} are unknown")]
    AddressKind(u8),
    /// A name that no host can have.
    #[error("the name is none")]
    Name,
    /// It wants to be called, or to send datagrams.
    #[error("command {0} is not served, CONNECT alone is")]
    Command(u8),
}

/// How a client may prove who it is: those that it offers of the two that are known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Methods {
    /// Not at all.
    pub none: bool,
    /// By name and password.
    pub password: bool,
}

/// What a server chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    /// The client need not say who it is.
    None = 0,
    /// Name and password.
    Password = 2,
    /// Nothing of what the client offers.
    Refused = 0xff,
}

/// Reads the greeting.
///
/// # Errors
/// [`SocksError::Version`].
pub fn read_methods(bytes: &[u8]) -> Result<Option<(Methods, usize)>, SocksError> {
    begins_with(bytes, VERSION)?;
    let Some(offered) = counted(bytes, 1) else { return Ok(None) };
    let offers = |method: Method| offered.contains(&(method as u8));
    let methods = Methods { none: offers(Method::None), password: offers(Method::Password) };
    Ok(Some((methods, 2 + offered.len())))
}

/// Reads name and password.
///
/// # Errors
/// [`SocksError::Version`].
pub fn read_credentials(bytes: &[u8]) -> Result<Option<(Credentials, usize)>, SocksError> {
    begins_with(bytes, PASSWORD_VERSION)?;
    let Some(name) = counted(bytes, 1) else { return Ok(None) };
    let Some(password) = counted(bytes, 2 + name.len()) else { return Ok(None) };
    let length = 3 + name.len() + password.len();
    Ok(Some((Credentials { name: name.to_vec(), password: password.to_vec() }, length)))
}

/// Reads the request for a connection.
///
/// # Errors
/// Whatever cannot be served, once enough has come to say so.
pub fn read_request(bytes: &[u8]) -> Result<Option<(Target, usize)>, SocksError> {
    begins_with(bytes, VERSION)?;
    let Some([_, command, _, kind]) = bytes.first_chunk::<4>() else { return Ok(None) };
    if *command != CONNECT {
        return Err(SocksError::Command(*command));
    }
    let rest = bytes.get(4..).unwrap_or_default();
    let (host, length) = match *kind {
        IPV4 => (rest.first_chunk().map(|v4| TargetHost::Address(Ipv4Addr::from(*v4).into())), 4),
        IPV6 => (rest.first_chunk().map(|v6| TargetHost::Address(Ipv6Addr::from(*v6).into())), 16),
        NAME => match counted(rest, 0) {
            Some(name) => (Some(TargetHost::read(name).ok_or(SocksError::Name)?), 1 + name.len()),
            None => (None, 0),
        },
        other => return Err(SocksError::AddressKind(other)),
    };
    let port = rest.get(length..).and_then(|rest| rest.first_chunk::<2>());
    let (Some(host), Some(port)) = (host, port) else { return Ok(None) };
    Ok(Some((Target { host, port: u16::from_be_bytes(*port) }, 4 + length + 2)))
}

/// The answer to a greeting.
pub const fn methods_reply(method: Method) -> [u8; 2] {
    [VERSION, method as u8]
}

/// The answer to name and password.
pub const fn credentials_reply(is_right: bool) -> [u8; 2] {
    [PASSWORD_VERSION, if is_right { 0 } else { 1 }]
}

/// The answer to a request: how it went, and no address, for the one that calls the server is the agent's.
pub fn request_reply(code: u8) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED.octets();
    [&[VERSION, code, 0, IPV4][..], &none, &[0, 0]].concat()
}

/// It stands.
pub const SUCCEEDED: u8 = 0;

/// How a refusal is told (RFC 1928 §6). No server hears of its cause there beyond what the client's own kernel would say.
pub const fn reply_code(reason: RefuseReason) -> u8 {
    use RefuseReason as Reason;
    match reason {
        Reason::NotAllowed | Reason::NotPermitted | Reason::NotProved => 2,
        Reason::AgentAway => 3,
        Reason::NoServer | Reason::ServerUnreachable => 4,
        Reason::ServerRefused => 5,
        // As servers of SOCKS commonly do: there is no code for it.
        Reason::ServerTimedOut | Reason::AgentSilent | Reason::NoDataChannel => 6,
        _ => 1,
    }
}

/// How a request that cannot be served is told.
pub const fn error_code(error: SocksError) -> u8 {
    match error {
        SocksError::Command(_) => 7,
        SocksError::AddressKind(_) => 8,
        SocksError::Name => 4,
        SocksError::Version(_) => 1,
    }
}

fn begins_with(bytes: &[u8], version: u8) -> Result<(), SocksError> {
    match bytes.first() {
        Some(first) if *first != version => Err(SocksError::Version(*first)),
        _ => Ok(()),
    }
}

/// The bytes behind a length.
fn counted(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(*bytes.get(at)?);
    bytes.get(at + 1..at + 1 + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Read<T> = Result<Option<(T, usize)>, SocksError>;

    /// Read byte by byte: nothing before it is whole, then the same.
    fn bytewise<T: PartialEq + std::fmt::Debug>(read: fn(&[u8]) -> Read<T>, bytes: &[u8]) -> T {
        let (found, length) = read(bytes).unwrap().unwrap();
        for end in 0..length {
            assert_eq!(read(&bytes[..end]), Ok(None), "after {end} bytes");
        }
        assert_eq!(read(&bytes[..length]).unwrap().unwrap().1, length);
        found
    }

    #[test]
    fn a_client_of_socks5_is_read_byte_by_byte() {
        assert_eq!(bytewise(read_methods, &[5, 3, 0, 1, 2, 5]), Methods { none: true, password: true });
        assert_eq!(bytewise(read_methods, &[5, 0, 9]), Methods::default());
        let alice = bytewise(read_credentials, b"\x01\x05alice\x02pw\x05");
        assert_eq!((&alice.name[..], &alice.password[..]), (&b"alice"[..], &b"pw"[..]));
        let named = bytewise(read_request, b"\x05\x01\x00\x03\x03WEB\x00\x50more");
        assert_eq!(named, Target { host: TargetHost::Name("web".to_owned()), port: 80 });
        let v4 = bytewise(read_request, &[5, 1, 0, 1, 198, 18, 0, 1, 0, 22]);
        assert_eq!(v4.to_string(), "198.18.0.1:22");
        let v6 = [&[5, 1, 0, 4][..], &"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets(), &[1, 0]].concat();
        assert_eq!(bytewise(read_request, &v6).to_string(), "[2001:db8::1]:256");
    }

    #[test]
    fn what_cannot_be_served_has_its_code() {
        assert_eq!(read_methods(&[4]), Err(SocksError::Version(4)));
        assert_eq!(read_credentials(&[5]), Err(SocksError::Version(5)));
        for (bytes, code) in [(&[5, 2, 0, 1][..], 7), (&[5, 1, 0, 2], 8), (&[5, 1, 0, 3, 1, b' '], 4)] {
            assert_eq!(read_request(bytes).map_err(error_code), Err(code));
        }
        assert_eq!(request_reply(reply_code(RefuseReason::ServerRefused)), [5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(RefuseReason::ALL.iter().filter(|reason| reply_code(**reason) == SUCCEEDED).count(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..2 * LONGEST)) {
            for length in [
                read_methods(&bytes).map(|read| read.map(|read| read.1)),
                read_credentials(&bytes).map(|read| read.map(|read| read.1)),
                read_request(&bytes).map(|read| read.map(|read| read.1)),
            ] {
                match length {
                    Ok(Some(length)) => prop_assert!(length <= bytes.len() && length <= LONGEST),
                    // What is not whole by then never is.
                    Ok(None) => prop_assert!(bytes.len() < LONGEST),
                    Err(_) => {}
                }
            }
        }
    }
}
