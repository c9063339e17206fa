//! How an attempt begins: behind the journal of the one before it, or anew with an intent of its own.
//!
//! # Crash consistency
//! Whether the snapshot is decided already is looked up while the intent is put, and not before: where it is, the intent
//! is one of a decided snapshot, which holds nothing, and it is removed again or found by the next collection. Nothing else
//! is put before both are answered. Blocks held to be unchanged are compared from the start: that only reads.

use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::{
    Against,
    attempt::Attempt,
    journal::{Found, Journal, Opening},
    level::Level,
    pins::{self, Pinned},
    resume::{self, Recovered, Resumed},
    sample::Sample,
};
use crate::{
    Error, Result, SnapshotState,
    id::UploadId,
    mutation::Mutation,
    record::{
        intent::{self, Intent, Pin},
        snapshot::Root,
    },
    repository::{Versioned, names},
};

/// An attempt whose intent stands.
pub(super) struct Begun {
    pub(super) level: Level,
    pub(super) journal: Journal,
    /// Packs that it stored before it was interrupted.
    pub(super) packs: Vec<Recovered>,
    pub(super) pins: Vec<Pin>,
    /// What the pins were made of; nothing is known of that where the attempt is continued.
    pub(super) chosen: Option<Pinned>,
    /// The comparison of blocks held to be unchanged, where it has been started.
    pub(super) sampling: Option<Sampling>,
}

/// Blocks that are held to be unchanged being compared.
pub(super) type Sampling = AbortOnDropHandle<Result<()>>;

/// What an attempt finds at its beginning.
pub(super) enum Beginning {
    /// The snapshot is committed already.
    Committed(Box<Root>),
    /// It is to be stored.
    Begun(Box<Begun>),
}

impl Attempt {
    /// Returns the root that stands already.
    ///
    /// # Errors
    /// `Cancelled` where a tombstone stands, `Conflict` where the root is of another volume.
    pub(super) async fn standing(&self) -> Result<Option<Root>> {
        let description = &self.request.description;
        match self.repository.snapshot(description.id).await? {
            SnapshotState::Absent => Ok(None),
            SnapshotState::Committed(root) => {
                let same = root.description.volume == description.volume
                    && root.description.incarnation == description.incarnation;
                if !same {
                    return Err(Error::Conflict { object: names::snapshot_key(description.id) });
                }
                Ok(Some(*root))
            }
            SnapshotState::Gone(tombstone) => {
                Err(Error::Cancelled { snapshot: description.id, reason: tombstone.reason })
            }
        }
    }

    /// Begins, or goes on behind a journal.
    ///
    /// # Errors
    /// Those of [`standing`](Self::standing), `BaseGone` where the base is known to be no root any more, and the store's.
    pub(super) async fn begin(&self) -> Result<Beginning> {
        let snapshot = self.request.description.id;
        if self.repository.recent().root(snapshot).is_some()
            && let Some(root) = self.standing().await?
        {
            return Ok(Beginning::Committed(Box::new(root)));
        }
        let Some(found) = self.find_journal().await? else {
            // Both to their end: what was put is known to be put before it is cleared away.
            let (standing, begun) = futures::join!(self.standing(), self.begin_anew());
            return match standing? {
                Some(root) => Ok(Beginning::Committed(Box::new(root))),
                None => Ok(Beginning::Begun(Box::new(begun?))),
            };
        };
        let (standing, intent) = futures::join!(self.standing(), self.repository.read_intent(snapshot));
        if let Some(root) = standing? {
            return Ok(Beginning::Committed(Box::new(root)));
        }
        match self.begin_where_it_was(found, intent?).await? {
            Some(begun) => Ok(Beginning::Begun(Box::new(begun))),
            None => Ok(Beginning::Begun(Box::new(self.begin_anew().await?))),
        }
    }

    /// Takes up the attempt that a journal speaks of, if its intent still stands.
    async fn begin_where_it_was(&self, found: Found, intent: Option<Versioned<Intent>>) -> Result<Option<Begun>> {
        let Some(intent) = intent else { return Ok(None) };
        let Some(attempt) = intent.value.attempt(found.upload) else { return Ok(None) };
        let Some(resumed) = resume::resume(&self.repository, &self.worker, found).await? else { return Ok(None) };
        let Resumed { level, journal, packs } = resumed;
        self.request.progress.add_done(level.statistics.changed_bytes);
        Ok(Some(Begun { level, journal, packs, pins: attempt.pins.clone(), chosen: None, sampling: None }))
    }

    /// Enters a new attempt in the snapshot's intent.
    ///
    /// # Errors
    /// `BaseGone` where the base is known to be no root any more, and the store's.
    pub(super) async fn begin_anew(&self) -> Result<Begun> {
        let base = pins::base(&self.repository, &self.request).await?;
        // Reading needs no intent, and comparing takes longer than all else of a small offload.
        let sampling = base.as_ref().and_then(|base| self.start_sampling(base));
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
        Ok(Begun { level, journal, packs: Vec::new(), pins, chosen: Some(chosen), sampling })
    }

    /// Starts to compare a few blocks that are held to be unchanged with the base, if anything is held to be.
    pub(super) fn start_sampling(&self, base: &Root) -> Option<Sampling> {
        if !matches!(self.request.against, Against::Base(_)) {
            return None;
        }
        let sample = Sample {
            repository: self.repository.clone(),
            worker: self.worker.clone(),
            volume: self.request.description.volume,
            source: Arc::clone(&self.request.source),
            changes: Arc::clone(&self.request.changes),
        };
        let base = base.clone();
        Some(AbortOnDropHandle::new(self.worker.tracker().spawn(async move { sample.compare(&base).await })))
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
}
