//! FTP (RFC 959, RFC 2428): PORT, EPRT and the replies 227 and 229 name the address of a data connection.
//!
//! Only the sender's own address is written over, for ports are never changed. Any other address, and a port below
//! 1024, is refused: with them one host could have another one connect to a third (RFC 2577 §3).

use super::helper::{ConnectionEnd, Helper, Look, Memory, Speaker};
use std::net::IpAddr;
use std::ops::Range;

/// The longest line that may name an address; a sensible one has about a hundred characters.
const MOST_LINE: usize = 512;
/// The least port of a data connection (RFC 2577 §3).
const LEAST_PORT: u16 = 1024;

/// In the middle of a line that names no address.
const IN_LINE: Memory = Memory(1);

/// The helper for FTP.
pub struct Ftp;

/// An address in a line, and where it stands.
struct Announced {
    place: Range<usize>,
    address: IpAddr,
    port: u16,
}

/// What a line that begins like one that names an address turns out to be.
enum Line {
    /// Names one.
    Address(Announced),
    /// Names a port alone.
    Port(u16),
    /// What follows is encrypted: the server agrees to AUTH (RFC 4217 §4).
    Encrypted,
    /// Nothing that could be understood.
    Unclear,
}

type Reader = fn(&[u8]) -> Line;

const COMMANDS: &[(&[u8], Reader)] = &[(b"PORT ", port), (b"EPRT ", extended)];
const REPLIES: &[(&[u8], Reader)] = &[(b"227 ", passive), (b"229 ", extended_passive), (b"234 ", |_| Line::Encrypted)];

impl Helper for Ftp {
    fn look(&self, memory: &mut Memory, from: ConnectionEnd, text: &[u8], last: bool, ends: &Speaker) -> Look {
        let newline = text.iter().position(|byte| *byte == b'\n');
        let count = newline.map_or(text.len(), |at| at + 1);
        let in_line = *memory == IN_LINE;
        let mut pass = |count| {
            *memory = if newline.is_some() { Memory::default() } else { IN_LINE };
            Look::Pass(count)
        };
        if in_line {
            return pass(count);
        }
        let line = text.get(..newline.unwrap_or(text.len())).unwrap_or_default();
        let starts = if from == ConnectionEnd::Client { COMMANDS } else { REPLIES };
        let Some((start, reader)) = starts.iter().find(|(start, _)| begins_alike(line, start)) else {
            return pass(count);
        };
        if newline.is_none() && !last {
            return if line.len() > MOST_LINE { Look::Refuse } else { Look::More };
        }
        let Some(rest) = line.get(start.len()..) else { return pass(count) };
        let is_own = |address: IpAddr| address == IpAddr::from(ends.own);
        match reader(rest) {
            Line::Encrypted => Look::Opaque,
            Line::Unclear if from == ConnectionEnd::Client => Look::Refuse,
            Line::Unclear => pass(count),
            // A peer's reply leads the terminal to wherever the peer says; it is for the terminal to judge.
            Line::Address(_) | Line::Port(_) if from == ConnectionEnd::Server && ends.own == ends.shown => pass(count),
            Line::Address(Announced { port, .. }) | Line::Port(port) if port < LEAST_PORT => Look::Refuse,
            Line::Port(_) => pass(count),
            // Some know their virtual IP and announce it themselves.
            Line::Address(Announced { address, .. }) if address == IpAddr::from(ends.shown) => pass(count),
            Line::Address(Announced { address, .. }) if !is_own(address) => Look::Refuse,
            Line::Address(Announced { place, .. }) => {
                let _ = pass(count);
                let shown = IpAddr::from(ends.shown).to_string();
                let commas = !matches!(*start, b"EPRT " | b"229 ");
                let text = if commas { shown.replace('.', ",") } else { shown };
                let place = place.start + start.len()..place.end + start.len();
                Look::Write { place, text: text.into_bytes().into(), count }
            }
        }
    }
}

