//! Next-hop objects (`ip nexthop`): where routes lead that name one instead of an interface. With
//! `net.ipv4.nexthop_compat_mode=0` the kernel says no more of such a route than the number of its object.

use super::netlink::Netlink;
use super::netlink_socket::NetlinkError;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Attributes of an object (linux/nexthop.h).
const ID: u16 = 1;
const GROUP: u16 = 2;
const INTERFACE: u16 = 5;
const GATEWAY: u16 = 6;
/// Bytes of struct nhmsg.
const HEADER: usize = 8;
/// Bytes of struct nexthop_grp, which begins with the number of a member.
const MEMBER: usize = 8;

/// The objects by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NextHops(BTreeMap<u32, NextHop>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NextHop {
    device: Option<u32>,
    gateway: Option<IpAddr>,
    /// Of a group: its members, which are no groups.
    members: Vec<u32>,
}

impl NextHops {
    pub(super) fn read(netlink: &mut Netlink) -> Result<Self, NetlinkError> {
        let all = netlink.dump_next_hops()?;
        Ok(Self(all.iter().filter_map(|message| parse(message)).collect()))
    }

    /// The interfaces that object `id` leaves by.
    pub(super) fn devices(&self, id: u32) -> Vec<u32> {
        self.all(id).filter_map(|hop| hop.device).collect()
    }

    /// The routers that it goes through.
    pub(super) fn gateways(&self, id: u32) -> Vec<IpAddr> {
        self.all(id).filter_map(|hop| hop.gateway).collect()
    }

    fn all(&self, id: u32) -> impl Iterator<Item = &NextHop> {
        let found = self.0.get(&id);
        let members = found.into_iter().flat_map(|hop| &hop.members).filter_map(|member| self.0.get(member));
        found.into_iter().chain(members)
    }
}

fn parse(message: &[u8]) -> Option<(u32, NextHop)> {
    let (mut id, mut hop) = (None, NextHop::default());
    let mut rest = message.get(HEADER..)?;
    while let Some([a, b, c, d, ..]) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let value = rest.get(4..length)?;
        match u16::from_ne_bytes([*c, *d]) {
            ID => id = number(value),
            GROUP => hop.members = value.chunks_exact(MEMBER).filter_map(number).collect(),
            INTERFACE => hop.device = number(value),
            GATEWAY => hop.gateway = address(value),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Some((id?, hop))
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_ne_bytes)
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_group_leads_where_its_members_lead() {
        let one = |id: u32, device: u32, last: u8| {
            [
                &[0; HEADER][..],
                &attribute(ID, &id.to_ne_bytes()),
                &attribute(INTERFACE, &device.to_ne_bytes()),
                &attribute(GATEWAY, &[192, 0, 2, last]),
            ]
            .concat()
        };
        let member = |id: u32| [&id.to_ne_bytes()[..], &[0; 4]].concat();
        let group = [
            &[0; HEADER][..],
            &attribute(ID, &9_u32.to_ne_bytes()),
            &attribute(GROUP, &[member(1), member(2), member(77)].concat()),
        ]
        .concat();
        let all = NextHops([one(1, 4, 1), one(2, 5, 2), group].iter().filter_map(|bytes| parse(bytes)).collect());
        assert_eq!((all.devices(9), all.devices(2), all.devices(3)), (vec![4, 5], vec![5], vec![]));
        assert_eq!(all.gateways(9), ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn s_objects_that_lie_about_their_length_are_left_out() {
        for bytes in [&[][..], &[0; 8], &[0; 12], &[0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 1, 0], &[1; 40]] {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
    }
}
