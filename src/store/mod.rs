//! The store: bindings survive.
//!
//! | file | what |
//! | --- | --- |
//! | `record.rs` | the store as all threads share it: what it records |
//! | `backend.rs` | what keeps the bindings, and what the store asks of it |
//! | `commits.rs` | which commits are on disk |
//! | `state_file.rs` | the state file, in SQLite |
//! | `row.rs` | its rows, each with a sum |
//! | `moment.rs` | how time goes on from one process to the next |
//! | `open.rs` | the lock, opening, what becomes of a damaged file |
//! | `log_check.rs` | whether all of its write-ahead log can be read |
//! | `lines.rs` | bindings as text, to take them elsewhere |
//! | `writer.rs` | the thread that syncs, and writes what can wait |
//! | `rewrite.rs` | another file in place of one that a sync has failed for |
//! | `progress.rs`, `error.rs` | how far long work has come; what is wrong with the file |
//! | `files.rs` | files beside each other, and on disk with their directory |
//! | `history/` | who had which virtual IP when, in a file of its own |
//!
//! The table is the truth, the file follows: a change is recorded by reading what the table says *now* about a virtual IP
//! and writing that, under one lock. So it does not matter in which order threads bring their changes.
//!
//! A worker records new bindings, their waking and new contacts before it writes the packets that made them. Everything
//! else (last use, what housekeeping changes) is marked and written by the writer within the sync interval.

mod backend;
mod commits;
mod error;
mod files;
pub mod history;
mod lines;
mod log_check;
mod moment;
mod open;
mod progress;
mod record;
mod rewrite;
mod row;
mod state_file;
mod writer;

pub use crate::config::{Durability, WhenDiskFails};
pub use error::StoreError;
pub use lines::{LineError, read as read_lines, read_with as read_lines_with, write as write_lines};
pub use moment::{Moment, Reading};
pub use open::{Found, Opened, StateFile, look, look_at};
pub use progress::{Progress, Stage};
pub use record::{NotRecorded, Recorded, Store, StoreSettings, StoreStatus};
pub use writer::Writer;

#[cfg(test)]
mod tests;
