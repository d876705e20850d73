//! What a client asks of an HTTP proxy (RFC 9110 §9.3.6), and what it is told.

use super::reason::RefuseReason;
use super::target::{Credentials, Target, TargetHost};
use data_encoding::BASE64;

/// The longest request, all its fields included.
pub const LONGEST: usize = 8 * 1024;
/// Fields of a request.
const MOST_FIELDS: usize = 64;

/// A request for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Whom the client asks for.
    pub target: Target,
    /// Who it says that it is.
    pub credentials: Option<Credentials>,
}

/// Why a request is none for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Another method than CONNECT.
    #[error("this proxy takes CONNECT alone; curl says that with --proxytunnel, and --proxy socks5h://… works as well")]
    Method,
    /// No HTTP/1.1, or no host and port.
    #[error("the request cannot be read")]
    Malformed,
    /// Longer than [`LONGEST`].
    #[error("the request is too long")]
    Long,
}

impl ConnectError {
    /// The status that says so.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Method => "405 Method Not Allowed",
            Self::Malformed => "400 Bad Request",
            Self::Long => "431 Request Header Fields Too Large",
        }
    }
}

/// Reads the first bytes of a connection: the request and how long it is, or `None` until it is whole.
///
/// # Errors
/// [`ConnectError`].
pub fn read_connect(bytes: &[u8]) -> Result<Option<(ConnectRequest, usize)>, ConnectError> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= LONGEST => return Err(ConnectError::Long),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(ConnectError::Long),
        Err(_) => return Err(ConnectError::Malformed),
    };
    if request.method != Some("CONNECT") {
        return Err(ConnectError::Method);
    }
    let target = request.path.and_then(target).ok_or(ConnectError::Malformed)?;
    let proof = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case("proxy-authorization"));
    Ok(Some((ConnectRequest { target, credentials: proof.and_then(|field| credentials(field.value)) }, length)))
}

/// Host and port (RFC 9110 §7.1, "authority form").
fn target(text: &str) -> Option<Target> {
    let (host, port) = text.rsplit_once(':')?;
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    // An IPv6 address stands in brackets.
    let is_host = !host.contains(':') || host.starts_with('[');
    let port = port.parse().ok().filter(|_| is_number && is_host)?;
    Some(Target { host: TargetHost::read(host.as_bytes())?, port })
}

/// Name and password (RFC 7617).
fn credentials(value: &[u8]) -> Option<Credentials> {
    let (scheme, encoded) = value.split_at_checked(value.iter().position(|byte| *byte == b' ')?)?;
    let decoded = BASE64.decode(encoded.trim_ascii()).ok().filter(|_| scheme.eq_ignore_ascii_case(b"basic"))?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(Credentials { name: decoded.get(..colon)?.to_vec(), password: decoded.get(colon + 1..)?.to_vec() })
}

/// The answer to a request that is granted; bytes follow (RFC 9110 §9.3.6).
pub const GRANTED: &str = "HTTP/1.1 200 OK\r\n\r\n";

/// The answer to a request that is none.
pub fn error_reply(error: ConnectError) -> String {
    reply(error.status(), if error == ConnectError::Method { "Allow: CONNECT\r\n" } else { "" }, &error.to_string())
}

/// The answer to a request that is refused, with the cause for programs (RFC 9209).
pub fn refusal_reply(reason: RefuseReason) -> String {
    use RefuseReason as Reason;
    let (status, error) = match reason {
        Reason::NotProved => {
            let asks = "Proxy-Authenticate: Basic realm=\"kamei\", charset=\"UTF-8\"\r\n";
            return reply("407 Proxy Authentication Required", asks, reason.explain());
        }
        Reason::NotAllowed | Reason::NotPermitted => ("403 Forbidden", "http_request_denied"),
        Reason::NoServer => ("404 Not Found", "destination_not_found"),
        Reason::ServerRefused => ("502 Bad Gateway", "connection_refused"),
        Reason::ServerUnreachable => ("502 Bad Gateway", "destination_ip_unroutable"),
        Reason::ServerTimedOut | Reason::AgentSilent | Reason::NoDataChannel => {
            ("504 Gateway Timeout", "connection_timeout")
        }
        Reason::AgentAway => ("503 Service Unavailable", "destination_unavailable"),
        Reason::ServerFull | Reason::AgentFull | Reason::ClientFull | Reason::RelayFull => {
            ("503 Service Unavailable", "connection_limit_reached")
        }
        _ => ("502 Bad Gateway", "proxy_internal_error"),
    };
    let fields = format!("Proxy-Status: kamei; error={error}; details=\"{}\"\r\n", reason.name());
    reply(status, &fields, reason.explain())
}

fn reply(status: &str, fields: &str, text: &str) -> String {
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: \
         close\r\n\r\n{text}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_for_a_connection_is_read_byte_by_byte() {
        let text = b"CONNECT Web:80 HTTP/1.1\r\nHost: web:80\r\nproxy-authorization: basic  YWxpY2U6cDp3\r\n\r\nmore";
        let (request, length) = read_connect(text).unwrap().unwrap();
        assert_eq!((&text[length..], request.target.to_string()), (&b"more"[..], "web:80".to_owned()));
        let alice = request.credentials.unwrap();
        assert_eq!((&alice.name[..], &alice.password[..]), (&b"alice"[..], &b"p:w"[..]));
        for end in 0..length {
            assert_eq!(read_connect(&text[..end]), Ok(None), "after {end} bytes");
        }
        let (request, _) = read_connect(b"CONNECT [2001:db8::1]:443 HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert_eq!((request.target.to_string(), request.credentials), ("[2001:db8::1]:443".to_owned(), None));
    }

    #[test]
    fn what_is_no_request_for_a_connection_has_its_status() {
        let judged = |text: &str| read_connect(text.as_bytes()).unwrap_err();
        assert_eq!(judged("GET http://web/ HTTP/1.1\r\n\r\n"), ConnectError::Method);
        for wrong in ["web", "web:", ":80", "web:+80", "web:65536", "2001:db8::1:80", "a@web:x", "/:80"] {
            let judged = read_connect(format!("CONNECT {wrong} HTTP/1.1\r\n\r\n").as_bytes());
            assert!(judged == Err(ConnectError::Malformed) || wrong == "/:80", "{wrong}: {judged:?}");
        }
        assert_eq!(judged(&format!("CONNECT web:80 HTTP/1.1\r\nA: {}", "a".repeat(LONGEST))), ConnectError::Long);
        assert_eq!(judged(&format!("CONNECT web:80 HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65))), ConnectError::Long);
        assert_eq!(judged("\u{5}\u{1}\u{0}"), ConnectError::Malformed);
        for reason in RefuseReason::ALL {
            let reply = refusal_reply(*reason);
            let mut fields = [httparse::EMPTY_HEADER; 8];
            let mut response = httparse::Response::new(&mut fields);
            let length = response.parse(reply.as_bytes()).unwrap().unwrap();
            assert!(response.code >= Some(400), "{reply}");
            let told = response.headers.iter().find(|field| field.name == "Content-Length").unwrap();
            assert_eq!(str::from_utf8(told.value).unwrap(), (reply.len() - length).to_string());
        }
        assert!(refusal_reply(RefuseReason::NotProved).contains("407"));
    }

    proptest! {
        #[test]
        fn any_request_is_judged(
            head in prop_oneof![Just(String::new()), Just("CONNECT ".to_owned())],
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [head.as_bytes(), &bytes].concat();
            if let Ok(Some((_, length))) = read_connect(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
