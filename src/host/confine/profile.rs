//! What a role needs of the machine.

use super::calls::{DIRECTORIES, FAST_PATH, FILES, LOOK, MEMORY, PACKETS, PROCESS, SOCKETS, SPLICE, TALK, THREADS};
use libc::c_long;
use rustix::thread::CapabilitySet;

/// What a role needs beside its own directories.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Of those that the process has.
    pub(super) capabilities: CapabilitySet,
    /// Read and written besides the directories of the configuration.
    pub(super) written: &'static [&'static str],
    /// Read besides the directory of the configuration.
    pub(super) read: &'static [&'static str],
    /// Whether it calls TCP servers.
    pub(super) connects: bool,
    /// Whether it opens TCP ports once it is confined.
    pub(super) listens: bool,
    /// Groups of system calls.
    pub(super) calls: &'static [&'static [c_long]],
}

/// The journal's socket, where every role writes its log.
const JOURNAL: &str = "/run/systemd/journal";

impl Profile {
    /// Of a gateway: netlink and interfaces, the maps and programs of the fast path. It calls nobody.
    pub const GATEWAY: Self = Self {
        capabilities: CapabilitySet::NET_ADMIN.union(CapabilitySet::BPF).union(CapabilitySet::PERFMON),
        written: &[
            "/proc/sys/net", // settings of interfaces that come later, and all of them at the stop
            "/dev/net/tun",  // more queues after a reload
            "/sys/fs/bpf",   // what the fast path has pinned
        ],
        read: &[
            "/proc/self",       // counters of the gateway's own devices
            "/proc/sys/kernel", // the boot in which the undo file counts
            "/sys/class/net",   // interfaces, as the fast path looks at them
            "/sys/devices",
            "/sys/kernel/btf",
            JOURNAL,
        ],
        connects: false,
        listens: true,
        calls: &[PROCESS, MEMORY, PACKETS, TALK, FILES, FAST_PATH, THREADS, SOCKETS, DIRECTORIES, LOOK],
    };

    /// Of a relay: ports, of which those of virtual IPs come and go with their servers. It calls nobody: a data channel is
    /// opened by the agent.
    pub const RELAY: Self = Self {
        // NET_ADMIN for the routes of virtual IPs.
        capabilities: CapabilitySet::NET_BIND_SERVICE.union(CapabilitySet::NET_ADMIN),
        written: &[],
        read: &[JOURNAL],
        connects: false,
        listens: true,
        calls: &[PROCESS, MEMORY, PACKETS, TALK, FILES, THREADS, SOCKETS, SPLICE, DIRECTORIES, LOOK],
    };

    /// Of an agent: it calls relays and servers, by names too, and opens no port.
    pub const AGENT: Self = Self {
        capabilities: CapabilitySet::empty(),
        written: &[],
        // How names are resolved: files that DHCP clients and resolvers put in place of each other, and the C library's
        // modules for them. All of /run: the service that keeps resolv.conf may make its directory there after the
        // agent has started.
        read: &["/etc", "/usr", "/lib", "/lib64", "/nix/store", "/run"],
        connects: true,
        listens: false,
        calls: Self::RELAY.calls,
    };
}

/// Of a gateway's capabilities, what a worker needs: it announces virtual IPs, and reads and writes maps that are there.
pub const WORKERS_CAPABILITIES: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::BPF);
/// The groups of system calls that a worker keeps.
pub const WORKER: &[&[c_long]] = &[PROCESS, MEMORY, PACKETS, TALK, FILES, FAST_PATH];
