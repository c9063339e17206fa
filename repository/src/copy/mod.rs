//! Copies: the snapshots of one repository kept in another, at another provider, under another key.
//!
//! ```text
//! [round]      what is missing there, oldest first
//! [snapshot]   one snapshot: which base, and what to do where something is damaged
//! [source]     the snapshot as an offload's image and change list
//! [fetch]      its chunks, read ahead and verified
//! [follow]     rounds for ever
//! ```
//!
//! A copy of a snapshot is an offload whose image is the snapshot in the first repository: see
//! `docs/decisions/0012-a-copy-is-an-offload.md`. The second repository is one like any other: with its own keys, packs
//! and runs, its own collection, and perhaps its own writers. Only what a snapshot *is* is taken over: its id, its volume's
//! id and its description, so that whoever knows it in the one finds it in the other.
//!
//! # Invariants
//! What a snapshot restores to in the copy is what it restores to in the original. What was deleted in the copy is not
//! copied again. Nothing of the original is written.
//!
//! # Crash consistency
//! That of offloads: a snapshot is in the copy whole or not at all, and the next round goes on with those that are not.
//! With a folder for journals it also goes on within a snapshot.
//!
//! # Concurrency
//! Any number of copies may run at once, also between the same repositories: of two that copy one snapshot the first to
//! commit wins, and the other takes note of it.

mod fetch;
mod follow;
mod round;
mod snapshot;
mod source;

use std::{collections::BTreeSet, path::PathBuf};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use round::Copier;

use crate::{
    Repository, Result,
    id::{SnapshotId, VolumeId},
    progress::Progress,
    record::snapshot::Method,
};

/// What is copied, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only these snapshots; none named means all.
    pub snapshots: BTreeSet<SnapshotId>,
    /// Only snapshots of these volumes; none named means all.
    pub volumes: BTreeSet<VolumeId>,
    /// Whether what was deleted in the original is deleted in the copy.
    pub prune: bool,
    /// A folder for journals, so that an interrupted copy goes on within a snapshot.
    pub state: Option<PathBuf>,
    /// Most bytes a second to send.
    pub bandwidth: Option<u64>,
}

impl Options {
    /// Tells whether a snapshot is to be copied; one whose volume is not known may be of any.
    fn wants(&self, snapshot: SnapshotId, volume: Option<VolumeId>) -> bool {
        (self.snapshots.is_empty() || self.snapshots.contains(&snapshot))
            && (self.volumes.is_empty() || volume.is_none_or(|volume| self.volumes.contains(&volume)))
    }
}

/// What became of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It is in the copy now.
    Copied {
        /// How what had to be sent was found.
        method: Method,
        /// Bytes of packs fetched from the original.
        fetched_bytes: u64,
        /// Bytes of packs and runs sent to the copy.
        uploaded_bytes: u64,
    },
    /// It was in the copy before.
    AlreadyThere,
    /// It was deleted in the copy, and is not copied again.
    DeletedThere,
    /// It was deleted in the original before it was copied.
    DeletedHere,
    /// It could not be copied; the others were gone on with.
    Failed {
        /// Which repository is to blame, and for what.
        reason: String,
    },
}

/// One snapshot, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its volume; not known where its root cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeId>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A volume's record that could not be copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeFailure {
    /// The volume.
    pub volume: VolumeId,
    /// Which repository is to blame, and for what.
    pub reason: String,
}

/// What a round of copying did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Every snapshot that was asked for, oldest first; those that cannot be read at the end.
    pub snapshots: Vec<SnapshotReport>,
    /// Volumes whose records were copied.
    pub volumes: Vec<VolumeId>,
    /// Volumes whose records could not be copied.
    pub failed_volumes: Vec<VolumeFailure>,
    /// Snapshots deleted in the copy because they were deleted in the original.
    pub pruned: Vec<SnapshotId>,
    /// Bytes of packs fetched from the original.
    pub fetched_bytes: u64,
    /// Bytes of packs and runs sent to the copy.
    pub uploaded_bytes: u64,
}

impl Report {
    /// Tells whether everything that was asked for is in the copy, or deleted on purpose.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failed_volumes.is_empty()
            && !self.snapshots.iter().any(|report| matches!(report.outcome, Outcome::Failed { .. }))
    }

    /// Counts the snapshots that were copied by this round.
    #[must_use]
    pub fn copied(&self) -> usize {
        self.snapshots.iter().filter(|report| matches!(report.outcome, Outcome::Copied { .. })).count()
    }
}

impl Repository {
    /// Copies the snapshots that another repository does not have yet, with the records of their volumes.
    ///
    /// A damaged snapshot is reported and passed over; the others go on.
    ///
    /// # Errors
    /// `Location` where the two are one repository, `NoSnapshot` where one that is asked for is not there,
    /// `Interrupted`, and those of both stores. What was copied until then stays.
    ///
    /// # Cancellation
    /// By the token.
    pub async fn copy_to(
        &self,
        to: &Self,
        options: Options,
        progress: Progress,
        cancel: CancellationToken,
    ) -> Result<Report> {
        Copier::new(self, to, options)?.round(&progress, &cancel).await
    }
}
