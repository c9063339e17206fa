//! One attempt at an offload: what is done in which order.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Against, Request,
    compare::Comparison,
    journal::{Found, Journal, Opening},
    level::Level,
    pins::{self, Pinned},
    resume::{self, Resumed},
    sample::Sample,
    scan::Scan,
    transfer::{SCAN_AHEAD, Transfer},
};
use crate::{
    Error, Repository, Result, SnapshotState,
    block::{BLOCK_SIZE, BlockRange, Blocks},
    id::UploadId,
    mutation::Mutation,
    pack::{PackReference, Table},
    record::{
        intent::{self, Pin},
        snapshot::{Method, Root, RunReference},
    },
    repository::names,
    run::{self, Extent, Origin, Place, merge},
    seam::Work,
    work::Worker,
};

/// How often an attempt pins its base anew where that was repaired in the moment in between.
const PIN_ROUNDS: usize = 3;

/// So many changed bytes are looked for in the base: content that moved is worth the requests then.
const LARGE_CHANGE_BYTES: u64 = 64 << 20;

/// One attempt.
pub(super) struct Attempt {
    repository: Repository,
    request: Request,
    worker: Worker,
    stop: CancellationToken,
    started: Instant,
    measured: OnceCell<u64>,
}

/// An attempt whose intent stands.
struct Begun {
    level: Level,
    journal: Journal,
    /// Packs that it stored before it was interrupted.
    packs: Vec<(PackReference, Table)>,
    pins: Vec<Pin>,
    /// What the pins were made of; nothing is known of that where the attempt is continued.
    chosen: Option<Pinned>,
}

