//! One answer: ranges, message by message, as fast as they are read and no faster.
//!
//! Between two batches nothing is held of the walk: the next one starts where the last range ended, as a client would that
//! was interrupted there. So a client that reads slowly, as one does that copies data meanwhile, is in nobody's way.

use std::collections::VecDeque;

use futures::{Stream, stream};
use tonic::Status;
use varve_csi::{capacity::wire, status};
use varve_proto::csi::{self, BlockMetadata, BlockMetadataType};
use varve_repository::{
    Error, ErrorKind, SnapshotState,
    block::{BLOCK_SIZE, BlockRange, Blocks},
    record::snapshot::Root,
};

use super::{BATCH, Window, out_of_range};
use crate::{Controller, catalog};

/// An answer that is being given.
#[derive(Debug)]
pub(crate) struct Answer {
    controller: Controller,
    /// What the target is compared with; all that the target holds is told without it.
    base: Option<Box<Root>>,
    target: Box<Root>,
    /// Most ranges of one message.
    most: usize,
    /// Where the next walk starts.
    position: Blocks,
    pub(super) ahead: VecDeque<BlockMetadata>,
    /// Whether all there is has been walked.
    walked: bool,
    /// Whether a message was given: there is one also where no range is told, since it says the capacity.
    begun: bool,
}

/// One message of an answer, whichever of the two calls it answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    /// The target's size, in bytes.
    pub(crate) capacity_bytes: u64,
    pub(crate) ranges: Vec<BlockMetadata>,
}

impl Answer {
    /// Begins an answer.
    ///
    /// # Errors
    /// `OUT_OF_RANGE` where it is to begin past the target's end. At the end there is nothing to tell, and a client that
    /// was interrupted behind the last range asks just for that.
    pub(super) fn new(
        controller: Controller,
        base: Option<Box<Root>>,
        target: Box<Root>,
        window: Window,
    ) -> Result<Self, Status> {
        let capacity = target.description.capacity_bytes;
        if window.from > capacity {
            return Err(out_of_range(window.from, &format!("at most {capacity}, the size of the snapshot")));
        }
        Ok(Self {
            controller,
            base,
            target,
            most: window.most,
            position: Blocks(window.from / BLOCK_SIZE),
            ahead: VecDeque::new(),
            walked: false,
            begun: false,
        })
    }

    /// Returns the next message.
    ///
    /// # Errors
    /// `NOT_FOUND` where a snapshot was deleted meanwhile, `ABORTED` where it was repaired, or the store's.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, Status> {
        if self.ahead.is_empty() && !self.walked {
            self.walk().await?;
        }
        if self.ahead.is_empty() && self.begun {
            return Ok(None);
        }
        self.begun = true;
        let ranges = self.ahead.drain(..self.most.min(self.ahead.len())).collect();
        Ok(Some(Message { capacity_bytes: self.target.description.capacity_bytes, ranges }))
    }

    /// Turns it into a stream, which ends behind its first error.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Message, Status>> + Send {
        stream::try_unfold(self, async |mut answer| Ok(answer.next().await?.map(|message| (message, answer))))
    }

    /// Walks on until a batch is full or all is walked.
    async fn walk(&mut self) -> Result<(), Status> {
        let _turn = self.controller.walk().await;
        let repository = self.controller.repository();
        let mut ranges = match &self.base {
            Some(base) => repository.changed(base, &self.target, self.position),
            None => repository.allocated(&self.target, self.position),
        };
        while self.ahead.len() < BATCH {
            match ranges.next().await {
                Ok(Some(change)) => {
                    let range = change.range();
                    self.position = range.end();
                    self.ahead.push_back(told(range, self.target.description.capacity_bytes));
                }
                Ok(None) => {
                    self.walked = true;
                    return Ok(());
                }
                Err(error) => return Err(self.failure(&error).await),
            }
        }
        Ok(())
    }

    /// Says why it goes no further. Runs of a snapshot that was deleted, or repaired, since the answer began may be gone:
    /// that is no damage.
    async fn failure(&self, error: &Error) -> Status {
        if error.kind() == ErrorKind::Corrupt {
            for root in self.base.iter().chain([&self.target]) {
                let id = root.description.id;
                match self.controller.repository().snapshot(id).await {
                    Ok(SnapshotState::Committed(now)) if now.runs == root.runs => {}
                    Ok(SnapshotState::Committed(_)) => {
                        return Status::aborted(format!(
                            "snapshot {id} was repaired meanwhile: ask again from where the answer ended"
                        ));
                    }
                    Ok(SnapshotState::Gone(_) | SnapshotState::Absent) => return catalog::no_snapshot(id),
                    Err(error) => return status::repository(&error),
                }
            }
        }
        status::repository(error)
    }
}

/// A range as CSI tells it: in bytes, and none behind the end.
fn told(range: BlockRange, capacity: u64) -> BlockMetadata {
    let (first, end) = (range.first.bytes(), range.end().bytes().min(capacity));
    BlockMetadata { byte_offset: wire(first), size_bytes: wire(end.saturating_sub(first)) }
}

impl From<Message> for csi::GetMetadataAllocatedResponse {
    fn from(message: Message) -> Self {
        Self {
            block_metadata_type: BlockMetadataType::VariableLength.into(),
            volume_capacity_bytes: wire(message.capacity_bytes),
            block_metadata: message.ranges,
        }
    }
}

impl From<Message> for csi::GetMetadataDeltaResponse {
    fn from(message: Message) -> Self {
        Self {
            block_metadata_type: BlockMetadataType::VariableLength.into(),
            volume_capacity_bytes: wire(message.capacity_bytes),
            block_metadata: message.ranges,
        }
    }
}
