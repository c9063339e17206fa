//! Bringing back what one snapshot lost: a walk over it, and for each lost part the first source that has the right bytes.
//!
//! What was in a chunk whose id is known is right when it hashes to that id: another copy in the repository, or the blocks of
//! the chunk put together from an image or the mirror. What was in a chunk, page or run of which nothing is known any more,
//! or of which too little is there to be hashed, is taken only from a source that holds the very same snapshot.
//!
//! # Invariants
//! Nothing that contradicts a known id is ever taken, whoever offers it. Memory: one batch, some 32 MiB, and what sources
//! hold in memory to answer for it.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    copies::Copies,
    level::{Level, Stored},
    report::{Proof, Spans},
    sources::Replica,
};
use crate::{
    Repository, Result,
    block::{BlockRange, Blocks},
    check::Loss,
    fault::Fault,
    pack::{self, PackReference, TableCache, TableEntry},
    progress::Progress,
    record::snapshot::Root,
    run::{ChunkPlace, Found, Place, View},
    work::Worker,
};

/// A batch is ended at so many blocks that its chunks may have.
const BATCH_BLOCKS: u64 = 8192;

/// A batch is ended at so many parts.
const BATCH_PARTS: usize = 2048;

/// Most blocks of a lost part that are dealt with at once: 16 MiB.
const PART_BLOCKS: u64 = 4096;

/// A lost part of a snapshot.
struct Part {
    range: BlockRange,
    /// What it lay in, where that is known.
    chunk: Option<Lay>,
    fault: Arc<Fault>,
}

/// What is to be said of a part: where it was found and how that was proven, or what took it.
type Said = Result<(Arc<str>, Proof), Arc<Fault>>;

/// A place in a chunk whose bytes are lost.
#[derive(Clone, Copy)]
struct Lay {
    pack: PackReference,
    ordinal: u32,
    skip: u8,
    entry: TableEntry,
}

/// What the walk needs of everything else.
pub(super) struct Recovery<'a> {
    pub(super) repository: &'a Repository,
    pub(super) losses: &'a BTreeMap<PackReference, Loss>,
    pub(super) copies: &'a Copies,
    pub(super) replicas: &'a [Replica],
    pub(super) tables: &'a TableCache,
    pub(super) worker: &'a Worker,
    pub(super) progress: &'a Progress,
}

/// What a walk came to.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) recovered: Spans<(Arc<str>, Proof)>,
    pub(super) lost: Spans<Arc<Fault>>,
    /// Not all that damaged pages and runs covered was recovered.
    pub(super) unknown: bool,
}

