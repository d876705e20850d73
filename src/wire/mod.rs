//! Bytes: parse once, keep offsets, checked access, checksum deltas.

#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

mod address;

pub use address::{Address, AddressRange, ParseRangeError};
