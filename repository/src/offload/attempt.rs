//! One attempt at an offload: what is done in which order.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Against, Request,
    dedup::Comparison,
    journal::{Found, Journal, Opening},
    sample::Sample,
    scan::Scan,
    transfer::{Level, SCAN_AHEAD, Transfer},
};
use crate::{
    Error, Repository, Result, SnapshotState,
    id::{SnapshotId, UploadId},
    mutation::Mutation,
    record::{
        intent::{self, Pin},
        snapshot::{Method, Root, RunReference},
    },
    repository::names,
    run::{self, Origin, merge},
    seam::Work,
    work::Worker,
};

/// One attempt.
pub(super) struct Attempt {
    repository: Repository,
    request: Request,
    worker: Worker,
    stop: CancellationToken,
    started: Instant,
}

/// An attempt that may put packs: its intent stands.
struct Begun {
    level: Level,
    journal: Journal,
    pins: Vec<Pin>,
}

impl Attempt {
    /// Prepares one. Blocking work is done through the worker, so that its end can be awaited, and heeds `stop`.
    pub(super) fn new(repository: &Repository, request: Request, worker: Worker, stop: CancellationToken) -> Self {
        Self { repository: repository.clone(), request, worker, stop, started: Instant::now() }
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
        let begun = self.begin().await?;
        let pinned = self.pinned(&begun.pins).await?;
        let Begun { mut level, mut journal, .. } = begun;
        let snapshot = self.request.description.id;
        let root = match self.store(&mut level, &mut journal, &pinned).await {
            Ok(root) => root,
            Err(error @ Error::Cancelled { .. }) => {
                self.forget().await;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        if self.repository.seams().broken(Mutation::IntentRemovedEarly) {
            self.repository.remove_intent(snapshot).await?;
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
        let _ = self.worker.start(move || Journal::remove(journal.as_deref())).await;
    }

    /// Takes up the attempt that a journal speaks of, if its intent still stands, or starts a new one.
    async fn begin(&self) -> Result<Begun> {
        let opening = Opening::new(self.repository.uuid(), &self.request);
        if let Some(found) = self.find_journal(&opening).await? {
            let standing = self.repository.read_intent(self.request.description.id).await?;
            let attempt = standing.as_ref().and_then(|intent| intent.value.attempt(found.upload));
            if let Some(attempt) = attempt
                && let Some((level, journal)) = self.resume(found).await?
            {
                return Ok(Begun { level, journal, pins: attempt.pins.clone() });
            }
        }
        let upload = UploadId::from_bytes(self.repository.seams().random());
        let pins = self.pins().await?;
        self.claim(upload, pins.clone()).await?;
        let path = self.request.journal.clone();
        let journal = self.worker.start(move || Journal::begin(path.as_deref(), upload, &opening)).await?;
        Ok(Begun { level: Level::new(&self.repository, upload), journal, pins })
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
        self.worker.start(open).await
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
        self.worker.start(replay).await
    }

    /// Enters a new attempt in the snapshot's intent.
    async fn claim(&self, upload: UploadId, pins: Vec<Pin>) -> Result<()> {
        if self.repository.seams().broken(Mutation::NoIntent) {
            return Ok(());
        }
        let description = &self.request.description;
        let started_at = self.repository.seams().clock.now();
        let attempt = intent::Attempt { upload, node: description.node.clone(), pins, started_at };
        self.repository.enter_attempt(description.id, description.volume, &attempt).await
    }

    /// Reads what a new attempt is to build upon.
    async fn pins(&self) -> Result<Vec<Pin>> {
        match self.request.against {
            Against::Nothing => Ok(Vec::new()),
            Against::Base(base) | Against::Content(base) => Ok(vec![Pin::of(&self.root_of(base).await?)]),
        }
    }

    /// Looks whether what is pinned is still there. Done behind the intent: what is a root now is kept from now on,
    /// whatever becomes of the root.
    async fn pinned(&self, pins: &[Pin]) -> Result<Option<Root>> {
        let Some(pin) = pins.first() else { return Ok(None) };
        self.root_of(pin.snapshot).await.map(Some)
    }

    /// Reads a root that this offload needs.
    ///
    /// # Errors
    /// `BaseGone` where it is none any more.
    async fn root_of(&self, base: SnapshotId) -> Result<Root> {
        match self.repository.snapshot(base).await? {
            SnapshotState::Committed(root) => Ok(*root),
            _ => Err(Error::BaseGone { snapshot: self.request.description.id, base }),
        }
    }

    /// Stores everything that the root refers to, and returns the root to be committed.
    async fn store(&self, level: &mut Level, journal: &mut Journal, pinned: &Option<Root>) -> Result<Root> {
        let Request { description, against, changes, source, parameters, progress, .. } = &self.request;
        let (base, compared, method) = match against {
            Against::Nothing => (None, None, Method::Full),
            Against::Base(_) => (pinned.as_ref(), None, Method::Incremental),
            Against::Content(_) => (None, pinned.as_ref(), Method::Compared),
        };
        if let Some(base) = base {
            let sample = Sample {
                repository: self.repository.clone(),
                worker: self.worker.clone(),
                volume: description.volume,
                source: Arc::clone(source),
                changes: Arc::clone(changes),
            };
            sample.compare(base).await?;
        }
        let upload = level.writer.upload();
        let mut transfer = Transfer::new(&self.repository, description.id, upload, &self.worker, parameters, progress);
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
            base: pinned.as_ref().map(|root| root.description.id),
            runs,
            pending: Vec::new(),
            repaired_at: None,
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
        let measured = Arc::clone(&scan);
        let measuring = self.worker.start(move || measured.measure());
        let (receiver, scanning) = match self.worker.place() {
            Work::Threads => {
                let (sender, receiver) = mpsc::channel(SCAN_AHEAD);
                let send = move |gathered| sender.blocking_send(gathered).map_err(|_| Error::Interrupted);
                (receiver, self.worker.start(move || scan.run(send)))
            }
            Work::Inline => {
                let mut all = Vec::new();
                let scanned = scan.run(|gathered| {
                    all.push(gathered);
                    Ok(())
                });
                let (sender, receiver) = mpsc::channel(all.len().max(1));
                for gathered in all {
                    sender.try_send(gathered).map_err(|_| Error::Interrupted)?;
                }
                (receiver, self.worker.start(move || scanned))
            }
        };
        transfer.run(receiver, comparison, level, journal).await?;
        scanning.await??;
        measuring.await?
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
