//! How things stand, read when it is asked for: what other parts count anyhow, and what is there at the moment.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{TypedMetric, counter::ConstCounter, gauge::ConstGauge},
};
use varve_node::agent::{Agent, Severity};
use varve_repository::{
    Repository,
    stages::{Spent, Stage, Stages},
};

use super::conditions::Conditions;

/// What can be read of a process: as much as concerns it.
#[derive(Debug)]
pub(super) struct Readings {
    conditions: Arc<Conditions>,
    repository: OnceLock<Repository>,
    agent: OnceLock<Agent>,
}

/// Writes metrics, each under its name with all its values.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.0.encode_descriptor(name, &sentence(help), None, ConstGauge::<f64>::TYPE)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.0.encode_descriptor(name, &sentence(help), None, ConstCounter::<u64>::TYPE)?)
    }

    /// Writes a metric that has a value for each of a label's values.
    fn each<M: EncodeMetric + TypedMetric>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'static str, M)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, &sentence(help), None, M::TYPE)?;
        for (value, reading) in values {
            reading.encode(metric.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    }
}

/// The registry ends its own in the same way.
fn sentence(help: &str) -> String {
    format!("{help}.")
}

impl Readings {
    pub(super) fn new(conditions: Arc<Conditions>) -> Self {
        Self { conditions, repository: OnceLock::new(), agent: OnceLock::new() }
    }

    pub(super) fn watch_repository(&self, repository: &Repository) {
        let _ = self.repository.set(repository.clone());
    }

    pub(super) fn watch_agent(&self, agent: &Agent) {
        let _ = self.agent.set(agent.clone());
    }
}

impl Collector for Readings {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let conditions = self.conditions.read();
        let held = conditions.iter().map(|(condition, holds)| (condition.as_str(), ConstGauge::new(i64::from(*holds))));
        page.each("ready", "Whether what has to hold for the process to be ready does", "condition", held)?;
        if let Some(known) = self.conditions.nodes() {
            page.gauge("nodes", "Nodes with a pool that the controller knows", count(known.nodes))?;
            page.gauge("nodes_with_agent", "Nodes whose agent has an address", count(known.with_agent))?;
        }
        if let Some(repository) = self.repository.get() {
            of_repository(&mut page, repository)?;
        }
        if let Some(agent) = self.agent.get() {
            of_stages(&mut page, agent.stages())?;
            of_agent(&mut page, agent)?;
        }
        Ok(())
    }
}

fn of_repository(page: &mut Page<'_>, repository: &Repository) -> fmt::Result {
    let asked = repository.store().requests();
    let kinds = [("list", asked.list), ("get", asked.get), ("put", asked.put), ("delete", asked.delete)];
    let requests = kinds.map(|(kind, count)| (kind, ConstCounter::new(count)));
    page.each("repository_requests", "Requests to the repository's store", "kind", requests)?;
    page.counter("repository_read_bytes", "Bytes read from the repository's store", asked.read_bytes)?;
    page.counter("repository_written_bytes", "Bytes put into the repository's store", asked.written_bytes)?;
    let failures = repository.store().failures().map(|(kind, count)| (kind.as_str(), ConstCounter::new(count)));
    let help = "Requests to the repository's store that failed, whether they were tried again or not";
    page.each("repository_failures", help, "kind", failures)
}

fn of_stages(page: &mut Page<'_>, stages: &Stages) -> fmt::Result {
    let spent = Stage::ALL.map(|stage| (stage.as_str(), stages.read(stage)));
    let each = |read: fn(&Spent) -> f64| spent.map(|(stage, spent)| (stage, ConstCounter::new(read(&spent))));
    let (busy, waited) = (each(|spent| spent.busy.as_secs_f64()), each(|spent| spent.waited.as_secs_f64()));
    page.each("stage_busy_seconds", "Time at work on offloads and hydrations, on all threads together", "stage", busy)?;
    page.each("stage_waited_seconds", "Time that stages of offloads and hydrations waited", "stage", waited)?;
    let bytes = spent.map(|(stage, spent)| (stage, ConstCounter::new(spent.bytes)));
    page.each("stage_bytes", "Bytes that went into stages of offloads and hydrations", "stage", bytes)?;
    let bytes = |stage| stages.read(stage).bytes;
    page.counter("offload_read_bytes", "Bytes that offloads read of cuts", bytes(Stage::Read))?;
    page.counter("offload_sent_bytes", "Bytes that offloads sent to the repository", bytes(Stage::Put))?;
    page.counter("hydration_fetched_bytes", "Bytes that hydrations fetched from the repository", bytes(Stage::Fetch))?;
    page.counter("hydration_written_bytes", "Bytes that hydrations wrote into volumes", bytes(Stage::Write))
}

fn of_agent(page: &mut Page<'_>, agent: &Agent) -> fmt::Result {
    let reading = agent.reading();
    if let Some(pool) = reading.pool {
        page.gauge("pool_capacity_bytes", "Size of the pool", float(pool.capacity))?;
        page.gauge("pool_free_bytes", "What can still be written to the pool", float(pool.free))?;
        page.gauge("pool_promised_bytes", "What is promised to volumes", float(pool.promised))?;
        page.gauge("pool_provisionable_bytes", "What may still be promised to volumes", float(pool.provisionable))?;
    }
    page.gauge("volumes", "Volumes on the node", count(reading.volumes))?;
    let cuts = reading.cuts;
    let states = [
        ("waiting", cuts.waiting),
        ("offloading", cuts.offloading),
        ("failed", cuts.failed),
        ("kept", cuts.kept),
        ("base", cuts.bases),
    ];
    let states = states.map(|(state, number)| (state, ConstGauge::new(count(number))));
    page.each("cuts_present", "Cuts on the node by what becomes of them", "state", states)?;
    let help = "What cuts still have to move into the repository, as far as that is known";
    page.gauge("backlog_bytes", help, float(reading.backlog_bytes))?;
    let now = agent.repository().seams().clock.now();
    let age = reading.oldest_waiting.map_or(0.0, |made| now.duration_since(made).as_secs_f64().max(0.0));
    page.gauge("backlog_age_seconds", "Age of the oldest cut that is still to be moved; 0 where there is none", age)?;
    let standing = agent.offloads();
    let turns = [("offloading", standing.running), ("waiting", standing.waiting), ("hydrating", standing.hydrating)];
    let turns = turns.map(|(state, number)| (state, ConstGauge::new(count(number))));
    page.each("transfers", "Offloads and hydrations under way, and offloads that wait for their turn", "state", turns)?;
    let ailing = |severity: Severity| count(reading.ailments.iter().filter(|found| **found == severity).count());
    let ailments = [
        ("degraded", ailing(Severity::Degraded)),
        ("inaccessible", ailing(Severity::Inaccessible)),
        ("data_loss", ailing(Severity::DataLoss)),
    ];
    let ailments = ailments.map(|(severity, number)| (severity, ConstGauge::new(number)));
    page.each("pool_ailments", "What is the matter with the pool, by how bad it is", "severity", ailments)
}

/// Metrics are floating-point numbers: exact up to 8 PiB.
#[expect(clippy::cast_precision_loss, reason = "a reading need not be exact to the byte")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

fn count(number: usize) -> f64 {
    float(u64::try_from(number).unwrap_or(u64::MAX))
}
