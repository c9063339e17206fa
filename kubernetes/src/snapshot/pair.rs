//! A content and the snapshot that it names, for a snapshot that the driver has already.
//!
//! Both are made, or found. Made again they are the same: a content is named for the driver's snapshot and the namespace.

use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{MANAGED_BY, MANAGER};
use crate::{
    cluster::{Cluster, Error, create, read},
    object::{SnapshotSource, SnapshotSpec, VolumeSnapshot, VolumeSnapshotContent},
};

/// What the snapshot controller notes on the content of a snapshot that is deleted.
const BEING_DELETED: &str = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted";

/// The two objects, in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// Whether anything had to be made.
    pub(super) made: bool,
    /// The snapshot's name.
    pub(super) snapshot: String,
}

/// Names the content by which a snapshot of the driver's is known in a namespace.
pub(super) fn content_name(handle: &str, namespace: &str) -> String {
    format!("{handle}-{namespace}")
}

/// The snapshot that a content names.
pub(super) fn snapshot_of(content: &VolumeSnapshotContent) -> VolumeSnapshot {
    let reference = &content.spec.volume_snapshot_ref;
    let source = SnapshotSource { volume_snapshot_content_name: Some(content.name_any()), ..Default::default() };
    let spec = SnapshotSpec { source, volume_snapshot_class_name: None };
    let mut snapshot = VolumeSnapshot::new(&reference.namespace, &reference.name, spec);
    snapshot.labels_mut().insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    snapshot
}

impl Cluster {
    /// Makes a content and the snapshot that it names, or finds them.
    ///
    /// # Errors
    /// [`Error::Unfit`] where one of the two names is something else's, and the API server's.
    pub(super) async fn make_pair(&self, wanted: &VolumeSnapshotContent) -> Result<Pair, Error> {
        let contents = self.all::<VolumeSnapshotContent>();
        let content_name = wanted.name_any();
        let namespace = &wanted.spec.volume_snapshot_ref.namespace;
        let occupied = || {
            Error::Unfit(format!("VolumeSnapshotContent {content_name:?} is there already, and for another snapshot"))
        };
        let known = read(&contents, &content_name).await?;
        let fits = |content: &VolumeSnapshotContent| {
            content.handle() == wanted.handle() && content.spec.volume_snapshot_ref.namespace == *namespace
        };
        if known.as_ref().is_some_and(|content| !fits(content)) {
            return Err(occupied());
        }
        // The name is the one that it was made known by, should that have been another one.
        let content = known.as_ref().unwrap_or(wanted);
        let name = &content.spec.volume_snapshot_ref.name;
        let snapshots = self.within::<VolumeSnapshot>(namespace);
        let snapshot = snapshot_of(content);
        let found = read(&snapshots, name).await?;
        if found.as_ref().is_some_and(|found| found.spec.source != snapshot.spec.source) {
            return Err(taken(namespace, name, &content_name));
        }
        let made = known.is_none() || found.is_none();
        match &known {
            None => {
                create(&contents, wanted).await?.ok_or_else(occupied)?;
            }
            Some(known) if found.is_none() && known.spec.volume_snapshot_ref.uid.is_some() => {
                // It waits for a snapshot that was deleted, and would take no other of the name.
                let free = Patch::Merge(json!({
                    "metadata": { "annotations": { BEING_DELETED: null } },
                    "spec": { "volumeSnapshotRef": { "uid": null } },
                }));
                let freed = contents.patch(&content_name, &PatchParams::default(), &free).await;
                let doing = || format!("freeing VolumeSnapshotContent {content_name:?}");
                freed.map_err(|error| Error::refused(doing(), &error))?;
            }
            Some(_) => {}
        }
        if found.is_none() {
            create(&snapshots, &snapshot).await?.ok_or_else(|| taken(namespace, name, &content_name))?;
        }
        Ok(Pair { made, snapshot: name.clone() })
    }
}

fn taken(namespace: &str, snapshot: &str, content: &str) -> Error {
    Error::Unfit(format!(
        "VolumeSnapshot {snapshot:?} is in namespace {namespace:?} already, and not of VolumeSnapshotContent {content:?}: \
         delete one of them, or take another namespace"
    ))
}
