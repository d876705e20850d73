//! Who may call a terminal, for who asks: the policy, where it comes from, and the peers that the terminal has called.

use super::contacts::Known;
use super::decide::Bound;
use super::settings::CallbackPolicy;
use super::table::Found;
use super::{BindingView, Named, Nat, owner};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The callback policy of a binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// As in the configuration: `contacted`, `answered`, `anyone` or prefixes.
    pub callback: Vec<String>,
    /// Who says so.
    pub from: PolicyFrom,
}

/// Where a callback policy comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyFrom {
    /// It is the binding's own.
    Binding,
    /// It is that of its pool.
    Pool,
    /// It is that of the whole gateway.
    Gateway,
}

/// A peer that the terminal has called within the time for which that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactView {
    /// The peer.
    pub peer: IpAddr,
    /// Since when it is a contact: when the terminal first called it, without having been forgotten since (milliseconds
    /// since the Unix epoch); `None` where an earlier kamei has kept it and did not write that down.
    #[serde(default)]
    pub since: Option<Time>,
    /// When the terminal last sent it a packet (milliseconds since the Unix epoch).
    pub last_called: Time,
    /// Whether it has sent anything back since.
    pub answered: bool,
    /// Who has called whom since then.
    #[serde(default)]
    pub direction: Direction,
    /// Whether it may call now.
    pub may_call: bool,
    /// Seconds until it is forgotten, if the terminal does not call it again.
    pub seconds_left: u64,
}

/// Who has opened connections, a terminal or the peer it has called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Only the terminal.
    #[default]
    Called,
    /// The peer too: it has called back. As with the callbacks that a binding counts, TCP connections are meant; a datagram
    /// may be an answer.
    CalledBack,
}

impl ContactView {
    /// As it is shown where the wall clock is so many seconds ahead of the times in it.
    pub(super) fn shown(self, ahead: i64) -> Self {
        let shifted = |time: Time| time.shifted(ahead.saturating_mul(1000));
        Self { since: self.since.map(shifted), last_called: shifted(self.last_called), ..self }
    }
}

impl Nat {
    /// The bindings in which an address is the terminal or the virtual IP, each with the `most` contacts called last, the latest
    /// first.
    pub fn find_with_contacts(&self, which: &Named, most: usize, now: Time) -> Vec<BindingView> {
        let found = self.named(which).unwrap_or_default();
        let full = |(table, found): &(usize, Found)| BindingView {
            contact_list: Some(self.contacts_of(*table, found, most, now)),
            ..self.full_view(*table, found, now)
        };
        found.iter().map(full).collect()
    }

    /// A binding with its callback policy.
    pub(super) fn full_view(&self, table: usize, found: &Found, now: Time) -> BindingView {
        let bound = bound(table, found);
        let (policy, from) = match (self.policies.of(bound.owner()), self.policy_of_pool(&bound)) {
            (Some(policy), _) => (policy, PolicyFrom::Binding),
            (None, Some(policy)) => (policy.clone(), PolicyFrom::Pool),
            (None, None) => (self.callback.clone(), PolicyFrom::Gateway),
        };
        let source = match from {
            PolicyFrom::Binding => "its own",
            PolicyFrom::Pool => "the pool's",
            PolicyFrom::Gateway => "as all",
        };
        BindingView {
            callback: Some(format!("{policy} ({source})")),
            policy: Some(PolicyView { callback: policy.words(), from }),
            ..self.view(table, found, now)
        }
    }

    /// The policy that a binding has of its own.
    pub(super) fn own_policy(&self, table: usize, found: &Found) -> Option<PolicyView> {
        let policy: CallbackPolicy = self.policies.of(owner(table, found))?;
        Some(PolicyView { callback: policy.words(), from: PolicyFrom::Binding })
    }

    fn contacts_of(&self, table: usize, found: &Found, most: usize, now: Time) -> Vec<ContactView> {
        let bound = bound(table, found);
        let idle = self.contacts.idle();
        let view = |Known { peer, first, last, answered, called_back }: Known| {
            let last_called = Time::from_secs(last.into());
            ContactView {
                peer: peer.into(),
                since: (first != 0).then(|| Time::from_secs(first.into())),
                last_called,
                answered,
                direction: if called_back { Direction::CalledBack } else { Direction::Called },
                may_call: self.may_call(&bound, peer, true, now).is_ok(),
                seconds_left: (last_called + idle - now).as_secs(),
            }
        };
        self.contacts.latest(bound.owner(), most, now.as_secs()).into_iter().map(view).collect()
    }
}

fn bound(table: usize, found: &Found) -> Bound {
    Bound { table: u16::try_from(table).unwrap_or(u16::MAX), found: *found }
}
