//! The local interface.
