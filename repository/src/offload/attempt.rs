//! One attempt at an offload: what is done in which order.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Against, Request,
    dedup::Comparison,
    journal::{Found, Journal, Opening},
    sample::Sample,
    scan::Scan,
    transfer::{Level, SCAN_AHEAD, Transfer, joined},
};
use crate::{
    Claim, Error, Repository, Result, SnapshotState,
    id::{SnapshotId, UploadId},
    record::{
        intent::Intent,
        snapshot::{Method, Root, RunReference},
    },
    repository::names,
    run::{self, Origin, merge},
};

/// One attempt.
pub(super) struct Attempt {
    repository: Repository,
    request: Request,
    tracker: TaskTracker,
    stop: CancellationToken,
    started: Instant,
}

impl Attempt {
    /// Prepares one. Blocking work is done through the tracker, so that its end can be awaited, and heeds `stop`.
    pub(super) fn new(
        repository: &Repository,
        request: Request,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { repository: repository.clone(), request, tracker, stop, started: Instant::now() }
    }

    /// Runs it.
    ///
    /// # Errors
    /// Those of [`Repository::offload`].
    pub(super) async fn run(self) -> Result<Root> {
        self.validate()?;
        if let Some(root) = self.standing().await? {
            return Ok(root);
        }
        let (mut level, mut journal) = self.begin().await?;
        let base = self.pinned().await?;
        let root = match self.store(&mut level, &mut journal, base.as_ref()).await {
            Ok(root) => root,
            Err(error @ Error::Cancelled { .. }) => {
                self.forget().await;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        if let Some(root) = self.overtaken(root.upload).await? {
            return Ok(root);
        }
        match self.repository.commit_root(&root).await {
            Ok(()) => {
                self.forget().await;
                Ok(root)
            }
            // Another attempt at the same cut was first, or a tombstone was: what stands there says.
            Err(error @ (Error::Conflict { .. } | Error::Cancelled { .. })) => self.standing().await?.ok_or(error),
            Err(error) => Err(error),
        }
    }

    fn validate(&self) -> Result<()> {
        let described = self.request.description.capacity_bytes;
        let capacity = self.request.source.capacity();
        if capacity.bytes() == described {
            return Ok(());
        }
        let source = io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the image has {} bytes, its description says {described}", capacity.bytes()),
        );
        Err(Error::Local { what: "taking up an image for offload".into(), source })
    }

    /// Returns the root that stands already, and clears up behind an attempt that did not come to it.
    ///
    /// # Errors
    /// `Cancelled` where a tombstone stands, `Conflict` where the root is of another volume.
    async fn standing(&self) -> Result<Option<Root>> {
        let description = &self.request.description;
        match self.repository.snapshot(description.id).await? {
            SnapshotState::Absent => Ok(None),
            SnapshotState::Committed(root) => {
                let same = root.description.volume == description.volume
                    && root.description.incarnation == description.incarnation;
                if !same {
                    return Err(Error::Conflict { object: names::snapshot_key(description.id) });
                }
                self.forget().await;
                Ok(Some(*root))
            }
            SnapshotState::Gone(tombstone) => {
                self.forget().await;
                Err(Error::Cancelled { snapshot: description.id, reason: tombstone.reason })
            }
        }
    }

    /// Removes what only an undecided snapshot needs. What cannot be removed now is found by the next collection.
    async fn forget(&self) {
        let snapshot = self.request.description.id;
        if let Err(error) = self.repository.remove_intent(snapshot).await {
            tracing::warn!(%snapshot, %error, "the intent of a decided snapshot stays behind");
        }
        let journal = self.request.journal.clone();
        let _ = joined(self.tracker.spawn_blocking(move || Journal::remove(journal.as_deref())).await);
    }

    /// Takes up the attempt that a journal speaks of, if its intent still stands, or starts a new one.
    async fn begin(&self) -> Result<(Level, Journal)> {
        let opening = Opening::new(self.repository.uuid(), &self.request);
        if let Some(found) = self.find_journal(&opening).await? {
            let standing = self.repository.read_intent(self.request.description.id).await?;
            let stands = |intent: &Intent| intent.upload == found.upload && intent.pins == self.pins();
            if standing.is_some_and(|intent| stands(&intent.value))
                && let Some(resumed) = self.resume(found).await?
            {
                return Ok(resumed);
            }
        }
        let upload = UploadId::from_bytes(self.repository.seams().random());
        self.claim(upload).await?;
        let path = self.request.journal.clone();
        let begin = move || Journal::begin(path.as_deref(), upload, &opening);
        let journal = joined(self.tracker.spawn_blocking(begin).await)?;
        Ok((Level::new(&self.repository, upload), journal))
    }

    async fn find_journal(&self, opening: &Opening) -> Result<Option<Found>> {
        let Some(path) = self.request.journal.clone() else { return Ok(None) };
        let opening = opening.clone();
        let open = move || {
            Found::open(&path, &opening).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "a journal cannot be continued: starting anew");
                None
            })
        };
        joined(self.tracker.spawn_blocking(open).await)
    }

    async fn resume(&self, found: Found) -> Result<Option<(Level, Journal)>> {
        let mut level = Level::new(&self.repository, found.upload);
        let progress = self.request.progress.clone();
        let replay = move || {
            let replayed = found.replay(|entry| level.enter(entry).map_err(io::Error::other));
            match replayed {
                Ok(journal) => {
                    tracing::info!(position = %level.position, "continuing an offload that was interrupted");
                    progress.add_total(level.statistics.changed_bytes);
                    progress.add_done(level.statistics.changed_bytes);
                    Some((level, journal))
                }
                Err(error) => {
                    tracing::warn!(%error, "a journal cannot be continued: starting anew");
                    None
                }
            }
        };
        joined(self.tracker.spawn_blocking(replay).await)
    }

    /// Puts the intent of a new attempt, in place of one that ended before.
    async fn claim(&self, upload: UploadId) -> Result<()> {
        let description = &self.request.description;
        let intent = Intent {
            snapshot: description.id,
            upload,
            volume: description.volume,
            node: description.node.clone(),
            pins: self.pins(),
            started_at: self.repository.seams().clock.now(),
        };
        let Claim::AlreadyPresent(_) = self.repository.put_intent(intent.clone()).await? else { return Ok(()) };
        match self.repository.read_intent(description.id).await? {
            Some(standing) => self.repository.replace_intent(&standing, intent).await.map(drop),
            None => Err(Error::Conflict { object: names::intent_key(description.id) }),
        }
    }

    /// Makes sure that no other attempt has taken over, since what this one stored would no longer be kept. Returns
    /// the root where the other one has finished already.
    async fn overtaken(&self, upload: UploadId) -> Result<Option<Root>> {
        let snapshot = self.request.description.id;
        let standing = self.repository.read_intent(snapshot).await?;
        if standing.is_some_and(|intent| intent.value.upload == upload) {
            return Ok(None);
        }
        match self.standing().await? {
            Some(root) => Ok(Some(root)),
            None => Err(Error::Conflict { object: names::intent_key(snapshot) }),
        }
    }

    fn pins(&self) -> Vec<SnapshotId> {
        match self.request.against {
            Against::Nothing => Vec::new(),
            Against::Base(id) | Against::Content(id) => vec![id],
        }
    }

    /// Reads the root that this one builds upon. Done behind the intent: from then on its packs and runs are kept.
    async fn pinned(&self) -> Result<Option<Root>> {
        let Some(base) = self.pins().pop() else { return Ok(None) };
        match self.repository.snapshot(base).await? {
            SnapshotState::Committed(root) => Ok(Some(*root)),
            _ => Err(Error::BaseGone { snapshot: self.request.description.id, base }),
        }
    }

    /// Stores everything that the root refers to, and returns the root to be committed.
    async fn store(&self, level: &mut Level, journal: &mut Journal, pinned: Option<&Root>) -> Result<Root> {
        let Request { description, against, changes, source, parameters, progress, .. } = &self.request;
        let (base, compared, method) = match against {
            Against::Nothing => (None, None, Method::Full),
            Against::Base(_) => (pinned, None, Method::Incremental),
            Against::Content(_) => (None, pinned, Method::Compared),
        };
        if let Some(base) = base {
            let sample = Sample {
                repository: self.repository.clone(),
                tracker: self.tracker.clone(),
                volume: description.volume,
                source: Arc::clone(source),
                changes: Arc::clone(changes),
            };
            sample.compare(base).await?;
        }
        let upload = level.writer.upload();
        let mut transfer = Transfer::new(&self.repository, description.id, upload, &self.tracker, parameters, progress);
        // A full run that was not put before the interruption.
        transfer.put_full_run(level, journal).await?;
        let comparison = compared.map(|root| Comparison::new(&self.repository, root, level.position));
        self.scan_into(&mut transfer, comparison, level, journal, base.is_some()).await?;

        let mut statistics = level.statistics;
        let new_bytes = level.writer.data().bytes();
        let (runs, stored_bytes, data_bytes) = self.store_runs(&transfer, level, base).await?;
        statistics.uploaded_bytes += stored_bytes;
        let kept_bytes = base.map_or(0, |base| base.statistics.data_bytes);
        statistics.data_bytes =
            data_bytes.unwrap_or(kept_bytes.saturating_add(new_bytes)).min(description.capacity_bytes);
        statistics.offload_millis = millis(self.started.elapsed());
        Ok(Root {
            description: description.clone(),
            upload,
            method,
            base: pinned.map(|root| root.description.id),
            runs,
            statistics,
        })
    }

    /// Scans the cut on a thread of its own and stores what changed.
    async fn scan_into(
        &self,
        transfer: &mut Transfer,
        comparison: Option<Comparison>,
        level: &mut Level,
        journal: &mut Journal,
        keep_zeroes: bool,
    ) -> Result<()> {
        let scan = Arc::new(Scan {
            source: Arc::clone(&self.request.source),
            changes: Arc::clone(&self.request.changes),
            from: level.position,
            keep_zeroes,
            progress: self.request.progress.clone(),
            cancel: self.stop.clone(),
        });
        let (sender, receiver) = mpsc::channel(SCAN_AHEAD);
        let measured = Arc::clone(&scan);
        let measuring = self.tracker.spawn_blocking(move || measured.measure());
        let scanning = self.tracker.spawn_blocking(move || scan.run(&sender));
        transfer.run(receiver, comparison, level, journal).await?;
        joined(scanning.await)??;
        joined(measuring.await)?
    }

    /// Puts what is left of the new level, merged with older ones where they have piled up. Returns the root's runs,
    /// what putting them took, and, where nothing older is left, the exact bytes of data in them.
    async fn store_runs(
        &self,
        transfer: &Transfer,
        level: &mut Level,
        base: Option<&Root>,
    ) -> Result<(Vec<RunReference>, u64, Option<u64>)> {
        let older: Vec<&[RunReference]> = base.map_or_else(Vec::new, |base| run::levels(&base.runs).collect());
        let mut newest: Vec<Origin> = level.runs.drain(..).map(Origin::Stored).collect();
        newest.extend(level.writer.finish().map(Origin::Memory));
        if newest.is_empty() {
            return Ok((older.concat(), 0, base.is_none().then_some(0)));
        }
        let extents = |runs: &[RunReference]| runs.iter().map(|run| run.extents).sum::<u64>();
        let mut sizes = vec![newest.iter().map(|origin| origin.reference().extents).sum::<u64>()];
        sizes.extend(older.iter().map(|level| extents(level)));
        let merged = merge::plan(&sizes);

        let (mut runs, mut put_bytes) = (Vec::new(), 0);
        if merged == 1 {
            for origin in newest {
                runs.push(match origin {
                    Origin::Stored(reference) => reference,
                    Origin::Memory(finished) => {
                        put_bytes += finished.reference.object_bytes;
                        transfer.put_run(finished).await?
                    }
                });
            }
            let data = older.is_empty().then(|| level.writer.data().bytes());
            runs.extend(older.concat());
            return Ok((runs, put_bytes, data));
        }
        let mut levels = vec![newest];
        levels.extend(older[..merged - 1].iter().map(|level| level.iter().cloned().map(Origin::Stored).collect()));
        let oldest = merged == sizes.len();
        let writer = run::Writer::new(&self.repository, level.writer.upload());
        let mut merge = merge::Merge::new(&self.repository, levels, writer, oldest);
        while let Some(finished) = merge.next().await? {
            put_bytes += finished.reference.object_bytes;
            runs.push(transfer.put_run(finished).await?);
        }
        runs.extend(older[merged - 1..].concat());
        Ok((runs, put_bytes, oldest.then(|| merge.data().bytes())))
    }
}

fn millis(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
