//! The transfer: what the scan gathers is hashed, looked up, compressed, sealed into packs and put.
//!
//! ```text
//! scan (a thread) ──> hash, look up, compress (all cores) ──> place in the open pack ──> journal ──> seal, put ──> level
//!                     in any order, taken up in the scan's order        in order                   several at once  in order
//! ```
//!
//! What goes from stage to stage are batches of a mebibyte or so: handing over single chunks would take longer than some
//! of the work.
//!
//! The image is dealt with in stretches: a stretch ends at a mark of the scan where the pack, or the list of extents, is
//! large enough. It is written to the journal, its pack is put, and it is entered in the level being built.
//!
//! Every few packs it is looked whether the snapshot is still wanted, beside the work: a deletion ends it soon.
//!
//! # Invariants
//! Memory: what an offload needs to come forward is leased before it begins (`super::budget`): batches under way, the
//! index, and a reserve for what may come between two marks. A pack is filled with what is leased for it as it grows. Where
//! nothing more is free it waits for the packs that this offload is putting; where there are none, the reserve takes what
//! is left up to the next mark, where the pack then ends. So packs are smaller where memory is low, and nothing waits for
//! the memory of others.
//!
//! # Cancellation
//! Dropping the future aborts the puts under way; a pack that was stored nevertheless is garbage of its upload.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures::{
    StreamExt,
    stream::{FuturesOrdered, FuturesUnordered},
};
use object_store::PutPayload;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    budget::{batches, pack_bytes},
    compare::{Candidate, Comparison},
    dedup::{Index, Known},
    gather::{Chunk, Gathered},
    journal::{Entry, Journal, Stretch},
    level::Level,
    packs::{Counts, Packs},
    prepare::{Body, Prepared, PreparedChunk, prepare},
    resume::Recovered,
};
use crate::{
    Error, Repository, Result, SnapshotState,
    bandwidth::Bandwidth,
    block::{BLOCK_SIZE, Blocks},
    id::{PackId, SnapshotId, UploadId},
    memory::Lease,
    mutation::Mutation,
    pack::{self, Compressor, PackReference},
    progress::Progress,
    record::{
        snapshot::{RunReference, SnapshotStatistics},
        volume::OffloadParameters,
    },
    repository::names,
    run::{self, ChunkPlace, Extent, Finished, Place},
    stages::{Stage, Stages},
    work::{Worker, joined},
};

/// A pack's memory is leased in steps of so many bytes.
const STEP: usize = 1 << 20;

/// A pack is closed at the first mark where it has this many chunks: a mark comes every 2048 chunks at the latest.
const PACK_CHUNKS: usize = pack::MAX_CHUNKS / 2;

/// A stretch is closed at the first mark where it has this many extents.
const STRETCH_EXTENTS: usize = 1 << 16;

/// Most packs being put at once.
const PUTS: usize = 8;

/// After this many stretches, 128 MiB or so, it is looked whether the snapshot is still wanted.
const STRETCHES_BETWEEN_LOOKS: u64 = 4;

/// What the stages share.
pub(super) struct Transfer {
    pub(super) repository: Repository,
    pub(super) snapshot: SnapshotId,
    pub(super) upload: UploadId,
    pub(super) worker: Worker,
    pub(super) bandwidth: Bandwidth,
    pub(super) progress: Progress,
    compressor: Arc<Compressor>,
    index: Arc<Index>,
    packs: Packs,
    pack: Option<Filling>,
    pack_bytes: u32,
    /// What was prepared and is not placed yet.
    placing: VecDeque<Prepared>,
    stages: Stages,
    draft: Draft,
    stretches: u64,
    /// A pack that is put too late, where the protocol is broken on purpose.
    withheld: Option<(PackReference, pack::Closed)>,
}

/// A pack being filled.
struct Filling {
    position: u32,
    writer: pack::Writer,
    lease: Option<Lease>,
    /// Whether it takes from the reserve, and ends at the next mark.
    short: bool,
}

