//! What stands in `volumes/<volume>/record.json`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use varve_repository::{
    id::{SnapshotId, VolumeId},
    record::volume::{OffloadParameters, Presentation, Source},
};

/// What the node knows of a volume whose image it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The volume's id.
    pub id: VolumeId,
    /// The name it was asked for by.
    pub name: String,
    /// Distinguishes this volume from an earlier one of the same name.
    pub incarnation: Uuid,
    /// Size presented to the workload, in bytes; a multiple of the block size. The image is at least as long.
    pub capacity_bytes: u64,
    /// What it is presented as.
    pub presentation: Presentation,
    /// How its snapshots are offloaded.
    #[serde(default)]
    pub offload: OffloadParameters,
    /// The repository that its snapshots go to.
    pub repository: Uuid,
    /// What it was filled with at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The snapshot whose blocks it started with, where that is one that goes to the repository: what its first
    /// snapshot is computed against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<SnapshotId>,
    /// When its image was made, by the node's clock; for people.
    pub created_at: Timestamp,
}
