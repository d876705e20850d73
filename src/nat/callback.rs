//! The callback policy: which peers may call back.

use super::contacts::CalledPeer;
use crate::nat::binding::Owner;
use crate::nat::numbers::TableNumber;
use crate::nat::reason::DropReason;
use crate::wire::Address;
use ipnet::IpNet;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

/// Who may open a connection to a virtual IP (RFC 4787 REQ-8, RFC 5382 REQ-3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CallbackPolicy {
    /// Only a peer that this terminal has called (address-dependent filtering).
    #[default]
    Contacted,
    /// Only a peer that this terminal has called and that has answered it: TCP that is no connection request, a datagram, an
    /// ICMP reply.
    Answered,
    /// Every peer (endpoint-independent filtering).
    Anyone,
    /// Peers in these prefixes, and those that this terminal has called.
    Prefixes(Vec<IpNet>),
}

/// Whether a packet is let in, or why not.
type Admitted = Result<(), DropReason>;

/// Policies that the operator gave to single bindings.
#[derive(Default)]
pub struct Policies {
    by_slot: RwLock<HashMap<(TableNumber, u32), (u32, CallbackPolicy)>>,
}

impl Policies {
    /// What the binding's own policy says of a packet from `peer`; `None` if it has none.
    pub fn admit(&self, owner: Owner, peer: Address, contact: Option<CalledPeer>, calls: bool) -> Option<Admitted> {
        let by_slot = self.by_slot.read();
        let (created, policy) = by_slot.get(&(owner.table, owner.index))?;
        (*created == owner.created).then(|| policy.admit(peer, contact, calls))
    }

    /// The binding goes on as `to`.
    pub fn hand_over(&self, from: Owner, to: Owner) {
        let mut by_slot = self.by_slot.write();
        if let Some((_, policy)) =
            by_slot.remove(&(from.table, from.index)).filter(|(created, _)| *created == from.created)
        {
            by_slot.insert((to.table, to.index), (to.created, policy));
        }
    }

    /// The binding's own policy.
    pub fn of(&self, owner: Owner) -> Option<CallbackPolicy> {
        let by_slot = self.by_slot.read();
        let (created, policy) = by_slot.get(&(owner.table, owner.index))?;
        (*created == owner.created).then(|| policy.clone())
    }

    /// Gives the binding a policy of its own, or takes it away.
    pub fn set(&self, owner: Owner, policy: Option<CallbackPolicy>) {
        let mut by_slot = self.by_slot.write();
        match policy {
            Some(policy) => by_slot.insert((owner.table, owner.index), (owner.created, policy)),
            None => by_slot.remove(&(owner.table, owner.index)),
        };
    }
}

impl CallbackPolicy {
    /// As in the configuration.
    pub fn words(&self) -> Vec<String> {
        match self {
            CallbackPolicy::Contacted => vec!["contacted".to_owned()],
            CallbackPolicy::Answered => vec!["answered".to_owned()],
            CallbackPolicy::Anyone => vec!["anyone".to_owned()],
            CallbackPolicy::Prefixes(prefixes) => prefixes.iter().map(ToString::to_string).collect(),
        }
    }

    /// Whether a packet from `peer`, which `calls` or may be an answer, is let in; `contact`: the terminal has called it.
    pub(super) fn admit(&self, peer: Address, contact: Option<CalledPeer>, calls: bool) -> Admitted {
        let is_welcome = match self {
            CallbackPolicy::Contacted | CallbackPolicy::Answered => false,
            CallbackPolicy::Anyone => true,
            CallbackPolicy::Prefixes(prefixes) => {
                let peer = IpAddr::from(peer);
                prefixes.iter().any(|prefix| prefix.contains(&peer))
            }
        };
        match contact {
            _ if is_welcome => Ok(()),
            None => Err(DropReason::NotContacted),
            Some(CalledPeer { answered: false, .. }) if calls && *self == CallbackPolicy::Answered => {
                Err(DropReason::NotAnswered)
            }
            Some(_) => Ok(()),
        }
    }
}

impl fmt::Display for CallbackPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallbackPolicy::Contacted => f.write_str("only peers that the terminal has called"),
            CallbackPolicy::Answered => {
                f.write_str("only peers that the terminal has called and that have answered it")
            }
            CallbackPolicy::Anyone => f.write_str("anyone"),
            CallbackPolicy::Prefixes(prefixes) => {
                f.write_str("peers that the terminal has called, and")?;
                prefixes.iter().try_for_each(|prefix| write!(f, " {prefix}"))
            }
        }
    }
}
