//! Writing a snapshot anew whose root is lost: from a cut on the node, or from the mirror.
//!
//! # Crash consistency
//! Where a damaged root stands, collectors delete nothing, since it might refer to anything; so packs and runs are put
//! under a fresh upload and the root is replaced in one step. Where nothing stands, the snapshot is undecided like any
//! other: the upload is entered in an intent first, and the root created last.
//!
//! # Invariants
//! All of the snapshot is found, or nothing is written at its key. What looks like a damaged tombstone is left alone: a
//! deleted snapshot must not come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Repair,
    copies::Copies,
    level::{Level, Stock},
    recover::Recovery,
    replace::read_back,
    report::{Mended, Outcome},
    sources::LocalImage,
};
use crate::{
    Error, Result,
    block::Blocks,
    fault::Fault,
    hydrate::Lost,
    id::{SnapshotId, UploadId, VolumeId},
    record::{
        intent::Attempt,
        snapshot::{Method, Root, SnapshotDescription, SnapshotStatistics},
    },
    repository::{Found, names},
};

impl Repair<'_> {
    /// Finds the snapshots whose roots are damaged, and those that the sources know and that are missing here. One that
    /// was deleted has a tombstone and is not missing.
    pub(super) async fn lost_snapshots(&self) -> Result<BTreeSet<SnapshotId>> {
        let mut lost: BTreeSet<SnapshotId> = self.findings.lost_roots.keys().copied().collect();
        // Mirrors and pools may serve others too; the ids of this repository's volumes are made with its own key.
        let is_ours = |cut: &&SnapshotDescription| self.repository.volume_id(&cut.volume_name) == cut.volume;
        let cuts = self.sources.images.iter().filter(|image| image.was_committed()).filter_map(LocalImage::cut);
        let mut known: BTreeSet<SnapshotId> = cuts.filter(is_ours).map(|cut| cut.id).collect();
        if let Some(mirror) = &self.sources.mirror {
            let roots = mirror.readable_snapshots().await?.roots;
            known.extend(roots.iter().map(|root| &root.description).filter(is_ours).map(|root| root.id));
        }
        let standing: BTreeSet<SnapshotId> =
            self.repository.list_ids::<SnapshotId>(names::SNAPSHOTS).await?.into_iter().map(|(id, _)| id).collect();
        lost.extend(known.difference(&standing));
        Ok(lost)
    }

    /// Writes a snapshot anew.
    pub(super) async fn rebuild(&self, snapshot: SnapshotId) -> Result<Mended> {
        let (found, version) = self.repository.find_snapshot(snapshot).await?;
        let object = names::snapshot_key(snapshot);
        let fault = match found {
            Found::Damaged { fault, tombstone: false } => fault,
            Found::Damaged { fault, tombstone: true } => {
                let reason = format!("{}; it looks like a tombstone: delete the snapshot again", fault.reason);
                return Ok(unchanged(snapshot, None, Fault { reason, ..fault }, 0));
            }
            Found::Absent => Fault { object, reason: "it is missing".into() },
            // Somebody was faster.
            Found::Root(root) => return Ok(settled(snapshot, Some(root.description.volume), Outcome::Whole)),
            Found::Gone => return Ok(settled(snapshot, None, Outcome::Gone)),
        };
        let Some(description) = self.sources.description(snapshot).await? else {
            return Ok(unchanged(snapshot, None, fault, 0));
        };
        let (volume, capacity_bytes) = (description.volume, description.capacity_bytes);
        let (repository, dry_run) = (self.repository, self.options.dry_run);
        let upload = UploadId::from_bytes(repository.seams().random());
        let replicas = self.sources.replicas(snapshot, volume, &self.worker).await?;
        let recovery = Recovery {
            repository,
            losses: &BTreeMap::new(),
            copies: &Copies::new(),
            replicas: &replicas,
            tables: &self.tables,
            worker: &self.worker,
            progress: &self.progress,
        };
        let capacity = Blocks::from_bytes(capacity_bytes).unwrap_or_default();
        let cause = Arc::new(fault.clone());
        self.progress.add_total(capacity_bytes);
        if version.is_none() && !dry_run {
            // An intent cannot be taken back, so that it is tried before whether all is there.
            let mut stock = Stock::new(upload);
            let tried = recovery.whole(capacity, &cause, &mut Level::new(repository, &mut stock, true)).await?;
            if tried.unknown {
                return Ok(unchanged(snapshot, Some(volume), fault, capacity_bytes));
            }
            let started_at = repository.seams().clock.now();
            let attempt = Attempt { upload, node: self.options.node.clone(), pins: Vec::new(), started_at };
            repository.enter_attempt(snapshot, volume, &attempt).await?;
        }
        let mut stock = Stock::new(upload);
        let mut level = Level::new(repository, &mut stock, dry_run).oldest();
        let account = recovery.whole(capacity, &cause, &mut level).await?;
        if account.unknown {
            return Ok(unchanged(snapshot, Some(volume), fault, capacity_bytes));
        }
        if dry_run {
            return Ok(account.summary(snapshot, Some(volume)));
        }
        let (taken, data_bytes) = (level.taken, level.data().bytes());
        let root = Root {
            description,
            upload,
            method: Method::Full,
            base: None,
            runs: level.runs,
            pending: Vec::new(),
            repaired_at: Some(repository.seams().clock.now()),
            statistics: SnapshotStatistics {
                changed_bytes: capacity_bytes,
                read_bytes: capacity_bytes,
                stored_bytes: taken.stored_bytes,
                uploaded_bytes: taken.uploaded_bytes,
                data_bytes,
                chunks: taken.chunks,
                packs: taken.packs,
                ..SnapshotStatistics::default()
            },
        };
        read_back(repository, &level.packs, root.runs.iter()).await?;
        let put = match version {
            Some(version) => repository.replace_root(&root, &version).await.map(drop),
            None => repository.commit_root(&root).await,
        };
        match put {
            Ok(()) => {}
            Err(Error::Conflict { .. } | Error::Cancelled { .. }) => {
                return Ok(match repository.find_snapshot(snapshot).await?.0 {
                    Found::Root(_) => settled(snapshot, Some(volume), Outcome::Whole),
                    Found::Gone => settled(snapshot, Some(volume), Outcome::Gone),
                    Found::Absent | Found::Damaged { .. } => unchanged(snapshot, Some(volume), fault, capacity_bytes),
                });
            }
            Err(error) => return Err(error),
        }
        repository.remove_intent(snapshot).await?;
        Ok(account.summary(snapshot, Some(volume)))
    }
}

/// What is said of a snapshot of which nothing was found.
fn unchanged(snapshot: SnapshotId, volume: Option<VolumeId>, fault: Fault, length: u64) -> Mended {
    let Fault { object, reason } = fault;
    let lost = vec![Lost { start: 0, length, object, reason }];
    Mended { snapshot, volume, outcome: Outcome::Unchanged, recovered: Vec::new(), lost }
}

/// What is said of a snapshot that others have dealt with.
fn settled(snapshot: SnapshotId, volume: Option<VolumeId>, outcome: Outcome) -> Mended {
    Mended { snapshot, volume, outcome, recovered: Vec::new(), lost: Vec::new() }
}
