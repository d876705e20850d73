//! What an administrator sees of a running gateway.

use crate::lab::{Family, Lab, Plan};
use crate::traffic::{Web, curl};

#[test]
fn metrics_are_told_on_the_loopback_port_and_name_no_terminal() {
    let lab = Lab::new(Plan::gateways(1));
    let (terminal, server, host) = (lab.terminal(1), lab.server(1), lab.gateway(1));
    let _web = Web::start(&server, 80);
    let gateway =
        lab.start_with(1, &["--pool", &Lab::pool_v4(1), "--pool", &Lab::pool_v6(1), "--metrics", "127.0.0.1:9101"]);
    for family in [Family::V4, Family::V6] {
        curl(&terminal, server.address(family), 80);
    }

    let text = host.run("curl -sS --max-time 5 http://127.0.0.1:9101/metrics").ok();

    let value = |start: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("{start}: {text}"));
        line.trim().parse().unwrap_or_else(|_| panic!("{start}{line}"))
    };
    assert!(value("kamei_packets_total{direction=\"out\"}") >= 8, "{text}");
    assert_eq!(value("kamei_bindings_created_total"), 2);
    assert_eq!(value("kamei_bindings{pool=\"198.18.1.0/24\",state=\"active\"}"), 1);
    assert!(value("kamei_worker_reads_total{worker=\"0\"}") + value("kamei_worker_wakeups_total{worker=\"0\"}") > 0);
    assert_eq!(value("kamei_queue_full_total{device=\"kamei-in0\"}"), 0);
    for hidden in lab.hidden(1) {
        assert!(!text.contains(&hidden.to_string()), "{hidden} in {text}");
    }
    let same = host.run(&format!("curl -sS --unix-socket {} http://kamei/v1/metrics", gateway.control().display()));
    assert!(same.ok().ends_with("# EOF\n"));
    // Nothing else is told there, and other machines are not told anything.
    let code = host.run("curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:9101/v1/bindings").ok();
    assert_eq!(code, "404");
    assert!(!server.run("curl -sS --max-time 2 http://203.0.113.1:9101/metrics").succeeded());
}
