//! Metrics: the status, as OpenMetrics text. Addresses of terminals are never in it.
//!
//! To add a metric, add a line to [`Metrics::tell`]; `scripts/observe` has the dashboard and the alerts.

use super::Status;
use super::relay::{AgentStatus, RelayStatus};
use crate::nat::BindingState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;

/// What the text is (OpenMetrics 1.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes all metrics.
pub fn write(status: Status) -> Result<String, fmt::Error> {
    write_all(Metrics(status))
}

/// Writes all metrics of a relay.
pub fn write_relay(status: RelayStatus) -> Result<String, fmt::Error> {
    write_all(RelayMetrics(status))
}

/// Writes all metrics of an agent.
pub fn write_agent(status: AgentStatus) -> Result<String, fmt::Error> {
    write_all(AgentMetrics(status))
}

fn write_all(metrics: impl Collector) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(metrics));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct RelayMetrics(RelayStatus);

impl Collector for RelayMetrics {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let (status, mut to) = (&self.0, Teller(encoder));
        to.info("build", "Which kamei this is", [("version", &status.version)])?;
        to.gauge("uptime", "Time since the start", Some(Unit::Seconds), [([], status.uptime_seconds)])?;
        to.gauge("relay_members", "Agents that have joined", None, [([], status.members as u64)])?;
        to.gauge("relay_agents", "Agents that are here", None, [([], status.agents as u64)])?;
        to.gauge("relay_servers", "Servers that agents publish", None, [([], status.servers as u64)])?;
        to.gauge("relay_connections", "Connections of clients", None, [([], status.connections as u64)])?;
        to.counter("relay_carried", "Connections that were carried", None, [([], status.carried)])?;
        let refused = status.refused.iter().map(|(reason, number)| ([("reason", reason.as_str())], *number));
        to.counter("relay_refused", "Connections that were refused, by reason", None, refused)
    }
}

#[derive(Debug)]
struct AgentMetrics(AgentStatus);

impl Collector for AgentMetrics {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let (status, mut to) = (&self.0, Teller(encoder));
        to.info("build", "Which kamei this is", [("version", &status.version)])?;
        to.gauge("uptime", "Time since the start", Some(Unit::Seconds), [([], status.uptime_seconds)])?;
        let of = |number: fn(&super::relay::AgentRelay) -> u64| {
            status.relays.iter().map(move |relay| ([("relay", relay.relay.as_str())], number(relay)))
        };
        let connected = of(|relay| u64::from(relay.connected_seconds.is_some()));
        to.gauge("agent_connected", "1 while there is a session with the relay, else 0", None, connected)?;
        to.gauge(
            "agent_connections",
            "Connections, being dialled or open",
            None,
            of(|relay| relay.connections as u64),
        )?;
        let refused = of(|relay| relay.published.iter().filter(|server| server.refused.is_some()).count() as u64);
        to.gauge("agent_refused_servers", "Servers that the relay does not take", None, refused)
    }
}

#[derive(Debug)]
struct Metrics(Status);

/// One number of a metric, with its labels.
type Sample<'a, const LABELS: usize> = ([(&'static str, &'a str); LABELS], u64);

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        self.tell(&mut Teller(encoder))
    }
}

