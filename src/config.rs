//! The configuration file, and what it comes to together with the arguments.
//!
//! ```toml
//! endpoint = "unix:///run/varve/csi.sock"
//! node_id = "node-1"
//! pool_image = "/var/lib/varve/pool.img"    # or: pool = "/srv/pool"
//! pool_size = "20GiB"
//! pool_filesystem = "xfs"
//! repository = "s3://bucket/prefix"
//! key_file = "/var/lib/varve/master.key"
//!
//! overcommit = 4.0               # how many times the pool's capacity may be promised
//! shed_bases_below = "10%"       # of the pool free, or a size: bases go until there is as much again
//! refuse_snapshots_below = "5%"  # likewise: nothing is cut, and no volume made
//! offloads = 2                   # offloads at once
//! upload_bandwidth = "100MiB"    # bytes a second that all offloads together send; without it there is no limit
//! download_bandwidth = "100MiB"  # bytes a second that all hydrations together fetch
//! io_bandwidth = "200MiB"        # bytes a second that all offloads together read of the pool
//! waiting_cuts = 512             # snapshots that may wait to be offloaded; further ones are refused
//! waiting_cuts_per_volume = 16   # of one volume
//! freeze_limit_ms = 5000         # longest that writers are ever held
//! snapshot_wait_ms = 2000        # how long CreateSnapshot waits for a small offload to end
//! max_volumes = 100              # most volumes that may be published to the node; without it only room limits them
//! grace_seconds = 10             # for calls in flight when the driver is told to end
//! collect_hours = 24             # how often garbage is deleted from the repository; 0 for never
//! memory = "96MiB"               # for all offloads and restores together; the process takes some 30 MiB more
//! agent_listen = "0.0.0.0:7420"  # where a node takes connections of controllers
//! http_listen = "127.0.0.1:7421" # where health and metrics are told over plain HTTP; nowhere without it
//! kubelet_registration = "/var/lib/kubelet/plugins_registry"            # where a node makes itself known to the kubelet
//! kubelet_endpoint = "/var/lib/kubelet/plugins/csi.varve.io/csi.sock"   # the socket of `endpoint` as the kubelet sees it
//!
//! discover_nodes = "varve-system/varve-agents" # a controller's nodes: the agents' Service in Kubernetes; or:
//! [nodes]                        # the nodes of a controller, and where their agents listen
//! node-1 = "10.0.0.1:7420"
//!
//! [store]                        # passed to the object store; with secrets in it the file must be of mode 0600
//! aws_endpoint = "https://s3.example.net"
//!
//! [copy]                         # the second repository of `varve repository copy`
//! repository = "gs://elsewhere/prefix"
//! key_file = "/var/lib/varve/second.key"
//!
//! [copy.store]                   # passed to its object store
//! google_service_account = "/var/lib/varve/account.json"
//! ```

mod settings;

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use varve_repository::memory::Memory;

pub(crate) use self::settings::{Bandwidth, Control, Discovery, Kubelet, NodeSettings, Settings};
use crate::{
    arguments::{PoolFilesystem, RepositoryAccess},
    failure::Usage,
    quantity::{Size, Watermark},
};

/// A configuration file as it is written; every key may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    endpoint: Option<String>,
    node_id: Option<String>,
    pool: Option<PathBuf>,
    pool_image: Option<PathBuf>,
    pool_size: Option<Size>,
    pool_filesystem: Option<PoolFilesystem>,
    repository: Option<String>,
    key_file: Option<PathBuf>,
    overcommit: Option<f64>,
    shed_bases_below: Option<Watermark>,
    refuse_snapshots_below: Option<Watermark>,
    offloads: Option<usize>,
    upload_bandwidth: Option<Size>,
    download_bandwidth: Option<Size>,
    io_bandwidth: Option<Size>,
    waiting_cuts: Option<usize>,
    waiting_cuts_per_volume: Option<usize>,
    freeze_limit_ms: Option<u64>,
    snapshot_wait_ms: Option<u64>,
    max_volumes: Option<u32>,
    grace_seconds: Option<u64>,
    collect_hours: Option<u64>,
    memory: Option<Size>,
    agent_listen: Option<SocketAddr>,
    http_listen: Option<SocketAddr>,
    kubelet_registration: Option<PathBuf>,
    kubelet_endpoint: Option<PathBuf>,
    discover_nodes: Option<String>,
    nodes: Option<BTreeMap<String, String>>,
    #[serde(default)]
    store: StoreOptions,
    #[serde(default)]
    copy: Second,
}

