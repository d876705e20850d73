//! What relay and agent say to each other, and what each may do when: pure decisions, without sockets, clocks or tasks.
//!
//! ```text
//!  client            relay                                              agent                 server
//!    │                 │ ◄──────────── Publish (server IDs, names) ─────── │                     │
//!    │                 │ ─────────────── Published (what is allowed) ────► │                     │
//!    │ ── connects ──► │ ────────── Call (connection ID, server ID) ─────► │                     │
//!    │                 │ ◄──────────────────────────────── Acknowledge ─── │ ────── connects ──► │
//!    │                 │ ◄── a data channel that names the connection ID ─ │                     │
//!    │ ◄═══════════════╪═══════════════════════ bytes ═════════════════════╪═══════════════════► │
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `varint.rs` | integers of RFC 9000 §16 |
//! | `capsule.rs` | capsules of RFC 9297 §3.2, read byte by byte, bounded |
//! | `message.rs` | the messages, each a capsule |
//! | `names.rs` | names of servers and their protocols |
//! | `liveness.rs` | probes, and when the other end is dead |
//! | `reason.rs` | why a connection is refused |
//! | `client_hello.rs` | the server name at the beginning of TLS |
//! | `target.rs` | whom a client names when it asks, and how it proves who it is |
//! | `socks5.rs`, `http_connect.rs` | the two ways to ask |
//! | `requests.rs` | the requests that begin channels and enrol agents |
//! | `relay_side.rs` | the calls that a relay has put to one agent |
//! | `agent_side.rs` | what an agent has published, and the calls it has taken |
//!
//! [The protocol](PROTOCOL.md) describes all of it byte by byte.

mod agent_side;
mod capsule;
mod client_hello;
pub mod http_connect;
mod liveness;
mod message;
mod names;
mod reason;
mod relay_side;
pub mod requests;
pub mod socks5;
mod target;
mod varint;

pub use agent_side::{AgentSide, Taken};
pub use capsule::{Decoder, Overlong};
pub use client_hello::{Hello, LONGEST_HELLO, read_hello};
pub use liveness::{Beat, Liveness};
pub use message::{
    Call, CallChannel, ConnectionId, DataChannel, Malformed, Message, Offer, ServerId, Token, Unreadable, VERSION,
};
pub use names::{Name, NameError, Published, Transport, checked_name};
pub use reason::RefuseReason;
pub use relay_side::{Joining, Limits, Outcome, RelaySide, Violation};
pub use target::{Credentials, Target, TargetHost};

#[cfg(test)]
mod tests;
