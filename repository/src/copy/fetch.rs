//! Fetching parts of a snapshot: reads of packs, several at once, and what is wanted of their chunks, verified.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    Repository, Result,
    block::{BLOCK_SIZE, BlockRange, Blocks},
    pack::{self, Chunks, PackReference, TableCache, TableEntry},
    run::{ChunkPlace, Place, Segment},
    work::Worker,
};

/// Reads under way at once, for each window.
const READS: usize = 4;

/// Most bytes of one read.
const READ_BYTES: u32 = 4 << 20;

/// Two chunks this many bytes apart are read together: less time passes than for another request.
const GAP_BYTES: u32 = 256 << 10;

/// Blocks of a snapshot, in memory.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Each with its first block, in ascending order; what lies between them is not here.
    pieces: Vec<(Blocks, Vec<u8>)>,
}

impl Window {
    /// The position past its last block.
    pub(super) fn end(&self) -> Blocks {
        self.pieces.last().map_or(Blocks::ZERO, |(first, bytes)| *first + blocks(bytes.len()))
    }

    /// Fills as much of the start of `buffer` as lies together here from `first` on; returns how many blocks that were.
    pub(super) fn read(&self, first: Blocks, buffer: &mut [u8]) -> Blocks {
        let before = self.pieces.partition_point(|(start, _)| *start <= first);
        let Some((start, bytes)) = before.checked_sub(1).and_then(|number| self.pieces.get(number)) else {
            return Blocks::ZERO;
        };
        let skipped = usize::try_from((first - *start).bytes()).unwrap_or(usize::MAX);
        let held = bytes.get(skipped..).unwrap_or_default();
        let length = held.len().min(buffer.len());
        buffer[..length].copy_from_slice(&held[..length]);
        blocks(length)
    }
}

/// Counts the blocks in a buffer.
pub(super) fn blocks(bytes: usize) -> Blocks {
    Blocks(bytes as u64 / BLOCK_SIZE)
}

/// What all reads of one snapshot share. Cloning shares it.
#[derive(Clone)]
pub(super) struct Fetcher {
    repository: Repository,
    worker: Worker,
    tables: Arc<TableCache>,
    fetched: Arc<AtomicU64>,
}

/// One read of a pack: chunks that lie near one another, in ascending order.
struct Read {
    pack: PackReference,
    chunks: Vec<Wanted>,
}

/// A chunk, and which blocks of it are wanted for where.
struct Wanted {
    ordinal: u32,
    entry: TableEntry,
    pieces: Vec<(BlockRange, u8)>,
}

impl Fetcher {
    pub(super) fn new(repository: &Repository) -> Self {
        let worker = Worker::new(repository.seams().work);
        Self { repository: repository.clone(), worker, tables: Arc::default(), fetched: Arc::default() }
    }

    /// Bytes of packs fetched so far.
    pub(super) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Fetches what the segments hold.
    ///
    /// # Errors
    /// `Corrupt` naming the pack, or the store's.
    pub(super) async fn load(&self, segments: Vec<Segment>) -> Result<Window> {
        let mut packs: BTreeMap<PackReference, BTreeMap<u32, Vec<(BlockRange, u8)>>> = BTreeMap::new();
        for segment in segments {
            if let Place::Chunk(ChunkPlace { pack, ordinal, skip }) = segment.place {
                packs.entry(pack).or_default().entry(ordinal).or_default().push((segment.range, skip));
            }
        }
        let planned = stream::iter(packs).map(|(pack, wanted)| {
            let fetcher = self.clone();
            async move { fetcher.plan(pack, wanted).await }
        });
        let reads: Vec<Vec<Read>> = planned.buffered(READS).try_collect().await?;
        let fetched = stream::iter(reads.into_iter().flatten()).map(|read| self.clone().fetch(read));
        let fetched: Vec<Vec<(Blocks, Vec<u8>)>> = fetched.buffered(READS).try_collect().await?;
        let mut pieces: Vec<_> = fetched.into_iter().flatten().collect();
        pieces.sort_unstable_by_key(|(first, _)| *first);
        Ok(Window { pieces })
    }

    /// Groups the chunks that are wanted of a pack into reads.
    async fn plan(&self, pack: PackReference, wanted: BTreeMap<u32, Vec<(BlockRange, u8)>>) -> Result<Vec<Read>> {
        let table = self.tables.table(&self.repository, &pack).await?;
        let mut reads: Vec<Read> = Vec::new();
        for (ordinal, pieces) in wanted {
            let entry = usize::try_from(ordinal).ok().and_then(|ordinal| table.entries.get(ordinal).copied());
            let entry =
                entry.ok_or_else(|| pack.damaged(format!("it does not hold the chunk {ordinal} wanted of it")))?;
            let near = reads.last_mut().filter(|read| {
                let (Some(first), Some(last)) = (read.chunks.first(), read.chunks.last()) else { return false };
                entry.offset - last.entry.end() <= GAP_BYTES && entry.end() - first.entry.offset <= READ_BYTES
            });
            let chunk = Wanted { ordinal, entry, pieces };
            match near {
                Some(read) => read.chunks.push(chunk),
                None => reads.push(Read { pack, chunks: vec![chunk] }),
            }
        }
        Ok(reads)
    }

    async fn fetch(self, read: Read) -> Result<Vec<(Blocks, Vec<u8>)>> {
        let wanted: Vec<_> = read.chunks.iter().map(|chunk| (chunk.ordinal, chunk.entry)).collect();
        let chunks = pack::read_chunks(&self.repository, &read.pack, &wanted, None).await?;
        self.fetched.fetch_add(chunks.read_bytes(), Ordering::Relaxed);
        let worker = self.worker.clone();
        worker.compute(move || self.open(&read, &chunks)).await?
    }

    /// Verifies every chunk of a read and takes out what is wanted of it.
    fn open(&self, read: &Read, fetched: &Chunks) -> Result<Vec<(Blocks, Vec<u8>)>> {
        let mut pieces = Vec::new();
        for (chunk, (_, plain)) in read.chunks.iter().zip(fetched.open(self.repository.data_key())) {
            let plain = plain?;
            for (range, skip) in &chunk.pieces {
                let bytes = slice(&plain, Blocks((*skip).into()).bytes(), range.count.bytes());
                let bytes = bytes.ok_or_else(|| read.pack.damaged("a chunk has fewer blocks than are wanted of it"))?;
                pieces.push((range.first, bytes.to_vec()));
            }
        }
        Ok(pieces)
    }
}

fn slice(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(offset).ok()?..)?.get(..usize::try_from(length).ok()?)
}