/// The second repository of `varve repository copy`, as a configuration file has it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Second {
    repository: Option<String>,
    key_file: Option<PathBuf>,
    #[serde(default)]
    store: StoreOptions,
}

/// Options of the object store. They may hold credentials, so they are not to be shown.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct StoreOptions(BTreeMap<String, String>);

impl StoreOptions {
    /// Returns the options as pairs.
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        self.0.clone().into_iter().collect()
    }

    /// Returns the options with others put in their place, or beside them.
    fn with(mut self, others: impl IntoIterator<Item = (String, String)>) -> Self {
        self.0.extend(others);
        self
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// How a repository is reached, once arguments and configuration are put together.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// The repository's location.
    pub(crate) url: String,
    /// Options of its store.
    pub(crate) store: StoreOptions,
    /// The key file of the arguments.
    pub(crate) key_argument: Option<PathBuf>,
    /// The key file of the configuration.
    pub(crate) key_config: Option<PathBuf>,
    /// The memory of all offloads and restores together, in bytes.
    pub(crate) memory: usize,
}

impl File {
    /// Reads a configuration file; none is an empty one.
    ///
    /// # Errors
    /// `Usage`, naming the file and the key that is unknown or of the wrong kind.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, Usage> {
        let Some(path) = path else { return Ok(Self::default()) };
        let refuse = |reason: &dyn fmt::Display| Usage(format!("--config {}: {reason}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| refuse(&error))?;
        let file = Self::parse(&text).map_err(|reason| refuse(&reason))?;
        if !(file.store.0.is_empty() && file.copy.store.0.is_empty()) {
            let mode = fs::metadata(path).map_err(|error| refuse(&error))?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(refuse(&format_args!(
                    "it has a [store] section and others may read it (mode {:04o}): expected mode 0600",
                    mode & 0o7777
                )));
            }
        }
        Ok(file)
    }

    /// Parses a configuration's text. The message names the place and never quotes the text, which may hold secrets.
    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| match error.span() {
            Some(span) => {
                let line = text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1;
                format!("line {line}: {}", error.message())
            }
            None => error.message().to_owned(),
        })
    }

    /// Puts the repository's part together with the arguments.
    ///
    /// # Errors
    /// `Usage` where neither names a repository.
    pub(crate) fn access(&self, arguments: &RepositoryAccess) -> Result<Access, Usage> {
        let url = arguments.repository.clone().or_else(|| self.repository.clone()).ok_or_else(|| {
            Usage(
                "no repository is named: expected --repository URL, VARVE_REPOSITORY or `repository` in the \
                 configuration, as in file:///srv/varve or s3://bucket/prefix"
                    .into(),
            )
        })?;
        Ok(Access {
            url,
            store: self.store.clone(),
            key_argument: arguments.key_file.clone(),
            key_config: self.key_file.clone(),
            memory: self.memory()?,
        })
    }

    /// Puts the part of the repository that is copied to together with the arguments, and with what the environment has
    /// for its store.
    ///
    /// # Errors
    /// `Usage` where neither names a repository.
    pub(crate) fn copy_access(
        &self,
        to: Option<String>,
        key_file: Option<PathBuf>,
        environment: Vec<(String, String)>,
    ) -> Result<Access, Usage> {
        let url = to.or_else(|| self.copy.repository.clone()).ok_or_else(|| {
            Usage(
                "no repository to copy to is named: expected --to URL, VARVE_TO_REPOSITORY or `repository` under \
                 [copy] in the configuration, as in file:///srv/copy or s3://bucket/prefix"
                    .into(),
            )
        })?;
        Ok(Access {
            url,
            store: self.copy.store.clone().with(environment),
            key_argument: key_file,
            key_config: self.copy.key_file.clone(),
            memory: self.memory()?,
        })
    }

    fn memory(&self) -> Result<usize, Usage> {
        let Some(size) = self.memory else { return Ok(Memory::DEFAULT) };
        let enough = usize::try_from(size.bytes()).ok().filter(|bytes| *bytes >= Memory::LEAST);
        enough.ok_or_else(|| {
            Usage(format!("memory is {} bytes: expected {}MiB or more", size.bytes(), Memory::LEAST >> 20))
        })
    }
}

#[cfg(test)]
mod tests;
