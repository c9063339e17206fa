//! What each process needs, once arguments and configuration are put together.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use varve_csi::server::Endpoint;
use varve_kubernetes::{directory::Service, kubelet};
use varve_node::{
    config::OffloadLimits,
    pool::{Kind, Location},
    watermark::{Mark, Marks},
};

use super::{Access, File};
use crate::{
    arguments::{self, Controller, Node, Place, PoolFilesystem, Serve, Standalone},
    failure::Usage,
    quantity::Size,
};

/// All that `varve standalone` needs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// What everything that serves needs.
    pub(crate) serve: ServeSettings,
    /// The node.
    pub(crate) node: varve_node::config::Config,
    /// The controller.
    pub(crate) control: Control,
    /// How the kubelet gets to know it; `None` where it is not to.
    pub(crate) kubelet: Option<Kubelet>,
}

/// All that `varve controller` needs.
#[derive(Clone, Debug)]
pub(crate) struct ControllerSettings {
    /// What everything that serves needs.
    pub(crate) serve: ServeSettings,
    /// The controller.
    pub(crate) control: Control,
    /// How it finds nodes.
    pub(crate) discovery: Discovery,
}

/// All that `varve node` needs.
#[derive(Clone, Debug)]
pub(crate) struct NodeSettings {
    /// What everything that serves needs.
    pub(crate) serve: ServeSettings,
    /// The node.
    pub(crate) node: varve_node::config::Config,
    /// Where it takes connections of controllers.
    pub(crate) agent_listen: SocketAddr,
    /// How the kubelet gets to know it; `None` where it is not to.
    pub(crate) kubelet: Option<Kubelet>,
}

/// How the kubelet gets to know the node's plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kubelet {
    /// The socket in its folder of registrations.
    pub(crate) socket: Endpoint,
    /// The path of the CSI socket as the kubelet sees it.
    pub(crate) plugin: PathBuf,
}

/// What everything that serves needs.
#[derive(Clone, Debug)]
pub(crate) struct ServeSettings {
    /// Where to serve CSI.
    pub(crate) endpoint: String,
    /// The repository.
    pub(crate) access: Access,
    /// Most bytes a second to send to its store, and to fetch.
    pub(crate) bandwidth: Bandwidth,
    /// How long calls in flight are given at the end.
    pub(crate) grace: Duration,
    /// Where health and metrics are told over HTTP; `None` for nowhere.
    pub(crate) http_listen: Option<SocketAddr>,
}

/// Most bytes a second that go between the process and the store; none where there is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    /// Of all offloads together.
    pub(crate) upload: Option<u64>,
    /// Of all hydrations together.
    pub(crate) download: Option<u64>,
}

/// What a controller is told to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Control {
    /// How long CreateSnapshot waits for a small offload to end.
    pub(crate) snapshot_wait: Duration,
    /// How often the repository is collected; `None` for never.
    pub(crate) collect: Option<Duration>,
}

/// How a controller finds nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// They are written down, each with where its agent listens, as `host:port`.
    Table(BTreeMap<String, String>),
    /// The Kubernetes API tells, by the headless Service of the agents.
    Kubernetes(Service),
}

/// Most bytes that a Kubernetes node's name has, and a CSI node id at the least allows.
const LONGEST_NODE_ID: usize = 192;

/// Most snapshots that may be let wait.
const MOST_WAITING: usize = 100_000;

/// The least that a bandwidth may be limited to, in bytes a second.
const SLOWEST: u64 = 64 << 10;

/// How many times the pool's capacity may be promised. Images are sparse and proxies' volumes are mostly empty; that the
/// pool runs full is watched for, see `docs/decisions/`.
const OVERCOMMIT: f64 = 4.0;

/// Where a node takes connections of controllers if nothing else is said: on every address of its machine.
const AGENT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 7420);

impl File {
    /// Puts everything together with the arguments of `varve standalone`.
    ///
    /// # Errors
    /// `Usage`, naming what is missing, contradictory or out of range.
    pub(crate) fn settings(&self, arguments: &Standalone) -> Result<Settings, Usage> {
        let serve = self.serve(&arguments.serve)?;
        let kubelet = self.kubelet(&arguments.kubelet, &serve)?;
        Ok(Settings { serve, node: self.node_config(&arguments.place)?, control: self.control()?, kubelet })
    }

    /// Puts everything together with the arguments of `varve controller`.
    ///
    /// # Errors
    /// `Usage`, naming what is missing, contradictory or out of range.
    pub(crate) fn controller(&self, arguments: &Controller) -> Result<ControllerSettings, Usage> {
        let serve = self.serve(&arguments.serve)?;
        Ok(ControllerSettings { serve, control: self.control()?, discovery: self.discovery(arguments)? })
    }

