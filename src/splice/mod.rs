//! Two streams joined: what one says, the other hears, each direction for itself.
//!
//! | file | what |
//! | --- | --- |
//! | `leg.rs` | a stream that can be ended in order or aborted: TCP, TLS over TCP, a stream of HTTP/2 |
//! | `h2_leg.rs` | the last of these |
//! | `pump.rs` | carries bytes between two of them |

mod h2_leg;
mod leg;
mod pump;

pub use h2_leg::{H2Leg, send_all};
pub use leg::{Leg, prepare};
pub use pump::{Counts, Ended, join};

#[cfg(test)]
mod tests;
