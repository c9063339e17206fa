//! Serving: controller and node, each as a process of its own or both in one.
//!
//! ```text
//! standalone    both in one process, on one Unix socket
//! controller    the controller alone: it reaches nodes over the agent API, has no pool and needs no root
//! node          a node alone: it owns a pool, and serves the agent API to controllers
//!
//! inspection    looking at the repository now and then         collection    deleting garbage from it now and then
//! monitor       health and metrics, for whoever watches over the process
//! ```
//!
//! Everything is built here and handed on; nothing is global. What a process is made of is built by the same functions
//! whichever process it is; only the way from the controller to the nodes differs.
//!
//! # Cancellation
//!
//! SIGTERM or SIGINT ends a process: calls in flight are answered or, after a grace, aborted; the agent is stopped,
//! which interrupts offloads at a point from which the next start goes on; the pool is closed. A pool whose volumes are
//! still staged stays mounted for their workloads, and the next start takes it over. A second signal exits at once,
//! which is no worse than a crash: the next start puts things in order.

mod collection;
pub(crate) mod controller;
mod inspection;
mod monitor;
pub(crate) mod node;
pub(crate) mod standalone;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use varve_csi::{
    identity::{Identity, Readiness},
    server::{self, Endpoint},
};
use varve_proto::csi::{PluginCapability, identity_server::IdentityServer};
use varve_repository::Repository;

use self::monitor::{Monitor, Phase};
use crate::{config::Bandwidth, failure::Usage};

/// A process's CSI socket and the services on it.
struct Socket<'a> {
    endpoint: Endpoint,
    routes: Routes,
    monitor: &'a Monitor,
}

impl<'a> Socket<'a> {
    /// Starts with the Identity service, which says of the process what holds for it.
    fn new(endpoint: Endpoint, capabilities: Vec<PluginCapability>, monitor: &'a Monitor) -> Self {
        let routes = Routes::new(IdentityServer::new(Identity::new(capabilities, readiness(monitor))));
        monitor.watch_socket(&endpoint);
        Self { endpoint, routes, monitor }
    }

    /// Puts services beside it.
    fn with(mut self, add: impl FnOnce(Routes) -> Routes) -> Self {
        self.routes = add(self.routes);
        self
    }

    /// Serves until told to end; `announce` is called once it listens.
    async fn serve(
        self,
        shutdown: &CancellationToken,
        grace: Duration,
        announce: impl FnOnce() + Send,
    ) -> Result<(), server::Error> {
        let monitor = self.monitor;
        let until_told = async {
            // The server waits for this only once it listens.
            monitor.enter(Phase::Serving);
            announce();
            shutdown.cancelled().await;
            monitor.enter(Phase::Ending);
        };
        let served =
            server::serve_observed(&self.endpoint, self.routes, until_told, grace, Some(monitor.metrics())).await;
        // Also where serving failed.
        monitor.enter(Phase::Ending);
        served
    }
}

fn readiness(monitor: &Monitor) -> Readiness {
    let conditions = monitor.conditions();
    Arc::new(move || {
        let ready = conditions.can_serve();
        Box::pin(async move { Ok(ready) })
    })
}

/// Limits what a process sends to the repository's store and fetches from it.
fn limit(repository: &Repository, bandwidth: Bandwidth) {
    repository.upload_bandwidth().set(bandwidth.upload);
    repository.download_bandwidth().set(bandwidth.download);
}

/// Reads where to serve.
fn endpoint(text: &str) -> Result<Endpoint, Usage> {
    Endpoint::parse(text).map_err(|error| Usage(error.to_string()))
}
