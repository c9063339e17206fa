//! Offload: moving the changed blocks of a cut into the repository.
//!
//! ```text
//! [gather]     blocks into chunks               a pure function of what changed
//! [remembered] the changes                      found once where they are few
//! [scan]       reads the cut in order           a thread
//! [ahead]      several reads at once            some more
//! [prepare]    chunks hashed and compressed     on all cores
//! [transfer]   chunks into packs, packs put     in the scan's order
//! [budget]     memory, and what it allows
//! [packs]      which they are                  positions while extents are drafted
//! [dedup]      chunks that are stored already   an index of bounded size
//! [compare]    chunks that others stored        walks what is pinned along with the scan
//! [journal]    what was put                     a file on the node
//! [resume]     what of it arrived
//! [sample]     are unchanged blocks unchanged?
//! [pins]       what may be referred to          checked behind the intent
//! [begin]      an intent, or a journal
//! [runs]       the new level, merged with older ones
//! [attempt]    the order of it all              intent, packs and runs, root
//! ```
//!
//! # Crash consistency
//!
//! The intent stands before the first pack, packs and runs before the root, and the root is created once or not at all. What an attempt leaves behind begins with its upload's id, so a collector finds it
//! once the intent is gone. An attempt whose journal and intent both stand is continued; any other starts anew
//! with a new upload id.

mod ahead;
mod attempt;
mod begin;
mod budget;
mod compare;
mod dedup;
mod gather;
mod journal;
mod level;
mod packs;
mod pins;
mod prepare;
mod remembered;
mod resume;
mod runs;
mod sample;
mod scan;
mod transfer;

use std::{path::PathBuf, sync::Arc};

pub use attempt::Leftover;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Repository, Result,
    block::{BlockSource, ChangeSource},
    id::SnapshotId,
    progress::Progress,
    record::{
        snapshot::{Root, SnapshotDescription},
        volume::OffloadParameters,
    },
    work::Worker,
};

/// What the changes are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// Nothing: the changes are everything allocated. What snapshots of other volumes hold already is found by hash.
    Nothing,
    /// Nothing, and everything is sent: what the repository holds is not relied upon.
    Anew,
    /// The changes are those since this snapshot was cut.
    Base(SnapshotId),
    /// The changes are everything allocated; what this snapshot holds already is found by hash.
    Content(SnapshotId),
}

impl Against {
    /// The snapshot that it names.
    pub(crate) const fn snapshot(self) -> Option<SnapshotId> {
        match self {
            Self::Nothing | Self::Anew => None,
            Self::Base(base) | Self::Content(base) => Some(base),
        }
    }
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
    /// Calling it again for a snapshot that is committed returns its root.
    ///
    /// # Errors
    /// `Cancelled` where a tombstone stands at the snapshot's key, `BaseGone` where the base is no longer a root,
    /// `Tracking` where the sample of unchanged blocks found one that changed, `Conflict` where another attempt was
    /// first, `Interrupted`, and those of the store and image.
    ///
    /// # Crash consistency
    /// Intent, packs, runs, root: a crash anywhere leaves the snapshot either whole or absent.
    ///
    /// # Cancellation
    /// By the token. The image is not read any more once this has returned; a future that is dropped instead gives no
    /// such promise.
    pub async fn offload(&self, request: Request) -> Result<Root> {
        let (root, leftover) = self.offload_to_commit(request).await?;
        leftover.clear().await;
        Ok(root)
    }

    /// The same, to the moment at which the root stands, and a request earlier: what is left behind is the caller's to clear
    /// away.
    ///
    /// # Errors
    /// Those of [`offload`](Self::offload).
    pub async fn offload_to_commit(&self, request: Request) -> Result<(Root, Leftover)> {
        let cancel = request.cancel.clone();
        let stop = cancel.child_token();
        let worker = Worker::new(self.seams().work);
        let (snapshot, stages) = (request.description.id, request.progress.stages().clone());
        let attempt = attempt::Attempt::new(self, request, worker.clone(), stop.clone());
        let result = cancel.run_until_cancelled(Box::pin(attempt.run())).await;
        stop.cancel();
        worker.finish().await;
        stages.log("offload", snapshot);
        result.unwrap_or(Err(Error::Interrupted))
    }
}
