//! Bytes: parse once, keep offsets, checked access, checksum deltas.

#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

mod address;
mod checksum;
mod extensions;
mod headers;
mod icmp;
mod mss;
mod multipath;
mod patch;
mod rewrite;

pub use address::{Address, AddressRange, ParseRangeError};
pub use checksum::{Delta, Stored, checksum, pseudo_header};
pub(crate) use extensions::blank_interfaces;
pub use headers::{Fragment, Headers, Kind, Unreadable, protocol};
pub(crate) use icmp::told_mtu;
pub use icmp::{Quote, Refusal, is_intact, reset, unreachable};
pub(crate) use mss::clamp_mss;
pub(crate) use mss::is_syn;
pub(crate) use multipath::strip_multipath;
pub(crate) use patch::Patch;
pub use rewrite::{Packet, Rewrite};
pub(crate) use rewrite::{give_back_hop, mend, set_addresses};
