//! Capsules (RFC 9297 §3.2): a type, a length, that many bytes. They come in pieces of any size.

use super::varint;

/// A capsule's value is at most this long: the names of a thousand servers fit.
pub const LONGEST: usize = 64 * 1024;

/// A peer announces a capsule that is longer than any that makes sense; the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a capsule of {0} bytes, where {LONGEST} are the most")]
pub struct Overlong(pub u64);

/// Puts capsules together from pieces. Holds one capsule at most.
#[derive(Debug, Default)]
pub struct Decoder {
    unread: Vec<u8>,
}

impl Decoder {
    /// Adds a piece and hands on each capsule that is whole now, by type and value, until `each` fails.
    ///
    /// # Errors
    /// [`Overlong`], or what `each` says. The decoder is not to be used afterwards.
    pub fn read<E: From<Overlong>>(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.unread.extend_from_slice(piece);
        let mut rest = &self.unread[..];
        loop {
            let mut bytes = rest;
            let (Some(kind), Some(length)) = (varint::take(&mut bytes), varint::take(&mut bytes)) else { break };
            let size = usize::try_from(length).ok().filter(|size| *size <= LONGEST).ok_or(Overlong(length))?;
            let Some((value, after)) = bytes.split_at_checked(size) else { break };
            each(kind, value)?;
            rest = after;
        }
        let done = self.unread.len() - rest.len();
        self.unread.drain(..done);
        if self.unread.is_empty() && self.unread.capacity() > 4096 {
            self.unread = Vec::new(); // an idle session holds no buffer
        }
        Ok(())
    }
}

/// Appends a capsule.
pub fn put(out: &mut Vec<u8>, kind: u64, value: &[u8]) {
    varint::put(out, kind);
    varint::put(out, value.len() as u64);
    out.extend_from_slice(value);
}
