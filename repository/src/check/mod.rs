//! Check: whether everything that the roots refer to is there and whole.

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    Repository, Result,
    id::{SnapshotId, VolumeId},
    progress::Progress,
};

/// How deep to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Records and runs are readable and refer to one another rightly.
    Structure,
    /// Also every pack is there and of the size its table says.
    Presence,
    /// Also every chunk decrypts, decompresses and hashes to its id.
    Content,
}

/// A damaged object, and what it hurts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The object's key in the bucket.
    pub object: String,
    /// What does not fit.
    pub reason: String,
    /// The snapshots that it hurts, and the byte ranges of each (start, length); no range where all of it is hurt.
    pub hurt: Vec<Hurt>,
}

/// What a damaged object takes from one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hurt {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its volume.
    pub volume: VolumeId,
    /// Byte ranges (start, length) of the volume that cannot be restored.
    pub ranges: Vec<(u64, u64)>,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Roots checked.
    pub snapshots: u64,
    /// Runs checked.
    pub runs: u64,
    /// Packs checked.
    pub packs: u64,
    /// Chunks checked; 0 below [`Level::Content`].
    pub chunks: u64,
    /// Bytes read from the store.
    pub read_bytes: u64,
    /// Everything damaged; empty when the repository is whole.
    pub damages: Vec<Damage>,
}

impl Repository {
    /// Checks the repository down to a level.
    ///
    /// # Errors
    /// The store's; damage is no error but part of the report.
    pub async fn check(&self, level: Level, progress: Progress, cancel: CancellationToken) -> Result<Report> {
        let _ = (level, progress, cancel);
        unimplemented!()
    }
}
