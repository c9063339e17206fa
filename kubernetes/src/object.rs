//! The objects of `snapshot.storage.k8s.io/v1`, as far as they matter here. Their definitions are the snapshot controller's
//! (external-snapshotter, `client/config/crd`), so no crate has them.

use std::borrow::Cow;

use jiff::Timestamp;
use kube::{
    Resource,
    core::{ClusterResourceScope, NamespaceResourceScope, ObjectMeta},
};
use serde::{Deserialize, Serialize};

/// Group of the kinds here.
pub(crate) const GROUP: &str = "snapshot.storage.k8s.io";
/// Version of the kinds here.
const VERSION: &str = "v1";
/// Both, as objects name them.
const API_VERSION: &str = "snapshot.storage.k8s.io/v1";

/// Says where objects of a kind are, which the client has to know.
macro_rules! resource {
    ($name:ident, $plural:literal, $scope:ty) => {
        impl Resource for $name {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                stringify!($name).into()
            }

            fn group((): &()) -> Cow<'_, str> {
                GROUP.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                VERSION.into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(VolumeSnapshot, "volumesnapshots", NamespaceResourceScope);
resource!(VolumeSnapshotContent, "volumesnapshotcontents", ClusterResourceScope);
resource!(VolumeSnapshotClass, "volumesnapshotclasses", ClusterResourceScope);

/// What a user asks for: a snapshot of a claim, or one that is there already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshot {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: SnapshotSpec,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SnapshotStatus>,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSpec {
    /// Of what.
    pub source: SnapshotSource,
    /// How.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_snapshot_class_name: Option<String>,
}

/// What a snapshot is of; one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSource {
    /// A claim of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim_name: Option<String>,
    /// A content that was made beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_snapshot_content_name: Option<String>,
}

/// What came of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// The content that belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_volume_snapshot_content_name: Option<String>,
    /// The instant that it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_time: Option<Timestamp>,
    /// Whether claims can be made from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_to_use: Option<bool>,
    /// Least size of a claim that is made from it, as a quantity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_size: Option<String>,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<SnapshotError>,
}

/// What went wrong last with a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotError {
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a driver has of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotContent {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    /// Name and labels.
    pub metadata: ObjectMeta,
    /// What belongs to what.
    pub spec: ContentSpec,
    /// What the driver says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ContentStatus>,
}

/// What belongs to what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContentSpec {
    /// `Delete`, or `Retain` for what stays with the driver when its objects go.
    pub deletion_policy: String,
    /// The driver.
    pub driver: String,
    /// A volume or a snapshot of the driver's.
    pub source: ContentSource,
    /// `Filesystem` or `Block`: what it was taken of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_volume_mode: Option<String>,
    /// How it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_snapshot_class_name: Option<String>,
    /// The object that it belongs to.
    pub volume_snapshot_ref: SnapshotReference,
}

/// What a content is made from; one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContentSource {
    /// The driver's id of a snapshot that is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_handle: Option<String>,
    /// The driver's id of a volume that is to be snapshotted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_handle: Option<String>,
}

/// Names a [`VolumeSnapshot`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotReference {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its namespace.
    #[serde(default)]
    pub namespace: String,
    /// Which one of that name; written by the snapshot controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// What the driver says of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContentStatus {
    /// Its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_handle: Option<String>,
    /// Least size of a volume that is made from it, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_size: Option<u64>,
}

/// How snapshots are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotClass {
    /// Its name.
    pub metadata: ObjectMeta,
    /// By which driver.
    pub driver: String,
    /// What becomes of the driver's snapshot when the objects go.
    pub deletion_policy: String,
    /// The driver's parameters.
    #[serde(default)]
    pub parameters: std::collections::BTreeMap<String, String>,
}

impl VolumeSnapshot {
    /// One that is to be made.
    #[must_use]
    pub fn new(namespace: &str, name: &str, spec: SnapshotSpec) -> Self {
        let metadata =
            ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
        Self { api_version: API_VERSION.to_owned(), kind: "VolumeSnapshot".to_owned(), metadata, spec, status: None }
    }

    /// Whether claims can be made from it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status.as_ref().and_then(|status| status.ready_to_use).unwrap_or(false)
    }

    /// What went wrong last, while it is not ready.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        let error = self.status.as_ref().filter(|_| !self.is_ready())?.error.as_ref()?;
        Some(error.message.as_deref().unwrap_or("no reason is told"))
    }

    /// The claim it is of.
    #[must_use]
    pub fn claim(&self) -> Option<&str> {
        self.spec.source.persistent_volume_claim_name.as_deref()
    }

    /// The instant that it shows, and before that is known the one at which it was asked for.
    #[must_use]
    pub fn taken_at(&self) -> Option<Timestamp> {
        let cut = self.status.as_ref().and_then(|status| status.creation_time);
        cut.or_else(|| self.metadata.creation_timestamp.as_ref().map(|time| time.0))
    }
}

impl VolumeSnapshotContent {
    /// One for a snapshot that the driver has already. What is deleted with it are objects, and never the snapshot.
    #[must_use]
    pub fn of_handle(name: &str, handle: &str, volume_mode: Option<&str>, namespace: &str, snapshot: &str) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "VolumeSnapshotContent".to_owned(),
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: ContentSpec {
                deletion_policy: "Retain".to_owned(),
                driver: varve_csi::identity::DRIVER.to_owned(),
                source: ContentSource { snapshot_handle: Some(handle.to_owned()), volume_handle: None },
                source_volume_mode: volume_mode.map(str::to_owned),
                volume_snapshot_class_name: None,
                volume_snapshot_ref: SnapshotReference {
                    api_version: Some(API_VERSION.to_owned()),
                    kind: Some("VolumeSnapshot".to_owned()),
                    name: snapshot.to_owned(),
                    namespace: namespace.to_owned(),
                    uid: None,
                },
            },
            status: None,
        }
    }

    /// The driver's id of the snapshot, once there is one.
    #[must_use]
    pub fn handle(&self) -> Option<&str> {
        let told = self.status.as_ref().and_then(|status| status.snapshot_handle.as_deref());
        told.or(self.spec.source.snapshot_handle.as_deref())
    }

    /// Whether it belongs to a snapshot object.
    #[must_use]
    pub fn is_of(&self, namespace: &str, name: &str) -> bool {
        let reference = &self.spec.volume_snapshot_ref;
        reference.namespace == namespace && reference.name == name
    }
}
