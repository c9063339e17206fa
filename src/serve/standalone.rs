//! `varve standalone`: controller and node in one process, on one Unix socket.
//!
//! The controller reaches the agent through the agent API, as it would from another process, over a
//! [link](varve_link::memory) that never leaves this one.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use varve_controller::{Controller, nodes::Fixed};
use varve_csi::server::Endpoint;
use varve_link::memory;
use varve_node::{agent::Agent, service::NodeService};
use varve_proto::csi::node_server::NodeServer;

use super::{
    Socket,
    controller::Part,
    endpoint, limit,
    monitor::Monitor,
    node::{agent_routes, close, open, register},
};
use crate::{
    arguments::Standalone,
    config::{File, Settings},
    repository,
    signal::{self, Second},
};

/// How long the link to the agent may take to end once nobody calls any more.
const LINK_GRACE: Duration = Duration::from_secs(5);

/// Serves until told to end.
///
/// # Errors
/// `Usage` where the arguments are not usable; what failed where the driver cannot start or not serve.
pub(crate) async fn run(arguments: Standalone) -> anyhow::Result<()> {
    let settings = File::read(arguments.serve.repository.config.as_deref())?.settings(&arguments)?;
    let endpoint = endpoint(&settings.serve.endpoint)?;
    let shutdown = signal::watch(Second::Exits)?;
    let monitor = Monitor::start(settings.serve.http_listen).await?;
    if settings.kubelet.is_some() {
        monitor.watch_kubelet(None);
    }
    let repository = repository::open_or_init(&settings.serve.access).await?;
    limit(&repository, settings.serve.bandwidth);
    monitor.watch_repository(&repository);
    let agent = open(settings.node.clone(), repository, &monitor).await?;
    let served = serve(&settings, endpoint, &agent, &monitor, shutdown).await;
    let closed = close(agent).await;
    served.and(closed)?;
    tracing::info!("ended");
    Ok(())
}

/// Puts the services together around the agent, serves them, and stops the agent.
async fn serve(
    settings: &Settings,
    endpoint: Endpoint,
    agent: &Agent,
    monitor: &Monitor,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (repository, node) = (agent.repository(), &settings.node.node_id);
    let unlink = CancellationToken::new();
    let (channel, link) = memory::link(agent_routes(agent), unlink.clone());
    let nodes = Arc::new(Fixed::new(node.clone(), channel));
    let part = Part::start(repository.clone(), nodes, &settings.control, node, monitor.metrics(), shutdown.clone());
    let socket = Socket::new(endpoint.clone(), Controller::plugin_capabilities(), monitor)
        .with(|routes| part.add_to(routes).add_service(NodeServer::new(NodeService::new(agent.clone()))));
    let mut known = None;
    let announce = || {
        known = settings.kubelet.as_ref().map(|kubelet| register(kubelet, monitor, &shutdown));
        let http = monitor.address().map(tracing::field::display);
        tracing::info!(%endpoint, node, repository = repository.store().url(), http, "ready");
    };
    let served = socket.serve(&shutdown, settings.serve.grace, announce).await;

    // Also where serving failed, so that nothing goes on behind a process that is about to end.
    shutdown.cancel();
    if let Some(known) = known {
        known.end().await;
    }
    agent.stop().await;
    unlink.cancel();
    if timeout(LINK_GRACE, link).await.is_err() {
        tracing::warn!("the link to the agent did not end in time");
    }
    part.end().await;
    Ok(served?)
}
