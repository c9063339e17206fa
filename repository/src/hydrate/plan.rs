//! Planning reads: windows of the snapshot's view, grouped into ranges of packs.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    Repository, Result,
    block::{BlockRange, Blocks},
    pack::{PackReference, Table, TableCache, TableEntry},
    run::{ChunkPlace, Place, View},
};

/// Most segments planned at once.
const WINDOW_SEGMENTS: usize = 4096;

/// Most blocks planned at once: 64 MiB.
const WINDOW_BLOCKS: u64 = 16_384;

/// Most bytes of one read.
const READ_BYTES: u32 = 4 << 20;

/// Two chunks this many bytes apart are read together: less time passes than for another request.
const GAP_BYTES: u32 = 256 << 10;

/// Tables read at once.
const TABLES: usize = 8;

/// One read of a pack: chunks that lie near one another, in ascending order.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) pack: PackReference,
    pub(super) chunks: Vec<Wanted>,
}

/// A chunk, and which blocks of it go where.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) ordinal: u32,
    pub(super) entry: TableEntry,
    pub(super) pieces: Vec<Piece>,
}

/// Blocks of a chunk and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) range: BlockRange,
    pub(super) skip: u8,
}

/// Chunks of one pack by ordinal, and what is wanted of each.
type ByOrdinal = BTreeMap<u32, Vec<Piece>>;

/// Turns a view into reads, window by window.
pub(super) struct Planner<'a> {
    repository: &'a Repository,
    view: View,
    tables: &'a TableCache,
}

impl<'a> Planner<'a> {
    pub(super) fn new(repository: &'a Repository, view: View, tables: &'a TableCache) -> Self {
        Self { repository, view, tables }
    }

    /// Plans the next window; there is none behind an empty one.
    ///
    /// # Errors
    /// `Corrupt` naming the run or pack, or the store's.
    pub(super) async fn next_window(&mut self) -> Result<Vec<Read>> {
        let (mut segments, mut blocks) = (0, Blocks::ZERO);
        let mut packs: BTreeMap<PackReference, ByOrdinal> = BTreeMap::new();
        while segments < WINDOW_SEGMENTS && blocks.0 < WINDOW_BLOCKS {
            let Some(segment) = self.view.next().await? else { break };
            if let Place::Chunk(ChunkPlace { pack, ordinal, skip }) = segment.place {
                let piece = Piece { range: segment.range, skip };
                packs.entry(pack).or_default().entry(ordinal).or_default().push(piece);
                segments += 1;
                blocks += segment.range.count;
            }
        }
        let (repository, tables) = (self.repository, self.tables);
        let mut planned: Vec<Vec<Read>> = stream::iter(packs)
            .map(async |(pack, wanted)| {
                let table = tables.table(repository, &pack).await?;
                reads(pack, &table, wanted)
            })
            .buffered(TABLES)
            .try_collect()
            .await?;
        // In the order of the image, so that the target is written as sequentially as the packs allow.
        let mut reads: Vec<Read> = planned.drain(..).flatten().collect();
        reads.sort_by_key(|read| read.chunks.first().and_then(|chunk| chunk.pieces.first()).map(|piece| piece.range));
        Ok(reads)
    }
}

/// Groups chunks of a pack into reads.
fn reads(pack: PackReference, table: &Arc<Table>, wanted: ByOrdinal) -> Result<Vec<Read>> {
    let mut reads: Vec<Read> = Vec::new();
    for (ordinal, pieces) in wanted {
        let entry = usize::try_from(ordinal).ok().and_then(|ordinal| table.entries.get(ordinal).copied());
        let entry = entry.ok_or_else(|| pack.damaged(format!("it does not hold the chunk {ordinal} wanted of it")))?;
        if pieces.iter().any(|piece| u64::from(piece.skip) + piece.range.count.0 > u64::from(entry.blocks)) {
            return Err(pack.damaged(format!("chunk {ordinal} has fewer blocks than are wanted of it")));
        }
        let chunk = Wanted { ordinal, entry, pieces };
        let near = reads.last_mut().filter(|read| {
            let (Some(first), Some(last)) = (read.chunks.first(), read.chunks.last()) else { return false };
            entry.offset - last.entry.end() <= GAP_BYTES && entry.end() - first.entry.offset <= READ_BYTES
        });
        match near {
            Some(read) => read.chunks.push(chunk),
            None => reads.push(Read { pack, chunks: vec![chunk] }),
        }
    }
    Ok(reads)
}