impl Attempt {
    /// Prepares one. Blocking work is done through the worker, so that its end can be awaited, and heeds `stop`.
    pub(super) fn new(repository: &Repository, request: Request, worker: Worker, stop: CancellationToken) -> Self {
        Self {
            repository: repository.clone(),
            request,
            worker,
            stop,
            started: Instant::now(),
            measured: OnceCell::new(),
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// Those of [`Repository::offload`].
    pub(super) async fn run(self) -> Result<Root> {
        self.validate()?;
        let (standing, base) = futures::join!(self.standing(), pins::base(&self.repository, &self.request));
        if let Some(root) = standing? {
            return Ok(root);
        }
        let (begun, pinned) = self.begin(base).await?;
        let mut transfer = self.transfer(begun.level.writer.upload());
        let root = match self.store(begun, &pinned, &mut transfer).await {
            Ok(root) => root,
            // Decided meanwhile: what stands there says how. What is pinned is not kept any longer then, and may be missing.
            Err(error @ (Error::Conflict { .. } | Error::Cancelled { .. } | Error::Corrupt { .. })) => {
                return self.standing().await?.ok_or(error);
            }
            Err(error) => return Err(error),
        };
        if self.repository.seams().broken(Mutation::IntentRemovedEarly) {
            self.repository.remove_intent(self.request.description.id).await?;
        }
        let committed = self.repository.commit_root(&root).await;
        transfer.put_withheld().await?;
        match committed {
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

    /// Begins, or begins again: an attempt whose pins are checked behind its intent.
    ///
    /// # Errors
    /// `BaseGone` where the base is no longer a root, or is repaired again and again.
    async fn begin(&self, base: Result<Option<Root>>) -> Result<(Begun, Pinned)> {
        let mut begun = match self.begin_where_it_was().await? {
            Some(begun) => begun,
            None => self.begin_anew(base?).await?,
        };
        for round in 1..=PIN_ROUNDS {
            let chosen = begun.chosen.take();
            if let Some(pinned) = pins::verify(&self.repository, &self.request, &begun.pins, chosen).await? {
                return Ok((begun, pinned));
            }
            if round < PIN_ROUNDS {
                tracing::info!("the base was repaired meanwhile: beginning anew");
                begun = self.begin_anew(pins::base(&self.repository, &self.request).await?).await?;
            }
        }
        let snapshot = self.request.description.id;
        Err(Error::BaseGone { snapshot, base: self.request.against.snapshot().unwrap_or(snapshot) })
    }

    /// Takes up the attempt that a journal speaks of, if its intent still stands.
    async fn begin_where_it_was(&self) -> Result<Option<Begun>> {
        let Some(found) = self.find_journal().await? else { return Ok(None) };
        let Some(intent) = self.repository.read_intent(self.request.description.id).await? else { return Ok(None) };
        let Some(attempt) = intent.value.attempt(found.upload) else { return Ok(None) };
        let Some(resumed) = resume::resume(&self.repository, &self.worker, found).await? else { return Ok(None) };
        let Resumed { level, journal, packs } = resumed;
        self.request.progress.add_done(level.statistics.changed_bytes);
        Ok(Some(Begun { level, journal, packs, pins: attempt.pins.clone(), chosen: None }))
    }

    /// Enters a new attempt in the snapshot's intent.
    async fn begin_anew(&self, base: Option<Root>) -> Result<Begun> {
        let related = match self.request.against {
            Against::Nothing | Against::Content(_) => {
                pins::related(&self.repository, &self.request, self.measured().await?).await?
            }
            Against::Base(_) | Against::Anew => Vec::new(),
        };
        let chosen = Pinned { base, related };
        let pins = chosen.pins();
        let upload = UploadId::from_bytes(self.repository.seams().random());
        self.claim(upload, pins.clone()).await?;
        let (path, opening) = (self.request.journal.clone(), self.opening());
        let journal = self.worker.start(move || Journal::begin(path.as_deref(), upload, &opening)).await?;
        let level = Level::new(&self.repository, upload);
        Ok(Begun { level, journal, packs: Vec::new(), pins, chosen: Some(chosen) })
    }

    fn opening(&self) -> Opening {
        Opening::new(self.repository.uuid(), &self.request)
    }

    async fn find_journal(&self) -> Result<Option<Found>> {
        let Some(path) = self.request.journal.clone() else { return Ok(None) };
        let opening = self.opening();
        let open = move || {
            Found::open(&path, &opening).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "a journal cannot be continued: starting anew");
                None
            })
        };
        self.worker.start(open).await
    }

    async fn claim(&self, upload: UploadId, pins: Vec<Pin>) -> Result<()> {
        if self.repository.seams().broken(Mutation::NoIntent) {
            return Ok(());
        }
        let description = &self.request.description;
        let started_at = self.repository.seams().clock.now();
        let attempt = intent::Attempt { upload, node: description.node.clone(), pins, started_at };
        self.repository.enter_attempt(description.id, description.volume, &attempt).await
    }

    /// How many bytes the changes cover, measured once.
    async fn measured(&self) -> Result<u64> {
        let measure = || async {
            let scan = self.scan(Blocks::ZERO);
            self.worker.start(move || scan.measure()).await?
        };
        self.measured.get_or_try_init(measure).await.copied()
    }

    fn scan(&self, from: Blocks) -> Scan {
        Scan {
            source: Arc::clone(&self.request.source),
            changes: Arc::clone(&self.request.changes),
            from,
            // Without a base nothing older lies beneath.
            keep_zeroes: matches!(self.request.against, Against::Base(_)),
            progress: self.request.progress.clone(),
            cancel: self.stop.clone(),
        }
    }

    fn transfer(&self, upload: UploadId) -> Transfer {
        let Request { description, parameters, progress, .. } = &self.request;
        Transfer::new(&self.repository, description.id, upload, &self.worker, parameters, progress)
    }

    /// Stores everything that the root refers to, and returns the root to be committed.
    async fn store(&self, begun: Begun, pinned: &Pinned, transfer: &mut Transfer) -> Result<Root> {
        let Begun { mut level, mut journal, packs, .. } = begun;
        let Request { description, against, .. } = &self.request;
        let (base, method) = match against {
            Against::Nothing | Against::Anew => (None, Method::Full),
            Against::Base(_) => (pinned.base.as_ref(), Method::Incremental),
            Against::Content(_) => (None, Method::Compared),
        };
        transfer.remember(packs);
        // A full run that was not put before the interruption.
        transfer.put_full_run(&mut level, &mut journal).await?;
        let scanned = self.scan_into(transfer, pinned, &mut level, &mut journal);
        futures::try_join!(self.sample(base), scanned)?;
        if let Some(base) = base {
            hide_past_end(&mut level, &self.request, base)?;
        }

        let mut statistics = level.statistics;
        let new_bytes = level.writer.data().bytes();
        let (runs, stored_bytes, data_bytes) = self.store_runs(transfer, &mut level, base).await?;
        statistics.uploaded_bytes += stored_bytes;
        let kept_bytes = base.map_or(0, |base| base.statistics.data_bytes);
        statistics.data_bytes =
            data_bytes.unwrap_or(kept_bytes.saturating_add(new_bytes)).min(description.capacity_bytes);
        statistics.offload_millis = millis(self.started.elapsed());
        Ok(Root {
            description: description.clone(),
            upload: level.writer.upload(),
            method,
            base: against.snapshot(),
            runs,
            pending: Vec::new(),
            repaired_at: None,
            statistics,
        })
    }

    /// What the scan is compared with: where there is no base, all that is pinned; where there is, the base, if so much
    /// changed that moved content is worth looking for.
    async fn comparison(&self, pinned: &Pinned) -> Result<Comparison> {
        let mut comparison = Comparison::new(&self.repository);
        if let Some(base) = &pinned.base {
            let is_large = self.measured().await? >= LARGE_CHANGE_BYTES;
            if is_large || !matches!(self.request.against, Against::Base(_)) {
                comparison.add(base, true);
            }
        }
        pinned.related.iter().for_each(|root| comparison.add(root, false));
        Ok(comparison)
    }

    /// Compares a few blocks that are held to be unchanged with the base, if there is one.
    async fn sample(&self, base: Option<&Root>) -> Result<()> {
        let Some(base) = base else { return Ok(()) };
        let sample = Sample {
            repository: self.repository.clone(),
            worker: self.worker.clone(),
            volume: self.request.description.volume,
            source: Arc::clone(&self.request.source),
            changes: Arc::clone(&self.request.changes),
        };
        sample.compare(base).await
    }

    /// Scans the cut on a thread of its own and stores what changed.
    async fn scan_into(
        &self,
        transfer: &mut Transfer,
        pinned: &Pinned,
        level: &mut Level,
        journal: &mut Journal,
    ) -> Result<()> {
        let scan = self.scan(level.position);
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
        let comparison = self.comparison(pinned).await?;
        transfer.run(receiver, comparison, level, journal).await?;
        scanning.await??;
        // For the progress alone, where nobody asked before.
        self.measured().await.map(drop)
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

/// Puts zeroes over what a base that is larger than the image holds past the image's end: a larger image that is built on
/// this one would find it there otherwise.
fn hide_past_end(level: &mut Level, request: &Request, base: &Root) -> Result<()> {
    let first = request.source.capacity();
    let end = Blocks(base.description.capacity_bytes.div_ceil(BLOCK_SIZE));
    if end <= first {
        return Ok(());
    }
    let range = BlockRange { first, count: end - first };
    level.writer.push(&Extent { range, place: Place::Zero })
}

fn millis(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
