//! Hydrate: filling an image from the repository.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{Repository, Result, block::BlockTarget, progress::Progress, record::snapshot::Root};

/// What a hydration moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes written to the target.
    pub written_bytes: u64,
    /// Bytes fetched from the store.
    pub fetched_bytes: u64,
}

impl Repository {
    /// Writes every block that is not zero of a snapshot to the target, each verified before it is written.
    ///
    /// # Errors
    /// `Corrupt` naming the damaged object, `Interrupted`, and those of the store and the target. The target then
    /// holds a part of the snapshot and is to be thrown away.
    pub async fn hydrate(
        &self,
        root: &Root,
        target: Arc<dyn BlockTarget>,
        progress: Progress,
        cancel: CancellationToken,
    ) -> Result<Statistics> {
        let _ = (root, target, progress, cancel);
        unimplemented!()
    }
}
