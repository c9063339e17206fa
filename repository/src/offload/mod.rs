//! Offload: moving the changed blocks of a cut into the repository.

use std::{path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    Repository, Result,
    block::{BlockSource, ChangeSource},
    id::SnapshotId,
    progress::Progress,
    record::{
        snapshot::{Root, SnapshotDescription},
        volume::OffloadParameters,
    },
};

/// What the changes are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// Nothing: the changes are everything allocated.
    Nothing,
    /// The changes are those since this snapshot was cut.
    Base(SnapshotId),
    /// The changes are everything allocated; what this snapshot holds already is found by hash.
    Content(SnapshotId),
}

/// One offload.
#[derive(Clone)]
pub struct Request {
    /// What was cut.
    pub description: SnapshotDescription,
    /// What the changes are relative to.
    pub against: Against,
    /// The changed ranges.
    pub changes: Arc<dyn ChangeSource>,
    /// The cut.
    pub source: Arc<dyn BlockSource>,
    /// Where packs already stored are written down, so that a restart continues behind them. `None` starts over.
    pub journal: Option<PathBuf>,
    /// Compression and bandwidth.
    pub parameters: OffloadParameters,
    /// How far it has come.
    pub progress: Progress,
    /// Cancelling it ends the offload with `Interrupted`, to be taken up again; it decides nothing in the store.
    pub cancel: CancellationToken,
}

impl Repository {
    /// Moves the changed blocks into the repository and commits the snapshot's root.
    ///
    /// # Errors
    /// `Cancelled` where a tombstone stands at the snapshot's key, `BaseGone` where the base is no longer a root,
    /// `Tracking` where the sample of unchanged blocks found one that changed, and those of the store and image.
    ///
    /// # Crash consistency
    /// Intent, packs, runs, root: a crash anywhere leaves the snapshot either whole or absent.
    pub async fn offload(&self, request: Request) -> Result<Root> {
        let _ = request;
        unimplemented!()
    }
}
