//! The snapshots of a cluster, as people and scripts ask for them.
//!
//! ```text
//! take      making one, waiting until it can be restored from, and letting older ones go
//! restore   making a claim from one, in its own namespace or in another
//! explain   all that is known of one
//! import    objects for snapshots that a repository has and the cluster does not know
//! pair      the two objects by which a snapshot that is there already is known in a namespace
//! ```

pub mod explain;
pub mod import;
mod pair;
pub mod restore;
pub mod take;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{ResourceExt as _, api::ListParams};
use serde::Serialize;
use varve_csi::{identity::DRIVER, topology};

use crate::{
    cluster::{Cluster, Error, list},
    object::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent},
    quantity,
};

/// The label of objects that are made here.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub(crate) const MANAGER: &str = "kubectl-varve";
/// The label of contents that are made here: where the driver has the snapshot.
pub(crate) const DURABILITY: &str = "varve.io/durability";

/// How far a snapshot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Claims can be made from it.
    Ready,
    /// It is on its way.
    Pending,
    /// Something went wrong. It is tried again, and may become ready.
    Failed,
}

/// Where the driver has a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Place {
    /// In the repository, from where any node restores it.
    Bucket,
    /// On one node alone.
    Node {
        /// Which one, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Neither its class nor a label says so, or the class may not be read.
    Unknown,
}

/// A snapshot, as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The claim it is of, if it is of one of this cluster.
    pub claim: Option<String>,
    /// Its class.
    pub class: Option<String>,
    /// How far it has come.
    pub state: State,
    /// What went wrong last, while it is not ready.
    pub error: Option<String>,
    /// The instant that it shows, or at which it was asked for.
    pub taken_at: Option<Timestamp>,
    /// Least size of a claim that is made from it.
    pub size_bytes: Option<u64>,
    /// Where it is.
    pub place: Place,
    /// The driver's id of it.
    pub handle: Option<String>,
}

/// Snapshots, and what could not be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// By namespace and claim, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// What may not be read, and so is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
}

/// What describes snapshots beside the snapshots themselves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    contents: BTreeMap<String, VolumeSnapshotContent>,
    classes: BTreeMap<String, VolumeSnapshotClass>,
    /// Of volumes, by the driver's id.
    nodes: BTreeMap<String, String>,
    unread: Vec<String>,
}

impl Surroundings {
    /// Describes a snapshot; `None` where it is another driver's.
    pub(crate) fn describe(&self, snapshot: &VolumeSnapshot) -> Option<Snapshot> {
        let content = self.content(snapshot);
        let class_name = snapshot.spec.volume_snapshot_class_name.clone();
        let class = class_name.as_ref().and_then(|name| self.classes.get(name));
        let driver = content.map(|content| &content.spec.driver).or(class.map(|class| &class.driver));
        if driver.is_some_and(|driver| driver != DRIVER) {
            return None;
        }
        let state = match (snapshot.is_ready(), snapshot.error()) {
            (true, _) => State::Ready,
            (false, Some(_)) => State::Failed,
            (false, None) => State::Pending,
        };
        let told = snapshot.status.as_ref().and_then(|status| status.restore_size.as_deref());
        let of_driver = content.and_then(|content| content.status.as_ref()?.restore_size);
        Some(Snapshot {
            namespace: snapshot.namespace().unwrap_or_default(),
            name: snapshot.name_any(),
            claim: snapshot.claim().map(str::to_owned),
            class: class_name,
            state,
            error: snapshot.error().map(str::to_owned),
            taken_at: snapshot.taken_at(),
            size_bytes: told.and_then(quantity::bytes).or(of_driver),
            place: self.place(content, class),
            handle: content.and_then(VolumeSnapshotContent::handle).map(str::to_owned),
        })
    }

