//! The few blocks of pcapng that a capture needs (draft-ietf-opsawg-pcapng-02), in the byte order of this machine.

use super::tap::{Kept, Sighting};
use crate::nat::{Event, EventKind, Nat, Realm};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// `LINKTYPE_RAW`: the packet begins with its IP header.
const RAW_IP: u16 = 101;

const END: u16 = 0;
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const PACKET_FLAGS: u16 = 2;
const DROPPED: u16 = 5;
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// The longest text an option can hold, and still be sure to fit a block.
const LONGEST_TEXT: usize = 1024;

/// What every capture starts with: interface 0 is the outside, then comes each inside.
pub fn begin(nat: &Nat, snap: usize, out: &mut Vec<u8>) {
    block(out, SECTION_HEADER, |out| {
        word(out, BYTE_ORDER);
        half(out, 1); // version 1.0
        half(out, 0);
        out.extend(u64::MAX.to_ne_bytes()); // length of the section: not known
        option(out, APPLICATION, concat!("kamei ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(out, END, &[]);
    });
    for name in std::iter::once("outside").chain(nat.inside_names()) {
        block(out, INTERFACE_DESCRIPTION, |out| {
            half(out, RAW_IP);
            half(out, 0);
            word(out, u32::try_from(snap).unwrap_or(0));
            option(out, INTERFACE_NAME, name.as_bytes());
            option(out, END, &[]);
        });
    }
}

/// Both sides of a translation: what came, with a comment on what became of it, and what went on.
pub fn write(nat: &Nat, seen: &Sighting, out: &mut Vec<u8>) {
    let mut comment = match (seen.reason, seen.to) {
        (Some(reason), _) => format!("dropped, {}: {}", reason.name(), reason.explain()),
        (None, Some(to)) if seen.after.is_empty() => format!("held back on its way {}", nat.realm_name(to)),
        (None, Some(to)) => format!("translated, to {}", nat.realm_name(to)),
        (None, None) => "not translated".to_owned(),
    };
    if let Some(event) = seen.event {
        comment = format!("{comment}; {}", said(&event));
    }
    packet(seen, (seen.from, INBOUND), &seen.before, &comment, out);
    for after in &seen.after {
        let comment = format!("from {}", nat.realm_name(seen.from));
        packet(seen, (seen.to.unwrap_or(seen.from), OUTBOUND), after, &comment, out);
    }
}

/// How many packets there were too many so far, as the statistics of an interface have it.
pub fn write_left_out(left_out: u64, out: &mut Vec<u8>) {
    block(out, INTERFACE_STATISTICS, |out| {
        [0; 3].into_iter().for_each(|value| word(out, value)); // of interface 0, at no special time
        option(out, DROPPED, &left_out.to_ne_bytes());
        option(out, END, &[]);
    });
}

fn said(event: &Event) -> &'static str {
    match event.kind {
        EventKind::Created => "binding made",
        EventKind::Woken => "binding woken",
        EventKind::Unrecorded => "binding not on record yet",
        EventKind::Contacted => "contact not on record yet",
        _ => "binding refused",
    }
}

fn packet(seen: &Sighting, (realm, direction): (Realm, u32), kept: &Kept, comment: &str, out: &mut Vec<u8>) {
    // Microseconds unless an interface says otherwise.
    let at = seen.at.as_micros();
    block(out, ENHANCED_PACKET, |out| {
        word(out, realm.number()); // the interfaces, in their order
        #[allow(clippy::cast_possible_truncation, reason = "the format wants both halves")]
        [(at >> 32) as u32, at as u32].into_iter().for_each(|half| word(out, half));
        word(out, u32::try_from(kept.bytes.len()).unwrap_or(u32::MAX));
        word(out, u32::try_from(kept.length).unwrap_or(u32::MAX));
        padded(out, &kept.bytes);
        option(out, COMMENT, comment.as_bytes());
        option(out, PACKET_FLAGS, &direction.to_ne_bytes());
        option(out, END, &[]);
    });
}

/// A block: type, length, what is in it, length again.
fn block(out: &mut Vec<u8>, kind: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    word(out, kind);
    word(out, 0);
    fill(out);
    let length = u32::try_from(out.len() + 4 - start).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start + 4..start + 8) {
        place.copy_from_slice(&length.to_ne_bytes());
    }
    word(out, length);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..LONGEST_TEXT).unwrap_or(value);
    half(out, code);
    half(out, u16::try_from(value.len()).unwrap_or(0));
    padded(out, value);
}

fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn word(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_ne_bytes());
}

fn half(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_ne_bytes());
}
