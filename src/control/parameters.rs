//! The parameters of a request: keys and values, percent-encoded (RFC 3986 §2.1).

use super::refusal::{Refusal, bad};

/// The keys of a query and their values, decoded.
pub fn pairs(query: &str) -> impl Iterator<Item = Result<(&str, String), Refusal>> {
    query.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = decode(value).ok_or_else(|| bad(format!("{key} is not properly percent-encoded")))?;
        Ok((key, value))
    })
}

/// Undoes percent-encoding (RFC 3986 §2.1).
pub fn decode(text: &str) -> Option<String> {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        rest = behind;
        let [high, low] = [digits.first()?, digits.last()?].map(|digit| char::from(*digit).to_digit(16));
        decoded.push(u8::try_from(high? * 16 + low?).ok()?);
    }
    String::from_utf8(decoded).ok()
}

/// Percent-encodes what a path or a query cannot carry.
pub fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
