//! Copying one snapshot: an offload whose image is the snapshot in the first repository.

use std::{error::Error as _, path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    Outcome,
    source::{Fault, Source},
};
use crate::{
    Error, ErrorKind, Repository, Result, SnapshotState,
    offload::{Against, Request},
    progress::Progress,
    record::{snapshot::Root, volume::OffloadParameters},
};

/// One snapshot to be copied.
pub(super) struct Job<'a> {
    pub(super) from: &'a Repository,
    pub(super) to: &'a Repository,
    pub(super) root: Arc<Root>,
    /// Snapshots that are roots in both, as the first repository has them; what to build on, best first.
    pub(super) bases: Vec<Arc<Root>>,
    pub(super) parameters: OffloadParameters,
    pub(super) journal: Option<PathBuf>,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a CancellationToken,
}

/// What one try came to.
enum Try {
    Done(Outcome),
    /// Something is the matter with the base, or with what lies between it and the snapshot.
    Unfit(Error),
}

impl Job<'_> {
    /// Copies it against each base in turn until one is fit, and against nothing where none is.
    ///
    /// # Errors
    /// Those that the next snapshot would meet as well.
    pub(super) async fn run(self) -> Result<Outcome> {
        let snapshot = self.root.description.id;
        for base in &self.bases {
            match self.attempt(Some(Arc::clone(base))).await? {
                Try::Done(outcome) => return Ok(outcome),
                Try::Unfit(error) => {
                    let base = base.description.id;
                    tracing::warn!(%snapshot, %base, error = chain(&error), "not building a copy on this base");
                }
            }
        }
        match self.attempt(None).await? {
            Try::Done(outcome) => Ok(outcome),
            Try::Unfit(error) => Ok(self.failed(self.to, &error)),
        }
    }

    async fn attempt(&self, base: Option<Arc<Root>>) -> Result<Try> {
        let stop = self.cancel.child_token();
        let has_base = base.is_some();
        let against = base.as_ref().map_or(Against::Nothing, |base| Against::Base(base.description.id));
        let source = match Source::open(self.from, base, Arc::clone(&self.root), stop.clone()).await {
            Ok(source) => Arc::new(source),
            Err(fault) => return self.judge(fault, has_base).await,
        };
        let request = Request {
            description: self.root.description.clone(),
            against,
            changes: Arc::clone(&source) as _,
            source: Arc::clone(&source) as _,
            journal: self.journal.clone(),
            parameters: self.parameters,
            progress: self.progress.clone(),
            cancel: self.cancel.clone(),
        };
        let result = Box::pin(self.to.offload(request)).await;
        stop.cancel();
        let error = match result {
            Ok(root) => {
                return Ok(Try::Done(Outcome::Copied {
                    method: root.method,
                    fetched_bytes: source.fetched(),
                    uploaded_bytes: root.statistics.uploaded_bytes,
                }));
            }
            Err(error) => error,
        };
        if self.cancel.is_cancelled() {
            return Err(Error::Interrupted);
        }
        if let Some(fault) = source.take_fault() {
            return self.judge(fault, has_base).await;
        }
        match error {
            Error::Cancelled { .. } => Ok(Try::Done(Outcome::DeletedThere)),
            error @ (Error::BaseGone { .. } | Error::Tracking { .. } | Error::Corrupt { .. }) if has_base => {
                Ok(Try::Unfit(error))
            }
            error if is_general(&error) => Err(error),
            error => Ok(Try::Done(self.failed(self.to, &error))),
        }
    }

    /// Decides what becomes of the snapshot when the first repository could not be read.
    async fn judge(&self, fault: Fault, has_base: bool) -> Result<Try> {
        let Fault { in_difference, error } = fault;
        if is_general(&error) {
            return Err(error);
        }
        let snapshot = self.root.description.id;
        if !matches!(self.from.snapshot(snapshot).await, Ok(SnapshotState::Committed(_)) | Err(_)) {
            forget(self.to, self.from, snapshot).await?;
            return Ok(Try::Done(Outcome::DeletedHere));
        }
        if in_difference && has_base {
            return Ok(Try::Unfit(error));
        }
        Ok(Try::Done(self.failed(self.from, &error)))
    }

    fn failed(&self, repository: &Repository, error: &Error) -> Outcome {
        Outcome::Failed { reason: blame(repository, error) }
    }
}

/// Ends what was begun in the copy of a snapshot that is gone in the original: an intent that nobody will ever decide
/// would keep its packs for ever.
pub(super) async fn forget(to: &Repository, from: &Repository, snapshot: crate::id::SnapshotId) -> Result<()> {
    if to.read_intent(snapshot).await?.is_some() {
        to.delete_snapshot(snapshot, &deleted_in(from)).await?;
        tracing::info!(%snapshot, "cancelled a copy: the snapshot was deleted in the original");
    }
    Ok(())
}

/// The reason that a tombstone gives for what was deleted in the original.
pub(super) fn deleted_in(from: &Repository) -> String {
    format!("deleted in repository {}", from.uuid())
}

/// Tells whether a failure is of a whole store and not of one snapshot.
pub(super) fn is_general(error: &Error) -> bool {
    matches!(error, Error::Interrupted)
        || matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Denied | ErrorKind::Full | ErrorKind::WrongKey)
        || matches!(error, Error::Location { .. })
}

/// Says which repository is to blame, and for what.
pub(super) fn blame(repository: &Repository, error: &Error) -> String {
    format!("{}: {}", repository.store().url(), chain(error))
}

/// Joins an error and its causes into one line.
pub(super) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
