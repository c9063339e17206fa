//! Fetching: one read of a pack, its chunks verified and written.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    Patience, Statistics, add,
    losses::Losses,
    plan::{Read, Wanted},
};
use crate::{
    Error, Repository, Result,
    block::{BLOCK_SIZE, BlockTarget, Blocks},
    fault::Fault,
    pack::{self, Chunks},
    progress::Progress,
    work::Worker,
};

/// Blocks that follow one another are written together up to this many bytes.
const WRITE_BYTES: usize = 1 << 20;

/// What all reads share.
pub(super) struct Fetcher {
    pub(super) repository: Repository,
    pub(super) worker: Worker,
    pub(super) target: Arc<dyn BlockTarget>,
    pub(super) progress: Progress,
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
        let patiently = async {
            let mut patience = Patience::default();
            loop {
                match pack::read_chunks(&self.repository, &read.pack, &wanted).await {
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
        let mut pending = Pending { fetcher: self, first: Blocks::ZERO, bytes: Vec::new() };
        for (chunk, (_, plain)) in read.chunks.iter().zip(fetched.open(self.repository.data_key())) {
            if self.stop.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let plain = match (&self.losses, plain) {
                (Some(losses), Err(error)) => {
                    lose(losses, chunk, &Fault::of(error)?);
                    continue;
                }
                (_, plain) => plain?,
            };
            for piece in &chunk.pieces {
                let (skipped, length) = (Blocks(piece.skip.into()).bytes(), piece.range.count.bytes());
                let piece_bytes = usize::try_from(skipped).ok().zip(usize::try_from(length).ok());
                let bytes = piece_bytes.and_then(|(skipped, length)| plain.get(skipped..)?.get(..length));
                let bytes = bytes.ok_or_else(|| read.pack.damaged("a chunk has fewer blocks than are wanted of it"))?;
                pending.push(piece.range.first, bytes)?;
                statistics.written_bytes += length;
            }
        }
        pending.flush()?;
        Ok(statistics)
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
    bytes: Vec<u8>,
}

impl Pending<'_> {
    fn push(&mut self, first: Blocks, bytes: &[u8]) -> Result<()> {
        let end = self.first + Blocks(self.bytes.len() as u64 / BLOCK_SIZE);
        if first != end || self.bytes.len() + bytes.len() > WRITE_BYTES {
            self.flush()?;
            self.first = first;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let (first, length) = (self.first, self.bytes.len() as u64);
        self.fetcher.target.write(first, &self.bytes).map_err(|source| Error::Local {
            what: format!("writing {length} bytes of the image at block {first}"),
            source,
        })?;
        self.fetcher.progress.add_done(length);
        self.bytes.clear();
        Ok(())
    }
}
