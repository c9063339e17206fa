//! A cluster as a user reaches it: by a kubeconfig, or from inside a pod; and what can go wrong with that.

use std::{fmt::Debug, path::PathBuf};

use k8s_openapi::{NamespaceResourceScope, api::core::v1::Event};
use kube::{
    Api, Client, Config, Resource,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Serialize, de::DeserializeOwned};
use varve_csi::status::chain;

/// What can go wrong with a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for cannot be done as it was asked for; nothing was changed.
    #[error("{0}")]
    Unusable(String),
    /// No cluster is configured, or its configuration cannot be used.
    #[error("finding the Kubernetes API: {reason}")]
    Unconfigured {
        /// Why.
        reason: String,
    },
    /// The API server refused, or did not answer.
    #[error("{doing}: {reason}")]
    Refused {
        /// What was being done.
        doing: String,
        /// The server's words, or what became of the connection.
        reason: String,
        /// The HTTP status; 0 where there was no answer.
        code: u16,
    },
    /// An object that is needed is not there, or is not as it must be.
    #[error("{0}")]
    Unfit(String),
}

impl Error {
    /// Whether it is what was asked for that has to be put right.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Unusable(_) | Self::Unconfigured { .. })
    }

    pub(crate) fn refused(doing: impl Into<String>, error: &kube::Error) -> Self {
        let (reason, code) = match error {
            kube::Error::Api(status) => (status.message.clone(), status.code),
            error => (chain(error), 0),
        };
        Self::Refused { doing: doing.into(), reason, code }
    }

    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { code: 403, .. })
    }
}

/// How to reach a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig; the usual ones where none is named (`KUBECONFIG`, `~/.kube/config`), and in a pod its service account.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; its current one where none is named.
    pub context: Option<String>,
    /// The namespace; the context's or the pod's own where none is named.
    pub namespace: Option<String>,
}

/// A cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    /// Reads the configuration. Nothing is asked of the cluster yet.
    ///
    /// # Errors
    /// [`Error::Unconfigured`].
    pub async fn connect(access: &Access) -> Result<Self, Error> {
        let unconfigured = |error: &dyn std::error::Error| Error::Unconfigured { reason: chain(error) };
        let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
        let config = match &access.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unconfigured(&error))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| unconfigured(&error))?
            }
            None if access.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|error| unconfigured(&error))?
            }
            None => Config::infer().await.map_err(|error| unconfigured(&error))?,
        };
        let namespace = access.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| unconfigured(&error))?;
        Ok(Self::with(client, &namespace))
    }

    /// Speaks by a client.
    pub(crate) fn with(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    /// The namespace that is meant where none is named.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The objects of a kind, in all namespaces or outside of them.
    pub(crate) fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// The objects of a kind in a namespace.
    pub(crate) fn within<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

impl Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// Reads an object that may be absent.
pub(crate) async fn read<K>(api: &Api<K>, name: &str) -> Result<Option<K>, Error>
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()>,
{
    let doing = || format!("reading {} {name:?}", K::kind(&()));
    api.get_opt(name).await.map_err(|error| Error::refused(doing(), &error))
}

/// Lists objects.
pub(crate) async fn list<K>(api: &Api<K>, parameters: &ListParams) -> Result<Vec<K>, Error>
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()>,
{
    let doing = || format!("listing {}", K::plural(&()));
    api.list(parameters).await.map(|list| list.items).map_err(|error| Error::refused(doing(), &error))
}

/// Makes an object; `None` where one of the name is there already.
pub(crate) async fn create<K>(api: &Api<K>, object: &K) -> Result<Option<K>, Error>
where
    K: Clone + Debug + DeserializeOwned + Serialize + Resource<DynamicType = ()>,
{
    match api.create(&PostParams::default(), object).await {
        Ok(made) => Ok(Some(made)),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
        Err(error) => {
            let name = object.meta().name.as_deref().unwrap_or_default();
            Err(Error::refused(format!("making {} {name:?}", K::kind(&())), &error))
        }
    }
}

impl Cluster {
    /// What is told of an object in events, the newest last, each message once; nothing where events may not be read.
    pub(crate) async fn events(&self, namespace: &str, kind: &str, name: &str) -> Result<Vec<String>, Error> {
        let about = format!("involvedObject.kind={kind},involvedObject.name={name}");
        let mut events = match list(&self.within::<Event>(namespace), &ListParams::default().fields(&about)).await {
            Err(error) if error.is_forbidden() => Vec::new(),
            events => events?,
        };
        events.sort_by_key(|event| {
            let last = event.last_timestamp.as_ref().map(|time| time.0);
            last.or(event.event_time.as_ref().map(|time| time.0))
        });
        let mut messages: Vec<String> = Vec::new();
        for message in events.into_iter().filter_map(|event| event.message) {
            messages.retain(|known| *known != message);
            messages.push(message);
        }
        Ok(messages)
    }
}
