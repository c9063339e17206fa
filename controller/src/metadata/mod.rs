//! SnapshotMetadata: which blocks of a snapshot hold data, and which differ between two of them, for backup programs.
//!
//! What is told stands in the runs of committed snapshots ([`varve_repository::difference`]): no data is read, and no node
//! is asked, unless it is to say why a snapshot is not in the repository.
//!
//! # Invariants
//! No block that holds data, or that differs, is left out. Ranges ascend and do not overlap, and each ends after the offset
//! that was asked for. An answer ends well only once all is told.
//!
//! Memory: an answer holds at most [`BATCH`] ranges while its client reads them. Walks, which hold pages of runs, are at
//! most [`WALKS`] at once, and none of them waits for a client.
//!
//! # Cancellation
//! An answer comes forward only while it is read: once its client hangs up it is dropped, and with it the walk.

mod answer;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use tonic::Status;
use varve_csi::{call, name, status};
use varve_proto::csi;
use varve_repository::{id::SnapshotId, record::snapshot::Root};

pub(crate) use self::answer::Answer;
use crate::{
    Controller, catalog,
    parameters::Durability,
    snapshot::{Found, Snapshot, Stage},
};

/// Most ranges of one message. Some 60 KiB: clients take messages of 4 MiB at the most, unless told otherwise.
const LARGEST_MESSAGE: usize = 4096;

/// Most ranges that an answer has ahead of its client: 256 KiB. Each walk reads the indexes of runs once more, so it goes
/// further than one message.
const BATCH: usize = 4 * LARGEST_MESSAGE;

/// Walks at once in a process. Each holds a page of each level of two snapshots, and some read ahead: a few megabytes.
pub(crate) const WALKS: usize = 4;

/// The part of a snapshot that is asked about, and how it is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    /// The byte to begin at.
    from: u64,
    /// Most ranges of one message.
    most: usize,
}

impl Window {
    /// Reads what both requests have in common.
    ///
    /// # Errors
    /// `OUT_OF_RANGE` for an offset below 0, as CSI has it (GetMetadataAllocated, GetMetadataDelta); `INVALID_ARGUMENT`.
    fn parse(starting_offset: i64, max_results: i32, secrets: &HashMap<String, String>) -> Result<Self, Status> {
        name::map("secrets", secrets)?;
        let most = match usize::try_from(max_results) {
            Ok(0) => LARGEST_MESSAGE,
            Ok(most) => most.min(LARGEST_MESSAGE),
            Err(_) => return Err(status::invalid("max_results", max_results, "0 or more")),
        };
        let from = u64::try_from(starting_offset).map_err(|_| out_of_range(starting_offset, "0 or more"))?;
        Ok(Self { from, most })
    }
}

impl Controller {
    /// Tells which blocks of a snapshot hold data.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`; `NOT_FOUND`; `OUT_OF_RANGE`; `ABORTED` for a snapshot that is still on its way into the
    /// repository, `FAILED_PRECONDITION` for one that does not get there; or the store's.
    pub(crate) async fn allocated_metadata(&self, request: csi::GetMetadataAllocatedRequest) -> Result<Answer, Status> {
        let id = snapshot_id("snapshot_id", &request.snapshot_id)?;
        let window = Window::parse(request.starting_offset, request.max_results, &request.secrets)?;
        call::snapshot(id);
        let root = self.committed(id).await?;
        Answer::new(self.clone(), None, root, window)
    }

    /// Tells which blocks differ between two snapshots of a volume: those that the target holds otherwise than the base.
    ///
    /// # Errors
    /// As [`allocated_metadata`](Self::allocated_metadata); `INVALID_ARGUMENT` for snapshots of two volumes.
    pub(crate) async fn delta_metadata(&self, request: csi::GetMetadataDeltaRequest) -> Result<Answer, Status> {
        let base = snapshot_id("base_snapshot_id", &request.base_snapshot_id)?;
        let target = snapshot_id("target_snapshot_id", &request.target_snapshot_id)?;
        let window = Window::parse(request.starting_offset, request.max_results, &request.secrets)?;
        call::snapshot(target);
        let (base, target) = tokio::try_join!(self.committed(base), self.committed(target))?;
        of_one_volume(&base, &target)?;
        Answer::new(self.clone(), Some(base), target, window)
    }

    /// Finds a snapshot in the repository.
    async fn committed(&self, id: SnapshotId) -> Result<Box<Root>, Status> {
        match self.find_snapshot(id).await? {
            Found::Root(root) => Ok(root),
            Found::Cut(cut) => Err(not_committed(&cut)),
            Found::Nowhere => Err(catalog::no_snapshot(id)),
            Found::Unsure(status) => Err(status),
        }
    }
}

fn snapshot_id(field: &str, text: &str) -> Result<SnapshotId, Status> {
    catalog::snapshot_id(field, name::required(field, text)?)
}

fn of_one_volume(base: &Root, target: &Root) -> Result<(), Status> {
    let (base, target) = (&base.description, &target.description);
    if base.volume == target.volume {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "base_snapshot_id is {}, of volume {}, and target_snapshot_id is {}, of volume {}: expected two snapshots of one \
         volume",
        base.id, base.volume, target.id, target.volume
    )))
}

/// Says why a snapshot that is a cut has nothing to tell. `FAILED_PRECONDITION` is what makes a backup program go without
/// changed blocks; whoever is told `ABORTED` asks again.
fn not_committed(cut: &Snapshot) -> Status {
    let (id, node) = (cut.id, &cut.node);
    if cut.durability == Durability::Node {
        return Status::failed_precondition(format!(
            "snapshot {id} is kept on node {node:?} alone (durability: node), and blocks are told of snapshots in the \
             repository: take one with durability: bucket, or read all of this one"
        ));
    }
    match cut.stage {
        Stage::Failed(_) => cut.failure(),
        Stage::Offloading { done, total } => Status::aborted(format!(
            "snapshot {id} is not in the repository yet: {done} of {total} bytes are offloaded; ask again when it is ready \
             to use"
        )),
        // Committed since the repository was looked at.
        Stage::Ready => Status::aborted(format!("snapshot {id} has just been offloaded: ask again")),
    }
}

fn out_of_range(starting_offset: impl std::fmt::Display, expected: &str) -> Status {
    Status::out_of_range(format!("starting_offset is {starting_offset}: expected {expected}"))
}
