//! What has happened so far, counted as it happens, and the text that all metrics are served as.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};
use tonic::Code;
use varve_csi::call;
use varve_node::observe::{self, Outcome};
use varve_repository::collect::Report;

use super::readings::Readings;

/// What stands for a method that there is none of, so that nobody can make metrics grow by asking for many.
const OTHER: &str = "other";

/// Bounds of what calls take, in seconds.
const CALLS: [f64; 12] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Bounds of how long writers are held, in seconds.
const PAUSES: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Bounds of what offloads and hydrations take, in seconds.
const TRANSFERS: [f64; 11] = [0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 36000.0];

type OfOutcome<M> = Family<[(&'static str, &'static str); 1], M>;
type OfMethod = Family<[(&'static str, Arc<str>); 1], Histogram, fn() -> Histogram>;

/// What is counted.
#[derive(Debug)]
pub(in crate::serve) struct Metrics {
    registry: Registry,
    /// Every method that there is, by itself.
    methods: HashMap<Arc<str>, Arc<str>>,
    other: Arc<str>,
    calls: Family<[(&'static str, Arc<str>); 2], Counter>,
    call_seconds: OfMethod,
    cuts: Counter,
    cuts_not_made: Counter,
    pauses: Histogram,
    offloads: OfOutcome<Counter>,
    offload_seconds: Histogram,
    hydrations: OfOutcome<Counter>,
    hydration_seconds: Histogram,
    collections: OfOutcome<Counter>,
    collected_objects: Counter,
    collected_bytes: Counter,
    collected_at: Gauge<f64, AtomicU64>,
    unreadable: Gauge,
    inspections: OfOutcome<Counter>,
    damaged: Gauge,
}

impl Metrics {
    /// Starts at zero.
    pub(super) fn new(readings: Arc<Readings>) -> Self {
        let methods = varve_proto::methods().into_iter().map(|method| {
            let method: Arc<str> = method.into();
            (Arc::clone(&method), method)
        });
        let mut metrics = Self {
            registry: Registry::with_prefix("varve"),
            methods: methods.collect(),
            other: OTHER.into(),
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(|| Histogram::new(CALLS)),
            cuts: Counter::default(),
            cuts_not_made: Counter::default(),
            pauses: Histogram::new(PAUSES),
            offloads: Family::default(),
            offload_seconds: Histogram::new(TRANSFERS),
            hydrations: Family::default(),
            hydration_seconds: Histogram::new(TRANSFERS),
            collections: Family::default(),
            collected_objects: Counter::default(),
            collected_bytes: Counter::default(),
            collected_at: Gauge::default(),
            unreadable: Gauge::default(),
            inspections: Family::default(),
            damaged: Gauge::default(),
        };
        // Whoever asks for a rate wants to see the zero before the first one.
        for outcome in Outcome::ALL {
            let _ = metrics.offloads.get_or_create(&of(outcome));
        }
        for outcome in [Outcome::Done, Outcome::Failed] {
            for family in [&metrics.hydrations, &metrics.collections, &metrics.inspections] {
                let _ = family.get_or_create(&of(outcome));
            }
        }
        metrics.register(readings);
        metrics
    }

    fn register(&mut self, readings: Arc<Readings>) {
        let registry = &mut self.registry;
        registry.register("build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("calls", "gRPC calls that were answered, by method and code", self.calls.clone());
        registry.register("call_seconds", "How long gRPC calls took", self.call_seconds.clone());
        registry.register("cuts", "Snapshots that were cut", self.cuts.clone());
        registry.register("cuts_not_made", "Times that nothing could be cut", self.cuts_not_made.clone());
        registry.register("cut_pause_seconds", "How long writers were held for a cut", self.pauses.clone());
        registry.register("offloads", "Attempts to move a cut into the repository", self.offloads.clone());
        registry.register("offload_seconds", "How long attempts took that succeeded", self.offload_seconds.clone());
        registry.register("hydrations", "Volumes filled from the repository", self.hydrations.clone());
        registry.register(
            "hydration_seconds",
            "How long filling took where it succeeded",
            self.hydration_seconds.clone(),
        );
        registry.register("collections", "Collections of the repository", self.collections.clone());
        registry.register("collected_objects", "Objects that collections deleted", self.collected_objects.clone());
        registry.register("collected_bytes", "Bytes that collections deleted", self.collected_bytes.clone());
        registry.register(
            "collection_last_success_timestamp_seconds",
            "When the last collection by this process succeeded; 0 where none did",
            self.collected_at.clone(),
        );
        registry.register(
            "collection_unreadable_objects",
            "Records that the last collection could not read, and deleted nothing for",
            self.unreadable.clone(),
        );
        registry.register("inspections", "Looks at the repository's records and runs", self.inspections.clone());
        registry.register(
            "repository_damaged_objects",
            "Objects that the last look found damaged",
            self.damaged.clone(),
        );
        registry.register_collector(Box::new(readings));
    }

    /// Writes everything in the text format of OpenMetrics 1.0; blocks.
    pub(in crate::serve) fn render(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("text takes everything");
        text
    }

    /// Counts a collection that succeeded, at so many seconds since 1970.
    pub(in crate::serve) fn collected(&self, report: &Report, at: f64) {
        self.collections.get_or_create(&of(Outcome::Done)).inc();
        self.collected_objects.inc_by(report.deleted.iter().map(|garbage| garbage.amount.objects).sum());
        self.collected_bytes.inc_by(report.deleted.iter().map(|garbage| garbage.amount.bytes).sum());
        self.collected_at.set(at);
        self.unreadable.set(i64::try_from(report.plan.unreadable.len()).unwrap_or(i64::MAX));
    }

    /// Counts a collection that failed.
    pub(in crate::serve) fn not_collected(&self) {
        self.collections.get_or_create(&of(Outcome::Failed)).inc();
    }

    /// Counts a look at the repository that found so many objects damaged.
    pub(in crate::serve) fn inspected(&self, damaged: usize) {
        self.inspections.get_or_create(&of(Outcome::Done)).inc();
        self.damaged.set(i64::try_from(damaged).unwrap_or(i64::MAX));
    }

    /// Counts a look at the repository that came to nothing.
    pub(in crate::serve) fn not_inspected(&self) {
        self.inspections.get_or_create(&of(Outcome::Failed)).inc();
    }
}

fn of(outcome: Outcome) -> [(&'static str, &'static str); 1] {
    [("outcome", outcome.as_str())]
}

impl call::Observer for Metrics {
    fn ended(&self, method: &str, code: Code, duration: Duration) {
        let method = self.methods.get(method).unwrap_or(&self.other);
        let code = format!("{code:?}").into();
        self.calls.get_or_create(&[("method", Arc::clone(method)), ("code", code)]).inc();
        self.call_seconds.get_or_create(&[("method", Arc::clone(method))]).observe(duration.as_secs_f64());
    }
}

impl observe::Observer for Metrics {
    fn cut(&self, snapshots: usize, pause: Duration) {
        self.cuts.inc_by(u64::try_from(snapshots).unwrap_or(u64::MAX));
        self.pauses.observe(pause.as_secs_f64());
    }

    fn not_cut(&self) {
        self.cuts_not_made.inc();
    }

    fn offloaded(&self, outcome: Outcome, duration: Duration) {
        self.offloads.get_or_create(&of(outcome)).inc();
        if outcome == Outcome::Done {
            self.offload_seconds.observe(duration.as_secs_f64());
        }
    }

    fn hydrated(&self, outcome: Outcome, duration: Duration) {
        self.hydrations.get_or_create(&of(outcome)).inc();
        if outcome == Outcome::Done {
            self.hydration_seconds.observe(duration.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::monitor::conditions::Conditions;

    fn metrics() -> Metrics {
        Metrics::new(Arc::new(Readings::new(Arc::new(Conditions::default()))))
    }

    #[test]
    fn what_happens_is_counted() {
        let metrics = metrics();
        call::Observer::ended(&metrics, "csi.v1.Node/NodeGetInfo", Code::Ok, Duration::from_millis(2));
        call::Observer::ended(&metrics, "csi.v1.Node/NodeGetInfo", Code::NotFound, Duration::from_millis(2));
        observe::Observer::cut(&metrics, 3, Duration::from_millis(20));
        observe::Observer::offloaded(&metrics, Outcome::Retried, Duration::from_secs(2));
        observe::Observer::hydrated(&metrics, Outcome::Done, Duration::from_secs(2));
        let text = metrics.render();
        for line in [
            "varve_calls_total{method=\"csi.v1.Node/NodeGetInfo\",code=\"NotFound\"} 1",
            "varve_call_seconds_count{method=\"csi.v1.Node/NodeGetInfo\"} 2",
            "varve_call_seconds_bucket{le=\"0.001\",method=\"csi.v1.Node/NodeGetInfo\"} 0",
            "varve_cuts_total 3",
            "varve_cut_pause_seconds_bucket{le=\"0.01\"} 0",
            "varve_cut_pause_seconds_bucket{le=\"0.025\"} 1",
            "varve_offloads_total{outcome=\"retried\"} 1",
            "varve_offloads_total{outcome=\"failed\"} 0",
            "varve_offload_seconds_count 0",
            "varve_hydration_seconds_count 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains(concat!("varve_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn methods_that_there_are_none_of_are_one() {
        let metrics = metrics();
        for number in 0..1000 {
            let method = format!("csi.v1.Node/Guess{number}");
            call::Observer::ended(&metrics, &method, Code::Unimplemented, Duration::ZERO);
        }
        let text = metrics.render();
        assert!(!text.contains("Guess"), "{text}");
        assert!(text.contains("varve_calls_total{method=\"other\",code=\"Unimplemented\"} 1000"), "{text}");
    }
}
