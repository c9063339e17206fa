//! Statistics of a repository, from its roots and listings alone: no pack is read.

use std::str::FromStr;

use futures::TryStreamExt;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    Repository, Result,
    id::{PackId, RunId, SnapshotId, VolumeId},
    repository::names,
};

/// Counts and sizes; bytes throughout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The repository's identity.
    pub uuid: Uuid,
    /// Volume records.
    pub volumes: u64,
    /// Committed snapshots.
    pub snapshots: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Offloads under way.
    pub uploads: u64,
    /// Packs, referenced or not.
    pub packs: u64,
    /// Bytes of all packs as stored.
    pub pack_bytes: u64,
    /// Packs that were repacked into others and are still referred to, or were when they were last collected.
    pub relocations: u64,
    /// Runs, referenced or not.
    pub runs: u64,
    /// Bytes of all runs as stored.
    pub run_bytes: u64,
    /// Sum over snapshots of the volume's size at the cut.
    pub logical_bytes: u64,
    /// Sum over snapshots of what each added before compression.
    pub stored_bytes: u64,
}

impl Repository {
    /// Counts what is there.
    ///
    /// Objects come and go while it counts; each number is right for some moment of the call.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub async fn stats(&self) -> Result<Stats> {
        let (volumes, uploads, standing, packs, relocations, runs, roots) = futures::try_join!(
            self.list_ids::<VolumeId>(names::VOLUMES),
            self.list_ids::<SnapshotId>(names::UPLOADS),
            self.list_ids::<SnapshotId>(names::SNAPSHOTS),
            self.total::<PackId>(names::PACKS),
            self.total::<PackId>(names::RELOCATED),
            self.total::<RunId>(names::RUNS),
            self.snapshots(),
        )?;
        let snapshots = count(roots.len());
        // Both listings are in the ids' order. An intent may stay behind for a moment after its snapshot is decided.
        let is_decided = |id: &SnapshotId| standing.binary_search_by_key(id, |(id, _)| *id).is_ok();
        Ok(Stats {
            uuid: self.uuid(),
            volumes: count(volumes.len()),
            snapshots,
            tombstones: count(standing.len()).saturating_sub(snapshots),
            uploads: count(uploads.iter().filter(|(id, _)| !is_decided(id)).count()),
            packs: packs.objects,
            pack_bytes: packs.bytes,
            relocations: relocations.objects,
            runs: runs.objects,
            run_bytes: runs.bytes,
            logical_bytes: roots.iter().map(|root| root.description.capacity_bytes).sum(),
            stored_bytes: roots.iter().map(|root| root.statistics.stored_bytes).sum(),
        })
    }

    /// Counts a folder's objects that are named by ids, without holding their names.
    async fn total<I: FromStr>(&self, folder: &str) -> Result<Total> {
        self.store()
            .list(folder)
            .try_fold(Total::default(), async |total, entry| {
                let named = entry.key.strip_prefix(folder).is_some_and(|name| name.parse::<I>().is_ok());
                if !named {
                    return Ok(total);
                }
                Ok(Total { objects: total.objects + 1, bytes: total.bytes + entry.size })
            })
            .await
    }
}

#[derive(Clone, Copy, Default)]
struct Total {
    objects: u64,
    bytes: u64,
}

fn count(length: usize) -> u64 {
    u64::try_from(length).expect("a length fits 64 bits")
}
