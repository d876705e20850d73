//! The maximum segment size that a TCP side announces (RFC 9293 §3.7.1), lowered on the way.

use super::{Delta, Stored};
use std::ops::Range;

/// Flag SYN in the fourteenth byte of the TCP header.
const SYN: u8 = 2;
/// Length of the TCP header without options.
const FIXED: usize = 20;

/// Whether a TCP segment is a SYN or SYN-ACK.
pub(crate) fn is_syn(segment: &[u8]) -> bool {
    segment.get(13).is_some_and(|flags| flags & SYN != 0)
}

/// Lowers the maximum segment size in a SYN or SYN-ACK to `most`, if it is higher, and mends the checksum. The TCP segment
/// lies at `place`. (Not the headers: the packets that do not come here keep theirs in registers.)
pub(crate) fn clamp_mss(bytes: &mut [u8], place: Range<usize>, stored: Stored, most: u16) {
    let transport = place.start;
    let Some(segment) = bytes.get_mut(place) else { return };
    if !is_syn(segment) {
        return;
    }
    let length = segment.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4);
    let Some(at) = segment.get(..length).and_then(find_option) else { return };
    let old = segment.get(at..at + 2).and_then(|field| field.first_chunk().copied()).map_or(0, u16::from_be_bytes);
    if old <= most {
        return;
    }
    if let Some(field) = segment.get_mut(at..at + 2) {
        field.copy_from_slice(&most.to_be_bytes());
    }
    if stored == Stored::PseudoHeader {
        return; // the card or kernel that completes the checksum sums the new bytes
    }
    // A field at an odd offset is spread over two words of the sum, with its bytes swapped.
    let delta =
        if at % 2 == 0 { Delta::of_word(old, most) } else { Delta::of_word(old.swap_bytes(), most.swap_bytes()) };
    super::mend(bytes, transport + 16, delta, stored);
}

/// Offset of the value of the option in a TCP header (kind 2, length 4).
fn find_option(header: &[u8]) -> Option<usize> {
    let mut at = FIXED;
    loop {
        match header.get(at..)? {
            [0, ..] => return None,
            [1, ..] => at += 1,
            [2, 4, _, _, ..] => return Some(at + 2),
            [_, length, ..] if *length >= 2 => at += usize::from(*length),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Headers, checksum, pseudo_header};
    use etherparse::{PacketBuilder, TcpOptionElement};

    fn syn(options: &[TcpOptionElement]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [192, 0, 2, 1], 64).tcp(1000, 80, 7, 1024).syn();
        builder.options(options).unwrap().write(&mut bytes, b"").unwrap();
        bytes
    }

    fn is_right(bytes: &[u8]) -> bool {
        let headers = Headers::parse(bytes).unwrap();
        let length = u32::try_from(bytes.len() - headers.transport).unwrap();
        let initial = pseudo_header(headers.source, headers.destination, 6, length);
        checksum(initial, &bytes[headers.transport..]) == 0
    }

    #[test]
    fn a_larger_segment_size_is_lowered_wherever_the_option_stands() {
        use TcpOptionElement::{MaximumSegmentSize, Noop, Timestamp};
        for before in [vec![], vec![Noop], vec![Noop, Noop, Timestamp(1, 2)], vec![Noop, Timestamp(1, 2)]] {
            let options: Vec<_> = before.into_iter().chain([MaximumSegmentSize(1460)]).collect();
            for (most, expected) in [(1300, 1300), (1460, 1460), (9000, 1460)] {
                let mut bytes = syn(&options);
                let headers = Headers::parse(&bytes).unwrap();
                clamp_mss(&mut bytes, headers.transport..headers.end, Stored::Full, most);
                let at = find_option(&bytes[20..]).unwrap() + 20;
                assert_eq!(u16::from_be_bytes([bytes[at], bytes[at + 1]]), expected);
                assert!(is_right(&bytes));
            }
        }
    }

    #[test]
    fn s_options_that_lie_about_their_length_are_left_alone() {
        let mut bytes = syn(&[TcpOptionElement::MaximumSegmentSize(1460)]);
        for option in [[2, 0, 5, 5], [3, 1, 5, 5], [2, 3, 5, 5], [99, 255, 5, 5]] {
            bytes[40..44].copy_from_slice(&option);
            let before = bytes.clone();
            let headers = Headers::parse(&bytes).unwrap();
            clamp_mss(&mut bytes, headers.transport..headers.end, Stored::Full, 500);
            assert_eq!(bytes, before);
        }
    }
}
