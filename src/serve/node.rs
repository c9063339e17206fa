//! `varve node`: CSI Identity and Node on a Unix socket, and the agent API on TCP for controllers of the same repository.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use varve_controller::Controller;
use varve_kubernetes::kubelet::Registration;
use varve_link::{Trust, listen::Listener};
use varve_node::{agent::Agent, config::Config, cut::sentinel::Sentinel, pool::Pool, service::NodeService};
use varve_proto::{agent::agent_server::AgentServer, csi::node_server::NodeServer};
use varve_repository::Repository;

use super::{Socket, endpoint, limit, monitor::Monitor};
use crate::{
    arguments,
    config::{File, Kubelet, NodeSettings},
    repository,
    signal::{self, Second},
};

/// This very program, also where its file was replaced meanwhile (proc_pid_exe(5)).
const PROGRAM: &str = "/proc/self/exe";

/// How long the way to the agent may take to end once nobody calls any more.
const LINK_GRACE: Duration = Duration::from_secs(5);

/// Serves until told to end.
///
/// # Errors
/// `Usage` where the arguments are not usable; what failed where the node cannot start or not serve.
pub(crate) async fn run(arguments: arguments::Node) -> anyhow::Result<()> {
    let settings = File::read(arguments.serve.repository.config.as_deref())?.node(&arguments)?;
    let shutdown = signal::watch(Second::Exits)?;
    let monitor = Monitor::start(settings.serve.http_listen).await?;
    if settings.kubelet.is_some() {
        monitor.watch_kubelet(None);
    }
    // First, so that a second process of the same address ends before it touches anything.
    let listener = Listener::bind(settings.agent_listen).await?;
    let repository = repository::open_shared(&settings.serve.access).await?;
    limit(&repository, settings.serve.bandwidth);
    monitor.watch_repository(&repository);
    let trust = Trust::of(&repository);
    let agent = open(settings.node.clone(), repository, &monitor).await?;
    let listener = listener.observed(Some(monitor.metrics()));
    let served = serve(&settings, listener, &trust, &agent, &monitor, shutdown).await;
    let closed = close(agent).await;
    served.and(closed)?;
    tracing::info!("ended");
    Ok(())
}

/// Serves a node's services, and stops the agent.
async fn serve(
    settings: &NodeSettings,
    listener: Listener,
    trust: &Trust,
    agent: &Agent,
    monitor: &Monitor,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let endpoint = endpoint(&settings.serve.endpoint)?;
    // They are the driver's as a whole, whichever of its processes is asked.
    let socket = Socket::new(endpoint.clone(), Controller::plugin_capabilities(), monitor)
        .with(|routes| routes.add_service(NodeServer::new(NodeService::new(agent.clone()))));
    let listening = listener.address();
    let (unlink, stop) = (CancellationToken::new(), CancellationToken::new());
    let link = tokio::spawn({
        let (trust, node, agent) = (trust.clone(), settings.node.node_id.clone(), agent_routes(agent));
        let (unlink, stop, shutdown) = (unlink.clone(), stop.clone(), shutdown.clone());
        async move {
            let served = listener.serve(&trust, &node, agent, unlink, stop).await;
            // Without it no controller reaches the node: whoever watches over the process is to start it anew.
            shutdown.cancel();
            served
        }
    });
    let mut known = None;
    let announce = || {
        known = settings.kubelet.as_ref().map(|kubelet| register(kubelet, monitor, &shutdown));
        let (node, repository) = (&settings.node.node_id, agent.repository().store().url());
        let http = monitor.address().map(tracing::field::display);
        tracing::info!(%endpoint, agent = %listening, node, repository, http, "ready");
    };
    let served = socket.serve(&shutdown, settings.serve.grace, announce).await;

    // Also where serving failed, so that nothing goes on behind a process that is about to end.
    shutdown.cancel();
    if let Some(known) = known {
        known.end().await;
    }
    agent.stop().await;
    unlink.cancel();
    let linked = end_link(link, &stop).await;
    served?;
    linked
}

/// Makes the plugin known to the kubelet, until the process is to end.
pub(super) fn register(kubelet: &Kubelet, monitor: &Monitor, shutdown: &CancellationToken) -> Registration {
    let known = Registration::start(kubelet.socket.clone(), kubelet.plugin.clone(), shutdown.clone());
    monitor.watch_kubelet(Some(known.state()));
    known
}

/// Waits for the way to the agent to end; calls that are still on it after a while are dropped.
async fn end_link<E: std::error::Error + Send + Sync + 'static>(
    mut link: JoinHandle<Result<(), E>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if let Ok(ended) = timeout(LINK_GRACE, &mut link).await {
        return Ok(ended.context("serving the agent API")??);
    }
    stop.cancel();
    if timeout(LINK_GRACE, link).await.is_err() {
        tracing::warn!("the way to the agent did not end in time");
    }
    Ok(())
}

/// Opens the pool and starts the agent on it.
pub(super) async fn open(mut config: Config, repository: Repository, monitor: &Monitor) -> anyhow::Result<Agent> {
    config.observer = Some(monitor.metrics());
    config.sentinel = Some(Arc::new(Sentinel::new(PROGRAM.into(), vec!["sentinel".into()])));
    let location = config.pool.clone();
    let pool = spawn_blocking(move || Pool::open(&location)).await?.context("opening the pool")?;
    let agent = Agent::start(config, pool, repository).await.context("starting the agent")?;
    monitor.watch_agent(&agent);
    Ok(agent)
}

/// Closes the pool of an agent that was stopped.
pub(super) async fn close(agent: Agent) -> anyhow::Result<()> {
    spawn_blocking(move || agent.pool().close()).await?.context("closing the pool")
}

/// The agent API.
pub(super) fn agent_routes(agent: &Agent) -> Routes {
    Routes::new(AgentServer::new(agent.clone()))
}
