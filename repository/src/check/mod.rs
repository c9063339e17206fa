//! Check: whether everything that the roots refer to is there and whole.
//!
//! ```text
//! [records]  the repository, volumes, intents, roots      each opens
//! [runs]     each run once: index and every page          each matches the root
//! [packs]    each pack once: there, its table, its chunks each matches the runs
//! [hurt]     which bytes of which snapshots damage takes   only where there is damage
//! ```
//!
//! Damage is what a check is for: it is noted and the check goes on. Only a store that does not answer ends one.
//!
//! # Invariants
//! A snapshot that is named by no damage restores, as far as the level looked. Memory: references to all runs and packs
//! (some 100 bytes each), what is damaged, and a few reads under way.
//!
//! # Concurrency
//! What is written meanwhile may or may not be seen. A snapshot that is deleted while its packs are being read, and
//! collected at once, can show as damaged; checking again settles it.

mod hurt;
mod packs;
mod records;
mod runs;

use std::collections::BTreeMap;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Repository, Result,
    id::{SnapshotId, VolumeId},
    progress::Progress,
};

/// Objects read at once.
const READS: usize = 8;

/// How deep to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Records and runs are readable and refer to one another rightly.
    Structure,
    /// Also every pack is there, of the right size, and its table is whole.
    Presence,
    /// Also every chunk decrypts, decompresses and hashes to its id.
    Content,
}

/// A damaged object, and what it hurts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The object's key in the bucket.
    pub object: String,
    /// What does not fit; the first such thing where there are several.
    pub reason: String,
    /// The snapshots that it hurts, and the byte ranges of each (start, length); no range where all of it is hurt.
    pub hurt: Vec<Hurt>,
}

/// What a damaged object takes from one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hurt {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its volume; absent where the damaged object is the root, which would name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeId>,
    /// Byte ranges (start, length) of the volume that cannot be restored, ascending. Where there are very many,
    /// neighbouring ones are given as one.
    pub ranges: Vec<(u64, u64)>,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Roots checked.
    pub snapshots: u64,
    /// Runs checked.
    pub runs: u64,
    /// Packs checked; 0 below [`Level::Presence`].
    pub packs: u64,
    /// Chunks checked; 0 below [`Level::Content`].
    pub chunks: u64,
    /// Bytes of runs and packs read from the store.
    pub read_bytes: u64,
    /// Everything damaged, ordered by key; empty when the repository is whole.
    pub damages: Vec<Damage>,
}

/// A check under way.
struct Check<'a> {
    repository: &'a Repository,
    level: Level,
    progress: Progress,
    report: Report,
    /// What was found damaged, by key.
    damages: BTreeMap<String, Damage>,
}

impl Repository {
    /// Checks the repository down to a level.
    ///
    /// # Errors
    /// The store's, or `Interrupted`; damage is no error but part of the report.
    pub async fn check(&self, level: Level, progress: Progress, cancel: CancellationToken) -> Result<Report> {
        let check = Check { repository: self, level, progress, report: Report::default(), damages: BTreeMap::new() };
        cancel.run_until_cancelled(Box::pin(check.run())).await.unwrap_or(Err(Error::Interrupted))
    }
}

impl Check<'_> {
    async fn run(mut self) -> Result<Report> {
        let roots = self.check_records().await?;
        self.report.snapshots = roots.len() as u64;
        let runs = self.check_runs(&roots).await?;
        let damaged = if self.level >= Level::Presence { self.check_packs(&runs).await? } else { BTreeMap::new() };
        self.attribute(&roots, &runs, &damaged).await?;
        self.report.damages = self.damages.into_values().collect();
        Ok(self.report)
    }

    /// Notes that an object is damaged; what is said of it first stands.
    fn note(&mut self, fault: Fault) -> &mut Damage {
        let Fault { object, reason } = fault;
        self.damages.entry(object.clone()).or_insert(Damage { object, reason, hurt: Vec::new() })
    }
}

/// What is wrong with an object.
#[derive(Clone, Debug)]
struct Fault {
    object: String,
    reason: String,
}

impl Fault {
    /// Takes an error that says that an object is damaged; passes any other on.
    fn of(error: Error) -> Result<Self> {
        match error {
            Error::Corrupt { object, reason } => Ok(Self { object, reason }),
            // A bit of the version may have flipped; and what this program cannot read, it cannot restore.
            Error::FutureFormat { object, found, .. } => {
                Ok(Self { object, reason: format!("it has format version {found}, which this program does not read") })
            }
            error => Err(error),
        }
    }

    /// Sorts a result into what was read and what is wrong.
    fn sort<T>(result: Result<T>) -> Result<Result<T, Self>> {
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(error) => Self::of(error).map(Err),
        }
    }
}
