//! Mixing the bits of a key, for tables that nobody shall fill unevenly on purpose.

/// The product of both, its halves laid over each other.
#[inline]
pub fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[allow(clippy::cast_possible_truncation, reason = "both halves are used")]
    let folded = product as u64 ^ (product >> 64) as u64;
    folded
}
