//! Scanning a cut: its changed ranges are read, some ahead, and gathered into chunks in order, on a thread of its own.
//!
//! # Cancellation
//! The thread ends with the reads under way after the receiving side is dropped or the token is cancelled.

use std::{io, iter, mem, sync::Arc};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{
    ahead,
    gather::{Gathered, Gatherer},
};
use crate::{
    Error, Result,
    block::{BLOCK_SIZE, BlockRange, BlockSource, Blocks, Change, ChangeSource},
    buffer::Buffers,
    progress::Progress,
    stages::{Stage, Stages},
};

/// Most blocks read at once: 1 MiB.
const READ_BLOCKS: u64 = 256;

/// Reads under way at once.
pub(super) const READS_AHEAD: usize = 4;

/// What is gathered is sent on once it has so many bytes of chunks: work is handed to the cores in pieces that are worth
/// it.
const BATCH_BYTES: usize = 1 << 20;

/// Or so many parts.
const BATCH_PARTS: usize = 512;

/// Or chunks of so many reads: a chunk that is a part of a read keeps all of the read's buffer.
const BATCH_READS: usize = 2;

/// More parts than one read gives out.
const LATEST_PARTS: usize = 512;

/// What is to be scanned.
pub(super) struct Scan {
    pub(super) source: Arc<dyn BlockSource>,
    pub(super) changes: Arc<dyn ChangeSource>,
    /// Where to start.
    pub(super) from: Blocks,
    /// Reads that are under way while what came before is gathered; 0 for all of it on one thread.
    pub(super) reads_ahead: usize,
    /// Whether zero ranges are wanted.
    pub(super) keep_zeroes: bool,
    pub(super) progress: Progress,
    pub(super) stages: Stages,
    pub(super) cancel: CancellationToken,
}

impl Scan {
    /// Reads everything and sends what was gathered; blocking.
    ///
    /// # Errors
    /// `Local` naming the block, `Interrupted`, and those of `send`.
    pub(super) fn run(&self, mut send: impl FnMut(Vec<Gathered>) -> Result<()>) -> Result<()> {
        let mut gatherer = Gatherer::new(self.keep_zeroes);
        let (mut gathered, mut reads) = (Vec::new(), 0);
        let buffers = Buffers::new(buffer_len(READ_BLOCKS));
        let read = |change: Change| self.read(change, &buffers);
        ahead::in_order(self.reads_ahead, self.pieces()?, read, |read| {
            let (change, bytes) = read?;
            let range = change.range();
            match change {
                Change::Zero(_) => gatherer.zero(range, &mut gathered),
                Change::Data(_) => {
                    self.stages.timed(Stage::Gather, range.count.bytes(), || {
                        gatherer.data(range.first, &bytes, &mut gathered);
                    });
                    reads += usize::from(keeps(&gathered, &bytes));
                }
            }
            self.progress.add_done(range.count.bytes());
            if reads >= BATCH_READS || is_worth_it(&gathered) {
                reads = 0;
                self.stages.waited(Stage::Read, || send(mem::take(&mut gathered)))?;
            }
            Ok(())
        })?;
        gatherer.finish(&mut gathered);
        send(gathered)
    }

    /// Reads what a change covers, if it is data.
    fn read(&self, change: Change, buffers: &Buffers) -> Result<(Change, Bytes)> {
        if self.cancel.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let Change::Data(BlockRange { first, count }) = change else { return Ok((change, Bytes::new())) };
        let mut buffer = buffers.take();
        let length = buffer_len(count.0);
        self.stages.timed(Stage::Read, count.bytes(), || {
            self.source.read(first, &mut buffer[..length]).map_err(|source| Error::Local {
                what: format!("reading {count} blocks of the image at block {first}"),
                source,
            })
        })?;
        Ok((change, buffer.freeze().slice(..length)))
    }

    /// The changes, in pieces that are read at once: up to the next multiple, so that reads stay aligned.
    fn pieces(&self) -> Result<impl Iterator<Item = Result<Change>> + '_> {
        let mut changes = self.changes()?;
        let mut rest: Option<BlockRange> = None;
        Ok(iter::from_fn(move || {
            let range = match rest.take() {
                Some(range) => range,
                None => match changes.next()? {
                    Ok(Change::Data(range)) => range,
                    other => return Some(other),
                },
            };
            let count = Blocks((READ_BLOCKS - range.first.0 % READ_BLOCKS).min(range.count.0));
            if count < range.count {
                rest = Some(BlockRange { first: range.first + count, count: range.count - count });
            }
            Some(Ok(Change::Data(BlockRange { first: range.first, count })))
        }))
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

/// Tells whether the last chunks are a part of a read.
fn keeps(gathered: &[Gathered], read: &Bytes) -> bool {
    let read = read.as_ptr_range();
    let latest = &gathered[gathered.len().saturating_sub(LATEST_PARTS)..];
    latest.iter().any(|gathered| matches!(gathered, Gathered::Chunk(chunk) if read.contains(&chunk.bytes.as_ptr())))
}

/// Tells whether so much has been gathered that it is to be sent on.
fn is_worth_it(gathered: &[Gathered]) -> bool {
    let bytes = |gathered: &Gathered| match gathered {
        Gathered::Chunk(chunk) => chunk.bytes.len(),
        Gathered::Zero(_) | Gathered::Mark(_) => 0,
    };
    gathered.len() >= BATCH_PARTS || gathered.iter().map(bytes).sum::<usize>() >= BATCH_BYTES
}

fn buffer_len(blocks: u64) -> usize {
    usize::try_from(blocks * BLOCK_SIZE).expect("a read is at most 1 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of every mebibyte, the first window is new.
    struct Sparse;

    impl BlockSource for Sparse {
        fn capacity(&self) -> Blocks {
            Blocks(64 * READ_BLOCKS)
        }

        fn read(&self, _: Blocks, buffer: &mut [u8]) -> io::Result<()> {
            buffer.fill(7);
            Ok(())
        }
    }

    impl ChangeSource for Sparse {
        fn changes(&self, _: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
            let windows = (0..64).map(|number| BlockRange::new(number * READ_BLOCKS, 32));
            Ok(Box::new(windows.map(|range| Ok(Change::Data(range)))))
        }
    }

    #[test]
    fn what_is_sent_on_at_once_keeps_few_reads() {
        let scan = Scan {
            source: Arc::new(Sparse),
            changes: Arc::new(Sparse),
            from: Blocks::ZERO,
            reads_ahead: READS_AHEAD,
            keep_zeroes: false,
            progress: Progress::default(),
            stages: Stages::default(),
            cancel: CancellationToken::new(),
        };
        let mut sent = Vec::new();
        let count = |gathered: &Vec<Gathered>| gathered.iter().filter(|one| matches!(one, Gathered::Chunk(_))).count();
        scan.run(|gathered| {
            sent.push(count(&gathered));
            Ok(())
        })
        .unwrap();
        assert_eq!(sent.iter().sum::<usize>(), 64);
        assert!(sent.iter().all(|chunks| *chunks <= BATCH_READS), "{sent:?}");
    }
}
