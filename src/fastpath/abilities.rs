//! What interfaces and their drivers can, as the kernel tells it in generic netlink.

use crate::host::netlink_socket::{NetlinkSocket, attribute, attributes, half, number, value};
use netlink_packet_core::NLM_F_DUMP;
use netlink_sys::protocols::NETLINK_GENERIC;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME` (linux/genetlink.h).
const CONTROL: (u16, u8, u16, u16) = (0x10, 3, 1, 2);
/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_IFINDEX`, `NETDEV_A_DEV_XDP_FEATURES` (linux/netdev.h).
const DEVICES: (u8, u16, u16) = (1, 1, 3);
/// `ETHTOOL_MSG_FEATURES_GET`, `ETHTOOL_A_FEATURES_HEADER`, `ETHTOOL_A_HEADER_DEV_INDEX`, `ETHTOOL_A_FEATURES_ACTIVE`
/// (linux/ethtool_netlink.h).
const FEATURES: (u8, u16, u16, u16) = (11, 1, 1, 4);
/// `ETHTOOL_A_BITSET_BITS`, `ETHTOOL_A_BITSET_BITS_BIT`, `ETHTOOL_A_BITSET_BIT_NAME`.
const BITS: (u16, u16, u16) = (3, 1, 2);

/// Bytes of `struct genlmsghdr`: command, version, two of nothing.
const HEADER: usize = 4;

/// A driver's part in XDP: `NETDEV_XDP_ACT_*` (linux/netdev.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    /// Runs programs, and hands frames on to other drivers.
    pub fn runs_programs(self) -> bool {
        self.0 & 0b11 == 0b11
    }

    /// Sends frames that other drivers hand it.
    pub fn takes_frames(self) -> bool {
        self.0 & 0b100 != 0
    }
}

/// Tells what interfaces can.
pub struct Abilities {
    netlink: NetlinkSocket,
    devices: u16,
    settings: u16,
}

impl Abilities {
    /// Of this network namespace.
    ///
    /// # Errors
    /// Where the kernel does not tell: before Linux 6.3.
    pub fn open() -> io::Result<Self> {
        let mut netlink = NetlinkSocket::open(NETLINK_GENERIC)?;
        let (devices, settings) = (family(&mut netlink, "netdev")?, family(&mut netlink, "ethtool")?);
        Ok(Self { netlink, devices, settings })
    }

    /// Of every interface, by index.
    pub fn xdp(&mut self) -> io::Result<BTreeMap<u32, XdpFeatures>> {
        let (command, index, features) = DEVICES;
        let answers = self.netlink.ask(self.devices, NLM_F_DUMP, &request(command, &[]))?;
        let device = |answer: &Vec<u8>| {
            let about = answer.get(HEADER..)?;
            let bits = value(about, features)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))?;
            Some((value(about, index).and_then(number)?, XdpFeatures(bits)))
        };
        Ok(answers.iter().filter_map(device).collect())
    }

    /// Names of what is switched on at an interface, as `ethtool -k` has them.
    pub fn switched_on(&mut self, interface: u32) -> io::Result<BTreeSet<String>> {
        let (command, header, index, active) = FEATURES;
        let (bits, bit, name) = BITS;
        let which = attribute(header | 0x8000, &attribute(index, &interface.to_ne_bytes())); // NLA_F_NESTED
        let answers = self.netlink.ask(self.settings, 0, &request(command, &which))?;
        let active = answers.iter().find_map(|answer| value(answer.get(HEADER..)?, active)).unwrap_or_default();
        let set = attributes(value(active, bits).unwrap_or_default()).filter(|(kind, _)| *kind == bit);
        Ok(set.filter_map(|(_, bit)| value(bit, name)).map(text).collect())
    }
}

/// The number of a family of generic netlink.
fn family(netlink: &mut NetlinkSocket, name: &str) -> io::Result<u16> {
    let (control, command, id, called) = CONTROL;
    let name = attribute(called, format!("{name}\0").as_bytes());
    let answers = netlink.ask(control, 0, &request(command, &name))?;
    let id = answers.iter().find_map(|answer| half(value(answer.get(HEADER..)?, id)?));
    id.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn request(command: u8, attributes: &[u8]) -> Vec<u8> {
    [&[command, 1, 0, 0], attributes].concat()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loopback interface has number 1 in every namespace, and no XDP of its own.
    #[test]
    fn the_kernel_tells_what_the_loopback_interface_can() {
        let mut abilities = Abilities::open().unwrap();
        let loopback = abilities.xdp().unwrap()[&1];
        assert!(!loopback.runs_programs() && !loopback.takes_frames(), "{loopback:?}");
        let on = abilities.switched_on(1).unwrap();
        assert!(on.contains("tx-checksum-ip-generic") && on.contains("tx-scatter-gather"), "{on:?}");
        assert!(abilities.switched_on(u32::MAX).is_err());
    }
}
