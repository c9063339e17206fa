//! One round of copying: what is missing in the copy is found by two listings, and copied oldest first.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Options, Outcome, Report, SnapshotReport, VolumeFailure,
    snapshot::{Job, blame, deleted_in, forget, is_general},
};
use crate::{
    Claim, Deletion, Error, Repository, Result,
    id::{SnapshotId, UploadId, VolumeId},
    progress::Progress,
    record::{snapshot::Root, volume::OffloadParameters},
    repository::names::{UPLOADS, VOLUMES},
    work::Worker,
};

/// How many snapshots are tried as a base before one is copied whole.
const BASES: usize = 2;

/// Copies one repository into another, round by round.
#[derive(Debug)]
pub struct Copier {
    from: Repository,
    to: Repository,
    pub(super) options: Options,
    /// Snapshots that could not be copied, what their roots were then, and why: nothing is tried again, and sent again
    /// up to where it is damaged, before a repair changed the root.
    hopeless: BTreeMap<SnapshotId, (Edition, String)>,
    /// Holds the folder for journals, which two copies at once would garble.
    lock: Option<File>,
}

/// What tells a root from what a repair made of it.
type Edition = (UploadId, Option<Timestamp>);

/// What stands at every snapshot's key.
type Standings = BTreeMap<SnapshotId, Result<Option<Arc<Root>>>>;

/// Snapshots that are roots in both, by what they are of.
type Lineages = HashMap<(VolumeId, Uuid), Vec<Arc<Root>>>;

/// What is known while a round goes on.
struct Round {
    from: Standings,
    to: Standings,
    /// Ids of the roots in both, with the first repository's root.
    both: BTreeMap<SnapshotId, Arc<Root>>,
    lineages: Lineages,
    parameters: BTreeMap<VolumeId, OffloadParameters>,
    report: Report,
}

impl Copier {
    /// Prepares to copy.
    ///
    /// # Errors
    /// `Location` where the two are one repository.
    pub fn new(from: &Repository, to: &Repository, options: Options) -> Result<Self> {
        if from.uuid() == to.uuid() {
            return Err(Error::Location {
                url: to.store().url().into(),
                reason: format!(
                    "it is the repository to be copied itself, or a copy of its objects ({}): a copy is a repository of \
                     its own",
                    to.uuid()
                ),
            });
        }
        Ok(Self { from: from.clone(), to: to.clone(), options, hopeless: BTreeMap::new(), lock: None })
    }

    /// Copies everything that is missing.
    ///
    /// # Errors
    /// Those of [`Repository::copy_to`].
    ///
    /// # Cancellation
    /// By the token.
    pub async fn round(&mut self, progress: &Progress, cancel: &CancellationToken) -> Result<Report> {
        let look = cancel.run_until_cancelled(Box::pin(self.look()));
        let mut round = look.await.unwrap_or(Err(Error::Interrupted))?;
        self.prepare_state(&round).await?;
        let wanted = self.wanted(&round)?;
        for root in wanted {
            let snapshot = root.description.id;
            let outcome = self.settle(&mut round, &root, progress, cancel).await?;
            round.report.snapshots.push(SnapshotReport { snapshot, volume: Some(root.description.volume), outcome });
        }
        self.pass_over_unreadable(&mut round);
        Ok(round.report)
    }

    /// Finds out what is where, and does what costs little: cancellations, deletions, volumes' records.
    async fn look(&self) -> Result<Round> {
        let (from, to) = futures::try_join!(self.from.standings(), self.to.standings())?;
        let mut round = Round {
            from: from.into_iter().collect(),
            to: to.into_iter().collect(),
            both: BTreeMap::new(),
            lineages: Lineages::new(),
            parameters: BTreeMap::new(),
            report: Report::default(),
        };
        self.cancel_vanished(&round).await?;
        if self.options.prune {
            self.prune(&mut round).await?;
        }
        let shared: Vec<Arc<Root>> =
            round.from.values().filter_map(root).filter(|from| round.has(from)).cloned().collect();
        shared.into_iter().for_each(|root| round.enter(root));
        self.copy_volumes(&mut round).await?;
        Ok(round)
    }

    /// Cancels copies begun earlier of snapshots that are deleted in the original by now.
    async fn cancel_vanished(&self, round: &Round) -> Result<()> {
        for (snapshot, _) in self.to.list_ids::<SnapshotId>(UPLOADS).await? {
            let gone = matches!(round.from.get(&snapshot), Some(Ok(None)));
            if gone && !round.to.contains_key(&snapshot) {
                forget(&self.to, &self.from, snapshot).await?;
            }
        }
        Ok(())
    }

