#![doc = include_str!("README.md")]
#![deny(unsafe_code)]

pub mod config;
pub mod nat;
pub mod session;
pub mod time;
pub mod wire;

#[cfg(feature = "relay")]
pub mod agent;
#[cfg(feature = "relay")]
pub mod identity;
#[cfg(feature = "relay")]
pub mod relay;

#[cfg(feature = "gateway")]
pub mod cli;
#[cfg(feature = "gateway")]
pub mod control;
#[cfg(feature = "gateway")]
pub mod device;
#[cfg(feature = "gateway")]
pub mod doctor;
#[cfg(feature = "gateway")]
pub mod fastpath;
#[cfg(feature = "gateway")]
pub mod gateway;
#[cfg(feature = "gateway")]
pub mod host;
#[cfg(feature = "gateway")]
pub mod selftest;
#[cfg(feature = "relay")]
pub mod splice;
#[cfg(feature = "gateway")]
pub mod store;

#[cfg(test)]
mod testkit;
