//! Mending a snapshot whose root can be read: what was brought back becomes its newest level.
//!
//! Where the root lists damaged runs, and all that they covered was brought back, everything is merged into one new level
//! instead, so that nothing refers to them any more.

use object_store::UpdateVersion;

use super::{
    ROUNDS, Repair,
    level::{Level, Stock},
    recover::{Account, Recovery},
    report::{Mended, Outcome, Recovered},
};
use crate::{
    Error, Repository, Result,
    block::{BLOCK_SIZE, BlockRange, Blocks},
    check::{read_pack_back, read_run_back},
    fault::Fault,
    hydrate::Lost,
    id::{SnapshotId, UploadId, VolumeId},
    pack::PackReference,
    record::snapshot::{Root, RunReference},
    repository::{Found, names},
    run::{self, Origin, Place, View},
};

/// How an attempt at one snapshot ended.
enum Attempt {
    Done(Account),
    Gone,
    /// Somebody changed the root, or took `repacking` over.
    Again {
        takeover: bool,
    },
}

impl Repair<'_> {
    /// Brings back what a snapshot lost.
    pub(super) async fn mend(&mut self, snapshot: SnapshotId) -> Result<Mended> {
        for _ in 0..ROUNDS {
            let (Found::Root(root), Some(version)) = self.repository.find_snapshot(snapshot).await? else {
                break;
            };
            let volume = root.description.volume;
            match self.attempt(&root, &version).await? {
                Attempt::Done(account) => return Ok(account.summary(snapshot, Some(volume))),
                Attempt::Gone => break,
                // What was put under the upload that another has taken over from may vanish.
                Attempt::Again { takeover: true } => self.stock = None,
                Attempt::Again { takeover: false } => {}
            }
        }
        match self.repository.find_snapshot(snapshot).await? {
            (Found::Root(_), _) => Err(Error::Conflict { object: names::snapshot_key(snapshot) }),
            _ => Ok(Mended { snapshot, volume: None, outcome: Outcome::Gone, recovered: Vec::new(), lost: Vec::new() }),
        }
    }

    async fn attempt(&mut self, root: &Root, version: &UpdateVersion) -> Result<Attempt> {
        let (repository, dry_run) = (self.repository, self.options.dry_run);
        let snapshot = root.description.id;
        // Two levels of one root are never of one upload.
        let fits = |stock: &Stock| root.runs.iter().all(|run| run.id.upload() != stock.upload);
        let mut stock = match self.stock.take().filter(fits) {
            Some(stock) => stock,
            None if dry_run => Stock::new(UploadId::from_bytes(repository.seams().random())),
            None => Stock::new(repository.take_repacking(&self.options.node).await?),
        };
        let upload = stock.upload;
        let replicas = self.sources.replicas(snapshot, root.description.volume, &self.worker).await?;
        let recovery = Recovery {
            repository,
            losses: &self.findings.losses,
            copies: &self.copies,
            replicas: &replicas,
            tables: &self.tables,
            worker: &self.worker,
            progress: &self.progress,
        };
        let mut level = Level::new(repository, &mut stock, dry_run);
        let account = recovery.walk(root, &mut level).await?;
        let (mut runs, packs) = (std::mem::take(&mut level.runs), std::mem::take(&mut level.packs));
        self.stock = Some(stock);
        let damaged = root.runs.iter().any(|run| self.findings.damaged_runs.contains(&run.id));
        let merges = damaged && !account.unknown;
        if dry_run || (runs.is_empty() && !merges) {
            return Ok(Attempt::Done(account));
        }
        if merges {
            runs = self.merge(root, runs, upload).await?;
        } else {
            runs.extend(root.runs.iter().cloned());
        }
        read_back(repository, &packs, runs.iter().filter(|run| run.id.upload() == upload)).await?;
        match self.take_over(root, version, runs, upload).await {
            Ok(true) => Ok(Attempt::Done(account)),
            Ok(false) => Ok(Attempt::Again { takeover: true }),
            Err(Error::Conflict { .. }) => match repository.find_snapshot(snapshot).await? {
                (Found::Root(_), _) => Ok(Attempt::Again { takeover: false }),
                _ => Ok(Attempt::Gone),
            },
            Err(error) => Err(error),
        }
    }

    /// Merges a new level with all below it, and puts what comes of it.
    async fn merge(&self, root: &Root, newest: Vec<RunReference>, upload: UploadId) -> Result<Vec<RunReference>> {
        let stored = |runs: &[RunReference]| runs.iter().cloned().map(Origin::Stored).collect();
        let mut levels: Vec<Vec<Origin>> = vec![stored(&newest)];
        levels.extend(run::levels(&root.runs).map(stored));
        // What a lost run may have covered ends with the image: nothing was sought behind it.
        let capacity = Blocks(root.description.capacity_bytes.div_ceil(BLOCK_SIZE));
        let mut view = View::new(self.repository, levels, BlockRange { first: Blocks::ZERO, count: capacity });
        let mut writer = run::Writer::new(self.repository, upload);
        let mut runs = Vec::new();
        loop {
            let segment = view.next().await?;
            let ends = segment.is_none();
            if let Some(segment) = segment.filter(|segment| segment.place != Place::Zero) {
                writer.push(&segment)?;
            }
            if (ends || writer.is_full())
                && let Some(run::Finished { reference, bytes }) = writer.finish()
            {
                self.repository.store().put_new(&run::key(reference.id), bytes).await?;
                runs.push(reference);
            }
            if ends {
                return Ok(runs);
            }
        }
    }

    /// Adds the runs to the root, proves that they are held since they were put, and lets them take over. Tells whether
    /// they did; not where another has taken `repacking` over.
    async fn take_over(
        &self,
        root: &Root,
        version: &UpdateVersion,
        runs: Vec<RunReference>,
        upload: UploadId,
    ) -> Result<bool> {
        let repository = self.repository;
        let added = Root { pending: runs.clone(), ..root.clone() };
        let version = repository.replace_root(&added, version).await?;
        if !repository.proves_repacking(upload).await? {
            return Ok(false);
        }
        let repaired_at = Some(repository.seams().clock.now());
        let replaced = Root { runs, pending: Vec::new(), repaired_at, ..root.clone() };
        repository.replace_root(&replaced, &version).await?;
        Ok(true)
    }

    /// Takes out of a root what a repair was about to put in.
    pub(super) async fn take_pending_out(&self, snapshot: SnapshotId) -> Result<()> {
        let (Found::Root(root), Some(version)) = self.repository.find_snapshot(snapshot).await? else { return Ok(()) };
        if root.pending.is_empty() {
            return Ok(());
        }
        let without = Root { pending: Vec::new(), ..*root };
        match self.repository.replace_root(&without, &version).await {
            // Somebody is at it.
            Err(Error::Conflict { .. }) => Ok(()),
            result => result.map(drop),
        }
    }
}