    /// Puts everything together with the arguments of `varve node`.
    ///
    /// # Errors
    /// `Usage`, naming what is missing, contradictory or out of range.
    pub(crate) fn node(&self, arguments: &Node) -> Result<NodeSettings, Usage> {
        let serve = self.serve(&arguments.serve)?;
        Ok(NodeSettings {
            kubelet: self.kubelet(&arguments.kubelet, &serve)?,
            serve,
            node: self.node_config(&arguments.place)?,
            agent_listen: arguments.agent_listen.or(self.agent_listen).unwrap_or(AGENT_LISTEN),
        })
    }

    fn serve(&self, arguments: &Serve) -> Result<ServeSettings, Usage> {
        let endpoint = arguments.endpoint.clone().or_else(|| self.endpoint.clone()).ok_or_else(|| {
            Usage("--endpoint is missing: expected a socket, as in unix:///run/varve/csi.sock".into())
        })?;
        Ok(ServeSettings {
            endpoint,
            access: self.access(&arguments.repository)?,
            bandwidth: Bandwidth {
                upload: rate("upload_bandwidth", self.upload_bandwidth)?,
                download: rate("download_bandwidth", self.download_bandwidth)?,
            },
            grace: Duration::from_secs(within("grace_seconds", self.grace_seconds.unwrap_or(10), 0, 600)?),
            http_listen: arguments.http_listen.or(self.http_listen),
        })
    }

    fn kubelet(&self, arguments: &arguments::Kubelet, serve: &ServeSettings) -> Result<Option<Kubelet>, Usage> {
        let plugin = arguments.kubelet_endpoint.clone().or_else(|| self.kubelet_endpoint.clone());
        if let Some(plugin) = plugin.as_deref().filter(|plugin| !plugin.is_absolute()) {
            let example = "/var/lib/kubelet/plugins/csi.varve.io/csi.sock";
            return Err(Usage(format!("--kubelet-endpoint is {plugin:?}: expected an absolute path, as in {example}")));
        }
        let Some(folder) = arguments.kubelet_registration.clone().or_else(|| self.kubelet_registration.clone()) else {
            return match plugin {
                Some(_) => Err(Usage("kubelet_endpoint comes with kubelet_registration, and that is missing".into())),
                None => Ok(None),
            };
        };
        let socket = kubelet::socket(&folder).map_err(|_| {
            Usage(format!(
                "--kubelet-registration is {folder:?}: expected the absolute path of a folder, of at most 79 bytes, as in \
                 /var/lib/kubelet/plugins_registry"
            ))
        })?;
        let own = || Endpoint::parse(&serve.endpoint).map(|endpoint| endpoint.path().to_owned());
        let plugin = plugin.map_or_else(own, Ok).map_err(|error| Usage(error.to_string()))?;
        Ok(Some(Kubelet { socket, plugin }))
    }

    fn control(&self) -> Result<Control, Usage> {
        Ok(Control {
            snapshot_wait: Duration::from_millis(within(
                "snapshot_wait_ms",
                self.snapshot_wait_ms.unwrap_or(2_000),
                0,
                60_000,
            )?),
            collect: match within("collect_hours", self.collect_hours.unwrap_or(24), 0, 8760)? {
                0 => None,
                hours => Some(Duration::from_secs(hours * 3600)),
            },
        })
    }

    /// The Service of the arguments where they name one, else what the configuration says, which is one of the two.
    fn discovery(&self, arguments: &Controller) -> Result<Discovery, Usage> {
        if let Some(text) = &arguments.discover_nodes {
            return service("--discover-nodes", text).map(Discovery::Kubernetes);
        }
        let nodes = match (&self.discover_nodes, &self.nodes) {
            (Some(text), None) => return service("discover_nodes", text).map(Discovery::Kubernetes),
            (None, Some(nodes)) => nodes.clone(),
            (Some(_), Some(_)) => {
                return Err(Usage("both discover_nodes and [nodes] are there: expected one of them".into()));
            }
            (None, None) => {
                return Err(Usage(
                    "no nodes are named: expected --discover-nodes SERVICE in Kubernetes, or [nodes] in the \
                     configuration, with a line for each, as in node-1 = \"10.0.0.1:7420\""
                        .into(),
                ));
            }
        };
        for (name, address) in &nodes {
            check_node_id("a node under [nodes]", name)?;
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if port.and_then(|(_, port)| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
                return Err(Usage(format!(
                    "{name} under [nodes] is {address:?}: expected a host and a port, as in 10.0.0.1:7420"
                )));
            }
        }
        Ok(Discovery::Table(nodes))
    }

    fn node_config(&self, place: &Place) -> Result<varve_node::config::Config, Usage> {
        Ok(varve_node::config::Config {
            node_id: self.node_id(place)?,
            pool: self.pool(place)?,
            overcommit: self.overcommit()?,
            marks: self.marks()?,
            offloads: within("offloads", self.offloads.unwrap_or(2), 1, 64)?,
            offload_limits: self.offload_limits()?,
            freeze_limit: Duration::from_millis(within(
                "freeze_limit_ms",
                self.freeze_limit_ms.unwrap_or(5_000),
                100,
                60_000,
            )?),
            sentinel: None,
            max_volumes: self.max_volumes()?,
            observer: None,
        })
    }

