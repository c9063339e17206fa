//! The nodes of a cluster, as the Kubernetes API tells them.
//!
//! What the API says is watched and kept, so that no call waits for it, and an API server that is away for a while is no
//! reason to fail; a watch that breaks is taken up again, ever less often, and lists anew where it has missed something.
//! That a node is gone for good is never taken from what was kept, which may be older than the node: the API is asked.
//!
//! # Cancellation
//! Watching ends when the token is cancelled. Whoever asks afterwards is answered from what was kept.

use std::{collections::BTreeMap, fmt, future::ready, hash::Hash, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::{
    api::{core::v1::Node, discovery::v1::EndpointSlice},
    serde::de::DeserializeOwned,
};
use kube::{
    Api, Client, Config, Resource, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _, reflector,
        reflector::{Lookup, Store},
        watcher,
    },
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use varve_controller::nodes;
use varve_csi::{status::chain, topology};
use varve_link::directory::Directory;

use crate::agents::agents;

/// The label by which a slice says whose it is.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// How long the API may take to say whether a node exists.
const PATIENCE: Duration = Duration::from_secs(3);

/// What can go wrong with the API.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither a pod's service account nor a kubeconfig says where the API is.
    #[error("finding the Kubernetes API")]
    Config(#[from] kube::config::InferConfigError),
    /// The client cannot be made.
    #[error("setting up the client of the Kubernetes API")]
    Client(#[from] kube::Error),
}

/// The headless Service of the agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace; the process's own where none is named.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// The nodes of a cluster.
pub struct Kubernetes {
    slices: Store<EndpointSlice>,
    nodes: Store<PartialObjectMeta<Node>>,
    api: Api<Node>,
}

/// How many nodes are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Nodes that have a pool.
    pub nodes: usize,
    /// Those of them whose agent has an address.
    pub with_agent: usize,
}

impl Kubernetes {
    /// Watches the nodes and the agents' Service until cancelled, with what a pod's service account or a kubeconfig says.
    ///
    /// # Errors
    /// See [`Error`]. An API that does not answer is none: it is asked again and again.
    pub async fn watch(service: &Service, cancel: &CancellationToken) -> Result<Self, Error> {
        let config = Config::infer().await?;
        let namespace = service.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let found = Self::with(client(config)?, &namespace, &service.name, cancel);
        tracing::info!(namespace, service = service.name, "nodes are found by the Kubernetes API");
        Ok(found)
    }

    /// Watches by a client.
    fn with(client: Client, namespace: &str, service: &str, cancel: &CancellationToken) -> Self {
        let slices = Api::namespaced(client.clone(), namespace);
        let nodes = Api::all(client.clone());
        Self {
            slices: keep("endpointslices", slices, &format!("{SERVICE_LABEL}={service}"), cancel.clone()),
            nodes: keep("nodes", nodes, topology::NODE, cancel.clone()),
            api: Api::all(client),
        }
    }

    /// How many nodes are known; `None` while the first lists are still to come.
    #[must_use]
    pub fn known(&self) -> Option<Known> {
        let agents = self.agents()?;
        Some(Known { nodes: agents.len(), with_agent: agents.values().flatten().count() })
    }

    /// The client that the nodes are watched by.
    pub(crate) fn client(&self) -> Client {
        self.api.clone().into_client()
    }

    /// What is known of the agents; `None` while the first lists are still to come.
    fn agents(&self) -> Option<BTreeMap<String, Option<String>>> {
        self.slices.wait_until_ready().now_or_never()?.ok()?;
        self.nodes.wait_until_ready().now_or_never()?.ok()?;
        let labelled = self.nodes.state().into_iter().map(|node| node.name_any());
        Some(agents(labelled, self.slices.state().iter().map(AsRef::<EndpointSlice>::as_ref)))
    }

    /// Says why a node has no address: because there is no such node, or because it has no agent at present.
    async fn explain(&self, node: &str, reason: &str) -> nodes::Error {
        let reason = match timeout(PATIENCE, self.api.get_metadata_opt(node)).await {
            Ok(Ok(None)) => return nodes::Error::Unknown { node: node.to_owned() },
            Ok(Ok(Some(_))) => reason.to_owned(),
            Ok(Err(error)) => format!("{reason}, and whether the node exists cannot be told: {}", chain(&error)),
            Err(_) => format!("{reason}, and the Kubernetes API did not answer within {PATIENCE:?}"),
        };
        nodes::Error::Unreachable { node: node.to_owned(), reason }
    }
}

/// Makes a client that tells of a failure at once: watches are taken up again by themselves, and who asks is not to wait.
fn client(mut config: Config) -> Result<Client, kube::Error> {
    config.default_retry = false;
    Client::try_from(config)
}

/// Keeps what a selector of labels takes, in a task of its own.
fn keep<K>(what: &'static str, api: Api<K>, labels: &str, cancel: CancellationToken) -> Store<K>
where
    K: Resource + Lookup + Clone + fmt::Debug + Send + Sync + DeserializeOwned + 'static,
    <K as Lookup>::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
{
    let (store, writer) = reflector::store();
    let events = watcher(api, watcher::Config::default().labels(labels)).default_backoff();
    let mut broken = false;
    let kept = reflector(writer, events).for_each(move |event| {
        match event {
            Err(error) if !broken => {
                tracing::warn!(what, error = chain(&error), "the Kubernetes API cannot be watched: it is tried again");
                broken = true;
            }
            Err(error) => tracing::debug!(what, error = chain(&error), "the Kubernetes API still cannot be watched"),
            Ok(_) if broken => {
                tracing::info!(what, "the Kubernetes API is watched again");
                broken = false;
            }
            Ok(_) => {}
        }
        ready(())
    });
    tokio::spawn(async move { cancel.run_until_cancelled(kept).await });
    store
}

#[async_trait]
impl Directory for Kubernetes {
    async fn names(&self) -> Result<Vec<String>, nodes::Error> {
        let agents = self.agents().ok_or_else(|| nodes::Error::Unlisted {
            reason: "the Kubernetes API has not told of them yet".to_owned(),
        })?;
        Ok(agents.into_keys().collect())
    }

    async fn address(&self, node: &str) -> Result<String, nodes::Error> {
        match self.agents().map(|mut agents| agents.remove(node)) {
            Some(Some(Some(address))) => Ok(address),
            Some(_) => Err(self.explain(node, "no agent runs there").await),
            None => Err(self.explain(node, "the Kubernetes API has not told of its agent yet").await),
        }
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").field("known", &self.known()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
