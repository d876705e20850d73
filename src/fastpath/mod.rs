//! The fast path: packets of known flows are rewritten in the kernel and never reach this process.
//!
//! ```text
//!   terminal ──► eth1 ─ program ─ mark, rule ─► main table ─► eth0 ──► peer        a flow in the map
//!                          └──── rule: iif ───► TUN, translate() …                 any other packet
//! ```
//!
//! User space is the authority. The kernel's map is a cache of decisions, as each worker has one of its own: from
//! (realm, source, destination) to the address to write. A worker offers a flow when its second packet comes; `books`
//! knows every flow in the kernel, asks the translator regularly whether it would decide the same again, and notes what
//! was carried. [`Offload`](crate::nat::Offload) says why a flow is gone when the change that ended it returns.
//!
//! A translated packet carries a mark, by which a policy rule leads it past the TUN devices; everything else stays with
//! the kernel: routing, hop limit, MTU, the operator's firewall. The program clears the mark on whatever it did not
//! translate.
//!
//! Where nobody would look at the packet on that way (no hook of netfilter, no policy of IPsec, no routing rule of others)
//! the program takes it short: it asks the main table itself and sends the packet out; only by an interface of the realm
//! that the translator has decided on, and only if it fits. With `redirects` it does so even past netfilter and IPsec.
//! Everything else is marked and forwarded as above.
//!
//! With `xdp` another program does the same before the kernel makes a socket buffer of a frame, from driver to driver. It
//! touches nothing unless it can do all of it; the rest goes on to the program at tc.

#[cfg(feature = "fast-path")]
mod abilities;
#[cfg(feature = "fast-path")]
mod books;
#[cfg(feature = "fast-path")]
mod clsact;
#[cfg(feature = "fast-path")]
mod kernel;
#[cfg(feature = "fast-path")]
mod layout;
#[cfg(feature = "fast-path")]
mod netlink;
#[cfg(feature = "fast-path")]
mod place;
#[cfg(feature = "fast-path")]
mod program;
#[cfg(feature = "fast-path")]
mod seat;
#[cfg(not(feature = "fast-path"))]
mod without;

#[cfg(feature = "fast-path")]
pub use kernel::{FastPath, remove};
#[cfg(not(feature = "fast-path"))]
pub use without::{FastPath, remove};

use crate::config::FastPathHook;
use crate::nat::Realm;
use std::io;

/// What is the same for every interface.
#[derive(Clone, Debug)]
pub struct Common {
    /// Name of the gateway.
    pub tun: String,
    /// Set on translated packets.
    pub mark: u32,
    /// Flows of each address family that are kept at most.
    pub flows: u32,
    /// TCP ports of control connections that a helper looks into.
    pub control_ports: Vec<u16>,
    /// Whether TCP SYNs get another segment size.
    pub clamps: bool,
    /// Whether translated packets leave at once, whoever would look at them in the kernel.
    pub redirects: bool,
    /// Whether XDP carries packets too.
    pub xdp: bool,
    /// Where at tc; `None`: at TCX if the kernel has it, else at clsact.
    pub hook: Option<FastPathHook>,
}

/// Why there is no fast path, or not on an interface.
#[derive(Debug, thiserror::Error)]
pub enum FastPathError {
    /// This program has none.
    #[error("this kamei was built without it; build with the feature fast-path")]
    NotBuilt,
    /// No BPF file system.
    #[error("the kernel gives no BPF file system: {0}; it takes CAP_SYS_ADMIN and a kernel with BPF")]
    FileSystem(io::Error),
    /// Loading, or the verifier.
    #[cfg(feature = "fast-path")]
    #[error("the kernel does not take the eBPF program: {}", whole(.0))]
    Load(#[from] aya::EbpfError),
    /// Loading or attaching the program.
    #[cfg(feature = "fast-path")]
    #[error("the kernel does not take the eBPF program: {}", whole(.0))]
    Program(#[from] aya::programs::ProgramError),
    /// Giving the program a name.
    #[cfg(feature = "fast-path")]
    #[error("the fast path cannot be made to last: {}", whole(.0))]
    Pin(#[from] aya::pin::PinError),
    /// A link that is not of the kind.
    #[cfg(feature = "fast-path")]
    #[error("the fast path cannot be made to last: {}", whole(.0))]
    Link(#[from] aya::programs::links::LinkError),
    /// Its maps.
    #[cfg(feature = "fast-path")]
    #[error("the kernel does not take the maps of the eBPF program: {}", whole(.0))]
    Map(#[from] aya::maps::MapError),
    /// The compiled program lacks something.
    #[error("the eBPF program in this executable has no '{0}'; build kamei again")]
    Object(&'static str),
    /// The program at tc, on one interface.
    #[error("no fast path for what comes in by '{name}': {why}")]
    Tc {
        /// The interface.
        name: String,
        /// The reason.
        why: Box<FastPathError>,
    },
    /// The program at XDP, on one interface.
    #[error("no XDP for what comes in by '{name}': {why}")]
    Xdp {
        /// The interface.
        name: String,
        /// The reason.
        why: NoXdp,
    },
    /// What drivers can.
    #[error("this kernel does not tell which drivers have XDP ({0}); Linux 6.3 and later do")]
    Abilities(io::Error),
    /// Too many helpers.
    #[error("the fast path can tell {most} ports of control connections apart, not more; list fewer in alg")]
    TooManyPorts {
        /// How many it can.
        most: usize,
    },
}

/// Why XDP cannot sit on an interface.
#[derive(Debug, thiserror::Error)]
pub enum NoXdp {
    /// Or not now.
    #[error("its driver has no native XDP, or not as it is set up (queues, receive offloads)")]
    NotNative,
    /// Frames do not say so.
    #[error(
        "it has no wire, and packets may come before checksums and VLAN tags are put into them; `{command}`, and the \
         same at its other end, has senders put them in"
    )]
    Unfinished {
        /// What switches it off.
        command: String,
    },
    /// Frames do not say so.
    #[error("it takes VLAN tags off packets before XDP can see them; `{command}` leaves them")]
    HiddenTags {
        /// What switches it off.
        command: String,
    },
    /// For a frame in one piece.
    #[error("its MTU, or that of its other end, is too long for XDP; 3500 bytes mostly pass")]
    TooLong,
    /// Not ours.
    #[error("another XDP program sits there; `ip link` shows it")]
    Taken,
    /// Anything else.
    #[error("{0}")]
    Kernel(String),
}

/// An error with what caused it, in one line: aya's errors say only the first half themselves.
#[cfg(feature = "fast-path")]
fn whole(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !line.contains(&more) {
            line = format!("{line}: {more}");
        }
        cause = error.source();
    }
    line.replace('\n', " ")
}

/// An interface that packets come in by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// Its name now.
    pub name: String,
    /// Its index, by which it is known.
    pub index: u32,
    /// What is behind it.
    pub realm: Realm,
    /// Its own Ethernet address.
    pub hardware: [u8; 6],
    /// Whether what comes in by it was made on this machine.
    pub is_local: bool,
}

/// What the host is like, as far as the programs go by it.
#[derive(Clone, Debug)]
pub struct Site {
    /// Where packets come in.
    pub entrances: Vec<Entrance>,
    /// Whether routing rules of others say where IPv4 packets go.
    pub ruled_v4: bool,
    /// The same for IPv6.
    pub ruled_v6: bool,
}
