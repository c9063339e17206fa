//! Planning reads: windows of the snapshot's view, grouped into ranges of packs.
//!
//! A chunk is read once for each window that wants blocks of it. Those of a volume that was rewritten in small pieces for long
//! have their blocks all over it: so windows are as large as memory allows. The first is small, so that something is fetched soon.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};

use super::{Patience, losses::Losses};
use crate::{
    Repository, Result,
    block::BlockRange,
    fault::Fault,
    pack::{PackReference, Table, TableCache, TableEntry},
    run::{ChunkPlace, Found, Place, View},
};

/// Segments of the first window: 64 MiB where they are whole chunks.
const FIRST_WINDOW: usize = 512;

/// How many times as many segments the next window has.
const GROWTH: usize = 4;

/// Most segments of a window.
const MOST_SEGMENTS: usize = 1 << 16;

/// What a segment takes while it is planned, in bytes: a piece, and if it is alone the chunk that it is of.
const SEGMENT_BYTES: usize = 192;

/// Memory for a window, in bytes.
pub(super) const WINDOW_BYTES: usize = MOST_SEGMENTS * SEGMENT_BYTES;

/// Most bytes of one read.
pub(super) const READ_BYTES: u32 = 4 << 20;

/// Two chunks this many bytes apart are read together: less time passes than for another request.
const GAP_BYTES: u32 = 256 << 10;

/// Tables read at once.
const TABLES: usize = 16;

/// One read of a pack: chunks that lie near one another, in ascending order.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) pack: PackReference,
    pub(super) chunks: Vec<Wanted>,
}

impl Read {
    /// How many bytes of the pack it spans.
    pub(super) fn bytes(&self) -> u64 {
        let span = self.chunks.first().zip(self.chunks.last());
        span.map_or(0, |(first, last)| u64::from(last.entry.end().saturating_sub(first.entry.offset)))
    }
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
    /// Takes what is damaged; without it damage is an error.
    losses: Option<&'a Losses>,
    /// Segments of the next window.
    window: usize,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        view: View,
        tables: &'a TableCache,
        losses: Option<&'a Losses>,
    ) -> Self {
        Self { repository, view, tables, losses, window: FIRST_WINDOW }
    }

    /// Plans the next window; `None` behind the last one.
    ///
    /// # Errors
    /// `Corrupt` naming the run or pack, unless losses are taken; or the store's.
    pub(super) async fn next_window(&mut self) -> Result<Option<Vec<Read>>> {
        let mut segments = 0;
        let mut packs: BTreeMap<PackReference, ByOrdinal> = BTreeMap::new();
        while segments < self.window {
            let segment = match self.next_found().await? {
                None if segments == 0 => return Ok(None),
                None => break,
                Some(Found::Segment(segment)) => segment,
                Some(Found::Lost(range, fault)) => {
                    self.losses.ok_or_else(|| (*fault).clone())?.add(range, &fault);
                    continue;
                }
            };
            if let Place::Chunk(ChunkPlace { pack, ordinal, skip }) = segment.place {
                let piece = Piece { range: segment.range, skip };
                packs.entry(pack).or_default().entry(ordinal).or_default().push(piece);
                segments += 1;
            }
        }
        self.window = (self.window * GROWTH).min(MOST_SEGMENTS);
        let planner = &*self;
        let mut planned: Vec<Vec<Read>> = stream::iter(packs)
            .map(async |(pack, wanted)| planner.plan(pack, wanted).await)
            .buffered(TABLES)
            .try_collect()
            .await?;
        // In the order of the image, so that the target is written as sequentially as the packs allow.
        let mut reads: Vec<Read> = planned.drain(..).flatten().collect();
        reads.sort_by_key(|read| read.chunks.first().and_then(|chunk| chunk.pieces.first()).map(|piece| piece.range));
        Ok(Some(reads))
    }

    /// Asks the view, again where the store fails for a moment.
    async fn next_found(&mut self) -> Result<Option<Found>> {
        let mut patience = Patience::default();
        loop {
            match self.view.next_found().await {
                Err(error) if patience.outlasts(self.repository, &error).await => {}
                found => return found,
            }
        }
    }

    /// Plans the reads of one pack.
    async fn plan(&self, pack: PackReference, mut wanted: ByOrdinal) -> Result<Vec<Read>> {
        let mut patience = Patience::default();
        let table = loop {
            match self.tables.table(self.repository, &pack).await {
                Err(error) if patience.outlasts(self.repository, &error).await => {}
                table => break table,
            }
        };
        let Some(losses) = self.losses else { return reads(pack, &table?, wanted) };
        let table = match Fault::sort(table)? {
            Ok(table) => table,
            Err(fault) => {
                wanted.values().flatten().for_each(|piece| losses.add(piece.range, &fault));
                return Ok(Vec::new());
            }
        };
        // One by one, so that what is wrong with one chunk takes no other.
        let mut faults = Vec::new();
        wanted.retain(|ordinal, pieces| {
            let alone = ByOrdinal::from([(*ordinal, pieces.clone())]);
            let fits = reads(pack, &table, alone);
            fits.map_err(|error| faults.push((error, pieces.clone()))).is_ok()
        });
        for (error, pieces) in faults {
            let fault = Fault::of(error)?;
            pieces.iter().for_each(|piece| losses.add(piece.range, &fault));
        }
        reads(pack, &table, wanted)
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
