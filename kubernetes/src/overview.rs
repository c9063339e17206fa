//! How the driver stands in a cluster: its nodes, their room, its volumes and snapshots, and what needs a person.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, Pod},
    storage::v1::{CSINode, CSIStorageCapacity},
};
use kube::{Api, Resource, ResourceExt as _, api::ListParams, core::PartialObjectMeta};
use serde::{Serialize, de::DeserializeOwned};
use varve_csi::{identity::DRIVER, topology};

use crate::{
    cluster::{Cluster, Error, list},
    quantity,
    snapshot::{Snapshot, State, handle_of, node_of},
};

/// What the driver's pods are labelled with.
const PODS: &str = "app.kubernetes.io/name=varve";
/// The label that tells its two kinds of pods apart.
const COMPONENT: &str = "app.kubernetes.io/component";
/// The label by which the provisioner says whose room it tells of (external-provisioner, "Capacity support").
const ROOM: &str = "csi.storage.k8s.io/drivername=csi.varve.io";

/// A node that has the driver, or had it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Whether the node is in the cluster.
    pub known: bool,
    /// Whether its kubelet knows the driver.
    pub registered: bool,
    /// Whether the driver's pod there is ready; `None` where there is none.
    pub pod_ready: Option<bool>,
    /// How much room its pool has for new volumes, where that is told.
    pub room_bytes: Option<u64>,
    /// How many volumes are on it.
    pub volumes: usize,
    /// How large they are together.
    pub volume_bytes: u64,
}

/// Snapshots, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Claims can be made from them.
    pub ready: usize,
    /// They are on their way.
    pub pending: usize,
    /// Something went wrong with them.
    pub failed: usize,
}

/// How the driver stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// By name.
    pub nodes: Vec<NodeState>,
    /// The controller's pods, and how many of them are ready.
    pub controllers: usize,
    /// The ready ones of them.
    pub controllers_ready: usize,
    /// Volumes of the driver.
    pub volumes: usize,
    /// How large they are together.
    pub volume_bytes: u64,
    /// Snapshots of the driver.
    pub snapshots: Counts,
    /// What does not come right by itself, in words.
    pub needs_a_person: Vec<String>,
    /// What may not be read, and so is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
}

/// What an overview is made of.
#[derive(Clone, Debug, Default)]
struct Findings {
    /// Nodes that carry the driver's label.
    labelled: Vec<String>,
    drivers: Vec<CSINode>,
    pods: Vec<Pod>,
    room: Vec<CSIStorageCapacity>,
    volumes: Vec<PersistentVolume>,
    snapshots: Vec<Snapshot>,
    unread: Vec<String>,
}

impl Findings {
    fn sum_up(self) -> Overview {
        let mut nodes: BTreeMap<String, NodeState> = BTreeMap::new();
        for name in &self.labelled {
            node(&mut nodes, name).known = true;
        }
        for found in self.drivers.iter().filter(|node| has_driver(node)) {
            node(&mut nodes, &found.name_any()).registered = true;
        }
        let mut overview = Overview::default();
        for pod in &self.pods {
            let ready = is_ready(pod);
            match pod.labels().get(COMPONENT).map(String::as_str) {
                Some("node") => {
                    let Some(name) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) else { continue };
                    // While one pod takes over from another, there are two.
                    let known = &mut node(&mut nodes, name).pod_ready;
                    *known = Some(known.unwrap_or_default() || ready);
                }
                Some("controller") => {
                    overview.controllers += 1;
                    overview.controllers_ready += usize::from(ready);
                }
                _ => {}
            }
        }
        for room in &self.room {
            let topology = room.node_topology.as_ref().and_then(|topology| topology.match_labels.as_ref());
            let Some(name) = topology.and_then(|labels| labels.get(topology::NODE)) else { continue };
            let told = room.capacity.as_ref().and_then(|capacity| quantity::bytes(&capacity.0));
            // It is told of each class, and all of them share the pool.
            let known = &mut node(&mut nodes, name).room_bytes;
            *known = (*known).max(told);
        }
        for volume in self.volumes.iter().filter(|volume| handle_of(volume).is_some()) {
            let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
            let bytes = capacity.and_then(|capacity| quantity::bytes(&capacity.0)).unwrap_or_default();
            overview.volumes += 1;
            overview.volume_bytes += bytes;
            if let Some(name) = node_of(volume) {
                let on = node(&mut nodes, name);
                on.volumes += 1;
                on.volume_bytes += bytes;
            }
        }
        for snapshot in &self.snapshots {
            match snapshot.state {
                State::Ready => overview.snapshots.ready += 1,
                State::Pending => overview.snapshots.pending += 1,
                State::Failed => overview.snapshots.failed += 1,
            }
        }
        overview.nodes = nodes.into_values().collect();
        overview.needs_a_person = needs_a_person(&overview, &self.volumes, &self.snapshots);
        overview.unread = self.unread;
        overview
    }
}

