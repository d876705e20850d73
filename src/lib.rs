//! kamei: a virtual-IP gateway. Every hidden host gets a virtual IP that the outside can call back.
//!
//! # Rooms
//!
//! | module | what lives there | may use |
//! | --- | --- | --- |
//! | [`time`] | [`time::Time`]: milliseconds; the core never reads a clock | – |
//! | [`wire`] | bytes: parse once, checked access, checksum deltas | – |
//! | [`nat`] | the translator: pools, bindings, contacts, verdicts | `time`, `wire` |
//! | [`config`] | raw TOML and flags → a checked configuration | `nat` and left of it |
//! | `journal` | bindings on disk, so that they survive | `config` and left of it |
//! | `control` | the local HTTP/JSON interface and its types | `config` and left of it |
//! | `device` | edges that carry packets: TUN, memory | `config` and left of it |
//! | `fastpath` | known flows in the kernel: the eBPF program, its loader, its flows | `config` and left of it |
//! | `gateway` | threads, kernel set-up, shutdown | all of the above |
//! | `selftest` | a call and a callback through a running gateway | all of the above |
//! | `cli` | one file a subcommand | everything |
//!
//! `wire` and `nat` forbid unsafe code, read no clock, no file, no socket and no environment:
//! `cargo build --no-default-features` builds them without any crate that could.

#![deny(unsafe_code)]

pub mod config;
pub mod nat;
pub mod time;
pub mod wire;

#[cfg(feature = "gateway")]
pub mod cli;
#[cfg(feature = "gateway")]
pub mod control;
#[cfg(feature = "gateway")]
pub mod device;
#[cfg(feature = "gateway")]
pub mod fastpath;
#[cfg(feature = "gateway")]
pub mod gateway;

#[cfg(feature = "gateway")]
pub mod journal;
#[cfg(feature = "gateway")]
pub mod selftest;

#[cfg(test)]
mod fuzzed;
#[cfg(test)]
mod import_rule;
