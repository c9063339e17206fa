//! The scan: who holds what, read in the order that makes it safe to call the rest garbage.
//!
//! ```text
//! L    names in packs/, runs/, relocated/     only these can be found to be garbage
//! R1   all roots
//! I    all intents, and repacking
//! M    relocation records
//! R2   all roots again; new or changed ones are read
//! ```
//!
//! Whatever is held between R1 and I by a root was seen by R1, or, where it was committed behind R1, is seen by R2; whatever
//! is held by an intent was seen by I, or the snapshot was decided and R2 sees that. A tombstone in R2 of a snapshot that
//! R1 did not show may have been a root in between: then it is done again.
//!
//! So it is where a run that was found to be held turns out to be missing when it is read. Whoever held it may have gone since,
//! and what it spoke of may be held by a root that is newer than R2, through another run. Only a run that was seen to be
//! missing before R1 holds nothing.
//!
//! Before R1 `repacking` is read once more: a repair adds runs to a root that R1 may have read before, and the root may be
//! gone by R2, when an offload that I came too early for has pinned them. But these runs were put before L, under a
//! `repacking` that either still stands behind L, or was proven before, so that R1 saw what was added.

use std::{collections::BTreeSet, str::FromStr, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    Error, ErrorKind, Repository, Result,
    id::{PackId, RunId, SnapshotId},
    mutation::Mutation,
    pack::PackReference,
    record::{intent::Intent, repacking::Repacking, snapshot::Root},
    repository::names::{PACKS, RELOCATED, RUNS, UPLOADS},
};

/// How often a scan is done again before the collection gives up.
pub(super) const ROUNDS: usize = 8;

/// Records read at once.
const READS: usize = 64;

/// What is in the store: ids and sizes in bytes, in the ids' order.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) packs: Vec<(PackId, u64)>,
    pub(super) runs: Vec<(RunId, u64)>,
    pub(super) relocations: Vec<(PackId, u64)>,
}

/// What stands at each snapshot's key, in the ids' order.
pub(super) type Standings = Vec<(SnapshotId, Result<Option<Arc<Root>>>)>;

/// A pack that chunks of a repacked one are in.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownTarget {
    pub(super) pack: PackReference,
    pub(super) proven: bool,
}

/// Where the chunks of a repacked pack are.
#[derive(Debug)]
pub(super) struct KnownRelocation {
    pub(super) pack: PackId,
    /// The targets, newest first, or why they cannot be told.
    pub(super) targets: Result<Vec<KnownTarget>>,
}

/// Everything that may hold something, and everything that may be garbage.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) listing: Listing,
    pub(super) earlier: Standings,
    pub(super) later: Standings,
    /// With their sizes in bytes; one that cannot be read is an error in its own place.
    pub(super) intents: Vec<(SnapshotId, u64, Result<Intent>)>,
    /// What stood before the roots were read, and with the intents.
    pub(super) repacking: Result<Vec<Repacking>>,
    /// In the packs' order.
    pub(super) relocations: Vec<KnownRelocation>,
    /// Whether it came to an end that says what is garbage.
    pub(super) settled: bool,
}

impl Scan {
    /// Scans.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn of(repository: &Repository) -> Result<Self> {
        Self::behind(list(repository).await?, repository).await
    }

    /// Does all but the listing again.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn again(self, repository: &Repository) -> Result<Self> {
        Self::behind(self.listing, repository).await
    }

    async fn behind(mut listing: Listing, repository: &Repository) -> Result<Self> {
        let mutation = |way| repository.seams().broken(way);
        let mut rounds = 0;
        loop {
            rounds += 1;
            let repacked_before = damage_in_place(repository.repacking().await)?;
            let earlier = repository.standings().await?;
            let intents = intents(repository).await?;
            let repacked_since = damage_in_place(repository.repacking().await)?;
            let relocations = relocations(repository).await?;
            let later = if mutation(Mutation::NoRecheck) { again(&earlier) } else { repository.standings().await? };
            if mutation(Mutation::ListsLast) {
                listing = list(repository).await?;
            }
            let settled = settled(&earlier, &later);
            if settled || rounds == ROUNDS {
                let both = repacked_before.and_then(|before| Ok([before, repacked_since?]));
                let repacking = both.map(|both| {
                    let mut both: Vec<Repacking> = both.into_iter().flatten().map(|standing| standing.value).collect();
                    both.dedup();
                    both
                });
                return Ok(Self { listing, earlier, later, intents, repacking, relocations, settled });
            }
            tracing::debug!(rounds, "snapshots were decided and deleted during the scan: looking again");
        }
    }
}

