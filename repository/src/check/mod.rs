//! Check: whether everything that the roots refer to is there and whole.
//!
//! ```text
//! [records]  the repository, volumes, intents, roots      each opens
//! [runs]     each run once: index and every page          each matches the root
//! [packs]    each pack once: there, its table, its chunks each matches the runs; or where it was repacked to
//! [hurt]     which bytes of which snapshots damage takes   only where there is damage
//! [pass]     what was looked at already                    a file of the operator's
//! ```
//!
//! Damage is what a check is for: it is noted and the check goes on. Only a store that does not answer ends one.
//!
//! # Invariants
//! A snapshot that is named by no damage restores, as far as the level looked. Memory: references to all runs and packs
//! (some 100 bytes each), what is damaged, and the reads under way: 4 MiB for each, two for each core.
//!
//! # Concurrency
//! What is written meanwhile may or may not be seen. A snapshot that is deleted while its packs are being read, and
//! collected at once, can show as damaged; checking again settles it.

mod hurt;
mod options;
mod packs;
mod pass;
mod records;
mod relocated;
mod report;
mod runs;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use tokio_util::sync::CancellationToken;

pub use options::{Level, Options, Percent};
use pass::Pass;
pub use report::{Coverage, Damage, Hurt, PassReport, Report};

pub(crate) use packs::{Loss, read_back as read_pack_back};
pub(crate) use runs::read_back as read_run_back;

use crate::{
    Error, Repository, Result,
    fault::Fault,
    id::{RunId, SnapshotId},
    pack::PackReference,
    progress::Progress,
    record::snapshot::Root,
    work::Worker,
};

/// Objects read at once.
const READS: usize = 8;

/// All that a check knows in the end; a repair goes on from here.
pub(crate) struct Findings {
    pub(crate) report: Report,
    /// The roots that can be read, ordered by id.
    pub(crate) roots: Vec<Arc<Root>>,
    /// Those that cannot.
    pub(crate) lost_roots: BTreeMap<SnapshotId, Fault>,
    /// What is lost of which pack.
    pub(crate) losses: BTreeMap<PackReference, Loss>,
    /// Every pack that a run refers to.
    pub(crate) packs: BTreeSet<PackReference>,
    /// Runs of which some pages, or all, cannot be read.
    pub(crate) damaged_runs: HashSet<RunId>,
}

/// A check under way.
struct Check<'a> {
    repository: &'a Repository,
    level: Level,
    sample: Option<Percent>,
    pass: Option<&'a mut Pass>,
    progress: Progress,
    report: Report,
    /// What was found damaged, by key.
    damages: BTreeMap<String, Damage>,
}

impl Repository {
    /// Checks the repository down to a level, whole or in part.
    ///
    /// # Errors
    /// The store's, `Interrupted`, `CheckState` for a state that is of something else, and `Local` where it cannot be
    /// written; damage is no error but part of the report.
    ///
    /// # Cancellation
    /// By the token. What was looked at until then is in the state that the options name.
    pub async fn check(
        &self,
        options: impl Into<Options>,
        progress: Progress,
        cancel: CancellationToken,
    ) -> Result<Report> {
        Ok(self.find_damage(options.into(), progress, cancel).await?.report)
    }

    /// Checks the repository, and returns what was found in full.
    pub(crate) async fn find_damage(
        &self,
        options: Options,
        progress: Progress,
        cancel: CancellationToken,
    ) -> Result<Findings> {
        let Options { level, sample, resume } = options;
        let worker = Worker::new(self.seams().work);
        let mut pass = match resume {
            Some(path) => Some(Pass::open(path, self, level, &worker).await?),
            None => None,
        };
        let check = Check {
            repository: self,
            level,
            sample,
            pass: pass.as_mut(),
            progress,
            report: Report { level, ..Report::default() },
            damages: BTreeMap::new(),
        };
        let result = cancel.run_until_cancelled(Box::pin(check.run())).await.unwrap_or(Err(Error::Interrupted));
        if let Some(pass) = pass {
            // A save under way when the check was cancelled must not end after this one.
            worker.finish().await;
            let complete = result.as_ref().is_ok_and(|found| found.report.pass.is_some_and(|pass| pass.complete));
            pass.end(complete, &worker).await?;
        }
        result
    }
}

impl Check<'_> {
    async fn run(mut self) -> Result<Findings> {
        let (roots, lost_roots) = self.check_records().await?;
        self.report.snapshots = roots.len() as u64;
        let listed = if self.level >= Level::Presence { Some(self.list_packs().await?) } else { None };
        let mut runs = self.check_runs(&roots, listed.as_ref()).await?;
        let losses = match &listed {
            Some(listed) => self.check_packs(&mut runs, listed).await?,
            None => BTreeMap::new(),
        };
        self.attribute(&roots, &runs, &losses).await?;
        self.report.damages = self.damages.into_values().collect();
        let packs = runs.packs.into_keys().collect();
        Ok(Findings { report: self.report, roots, lost_roots, losses, packs, damaged_runs: runs.damaged })
    }

    /// Notes that an object is damaged; what is said of it first stands.
    fn note(&mut self, fault: Fault) -> &mut Damage {
        let Fault { object, reason } = fault;
        self.damages.entry(object.clone()).or_insert(Damage { object, reason, hurt: Vec::new() })
    }
}
