//! Multipath TCP (RFC 8684). Once two ends have agreed on it, each may tell the other more of its addresses (ADD_ADDR): an
//! inside address, which no peer may see. Without its option in the SYN they speak plain TCP (§3.7), and tell none.

use super::mss::is_syn;
use super::{Delta, Stored};
use std::ops::Range;

/// Length of the TCP header without options.
const FIXED: usize = 20;
/// The option (RFC 8684 §3), "no operation" and "end of list" (RFC 9293 §3.1).
const MULTIPATH: u8 = 30;
const NOTHING: u8 = 1;
const END: u8 = 0;

/// Takes the options of Multipath TCP out of a SYN or SYN-ACK and mends the checksum. The TCP segment lies at `place`.
pub(crate) fn strip_multipath(bytes: &mut [u8], place: Range<usize>, stored: Stored) {
    let transport = place.start;
    let Some(segment) = bytes.get_mut(place) else { return };
    if !is_syn(segment) {
        return;
    }
    let length = segment.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4);
    let Some(options) = segment.get_mut(FIXED..length) else { return };
    let Some(delta) = blank(options) else { return };
    if stored != Stored::PseudoHeader {
        super::mend(bytes, transport + 16, delta, stored);
    }
}

/// Writes "no operation" over the options; `None` if there are none.
fn blank(options: &mut [u8]) -> Option<Delta> {
    let mut delta = None;
    let mut at = 0;
    while let Some([kind, rest @ ..]) = options.get(at..) {
        let length = match (*kind, rest.first()) {
            (END, _) => break,
            (NOTHING, _) => 1,
            (_, Some(length)) if *length >= 2 => usize::from(*length),
            _ => break,
        };
        let kind = *kind;
        let Some(option) = options.get_mut(at..at + length) else { break };
        if kind == MULTIPATH {
            for (offset, byte) in (at..).zip(option) {
                // The header is of whole words: an even offset in it is the high byte of one.
                let word = |byte: u8| if offset % 2 == 0 { u16::from(byte) << 8 } else { u16::from(byte) };
                let change = Delta::of_word(word(*byte), word(NOTHING));
                delta = Some(delta.unwrap_or(Delta::NONE).and(change));
                *byte = NOTHING;
            }
        }
        at += length;
    }
    delta
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Headers, checksum, pseudo_header};
    use etherparse::PacketBuilder;

    /// A segment with these options, which are of whole words, and a right checksum.
    fn segment(options: &[u8], is_syn: bool) -> Vec<u8> {
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [192, 0, 2, 1], 64).tcp(1000, 80, 7, 1024);
        let builder = if is_syn { builder.syn() } else { builder.ack(1) };
        let mut bytes = Vec::new();
        builder.options_raw(options).unwrap().write(&mut bytes, b"data").unwrap();
        bytes
    }

    fn stripped(options: &[u8], is_syn: bool) -> Vec<u8> {
        let mut bytes = segment(options, is_syn);
        let headers = Headers::parse(&bytes).unwrap();
        strip_multipath(&mut bytes, headers.transport..headers.end, Stored::Full);
        let length = u32::try_from(bytes.len() - headers.transport).unwrap();
        let initial = pseudo_header(headers.source, headers.destination, 6, length);
        assert_eq!(checksum(initial, &bytes[headers.transport..]), 0);
        bytes[40..40 + options.len()].to_vec()
    }

    #[test]
    fn n8_a_syn_loses_its_multipath_option_wherever_it_stands_and_nothing_else() {
        let segment_size = [2, 4, 5, 180];
        let capable = [30, 4, 1, 0x81];
        let join = [30, 12, 0x10, 7, 1, 2, 3, 4, 5, 6, 7, 8];
        for (before, after) in [
            (vec![], vec![]),
            (segment_size.to_vec(), vec![1, 1, 1, 1]),
            (vec![1], vec![3, 3, 7]),
            (vec![1, 1, 1], vec![0]),
        ] {
            for option in [&capable[..], &join] {
                let blank = vec![1; option.len()];
                let options = [&before[..], option, &after].concat();
                assert_eq!(stripped(&options, true), [&before[..], &blank, &after].concat());
                assert_eq!(stripped(&options, false), options, "it is no SYN");
            }
        }
    }

    #[test]
    fn s_multipath_options_that_lie_about_their_length_are_left_alone() {
        for options in [[30, 0, 1, 1], [30, 1, 1, 1], [30, 5, 1, 1], [3, 9, 30, 2], [0, 30, 2, 1], [1, 1, 1, 30]] {
            assert_eq!(stripped(&options, true), options);
        }
    }
}
