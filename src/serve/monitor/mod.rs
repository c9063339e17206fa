//! What a process says of itself to whoever watches over it: whether it lives, whether it is ready, and how things stand.
//!
//! ```text
//! conditions   what has to hold for it to be ready            look       questions whose answers take time
//! metrics      what has happened so far, counted as it does   readings   how things stand, read when they are asked for
//! http         /healthz, /readyz and /metrics
//! ```
//!
//! Conditions and metrics are kept whether anybody is listening or not, since Probe answers by them too.
//!
//! # Invariants
//! What is served says nothing of what volumes, snapshots and the repository are called, of what is in them, nor how the
//! repository is reached: reasons go to the log. Labels have few values, all of them known beforehand.

mod conditions;
mod http;
mod look;
mod metrics;
mod readings;

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;
use varve_csi::server::Endpoint;
use varve_kubernetes::{directory::Known, kubelet};
use varve_node::agent::Agent;
use varve_repository::Repository;

use self::{conditions::Conditions, http::Listener, readings::Readings};
pub(super) use self::{conditions::Phase, metrics::Metrics};

/// What a process says of itself. Dropping it ends the listener.
#[derive(Debug)]
pub(super) struct Monitor {
    conditions: Arc<Conditions>,
    metrics: Arc<Metrics>,
    readings: Arc<Readings>,
    listener: Option<Listener>,
}

impl Monitor {
    /// Begins, and listens where that is asked for: first of all, so that a process that takes long to start is alive and
    /// not ready meanwhile.
    ///
    /// # Errors
    /// The system's, where the address cannot be listened on.
    pub(super) async fn start(address: Option<SocketAddr>) -> anyhow::Result<Self> {
        let conditions = Arc::new(Conditions::default());
        let readings = Arc::new(Readings::new(Arc::clone(&conditions)));
        let metrics = Arc::new(Metrics::new(Arc::clone(&readings)));
        let listener = match address {
            Some(address) => Some(Listener::start(address, Arc::clone(&conditions), Arc::clone(&metrics)).await?),
            None => None,
        };
        Ok(Self { conditions, metrics, readings, listener })
    }

    /// Where it listens, where it does.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(Listener::address)
    }

    /// What counts what happens.
    pub(super) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// What has to hold for the process to be ready.
    pub(super) fn conditions(&self) -> Arc<Conditions> {
        Arc::clone(&self.conditions)
    }

    /// Goes into another phase.
    pub(super) fn enter(&self, phase: Phase) {
        self.conditions.enter(phase);
    }

    /// Watches over the socket that CSI is served on.
    pub(super) fn watch_socket(&self, endpoint: &Endpoint) {
        self.conditions.watch_socket(endpoint);
    }

    /// Watches over the repository.
    pub(super) fn watch_repository(&self, repository: &Repository) {
        self.conditions.watch_repository(repository);
        self.readings.watch_repository(repository);
    }

    /// Watches over the node.
    pub(super) fn watch_agent(&self, agent: &Agent) {
        self.conditions.watch_pool(agent);
        self.readings.watch_agent(agent);
    }

    /// Watches over the nodes that a controller knows; `None` while it is still to be told of them.
    pub(super) fn watch_nodes(&self, known: impl Fn() -> Option<Known> + Send + Sync + 'static) {
        self.conditions.watch_nodes(Box::new(known));
    }

    /// Watches over what the kubelet says; until there is something to watch the process is not ready.
    pub(super) fn watch_kubelet(&self, state: Option<watch::Receiver<kubelet::State>>) {
        self.conditions.watch_kubelet(state);
    }
}
