//! Repair: bringing back what is damaged from wherever it can be had.
//!
//! ```text
//! check      what is damaged, and which parts of which snapshots that takes
//! [sources]  images on the node, and a mirror
//! [copies]   the same chunks in other packs of the repository
//! [recover]  for each lost part the first source that has the right bytes
//! [level]    new packs of what was found, and one level that says where it belongs
//! [replace]  the level takes its place above those of the root
//! [rebuild]  a root that is lost itself is written anew, with all that the snapshot holds
//! ```
//!
//! # Crash consistency
//! A root is replaced in two steps (decision 0011): first the runs that are to take over are added as `pending`, which
//! readers ignore and collectors keep; and only when `repacking` is proven to be still this repair's, so that nothing of
//! what was put can have been found dead, they take the place of `runs`. A crash leaves a root as it was, or with `pending`
//! in it, which the next repair takes out.
//!
//! # Concurrency
//! Whoever takes `repacking` over makes the repair start again with that snapshot. A root that is deleted or changed
//! meanwhile is left to whoever did it, or looked at anew.
//!
//! # Invariants
//! What could be restored before can be restored after: a new level covers lost blocks alone, and everything was read back
//! before a root speaks of it. One upload is used at most once for a level of a root.

mod copies;
mod level;
mod rebuild;
mod recover;
mod replace;
mod report;
mod sources;

use tokio_util::sync::CancellationToken;

pub use report::{Mended, Outcome, Proof, Recovered, Report};
pub use sources::{LocalImage, Sources};

use crate::{
    Error, Repository, Result,
    check::{self, Findings},
    pack::TableCache,
    progress::Progress,
    work::Worker,
};
use copies::Copies;
use level::Stock;

/// How often one snapshot is taken up again because others changed what a repair builds upon.
const ROUNDS: usize = 4;

/// What to repair, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// How deep to look for damage.
    pub level: check::Level,
    /// Say what would be done and change nothing.
    pub dry_run: bool,
    /// Who repairs; for people.
    pub node: String,
}

/// A repair under way.
struct Repair<'a> {
    repository: &'a Repository,
    sources: &'a Sources,
    options: Options,
    progress: Progress,
    worker: Worker,
    findings: Findings,
    copies: Copies,
    tables: TableCache,
    /// What was written under the `repacking` that is held.
    stock: Option<Stock>,
}

impl Repository {
    /// Checks the repository, and brings back what is damaged: from other copies of the chunk in it, from images on the
    /// node, and from a mirror. What cannot be brought back stays as it is, and is named.
    ///
    /// # Errors
    /// Those of the stores, `Interrupted`, and `Corrupt` where the store does not give back what was put a moment ago.
    ///
    /// # Cancellation
    /// By the token, at any point; the next repair begins anew.
    pub async fn repair(
        &self,
        sources: &Sources,
        options: Options,
        progress: Progress,
        cancel: CancellationToken,
    ) -> Result<Report> {
        let findings = self.find_damage(options.level.into(), progress.clone(), cancel.clone()).await?;
        let repair = Repair {
            repository: self,
            sources,
            options,
            progress,
            worker: Worker::new(self.seams().work),
            findings,
            copies: Copies::new(),
            tables: TableCache::default(),
            stock: None,
        };
        cancel.run_until_cancelled(Box::pin(repair.run())).await.unwrap_or(Err(Error::Interrupted))
    }
}

impl Repair<'_> {
    async fn run(mut self) -> Result<Report> {
        let mut hurt = self.findings.report.hurt_snapshots();
        hurt.retain(|snapshot| !self.findings.lost_roots.contains_key(snapshot));
        // One that lists a damaged run stands in the collector's way, even where newer runs hide the damage.
        let damaged = &self.findings.damaged_runs;
        let listing = self.findings.roots.iter().filter(|root| root.runs.iter().any(|run| damaged.contains(&run.id)));
        hurt.extend(listing.map(|root| root.description.id));
        self.copies = copies::find(self.repository, &self.findings, &hurt).await?;

        let mut report =
            Report { dry_run: self.options.dry_run, found: self.findings.report.clone(), snapshots: Vec::new() };
        for snapshot in &hurt {
            report.snapshots.push(self.mend(*snapshot).await?);
        }
        for snapshot in self.lost_snapshots().await? {
            report.snapshots.push(self.rebuild(snapshot).await?);
        }
        report.snapshots.sort_unstable_by_key(|mended| mended.snapshot);
        if !self.options.dry_run {
            self.forget_pending().await?;
            if let Some(stock) = self.stock.take() {
                self.repository.give_up_repacking(stock.upload).await?;
            }
        }
        Ok(report)
    }

    /// Takes out of roots what repairs have left there that did not come to their end.
    async fn forget_pending(&self) -> Result<()> {
        for root in self.findings.roots.iter().filter(|root| !root.pending.is_empty()) {
            self.take_pending_out(root.description.id).await?;
        }
        Ok(())
    }
}
