//! Hydrate: filling an image from the repository.
//!
//! ```text
//! [run::view]  what the snapshot holds, in ascending order
//! [plan]       windows of it, grouped into reads of packs
//! [fetch]      reads, several at once: verified, opened, written
//! [losses]     what could not be read, where that is not to be the end of it
//! ```
//!
//! # Invariants
//! No byte reaches the target before its chunk has matched its id, the chunk's place the pack's table, the table the run,
//! and the run the root. Memory: the tables kept and one read are leased before anything is fetched; further reads are under
//! way as far as memory is free. What is lost is listed beside that, as long as the list is.

mod fetch;
mod losses;
mod patience;
mod plan;

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use losses::Lost;
pub(crate) use patience::Patience;

use crate::{
    Error, Repository, Result, SnapshotState,
    block::BlockTarget,
    buffer::Buffers,
    pack::TableCache,
    progress::Progress,
    record::snapshot::Root,
    repository::names,
    run::View,
    stages::Stage,
    work::{Worker, joined},
};
use fetch::Fetcher;
use losses::Losses;
use plan::Planner;

/// Most reads under way at once; fewer where there is less memory, but one in any case.
const FETCHES: usize = 8;

/// Memory for a read under way: as it is fetched, as it is opened and written.
const FETCH_BYTES: usize = plan::READ_BYTES as usize + fetch::WRITE_BYTES + (256 << 10);

/// Memory for what is planned and for the tables kept, in bytes.
const CONSTANT_BYTES: usize = plan::WINDOW_BYTES + (6 << 20);

/// What a hydration moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes written to the target.
    pub written_bytes: u64,
    /// Bytes of packs fetched from the store.
    pub fetched_bytes: u64,
}

/// What a restore that keeps going has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// What it moved.
    pub statistics: Statistics,
    /// What stays zero, in the order of the image; none where all of it was restored.
    pub lost: Vec<Lost>,
}

/// Where blocks are written, and what goes with it.
pub(crate) struct Sink {
    pub(crate) target: Arc<dyn BlockTarget>,
    pub(crate) progress: Progress,
    pub(crate) cancel: CancellationToken,
}

