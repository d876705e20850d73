//! The server name that a client says at the beginning of TLS (RFC 6066 §3), read without opening anything.

/// As long as the beginning of TLS may be, records' heads included: those with post-quantum keys are some 2 KB.
pub const LONGEST_HELLO: usize = 16 * 1024;

/// Content type of a record that carries a handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// Type of the message ClientHello (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
/// A record carries no more (RFC 8446 §5.1).
const LONGEST_RECORD: usize = 1 << 14;
/// Extension `server_name`, and its only kind of name (RFC 6066 §3).
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// The beginning of a ClientHello.
    Incomplete,
    /// A ClientHello that names this server, in small letters.
    To(String),
    /// A ClientHello that names none, or no ClientHello.
    Unnamed,
}

/// Reads the first bytes of a connection; more may be there, or still to come.
pub fn read_hello(bytes: &[u8]) -> Hello {
    let Some(message) = handshake(bytes) else { return Hello::Unnamed };
    match message.first_chunk::<4>() {
        Some([kind, ..]) if *kind != CLIENT_HELLO => Hello::Unnamed,
        Some([_, a, b, c]) => {
            let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap_or(usize::MAX);
            match message.get(4..).and_then(|body| body.get(..length)) {
                Some(body) => server_name(body).map_or(Hello::Unnamed, Hello::To),
                None if length > LONGEST_HELLO || bytes.len() >= LONGEST_HELLO => Hello::Unnamed,
                None => Hello::Incomplete,
            }
        }
        None if bytes.len() >= LONGEST_HELLO => Hello::Unnamed,
        None => Hello::Incomplete,
    }
}

/// What the records carry of the handshake, as far as it is there; `None`: they are no records of a handshake.
fn handshake(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    while let Some(kind) = bytes.first() {
        if *kind != HANDSHAKE || bytes.get(1).is_some_and(|major| *major != 3) {
            // Behind the whole message other records may come.
            return is_whole(&message).then_some(message);
        }
        let Some(length) = bytes.get(3..).and_then(number) else { break };
        if length == 0 || length > LONGEST_RECORD {
            return None;
        }
        let body = bytes.get(5..).unwrap_or_default();
        message.extend(body.get(..length).unwrap_or(body));
        bytes = body.get(length..).unwrap_or_default();
    }
    Some(message)
}

fn is_whole(message: &[u8]) -> bool {
    let length = message.first_chunk().map(|[_, a, b, c]| u32::from_be_bytes([0, *a, *b, *c]));
    length.and_then(|length| usize::try_from(length).ok()).is_some_and(|length| message.len() >= 4 + length)
}

/// The name in a ClientHello: version, random, session ID, cipher suites, compression methods, extensions (RFC 8446 §4.1.2).
fn server_name(hello: &[u8]) -> Option<String> {
    let rest = hello.get(2 + 32..)?;
    let rest = rest.get(1 + usize::from(*rest.first()?)..)?;
    let rest = rest.get(2 + number(rest)?..)?;
    let rest = rest.get(1 + usize::from(*rest.first()?)..)?;
    let mut extensions = rest.get(2..2 + number(rest)?)?;
    while !extensions.is_empty() {
        let (kind, length) = (number(extensions)?, number(extensions.get(2..)?)?);
        let body = extensions.get(4..4 + length)?;
        extensions = extensions.get(4 + length..)?;
        if kind == usize::from(SERVER_NAME) {
            let names = body.get(2..2 + number(body)?)?;
            let name = names.get(3..3 + number(names.get(1..)?)?)?;
            let name = str::from_utf8(name).ok().filter(|_| names.first() == Some(&HOST_NAME))?;
            let is_name = !name.is_empty() && name.len() <= 253 && name.bytes().all(|byte| byte.is_ascii_graphic());
            return is_name.then(|| name.to_ascii_lowercase());
        }
    }
    None
}

fn number(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk().map(|bytes| usize::from(u16::from_be_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
    }

    /// A ClientHello with another extension before the name.
    fn message(name: Option<&str>) -> Vec<u8> {
        let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &long(body)].concat();
        let named =
            name.map(|name| extension(SERVER_NAME, &long(&[&[HOST_NAME][..], &long(name.as_bytes())].concat())));
        let extensions = [extension(43, &[2, 3, 4]), named.unwrap_or_default()].concat();
        let body = [&[3, 3][..], &[9; 32], &[2, 7, 7], &long(&[0x13, 1]), &[1, 0], &long(&extensions)].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[CLIENT_HELLO][..], &length[1..], &body].concat()
    }

    /// In records of so many bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &long(part)].concat()).collect()
    }

    #[test]
    fn the_name_is_found_however_the_hello_is_cut() {
        let message = message(Some("Web.Example.org"));
        for size in [1, 3, 40, 10_000] {
            let hello = records(&message, size);
            for end in 0..hello.len() {
                assert_eq!(read_hello(&hello[..end]), Hello::Incomplete, "{size} {end}");
            }
            assert_eq!(read_hello(&hello), Hello::To("web.example.org".to_owned()));
            let more = [&hello[..], &[20, 3, 3, 0, 1, 1]].concat();
            assert_eq!(read_hello(&more), Hello::To("web.example.org".to_owned()), "other records behind it");
        }
    }

    #[test]
    fn what_names_nobody_is_for_the_relay_itself() {
        assert_eq!(read_hello(&records(&message(None), 500)), Hello::Unnamed);
        for name in ["", "a b", "\u{e4}.example"] {
            assert_eq!(read_hello(&records(&message(Some(name)), 500)), Hello::Unnamed, "{name}");
        }
        // HTTP, SSH, SSLv2, an alert, a record without bytes, a ServerHello.
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"SSH-2.0-x",
            &[0x80, 0x2e, 1, 3, 1],
            &[21, 3, 1, 0, 2, 1, 0],
            &[22, 3, 1, 0, 0],
            &[22, 3, 1, 0, 4, 2, 0, 0, 9],
            &[22, 3, 1, 0, 4, 1, 1, 0, 0],
            &[22, 9],
        ] {
            assert_eq!(read_hello(bytes), Hello::Unnamed, "{bytes:?}");
        }
    }

    #[test]
    fn a_hello_without_an_end_is_not_waited_for() {
        let endless = [&[CLIENT_HELLO, 0, 0x3f, 0][..], &[0; LONGEST_HELLO]].concat();
        assert_eq!(read_hello(&records(&endless[..2000], 100)), Hello::Incomplete);
        assert_eq!(read_hello(&records(&endless, 1)[..LONGEST_HELLO]), Hello::Unnamed);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            read_hello(&bytes);
            read_hello(&[&[HANDSHAKE, 3, 1, 1, 0, CLIENT_HELLO, 0][..], &bytes].concat());
        }

        #[test]
        fn a_damaged_hello_is_judged(at in 0usize..90, byte in any::<u8>()) {
            let mut hello = records(&message(Some("web.example.org")), 500);
            let at = at % hello.len();
            hello[at] = byte;
            read_hello(&hello);
        }
    }
}