impl Filling {
    /// Tells whether what is leased is enough for another chunk.
    fn has_room(&self) -> bool {
        let leased = self.lease.as_ref().map_or(0, Lease::bytes);
        let taken = usize::try_from(self.writer.stored_bytes()).unwrap_or(usize::MAX);
        taken + CHUNK_ROOM <= leased
    }
}

/// What a chunk takes in a pack at most, its entry in the table included.
const CHUNK_ROOM: usize = (128 << 10) + 256;

/// A stretch being dealt with.
#[derive(Default)]
struct Draft {
    position: Blocks,
    /// Whether there is something behind the last mark, so that the stretch cannot end here.
    unmarked: bool,
    statistics: SnapshotStatistics,
    extents: Vec<Extent<u32>>,
}

type Preparing = Pin<Box<dyn Future<Output = Result<Vec<Prepared>>> + Send>>;

type Putting = Pin<Box<dyn Future<Output = Result<Stretch>> + Send>>;

type Look = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// The put of a stretch's pack, if it has one.
type Put = AbortOnDropHandle<Result<()>>;

/// Returns a stretch once its pack is stored.
async fn put_to_its_end((stretch, put): (Stretch, Put)) -> Result<Stretch> {
    joined(put.await)??;
    Ok(stretch)
}

/// The put of the last stretch's pack, which is entered in the level before it has ended.
#[must_use = "the root must not be committed before it has ended"]
pub(super) struct LastPut(Option<Put>);

impl LastPut {
    /// Waits until the pack is stored.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn stored(self) -> Result<()> {
        match self.0 {
            Some(put) => joined(put.await)?,
            None => Ok(()),
        }
    }
}

impl Transfer {
    pub(super) fn new(
        repository: &Repository,
        snapshot: SnapshotId,
        upload: UploadId,
        worker: &Worker,
        parameters: &OffloadParameters,
        progress: &Progress,
    ) -> Self {
        let bandwidth = repository.upload_bandwidth().within(parameters.bandwidth);
        Self {
            repository: repository.clone(),
            snapshot,
            upload,
            worker: worker.clone(),
            pack_bytes: bandwidth.object_bytes(pack_bytes(repository.memory())),
            bandwidth,
            progress: progress.clone(),
            compressor: Arc::new(Compressor::new(parameters.compression)),
            index: Arc::default(),
            packs: Packs::default(),
            pack: None,
            placing: VecDeque::new(),
            stages: progress.stages().clone(),
            draft: Draft::default(),
            stretches: 0,
            withheld: None,
        }
    }

    /// Remembers packs that an earlier attempt at this upload stored. All of their chunks are the upload's own.
    pub(super) fn remember(&mut self, packs: Vec<Recovered>) {
        for Recovered { reference, table, is_counted } in packs {
            let pack = self.packs.position(reference);
            let mut chunks = 0;
            for entry in &table.entries {
                self.index.enter(&entry.id, Known { pack, ordinal: chunks });
                chunks += 1;
            }
            if !is_counted {
                self.packs.uncount(pack, chunks);
            }
        }
    }

