//! The intent of one offload: put before its first pack, removed after its commit or cancellation.
//!
//! While it stands, every collector keeps the packs and runs whose ids begin with the upload of one of its attempts,
//! and all that the attempts pin. An attempt that takes over from another adds itself and takes nothing away: the earlier
//! one's writer may only be asleep, and may still commit.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::snapshot::{Root, RunReference};
use crate::id::{SnapshotId, UploadId, VolumeId};

/// `uploads/<snapshot>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The snapshot being written.
    pub snapshot: SnapshotId,
    /// The volume.
    pub volume: VolumeId,
    /// Everything that was tried to write it, oldest first; never empty.
    pub attempts: Vec<Attempt>,
}

/// One attempt to write a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// First half of the ids of all that it writes.
    pub upload: UploadId,
    /// The node that writes; for people.
    pub node: String,
    /// What the new root may refer to beside its own.
    pub pins: Vec<Pin>,
    /// When it began, by the writer's clock; for people.
    pub started_at: Timestamp,
}

/// A snapshot whose runs and packs an attempt builds upon, and what they are: a deletion takes the root away, and with it
/// the knowledge of what must still be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its runs, as its root lists them.
    pub runs: Vec<RunReference>,
}

impl Intent {
    /// Finds an attempt by its upload.
    #[must_use]
    pub fn attempt(&self, upload: UploadId) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.upload == upload)
    }
}

impl Pin {
    /// Pins what a root refers to.
    #[must_use]
    pub fn of(root: &Root) -> Self {
        Self { snapshot: root.description.id, runs: root.runs.clone() }
    }
}