/// Tells whether everything that was a root between the two readings is in one of them.
fn settled(earlier: &Standings, later: &Standings) -> bool {
    let shown: BTreeSet<SnapshotId> = earlier.iter().map(|(id, _)| *id).collect();
    later.iter().all(|(id, standing)| !matches!(standing, Ok(None)) || shown.contains(id))
}

/// What is left of the second reading where it is left out on purpose.
fn again(standings: &Standings) -> Standings {
    standings.iter().filter_map(|(id, standing)| Some((*id, Ok(standing.as_ref().ok()?.clone())))).collect()
}

async fn list(repository: &Repository) -> Result<Listing> {
    let (packs, runs, relocations) =
        futures::try_join!(sizes(repository, PACKS), sizes(repository, RUNS), sizes(repository, RELOCATED))?;
    Ok(Listing { packs, runs, relocations })
}

/// Lists a folder without keeping the names as text.
async fn sizes<I: FromStr + Ord>(repository: &Repository, folder: &str) -> Result<Vec<(I, u64)>> {
    let mut listed: Vec<(I, u64)> = repository
        .store()
        .list(folder)
        .try_filter_map(async |entry| {
            let id = entry.key.strip_prefix(folder).and_then(|name| name.parse().ok());
            Ok(id.map(|id| (id, entry.size)))
        })
        .try_collect()
        .await?;
    listed.sort_unstable();
    listed.dedup_by(|(later, _), (earlier, _)| later == earlier);
    listed.shrink_to_fit();
    Ok(listed)
}

async fn intents(repository: &Repository) -> Result<Vec<(SnapshotId, u64, Result<Intent>)>> {
    let listed = repository.list_ids::<SnapshotId>(UPLOADS).await?;
    stream::iter(listed)
        .map(async |(id, entry)| {
            let read = damage_in_place(repository.read_intent(id).await)?;
            // One that is gone was of a snapshot that is decided.
            Ok(read.map_or_else(
                |error| Some((id, entry.size, Err(error))),
                |intent| intent.map(|intent| (id, entry.size, Ok(intent.value))),
            ))
        })
        .buffered(READS)
        .try_filter_map(async |intent| Ok(intent))
        .try_collect()
        .await
}

async fn relocations(repository: &Repository) -> Result<Vec<KnownRelocation>> {
    let listed: Vec<(PackId, u64)> = sizes(repository, RELOCATED).await?;
    stream::iter(listed)
        .map(async |(pack, _)| {
            let read = damage_in_place(repository.relocation(pack).await)?;
            let targets = match read {
                Ok(Some(relocation)) => {
                    let targets = relocation.value.targets.iter().filter_map(|target| {
                        // The record was validated, so that each is well formed.
                        Some(KnownTarget { pack: target.reference().ok()?, proven: target.proven })
                    });
                    Ok(targets.collect())
                }
                // One that is gone is of a pack that nobody held.
                Ok(None) => return Ok(None),
                Err(error) => Err(error),
            };
            Ok(Some(KnownRelocation { pack, targets }))
        })
        .buffered(READS)
        .try_filter_map(async |relocation| Ok(relocation))
        .try_collect()
        .await
}

/// Parts a result into what was read or is damaged, and what stops the scan.
pub(super) fn damage_in_place<T>(result: Result<T>) -> Result<Result<T>> {
    match result {
        Err(error) if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => Err(error),
        read => Ok(read),
    }
}

/// Says what is wrong with an object that cannot be read.
pub(super) fn reason(error: &Error) -> String {
    match error {
        Error::Corrupt { reason, .. } => reason.clone(),
        error => error.to_string(),
    }
}
