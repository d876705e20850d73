//! Who may call a terminal, for who asks: the policy, where it comes from, and the peers that the terminal has called.

use super::observer::ForReal;
use crate::nat::bound::Bound;
use crate::nat::callback::CallbackPolicy;
use crate::nat::contacts::CalledPeer;
use crate::nat::qualified::Qualified;
use crate::nat::state::Nat;
use crate::nat::views::BindingView;
use crate::nat::views::ContactView;
use crate::nat::views::Direction;
use crate::nat::views::PolicyFrom;
use crate::nat::views::PolicyView;
use crate::time::Time;

impl Nat {
    /// The bindings in which an address is the terminal or the virtual IP, each with the `most` contacts called last, the latest
    /// first.
    pub fn find_with_contacts(&self, which: &Qualified, most: usize, now: Time) -> Vec<BindingView> {
        let found = self.named(which).unwrap_or_default();
        let full = |bound: &Bound| BindingView {
            contact_list: Some(self.contacts_of(bound, most, now)),
            ..self.full_view(bound, now)
        };
        found.iter().map(full).collect()
    }

    /// A binding with its callback policy.
    pub(in crate::nat) fn full_view(&self, bound: &Bound, now: Time) -> BindingView {
        let (policy, from) = match (self.policies.of(bound.owner()), self.policy_of_pool(bound)) {
            (Some(policy), _) => (policy, PolicyFrom::Binding),
            (None, Some(policy)) => (policy.clone(), PolicyFrom::Pool),
            (None, None) => (self.policy.callback.clone(), PolicyFrom::Gateway),
        };
        let source = match from {
            PolicyFrom::Binding => "its own",
            PolicyFrom::Pool => "the pool's",
            PolicyFrom::Gateway => "as all",
        };
        BindingView {
            callback: Some(format!("{policy} ({source})")),
            policy: Some(PolicyView { callback: policy.words(), from }),
            ..self.view(bound, now)
        }
    }

    /// The policy that a binding has of its own.
    pub(in crate::nat) fn own_policy(&self, bound: &Bound) -> Option<PolicyView> {
        let policy: CallbackPolicy = self.policies.of(bound.owner())?;
        Some(PolicyView { callback: policy.words(), from: PolicyFrom::Binding })
    }

    fn contacts_of(&self, bound: &Bound, most: usize, now: Time) -> Vec<ContactView> {
        let idle = self.contacts.idle();
        let view = |CalledPeer { peer, first, last, answered, called_back }: CalledPeer| {
            let last_called = Time::from_secs(last.into());
            ContactView {
                peer: peer.into(),
                since: (first != 0).then(|| Time::from_secs(first.into())),
                last_called,
                answered,
                direction: if called_back { Direction::CalledBack } else { Direction::Called },
                may_call: self.admit_peer(bound, peer, true, now, &mut ForReal).is_ok(),
                seconds_left: (last_called + idle - now).as_secs(),
            }
        };
        self.contacts.latest(bound.owner(), most, now.as_secs()).into_iter().map(view).collect()
    }
}
