//! Writing what was brought back: packs of it, and one level that says where in the image it belongs.
//!
//! # Invariants
//! Extents are pushed in batches that ascend; a batch's pack is put before its extents are pushed, so that a run never
//! speaks of a pack that is not there. A dry run writes nothing, and does all else.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Repository, Result,
    block::{BLOCK_SIZE, BlockRange, Blocks, CHUNK_BLOCKS},
    id::{ChunkId, PackId, UploadId},
    pack::{self, Compressor, PackReference},
    record::snapshot::RunReference,
    run::{self, ChunkPlace, Extent, Place},
};

/// Chunks that were written under one upload, by id: what several snapshots lost is written once.
#[derive(Debug)]
pub(super) struct Stock {
    pub(super) upload: UploadId,
    chunks: BTreeMap<ChunkId, (PackReference, u32, Arc<str>)>,
}

impl Stock {
    pub(super) fn new(upload: UploadId) -> Self {
        Self { upload, chunks: BTreeMap::new() }
    }
}

/// What a level took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    pub(super) chunks: u64,
    pub(super) packs: u64,
    pub(super) stored_bytes: u64,
    pub(super) uploaded_bytes: u64,
}

/// A level being written.
pub(super) struct Level<'a> {
    repository: &'a Repository,
    stock: &'a mut Stock,
    dry_run: bool,
    /// No level is below it: zeroes go without saying.
    oldest: bool,
    compressor: Compressor,
    writer: run::Writer,
    pack: Option<pack::Writer>,
    batch: Vec<Drafted>,
    /// What was put, to be read back.
    pub(super) packs: Vec<PackReference>,
    pub(super) runs: Vec<RunReference>,
    pub(super) taken: Taken,
}

/// An extent whose pack may not have been put yet.
struct Drafted {
    range: BlockRange,
    place: Place<Option<PackReference>>,
    /// The chunk and where it is from, if it is in the pack being filled.
    new: Option<(ChunkId, Arc<str>)>,
}

/// Where a chunk is, as far as it is known before its pack is closed.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pack: Option<PackReference>,
    ordinal: u32,
    id: ChunkId,
    /// Where its bytes are from.
    pub(super) source: Arc<str>,
}

impl<'a> Level<'a> {
    /// Starts an empty one.
    pub(super) fn new(repository: &'a Repository, stock: &'a mut Stock, dry_run: bool) -> Self {
        let writer = run::Writer::new(repository, stock.upload);
        Self {
            repository,
            stock,
            dry_run,
            oldest: false,
            compressor: Compressor::new(None),
            writer,
            pack: None,
            batch: Vec::new(),
            packs: Vec::new(),
            runs: Vec::new(),
            taken: Taken::default(),
        }
    }

    /// Says that no level is below it.
    pub(super) fn oldest(self) -> Self {
        Self { oldest: true, ..self }
    }

    /// Finds a chunk that was written before, and where it was from.
    pub(super) fn find(&self, id: ChunkId) -> Option<Stored> {
        let (pack, ordinal, source) = self.stock.chunks.get(&id)?;
        Some(Stored { pack: Some(*pack), ordinal: *ordinal, id, source: Arc::clone(source) })
    }

    /// Writes a chunk, unless it was written before; `source` is where it is from.
    pub(super) fn store(&mut self, id: ChunkId, plain: Vec<u8>, source: &Arc<str>) -> Stored {
        if let Some(stored) = self.find(id) {
            return stored;
        }
        let blocks = plain.len() as u64 / BLOCK_SIZE;
        let blocks = u8::try_from(blocks).expect("a chunk has at most 32 blocks");
        let (repository, upload) = (self.repository, self.stock.upload);
        let pack = self.pack.get_or_insert_with(|| {
            pack::Writer::new(repository.data_key(), PackId::of(upload, repository.seams().random()))
        });
        self.taken.chunks += 1;
        self.taken.stored_bytes += plain.len() as u64;
        let ordinal = pack.push(id, blocks, self.compressor.encode(plain));
        Stored { pack: None, ordinal, id, source: Arc::clone(source) }
    }

