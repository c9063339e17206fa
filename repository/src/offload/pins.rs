//! What an attempt may refer to beside its own: its base, and snapshots of other volumes that may hold the same.
//!
//! An offload without a base sends everything that is allocated. Volumes of one kind hold much in common (ten gateways
//! with the same image of state), so it looks for that in snapshots lately committed.
//!
//! # Crash consistency
//! A pin counts from the moment at which the snapshot was seen to be a root with those very runs, behind the intent that
//! holds the pin: from then on a collector keeps what the runs hold, whatever becomes of the root. What was a root before,
//! and is gone or repaired by then, is not referred to.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use futures::{StreamExt, TryStreamExt, future::join_all, stream};

use super::Request;
use crate::{
    Error, ErrorKind, Repository, Result, SnapshotState,
    id::{SnapshotId, VolumeId},
    record::{
        intent::Pin,
        snapshot::{Root, SnapshotDescription},
        volume::Source,
    },
    repository::names,
    store::Entry,
};

/// How many of the snapshots committed last are considered.
const CONSIDERED: usize = 64;

/// How many snapshots of other volumes are pinned at most.
const RELATED: usize = 8;

/// How many of them are read at once.
const READS: usize = 16;

/// An offload of less sends everything: the requests would cost more than they save.
const WORTHWHILE_BYTES: u64 = 1 << 20;

/// Snapshots that an attempt may refer to.
#[derive(Debug, Default)]
pub(super) struct Pinned {
    /// What the offload is against, if it is against a snapshot.
    pub(super) base: Option<Root>,
    /// Snapshots of other volumes, the likeliest first.
    pub(super) related: Vec<Root>,
}

impl Pinned {
    /// How an intent pins them.
    pub(super) fn pins(&self) -> Vec<Pin> {
        self.base.iter().chain(&self.related).map(Pin::of).collect()
    }
}

/// Returns the root that the offload is against, as this process saw it last: whether it still stands is looked up behind
/// the intent.
///
/// # Errors
/// `BaseGone` where it is known to be none any more.
pub(super) async fn base(repository: &Repository, request: &Request) -> Result<Option<Root>> {
    let Some(base) = request.against.snapshot() else { return Ok(None) };
    match repository.snapshot_lately(base).await? {
        SnapshotState::Committed(root) => Ok(Some(*root)),
        _ => Err(Error::BaseGone { snapshot: request.description.id, base }),
    }
}

/// Looks behind the intent whether what it pins are still roots with the same runs; `None` where the base was repaired
/// meanwhile, so that it is to be pinned anew.
///
/// # Errors
/// `BaseGone`, and those of the store.
pub(super) async fn verify(repository: &Repository, request: &Request, pins: &[Pin]) -> Result<Option<Pinned>> {
    // From the store in any case: what is remembered may be gone.
    let read = join_all(pins.iter().map(|pin| repository.snapshot(pin.snapshot))).await;
    let mut pinned = Pinned::default();
    for (pin, read) in pins.iter().zip(read) {
        let is_base = Some(pin.snapshot) == request.against.snapshot();
        match read {
            Ok(SnapshotState::Committed(root)) if root.runs == pin.runs => match is_base {
                true => pinned.base = Some(*root),
                false => pinned.related.push(*root),
            },
            Ok(SnapshotState::Committed(_)) if is_base => return Ok(None),
            Ok(_) if is_base => {
                return Err(Error::BaseGone { snapshot: request.description.id, base: pin.snapshot });
            }
            Ok(_) => tracing::info!(snapshot = %pin.snapshot, "a related snapshot is gone or was repaired"),
            Err(error @ Error::Corrupt { .. }) if !is_base => {
                tracing::warn!(%error, "nothing of a damaged snapshot is referred to");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(pinned))
}

/// Finds snapshots of other volumes that may hold much of what an offload of `bytes` scans, the likeliest first: what the
/// volume was filled from, then those of the same shape, then the newest.
///
/// # Errors
/// Those of the store. What is damaged is passed over.
pub(super) async fn related(repository: &Repository, request: &Request, bytes: u64) -> Result<Vec<Root>> {
    if bytes < WORTHWHILE_BYTES {
        return Ok(Vec::new());
    }
    let description = &request.description;
    let (source, newest) = futures::try_join!(source_of(repository, description), newest_roots(repository))?;
    let mut roots = newest;
    if let Some(Source::Snapshot(snapshot)) = source
        && roots.iter().all(|root| root.description.id != snapshot)
        && let Ok(SnapshotState::Committed(root)) = repository.snapshot(snapshot).await
    {
        roots.push(Arc::from(root));
    }
    let likelihood = |root: &Root| {
        let other = &root.description;
        let is_source = match source {
            Some(Source::Snapshot(snapshot)) => other.id == snapshot,
            Some(Source::Volume(volume)) => other.volume == volume,
            None => false,
        };
        let presented_alike = other.presentation == description.presentation;
        let of_equal_size = other.capacity_bytes == description.capacity_bytes;
        (is_source, presented_alike, of_equal_size, other.created_at, other.id)
    };
    roots.retain(|root| {
        let known =
            root.description.volume == description.volume || Some(root.description.id) == request.against.snapshot();
        !known && !root.runs.is_empty()
    });
    roots.sort_unstable_by_key(|root| Reverse(likelihood(root)));
    let mut volumes: BTreeSet<VolumeId> = BTreeSet::new();
    roots.retain(|root| volumes.insert(root.description.volume));
    roots.truncate(RELATED);
    Ok(roots.into_iter().map(Arc::unwrap_or_clone).collect())
}

/// What the volume was filled from, where its record still says so.
async fn source_of(repository: &Repository, description: &SnapshotDescription) -> Result<Option<Source>> {
    match repository.volume(description.volume).await {
        Ok(volume) => Ok(volume
            .filter(|volume| volume.value.incarnation == description.incarnation)
            .and_then(|volume| volume.value.source)),
        Err(Error::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the roots that were put last, as the store's listing tells it. That is a hint: nothing depends on it but how
/// much is found.
async fn newest_roots(repository: &Repository) -> Result<Vec<Arc<Root>>> {
    let mut listed: Vec<(SnapshotId, Entry)> = repository.list_ids(names::SNAPSHOTS).await?;
    listed.sort_unstable_by_key(|(id, entry)| (Reverse(entry.modified), *id));
    listed.truncate(CONSIDERED);
    let read = |(id, entry): (SnapshotId, Entry)| async move {
        match repository.listed_root(id, entry.version).await {
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                tracing::warn!(%error, "nothing of a damaged snapshot is referred to");
                Ok(None)
            }
            read => read,
        }
    };
    let read: Vec<Option<Arc<Root>>> = stream::iter(listed).map(read).buffered(READS).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}
