//! The transfer: what the scan gathers is hashed, looked up, compressed, sealed into packs and put.
//!
//! ```text
//! scan (a thread) ──> hash, look up, compress (all cores) ──> seal into the open pack ──> journal, put ──> level
//!                     in any order, taken up in the scan's order       in order, two at a time           in order
//! ```
//!
//! The image is dealt with in stretches: a stretch ends at a mark of the scan where the pack, or the list of extents, is
//! large enough. It is written to the journal, its pack is put, and it is entered in the level being built.
//!
//! Every few packs it is looked whether the snapshot is still wanted, beside the work: a deletion ends it soon.
//!
//! # Invariants
//! Memory: 32 chunks waiting, two for each core being compressed, one pack being filled and two being put, one run: about
//! 150 MiB at most, whatever the size of the volume.
//!
//! # Cancellation
//! Dropping the future aborts the puts under way; a pack that was stored nevertheless is garbage of its upload.

use std::{collections::HashMap, num::NonZero, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{FuturesOrdered, FuturesUnordered},
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    bandwidth::Bandwidth,
    compare::{Candidate, Comparison},
    dedup::{Index, Known},
    gather::{Gathered, Gathering, Mark},
    journal::{Entry, Journal, Stretch},
    level::Level,
};
use crate::{
    Error, Repository, Result, SnapshotState,
    block::{BLOCK_SIZE, BlockRange, Blocks},
    id::{ChunkId, PackId, SnapshotId, UploadId},
    mutation::Mutation,
    pack::{self, Compressor, Encoded, PackReference, Table},
    progress::Progress,
    record::{
        snapshot::{RunReference, SnapshotStatistics},
        volume::OffloadParameters,
    },
    repository::names,
    run::{self, ChunkPlace, Extent, Finished, Place},
    work::{Worker, joined},
};

/// A pack is closed at the first mark where it has this many bytes.
const PACK_BYTES: u32 = 32 << 20;

/// A pack is closed at the first mark where it has this many chunks: a mark comes every 2048 chunks at the latest.
const PACK_CHUNKS: usize = pack::MAX_CHUNKS / 2;

/// A stretch is closed at the first mark where it has this many extents.
const STRETCH_EXTENTS: usize = 1 << 16;

/// Packs being put at once.
const PUTS: usize = 2;

/// After this many stretches, 128 MiB or so, it is looked whether the snapshot is still wanted.
const STRETCHES_BETWEEN_LOOKS: u64 = 4;

/// Chunks that the scan may be ahead.
pub(super) const SCAN_AHEAD: usize = 32;

/// What the stages share.
pub(super) struct Transfer {
    pub(super) repository: Repository,
    pub(super) snapshot: SnapshotId,
    pub(super) upload: UploadId,
    pub(super) worker: Worker,
    pub(super) bandwidth: Arc<Bandwidth>,
    pub(super) progress: Progress,
    compressor: Arc<Compressor>,
    index: Arc<Index>,
    packs: Packs,
    pack: Option<(u32, pack::Writer)>,
    pack_bytes: u32,
    draft: Draft,
    stretches: u64,
    /// A pack that is put too late, where the protocol is broken on purpose.
    withheld: Option<(PackReference, Bytes)>,
}

/// The packs that an offload refers to, by the positions that extents name them by while they are drafted.
#[derive(Default)]
pub(super) struct Packs {
    references: Vec<Option<PackReference>>,
    positions: HashMap<PackReference, u32>,
}

impl Packs {
    /// Gives a pack that is being filled a position.
    fn open(&mut self) -> u32 {
        self.references.push(None);
        u32::try_from(self.references.len() - 1).expect("an offload meets fewer than 4 billion packs")
    }

    /// Says what has become of the pack that was being filled.
    fn close(&mut self, position: u32, pack: PackReference) {
        self.references[position as usize] = Some(pack);
    }

    /// Returns the position of a pack that is stored.
    fn position(&mut self, pack: PackReference) -> u32 {
        if let Some(position) = self.positions.get(&pack) {
            return *position;
        }
        let position = self.open();
        self.close(position, pack);
        self.positions.insert(pack, position);
        position
    }

