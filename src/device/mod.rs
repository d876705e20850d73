//! Edges that carry packets.

pub mod tap;
mod virtio;

pub use virtio::{HEADER_LEN, VirtioHeader};
