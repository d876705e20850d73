//! The header in front of every packet of a TUN device with offloads (`struct virtio_net_hdr`, virtio 1.3 §5.1.6).

/// Its length as TUN has it unless told otherwise: without the field of merged buffers.
pub const HEADER_LEN: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the transport checksum holds the sum of the pseudo-header only.
const NEEDS_CHECKSUM: u8 = 1;

/// A view of the header. It travels with its packet unchanged, for nothing in it depends on addresses.
#[derive(Clone, Copy, Debug)]
pub struct VirtioHeader<'a>(&'a [u8; HEADER_LEN]);

impl<'a> VirtioHeader<'a> {
    /// The header at the start of `bytes`.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }

    /// Where the checksum that is still to be completed starts to sum; `None` if all checksums are complete.
    pub fn checksum_start(&self) -> Option<usize> {
        let [flags, _, _, _, _, _, low, high, ..] = *self.0;
        (flags & NEEDS_CHECKSUM != 0).then(|| usize::from(u16::from_ne_bytes([low, high])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_a_partial_checksum_is_seen_only_when_the_flag_says_so() {
        let mut bytes = [0; HEADER_LEN + 3];
        bytes[6..8].copy_from_slice(&20u16.to_ne_bytes());
        assert_eq!(VirtioHeader::read(&bytes).unwrap().checksum_start(), None);
        bytes[0] = NEEDS_CHECKSUM;
        assert_eq!(VirtioHeader::read(&bytes).unwrap().checksum_start(), Some(20));
        assert!(VirtioHeader::read(&bytes[..9]).is_none());
    }
}
