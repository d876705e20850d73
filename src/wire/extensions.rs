//! What follows the quote of an ICMP error (RFC 4884): objects that describe an interface of the router that speaks, with
//! its address, index, name and MTU (RFC 5837).

use super::{Delta, Headers, Stored, checksum, mend};

/// Where the message says how long its quote is, and in which unit, by type (RFC 4884 §4).
const V4: &[(u8, usize, usize)] = &[(3, 5, 4), (11, 5, 4), (12, 5, 4)];
const V6: &[(u8, usize, usize)] = &[(1, 4, 8), (3, 4, 8)];
/// Length of the ICMP header.
const HEADER: usize = 8;
/// Of the quote where its sender says nothing: as it was before RFC 4884 (its §5.5).
const OLD_QUOTE: usize = 128;
/// Of the extension's header, and of an object's.
const WORD: usize = 4;
/// Class "interface information".
const INTERFACE: u8 = 2;
/// Which of its kind an object is about (incoming, outgoing…); the other bits of the type say what is in it.
const ROLE: u8 = 0xf0;

/// Blanks what an ICMP error says of interfaces. Returns what this changed in the sum of all bytes.
pub(crate) fn blank_interfaces(bytes: &mut [u8], headers: &Headers) -> Delta {
    blank(bytes, headers).unwrap_or(Delta::NONE)
}

/// `None` if there is no extension.
fn blank(bytes: &mut [u8], headers: &Headers) -> Option<Delta> {
    let message = bytes.get_mut(headers.transport..headers.end)?;
    let kinds = if headers.source.is_v4() { V4 } else { V6 };
    let (_, at, unit) = kinds.iter().find(|(kind, ..)| message.first() == Some(kind))?;
    let said = usize::from(*message.get(*at)?) * unit;
    let extension = message.get_mut(HEADER + if said == 0 { OLD_QUOTE } else { said }..)?;
    let [version, _, c0, c1] = *extension.first_chunk()?;
    // Without a length it may be more of the quote: then a checksum tells.
    if version >> 4 != 2 || (said == 0 && ([c0, c1] == [0, 0] || checksum(0, extension) != 0)) {
        return None;
    }
    let mut changed = Delta::NONE;
    let mut next = WORD;
    while let Some(&[l0, l1, class, kind]) = extension.get(next..).and_then(|rest| rest.first_chunk()) {
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if length < WORD {
            break;
        }
        let end = extension.len().min(next + length.next_multiple_of(WORD));
        if class == INTERFACE {
            changed = changed.and(zero(extension.get_mut(next + WORD..end)?));
            *extension.get_mut(next + WORD - 1)? = kind & ROLE;
            changed = changed.and(Delta::of_word(kind.into(), (kind & ROLE).into()));
        }
        next = end;
    }
    Some(changed.and(mend(extension, 2, changed, Stored::FullOrNone)))
}

fn zero(bytes: &mut [u8]) -> Delta {
    // The sum of what is taken away, as if it were one word.
    let delta = Delta::of_word(!checksum(0, bytes), 0);
    bytes.fill(0);
    delta
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Headers;
    use proptest::prelude::*;

    /// An IPv4 "time exceeded" from 10.0.0.200 with a quote of `quoted` bytes, of which it says `said`, and an extension.
    fn error(quoted: usize, said: u8, objects: &[u8]) -> Vec<u8> {
        let mut extension = [&[0x20, 0, 0, 0][..], objects].concat();
        let sum = checksum(0, &extension).to_be_bytes();
        extension[2..4].copy_from_slice(&sum);
        let mut quote = vec![0; quoted];
        quote[..12].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0]);
        let mut icmp = [&[11, 0, 0, 0, 0, said, 0, 0][..], &quote, &extension].concat();
        let sum = checksum(0, &icmp).to_be_bytes();
        icmp[2..4].copy_from_slice(&sum);
        let length = u16::try_from(20 + icmp.len()).unwrap().to_be_bytes();
        let ip = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 200, 203, 0, 113, 11];
        [&ip[..], &icmp].concat()
    }

    /// Incoming interface with an address; then an MPLS label stack (RFC 4950).
    const OBJECTS: [u8; 20] = [0, 12, 2, 0x04, 0, 1, 0, 0, 10, 0, 0, 200, 0, 8, 1, 1, 0x00, 0x3e, 0x81, 0x01];

    fn blanked(mut bytes: Vec<u8>) -> Vec<u8> {
        let headers = Headers::parse(&bytes).unwrap();
        let changed = blank_interfaces(&mut bytes, &headers);
        mend(&mut bytes, headers.transport + 2, changed, Stored::Full);
        bytes
    }

    #[test]
    fn an_interface_is_blanked_and_the_rest_stays() {
        let wanted = [0, 12, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 1, 1, 0x00, 0x3e, 0x81, 0x01];
        for said in [32, 0] {
            assert_eq!(blanked(error(128, said, &OBJECTS)), error(128, said, &wanted), "length {said}");
        }
    }

    #[test]
    fn more_of_the_quote_is_no_extension() {
        let mut bytes = error(128, 0, &OBJECTS);
        bytes[20 + 8 + 128 + 2] ^= 1; // its checksum
        assert_eq!(blanked(bytes.clone()), bytes);
    }

    #[test]
    fn lengths_that_lie_are_survived() {
        for (at, lie) in [(1, 3), (1, 0), (0, 0xff), (13, 2)] {
            let mut objects = OBJECTS;
            objects[at] = lie;
            blanked(error(128, 32, &objects));
        }
        blanked(error(64, 255, &OBJECTS));
    }

    proptest! {
        #[test]
        fn checksums_stay_right(objects in prop::collection::vec(any::<u8>(), 0..25).prop_map(|words| words.repeat(4))) {
            let mut objects = objects;
            if let Some(start) = objects.first_chunk_mut::<4>() {
                *start = [0, 8, INTERFACE, 0xff];
            }
            let bytes = blanked(error(128, 32, &objects));
            prop_assert_eq!(checksum(0, &bytes[20..]), 0);
            prop_assert_eq!(checksum(0, &bytes[20 + 8 + 128..]), 0);
        }
    }
}
