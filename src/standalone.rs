//! `varve standalone`: controller and node in one process, on one Unix socket.
//!
//! Everything is built here and handed on; nothing is global. The controller reaches the agent through the agent API, as
//! it would from another process, over a [link](link) that never leaves this one.
//!
//! # Cancellation
//!
//! SIGTERM or SIGINT ends the driver: calls in flight are answered or, after a grace, aborted; the agent is stopped,
//! which interrupts offloads at a point from which the next start goes on; the pool is closed. A pool whose volumes are
//! still staged stays mounted for their workloads, and the next start takes it over. A second signal exits at once,
//! which is no worse than a crash: the next start puts things in order.

mod collection;
mod inspection;
mod link;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use varve_controller::{Controller, Options, nodes::Fixed};
use varve_csi::{
    identity::{Identity, Readiness},
    server::{self, Endpoint},
};
use varve_node::{agent::Agent, cut::sentinel::Sentinel, pool::Pool, service::NodeService};
use varve_proto::{
    agent::agent_server::AgentServer,
    csi::{
        controller_server::ControllerServer, group_controller_server::GroupControllerServer,
        identity_server::IdentityServer, node_server::NodeServer,
    },
};

use crate::{
    arguments::Standalone,
    config::{File, Settings},
    failure::Usage,
    repository,
    signal::{self, Second},
};

/// This very program, also where its file was replaced meanwhile (proc_pid_exe(5)).
const PROGRAM: &str = "/proc/self/exe";

/// How long the link to the agent may take to end once nobody calls any more.
const LINK_GRACE: Duration = Duration::from_secs(5);

/// Serves until told to end.
///
/// # Errors
/// `Usage` where the arguments are not usable; what failed where the driver cannot start or not serve.
pub(crate) async fn run(arguments: Standalone) -> anyhow::Result<()> {
    let mut settings = File::read(arguments.repository.config.as_deref())?.settings(&arguments)?;
    settings.node.sentinel = Some(Arc::new(Sentinel::new(PROGRAM.into(), vec!["sentinel".into()])));
    let endpoint = Endpoint::parse(&settings.endpoint).map_err(|error| Usage(error.to_string()))?;
    let shutdown = signal::watch(Second::Exits)?;

    let repository = repository::open_or_init(&settings.access).await?;
    let location = settings.node.pool.clone();
    let pool = spawn_blocking(move || Pool::open(&location)).await?.context("opening the pool")?;
    let agent = Agent::start(settings.node.clone(), pool, repository).await.context("starting the agent")?;
    let served = serve(&settings, &endpoint, &agent, shutdown).await;
    let closed = spawn_blocking(move || agent.pool().close()).await?.context("closing the pool");
    served.and(closed)?;
    tracing::info!("ended");
    Ok(())
}

/// Puts the services together around the agent, serves them, and stops the agent.
async fn serve(
    settings: &Settings,
    endpoint: &Endpoint,
    agent: &Agent,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let repository = agent.repository();
    let unlink = CancellationToken::new();
    let (channel, link) = link::link(Routes::new(AgentServer::new(agent.clone())), unlink.clone());
    let nodes = Arc::new(Fixed::new(settings.node.node_id.clone(), channel));
    let options = Options { snapshot_wait: settings.snapshot_wait, ..Options::default() };
    let controller = Controller::new(repository.clone(), nodes, options);
    let inspection = inspection::start(repository.clone(), controller.clone(), shutdown.clone());
    let collection = settings
        .collect
        .map(|every| collection::start(repository.clone(), settings.node.node_id.clone(), every, shutdown.clone()));

    let ready = Arc::new(AtomicBool::new(false));
    let routes = Routes::new(IdentityServer::new(Identity::new(Controller::plugin_capabilities(), readiness(&ready))))
        .add_service(ControllerServer::new(controller.clone()))
        .add_service(GroupControllerServer::new(controller))
        .add_service(NodeServer::new(NodeService::new(agent.clone())));
    let until_told = async {
        // The server waits for this only once it listens.
        ready.store(true, Ordering::SeqCst);
        tracing::info!(%endpoint, node = settings.node.node_id, repository = repository.store().url(), "ready");
        shutdown.cancelled().await;
        ready.store(false, Ordering::SeqCst);
    };
    let served = server::serve(endpoint, routes, until_told, settings.grace).await;

    // Also where serving failed, so that nothing goes on behind a process that is about to end.
    shutdown.cancel();
    agent.stop().await;
    unlink.cancel();
    if timeout(LINK_GRACE, link).await.is_err() {
        tracing::warn!("the link to the agent did not end in time");
    }
    if let Err(error) = inspection.await {
        tracing::error!(%error, "the inspection of the repository ended too early");
    }
    if let Some(collection) = collection
        && let Err(error) = collection.await
    {
        tracing::error!(%error, "the collection of the repository ended too early");
    }
    Ok(served?)
}

fn readiness(ready: &Arc<AtomicBool>) -> Readiness {
    let ready = Arc::clone(ready);
    Arc::new(move || {
        let ready = ready.load(Ordering::SeqCst);
        Box::pin(async move { Ok(ready) })
    })
}
