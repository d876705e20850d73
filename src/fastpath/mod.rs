//! Translation in the kernel, where netfilter has its own: the source of what terminals send changes as it leaves by an
//! outside interface (tc egress), the destination of what peers send as it arrives at one (tc ingress).
//!
//! ```text
//!                    netfilter, routing, shapers: each packet once, with the terminal's own address
//!                      │                                                             │
//!   terminal ──► eth1 ─┴──────────────────────────────► eth0 egress: leaving ──► watching ──► peer
//!   terminal ◄── eth1 ◄──────────────────────────────── eth0 ingress: arriving ◄── peer
//!                                                              │      ▲
//!                         what is not of a known flow: routed ─▼──────┴─ returning
//!                                                          {tun}-nat, translate()
//! ```
//!
//! User space is the authority. The kernel's map is a cache of decisions, as each worker has one of its own: from
//! (realm, source, destination) to the address to write. A worker offers a flow of two packets or more when it next notes its
//! counts; `flow_book`
//! knows every flow in the kernel, asks the translator regularly whether it would decide the same again, and notes what
//! was carried. [`FlowCarrier`](crate::nat::FlowCarrier) says why a flow is gone when the change that ended it returns.
//!
//! All other packets go to user space from the same place and come back to it: through the gateway's device, with a note of
//! their way in the Ethernet header (`divert.h`).
//!
//! Nothing leaks: what comes in by an inside interface leaves by an outside interface translated, or not at all
//! (`watching` looks after `leaving`), and by no other interface (`guard`). What the kernel's flowtable sends by a port of an
//! outside bridge, past all of these, is translated there (`beneath`). All of that outlives this process.
//!
//! With `redirects` known flows are sent out as they arrive, past netfilter and IPsec; with `xdp` from driver to driver,
//! before the kernel makes a socket buffer of a frame. Both touch nothing unless they can do all of it.

mod abilities;
mod attached;
mod attachment;
mod clsact;
mod contest;
mod detour;
mod duty;
mod flow_book;
mod guard;
mod kernel;
mod layout;
mod pin_directory;
mod program;

pub use attachment::overtaking;
pub use detour::{Detour, Port, clear};
pub use flow_book::KernelFlow;
pub use kernel::{FastPath, View, has_left, remove, without_xdp};
pub use layout::SLOW_REASONS;

pub use guard::{GuardError, RulesetMonitor};

use crate::config::FastPathHook;
use crate::host::Ethernet;
use crate::nat::{InsideNumber, Realm};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv6Addr;

/// What is configured of the fast path; the same for every interface.
#[derive(Clone, Debug)]
pub struct FastPathSettings {
    /// Name of the gateway.
    pub tun: String,
    /// Flows of each address family that are kept at most.
    pub flows: u32,
    /// TCP ports of control connections that a helper looks into.
    pub control_ports: Vec<u16>,
    /// Whether TCP SYNs get another segment size.
    pub clamps: bool,
    /// Whether they lose the options of Multipath TCP.
    pub strips: bool,
    /// Whether known flows are translated in the kernel at all.
    pub carries: bool,
    /// Whether they leave at once, past netfilter and all else on the kernel's way.
    pub redirects: bool,
    /// Whether XDP carries packets too.
    pub xdp: bool,
    /// Where at tc; `None`: at TCX if the kernel has it, else at clsact.
    pub hook: Option<FastPathHook>,
}

