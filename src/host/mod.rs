//! The host's network around the gateway: devices, routes, settings; made, watched, and undone exactly.
//!
//! What is translated goes the way the machine's own tables say; here is what the gateway needs beside that. The module
//! `tables` says which routes there are and why, and which rules where two insides have equal addresses. Everything the
//! gateway makes carries protocol number 75, so it can be told from the operator's; only kernel settings have to be
//! remembered, and they are, in a file that a successor reads after `kill -9`.
//!
//! # Order
//!
//! *Start:* devices (settings, address, up); then, by the caller, the programs that keep the inside closed
//! (`fastpath`); then routes, rules, proxy settings, forwarding at the very end. *Stop:* forwarding first, as far as the
//! gateway has switched it on, then rules, routes, neighbours; the caller then takes the programs off and closes the
//! devices. If the host forwarded before the gateway came, it forwards again when the gateway has gone, untranslated: that
//! is how it was found.
//!
//! *Killed:* the devices and the routes to them vanish with the process; the programs stay, so nothing from the inside
//! leaves untranslated. The next gateway of the same `--tun` name takes all of it over without a gap; [`clean_up`] removes
//! it. A start that fails in the middle undoes what it did; one that fails on top of what a killed gateway left leaves the
//! closed state as it is.
//!
//! # What is decided here
//!
//! - IPv4 forwarding is switched on for the interfaces of the gateway alone (`conf/*/forwarding`), not for the host.
//!   IPv6 knows only one switch, `all`.
//! - Several insides may have the same prefix and even the same address of the host: translation does not mind. What the
//!   host itself says does: its answers go by its own address, so terminals of every inside reach it (ping, DNS) where it
//!   has an address of its own in each. Its errors to terminals name no inside; for addresses that two insides have they are
//!   not sent, so traceroute from there does not show this gateway.
//! - An interface that hands its packets to another before they are routed (a bridge port, a member of a bond) is refused at
//!   the start; where it becomes one later, the other is of its realm from then on.
//! - Exempt destinations are for addresses that one inside alone has; others are translated on the way there as well.
//! - What an interface was it stays when it is renamed, until it is deleted; so does a prefix of an interface that is away
//!   or down.
//! - A family without a pool is closed: its packets from the inside reach other insides and the host, nothing else.
//! - A pool may lie in an outside network, be equal to it or larger. The host's own addresses, its routers and the
//!   network and broadcast addresses in it are reserved and stay reachable. Every other address of the pool belongs to
//!   the gateway: it answers ARP for each that a terminal has, so no other machine of that network may use one. What one
//!   uses all the same is found out, and not given meanwhile.
//! - What the routing table `main` sends by an outside interface more specifically than by an inside one is outside: there, as in the kernel,
//!   the longest prefix decides.

mod access;
mod any_ip;
mod apply;
mod bridged;
mod claim;
pub mod confine;
mod descriptors;
mod discovery;
mod error;
mod kernel;
mod lock;
mod look;
mod members;
mod messages;
mod neighbours;
pub mod net_dev;
mod netlink;
pub mod netlink_socket;
mod news;
mod next_hops;
mod occupied;
mod opened;
mod packet_socket;
mod plan;
pub mod quota;
mod roster;
mod setting;
mod survey;
mod sysctl;
pub mod systemd;
mod tables;
mod undo;
mod view;

pub use any_ip::AnyIp;
pub use bridged::filtered_at_ports;
pub use claim::{Claim, directory as lock_directory};
pub use descriptors::raise_descriptors;
pub use error::KernelError;
pub use kernel::{Cleaned, Devices, Kernel, clean_up, inspect};
pub use lock::LockFile;
pub use neighbours::Neighbours;
pub use netlink_socket::NetlinkError;
pub use occupied::{OccupiedAddress, Watched};
pub use plan::{INSIDES_MAX, InsidePlan, Plan, ProgramsLeft, undo_file};
pub use survey::{Survey, dead};
pub use view::{Ethernet, Framing, Host};
