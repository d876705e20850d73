//! Integers of variable length (RFC 9000 §16): one, two, four or eight bytes, the first two bits say how many.

/// The largest value: 62 bits.
pub const LARGEST: u64 = (1 << 62) - 1;

/// Appends a value; one beyond [`LARGEST`] loses its two upper bits.
#[allow(clippy::cast_possible_truncation, reason = "each arm is reached by values that fit")]
pub fn put(out: &mut Vec<u8>, value: u64) {
    match value & LARGEST {
        value @ 0..=0x3f => out.push(value as u8),
        value @ 0x40..=0x3fff => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        value @ 0x4000..=0x3fff_ffff => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        value => out.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Takes a value off the front; `None` if the bytes end before it does, and then nothing is taken.
pub fn take(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let length = 1_usize << (first >> 6);
    let (value, rest) = bytes.split_at_checked(length)?;
    let value = value.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    *bytes = rest;
    Some(value & (LARGEST >> (62 - (8 * length - 2))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_rfc_9000_a_1() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            let mut rest = bytes;
            assert_eq!((take(&mut rest), rest.len()), (Some(value), 0));
        }
    }

    proptest! {
        #[test]
        fn what_is_put_is_taken_and_a_part_of_it_is_nothing(value in 0..=LARGEST, more: Vec<u8>) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            for end in 0..bytes.len() {
                let mut part = &bytes[..end];
                prop_assert_eq!((take(&mut part), part.len()), (None, end));
            }
            bytes.extend_from_slice(&more);
            let mut rest = &bytes[..];
            prop_assert_eq!((take(&mut rest), rest), (Some(value), &more[..]));
        }
    }
}
