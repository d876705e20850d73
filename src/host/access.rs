//! Access to the network of this namespace.

use super::error::KernelError;
use super::netlink::Netlink;
use rustix::thread::CapabilitySet;

/// Whether this process may change the network.
///
/// # Errors
/// [`KernelError::NotPermitted`] if not.
pub(super) fn may_change() -> Result<(), KernelError> {
    let have = rustix::thread::capabilities(None)
        .map_err(|e| KernelError::System { what: "read this process's capabilities", source: e.into() })?;
    if have.effective.contains(CapabilitySet::NET_ADMIN) { Ok(()) } else { Err(KernelError::NotPermitted) }
}

/// A socket to ask and change the network of this namespace with.
pub(super) fn open() -> Result<Netlink, KernelError> {
    Netlink::open().map_err(|e| KernelError::netlink("open a netlink socket", e.into()))
}
