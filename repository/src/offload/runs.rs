//! The runs of a new root: what is left of the new level is put, merged with older levels where those have piled up.
//!
//! # Crash consistency
//! Nothing refers to a run before the root does, and the root is put when both the runs and the packs that they speak of
//! are stored. So runs may be put beside the last pack: which one is stored first does not matter.

use super::{attempt::Attempt, level::Level, transfer::Transfer};
use crate::{
    Result,
    block::{BLOCK_SIZE, BlockRange, Blocks},
    record::snapshot::{Root, RunReference},
    run::{self, Extent, Origin, Place, merge},
};

/// The runs of a root, all of them stored.
pub(super) struct Stored {
    /// Newest level first.
    pub(super) runs: Vec<RunReference>,
    /// What putting them took, in bytes.
    pub(super) put_bytes: u64,
    /// Bytes of data in them, where nothing older is left, so that it is known exactly.
    pub(super) data_bytes: Option<u64>,
}

impl Attempt {
    /// Puts what is left of the new level, merged with older ones where they have piled up.
    ///
    /// # Errors
    /// `Corrupt` naming the run that is damaged, or the store's.
    pub(super) async fn store_runs(
        &self,
        transfer: &Transfer,
        level: &mut Level,
        base: Option<&Root>,
    ) -> Result<Stored> {
        let older: Vec<&[RunReference]> = base.map_or_else(Vec::new, |base| run::levels(&base.runs).collect());
        let mut newest: Vec<Origin> = level.runs.drain(..).map(Origin::Stored).collect();
        newest.extend(level.writer.finish().map(Origin::Memory));
        if newest.is_empty() {
            return Ok(Stored { runs: older.concat(), put_bytes: 0, data_bytes: base.is_none().then_some(0) });
        }
        let extents = |runs: &[RunReference]| runs.iter().map(|run| run.extents).sum::<u64>();
        let mut sizes = vec![newest.iter().map(|origin| origin.reference().extents).sum::<u64>()];
        sizes.extend(older.iter().map(|level| extents(level)));
        let merged = merge::plan(&sizes);

        let (mut runs, mut put_bytes) = (Vec::new(), 0);
        if merged == 1 {
            for origin in newest {
                runs.push(match origin {
                    Origin::Stored(reference) => reference,
                    Origin::Memory(finished) => {
                        put_bytes += finished.reference.object_bytes;
                        transfer.put_run(finished).await?
                    }
                });
            }
            let data_bytes = older.is_empty().then(|| level.writer.data().bytes());
            runs.extend(older.concat());
            return Ok(Stored { runs, put_bytes, data_bytes });
        }
        let mut levels = vec![newest];
        levels.extend(older[..merged - 1].iter().map(|level| level.iter().cloned().map(Origin::Stored).collect()));
        let oldest = merged == sizes.len();
        let writer = run::Writer::new(&self.repository, level.writer.upload());
        let mut merge = merge::Merge::new(&self.repository, levels, writer, oldest);
        while let Some(finished) = merge.next().await? {
            put_bytes += finished.reference.object_bytes;
            runs.push(transfer.put_run(finished).await?);
        }
        runs.extend(older[merged - 1..].concat());
        Ok(Stored { runs, put_bytes, data_bytes: oldest.then(|| merge.data().bytes()) })
    }

    /// Puts zeroes over what a base that is larger than the image holds past the image's end: a larger image that is built
    /// on this one would find it there otherwise.
    ///
    /// # Errors
    /// `Corrupt` where the level goes past the image's end already.
    pub(super) fn hide_past_end(&self, level: &mut Level, base: &Root) -> Result<()> {
        let first = self.request.source.capacity();
        let end = Blocks(base.description.capacity_bytes.div_ceil(BLOCK_SIZE));
        if end <= first {
            return Ok(());
        }
        let range = BlockRange { first, count: end - first };
        level.writer.push(&Extent { range, place: Place::Zero })
    }
}