/// Reads back what was put: no root is to speak of what the store does not give back.
///
/// # Errors
/// `Corrupt` where it does not, and the store's.
pub(super) async fn read_back(
    repository: &Repository,
    packs: &[PackReference],
    runs: impl Iterator<Item = &RunReference>,
) -> Result<()> {
    for pack in packs {
        read_pack_back(repository, *pack).await?.map_or(Ok(()), |fault| Err(Error::from(fault)))?;
    }
    for run in runs {
        read_run_back(repository, run).await?.map_or(Ok(()), |fault| Err(Error::from(fault)))?;
    }
    Ok(())
}

impl Account {
    /// Says what became of a snapshot.
    pub(super) fn summary(self, snapshot: SnapshotId, volume: Option<VolumeId>) -> Mended {
        let outcome = match (self.recovered.is_empty(), self.lost.is_empty()) {
            (_, true) => Outcome::Whole,
            (false, false) => Outcome::Partly,
            (true, false) => Outcome::Unchanged,
        };
        let recovered = self.recovered.into_bytes();
        let lost = self.lost.into_bytes();
        Mended {
            snapshot,
            volume,
            outcome,
            recovered: recovered
                .map(|(start, length, (source, proof))| Recovered { start, length, source: source.to_string(), proof })
                .collect(),
            lost: lost
                .map(|(start, length, fault)| {
                    let Fault { object, reason } = (*fault).clone();
                    Lost { start, length, object, reason }
                })
                .collect(),
        }
    }
}