    fn resolve(&self, position: u32) -> PackReference {
        self.references[position as usize].expect("a pack is closed with its stretch")
    }
}

/// A stretch being dealt with.
#[derive(Default)]
struct Draft {
    position: Blocks,
    /// Whether there is something behind the last mark, so that the stretch cannot end here.
    unmarked: bool,
    statistics: SnapshotStatistics,
    extents: Vec<Extent<u32>>,
}

/// What the cores have made of what was gathered.
enum Prepared {
    Chunk(PreparedChunk),
    Zero(BlockRange),
    Mark(Mark),
}

struct PreparedChunk {
    id: ChunkId,
    ranges: Vec<BlockRange>,
    blocks: u8,
    body: Body,
}

enum Body {
    Encoded(Encoded),
    /// The chunk was found, so that it was not compressed.
    Plain(Vec<u8>),
}

type Preparing = Pin<Box<dyn Future<Output = Result<Prepared>> + Send>>;

type Look = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

impl Transfer {
    pub(super) fn new(
        repository: &Repository,
        snapshot: SnapshotId,
        upload: UploadId,
        worker: &Worker,
        parameters: &OffloadParameters,
        progress: &Progress,
    ) -> Self {
        let bandwidth = Bandwidth::new(parameters.bandwidth);
        Self {
            repository: repository.clone(),
            snapshot,
            upload,
            worker: worker.clone(),
            pack_bytes: bandwidth.object_bytes(PACK_BYTES),
            bandwidth: Arc::new(bandwidth),
            progress: progress.clone(),
            compressor: Arc::new(Compressor::new(parameters.compression)),
            index: Arc::default(),
            packs: Packs::default(),
            pack: None,
            draft: Draft::default(),
            stretches: 0,
            withheld: None,
        }
    }

    /// Remembers packs that an earlier run of this upload stored. All of their chunks are the upload's own.
    pub(super) fn remember(&mut self, packs: Vec<(PackReference, Table)>) {
        for (reference, table) in packs {
            let pack = self.packs.position(reference);
            for (entry, ordinal) in table.entries.iter().zip(0..) {
                self.index.enter(&entry.id, Known { pack, ordinal });
            }
        }
    }

