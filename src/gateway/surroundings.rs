//! What translator and host are told of each other.

use crate::host::{Host, Neighbours};
use crate::nat::{BindingState, InsideNumber, Nat};
use crate::time::Time;

/// Tells the translator what the host's network looks like now.
pub fn tell_surroundings(nat: &Nat, host: &Host) {
    for (inside, sources) in host.sources().into_iter().enumerate() {
        nat.set_sources(InsideNumber::of_place(inside), sources);
    }
    nat.set_own_inside(host.own_inside());
    nat.set_own_outside(host.own_outside());
    nat.set_outside_networks(host.outside_networks());
}

/// Virtual IPs that can be called are answered for, where they lie on an outside LAN.
pub fn announce(nat: &Nat, neighbours: &Neighbours, now: Time) {
    nat.for_each_binding(now, &mut |binding| {
        if binding.state == BindingState::Active {
            neighbours.announce(binding.virtual_ip);
        }
        true
    });
}
