//! The fast path where the kernel has no TCX: a filter on the queueing discipline `clsact`.

use crate::fastpath::{call_and_callback_through, hits, warm_up};
use crate::gateway::{Gateway, KAMEI};
use crate::lab::{Family, Host, Lab, Plan};

const DISCIPLINE: &str = "tc qdisc add dev gi clsact";

fn start(lab: &Lab) -> Gateway {
    let (v4, v6) = (Lab::pool_v4(1), Lab::pool_v6(1));
    lab.start_from_file(
        1,
        &format!(
            "inside = [\"gi\"]\noutside = [\"go\"]\nfast-path = \"tc\"\nfast-path-hook = \"clsact\"\n[[pool]]\nrange = \
             \"{v4}\"\n[[pool]]\nrange = \"{v6}\"\n"
        ),
    )
}

/// What there is at tc ingress of both interfaces.
fn filters(host: &Host) -> String {
    host.run("tc filter show dev gi ingress; tc filter show dev go ingress; true").ok()
}

fn disciplines(host: &Host) -> usize {
    host.run("tc qdisc show").ok().matches("clsact").count()
}

#[test]
fn calls_and_callbacks_at_clsact() {
    for family in [Family::V4, Family::V6] {
        let lab = Lab::new(Plan::gateways(1));
        let gateway = start(&lab);
        assert_eq!(filters(&gateway.host).matches("kamei_tc direct-action").count(), 2, "{}", filters(&gateway.host));
        call_and_callback_through(&lab, &gateway, family);

        gateway.stop();
        assert_eq!((filters(&lab.gateway(1)).as_str(), disciplines(&lab.gateway(1))), ("", 0));
    }
}

#[test]
fn a_filter_that_was_left_is_taken_over_or_cleaned_up() {
    let lab = Lab::new(Plan::gateways(1));
    let host = lab.gateway(1);
    start(&lab).kill();
    assert_eq!(filters(&host).matches("kamei_tc direct-action").count(), 2);

    let successor = start(&lab);
    assert_eq!(filters(&host).matches("kamei_tc direct-action").count(), 2);
    warm_up(&lab, &successor, Family::V4);
    lab.terminal(1).run(&format!("ping -n -c 5 -i 0.01 -W 5 {}", lab.server(1).v4)).ok();
    assert!(hits(&successor) > 0);
    successor.kill();

    let said = host.run(&format!("{KAMEI} cleanup --control {}", lab.control(1).display())).ok();
    assert!(said.contains("took off the fast path"), "{said}");
    assert_eq!((filters(&host).as_str(), disciplines(&host)), ("", 0));
}

/// One that found the discipline, and one whose successor sits at TCX.
#[test]
fn a_discipline_of_somebody_else_stays_and_no_filter_does() {
    let lab = Lab::new(Plan::gateways(1));
    let host = lab.gateway(1);
    host.run(DISCIPLINE).ok();
    start(&lab).stop();
    assert_eq!((filters(&host).as_str(), disciplines(&host)), ("", 1));

    start(&lab).kill();
    let successor = lab.start(1);
    assert_eq!((filters(&host).as_str(), disciplines(&host)), ("", 1));
    warm_up(&lab, &successor, Family::V4);
}
