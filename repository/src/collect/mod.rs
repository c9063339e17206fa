//! Collection: finding what nobody refers to, deleting it, and repacking what is mostly dead.
//!
//! ```text
//! [scan]    names, roots, intents, relocation records, roots again      in this order
//! [reach]   the runs of all of them, each read once                     which chunk of which pack is alive
//! [plan]    what is garbage, and why; what is worth repacking
//! [sweep]   deletions
//! [repack]  live chunks copied together, readers sent on, old packs deleted
//! ```
//!
//! # Concurrency
//! Any number of machines may write, delete and collect meanwhile, without a lock, a clock or a pause. Why that is safe is
//! said in decision 0011: what nobody holds stays unheld, so that a deletion may come as late as it likes.
//!
//! # Crash consistency
//! There is no state but the store's. A collection that ends anywhere leaves garbage that the next one finds.
//!
//! # Invariants
//! Nothing is deleted that anything seen by the scan holds. What cannot be read might hold anything: nothing is deleted then
//! but what is garbage in spite of it. Deletions come before copies, so that a full store is no obstacle.
//!
//! Memory: 24 bytes for each pack, run and relocation record in the store; some 150 bytes for each pack that is referred to
//! and one bit for each of its chunks; some 300 bytes for each run; the roots. Ten million chunks in 40,000 packs take 10 MiB
//! beside the roots. A repacking holds two packs, and the tables of a batch.
//!
//! # Cancellation
//! By the token, or by dropping the future, at any point.

mod copy;
mod plan;
mod reach;
mod repack;
mod report;
mod runs;
mod scan;
mod sweep;

use tokio_util::sync::CancellationToken;

pub use report::{
    Amount, Garbage, Held, Kept, Kind, Plan, Reason, Repack, Repacked, Report, UndecidedAttempt, UndecidedIntent,
    Unreadable,
};

use crate::{Error, ErrorKind, Repository, Result, id::UploadId, progress::Progress};
use plan::Findings;
use repack::Repacking;

/// What a collection is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether packs are repacked.
    pub repack: bool,
    /// Packs of which less than this is alive are repacked, in per cent of their chunks.
    pub threshold: u8,
    /// Most bytes to copy.
    pub repack_bytes: u64,
    /// Who collects; for people.
    pub node: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { repack: true, threshold: 50, repack_bytes: u64::MAX, node: "unknown".into() }
    }
}

impl Repository {
    /// Finds what a collection would delete and repack, and changes nothing.
    ///
    /// # Errors
    /// The store's, or `Interrupted`. What cannot be read is no error but part of the plan.
    pub async fn plan_collection(
        &self,
        options: &Options,
        progress: Progress,
        cancel: CancellationToken,
    ) -> Result<Plan> {
        let find = Box::pin(async {
            let before = self.store().requests();
            let mut findings = Findings::of(self, options, None, &progress).await?;
            findings.plan.cost = self.store().requests() - before;
            Ok(findings.plan)
        });
        cancel.run_until_cancelled(find).await.unwrap_or(Err(Error::Interrupted))
    }

    /// Deletes what nobody refers to, and repacks what is mostly dead.
    ///
    /// # Errors
    /// The store's, or `Interrupted`: the next collection does what this one did not. What cannot be read, what the store
    /// refuses to delete, and a store too full for copies are no errors but part of the report.
    pub async fn collect(&self, options: &Options, progress: Progress, cancel: CancellationToken) -> Result<Report> {
        let collect = Box::pin(self.collect_all(options, &progress));
        cancel.run_until_cancelled(collect).await.unwrap_or(Err(Error::Interrupted))
    }

    async fn collect_all(&self, options: &Options, progress: &Progress) -> Result<Report> {
        let before = self.store().requests();
        // Taken before the scan, so that what a crashed repacker left behind is not held by it any more.
        let taken = if options.repack { self.try_repacking(&options.node).await? } else { None };
        let findings = Findings::of(self, options, taken, progress).await?;
        let mut report = Report { plan: findings.plan.clone(), ..Report::default() };
        report.plan.cost = self.store().requests() - before;
        sweep::sweep(self, &findings, &mut report).await?;
        // The sweep may have made the room that was missing.
        let upload = match taken {
            None if !findings.units.is_empty() => self.try_repacking(&options.node).await?,
            taken => taken,
        };
        match upload {
            Some(upload) => {
                let mut repacking = Repacking::new(self, &findings, upload, taken.is_some(), progress);
                repacking.run().await?;
                report.repacked = repacking.repacked;
                report.locked += repacking.locked;
                self.give_up_repacking(upload).await?;
            }
            None if !findings.units.is_empty() => report.repacked.stopped = Some(repack::FULL.into()),
            None => {}
        }
        self.restore_reserve().await?;
        report.cost = self.store().requests() - before;
        Ok(report)
    }

    /// Takes `repacking` over; `None` where there is no room for it.
    async fn try_repacking(&self, node: &str) -> Result<Option<UploadId>> {
        match self.take_repacking(node).await {
            Err(error) if error.kind() == ErrorKind::Full => Ok(None),
            taken => taken.map(Some),
        }
    }
}