    fn offload_limits(&self) -> Result<OffloadLimits, Usage> {
        let usual = OffloadLimits::default();
        let waiting = within("waiting_cuts", self.waiting_cuts.unwrap_or(usual.waiting), 1, MOST_WAITING)?;
        let of_volume = self.waiting_cuts_per_volume.unwrap_or(usual.waiting_of_volume);
        Ok(OffloadLimits {
            waiting_of_volume: within("waiting_cuts_per_volume", of_volume, 1, MOST_WAITING)?,
            waiting,
            io_bandwidth: rate("io_bandwidth", self.io_bandwidth)?,
            ..usual
        })
    }

    fn node_id(&self, place: &Place) -> Result<String, Usage> {
        let id = place
            .node_id
            .clone()
            .or_else(|| self.node_id.clone())
            .ok_or_else(|| Usage("--node-id is missing: expected the node's name".into()))?;
        check_node_id("--node-id", &id)?;
        Ok(id)
    }

    /// The pool of the arguments where they name one, else that of the configuration: never half of each.
    fn pool(&self, place: &Place) -> Result<Location, Usage> {
        let (folder, image) = if place.pool.is_some() || place.pool_image.is_some() {
            (place.pool.clone(), place.pool_image.clone())
        } else {
            (self.pool.clone(), self.pool_image.clone())
        };
        let size = place.pool_size.or(self.pool_size);
        let kind = place.pool_filesystem.or(self.pool_filesystem);
        match (folder, image) {
            (Some(folder), None) => {
                if place.pool_size.is_some() || place.pool_filesystem.is_some() {
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

    fn marks(&self) -> Result<Marks, Usage> {
        let mut marks = Marks::default();
        for (key, value, mark) in [
            ("shed_bases_below", self.shed_bases_below, &mut marks.shed_bases_below),
            ("refuse_snapshots_below", self.refuse_snapshots_below, &mut marks.refuse_snapshots_below),
        ] {
            *mark = value.map_or(*mark, Into::into);
            if let Mark::Share(share) = *mark
                && !(0.001..=0.5).contains(&share)
            {
                return Err(Usage(format!("{key} is {}%: expected 0.1% to 50%, or a size", share * 100.0)));
            }
        }
        let (shed, refuse) = (marks.shed_bases_below, marks.refuse_snapshots_below);
        let inverted = match (shed, refuse) {
            (Mark::Share(shed), Mark::Share(refuse)) => refuse > shed,
            (Mark::Bytes(shed), Mark::Bytes(refuse)) => refuse > shed,
            // Which is more is known once the pool's size is; the smaller one counts then.
            _ => false,
        };
        if inverted {
            return Err(Usage(format!(
                "refuse_snapshots_below is {}: expected at most shed_bases_below, which is {}",
                shown(refuse),
                shown(shed)
            )));
        }
        Ok(marks)
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

/// Reads where the agents' Service is: `SERVICE` or `NAMESPACE/SERVICE`, each a DNS label as Kubernetes wants it.
fn service(what: &str, text: &str) -> Result<Service, Usage> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    let is_label = |text: &str| {
        (1..=63).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
    };
    if is_label(name) && namespace.is_none_or(is_label) {
        Ok(Service { namespace: namespace.map(str::to_owned), name: name.to_owned() })
    } else {
        Err(Usage(format!("{what} is {text:?}: expected a Service, as in varve-agents or varve-system/varve-agents")))
    }
}

/// Checks that a node's name is one.
fn check_node_id(what: &str, id: &str) -> Result<(), Usage> {
    let fits = !id.is_empty()
        && id.len() <= LONGEST_NODE_ID
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if fits {
        Ok(())
    } else {
        Err(Usage(format!(
            "{what} is {id:?}: expected 1 to {LONGEST_NODE_ID} letters, digits, dots, dashes and underscores"
        )))
    }
}

/// Checks a limit of bytes a second: one that is meant as a size by mistake, or as bits, would stop everything.
fn rate(key: &str, rate: Option<Size>) -> Result<Option<u64>, Usage> {
    match rate {
        Some(rate) if rate.bytes() < SLOWEST => {
            Err(Usage(format!("{key} is {rate}: expected 64KiB (a second) or more, or no such key")))
        }
        rate => Ok(rate.map(Size::bytes)),
    }
}

fn shown(mark: Mark) -> String {
    match mark {
        Mark::Share(share) => format!("{}%", share * 100.0),
        Mark::Bytes(bytes) => format!("{bytes} bytes"),
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
