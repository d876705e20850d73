//! Where the kernel has no TCX, or nothing else outlives the process: filters on the queueing discipline `clsact`.

use crate::fastpath::{call_and_callback_through, hits, warm_up};
use crate::gateway::{Gateway, KAMEI};
use crate::lab::{Family, Host, Lab, Plan};

const DISCIPLINE: &str = "tc qdisc add dev go clsact";

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

/// What there is at tc, on all interfaces.
fn filters(host: &Host) -> String {
    let both = |name: &str| format!("tc filter show dev {name} ingress; tc filter show dev {name} egress; ");
    host.run(&format!("{}{}true", both("gi"), both("go"))).ok()
}

/// Its programs are where they belong, and nowhere else.
fn assert_seated(host: &Host) {
    let there = filters(host);
    for program in ["kamei_leaving", "kamei_watching", "kamei_arriving"] {
        assert_eq!(there.matches(&format!("{program} direct-action")).count(), 1, "{there}");
    }
    assert_eq!(there.matches("direct-action").count(), 3, "{there}");
}

fn disciplines(host: &Host) -> usize {
    host.run("tc qdisc show").ok().matches("clsact").count()
}

#[test]
fn calls_and_callbacks_at_clsact() {
    for family in [Family::V4, Family::V6] {
        let lab = Lab::new(Plan::gateways(1));
        let gateway = start(&lab);
        assert_seated(&gateway.host);
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
    assert_seated(&host);

    let successor = start(&lab);
    assert_seated(&host);
    warm_up(&lab, &successor, Family::V4);
    lab.terminal(1).run(&format!("ping -n -c 5 -i 0.01 -W 5 {}", lab.server(1).v4)).ok();
    assert!(hits(&successor) > 0);
    successor.kill();

    let said = host.run(&format!("{KAMEI} cleanup --control {}", lab.control(1).display())).ok();
    assert!(said.contains("took the programs off"), "{said}");
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
    let successor = lab.start_prepared(1, "mount -t bpf bpf /sys/fs/bpf", &["--pool", &Lab::pool_v4(1)]);
    assert_eq!(filters(&host), "");
    warm_up(&lab, &successor, Family::V4);
    successor.stop();
    assert!(host.run("tc qdisc show dev go").ok().contains("clsact"));
}

/// Filters of others stay, and see each packet behind the gateway's.
#[test]
fn filters_of_others_come_behind() {
    let lab = Lab::new(Plan::gateways(1));
    let host = lab.gateway(1);
    host.run(DISCIPLINE).ok();
    host.run("tc filter add dev go egress pref 1 protocol all u32 match u32 0 0").ok();
    let gateway = start(&lab);
    assert_seated(&host);
    call_and_callback_through(&lab, &gateway, Family::V4);
    gateway.stop();
    let there = filters(&host);
    assert!(there.contains("u32") && !there.contains("kamei"), "{there}");
}
