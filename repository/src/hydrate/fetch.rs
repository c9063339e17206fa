//! Fetching: one read of a pack, its chunks verified and written.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    Patience, Statistics, add,
    losses::Losses,
    plan::{Piece, Read, Wanted},
};
use crate::{
    Error, Repository, Result,
    block::{BLOCK_SIZE, BlockTarget, Blocks},
    buffer::{Buffer, Buffers},
    fault::Fault,
    pack::{self, Chunks, Workspace},
    progress::Progress,
    stages::{Stage, Stages},
    work::Worker,
};

/// Blocks that follow one another are written together up to this many bytes.
pub(super) const WRITE_BYTES: usize = 1 << 20;

/// What all reads share.
pub(super) struct Fetcher {
    pub(super) repository: Repository,
    pub(super) worker: Worker,
    pub(super) target: Arc<dyn BlockTarget>,
    pub(super) progress: Progress,
    pub(super) stages: Stages,
    /// What is read goes here.
    pub(super) reads: Buffers,
    /// What is written lies in these until it is.
    pub(super) buffers: Buffers,
    /// Heeded before every chunk.
    pub(super) stop: CancellationToken,
    /// Takes what is damaged; without it damage is an error.
    pub(super) losses: Option<Arc<Losses>>,
}

impl Fetcher {
    /// Fetches, verifies and writes.
    ///
    /// # Errors
    /// `Corrupt` naming the pack, unless losses are taken; `Interrupted`, and those of the store and the target.
    pub(super) async fn fetch(self: Arc<Self>, read: Read) -> Result<Statistics> {
        let chunks = self.read(&read).await;
        let chunks = match (&self.losses, chunks) {
            (Some(losses), Err(error)) => {
                let fault = Fault::of(error)?;
                if read.chunks.len() == 1 {
                    read.chunks.iter().for_each(|chunk| lose(losses, chunk, &fault));
                    return Ok(Statistics::default());
                }
                // One by one: where a pack is cut short, or a part of it cannot be found, the rest may be there.
                let mut statistics = Statistics::default();
                for chunk in read.chunks {
                    let alone = Read { pack: read.pack, chunks: vec![chunk] };
                    add(&mut statistics, Box::pin(Arc::clone(&self).fetch(alone)).await?);
                }
                return Ok(statistics);
            }
            (_, chunks) => chunks?,
        };
        self.progress.add_moved(chunks.read_bytes());
        let written = self.worker.start({
            let fetcher = Arc::clone(&self);
            move || fetcher.write(&read, &chunks)
        });
        written.await?
    }

    /// Reads the chunks, again where the store fails for a moment.
    async fn read(&self, read: &Read) -> Result<Chunks> {
        let wanted: Vec<_> = read.chunks.iter().map(|chunk| (chunk.ordinal, chunk.entry)).collect();
        let bytes = read.bytes();
        let patiently = async {
            self.stages.waited_async(Stage::Fetch, self.repository.download_bandwidth().acquire(bytes)).await;
            let mut patience = Patience::default();
            loop {
                let reading = pack::read_chunks(&self.repository, &read.pack, &wanted, Some(&self.reads));
                match self.stages.timed_async(Stage::Fetch, bytes, reading).await {
                    Err(error) if patience.outlasts(&self.repository, &error).await => {}
                    chunks => return chunks,
                }
            }
        };
        self.stop.run_until_cancelled(patiently).await.unwrap_or(Err(Error::Interrupted))
    }

    /// Verifies every chunk and writes what is wanted of it; blocking.
    fn write(&self, read: &Read, fetched: &Chunks) -> Result<Statistics> {
        let mut statistics = Statistics { written_bytes: 0, fetched_bytes: fetched.read_bytes() };
        let key = self.repository.data_key();
        let (opener, mut workspace, mut plain) = (fetched.opener(key), Workspace::default(), Vec::new());
        let mut pending = Pending { fetcher: self, first: Blocks::ZERO, buffer: self.buffers.take(), filled: 0 };
        for (number, chunk) in read.chunks.iter().enumerate() {
            if self.stop.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let length = length_of(chunk).ok_or_else(|| read.pack.damaged("a chunk is too large"))?;
            let mut open = |plain: &mut [u8]| {
                let open = || fetched.open_into(key, &opener, number, &mut workspace, plain);
                self.stages.timed(Stage::Open, length as u64, open)
            };
            let opened = match whole(chunk) {
                // All of it goes to one place: it is opened where it is written from.
                Some(first) => pending.fill(first, length, &mut open),
                None => {
                    plain.resize(length, 0);
                    open(&mut plain)
                }
            };
            match (&self.losses, opened) {
                (Some(losses), Err(error @ (Error::Corrupt { .. } | Error::FutureFormat { .. }))) => {
                    lose(losses, chunk, &Fault::of(error)?);
                    continue;
                }
                (_, opened) => opened?,
            }
            for piece in &chunk.pieces {
                let (skipped, length) = (Blocks(piece.skip.into()).bytes(), piece.range.count.bytes());
                statistics.written_bytes += length;
                if whole(chunk).is_some() {
                    continue;
                }
                let piece_bytes = usize::try_from(skipped).ok().zip(usize::try_from(length).ok());
                let bytes = piece_bytes.and_then(|(skipped, length)| plain.get(skipped..)?.get(..length));
                let bytes = bytes.ok_or_else(|| read.pack.damaged("a chunk has fewer blocks than are wanted of it"))?;
                pending.fill(piece.range.first, bytes.len(), |buffer| {
                    buffer.copy_from_slice(bytes);
                    Ok(())
                })?;
            }
        }
        pending.flush()?;
        Ok(statistics)
    }
}

/// How many bytes a chunk has when it is open.
fn length_of(chunk: &Wanted) -> Option<usize> {
    usize::try_from(Blocks(chunk.entry.blocks.into()).bytes()).ok().filter(|length| *length <= WRITE_BYTES)
}

/// Where a chunk goes, if all of it goes to one place.
fn whole(chunk: &Wanted) -> Option<Blocks> {
    match &chunk.pieces[..] {
        [Piece { range, skip: 0 }] if range.count.0 == u64::from(chunk.entry.blocks) => Some(range.first),
        _ => None,
    }
}

/// Enters all that is wanted of a chunk as lost.
fn lose(losses: &Losses, chunk: &Wanted, fault: &Fault) {
    chunk.pieces.iter().for_each(|piece| losses.add(piece.range, fault));
}

/// Blocks that are verified and not yet written.
struct Pending<'a> {
    fetcher: &'a Fetcher,
    first: Blocks,
    buffer: Buffer,
    /// How much of the buffer is to be written.
    filled: usize,
}

impl Pending<'_> {
    /// Lets `fill` put verified bytes in; what it fails with is as if it had not been called.
    fn fill(&mut self, first: Blocks, length: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        let end = self.first + Blocks(self.filled as u64 / BLOCK_SIZE);
        if first != end || self.filled + length > WRITE_BYTES {
            self.flush()?;
            self.first = first;
        }
        fill(&mut self.buffer[self.filled..self.filled + length])?;
        self.filled += length;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        let (first, length) = (self.first, self.filled as u64);
        let bytes = &self.buffer[..self.filled];
        let write = || self.fetcher.target.write(first, bytes);
        let written = self.fetcher.stages.timed(Stage::Write, length, write);
        written.map_err(|source| Error::Local {
            what: format!("writing {length} bytes of the image at block {first}"),
            source,
        })?;
        self.fetcher.progress.add_done(length);
        self.filled = 0;
        Ok(())
    }
}
