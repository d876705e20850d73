//! The text, before a parser that is not ours; and whether dashboard and alerts name what exists.

use super::*;
use crate::control::{DeviceStatus, FastPathStatus, GatewayStatus, WorkerStatus};
use crate::fastpath::{MEANINGS, SLOW_REASONS};
use crate::nat::{DropReason, PoolView, StatusView, TrafficView};
use crate::store::StoreStatus;
use crate::store::history::HistoryStatus;
use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

/// A gateway of which every number is another.
fn status() -> Status {
    let pool = PoolView {
        name: "for \"the\" bank\\\n".into(),
        range: "198.18.0.0/24".parse().unwrap(),
        capacity: 256,
        active: 11,
        dormant: 12,
        quarantined: 13,
        free: 220,
        draining: false,
    };
    let worker = WorkerStatus { reads: 31, writes: 32, wakeups: 33, full_turns: 34 };
    let gateway = GatewayStatus {
        version: "1.2.3".into(),
        uptime_seconds: 41,
        workers: 2,
        by_worker: vec![worker; 2],
        devices: vec![DeviceStatus { name: "kamei-out".into(), queue_full: 42 }],
        events_waiting: 43,
        super_packets: 44,
        write_errors: 45,
        state_file: StoreStatus { commits: 46, synced: 46, failing: Some("the disk is full".into()) },
        history: HistoryStatus {
            entries: 52,
            removed: 53,
            failing: Some("the disk is full".into()),
            ..HistoryStatus::default()
        },
        fast_path: FastPathStatus {
            mode: "tc".into(),
            flows: 47,
            hits: 48,
            slow: [("fragment".to_owned(), 49), ("options".to_owned(), 50)].into(),
            noted: [("masqueraded".to_owned(), 51)].into(),
        },
        ..GatewayStatus::default()
    };
    let nat = StatusView {
        pools: vec![pool],
        out: TrafficView { packets: 1, bytes: 2 },
        inward: TrafficView { packets: 3, bytes: 4 },
        callbacks: 5,
        created: 6,
        drops: DropReason::ALL.iter().zip(100..).map(|(reason, number)| (reason.name().to_owned(), number)).collect(),
    };
    Status::new(gateway, nat)
}

/// Name, labels and value of every sample, as Python's `prometheus_client` reads them.
fn parsed(text: &str) -> Vec<(String, serde_json::Value, f64)> {
    const PARSER: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = text_string_to_metric_families(sys.stdin.read())
print(json.dumps([(s.name, s.labels, s.value) for family in families for s in family.samples]))";
    let mut python = Command::new("/usr/bin/python3") // Debian's own has the package
        .args(["-c", PARSER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Debian's python3 is needed: scripts/setup installs it");
    python.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let ran = python.wait_with_output().unwrap();
    assert!(ran.status.success(), "{}\n{text}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout).unwrap()
}

#[test]
fn an_independent_parser_reads_every_number() {
    let samples = parsed(&write(status()).unwrap());
    let value = |name: &str, labels: serde_json::Value| {
        let found = samples.iter().find(|(have, with, _)| have == name && *with == labels);
        found.unwrap_or_else(|| panic!("no {name} {labels} in {samples:?}")).2
    };
    let pool = "for \"the\" bank\\\n";
    for (name, labels, expected) in [
        ("kamei_build_info", serde_json::json!({"version": "1.2.3"}), 1.0),
        ("kamei_uptime_seconds", serde_json::json!({}), 41.0),
        ("kamei_packets_total", serde_json::json!({"direction": "out"}), 1.0),
        ("kamei_traffic_bytes_total", serde_json::json!({"direction": "in"}), 4.0),
        ("kamei_drops_total", serde_json::json!({"reason": "malformed"}), 100.0),
        ("kamei_bindings_created_total", serde_json::json!({}), 6.0),
        ("kamei_callbacks_total", serde_json::json!({}), 5.0),
        ("kamei_bindings", serde_json::json!({"pool": pool, "state": "dormant"}), 12.0),
        ("kamei_pool_addresses", serde_json::json!({"pool": pool}), 256.0),
        ("kamei_pool_free_addresses", serde_json::json!({"pool": pool}), 220.0),
        ("kamei_worker_wakeups_total", serde_json::json!({"worker": "1"}), 33.0),
        ("kamei_queue_full_total", serde_json::json!({"device": "kamei-out"}), 42.0),
        ("kamei_write_errors_total", serde_json::json!({}), 45.0),
        ("kamei_journal_commits_total", serde_json::json!({}), 46.0),
        ("kamei_journal_failing", serde_json::json!({}), 1.0),
        ("kamei_history_entries", serde_json::json!({}), 52.0),
        ("kamei_history_removed_total", serde_json::json!({}), 53.0),
        ("kamei_history_failing", serde_json::json!({}), 1.0),
        ("kamei_fast_path_flows", serde_json::json!({}), 47.0),
        ("kamei_fast_path_packets_total", serde_json::json!({}), 48.0),
        ("kamei_fast_path_slow_packets_total", serde_json::json!({"reason": "options"}), 50.0),
        ("kamei_fast_path_noted_packets_total", serde_json::json!({"reason": "masqueraded"}), 51.0),
    ] {
        assert!((value(name, labels) - expected).abs() < 0.5, "{name}");
    }
    assert_eq!(samples.iter().filter(|(name, ..)| name == "kamei_drops_total").count(), DropReason::ALL.len());
}

/// Whether something is counted by this reason.
fn is_told(reason: &str) -> bool {
    let of_the_kernel = MEANINGS.map(|(name, _)| name).into_iter().chain(SLOW_REASONS);
    DropReason::ALL.iter().map(|reason| reason.name()).chain(of_the_kernel).any(|name| name == reason)
}

#[test]
fn dashboard_and_alerts_name_metrics_that_exist() {
    let have: BTreeSet<String> = parsed(&write(status()).unwrap()).into_iter().map(|(name, ..)| name).collect();
    let observe = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/observe/");
    for file in ["grafana.json", "alerts.yml"] {
        let text = std::fs::read_to_string(format!("{observe}{file}")).unwrap();
        let names: BTreeSet<&str> = text
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("kamei_"))
            .collect();
        assert!(names.len() > 5, "{file} names only {names:?}");
        let unknown: Vec<&&str> = names.iter().filter(|name| !have.contains(**name)).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}, which no gateway tells");
        let selectors = text.split('{').filter_map(|part| part.split_once('}')).map(|(selector, _)| selector);
        let reasons: Vec<&str> = selectors
            .filter_map(|selector| selector.split_once("reason")?.1.split('"').nth(1))
            .flat_map(|reasons| reasons.split('|'))
            .collect();
        let unknown: Vec<&&str> = reasons.iter().filter(|reason| !is_told(reason)).collect();
        assert!(unknown.is_empty(), "{file} names the reasons {unknown:?}, which no gateway tells");
        assert!(file.ends_with("json") || reasons.len() > 4, "{file} names only the reasons {reasons:?}");
        if file.ends_with("json") {
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
    }
}
