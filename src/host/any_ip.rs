//! Prefixes all of whose addresses are this machine's, without an entry for each ("AnyIP": a route of the kind `local`).

use super::messages::Family;
use super::netlink::Netlink;
use super::netlink_socket::NetlinkError;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use rustix::io::Errno;

/// RT_TABLE_LOCAL (rtnetlink(7)).
const LOCAL_TABLE: u8 = 255;
/// The interface `lo` of every network namespace.
const LOOPBACK: u32 = 1;

/// A prefix that this machine answers for. The route goes when this is dropped.
#[derive(Debug)]
pub struct AnyIp(IpNet);

impl AnyIp {
    /// Adds the route, or takes over the one that is there.
    ///
    /// # Errors
    /// What the kernel says; it takes CAP_NET_ADMIN.
    pub fn add(prefix: IpNet) -> Result<Self, NetlinkError> {
        let message = RouteNetlinkMessage::NewRoute(message(prefix));
        Netlink::open()?.request(message, NLM_F_CREATE | NLM_F_REPLACE)?;
        Ok(Self(prefix))
    }
}

impl Drop for AnyIp {
    fn drop(&mut self) {
        let removed = Netlink::open().map_err(NetlinkError::from);
        let removed =
            removed.and_then(|mut netlink| netlink.request(RouteNetlinkMessage::DelRoute(message(self.0)), 0));
        if let Err(error) = removed
            && !error.is(Errno::SRCH)
        {
            log::warn!("the route `local {}` stays: {error}", self.0);
        }
    }
}

fn message(prefix: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = Family::of(prefix.addr()).number();
    message.header.destination_prefix_length = prefix.prefix_len();
    message.header.table = LOCAL_TABLE;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Host;
    message.header.kind = RouteType::Local;
    message.attributes = vec![RouteAttribute::Destination(prefix.network().into()), RouteAttribute::Oif(LOOPBACK)];
    message
}
