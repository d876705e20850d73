//! Edges that carry packets.

pub mod tun;
mod virtio;

pub use virtio::{HEADER_LEN, VirtioHeader};
