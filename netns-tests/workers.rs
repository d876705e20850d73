//! How workers wait for packets.

use crate::lab::{Family, Lab, Plan};
use crate::traffic::{Web, curl};
use std::time::Duration;

/// An idle gateway, looked at for some seconds.
#[test]
fn an_idle_gateway_sleeps_and_a_polling_one_too() {
    for options in ["", "busy-poll = \"5ms\"\npin = [0]\n"] {
        let lab = Lab::new(Plan::gateways(1));
        let _web = Web::start(&lab.server(1), 80);
        let pool = Lab::pool_v4(1);
        let text = format!("inside = [\"gi\"]\noutside = [\"go\"]\n{options}[[pool]]\nrange = \"{pool}\"\n");
        let gateway = lab.start_from_file(1, &text);
        curl(&lab.terminal(1), lab.server(1).address(Family::V4), 80);
        // What the call has left to be noted is noted, and the polling is over.
        std::thread::sleep(Duration::from_secs(1));
        let before = gateway.naps();

        std::thread::sleep(Duration::from_secs(3));

        for (thread, naps) in gateway.naps() {
            let more = naps - before.get(&thread).copied().unwrap_or_default();
            assert!(more <= 30, "{thread} was woken {more} times in 3 s of idleness");
        }
    }
}
