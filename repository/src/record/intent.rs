//! The intent of one offload: put before its first pack, removed after its commit or cancellation.
//!
//! While it stands, packs and runs whose ids begin with `upload`, and all that the pinned roots reach, are
//! kept by every collector.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{SnapshotId, UploadId, VolumeId};

/// `uploads/<snapshot>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The snapshot being written.
    pub snapshot: SnapshotId,
    /// The attempt; first half of the ids of all it writes.
    pub upload: UploadId,
    /// The volume.
    pub volume: VolumeId,
    /// The node that writes; for people.
    pub node: String,
    /// Roots whose runs and packs the new root may refer to.
    pub pins: Vec<SnapshotId>,
    /// When it was put, by the writer's clock; for people.
    pub started_at: Timestamp,
}