impl Recovery<'_> {
    /// Walks a snapshot and writes what it lost into the level.
    ///
    /// # Errors
    /// Those of the store and the mirror's.
    pub(super) async fn walk(&self, root: &Root, level: &mut Level<'_>) -> Result<Account> {
        let mut account = Account::default();
        let mut view = View::whole(self.repository, root);
        let (mut parts, mut weight) = (Vec::new(), 0);
        while let Some(found) = view.next_found().await? {
            match found {
                Found::Lost(range, fault) => {
                    for range in split(range) {
                        parts.push(Part { range, chunk: None, fault: Arc::clone(&fault) });
                        weight += range.count.0;
                        self.end_batch(&mut parts, &mut weight, level, &mut account, false).await?;
                    }
                }
                Found::Segment(segment) => {
                    let Place::Chunk(place) = segment.place else { continue };
                    let Some(loss) = self.losses.get(&place.pack) else { continue };
                    let Some(fault) = loss.of(place.ordinal).cloned() else { continue };
                    let chunk = self.lay(place, loss).await?;
                    weight += chunk.map_or(segment.range.count.0, |lay| lay.entry.blocks.into());
                    parts.push(Part { range: segment.range, chunk, fault });
                    self.end_batch(&mut parts, &mut weight, level, &mut account, false).await?;
                }
            }
        }
        self.end_batch(&mut parts, &mut weight, level, &mut account, true).await?;
        level.end_run().await?;
        Ok(account)
    }

    /// Recovers all of an image of which nothing is left here.
    ///
    /// # Errors
    /// Those of the store and the mirror's.
    pub(super) async fn whole(&self, capacity: Blocks, fault: &Arc<Fault>, level: &mut Level<'_>) -> Result<Account> {
        let mut account = Account::default();
        let (mut parts, mut weight) = (Vec::new(), 0);
        for range in split(BlockRange { first: Blocks::ZERO, count: capacity }) {
            parts.push(Part { range, chunk: None, fault: Arc::clone(fault) });
            weight += range.count.0;
            self.end_batch(&mut parts, &mut weight, level, &mut account, false).await?;
            if account.unknown {
                return Ok(account);
            }
        }
        self.end_batch(&mut parts, &mut weight, level, &mut account, true).await?;
        level.end_run().await?;
        Ok(account)
    }

    /// Finds out which chunk a place is in, if its pack's table can be read.
    async fn lay(&self, place: ChunkPlace<PackReference>, loss: &Loss) -> Result<Option<Lay>> {
        let ChunkPlace { pack, ordinal, skip } = place;
        if matches!(loss, Loss::Whole(_)) {
            return Ok(None);
        }
        let Ok(table) = Fault::sort(self.tables.table(self.repository, &pack).await)? else { return Ok(None) };
        let entry = usize::try_from(ordinal).ok().and_then(|ordinal| table.entries.get(ordinal).copied());
        Ok(entry.map(|entry| Lay { pack, ordinal, skip, entry }))
    }

    /// Recovers what has been gathered, once it is enough or the last.
    async fn end_batch(
        &self,
        parts: &mut Vec<Part>,
        weight: &mut u64,
        level: &mut Level<'_>,
        account: &mut Account,
        last: bool,
    ) -> Result<()> {
        if parts.is_empty() || !last && parts.len() < BATCH_PARTS && *weight < BATCH_BLOCKS {
            return Ok(());
        }
        *weight = 0;
        let mut chunks: BTreeMap<(PackReference, u32), Vec<Part>> = BTreeMap::new();
        let mut others = Vec::new();
        for part in parts.drain(..) {
            match part.chunk {
                Some(lay) => chunks.entry((lay.pack, lay.ordinal)).or_default().push(part),
                None => others.push((part, true)),
            }
        }
        let mut said: Vec<(BlockRange, Said)> = Vec::new();
        for parts in chunks.into_values() {
            let Some(lay) = parts.first().and_then(|part| part.chunk) else { continue };
            match self.chunk(&lay.entry, &parts, level).await? {
                Some(stored) => {
                    for part in &parts {
                        let skip = part.chunk.map_or(0, |lay| lay.skip);
                        level.place(part.range, &stored, skip);
                        said.push((part.range, Ok((Arc::clone(&stored.source), Proof::Chunk))));
                    }
                }
                None => {
                    // Where all blocks of the chunk could have been put together, whoever had them had wrong ones.
                    let partial = order(&parts, lay.entry.blocks).is_none();
                    others.extend(parts.into_iter().map(|part| (part, partial)));
                }
            }
        }
        others.sort_unstable_by_key(|(part, _)| part.range.first);
        for (part, trusting) in others {
            let found = if trusting { self.vouched(part.range).await? } else { None };
            match found {
                Some((bytes, source)) => {
                    level.store_blocks(part.range, &bytes, &source);
                    said.push((part.range, Ok((source, Proof::Source))));
                }
                None => {
                    account.unknown |= part.chunk.is_none();
                    said.push((part.range, Err(part.fault)));
                }
            }
        }
        said.sort_unstable_by_key(|(range, _)| range.first);
        for (range, outcome) in said {
            self.progress.add_done(range.count.bytes());
            match outcome {
                Ok(recovered) => account.recovered.add(range, recovered),
                Err(fault) => account.lost.add(range, fault),
            }
        }
        level.end_batch().await
    }

    /// Finds the bytes of a chunk by its id, and writes them.
    async fn chunk(&self, entry: &TableEntry, parts: &[Part], level: &mut Level<'_>) -> Result<Option<Stored>> {
        if let Some(stored) = level.find(entry.id) {
            return Ok(Some(stored));
        }
        for copy in self.copies.get(&entry.id).map_or(&[][..], Vec::as_slice) {
            let wanted = [(copy.ordinal, copy.entry)];
            let Ok(read) = Fault::sort(pack::read_chunks(self.repository, &copy.pack, &wanted, None).await)? else {
                continue;
            };
            let opened = read.open(self.repository.data_key()).next();
            if let Some((_, Ok(plain))) = opened {
                return Ok(Some(level.store(entry.id, plain, &copy.pack.key().into())));
            }
        }
        let Some(parts) = order(parts, entry.blocks) else { return Ok(None) };
        for replica in self.replicas {
            let mut plain = Vec::with_capacity(usize::from(entry.blocks) * 4096);
            for range in &parts {
                match replica.read(*range, self.worker).await? {
                    Some(bytes) => plain.extend_from_slice(&bytes),
                    None => break,
                }
            }
            if self.repository.data_key().chunk_id(&plain) == entry.id {
                return Ok(Some(level.store(entry.id, plain, &replica.name)));
            }
        }
        Ok(None)
    }

    /// Reads blocks from a source that holds the very same snapshot.
    async fn vouched(&self, range: BlockRange) -> Result<Option<(Vec<u8>, Arc<str>)>> {
        for replica in self.replicas.iter().filter(|replica| replica.same) {
            if let Some(bytes) = replica.read(range, self.worker).await? {
                return Ok(Some((bytes, Arc::clone(&replica.name))));
            }
        }
        Ok(None)
    }
}

/// Returns where the blocks of a chunk are in the image, in the chunk's order; `None` where some are nowhere.
fn order(parts: &[Part], blocks: u8) -> Option<Vec<BlockRange>> {
    let mut ranges: Vec<_> = parts.iter().filter_map(|part| Some((part.chunk?.skip, part.range))).collect();
    ranges.sort_unstable();
    let mut end = 0;
    let mut ordered = Vec::with_capacity(ranges.len());
    for (skip, range) in ranges {
        let (skip, past) = (u64::from(skip), u64::from(skip) + range.count.0);
        if skip > end {
            return None;
        }
        // The same block may be in the image more than once.
        if past > end {
            ordered.push(BlockRange::new(range.first.0 + (end - skip), past - end));
            end = past;
        }
    }
    (end == u64::from(blocks)).then_some(ordered)
}

/// Parts a range into pieces that fit a batch.
fn split(range: BlockRange) -> impl Iterator<Item = BlockRange> {
    let (first, end) = (range.first.0, range.end().0);
    (0..range.count.0.div_ceil(PART_BLOCKS)).map(move |number| {
        let start = first + number * PART_BLOCKS;
        BlockRange::new(start, PART_BLOCKS.min(end - start))
    })
}
