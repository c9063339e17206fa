//! `varve controller`: CSI Identity, Controller, GroupController and SnapshotMetadata on a Unix socket; the nodes over the
//! agent API.
//!
//! It keeps nothing, so it may be killed at any moment, and several may run at once.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use varve_controller::{Controller, Options, nodes::Nodes};
use varve_kubernetes::directory::{Known, Kubernetes};
use varve_link::{
    Trust,
    directory::{Directory, Table},
    nodes::Dialled,
};
use varve_proto::csi::{
    controller_server::ControllerServer, group_controller_server::GroupControllerServer,
    snapshot_metadata_server::SnapshotMetadataServer,
};
use varve_repository::Repository;

use super::{
    Socket, collection, endpoint, inspection, limit,
    monitor::{Metrics, Monitor},
};
use crate::{
    arguments,
    config::{Control, Discovery, File},
    repository,
    signal::{self, Second},
};

/// Serves until told to end.
///
/// # Errors
/// `Usage` where the arguments are not usable; what failed where the controller cannot start or not serve.
pub(crate) async fn run(arguments: arguments::Controller) -> anyhow::Result<()> {
    let settings = File::read(arguments.serve.repository.config.as_deref())?.controller(&arguments)?;
    let endpoint = endpoint(&settings.serve.endpoint)?;
    let shutdown = signal::watch(Second::Exits)?;
    let monitor = Monitor::start(settings.serve.http_listen).await?;
    let repository = repository::open_shared(&settings.serve.access).await?;
    limit(&repository, settings.serve.bandwidth);
    monitor.watch_repository(&repository);
    let directory = directory(settings.discovery, &monitor, &shutdown).await?;
    let nodes = Arc::new(Dialled::new(&Trust::of(&repository), directory));
    let part = Part::start(repository.clone(), nodes, &settings.control, &name(), monitor.metrics(), shutdown.clone());
    let socket =
        Socket::new(endpoint.clone(), Controller::plugin_capabilities(), &monitor).with(|routes| part.add_to(routes));
    let announce = || {
        let (repository, http) = (repository.store().url(), monitor.address());
        tracing::info!(%endpoint, repository, http = http.map(tracing::field::display), "ready");
    };
    let served = socket.serve(&shutdown, settings.serve.grace, announce).await;
    // Also where serving failed, so that nothing goes on behind a process that is about to end.
    shutdown.cancel();
    part.end().await;
    served?;
    tracing::info!("ended");
    Ok(())
}

/// How nodes are found, until the process is to end.
async fn directory(
    discovery: Discovery,
    monitor: &Monitor,
    shutdown: &CancellationToken,
) -> anyhow::Result<Arc<dyn Directory>> {
    match discovery {
        Discovery::Table(nodes) => {
            let known = Known { nodes: nodes.len(), with_agent: nodes.len() };
            monitor.watch_nodes(move || Some(known));
            Ok(Arc::new(Table::new(nodes)))
        }
        Discovery::Kubernetes(service) => {
            let found = Arc::new(Kubernetes::watch(&service, shutdown).await?);
            let known = Arc::clone(&found);
            monitor.watch_nodes(move || known.known());
            Ok(found)
        }
    }
}

/// What the controller calls itself where people read it: the machine's name, which is the pod's in Kubernetes.
fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The controller and what goes on beside its calls.
pub(super) struct Part {
    controller: Controller,
    inspection: JoinHandle<()>,
    collection: Option<JoinHandle<()>>,
}

impl Part {
    /// Makes a controller of a repository and nodes, and starts what goes on beside its calls until `shutdown`.
    pub(super) fn start(
        repository: Repository,
        nodes: Arc<dyn Nodes>,
        control: &Control,
        name: &str,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> Self {
        let options = Options { snapshot_wait: control.snapshot_wait, ..Options::default() };
        let controller = Controller::new(repository.clone(), nodes, options);
        let inspection =
            inspection::start(repository.clone(), controller.clone(), Arc::clone(&metrics), shutdown.clone());
        let collection =
            control.collect.map(|every| collection::start(repository, name.to_owned(), every, metrics, shutdown));
        Self { controller, inspection, collection }
    }

    /// Puts the controller's services beside others.
    pub(super) fn add_to(&self, routes: Routes) -> Routes {
        routes
            .add_service(ControllerServer::new(self.controller.clone()))
            .add_service(GroupControllerServer::new(self.controller.clone()))
            .add_service(SnapshotMetadataServer::new(self.controller.clone()))
    }

    /// Waits until what went on beside the calls has ended.
    pub(super) async fn end(self) {
        if let Err(error) = self.inspection.await {
            tracing::error!(%error, "the inspection of the repository ended too early");
        }
        if let Some(collection) = self.collection
            && let Err(error) = collection.await
        {
            tracing::error!(%error, "the collection of the repository ended too early");
        }
    }
}