    /// Says that blocks are in a chunk, behind so many blocks of it.
    pub(super) fn place(&mut self, range: BlockRange, stored: &Stored, skip: u8) {
        let Stored { pack, ordinal, id, ref source } = *stored;
        let new = pack.is_none().then(|| (id, Arc::clone(source)));
        self.batch.push(Drafted { range, place: Place::Chunk(ChunkPlace { pack, ordinal, skip }), new });
    }

    /// Writes blocks as they are: zeroes as such, the others as chunks of their own.
    pub(super) fn store_blocks(&mut self, range: BlockRange, bytes: &[u8], source: &Arc<str>) {
        let block_len = usize::try_from(BLOCK_SIZE).expect("a block is 4096 bytes");
        let mut position = range.first;
        let mut gathered: Vec<(BlockRange, &[u8])> = Vec::new();
        let mut held = Blocks::ZERO;
        // Parted where the blocks are, or are not, zero, and at the ends of windows, as an offload does.
        let zero: Vec<bool> = bytes.chunks(block_len).map(|block| block.iter().all(|byte| *byte == 0)).collect();
        let mut from = 0;
        while from < zero.len() {
            let room = CHUNK_BLOCKS - position.0 % CHUNK_BLOCKS;
            let same = zero[from..].iter().take_while(|is_zero| **is_zero == zero[from]).count();
            let count = if zero[from] { same } else { same.min(usize::try_from(room).unwrap_or(same)) };
            let part = BlockRange { first: position, count: Blocks(count as u64) };
            if zero[from] {
                self.batch.push(Drafted { range: part, place: Place::Zero, new: None });
            } else {
                if held.0 + part.count.0 > CHUNK_BLOCKS {
                    self.store_gathered(&mut gathered, source);
                    held = Blocks::ZERO;
                }
                gathered.push((part, &bytes[from * block_len..(from + count) * block_len]));
                held += part.count;
            }
            position = part.end();
            from += count;
        }
        self.store_gathered(&mut gathered, source);
    }

    fn store_gathered(&mut self, gathered: &mut Vec<(BlockRange, &[u8])>, source: &Arc<str>) {
        if gathered.is_empty() {
            return;
        }
        let plain: Vec<u8> = gathered.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        let id = self.repository.data_key().chunk_id(&plain);
        let stored = self.store(id, plain, source);
        let mut skip = 0;
        for (range, _) in gathered.drain(..) {
            self.place(range, &stored, skip);
            skip += u8::try_from(range.count.0).expect("a chunk has at most 32 blocks");
        }
    }

    /// Puts what the batch has written; what follows must lie behind all of it.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn end_batch(&mut self) -> Result<()> {
        let written = match self.pack.take() {
            Some(pack) => {
                let (reference, bytes) = pack.finish();
                self.taken.packs += 1;
                self.taken.uploaded_bytes += bytes.len() as u64;
                if !self.dry_run {
                    self.repository.store().put_new(&reference.key(), bytes).await?;
                    self.packs.push(reference);
                }
                Some(reference)
            }
            None => None,
        };
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort_unstable_by_key(|drafted| drafted.range.first);
        for Drafted { range, place, new } in batch {
            let place = match place {
                Place::Zero if self.oldest => continue,
                Place::Zero => Place::Zero,
                Place::Chunk(ChunkPlace { pack, ordinal, skip }) => {
                    let Some(pack) = pack.or(written) else { continue };
                    if let Some((id, source)) = new {
                        self.stock.chunks.insert(id, (pack, ordinal, source));
                    }
                    Place::Chunk(ChunkPlace { pack, ordinal, skip })
                }
            };
            self.writer.push(&Extent { range, place })?;
        }
        if self.writer.is_full() { self.end_run().await } else { Ok(()) }
    }

    /// Puts the last run; `runs` are then all of the level.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn end_run(&mut self) -> Result<()> {
        let Some(run::Finished { reference, bytes }) = self.writer.finish() else { return Ok(()) };
        self.taken.uploaded_bytes += bytes.len() as u64;
        if !self.dry_run {
            self.repository.store().put_new(&run::key(reference.id), bytes).await?;
        }
        self.runs.push(reference);
        Ok(())
    }

    /// How many blocks of data the level has.
    pub(super) fn data(&self) -> Blocks {
        self.writer.data()
    }
}
