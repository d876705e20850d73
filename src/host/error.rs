//! What can go wrong between the gateway and the host's network.

use super::netlink_socket::NetlinkError;
use crate::wire::AddressRange;
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Why the host's network could not be looked at or changed: one cause a variant, one line each.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Neither root nor CAP_NET_ADMIN.
    #[error("the gateway may not change this machine's network; run it as root (sudo) or give it CAP_NET_ADMIN")]
    NotPermitted,
    /// No interface of that name; with the nearest one there is.
    #[error("there is no network interface '{name}'{}", nearest.as_ref().map_or_else(|| "; `ip link` lists those there are".to_owned(), |n| format!("; did you mean '{n}'?")))]
    UnknownInterface {
        /// What was asked for.
        name: String,
        /// The most similar existing name.
        nearest: Option<String>,
    },
    /// Inside and outside at once, or in two insides.
    #[error("interface '{0}' is named in two realms; an interface is either inside or outside, name it once")]
    InterfaceInTwoRealms(String),
    /// More inside realms than table numbers.
    #[error("{0} inside realms are too many; a gateway has at most {max}, run several", max = super::INSIDES_MAX)]
    TooManyInsides(usize),
    /// A device the gateway makes itself, or a name that has another meaning in /proc/sys.
    #[error("'{0}' cannot be an inside or outside interface; name the interface that leads to the terminals or peers")]
    UnfitInterface(String),
    /// A port of a bridge, or the like.
    #[error(
        "interface '{name}' belongs to '{master}', which has its packets before they are routed; name '{master}' instead"
    )]
    HasMaster {
        /// What was asked for.
        name: String,
        /// Its bridge, bond, team or VRF.
        master: String,
    },
    /// A tunnel without an end of its own.
    #[error(
        "'{0}' is a tunnel whose far end is named by routes (`external`), and packets on their way through the gateway lose \
         it; make one with an end of its own (remote, and id or key) and name that"
    )]
    External(String),
    /// The interface that carries others.
    #[error("interface '{name}' has no address, but '{upper}' on top of it has; name '{upper}' instead")]
    HasUpper {
        /// What was asked for.
        name: String,
        /// The VLAN, MACVLAN or the like that routes.
        upper: String,
    },
    /// Another program's device has the name of ours.
    #[error(
        "a network interface '{0}' exists already and belongs to another program; remove it or choose another --tun name"
    )]
    DeviceExists(String),
    /// Our own device has gone.
    #[error("the gateway's device '{0}' does not exist; another program may have removed it, start the gateway again")]
    DeviceMissing(String),
    /// Virtual IPs that are inside addresses.
    #[error("pool {pool} overlaps the inside network {inside}; choose virtual IPs that are used nowhere inside")]
    PoolOverlapsInside {
        /// The virtual IPs.
        pool: AddressRange,
        /// The inside prefix.
        inside: IpNet,
    },
    /// A virtual IP that is this host's address where that cannot work.
    #[error("pool {pool} contains {address}, this machine's own address on '{interface}'; leave it out of the pool")]
    PoolHasOwnAddress {
        /// The virtual IPs.
        pool: AddressRange,
        /// Of this machine.
        address: IpAddr,
        /// The interface that has it.
        interface: String,
    },
    /// Nothing is left once the host's own addresses are taken out.
    #[error(
        "pool {0} has no address to give: this machine and its outside network use all of them; choose a larger pool"
    )]
    PoolHasNoFreeAddress(AddressRange),
    /// Another gateway serves these virtual IPs.
    #[error("pool {pool} is served by the running gateway --tun {other}; choose other addresses or stop that one")]
    PoolTaken {
        /// The virtual IPs.
        pool: AddressRange,
        /// The `--tun` name of the other gateway.
        other: String,
    },
    /// Another gateway serves this interface.
    #[error(
        "interface '{interface}' is used by the running gateway --tun {other} in a way that excludes this one; stop that one first"
    )]
    InterfaceTaken {
        /// Its name.
        interface: String,
        /// The `--tun` name of the other gateway.
        other: String,
    },
    /// A gateway of another name was killed and still keeps its interfaces closed.
    #[error(
        "{what} is still kept closed by the dead gateway --tun {other}; clear it with: kamei cleanup --tun {other}"
    )]
    LeftByDeadGateway {
        /// The interface or pool.
        what: String,
        /// The `--tun` name of the dead gateway.
        other: String,
    },
    /// One gateway a name.
    #[error("a gateway --tun {0} is running already; stop it first, or choose another --tun name")]
    Running(String),
    /// Two set-ups at once; the other one does not come to an end.
    #[error("another gateway has been setting up this machine's network for {0} seconds; try again when it is done")]
    Busy(u64),
    /// The locks of gateways cannot be had.
    #[error(
        "cannot lock a file in {directory}: {source}; the directory must be root's alone to write: chown root, chmod 755"
    )]
    Lock {
        /// Where they are.
        directory: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An IPv6 pool on a kernel without IPv6.
    #[error("pool {0} is IPv6, but this kernel has IPv6 switched off; switch it on or leave the pool out")]
    NoIpv6(AddressRange),
    /// The kernel refused a netlink request.
    #[error("cannot {what}: {source}; `kamei doctor` looks for the cause")]
    Netlink {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        #[source]
        source: NetlinkError,
    },
    /// A kernel setting could not be read or written.
    #[error("cannot {action} /proc/sys/{key}: {source}; the gateway needs a writable /proc/sys")]
    Sysctl {
        /// `read` or `set`.
        action: &'static str,
        /// The setting, with slashes.
        key: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file that remembers what to restore could not be written or removed.
    #[error("cannot keep what to restore in {path}: {source}; check the directory of the control socket")]
    UndoFile {
        /// In the directory of the control socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something of the operating system that has nothing to do with the network.
    #[error("cannot {what}: {source}; `kamei doctor` looks for the cause")]
    System {
        /// What was tried.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl KernelError {
    /// Wraps the kernel's answer; a refusal for want of rights becomes [`KernelError::NotPermitted`].
    pub(super) fn netlink(what: impl Into<String>, source: NetlinkError) -> Self {
        if source.is(rustix::io::Errno::PERM) {
            return Self::NotPermitted;
        }
        Self::Netlink { what: what.into(), source }
    }
}
