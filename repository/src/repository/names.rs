//! From names to ids, and from ids to keys in the bucket.

use super::Repository;
use crate::id::{GroupId, PackId, SnapshotId, VolumeId};

/// The key of the `repository` object.
pub(super) const REPOSITORY: &str = "repository";

/// The key of its second copy.
pub(super) const REPOSITORY_COPY: &str = "repository.copy";

/// The key of the padding that is deleted where a tombstone finds no room.
pub(super) const RESERVE: &str = "reserve";

/// The key of the record of who repacks.
pub(crate) const REPACKING: &str = "repacking";

/// The folder of volume records.
pub(crate) const VOLUMES: &str = "volumes/";

/// The folder of intents.
pub(crate) const UPLOADS: &str = "uploads/";

/// The folder of roots and tombstones.
pub(crate) const SNAPSHOTS: &str = "snapshots/";

/// The folder of packs.
pub(crate) const PACKS: &str = "packs/";

/// The folder of runs.
pub(crate) const RUNS: &str = "runs/";

/// The folder of what says where the chunks of repacked packs are.
pub(crate) const RELOCATED: &str = "relocated/";

pub(super) fn volume_key(id: VolumeId) -> String {
    format!("{VOLUMES}{id}")
}

pub(crate) fn intent_key(snapshot: SnapshotId) -> String {
    format!("{UPLOADS}{snapshot}")
}

pub(crate) fn relocation_key(pack: PackId) -> String {
    format!("{RELOCATED}{pack}")
}

pub(crate) fn snapshot_key(id: SnapshotId) -> String {
    format!("{SNAPSHOTS}{id}")
}

impl Repository {
    /// Derives the id of the volume of that name.
    #[must_use]
    pub fn volume_id(&self, name: &str) -> VolumeId {
        self.data_key().volume_id(name)
    }

    /// Derives the id of the `generation`th snapshot of that name; a name is used again after a deletion.
    #[must_use]
    pub fn snapshot_id(&self, name: &str, generation: u64) -> SnapshotId {
        self.data_key().snapshot_id(name, generation)
    }

    /// Derives the id of the group snapshot of that name.
    #[must_use]
    pub fn group_id(&self, name: &str) -> GroupId {
        self.data_key().group_id(name)
    }

    /// Derives the id of a volume's member of a group snapshot.
    #[must_use]
    pub fn member_id(&self, group: GroupId, volume: VolumeId) -> SnapshotId {
        self.data_key().member_id(group, volume)
    }
}