    /// Deletes in the copy what has a tombstone in the original; what the original never knew is none of its business.
    async fn prune(&self, round: &mut Round) -> Result<()> {
        let Round { from, to, report, .. } = round;
        let mut volumes = BTreeSet::new();
        for (snapshot, standing) in to.iter_mut() {
            let Some(root) = root(standing).cloned() else { continue };
            let volume = root.description.volume;
            if !matches!(from.get(snapshot), Some(Ok(None))) || !self.options.wants(*snapshot, Some(volume)) {
                continue;
            }
            if let Deletion::Deleted(_) = self.to.delete_snapshot(*snapshot, &deleted_in(&self.from)).await? {
                tracing::info!(%snapshot, "deleted in the copy, as it was in the original");
                report.pruned.push(*snapshot);
                volumes.insert(volume);
            }
            *standing = Ok(None);
        }
        // A volume's record goes with the last of its snapshots, where the original has it no more either.
        let standing: BTreeSet<VolumeId> = to.values().filter_map(root).map(|root| root.description.volume).collect();
        for volume in volumes.difference(&standing) {
            if self.from.volume(*volume).await?.is_none() {
                self.to.remove_volume(*volume).await?;
            }
        }
        Ok(())
    }

    /// Copies the records of volumes that the copy has none of.
    async fn copy_volumes(&self, round: &mut Round) -> Result<()> {
        let listed =
            futures::try_join!(self.from.list_ids::<VolumeId>(VOLUMES), self.to.list_ids::<VolumeId>(VOLUMES))?;
        let there: BTreeSet<VolumeId> = listed.1.into_iter().map(|(id, _)| id).collect();
        let of_snapshots: Option<BTreeSet<VolumeId>> = (!self.options.snapshots.is_empty()).then(|| {
            let asked = self.options.snapshots.iter().filter_map(|id| round.from.get(id).and_then(root));
            asked.map(|root| root.description.volume).collect()
        });
        for (volume, _) in listed.0 {
            let wanted = (self.options.volumes.is_empty() || self.options.volumes.contains(&volume))
                && of_snapshots.as_ref().is_none_or(|volumes| volumes.contains(&volume));
            if there.contains(&volume) || !wanted {
                continue;
            }
            match self.copy_volume(volume).await {
                Ok(true) => round.report.volumes.push(volume),
                Ok(false) => {}
                Err(error) if is_general(&error) => return Err(error),
                Err(error) => {
                    let reason = blame(&self.from, &error);
                    tracing::warn!(%volume, reason, "a volume's record cannot be copied");
                    round.report.failed_volumes.push(VolumeFailure { volume, reason });
                }
            }
        }
        Ok(())
    }

    /// Copies a volume's record; tells whether the copy had none.
    async fn copy_volume(&self, volume: VolumeId) -> Result<bool> {
        let Some(found) = self.from.volume(volume).await? else { return Ok(false) };
        let mut record = found.value;
        // Where it is given to a node is a fence among those who share the original.
        record.published = None;
        Ok(matches!(self.to.claim_volume(record).await?, Claim::Created(_)))
    }

    /// Returns the roots that are asked for, oldest first: a base is older than what is built on it.
    fn wanted(&self, round: &Round) -> Result<Vec<Arc<Root>>> {
        let unknown =
            self.options.snapshots.iter().find(|id| !matches!(round.from.get(id), Some(Ok(Some(_)) | Err(_))));
        if let Some(snapshot) = unknown {
            return Err(Error::NoSnapshot { snapshot: *snapshot });
        }
        let roots = round.from.values().filter_map(root);
        let mut wanted: Vec<Arc<Root>> = roots
            .filter(|root| self.options.wants(root.description.id, Some(root.description.volume)))
            .cloned()
            .collect();
        wanted.sort_by_key(|root| (root.description.created_at, root.description.id));
        Ok(wanted)
    }

