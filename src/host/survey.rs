//! The host as an operator sees it who looks for trouble: what is in the way of a gateway, or would be.

use super::claim::Claim;
use super::error::KernelError;
use super::look;
use super::plan::{Plan, ProgramsLeft};
use super::roster::Roster;
use super::view::{Framing, Stage};
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use std::net::IpAddr;

/// What was found.
pub struct Survey {
    /// Whether a gateway of this name runs.
    pub running: bool,
    /// What the gateway itself would remark, or what would keep it from starting.
    pub remarks: Result<Vec<String>, KernelError>,
    /// Outside networks in which virtual IPs lie.
    pub lans: Vec<IpNet>,
    /// The prefixes of the insides.
    pub sources: Vec<IpNet>,
    /// The interfaces that are named, where they are there: name, index, what is before the IP header.
    pub interfaces: Vec<(String, u32, Framing)>,
    /// Virtual IPs that another machine answers for, with its hardware address.
    pub used_elsewhere: Vec<(IpAddr, String)>,
}

impl Survey {
    /// Looks, and changes nothing.
    ///
    /// # Errors
    /// What the kernel will not tell.
    pub fn take(plan: &Plan) -> Result<Self, KernelError> {
        let mut netlink = super::access::open()?;
        let running = Claim::is_taken(&plan.tun);
        let stage = if running { Stage::Running } else { Stage::Before };
        let (remarks, lans, sources, interfaces) = match look::look(&mut netlink, plan, stage) {
            Ok(host) => {
                let lans = host.lans.iter().map(|lan| lan.network).collect();
                let names = plan.insides.iter().flat_map(|inside| &inside.interfaces).chain(&plan.outsides);
                let interface = |name: &String| {
                    let index = host.index(name)?;
                    Some((name.clone(), index, host.framing.get(&index).copied()?))
                };
                (Ok(host.remarks.clone()), lans, host.sources().concat(), names.filter_map(interface).collect())
            }
            Err(error) => (Err(error), Vec::new(), Vec::new(), Vec::new()),
        };
        let failed = |what: &'static str| move |error| KernelError::netlink(what, error);
        let neighbours = netlink
            .dump(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))
            .map_err(failed("list the neighbours"))?;
        let in_a_pool = |address: IpAddr| plan.pools.iter().any(|pool| pool.contains(address.into()));
        Ok(Self {
            running,
            remarks,
            lans,
            sources,
            interfaces,
            used_elsewhere: neighbours.iter().filter_map(answers).filter(|(ip, _)| in_a_pool(*ip)).collect(),
        })
    }
}

/// The names of gateways of this namespace that were killed and have left it closed.
pub fn dead(programs_left: ProgramsLeft) -> Vec<String> {
    Roster::read(&Claim::is_taken, programs_left).dead().map(str::to_owned).collect()
}

/// A neighbour that has answered.
fn answers(message: &RouteNetlinkMessage) -> Option<(IpAddr, String)> {
    let RouteNetlinkMessage::NewNeighbour(entry) = message else { return None };
    let known = [NeighbourState::Reachable, NeighbourState::Stale, NeighbourState::Delay, NeighbourState::Permanent];
    if !known.contains(&entry.header.state) {
        return None;
    }
    let address = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::from(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })?;
    let hardware = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Some(bytes.iter().map(|byte| format!("{byte:02x}"))),
        _ => None,
    })?;
    Some((address, hardware.collect::<Vec<_>>().join(":")))
}
