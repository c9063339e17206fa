//! Sampling blocks that are held to be unchanged.
//!
//! An incremental offload trusts the extent maps. A few blocks that the base holds and the change list does not are
//! read from the cut and compared with the repository, at random places at each offload: an error of the tracking
//! is found by one of the next offloads and not by a restore.

use std::sync::Arc;

use futures::future::try_join_all;

use crate::{
    Error, Repository, Result,
    block::{BLOCK_SIZE, BlockRange, BlockSource, Blocks, ChangeSource},
    id::VolumeId,
    pack::{PackReference, read_chunks, read_table},
    record::snapshot::Root,
    run::{self, ChunkPlace, Origin, Place, Reader, View},
    work::Worker,
};

/// Blocks sampled at each offload; each costs up to four small reads of the store.
const SAMPLES: usize = 4;

/// How many segments are tried for one that has an unchanged block, before a sample is given up.
const TRIES: usize = 16;

/// What is sampled.
pub(super) struct Sample {
    pub(super) repository: Repository,
    pub(super) worker: Worker,
    pub(super) volume: VolumeId,
    pub(super) source: Arc<dyn BlockSource>,
    pub(super) changes: Arc<dyn ChangeSource>,
}

impl Sample {
    /// Compares blocks at random places with the base.
    ///
    /// # Errors
    /// `Tracking` where one differs, `Corrupt` where the base is damaged, and those of the store and the image.
    pub(super) async fn compare(&self, base: &Root) -> Result<()> {
        let capacity = base.description.capacity_bytes / BLOCK_SIZE;
        if capacity == 0 || base.runs.is_empty() {
            return Ok(());
        }
        let starts: Vec<u64> =
            (0..SAMPLES).map(|_| u64::from_le_bytes(self.repository.seams().random()) % capacity).collect();
        let compared = try_join_all(starts.iter().map(|start| self.compare_near(base, *start, capacity)));
        let (compared, ()) = futures::try_join!(compared, self.look_at_runs(base))?;
        let compared = compared.into_iter().filter(|compared| *compared).count();
        tracing::debug!(compared, "blocks held to be unchanged are unchanged");
        Ok(())
    }

    /// Looks at a run of each level of the base as the store has it, since what is known of them may be what is remembered: a
    /// new snapshot refers to them too.
    async fn look_at_runs(&self, base: &Root) -> Result<()> {
        let looks = run::levels(&base.runs).map(|level| {
            let random = u64::from_le_bytes(self.repository.seams().random());
            let run = usize::try_from(random % level.len() as u64).ok().and_then(|number| level.get(number));
            async move {
                match run {
                    Some(run) => Reader::open(&self.repository, Origin::Stored(run.clone())).await.map(drop),
                    None => Ok(()),
                }
            }
        });
        try_join_all(looks).await.map(drop)
    }

    /// Compares the first unchanged block of the base at or after `start`, going round at the end.
    async fn compare_near(&self, base: &Root, start: u64, capacity: u64) -> Result<bool> {
        let mut tries = 0;
        for range in [BlockRange::new(start, capacity - start), BlockRange::new(0, start)] {
            let mut view = View::of(&self.repository, &base.runs, range).recalling();
            while let Some(segment) = view.next().await? {
                let Place::Chunk(place) = segment.place else { continue };
                tries += 1;
                if tries > TRIES {
                    return Ok(false);
                }
                let Some((block, bytes)) = self.read_unchanged(segment.range).await? else { continue };
                let skip = place.skip + u8::try_from((block - segment.range.first).0).unwrap_or(u8::MAX);
                if self.stored(&ChunkPlace { skip, ..place }).await? != bytes {
                    return Err(Error::Tracking { volume: self.volume, block: block.0 });
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the first block of a range that is held to be unchanged from the cut; `None` where all of it changed.
    async fn read_unchanged(&self, range: BlockRange) -> Result<Option<(Blocks, Vec<u8>)>> {
        let (source, changes) = (Arc::clone(&self.source), Arc::clone(&self.changes));
        let read = move || {
            let mut block = range.first;
            for change in changes.changes(block)? {
                let change = change?.range();
                if change.first > block {
                    break;
                }
                block = block.max(change.end());
            }
            if block >= range.end().min(source.capacity()) {
                return Ok(None);
            }
            let mut bytes = vec![0; usize::try_from(BLOCK_SIZE).unwrap_or(usize::MAX)];
            source.read(block, &mut bytes)?;
            Ok(Some((block, bytes)))
        };
        self.worker
            .start(read)
            .await?
            .map_err(|source| Error::Local { what: "reading a block held to be unchanged".into(), source })
    }

    /// Reads one block as the repository holds it.
    async fn stored(&self, place: &ChunkPlace<PackReference>) -> Result<Vec<u8>> {
        let pack = place.pack;
        let table = read_table(&self.repository, &pack).await?;
        let entry = usize::try_from(place.ordinal).ok().and_then(|ordinal| table.entries.get(ordinal));
        let entry = entry.ok_or_else(|| pack.damaged("an extent speaks of a chunk that it does not hold"))?;
        let chunks = read_chunks(&self.repository, &pack, &[(place.ordinal, *entry)], None).await?;
        let opened = chunks.open(self.repository.data_key()).next();
        let plain = opened.ok_or_else(|| pack.damaged("it was not read whole"))?.1?;
        let block = plain.chunks_exact(usize::try_from(BLOCK_SIZE).unwrap_or(usize::MAX)).nth(place.skip.into());
        block.map(<[u8]>::to_vec).ok_or_else(|| pack.damaged("an extent goes past the end of its chunk"))
    }
}