impl Repository {
    /// Writes every block that is not zero of a snapshot to the target, each verified before it is written, and makes
    /// it durable. Reads that fail for a moment are tried again.
    ///
    /// # Errors
    /// `Corrupt` naming the damaged object, `Cancelled` where the snapshot was deleted meanwhile, `Conflict` where it was
    /// repaired meanwhile and must be read anew, `Interrupted`, and those of the store and the target. The target then
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
        let filled = self.fill(root, Sink { target, progress, cancel }, None).await;
        self.explain(root, filled).await
    }

    /// Does the same and keeps going: what is damaged stays zero, and is listed. So is what an unreadable run or page
    /// may have covered, even where an older one says something of it: that may be out of date.
    ///
    /// # Errors
    /// Those of [`hydrate`](Self::hydrate), but for `Corrupt`.
    ///
    /// # Cancellation
    /// As of [`hydrate`](Self::hydrate).
    pub async fn salvage(
        &self,
        root: &Root,
        target: Arc<dyn BlockTarget>,
        progress: Progress,
        cancel: CancellationToken,
    ) -> Result<Salvage> {
        let losses = Arc::new(Losses::default());
        let filled = self.fill(root, Sink { target, progress, cancel }, Some(&losses)).await;
        let statistics = self.explain(root, filled).await?;
        let lost = losses.into_list();
        if let Some(first) = lost.first() {
            // What looks like damage may be a deletion.
            let damage = Error::Corrupt { object: first.object.clone(), reason: first.reason.clone() };
            match self.explain::<()>(root, Err(damage)).await {
                Err(Error::Corrupt { .. }) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Salvage { statistics, lost })
    }

    /// Writes what a snapshot holds and makes it durable.
    async fn fill(&self, root: &Root, sink: Sink, losses: Option<&Arc<Losses>>) -> Result<Statistics> {
        sink.progress.set_total(root.statistics.data_bytes);
        let view = View::whole(self, root);
        let (target, progress) = (Arc::clone(&sink.target), sink.progress.clone());
        let stages = progress.stages().clone();
        let statistics = self.pour(view, sink, losses.cloned(), &TableCache::default()).await?;
        let synced = Worker::new(self.seams().work).start(move || target.sync()).await?;
        synced.map_err(|source| Error::Local { what: "making the image durable".into(), source })?;
        stages.log("restore", root.description.id);
        progress.set_total(statistics.written_bytes);
        Ok(statistics)
    }

    /// Writes what a view yields; on return nothing of it is under way any more.
    pub(crate) async fn pour(
        &self,
        view: View,
        sink: Sink,
        losses: Option<Arc<Losses>>,
        tables: &TableCache,
    ) -> Result<Statistics> {
        let Sink { target, progress, cancel } = sink;
        let stop = cancel.child_token();
        let worker = Worker::new(self.seams().work);
        let (stages, buffers) = (progress.stages().clone(), Buffers::new(fetch::WRITE_BYTES));
        let reads = Buffers::new(plan::READ_BYTES as usize);
        let fetcher = Arc::new(Fetcher {
            repository: self.clone(),
            worker,
            target,
            progress,
            stages,
            reads,
            buffers,
            stop: stop.clone(),
            losses,
        });
        // The one wait for memory: nothing is held yet.
        let leasing = fetcher.stages.waited_async(Stage::Fetch, self.memory().lease(CONSTANT_BYTES + FETCH_BYTES));
        let Some(_lease) = cancel.run_until_cancelled(leasing).await else { return Err(Error::Interrupted) };
        let mut fetches = JoinSet::new();
        let work = cancel.run_until_cancelled(Box::pin(self.fetch_all(view, tables, &fetcher, &mut fetches)));
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
        result
    }

    /// Plans and starts all reads; on return the last ones are still under way.
    async fn fetch_all(
        &self,
        view: View,
        tables: &TableCache,
        fetcher: &Arc<Fetcher>,
        fetches: &mut JoinSet<Result<Statistics>>,
    ) -> Result<Statistics> {
        let mut statistics = Statistics::default();
        let mut planner = Planner::new(self, view, tables, fetcher.losses.as_deref());
        while let Some(reads) = planner.next_window().await? {
            for read in reads {
                let lease = loop {
                    // The first one has its memory already.
                    let lease = if fetches.is_empty() { None } else { self.memory().try_lease(FETCH_BYTES) };
                    if fetches.is_empty() || (lease.is_some() && fetches.len() < FETCHES) {
                        break lease;
                    }
                    drop(lease);
                    if let Some(fetched) = fetches.join_next().await {
                        add(&mut statistics, joined(fetched)??);
                    }
                };
                let fetcher = Arc::clone(fetcher);
                fetches.spawn(async move {
                    let _lease = lease;
                    fetcher.fetch(read).await
                });
            }
        }
        Ok(statistics)
    }

    /// Tells damage from what is no longer there because the snapshot is not: its packs go when it is deleted, or when
    /// a repair has put others in their place.
    async fn explain<T>(&self, root: &Root, result: Result<T>) -> Result<T> {
        let Err(Error::Corrupt { .. }) = &result else { return result };
        let snapshot = root.description.id;
        match self.snapshot(snapshot).await {
            Ok(SnapshotState::Gone(tombstone)) => Err(Error::Cancelled { snapshot, reason: tombstone.reason }),
            Ok(SnapshotState::Committed(standing)) if standing.runs != root.runs => {
                Err(Error::Conflict { object: names::snapshot_key(snapshot) })
            }
            _ => result,
        }
    }
}

fn add(total: &mut Statistics, more: Statistics) {
    total.written_bytes += more.written_bytes;
    total.fetched_bytes += more.fetched_bytes;
}