/// Why packets cannot be translated at all, or not as was asked for.
#[derive(Debug, thiserror::Error)]
pub enum FastPathError {
    /// No BPF file system.
    #[error(
        "no BPF file system can be had: {0}; mount one (`mount -t bpf bpf /sys/fs/bpf`), or let the gateway have CAP_SYS_ADMIN"
    )]
    FileSystem(io::Error),
    /// Loading, or the verifier.
    #[error("the kernel does not take the eBPF program: {}", whole(.0))]
    Load(#[from] aya::EbpfError),
    /// Loading or attaching the program.
    #[error("the kernel does not take the eBPF program: {}", whole(.0))]
    Program(#[from] aya::programs::ProgramError),
    /// Giving the program a name.
    #[error("the gateway's eBPF programs cannot be made to last: {}", whole(.0))]
    Pin(#[from] aya::pin::PinError),
    /// A pinned link that is of no program at tc or XDP.
    #[error("the gateway's eBPF programs cannot be made to last: {}", whole(.0))]
    Link(#[from] aya::programs::links::LinkError),
    /// Its maps.
    #[error("the kernel does not take the maps of the eBPF program: {}", whole(.0))]
    Map(#[from] aya::maps::MapError),
    /// The compiled program lacks something.
    #[error("the eBPF program in this executable has no '{0}'; build kamei again")]
    Object(&'static str),
    /// TCX without a BPF file system.
    #[error(
        "at TCX nothing would outlive this process, and the inside would be open after a kill: mount the BPF file system \
         (mount -t bpf bpf /sys/fs/bpf), or choose fast-path-hook = \"clsact\""
    )]
    NothingLasts,
    /// Where clsact has to be.
    #[error(
        "the queueing discipline `ingress` sits on it, where clsact has to be; clsact takes the same filters: \
         tc qdisc delete dev {0} ingress, tc qdisc add dev {0} clsact, and attach them again"
    )]
    IngressDiscipline(String),
    /// What keeps inside packets from leaving by other interfaces.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The device is not there.
    #[error("the gateway's device '{0}' does not exist; another program may have removed it, start the gateway again")]
    NoDevice(String),
    /// The interface changed between the look at the host and the attempt to attach.
    #[error("interface '{0}' was renamed or replaced meanwhile")]
    Renamed(String),
    /// A link whose headers are not known.
    #[error("'{0}' has neither Ethernet headers nor none; packets cannot be translated there")]
    UnknownLink(String),
    /// The programs at tc, on one interface.
    #[error("packets cannot be translated at '{name}': {why}")]
    Tc {
        /// As it is now.
        name: String,
        /// What the kernel refuses or lacks.
        why: Box<FastPathError>,
    },
    /// The program at XDP, on one interface.
    #[error("no XDP for what comes in by '{name}': {why}. Or choose --fast-path tc")]
    Xdp {
        /// As it is now.
        name: String,
        /// What the driver lacks, or who is there.
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

impl FastPathError {
    /// Whether it is this kernel that lacks something: trying again will not help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Abilities(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Why XDP cannot sit on an interface.
#[derive(Debug, thiserror::Error)]
pub enum NoXdp {
    /// The driver does not run programs, or not as it is set up.
    #[error("its driver has no native XDP, or not as it is set up (queues, receive offloads)")]
    NotNative,
    /// The sender may leave checksums and VLAN tags undone, and a frame does not say so.
    #[error(
        "it has no wire, and packets may come before checksums and VLAN tags are put into them; `{command}`, and the \
         same at its other end, has senders put them in"
    )]
    Unfinished {
        /// What switches it off.
        command: String,
    },
    /// The card takes VLAN tags off, and a frame does not say so.
    #[error("it takes VLAN tags off packets before XDP can see them; `{command}` leaves them")]
    HiddenTags {
        /// What switches it off.
        command: String,
    },
    /// XDP takes frames in one piece alone.
    #[error("its MTU, or that of its other end, is too long for XDP; 3500 bytes mostly pass")]
    TooLong,
    /// An XDP program that is not of the gateway.
    #[error("another XDP program sits there; `ip link` shows it")]
    Taken,
    /// Something else that the kernel refuses.
    #[error("{0}")]
    Kernel(String),
}

/// An error with what caused it, in one line: aya's errors say only the first half themselves.
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

/// What the kernel's programs and the guard count, in a sentence; by the names of [`View::noted`].
pub const MEANINGS: [(&str, &str); 14] = [
    (
        "encapsulated",
        "A packet of a terminal whose route would have put it, untranslated, into a tunnel of the route's own (`encap`); exempt \
         passes it.",
    ),
    ("foreign_source", "A terminal's address that came in by an interface that is not of its inside."),
    ("inside_destination", "For an address inside, where nobody outside may see one."),
    ("ipsec", "A packet of a terminal that an IPsec policy would have sent out untranslated; exempt passes it."),
    ("lost_way", "User space gave it back after the way that it came by was forgotten."),
    ("masqueraded", "Not dropped: a rule of netfilter has given a terminal's packet this machine's own address."),
    ("other_realm", "A packet of a terminal that was routed into another inside."),
    ("own_inside_source", "This machine itself sent it outside with its address inside."),
    ("own_source", "A packet from inside that pretends to come from this machine."),
    ("unclear_source", "This machine itself sent it with a terminal's address, which two insides have."),
    ("undeclared_way", "A packet of a terminal that was routed to an interface that is neither inside nor outside."),
    ("untranslated", "Somebody had taken the program off that translates."),
    ("unwritable", "A packet of a known flow that could not be rewritten."),
    (
        "backlog_full",
        "An outside interface dropped it as it arrived; mostly, the kernel had no room for what came back from user space.",
    ),
];

/// What one of [`View::noted`] means.
pub fn meaning(noted: &str) -> &'static str {
    MEANINGS.iter().find(|(name, _)| *name == noted).map_or("", |(_, meaning)| meaning)
}

/// An interface of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// Its name now.
    pub name: String,
    /// Its index, by which it is known.
    pub index: u32,
    /// What is behind it.
    pub realm: Realm,
    /// What is before the IP header of its packets.
    pub ethernet: Option<Ethernet>,
}

/// Whose the addresses of a prefix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixKind {
    /// Virtual IPs.
    Pool,
    /// Terminals of one inside.
    Inside(InsideNumber),
    /// Terminals, but of several insides.
    Unclear,
    /// This machine's, outside.
    OwnOutside,
    /// This machine's, inside.
    OwnInside,
    /// Peers that see terminals as they are.
    Exempt,
}

/// What the host is like, as far as the programs go by it.
#[derive(Clone, Debug)]
pub struct Site {
    /// The interfaces of the gateway.
    pub entrances: Vec<Entrance>,
    /// The gateway's devices, the one for packets on their way to user space first.
    pub devices: Vec<Entrance>,
    /// The ports of bridges that are entrances, with the realm of the bridge. The kernel's flowtable has packets come and go
    /// by them.
    pub ports: Vec<Entrance>,
    /// Interfaces of others that can have no packet of an inside.
    pub others: Vec<u32>,
    /// Whose addresses are whose: the longest prefix counts.
    pub prefixes: BTreeMap<IpNet, PrefixKind>,
    /// Peers that see terminals as they are.
    pub exempt: Vec<IpNet>,
    /// This machine's own IPv6 addresses.
    pub own_v6: Vec<Ipv6Addr>,
    /// Whether routing rules of others say where IPv4 packets go.
    pub ruled_v4: bool,
    /// The same for IPv6.
    pub ruled_v6: bool,
}