    /// The content that belongs to a snapshot.
    pub(crate) fn content(&self, snapshot: &VolumeSnapshot) -> Option<&VolumeSnapshotContent> {
        let bound = snapshot.status.as_ref().and_then(|status| status.bound_volume_snapshot_content_name.as_ref());
        bound.and_then(|name| self.contents.get(name))
    }

    fn place(&self, content: Option<&VolumeSnapshotContent>, class: Option<&VolumeSnapshotClass>) -> Place {
        let label = content.and_then(|content| content.labels().get(DURABILITY));
        let asked = class.map(|class| class.parameters.get("durability").map_or("bucket", String::as_str));
        match label.map(String::as_str).or(asked) {
            Some("bucket") => Place::Bucket,
            Some("node") => {
                let volume = content.and_then(|content| content.spec.source.volume_handle.as_ref());
                Place::Node { name: volume.and_then(|volume| self.nodes.get(volume)).cloned() }
            }
            _ => Place::Unknown,
        }
    }
}

/// The node that a volume is on.
pub(crate) fn node_of(volume: &PersistentVolume) -> Option<&str> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    let wanted = affinity.node_selector_terms.iter().flat_map(|term| term.match_expressions.iter().flatten());
    wanted
        .filter(|wanted| wanted.key == topology::NODE)
        .find_map(|wanted| wanted.values.as_ref()?.first())
        .map(String::as_str)
}

/// The driver's id of a volume, if it is this driver's.
pub(crate) fn handle_of(volume: &PersistentVolume) -> Option<&str> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    (source.driver == DRIVER).then_some(source.volume_handle.as_str())
}

impl Cluster {
    /// Reads what describes snapshots; what may not be read is left out, and said.
    ///
    /// # Errors
    /// The API server's, but for its refusals to show something.
    pub(crate) async fn surroundings(&self) -> Result<Surroundings, Error> {
        let mut around = Surroundings::default();
        let contents = readable(list(&self.all::<VolumeSnapshotContent>(), &ListParams::default()).await, &mut around)?;
        let classes = readable(list(&self.all::<VolumeSnapshotClass>(), &ListParams::default()).await, &mut around)?;
        let volumes = readable(list(&self.all::<PersistentVolume>(), &ListParams::default()).await, &mut around)?;
        around.contents = contents.into_iter().map(|content| (content.name_any(), content)).collect();
        around.classes = classes.into_iter().map(|class| (class.name_any(), class)).collect();
        let placed =
            volumes.iter().filter_map(|volume| Some((handle_of(volume)?.to_owned(), node_of(volume)?.to_owned())));
        around.nodes = placed.collect();
        Ok(around)
    }

    /// Lists the snapshots of a namespace, or of all, and of one claim, where that is named.
    ///
    /// # Errors
    /// The API server's.
    pub async fn snapshots(&self, namespace: Option<&str>, claim: Option<&str>) -> Result<Listing, Error> {
        let api = namespace.map_or_else(|| self.all::<VolumeSnapshot>(), |namespace| self.within(namespace));
        let found = list(&api, &ListParams::default()).await?;
        let around = self.surroundings().await?;
        let mut snapshots: Vec<_> = found.iter().filter_map(|snapshot| around.describe(snapshot)).collect();
        snapshots.retain(|snapshot| claim.is_none_or(|claim| snapshot.claim.as_deref() == Some(claim)));
        snapshots.sort_by(|one, other| {
            let key = |snapshot: &Snapshot| (snapshot.namespace.clone(), snapshot.claim.clone(), snapshot.taken_at);
            key(one).cmp(&key(other)).then_with(|| one.name.cmp(&other.name))
        });
        Ok(Listing { snapshots, unread: around.unread })
    }
}

fn readable<K>(listed: Result<Vec<K>, Error>, around: &mut Surroundings) -> Result<Vec<K>, Error> {
    match listed {
        Err(error) if error.is_forbidden() => {
            around.unread.push(error.to_string());
            Ok(Vec::new())
        }
        listed => listed,
    }
}

#[cfg(test)]
mod tests;
