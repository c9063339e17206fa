//! Hydrate: filling an image from the repository.
//!
//! ```text
//! [run::view]  what the snapshot holds, in ascending order
//! [plan]       windows of it, grouped into reads of packs
//! [fetch]      reads, several at once: verified, opened, written
//! ```
//!
//! # Invariants
//! No byte reaches the target before its chunk has matched its id, the chunk's place the pack's table, the table the run,
//! and the run the root. Memory: the reads under way and the tables kept, some 64 MiB at most, whatever the size of the
//! volume.

mod fetch;
mod plan;

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Repository, Result,
    block::BlockTarget,
    pack::TableCache,
    progress::Progress,
    record::snapshot::Root,
    run::View,
    work::{Worker, joined},
};
use fetch::Fetcher;
use plan::Planner;

/// Reads under way at once.
const FETCHES: usize = 8;

/// What a hydration moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes written to the target.
    pub written_bytes: u64,
    /// Bytes of packs fetched from the store.
    pub fetched_bytes: u64,
}

impl Repository {
    /// Writes every block that is not zero of a snapshot to the target, each verified before it is written, and makes
    /// it durable.
    ///
    /// # Errors
    /// `Corrupt` naming the damaged object, `Interrupted`, and those of the store and the target. The target then
    /// holds a part of the snapshot and is to be thrown away.
    ///
    /// # Cancellation
    /// By the token. The target is not written any more once this has returned; a future that is dropped instead gives
    /// no such promise.
    pub async fn hydrate(
        &self,
        root: &Root,
        target: Arc<dyn BlockTarget>,
        progress: Progress,
        cancel: CancellationToken,
    ) -> Result<Statistics> {
        progress.set_total(root.statistics.data_bytes);
        let stop = cancel.child_token();
        let worker = Worker::new(self.seams().work);
        let fetcher = Arc::new(Fetcher {
            repository: self.clone(),
            worker: worker.clone(),
            target: Arc::clone(&target),
            progress: progress.clone(),
            stop: stop.clone(),
        });
        let mut fetches = JoinSet::new();
        let work = cancel.run_until_cancelled(Box::pin(self.fetch_all(root, &fetcher, &mut fetches)));
        let mut result = work.await.unwrap_or(Err(Error::Interrupted));
        if result.is_err() {
            stop.cancel();
        }
        // Waited for in any case: a write that is under way goes on whatever becomes of its future.
        while let Some(fetched) = fetches.join_next().await {
            match (&mut result, joined(fetched).flatten()) {
                (Ok(total), Ok(statistics)) => add(total, statistics),
                (Ok(_), Err(error)) => result = Err(error),
                (Err(_), _) => {}
            }
            if result.is_err() {
                stop.cancel();
            }
        }
        if cancel.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let statistics = result?;
        let synced = worker.start(move || target.sync()).await?;
        synced.map_err(|source| Error::Local { what: "making the image durable".into(), source })?;
        progress.set_total(statistics.written_bytes);
        Ok(statistics)
    }

    /// Plans and starts all reads; on return the last ones are still under way.
    async fn fetch_all(
        &self,
        root: &Root,
        fetcher: &Arc<Fetcher>,
        fetches: &mut JoinSet<Result<Statistics>>,
    ) -> Result<Statistics> {
        let mut statistics = Statistics::default();
        let tables = TableCache::default();
        let mut planner = Planner::new(self, View::whole(self, root), &tables);
        loop {
            let reads = planner.next_window().await?;
            if reads.is_empty() {
                return Ok(statistics);
            }
            for read in reads {
                while fetches.len() >= FETCHES {
                    if let Some(fetched) = fetches.join_next().await {
                        add(&mut statistics, joined(fetched)??);
                    }
                }
                let fetcher = Arc::clone(fetcher);
                fetches.spawn(async move { fetcher.fetch(read).await });
            }
        }
    }
}

fn add(total: &mut Statistics, more: Statistics) {
    total.written_bytes += more.written_bytes;
    total.fetched_bytes += more.fetched_bytes;
}