    /// Copies a snapshot if it is missing.
    async fn settle(
        &mut self,
        round: &mut Round,
        root: &Arc<Root>,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Outcome> {
        let snapshot = root.description.id;
        match round.to.get(&snapshot) {
            Some(Ok(Some(found))) if found.description == root.description => return Ok(Outcome::AlreadyThere),
            Some(Ok(Some(_))) => {
                let reason = format!("{}: it holds another snapshot of that id", self.to.store().url());
                return Ok(Outcome::Failed { reason });
            }
            Some(Ok(None)) => return Ok(Outcome::DeletedThere),
            Some(Err(error)) => return Ok(Outcome::Failed { reason: blame(&self.to, error) }),
            None => {}
        }
        let edition = (root.upload, root.repaired_at);
        if let Some((known, reason)) = self.hopeless.get(&snapshot)
            && *known == edition
        {
            return Ok(Outcome::Failed { reason: reason.clone() });
        }
        let job = Job {
            from: &self.from,
            to: &self.to,
            root: Arc::clone(root),
            bases: round.bases(root),
            parameters: self.parameters(round, root.description.volume).await?,
            journal: self.journal(snapshot),
            progress,
            cancel,
        };
        let volume = root.description.volume;
        let outcome = job.run().await?;
        match &outcome {
            Outcome::Copied { method, fetched_bytes, uploaded_bytes } => {
                tracing::info!(%snapshot, %volume, ?method, fetched_bytes, uploaded_bytes, "copied a snapshot");
                round.report.fetched_bytes += fetched_bytes;
                round.report.uploaded_bytes += uploaded_bytes;
                round.enter(Arc::clone(root));
            }
            Outcome::Failed { reason } => {
                tracing::warn!(%snapshot, %volume, reason, "a snapshot cannot be copied");
                self.hopeless.insert(snapshot, (edition, reason.clone()));
            }
            Outcome::AlreadyThere | Outcome::DeletedThere | Outcome::DeletedHere => {}
        }
        Ok(outcome)
    }

    /// How the volume's snapshots are compressed, as its record says where there is one.
    async fn parameters(&self, round: &mut Round, volume: VolumeId) -> Result<OffloadParameters> {
        let known = match round.parameters.get(&volume) {
            Some(known) => *known,
            None => match self.from.volume(volume).await {
                Ok(record) => record.map(|record| record.value.offload).unwrap_or_default(),
                Err(error) if is_general(&error) => return Err(error),
                Err(_) => OffloadParameters::default(),
            },
        };
        round.parameters.insert(volume, known);
        Ok(OffloadParameters { bandwidth: self.options.bandwidth, ..known })
    }

    /// Where what was sent of a snapshot is written down.
    fn journal(&self, snapshot: SnapshotId) -> Option<PathBuf> {
        self.options.state.as_ref().map(|folder| folder.join(format!("{}-{snapshot}", self.to.uuid())))
    }

    /// Makes the folder for journals, and removes from it those of snapshots that are decided by now.
    async fn prepare_state(&mut self, round: &Round) -> Result<()> {
        let Some(folder) = self.options.state.clone() else { return Ok(()) };
        let what = format!("preparing the folder {}", folder.display());
        let decided: BTreeSet<PathBuf> = round.to.keys().filter_map(|snapshot| self.journal(*snapshot)).collect();
        let locked = self.lock.is_some();
        let prepare = move || {
            fs::create_dir_all(&folder)?;
            let lock = if locked { None } else { Some(lock(&folder)?) };
            let mut left = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path()));
            left.try_for_each(|path: io::Result<PathBuf>| match path? {
                path if decided.contains(&path) => fs::remove_file(path),
                _ => Ok(()),
            })?;
            Ok(lock)
        };
        let prepared = Worker::new(self.to.seams().work).start(prepare).await?;
        let lock = prepared.map_err(|source| Error::Local { what, source })?;
        self.lock = lock.or(self.lock.take());
        Ok(())
    }

    /// Reports the snapshots of the original whose roots cannot be read, unless the copy has them.
    fn pass_over_unreadable(&self, round: &mut Round) {
        for (snapshot, standing) in &round.from {
            let Err(error) = standing else { continue };
            if !self.options.wants(*snapshot, None) {
                continue;
            }
            let (volume, outcome) = match round.to.get(snapshot) {
                Some(Ok(Some(found))) => (Some(found.description.volume), Outcome::AlreadyThere),
                Some(Ok(None)) => (None, Outcome::DeletedThere),
                _ => (None, Outcome::Failed { reason: blame(&self.from, error) }),
            };
            round.report.snapshots.push(SnapshotReport { snapshot: *snapshot, volume, outcome });
        }
    }
}

impl Round {
    /// Tells whether the copy has that very snapshot.
    fn has(&self, from: &Root) -> bool {
        let found = self.to.get(&from.description.id).and_then(root);
        found.is_some_and(|found| found.description == from.description)
    }

    /// Takes note that a snapshot is a root in both.
    fn enter(&mut self, root: Arc<Root>) {
        let lineage = (root.description.volume, root.description.incarnation);
        self.lineages.entry(lineage).or_default().push(Arc::clone(&root));
        self.both.insert(root.description.id, root);
    }

    /// Picks what a snapshot may be built on: of its own volume those cut last before it, else the first behind it; where
    /// its volume has none, what it was built on itself, such as the snapshot that its volume was restored from.
    fn bases(&self, of: &Root) -> Vec<Arc<Root>> {
        let lineage = (of.description.volume, of.description.incarnation);
        let when = |root: &Root| (root.description.created_at, root.description.id);
        let mut bases: Vec<&Arc<Root>> = self.lineages.get(&lineage).into_iter().flatten().collect();
        bases.sort_by_key(|root| {
            let is_later = when(root) > when(of);
            let distance =
                root.description.created_at.as_nanosecond().abs_diff(of.description.created_at.as_nanosecond());
            (is_later, distance, root.description.id)
        });
        let own = of.base.and_then(|base| self.both.get(&base)).filter(|_| bases.is_empty());
        bases.into_iter().chain(own).take(BASES).cloned().collect()
    }
}

/// Returns the root, where one stands and can be read.
fn root(standing: &Result<Option<Arc<Root>>>) -> Option<&Arc<Root>> {
    standing.as_ref().ok().and_then(Option::as_ref)
}

/// Takes a folder for oneself, for as long as the file is open.
fn lock(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(io::ErrorKind::ResourceBusy, "another copy uses it")),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
