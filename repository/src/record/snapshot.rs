//! What stands at `snapshots/<snapshot>`: a root once the snapshot is committed, a tombstone once it is gone.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::volume::Presentation;
use crate::id::{GroupId, RunId, SnapshotId, UploadId, VolumeId};

/// All that is known of a snapshot at the moment of its cut; the part of a root that the node supplies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDescription {
    /// The snapshot's id.
    pub id: SnapshotId,
    /// The name it was asked for by.
    pub name: String,
    /// The volume it is of.
    pub volume: VolumeId,
    /// The volume's name.
    pub volume_name: String,
    /// Which incarnation of the volume.
    pub incarnation: Uuid,
    /// The image's size at the cut, in bytes; a multiple of the block size.
    pub capacity_bytes: u64,
    /// What the volume is presented as.
    pub presentation: Presentation,
    /// The instant of the cut, by the node's clock.
    pub created_at: Timestamp,
    /// The node that made the cut.
    pub node: String,
    /// The group snapshot that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// Whether the file system was frozen at the cut. A volume that was not mounted needs no freeze.
    pub frozen: bool,
    /// How long writers were held, in nanoseconds.
    pub pause_nanos: u64,
    /// The class parameters it was created with, without secrets.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
}

/// How the changed blocks were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Everything allocated was read and sent.
    Full,
    /// The extent maps of the base and the cut were compared; only changes were read.
    Incremental,
    /// Everything allocated was read, and compared by hash with what an earlier snapshot holds.
    Compared,
}

/// A run, as a root refers to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunReference {
    /// The run's id.
    pub id: RunId,
    /// The object's size in bytes.
    pub object_bytes: u64,
    /// Where its sealed index starts, in bytes from the object's start; it reaches to the end.
    pub index_offset: u64,
    /// BLAKE3 of the sealed index, as stored; 64 hexadecimal digits.
    pub index_hash: String,
    /// Extents in it.
    pub extents: u64,
    /// Bytes of packs that the run is known to refer to; what a size-tiered merge goes by together with `extents`.
    pub referenced_bytes: u64,
}

/// What writing the snapshot took. All bytes; blocks of 4096 bytes counted as bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatistics {
    /// Bytes that the changes cover, zeroes included.
    pub changed_bytes: u64,
    /// Bytes that were read from the image.
    pub read_bytes: u64,
    /// Plain bytes of new chunks.
    pub stored_bytes: u64,
    /// Plain bytes found to be in the repository already.
    pub deduplicated_bytes: u64,
    /// Bytes of the packs and runs put; the intent's and the root's few hundred are not counted.
    pub uploaded_bytes: u64,
    /// Plain bytes that the whole snapshot holds, zeroes and holes aside, all runs taken together. An upper
    /// bound where runs overlap.
    pub data_bytes: u64,
    /// New chunks.
    pub chunks: u64,
    /// New packs.
    pub packs: u64,
    /// Wall time of the offload, in milliseconds, of its last attempt.
    pub offload_millis: u64,
}

/// A committed snapshot: everything needed to restore it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// What was cut.
    pub description: SnapshotDescription,
    /// The attempt that wrote it; how a writer recognises its own root when an answer was lost.
    pub upload: UploadId,
    /// How the changes were found.
    pub method: Method,
    /// The snapshot it was computed against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<SnapshotId>,
    /// Runs, newest first: a block is where the first run that covers it says; where none does it is zero.
    pub runs: Vec<RunReference>,
    /// Runs that a repair under way is about to put in their place: readers ignore them, collectors keep them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<RunReference>,
    /// When a repair last replaced the runs, by its clock; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired_at: Option<Timestamp>,
    /// What writing it took.
    pub statistics: SnapshotStatistics,
}

/// A snapshot that is gone, or that never will be. It outlives any writer that could still hold the id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The snapshot's id.
    pub id: SnapshotId,
    /// Random; how a deleter recognises its own tombstone when an answer was lost.
    pub nonce: UploadId,
    /// Why: `deleted`, or what cancelled it.
    pub reason: String,
    /// When, by the deleter's clock; for people.
    pub deleted_at: Timestamp,
}