/// Whether `line` begins with `start`, in upper or lower case, or may still come to do so.
fn begins_alike(line: &[u8], start: &[u8]) -> bool {
    let common = line.len().min(start.len());
    line.get(..common).zip(start.get(..common)).is_some_and(|(line, start)| line.eq_ignore_ascii_case(start))
}

/// `h1,h2,h3,h4,p1,p2`
fn port(rest: &[u8]) -> Line {
    six_numbers(rest.trim_ascii_end(), 0).map_or(Line::Unclear, Line::Address)
}

/// Words, and `h1,h2,h3,h4,p1,p2` somewhere among them, mostly in parentheses (RFC 1123 §4.1.2.6).
fn passive(rest: &[u8]) -> Line {
    let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b',';
    let mut at = 0;
    for run in rest.split(|byte| !is_part(byte)) {
        if let Some(found) = six_numbers(run, at) {
            return Line::Address(found);
        }
        at += run.len() + 1;
    }
    Line::Unclear
}

/// `|1|10.0.0.5|6446|` or `|2|2001:db8::5|6446|`, with any delimiter (RFC 2428 §2).
fn extended(rest: &[u8]) -> Line {
    let rest = rest.trim_ascii_end();
    fields(rest).and_then(|[_, address, port]| announced(rest, address, port)).map_or(Line::Unclear, Line::Address)
}

/// Words and `(|||6446|)` (RFC 2428 §3).
fn extended_passive(rest: &[u8]) -> Line {
    let inside = rest.iter().position(|byte| *byte == b'(').zip(rest.iter().rposition(|byte| *byte == b')'));
    let Some((open, text)) = inside.and_then(|(open, close)| Some((open + 1, rest.get(open + 1..close)?))) else {
        return Line::Unclear;
    };
    let Some([_, address, port]) = fields(text) else { return Line::Unclear };
    if address.is_empty() {
        return text.get(port).and_then(number).map_or(Line::Unclear, Line::Port);
    }
    match announced(text, address, port) {
        Some(Announced { place, address, port }) => {
            Line::Address(Announced { place: place.start + open..place.end + open, address, port })
        }
        None => Line::Unclear,
    }
}

/// Where the three fields of a text are that its first character separates and ends with.
fn fields(text: &[u8]) -> Option<[Range<usize>; 3]> {
    let delimiter = text.first()?;
    let mut marks = text.iter().enumerate().filter(|(_, byte)| *byte == delimiter).map(|(at, _)| at);
    let marks = [marks.next()?, marks.next()?, marks.next()?, marks.next()?];
    let [first, second, third, fourth] = marks;
    Some([first + 1..second, second + 1..third, third + 1..fourth])
}

fn announced(text: &[u8], address: Range<usize>, port: Range<usize>) -> Option<Announced> {
    let parsed = std::str::from_utf8(text.get(address.clone())?).ok()?.parse().ok()?;
    Some(Announced { place: address, address: parsed, port: number(text.get(port)?)? })
}

/// Reads `h1,h2,h3,h4,p1,p2`, which begins at `at` of the line's rest.
fn six_numbers(text: &[u8], at: usize) -> Option<Announced> {
    let skipped = text.len() - text.trim_ascii_start().len();
    let text = text.get(skipped..)?;
    let mut parts = text.split(|byte| *byte == b',');
    let mut end = skipped + at;
    let mut byte = || {
        let part = parts.next()?;
        end += part.len() + 1;
        Some((u8::try_from(number(part)?).ok()?, end - 1))
    };
    let (a, b, c, (d, address_end)) = (byte()?.0, byte()?.0, byte()?.0, byte()?);
    let port = u16::from_be_bytes([byte()?.0, byte()?.0]);
    parts.next().is_none().then_some(Announced {
        place: skipped + at..address_end,
        address: IpAddr::from([a, b, c, d]),
        port,
    })
}

fn number(digits: &[u8]) -> Option<u16> {
    let is_number = !digits.is_empty() && digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests;
