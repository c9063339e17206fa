//! The new level of a snapshot, as far as it has been stored.

use super::journal::{Stretch, add};
use crate::{
    Repository, Result,
    block::Blocks,
    id::UploadId,
    record::snapshot::{RunReference, SnapshotStatistics},
    run,
};

/// The level being built: everything before `position` has been stored.
pub(super) struct Level {
    /// Everything before has been dealt with.
    pub(super) position: Blocks,
    /// What it took.
    pub(super) statistics: SnapshotStatistics,
    /// Runs that are stored already.
    pub(super) runs: Vec<RunReference>,
    /// Takes the extents that are in none of them.
    pub(super) writer: run::Writer,
}

impl Level {
    /// Starts an empty one.
    pub(super) fn new(repository: &Repository, upload: UploadId) -> Self {
        Self {
            position: Blocks::ZERO,
            statistics: SnapshotStatistics::default(),
            runs: Vec::new(),
            writer: run::Writer::new(repository, upload),
        }
    }

    /// Enters a stretch that is stored.
    ///
    /// # Errors
    /// `Corrupt` where it contradicts what was entered before.
    pub(super) fn enter(&mut self, stretch: &Stretch) -> Result<()> {
        self.position = stretch.position;
        add(&mut self.statistics, &stretch.statistics);
        stretch.segments.iter().try_for_each(|segment| self.writer.push(segment))
    }

    /// Enters a run that holds all stretches since the run before, and is stored.
    pub(super) fn enter_run(&mut self, run: RunReference) {
        self.statistics.uploaded_bytes += run.object_bytes;
        self.runs.push(run);
        self.writer.forget();
    }
}
