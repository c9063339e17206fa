//! One attempt at an offload: what is done in which order.
//!
//! # Crash consistency
//! The intent is put first. Behind it, side by side: the pins are looked at again, packs are put, and the new level's runs
//! with the last of them. The root is put when all of that has ended well. Nothing before the root is more than garbage of
//! its upload, which the intent holds until the snapshot is decided; so it does no harm that packs were put whose pins turn
//! out to be gone.

use std::{
    io, mem,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::{Either, select};
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Against, Request,
    begin::{Beginning, Begun},
    budget::{LAST_BYTES, SCAN_AHEAD, offload_bytes},
    compare::Comparison,
    journal::Journal,
    level::Level,
    pins::{self, Pinned},
    remembered::Remembered,
    runs::Stored,
    scan::{READS_AHEAD, Scan},
    transfer::{LastPut, Transfer},
};
use crate::{
    Error, Repository, Result,
    block::Blocks,
    id::{SnapshotId, UploadId},
    memory::Lease,
    mutation::Mutation,
    record::snapshot::{Method, Root},
    seam::Work,
    work::{Worker, joined},
};

/// How often an attempt pins its base anew where that was repaired in the moment in between.
const PIN_ROUNDS: usize = 3;

/// So many changed bytes are looked for in the base: content that moved is worth the requests then.
const LARGE_CHANGE_BYTES: u64 = 64 << 20;

/// One attempt.
pub(super) struct Attempt {
    pub(super) repository: Repository,
    pub(super) request: Request,
    pub(super) worker: Worker,
    stop: CancellationToken,
    started: Instant,
    measured: OnceCell<u64>,
}

/// What stays behind of an offload whose snapshot is decided: its intent, and its journal. Whoever drops it leaves the
/// intent to the next collection.
#[derive(Debug)]
#[must_use = "what is left behind is to be cleared away"]
pub struct Leftover {
    repository: Repository,
    snapshot: SnapshotId,
    journal: Option<PathBuf>,
}

impl Leftover {
    /// Removes it, which takes a request. What cannot be removed now is found by the next collection.
    pub async fn clear(self) {
        let Self { repository, snapshot, journal } = self;
        if let Err(error) = repository.remove_intent(snapshot).await {
            tracing::warn!(%snapshot, %error, "the intent of a decided snapshot stays behind");
        }
        let worker = Worker::new(repository.seams().work);
        let _ = worker.start(move || Journal::remove(journal.as_deref())).await;
    }
}

