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
//! offloads = 2                   # offloads at once
//! freeze_limit_ms = 5000         # longest that writers are ever held
//! snapshot_wait_ms = 2000        # how long CreateSnapshot waits for a small offload to end
//! max_volumes = 100              # most volumes that may be published to the node; without it only room limits them
//! grace_seconds = 10             # for calls in flight when the driver is told to end
//! collect_hours = 24             # how often garbage is deleted from the repository; 0 for never
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

use std::{
    collections::BTreeMap,
    fmt, fs,
    num::NonZeroU32,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use varve_node::pool::{Kind, Location};

use crate::{
    arguments::{PoolFilesystem, RepositoryAccess, Standalone},
    failure::Usage,
    quantity::Size,
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
    offloads: Option<usize>,
    freeze_limit_ms: Option<u64>,
    snapshot_wait_ms: Option<u64>,
    max_volumes: Option<u32>,
    grace_seconds: Option<u64>,
    collect_hours: Option<u64>,
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
}

/// All that `varve standalone` needs, once arguments and configuration are put together.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where to serve.
    pub(crate) endpoint: String,
    /// The node.
    pub(crate) node: varve_node::config::Config,
    /// The repository.
    pub(crate) access: Access,
    /// How long CreateSnapshot waits for a small offload to end.
    pub(crate) snapshot_wait: Duration,
    /// How long calls in flight are given at the end.
    pub(crate) grace: Duration,
    /// How often the repository is collected; `None` for never.
    pub(crate) collect: Option<Duration>,
}

/// Most bytes that a Kubernetes node's name has, and a CSI node id at the least allows.
const LONGEST_NODE_ID: usize = 192;

/// How many times the pool's capacity may be promised. Images are sparse and proxies' volumes are mostly empty; that the
/// pool runs full is watched for, see `docs/decisions/`.
const OVERCOMMIT: f64 = 4.0;

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
        })
    }

    /// Puts everything together with the arguments of `varve standalone`.
    ///
    /// # Errors
    /// `Usage`, naming what is missing, contradictory or out of range.
    pub(crate) fn settings(&self, arguments: &Standalone) -> Result<Settings, Usage> {
        let endpoint = arguments.endpoint.clone().or_else(|| self.endpoint.clone()).ok_or_else(|| {
            Usage("--endpoint is missing: expected a socket, as in unix:///run/varve/csi.sock".into())
        })?;
        Ok(Settings {
            endpoint,
            node: varve_node::config::Config {
                node_id: self.node_id(arguments)?,
                pool: self.pool(arguments)?,
                overcommit: self.overcommit()?,
                offloads: within("offloads", self.offloads.unwrap_or(2), 1, 64)?,
                freeze_limit: Duration::from_millis(within(
                    "freeze_limit_ms",
                    self.freeze_limit_ms.unwrap_or(5_000),
                    100,
                    60_000,
                )?),
                sentinel: None,
                max_volumes: self.max_volumes()?,
            },
            access: self.access(&arguments.repository)?,
            snapshot_wait: Duration::from_millis(within(
                "snapshot_wait_ms",
                self.snapshot_wait_ms.unwrap_or(2_000),
                0,
                60_000,
            )?),
            grace: Duration::from_secs(within("grace_seconds", self.grace_seconds.unwrap_or(10), 0, 600)?),
            collect: match within("collect_hours", self.collect_hours.unwrap_or(24), 0, 8760)? {
                0 => None,
                hours => Some(Duration::from_secs(hours * 3600)),
            },
        })
    }

    fn node_id(&self, arguments: &Standalone) -> Result<String, Usage> {
        let id = arguments
            .node_id
            .clone()
            .or_else(|| self.node_id.clone())
            .ok_or_else(|| Usage("--node-id is missing: expected the node's name".into()))?;
        let fits = !id.is_empty()
            && id.len() <= LONGEST_NODE_ID
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if fits {
            Ok(id)
        } else {
            Err(Usage(format!(
                "--node-id is {id:?}: expected 1 to {LONGEST_NODE_ID} letters, digits, dots, dashes and underscores"
            )))
        }
    }

    /// The pool of the arguments where they name one, else that of the configuration: never half of each.
    fn pool(&self, arguments: &Standalone) -> Result<Location, Usage> {
        let (folder, image) = if arguments.pool.is_some() || arguments.pool_image.is_some() {
            (arguments.pool.clone(), arguments.pool_image.clone())
        } else {
            (self.pool.clone(), self.pool_image.clone())
        };
        let size = arguments.pool_size.or(self.pool_size);
        let kind = arguments.pool_filesystem.or(self.pool_filesystem);
        match (folder, image) {
            (Some(folder), None) => {
                if arguments.pool_size.is_some() || arguments.pool_filesystem.is_some() {
                    return Err(Usage(
                        "--pool-size and --pool-filesystem say how to make an image: expected --pool-image instead of \
                         --pool"
                            .into(),
                    ));
                }
                Ok(Location::Folder(absolute("--pool", &folder)?))
            }
            (None, Some(file)) => {
                let (Some(size), Some(kind)) = (size, kind) else {
                    return Err(Usage(
                        "--pool-image comes with --pool-size, as in 20GiB, and --pool-filesystem xfs or btrfs".into(),
                    ));
                };
                Ok(Location::Image {
                    file: absolute("--pool-image", &file)?,
                    bytes: size.bytes(),
                    filesystem: match kind {
                        PoolFilesystem::Xfs => Kind::Xfs,
                        PoolFilesystem::Btrfs => Kind::Btrfs,
                    },
                })
            }
            (None, None) => Err(Usage("no pool is named: expected --pool DIR or --pool-image FILE".into())),
            (Some(_), Some(_)) => Err(Usage("both a pool and a pool_image are named: expected one of them".into())),
        }
    }

    fn max_volumes(&self) -> Result<Option<NonZeroU32>, Usage> {
        let refuse = || Usage("max_volumes is 0: expected 1 or more, or no such key".into());
        self.max_volumes.map(|most| NonZeroU32::new(most).ok_or_else(refuse)).transpose()
    }

    fn overcommit(&self) -> Result<f64, Usage> {
        let overcommit = self.overcommit.unwrap_or(OVERCOMMIT);
        if (0.1..=100.0).contains(&overcommit) {
            Ok(overcommit)
        } else {
            Err(Usage(format!("overcommit is {overcommit}: expected 0.1 to 100")))
        }
    }
}

/// Checks that a number lies within its bounds.
fn within<T: PartialOrd + fmt::Display>(key: &str, value: T, least: T, most: T) -> Result<T, Usage> {
    if value >= least && value <= most {
        Ok(value)
    } else {
        Err(Usage(format!("{key} is {value}: expected {least} to {most}")))
    }
}

/// Makes a path absolute, since mount tables and loop devices know only such.
fn absolute(argument: &str, path: &Path) -> Result<PathBuf, Usage> {
    std::path::absolute(path).map_err(|error| Usage(format!("{argument} is {path:?}: {error}")))
}

#[cfg(test)]
mod tests;
