//! Two streams joined: what one says, the other hears, each direction for itself.
//!
//! | file | what |
//! | --- | --- |
//! | `leg.rs` | a stream that can be ended in order or aborted: TCP, TLS over TCP, a stream of HTTP/2 |
//! | `h2_leg.rs` | the last of these |
//! | `pump.rs` | carries bytes between two of them |
//! | `kernel.rs` | does so in the kernel, where both are sockets |
//! | `peek.rs` | a look at the first bytes of a socket |

mod h2_leg;
mod kernel;
mod leg;
mod peek;
mod pump;

pub use h2_leg::{H2Leg, send_all};
pub use leg::{Leg, end_abruptly_if_killed, end_in_order, prepare};
pub use peek::{peek, take_head};
pub use pump::{Counts, Ended, join};

#[cfg(test)]
mod tests;