impl Attempt {
    /// Prepares one. Blocking work is done through the worker, so that its end can be awaited, and heeds `stop`.
    pub(super) fn new(repository: &Repository, request: Request, worker: Worker, stop: CancellationToken) -> Self {
        let changes = Arc::new(Remembered::new(Arc::clone(&request.changes)));
        Self {
            repository: repository.clone(),
            request: Request { changes, ..request },
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
    pub(super) async fn run(self) -> Result<(Root, Leftover)> {
        self.validate()?;
        let leftover = Leftover {
            repository: self.repository.clone(),
            snapshot: self.request.description.id,
            journal: self.request.journal.clone(),
        };
        match Box::pin(self.commit()).await {
            Ok(root) => Ok((root, leftover)),
            Err(error @ Error::Cancelled { .. }) => {
                leftover.clear().await;
                Err(error)
            }
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

    /// Begins, stores and commits; begins anew where the base was repaired meanwhile.
    ///
    /// # Errors
    /// Those of [`Repository::offload`].
    async fn commit(&self) -> Result<Root> {
        let mut begun = match self.begin().await? {
            Beginning::Committed(root) => return Ok(*root),
            Beginning::Begun(begun) => *begun,
        };
        for round in 1..=PIN_ROUNDS {
            if let Some(root) = Box::pin(self.carry_out(begun)).await? {
                return Ok(root);
            }
            if round == PIN_ROUNDS {
                break;
            }
            tracing::info!("the base was repaired meanwhile: beginning anew");
            begun = self.begin_anew().await?;
        }
        let snapshot = self.request.description.id;
        Err(Error::BaseGone { snapshot, base: self.request.against.snapshot().unwrap_or(snapshot) })
    }

    /// Stores what has been begun and commits it; `None` where the base was repaired meanwhile.
    async fn carry_out(&self, begun: Begun) -> Result<Option<Root>> {
        let mut transfer = self.transfer(begun.level.writer.upload());
        let root = match Box::pin(self.store_pinned(begun, &mut transfer)).await {
            Ok(Some(root)) => root,
            Ok(None) => return Ok(None),
            // Decided meanwhile: what stands there says how. What is pinned is not kept any longer then, and may be missing.
            Err(error @ (Error::Conflict { .. } | Error::Cancelled { .. } | Error::Corrupt { .. })) => {
                return self.standing().await?.ok_or(error).map(Some);
            }
            Err(error) => return Err(error),
        };
        if self.repository.seams().broken(Mutation::IntentRemovedEarly) {
            self.repository.remove_intent(self.request.description.id).await?;
        }
        let committed = self.repository.commit_root(&root).await;
        transfer.put_withheld().await?;
        match committed {
            Ok(()) => Ok(Some(root)),
            // Another attempt at the same cut was first, or a tombstone was: what stands there says.
            Err(error @ (Error::Conflict { .. } | Error::Cancelled { .. })) => {
                self.standing().await?.ok_or(error).map(Some)
            }
            Err(error) => Err(error),
        }
    }

    /// Stores everything that the root refers to, and returns the root to be committed, once the pins were seen to stand
    /// behind the intent; `None` where the base was repaired meanwhile.
    ///
    /// An attempt that pins nothing but what it is against need not wait for that look: if it turns out badly, what was stored
    /// meanwhile is not used.
    async fn store_pinned(&self, mut begun: Begun, transfer: &mut Transfer) -> Result<Option<Root>> {
        let (pins, chosen) = (mem::take(&mut begun.pins), begun.chosen.take());
        let unchecked = chosen.is_some() && self.repository.seams().broken(Mutation::NoPinCheck);
        let (repository, request) = (&self.repository, &self.request);
        let chosen = match chosen {
            Some(chosen) if unchecked => return self.store(begun, &chosen, transfer).await.map(Some),
            Some(chosen) if chosen.related.is_empty() => chosen,
            _ => {
                let Some(pinned) = pins::verify(repository, request, &pins).await? else { return Ok(None) };
                return self.store(begun, &pinned, transfer).await.map(Some);
            }
        };
        let verify = pin!(pins::verify(repository, request, &pins));
        let store = pin!(self.store(begun, &chosen, transfer));
        match select(verify, store).await {
            Either::Left((verified, store)) => match verified? {
                Some(_) => store.await.map(Some),
                None => Ok(None),
            },
            // Whatever it was that failed, that the pins are gone explains it.
            Either::Right((stored, verify)) => match verify.await? {
                Some(_) => stored.map(Some),
                None => Ok(None),
            },
        }
    }

    /// How many bytes the changes cover, measured once.
    pub(super) async fn measured(&self) -> Result<u64> {
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
            reads_ahead: match self.worker.place() {
                Work::Threads if self.request.source.reads_at_once() => READS_AHEAD,
                Work::Threads | Work::Inline => 0,
            },
            // Without a base nothing older lies beneath.
            keep_zeroes: matches!(self.request.against, Against::Base(_)),
            progress: self.request.progress.clone(),
            stages: self.request.progress.stages().clone(),
            cancel: self.stop.clone(),
        }
    }

    fn transfer(&self, upload: UploadId) -> Transfer {
        let Request { description, parameters, progress, .. } = &self.request;
        Transfer::new(&self.repository, description.id, upload, &self.worker, parameters, progress)
    }

    /// Stores everything that the root refers to, and returns the root to be committed.
    async fn store(&self, begun: Begun, pinned: &Pinned, transfer: &mut Transfer) -> Result<Root> {
        let Begun { mut level, mut journal, packs, sampling, .. } = begun;
        let Request { description, against, .. } = &self.request;
        let (base, method) = match against {
            Against::Nothing | Against::Anew => (None, Method::Full),
            Against::Base(_) => (pinned.base.as_ref(), Method::Incremental),
            Against::Content(_) => (None, Method::Compared),
        };
        // The one wait for memory: nothing is held yet.
        let memory = self.repository.memory();
        let lease = memory.lease(offload_bytes(memory)).await;
        let sampling = sampling.or_else(|| base.and_then(|base| self.start_sampling(base)));
        let sampled = async {
            match sampling {
                Some(sampling) => joined(sampling.await)?,
                None => Ok(()),
            }
        };
        transfer.remember(packs);
        // A full run that was not put before the interruption.
        transfer.put_full_run(&mut level, &mut journal).await?;
        let stored = self.store_level(transfer, pinned, base, &mut level, &mut journal, lease);
        let ((), (new_bytes, stored)) = futures::try_join!(sampled, stored)?;

        let mut statistics = level.statistics;
        statistics.uploaded_bytes += stored.put_bytes;
        let kept_bytes = base.map_or(0, |base| base.statistics.data_bytes);
        statistics.data_bytes =
            stored.data_bytes.unwrap_or(kept_bytes.saturating_add(new_bytes)).min(description.capacity_bytes);
        statistics.offload_millis = millis(self.started.elapsed());
        Ok(Root {
            description: description.clone(),
            upload: level.writer.upload(),
            method,
            base: against.snapshot(),
            runs: stored.runs,
            pending: Vec::new(),
            repaired_at: None,
            statistics,
        })
    }

    /// Stores what changed, and the runs of the root with the last pack; returns how many bytes of data the new level holds.
    async fn store_level(
        &self,
        transfer: &mut Transfer,
        pinned: &Pinned,
        base: Option<&Root>,
        level: &mut Level,
        journal: &mut Journal,
        mut lease: Lease,
    ) -> Result<(u64, Stored)> {
        let last = self.scan_into(transfer, pinned, level, journal).await?;
        // Another offload may begin to scan while this one waits for the store.
        lease.keep(LAST_BYTES);
        if let Some(base) = base {
            self.hide_past_end(level, base)?;
        }
        let new_bytes = level.writer.data().bytes();
        let stored = self.store_runs(transfer, level, base);
        let ((), stored) = futures::try_join!(last.stored(), stored)?;
        Ok((new_bytes, stored))
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

    /// Scans the cut on a thread of its own and stores what changed, up to the last pack, which is on its way.
    async fn scan_into(
        &self,
        transfer: &mut Transfer,
        pinned: &Pinned,
        level: &mut Level,
        journal: &mut Journal,
    ) -> Result<LastPut> {
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
        let last = transfer.run(receiver, comparison, level, journal).await?;
        scanning.await??;
        // For the progress alone, where nobody asked before.
        self.measured().await?;
        Ok(last)
    }
}

fn millis(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