    /// Takes up everything the scan gathers, and stores it.
    ///
    /// # Errors
    /// `Cancelled` where the snapshot is no longer wanted, `Corrupt` where the snapshot compared with is damaged, and
    /// those of the store.
    pub(super) async fn run(
        &mut self,
        mut gathered: mpsc::Receiver<Gathered>,
        mut comparison: Comparison,
        level: &mut Level,
        journal: &mut Journal,
    ) -> Result<()> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let mut preparing: FuturesOrdered<Preparing> = FuturesOrdered::new();
        let mut puts = FuturesOrdered::new();
        let mut looks: FuturesUnordered<Look> = FuturesUnordered::new();
        let mut scanning = true;
        self.draft.position = level.position;
        while scanning || !preparing.is_empty() || !puts.is_empty() {
            tokio::select! {
                biased;
                Some(look) = looks.next() => look?,
                Some(stretch) = puts.next() => {
                    self.stored(joined(stretch)??, level, journal).await?;
                    if self.stretches.is_multiple_of(STRETCHES_BETWEEN_LOOKS) && looks.is_empty() {
                        looks.push(self.look());
                    }
                }
                Some(prepared) = preparing.next(), if puts.len() < PUTS => {
                    if self.place(prepared?) {
                        puts.push_back(self.put_stretch(journal, false).await?);
                    }
                }
                next = gathered.recv(), if scanning && preparing.len() < 2 * cores => match next {
                    Some(gathered) => preparing.push_back(self.prepare(gathered, &mut comparison).await?),
                    None => scanning = false,
                },
            }
        }
        // A scan that failed leaves something behind its last mark, and its error is the caller's to find.
        if self.draft.position > level.position && !self.draft.unmarked {
            puts.push_back(self.put_stretch(journal, true).await?);
        }
        while let Some(stretch) = puts.next().await {
            self.stored(joined(stretch)??, level, journal).await?;
        }
        Ok(())
    }

    /// Starts to hash and compress a chunk.
    async fn prepare(&mut self, gathered: Gathered, comparison: &mut Comparison) -> Result<Preparing> {
        let gathering = match gathered {
            Gathered::Zero(range) => return Ok(Box::pin(std::future::ready(Ok(Prepared::Zero(range))))),
            Gathered::Mark(mark) => return Ok(Box::pin(std::future::ready(Ok(Prepared::Mark(mark))))),
            Gathered::Chunk(gathering) => gathering,
        };
        if let Some(last) = gathering.ranges.last() {
            let blocks = gathering.bytes.len() as u64 / BLOCK_SIZE;
            for Candidate { id, pack, ordinal } in comparison.advance(*last, blocks).await? {
                self.index.enter(&id, Known { pack: self.packs.position(pack), ordinal });
            }
        }
        let (repository, index) = (self.repository.clone(), Arc::clone(&self.index));
        let compressor = Arc::clone(&self.compressor);
        let prepared = self.worker.start(move || {
            let Gathering { ranges, bytes } = gathering;
            let id = repository.data_key().chunk_id(&bytes);
            let blocks = u8::try_from(bytes.len() as u64 / BLOCK_SIZE).expect("a chunk has at most 32 blocks");
            let body = match index.find(&id) {
                Some(_) => Body::Plain(bytes),
                None => Body::Encoded(compressor.encode(bytes)),
            };
            Prepared::Chunk(PreparedChunk { id, ranges, blocks, body })
        });
        Ok(prepared)
    }

    /// Places what was prepared, in the scan's order; tells whether the stretch is to end here.
    fn place(&mut self, prepared: Prepared) -> bool {
        match prepared {
            Prepared::Zero(range) => {
                self.draft.unmarked = true;
                self.draft.extents.push(Extent { range, place: Place::Zero });
                false
            }
            Prepared::Mark(mark) => {
                self.draft.unmarked = false;
                // A scan that found nothing more says 0.
                self.draft.position = self.draft.position.max(mark.position);
                self.draft.statistics.changed_bytes += mark.changed.bytes();
                self.draft.statistics.read_bytes += mark.read.bytes();
                self.draft.extents.len() >= STRETCH_EXTENTS
                    || self
                        .pack
                        .as_ref()
                        .is_some_and(|(_, pack)| pack.stored_bytes() >= self.pack_bytes || pack.chunks() >= PACK_CHUNKS)
            }
            Prepared::Chunk(chunk) => {
                self.draft.unmarked = true;
                self.place_chunk(chunk);
                false
            }
        }
    }

    fn place_chunk(&mut self, chunk: PreparedChunk) {
        let PreparedChunk { id, ranges, blocks, body } = chunk;
        let bytes = u64::from(blocks) * BLOCK_SIZE;
        // Looked up again: the same chunk may have been stored, or forgotten, since it was prepared.
        let known = match self.index.find(&id) {
            Some(known) => {
                self.draft.statistics.deduplicated_bytes += bytes;
                known
            }
            None => {
                let encoded = match body {
                    Body::Encoded(encoded) => encoded,
                    Body::Plain(bytes) => self.compressor.encode(bytes),
                };
                let (repository, upload, packs) = (&self.repository, self.upload, &mut self.packs);
                let (position, pack) = self.pack.get_or_insert_with(|| {
                    let id = PackId::of(upload, repository.seams().random());
                    (packs.open(), pack::Writer::new(repository.data_key(), id))
                });
                let known = Known { pack: *position, ordinal: pack.push(id, blocks, encoded) };
                self.index.enter(&id, known);
                self.draft.statistics.stored_bytes += bytes;
                self.draft.statistics.chunks += 1;
                known
            }
        };
        let mut skip = 0;
        for range in ranges {
            let place = Place::Chunk(ChunkPlace { pack: known.pack, ordinal: known.ordinal, skip });
            self.draft.extents.push(Extent { range, place });
            skip += u8::try_from(range.count.0).expect("a range within a chunk has at most 32 blocks");
        }
    }

    /// Ends the stretch, writes it down and starts to put its pack, if it filled one.
    async fn put_stretch(
        &mut self,
        journal: &mut Journal,
        is_last: bool,
    ) -> Result<AbortOnDropHandle<Result<Stretch>>> {
        let mut draft = std::mem::take(&mut self.draft);
        self.draft.position = draft.position;
        let mut object = self.pack.take().map(|(position, pack)| {
            let (reference, bytes) = pack.finish();
            self.packs.close(position, reference);
            draft.statistics.packs = 1;
            draft.statistics.uploaded_bytes = bytes.len() as u64;
            (reference, bytes)
        });
        draft.extents.sort_unstable_by_key(|extent| extent.range.first);
        let stretch = Stretch {
            position: draft.position,
            statistics: draft.statistics,
            segments: draft.extents.into_iter().map(|extent| extent.map(|pack| self.packs.resolve(pack))).collect(),
        };
        let Entry::Stretch(stretch) = journal.write(&self.worker, Entry::Stretch(stretch)).await? else {
            unreachable!("an entry is given back as it is")
        };
        if self.broken(Mutation::JournalBeforePack) {
            journal.write(&self.worker, Entry::Stored).await?;
        }
        if is_last && self.broken(Mutation::RootBeforePacks) {
            self.withheld = object.take();
        }
        let (repository, bandwidth) = (self.repository.clone(), Arc::clone(&self.bandwidth));
        let progress = self.progress.clone();
        Ok(AbortOnDropHandle::new(self.worker.tracker().spawn(async move {
            if let Some((reference, bytes)) = object {
                let length = bytes.len();
                bandwidth.acquire(length).await;
                repository.store().put_new(&reference.key(), bytes).await?;
                progress.add_moved(length as u64);
            }
            Ok(stretch)
        })))
    }

    /// Writes down that a stretch is stored, and enters it in the level.
    async fn stored(&mut self, stretch: Stretch, level: &mut Level, journal: &mut Journal) -> Result<()> {
        if !self.broken(Mutation::JournalBeforePack) {
            journal.write(&self.worker, Entry::Stored).await?;
        }
        level.enter(&stretch)?;
        self.stretches += 1;
        self.put_full_run(level, journal).await
    }

    /// Looks whether the snapshot is still wanted.
    fn look(&self) -> Look {
        let (repository, snapshot) = (self.repository.clone(), self.snapshot);
        Box::pin(async move {
            match repository.snapshot(snapshot).await? {
                SnapshotState::Gone(tombstone) => Err(Error::Cancelled { snapshot, reason: tombstone.reason }),
                SnapshotState::Committed(_) => Err(Error::Conflict { object: names::snapshot_key(snapshot) }),
                SnapshotState::Absent => Ok(()),
            }
        })
    }

    /// Puts the pack that should have been put before the root.
    pub(super) async fn put_withheld(&mut self) -> Result<()> {
        match self.withheld.take() {
            Some((reference, bytes)) => self.repository.store().put_new(&reference.key(), bytes).await,
            None => Ok(()),
        }
    }

    fn broken(&self, way: Mutation) -> bool {
        self.repository.seams().broken(way)
    }

    /// Puts the level's run if it is full.
    pub(super) async fn put_full_run(&self, level: &mut Level, journal: &mut Journal) -> Result<()> {
        if level.writer.is_full()
            && let Some(finished) = level.writer.finish()
        {
            let reference = self.put_run(finished).await?;
            journal.write(&self.worker, Entry::Run(reference.clone())).await?;
            level.enter_run(reference);
        }
        Ok(())
    }

    /// Puts a run and returns how to refer to it.
    pub(super) async fn put_run(&self, finished: Finished) -> Result<RunReference> {
        let Finished { reference, bytes } = finished;
        let length = bytes.len();
        self.bandwidth.acquire(length).await;
        self.repository.store().put_new(&run::key(reference.id), bytes).await?;
        self.progress.add_moved(length as u64);
        Ok(reference)
    }
}
