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
    /// Whether its image holds what somebody may want: a file system that was once completed, or what it was made from.
    /// Until then whatever is there is the rest of a mkfs that was cut short. Never unset; without meaning for a volume
    /// that is presented as a block device.
    #[serde(default = "formatted_unless_told")]
    pub formatted: bool,
    /// When its image was made, by the node's clock; for people.
    pub created_at: Timestamp,
}

/// A record that does not say is taken for one of a volume with data: nothing is ever made on that.
fn formatted_unless_told() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_does_not_say_is_of_a_volume_with_data() {
        let text = r#"{"id":"ID","name":"claim","incarnation":"0190e5c4-0000-4000-8000-000000000001",
            "capacity_bytes":4096,"presentation":"ext4","repository":"0190e5c4-0000-4000-8000-000000000002",
            "created_at":"2026-01-01T00:00:00Z"}"#;
        let text = text.replace("ID", &VolumeId::from_bytes([1; 16]).to_string());
        let record: Record = serde_json::from_str(&text).expect("read");
        assert!(record.formatted);
        let blank = Record { formatted: false, ..record };
        let again: Record = serde_json::from_str(&serde_json::to_string(&blank).expect("written")).expect("read");
        assert_eq!(again, blank);
    }
}