fn node<'a>(nodes: &'a mut BTreeMap<String, NodeState>, name: &str) -> &'a mut NodeState {
    nodes.entry(name.to_owned()).or_insert_with(|| NodeState { name: name.to_owned(), ..NodeState::default() })
}

fn needs_a_person(overview: &Overview, volumes: &[PersistentVolume], snapshots: &[Snapshot]) -> Vec<String> {
    let mut needs = Vec::new();
    if overview.controllers_ready == 0 {
        needs.push(format!(
            "no pod of the controller is ready, of {}: no volume and no snapshot is made",
            overview.controllers
        ));
    }
    for node in &overview.nodes {
        let NodeState { name, volumes, .. } = node;
        match (node.known, node.registered, node.pod_ready) {
            (false, false, None) => needs.push(format!(
                "node {name} is not in the cluster, and {volumes} volumes were on it: restore them from snapshots"
            )),
            (_, _, None) => needs.push(format!("node {name} has no pod of the driver")),
            (_, _, Some(false)) => {
                needs.push(format!("the driver's pod on node {name} is not ready: its log says why"));
            }
            (_, false, Some(true)) => needs.push(format!("the kubelet of node {name} does not know the driver")),
            (_, true, Some(true)) => {}
        }
        if node.room_bytes == Some(0) {
            needs.push(format!("the pool of node {name} has no room for another volume"));
        }
    }
    for volume in volumes.iter().filter(|volume| handle_of(volume).is_some()) {
        let status = volume.status.as_ref();
        if status.and_then(|status| status.phase.as_deref()) == Some("Failed") {
            let why = status.and_then(|status| status.message.as_deref()).unwrap_or("no reason is told");
            needs.push(format!("volume {} could not be deleted: {why}", volume.name_any()));
        }
    }
    for snapshot in snapshots.iter().filter(|snapshot| snapshot.state == State::Failed) {
        let why = snapshot.error.as_deref().unwrap_or("no reason is told");
        needs.push(format!("snapshot {}/{} is not ready: {why}", snapshot.namespace, snapshot.name));
    }
    needs
}

fn has_driver(node: &CSINode) -> bool {
    node.spec.drivers.iter().any(|driver| driver.name == DRIVER)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready" && condition.status == "True");
    pod.metadata.deletion_timestamp.is_none() && ready.next().is_some()
}

impl Cluster {
    /// The nodes that carry the driver's label.
    pub(crate) async fn nodes_with_driver(&self) -> Result<Vec<String>, Error> {
        let listed = self.all::<Node>().list_metadata(&ListParams::default().labels(topology::NODE)).await;
        let listed = listed.map_err(|error| Error::refused("listing nodes", &error))?;
        Ok(listed.items.iter().map(PartialObjectMeta::name_any).collect())
    }

    /// Looks at everything of the driver's. What may not be read is left out, and said.
    ///
    /// # Errors
    /// The API server's, but for its refusals to show something.
    pub async fn overview(&self) -> Result<Overview, Error> {
        let snapshots = match self.snapshots(None, None).await {
            Err(error) if error.is_forbidden() => {
                crate::snapshot::Listing { unread: vec![error.to_string()], ..Default::default() }
            }
            listing => listing?,
        };
        let mut found = Findings { snapshots: snapshots.snapshots, unread: snapshots.unread, ..Findings::default() };
        match self.nodes_with_driver().await {
            Err(error) if error.is_forbidden() => found.unread.push(error.to_string()),
            labelled => found.labelled = labelled?,
        }
        found.drivers = seen(self.all(), "", &mut found.unread).await?;
        found.pods = seen(self.all(), PODS, &mut found.unread).await?;
        found.room = seen(self.all(), ROOM, &mut found.unread).await?;
        found.volumes = seen(self.all(), "", &mut found.unread).await?;
        found.unread.sort();
        found.unread.dedup();
        Ok(found.sum_up())
    }
}

/// Lists objects, unless they may not be read.
async fn seen<K>(api: Api<K>, labels: &str, unread: &mut Vec<String>) -> Result<Vec<K>, Error>
where
    K: Clone + std::fmt::Debug + DeserializeOwned + Resource<DynamicType = ()>,
{
    match list(&api, &ListParams::default().labels(labels)).await {
        Err(error) if error.is_forbidden() => {
            unread.push(error.to_string());
            Ok(Vec::new())
        }
        listed => listed,
    }
}

#[cfg(test)]
mod tests;
