//! Scanning a cut: its changed ranges are read in order, on a thread of its own, and gathered into chunks.
//!
//! # Cancellation
//! The thread ends at the next read after the receiving side is dropped or the token is cancelled.

use std::{io, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::gather::{Gathered, Gatherer};
use crate::{
    Error, Result,
    block::{BLOCK_SIZE, BlockRange, BlockSource, Blocks, Change, ChangeSource},
    progress::Progress,
};

/// Most blocks read at once: 1 MiB.
const READ_BLOCKS: u64 = 256;

/// What is to be scanned.
pub(super) struct Scan {
    pub(super) source: Arc<dyn BlockSource>,
    pub(super) changes: Arc<dyn ChangeSource>,
    /// Where to start.
    pub(super) from: Blocks,
    /// Whether zero ranges are wanted.
    pub(super) keep_zeroes: bool,
    pub(super) progress: Progress,
    pub(super) cancel: CancellationToken,
}

impl Scan {
    /// Reads everything and sends what was gathered; blocking.
    ///
    /// # Errors
    /// `Local` naming the block, `Interrupted`, and those of `send`.
    pub(super) fn run(&self, mut send: impl FnMut(Gathered) -> Result<()>) -> Result<()> {
        let mut gatherer = Gatherer::new(self.keep_zeroes);
        let mut gathered = Vec::new();
        let mut buffer = vec![0; buffer_len(READ_BLOCKS)];
        for change in self.changes()? {
            let change = change?;
            let range = change.range();
            let (mut first, end) = (range.first, range.end());
            while first < end {
                if self.cancel.is_cancelled() {
                    return Err(Error::Interrupted);
                }
                let count = match change {
                    Change::Zero(_) => {
                        gatherer.zero(BlockRange { first, count: end - first }, &mut gathered);
                        end - first
                    }
                    Change::Data(_) => {
                        // Up to the next multiple, so that reads stay aligned.
                        let count = (READ_BLOCKS - first.0 % READ_BLOCKS).min((end - first).0);
                        let buffer = &mut buffer[..buffer_len(count)];
                        self.source.read(first, buffer).map_err(|source| Error::Local {
                            what: format!("reading {count} blocks of the image at block {first}"),
                            source,
                        })?;
                        gatherer.data(first, buffer, &mut gathered);
                        Blocks(count)
                    }
                };
                first += count;
                self.progress.add_done(count.bytes());
                gathered.drain(..).try_for_each(&mut send)?;
            }
        }
        gatherer.finish(&mut gathered);
        gathered.drain(..).try_for_each(send)
    }

    /// Adds up what there is to work through, in bytes; blocking.
    ///
    /// # Errors
    /// `Local`, or `Interrupted`.
    pub(super) fn measure(&self) -> Result<u64> {
        let mut total = 0;
        for change in self.changes()? {
            if self.cancel.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let bytes = change?.range().count.bytes();
            self.progress.add_total(bytes);
            total += bytes;
        }
        Ok(total)
    }

    /// Returns the changes from the start on, each cut to it and to the image's end.
    fn changes(&self) -> Result<impl Iterator<Item = Result<Change>> + '_> {
        let failed = |source: io::Error| Error::Local { what: "finding what changed".into(), source };
        let capacity = self.source.capacity();
        let changes = self.changes.changes(self.from).map_err(failed)?;
        let mut behind = self.from;
        Ok(changes.filter_map(move |change| {
            let change = match change {
                Ok(change) => change,
                Err(error) => return Some(Err(failed(error))),
            };
            let range = change.range();
            let (first, end) = (range.first.max(self.from), range.end().min(capacity));
            if first >= end {
                return None;
            }
            if first < behind {
                let source = io::Error::new(io::ErrorKind::InvalidData, format!("{range} comes after {behind}"));
                return Some(Err(failed(source)));
            }
            behind = end;
            let range = BlockRange { first, count: end - first };
            Some(Ok(match change {
                Change::Data(_) => Change::Data(range),
                Change::Zero(_) => Change::Zero(range),
            }))
        }))
    }
}

fn buffer_len(blocks: u64) -> usize {
    usize::try_from(blocks * BLOCK_SIZE).expect("a read is at most 1 MiB")
}