    /// Takes up everything the scan gathers, and stores it but for the last pack, which is on its way in the end: what the
    /// journal says of that is that it may be stored.
    ///
    /// # Errors
    /// `Cancelled` where the snapshot is no longer wanted, `Corrupt` where the snapshot compared with is damaged, and
    /// those of the store.
    pub(super) async fn run(
        &mut self,
        mut gathered: mpsc::Receiver<Vec<Gathered>>,
        mut comparison: Comparison,
        level: &mut Level,
        journal: &mut Journal,
    ) -> Result<LastPut> {
        let batches = batches(self.repository.memory());
        let mut preparing: FuturesOrdered<Preparing> = FuturesOrdered::new();
        let mut puts: FuturesOrdered<Putting> = FuturesOrdered::new();
        let mut looks: FuturesUnordered<Look> = FuturesUnordered::new();
        let mut scanning = true;
        self.draft.position = level.position;
        // Up to where stretches were ended.
        let mut ended = level.position;
        loop {
            self.place_all(&mut puts, &mut ended, journal).await?;
            if !scanning && preparing.is_empty() && self.placing.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(look) = looks.next() => look?,
                Some(stretch) = puts.next() => {
                    self.stored(stretch?, level, journal).await?;
                    if self.stretches.is_multiple_of(STRETCHES_BETWEEN_LOOKS) && looks.is_empty() {
                        looks.push(self.look());
                    }
                }
                Some(prepared) = preparing.next(), if self.placing.is_empty() => self.placing.extend(prepared?),
                next = gathered.recv(), if scanning && preparing.len() < batches => match next {
                    Some(gathered) => preparing.push_back(self.prepare(gathered, &mut comparison).await?),
                    None => scanning = false,
                },
            }
        }
        // A scan that failed leaves something behind its last mark, and its error is the caller's to find.
        let mut last = None;
        if self.draft.position > ended && !self.draft.unmarked {
            last = Some(self.put_stretch(journal, true).await?);
        }
        while let Some(stretch) = puts.next().await {
            self.stored(stretch?, level, journal).await?;
        }
        let Some((stretch, put)) = last else { return Ok(LastPut(None)) };
        level.enter(&stretch)?;
        Ok(LastPut(Some(put)))
    }

    /// Places what was prepared as far as there is memory, and puts the packs that are full.
    async fn place_all(
        &mut self,
        puts: &mut FuturesOrdered<Putting>,
        ended: &mut Blocks,
        journal: &mut Journal,
    ) -> Result<()> {
        while puts.len() < PUTS {
            let is_chunk = matches!(self.placing.front(), Some(Prepared::Chunk(_)));
            if is_chunk && !self.has_room(!puts.is_empty()) {
                break;
            }
            let Some(prepared) = self.placing.pop_front() else { break };
            if self.place(prepared) {
                let put = self.put_stretch(journal, false).await?;
                puts.push_back(Box::pin(put_to_its_end(put)));
                *ended = self.draft.position;
            }
        }
        Ok(())
    }

    /// Makes room for a chunk in the pack being filled, or the one to be begun; tells whether to go on, rather than wait for
    /// packs that are being put to give back their memory.
    fn has_room(&mut self, putting: bool) -> bool {
        let pack = self.open_pack();
        if pack.short || pack.has_room() {
            return true;
        }
        match self.repository.memory().try_lease(STEP) {
            Some(more) => {
                let Some(pack) = &mut self.pack else { return true };
                match &mut pack.lease {
                    Some(lease) => lease.merge(more),
                    None => pack.lease = Some(more),
                }
                true
            }
            None if putting => false,
            // Nothing of this offload is on its way, so nobody else takes from its reserve.
            None => {
                self.open_pack().short = true;
                true
            }
        }
    }

    /// The pack being filled.
    fn open_pack(&mut self) -> &mut Filling {
        let (repository, upload, packs) = (&self.repository, self.upload, &mut self.packs);
        self.pack.get_or_insert_with(|| {
            let id = PackId::of(upload, repository.seams().random());
            let writer = pack::Writer::new(repository.data_key(), id);
            Filling { position: packs.open(), writer, lease: None, short: false }
        })
    }

    /// Starts to hash and compress a batch.
    async fn prepare(&mut self, gathered: Vec<Gathered>, comparison: &mut Comparison) -> Result<Preparing> {
        for gathered in &gathered {
            let Gathered::Chunk(Chunk { ranges, bytes }) = gathered else { continue };
            let Some(last) = ranges.last() else { continue };
            for Candidate { id, pack, ordinal } in comparison.advance(*last, bytes.len() as u64 / BLOCK_SIZE).await? {
                self.index.enter(&id, Known { pack: self.packs.position(pack), ordinal });
            }
        }
        let (repository, index) = (self.repository.clone(), Arc::clone(&self.index));
        let (compressor, stages) = (Arc::clone(&self.compressor), self.stages.clone());
        let preparing = self.worker.compute(move || {
            let prepare = |gathered| prepare(gathered, &repository, &index, &compressor, &stages);
            gathered.into_iter().map(prepare).collect()
        });
        Ok(Box::pin(preparing))
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
                    || self.pack.as_ref().is_some_and(|Filling { writer, short, .. }| {
                        *short || writer.stored_bytes() >= self.pack_bytes || writer.chunks() >= PACK_CHUNKS
                    })
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
                self.count_found(known, bytes);
                known
            }
            None => {
                let encoded = match body {
                    Body::Encoded(encoded) => encoded,
                    Body::Plain(bytes) => self.compressor.encode_slice(&bytes),
                };
                let pack = self.open_pack();
                let known = Known { pack: pack.position, ordinal: pack.writer.push(id, blocks, encoded) };
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

    fn count_found(&mut self, known: Known, bytes: u64) {
        let statistics = &mut self.draft.statistics;
        let counts = self.packs.count(known);
        if counts == Counts::Deduplicated {
            statistics.deduplicated_bytes += bytes;
            return;
        }
        statistics.stored_bytes += bytes;
        statistics.chunks += 1;
        if let Counts::StoredWithPack(object_bytes) = counts {
            statistics.packs += 1;
            statistics.uploaded_bytes += object_bytes;
        }
    }

    /// Ends the stretch, writes it down and starts to put its pack, if it filled one.
    async fn put_stretch(&mut self, journal: &mut Journal, is_last: bool) -> Result<(Stretch, Put)> {
        let mut draft = std::mem::take(&mut self.draft);
        self.draft.position = draft.position;
        let mut lease = None;
        let mut object = self.pack.take_if(|pack| pack.writer.chunks() > 0).map(|pack| {
            let (reference, closed) = pack.writer.close();
            self.packs.close(pack.position, reference);
            lease = pack.lease;
            draft.statistics.packs += 1;
            draft.statistics.uploaded_bytes += u64::from(reference.object_bytes);
            (reference, closed)
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
        let (repository, bandwidth, worker) = (self.repository.clone(), self.bandwidth.clone(), self.worker.clone());
        let (progress, stages) = (self.progress.clone(), self.stages.clone());
        let put = self.worker.tracker().spawn(async move {
            // Given back when the pack is stored, or is no longer on its way.
            let _lease = lease;
            if let Some((reference, closed)) = object {
                let length = u64::from(reference.object_bytes);
                let sealing = stages.clone();
                let parts = worker.compute(move || sealing.timed(Stage::Seal, length, || closed.seal())).await?;
                stages.waited_async(Stage::Put, bandwidth.acquire(length)).await;
                let payload: PutPayload = parts.into_iter().collect();
                let key = reference.key();
                let put = repository.store().put_new_parts(&key, payload);
                stages.timed_async(Stage::Put, length, put).await?;
                progress.add_moved(length);
            }
            Ok(())
        });
        Ok((stretch, AbortOnDropHandle::new(put)))
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
            Some((reference, closed)) => {
                let payload: PutPayload = closed.seal().into_iter().collect();
                self.repository.store().put_new_parts(&reference.key(), payload).await
            }
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
        run::remember(&self.repository, &finished);
        let Finished { reference, bytes } = finished;
        let length = bytes.len() as u64;
        self.stages.waited_async(Stage::Put, self.bandwidth.acquire(length)).await;
        let key = run::key(reference.id);
        let put = self.repository.store().put_new(&key, bytes);
        self.stages.timed_async(Stage::Put, length, put).await?;
        self.progress.add_moved(length);
        Ok(reference)
    }
}
