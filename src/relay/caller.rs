//! Who has come in.

use crate::identity::Fingerprint;
use std::net::SocketAddr;

/// Who comes in.
#[derive(Clone, Copy)]
pub struct Caller {
    /// Its address.
    pub address: SocketAddr,
    /// The key that it has proved to have; `None` if it has shown none.
    pub key: Option<Fingerprint>,
}