impl Metrics {
    /// Every metric there is.
    fn tell(&self, to: &mut Teller<'_>) -> fmt::Result {
        let Status { gateway, bindings: _, nat } = &self.0;
        to.info("build", "Which kamei this is", [("version", &gateway.version)])?;
        to.gauge("uptime", "Time since the start", Some(Unit::Seconds), [([], gateway.uptime_seconds)])?;
        let directions = [("out", nat.out), ("in", nat.inward)];
        let packets = directions.map(|(name, traffic)| ([("direction", name)], traffic.packets));
        to.counter("packets", "Packets translated; a super-packet counts once", None, packets)?;
        let bytes = directions.map(|(name, traffic)| ([("direction", name)], traffic.bytes));
        to.counter("traffic", "Bytes of packets translated, IP headers included", Some(Unit::Bytes), bytes)?;
        let drops = nat.drops.iter().map(|(reason, number)| ([("reason", reason.as_str())], *number));
        to.counter("drops", "Packets dropped, by reason", None, drops)?;
        to.counter("bindings_created", "Bindings made", None, [([], nat.created)])?;
        to.counter("callbacks", "Connections opened by peers", None, [([], nat.callbacks)])?;
        let bindings = nat.pools.iter().flat_map(|pool| {
            let states = [
                (BindingState::Active, pool.active),
                (BindingState::Dormant, pool.dormant),
                (BindingState::Quarantined, pool.quarantined),
            ];
            states
                .map(|(state, number)| ([("pool", pool.name.as_str()), ("state", super::filter::name(state))], number))
        });
        to.gauge("bindings", "Bindings, by pool and state", None, bindings)?;
        let capacity = nat.pools.iter().map(|pool| ([("pool", pool.name.as_str())], pool.capacity));
        to.gauge("pool_addresses", "Virtual IPs that a pool can give at one time", None, capacity)?;
        let free = nat.pools.iter().map(|pool| ([("pool", pool.name.as_str())], pool.free));
        to.gauge("pool_free_addresses", "Virtual IPs that a pool can give now", None, free)?;
        to.counter("super_packets", "Packets longer than 1,500 bytes read", None, [([], gateway.super_packets)])?;
        let errors = [([], gateway.write_errors)];
        to.counter("write_errors", "Translated packets that the kernel did not take", None, errors)?;
        let full = gateway.devices.iter().map(|device| ([("device", device.name.as_str())], device.queue_full));
        to.counter("queue_full", "Packets that the kernel dropped because a worker's queue was full", None, full)?;
        let waiting = [([], gateway.events_waiting as u64)];
        to.gauge("events_waiting", "Events that wait to be written to the log", None, waiting)?;
        let fast = &gateway.fast_path;
        to.gauge("fast_path_flows", "Flows that the kernel carries", None, [([], fast.flows)])?;
        to.counter("fast_path_packets", "Packets that the kernel has translated", None, [([], fast.hits)])?;
        let slow = fast.slow.iter().map(|(reason, number)| ([("reason", reason.as_str())], *number));
        to.counter("fast_path_slow_packets", "Packets that the kernel left to the workers, by reason", None, slow)?;
        let noted = fast.noted.iter().map(|(reason, number)| ([("reason", reason.as_str())], *number));
        let what = "Packets that the kernel's programs have dropped, or let pass as they were, by reason";
        to.counter("fast_path_noted_packets", what, None, noted)?;
        let store = &gateway.state_file;
        to.counter("journal_commits", "Commits to the state file", None, [([], store.commits)])?;
        let failing = [([], u64::from(store.failing.is_some()))];
        to.gauge("journal_failing", "1 while nothing can be written to the state file, else 0", None, failing)?;
        let history = &gateway.history;
        to.gauge("history_entries", "Entries of the history", None, [([], history.entries)])?;
        to.counter(
            "history_removed",
            "Entries removed from the history: too old or too many",
            None,
            [([], history.removed)],
        )?;
        to.counter("history_lost", "Changes of bindings that are not in the history", None, [([], history.lost)])?;
        let failing = [([], u64::from(history.failing.is_some()))];
        to.gauge("history_failing", "1 while nothing can be written to the history, else 0", None, failing)?;
        self.tell_workers(to)
    }

    fn tell_workers(&self, to: &mut Teller<'_>) -> fmt::Result {
        let workers = &self.0.gateway.by_worker;
        let numbers: Vec<String> = (0..workers.len()).map(|number| number.to_string()).collect();
        let each = |of: fn(&super::WorkerStatus) -> u64| {
            numbers.iter().zip(workers).map(move |(number, worker)| ([("worker", number.as_str())], of(worker)))
        };
        to.counter("worker_reads", "Packets read by a worker", None, each(|worker| worker.reads))?;
        to.counter("worker_writes", "Packets written by a worker", None, each(|worker| worker.writes))?;
        to.counter("worker_wakeups", "How often a worker was woken", None, each(|worker| worker.wakeups))?;
        let help = "How often a queue had more packets than a worker takes at one turn";
        to.counter("worker_full_turns", help, None, each(|worker| worker.full_turns))
    }
}

/// Writes a metric: name without `kamei_` in front and without `_total` behind.
struct Teller<'a>(DescriptorEncoder<'a>);

impl Teller<'_> {
    fn counter<'a, const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = Sample<'a, LABELS>>,
    ) -> fmt::Result {
        let samples = samples.into_iter().map(|(labels, number)| (labels, ConstCounter::new(number)));
        self.family(name, help, unit, samples)
    }

    fn gauge<'a, const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = Sample<'a, LABELS>>,
    ) -> fmt::Result {
        let samples = samples.into_iter().map(|(labels, number)| (labels, ConstGauge::new(number)));
        self.family(name, help, unit, samples)
    }

    fn info<const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [(&'static str, &str); LABELS],
    ) -> fmt::Result {
        self.family(name, help, None, [([("", ""); 0], Info::new(labels))])
    }

    /// A metric with its numbers; one without any is left out, for the format has no empty families.
    fn family<'a, const LABELS: usize, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = ([(&'static str, &'a str); LABELS], M)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter();
        let Some((labels, first)) = samples.next() else { return Ok(()) };
        let name = format!("kamei_{name}");
        let mut family = self.0.encode_descriptor(&name, help, unit.as_ref(), first.metric_type())?;
        if LABELS == 0 {
            return first.encode(family); // a family would write empty braces
        }
        first.encode(family.encode_family(&labels)?)?;
        samples.try_for_each(|(labels, metric)| metric.encode(family.encode_family(&labels)?))
    }
}

#[cfg(test)]
mod tests;
