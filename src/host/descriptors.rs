//! How many files and sockets this process may have open.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit of open descriptors as far as this process may, which is what a role that carries many connections
/// needs; the lower one is for programs that use select(2).
pub fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::warn!("the limit of open descriptors stays as it is: {error}");
    }
}
