//! Roots and tombstones: the commit point of every offload, and of every deletion.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::UpdateVersion;

use super::{
    Deletion, FETCHES, Repository, SnapshotState,
    names::{SNAPSHOTS, snapshot_key},
};
use crate::{
    Error, ErrorKind, Result,
    format::header::{self, Kind},
    id::{SnapshotId, UploadId},
    mutation::Mutation,
    record::snapshot::{Root, Tombstone},
    store::{Created, Entry},
};

/// How often a deletion looks again after somebody else changed what it was about to change. A snapshot's key
/// changes twice in its life, so this is never reached by rivals alone.
const DELETION_ROUNDS: usize = 8;

impl Repository {
    /// Reads what stands at a snapshot's key.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub async fn snapshot(&self, id: SnapshotId) -> Result<SnapshotState> {
        let state = match self.read_snapshot(id).await? {
            Some((Standing::Root(root), _)) => SnapshotState::Committed(root),
            Some((Standing::Tombstone(tombstone), _)) => SnapshotState::Gone(tombstone),
            None => SnapshotState::Absent,
        };
        self.recent().saw(id, state.root());
        Ok(state)
    }

    /// Returns what stood at a snapshot's key when this process looked last, if that was a root, and reads it otherwise.
    /// For those who find out later, from the store, whether it still stands.
    ///
    /// # Errors
    /// Those of [`snapshot`](Self::snapshot).
    pub async fn snapshot_lately(&self, id: SnapshotId) -> Result<SnapshotState> {
        match self.recent().root(id) {
            Some(root) => Ok(SnapshotState::Committed(Box::new(Arc::unwrap_or_clone(root)))),
            None => self.snapshot(id).await,
        }
    }

    /// Finds the id under which a snapshot of that name stands or may be made: the first generation without a
    /// tombstone, and what is there.
    ///
    /// A generation is made only when the one before it is gone, so the tombstones of a name fill its generations
    /// from 0 without a gap. Their end is found by doubling and then halving: some 2 log2(n) reads.
    ///
    /// # Errors
    /// The store's.
    pub async fn current_snapshot(&self, name: &str) -> Result<(SnapshotId, Option<Box<Root>>)> {
        // Every generation below `gone` has a tombstone. One whose `next` has none is searched for.
        let mut gone = 0;
        let mut next = 0;
        let mut found = loop {
            match self.standing_generation(name, next).await? {
                Some(current) => break current,
                None => {
                    gone = next + 1;
                    next = gone * 2;
                }
            }
        };
        while gone < next {
            let middle = gone + (next - gone) / 2;
            match self.standing_generation(name, middle).await? {
                Some(current) => {
                    found = current;
                    next = middle;
                }
                None => gone = middle + 1,
            }
        }
        Ok(found)
    }

    /// Reads every root, ordered by id. Roots are immutable, so those read once are kept by their version.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub async fn snapshots(&self) -> Result<Vec<Arc<Root>>> {
        self.standings().await?.into_iter().filter_map(|(_, root)| root.transpose()).collect()
    }

    /// Reads what stands at every snapshot's key, ordered by id, from memory where it was read before: a root, or
    /// `None` for a tombstone. What is damaged is an error in its own place.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn standings(&self) -> Result<Vec<(SnapshotId, Result<Option<Arc<Root>>>)>> {
        let listed: Vec<(SnapshotId, Entry)> = self.list_ids(SNAPSHOTS).await?;
        self.inner.roots.retain(&listed.iter().map(|(id, _)| *id).collect::<HashSet<_>>());
        stream::iter(listed)
            .map(|(id, entry)| async move {
                match self.listed_root(id, entry.version).await {
                    Err(error) if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => Err(error),
                    standing => Ok((id, standing)),
                }
            })
            .buffered(FETCHES)
            .try_collect()
            .await
    }

    /// Deletes a snapshot, or cancels one that is being written: afterwards a tombstone stands at its key. A root that
    /// is damaged is deleted like any other, as [`Deletion::Cancelled`].
    ///
    /// A full store is no obstacle while it has its [reserve](super::reserve).
    ///
    /// # Errors
    /// The store's. On a transient one it is unknown whether the tombstone stands; calling again settles it.
    pub async fn delete_snapshot(&self, id: SnapshotId, reason: &str) -> Result<Deletion> {
        let key = snapshot_key(id);
        let nonce = UploadId::from_bytes(self.seams().random());
        let tombstone = Tombstone { id, nonce, reason: reason.into(), deleted_at: self.seams().clock.now() };
        let bytes = self.seal(Kind::Tombstone, &key, &tombstone)?;
        self.recent().saw(id, None);
        match self.put_tombstone(id, nonce, &bytes).await {
            // Some stores that are full say no more than that they failed.
            Err(error) if matches!(error.kind(), ErrorKind::Full | ErrorKind::Unavailable) => {
                if !self.spend_reserve().await {
                    return Err(error);
                }
                self.put_tombstone(id, nonce, &bytes).await
            }
            decided => decided,
        }
    }

    /// Puts a tombstone, sealed as `bytes`, where nothing or a root stands.
    async fn put_tombstone(&self, id: SnapshotId, nonce: UploadId, bytes: &Bytes) -> Result<Deletion> {
        let key = snapshot_key(id);
        let is_mine = |found: &[u8]| matches!(self.open_standing(id, found), Ok(Standing::Tombstone(tombstone)) if tombstone.nonce == nonce);
        for _ in 0..DELETION_ROUNDS {
            let Some((found, version)) = self.store().get(&key).await? else {
                match self.store().create(&key, bytes.clone(), is_mine).await? {
                    Created::Created => return Ok(Deletion::Cancelled),
                    Created::Theirs(_) => continue,
                }
            };
            let deletion = match self.open_standing(id, &found) {
                Ok(Standing::Tombstone(_)) => return Ok(Deletion::AlreadyGone),
                Ok(Standing::Root(root)) => Deletion::Deleted(root),
                // Damage must not make a snapshot undeletable; it is gone either way.
                Err(Error::Corrupt { reason, .. }) => {
                    tracing::warn!(snapshot = %id, reason, "deleting a snapshot whose record is damaged");
                    Deletion::Cancelled
                }
                Err(error) => return Err(error),
            };
            if self.seams().broken(Mutation::TombstoneLast)
                && let Deletion::Deleted(root) = &deletion
            {
                let runs = root.runs.iter().map(|run| crate::run::key(run.id)).collect();
                self.store().delete_many(runs).await?;
            }
            match self.store().replace(&key, bytes.clone(), &version, is_mine).await {
                Ok(_) => return Ok(deletion),
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict { object: key })
    }

    /// Commits a snapshot: puts its root, once everything that it refers to is there. Committing again is fine.
    ///
    /// # Errors
    /// `Cancelled` where a tombstone stands there, `Conflict` where another attempt committed first.
    pub(crate) async fn commit_root(&self, root: &Root) -> Result<()> {
        let id = root.description.id;
        let key = snapshot_key(id);
        let bytes = self.seal(Kind::Root, &key, root)?;
        let is_mine = |found: &[u8]| matches!(self.open_standing(id, found), Ok(Standing::Root(found)) if found.upload == root.upload);
        match self.store().create(&key, bytes, is_mine).await? {
            Created::Created => {
                self.recent().saw(id, Some(root));
                Ok(())
            }
            Created::Theirs(found) => Err(match self.open_standing(id, &found)? {
                Standing::Root(_) => Error::Conflict { object: key },
                Standing::Tombstone(tombstone) => Error::Cancelled { snapshot: id, reason: tombstone.reason },
            }),
        }
    }

    /// Returns what stands at a generation of a name, unless it is a tombstone.
    async fn standing_generation(
        &self,
        name: &str,
        generation: u64,
    ) -> Result<Option<(SnapshotId, Option<Box<Root>>)>> {
        let id = self.snapshot_id(name, generation);
        Ok(match self.snapshot(id).await? {
            SnapshotState::Absent => Some((id, None)),
            SnapshotState::Committed(root) => Some((id, Some(root))),
            SnapshotState::Gone(_) => None,
        })
    }

    /// Returns the root that a listing showed, from memory where that version of it was read before.
    pub(crate) async fn listed_root(&self, id: SnapshotId, version: Option<String>) -> Result<Option<Arc<Root>>> {
        if let Some(known) = self.inner.roots.get(id, version.as_deref()) {
            return Ok(known);
        }
        let Some((standing, _)) = self.read_snapshot(id).await? else { return Ok(None) };
        let root = match standing {
            Standing::Root(root) => Some(Arc::from(root)),
            Standing::Tombstone(_) => None,
        };
        self.inner.roots.insert(id, version, root.clone());
        Ok(root)
    }

    async fn read_snapshot(&self, id: SnapshotId) -> Result<Option<(Standing, UpdateVersion)>> {
        match self.store().get(&snapshot_key(id)).await? {
            Some((bytes, version)) => Ok(Some((self.open_standing(id, &bytes)?, version))),
            None => Ok(None),
        }
    }

    pub(super) fn open_standing(&self, id: SnapshotId, bytes: &[u8]) -> Result<Standing> {
        let key = snapshot_key(id);
        match header::read(bytes, &key)? {
            Kind::Tombstone => Ok(Standing::Tombstone(self.unseal(Kind::Tombstone, &key, bytes)?)),
            // Whatever else it claims to be, it is judged as a root, and named so in the error.
            _ => Ok(Standing::Root(self.unseal(Kind::Root, &key, bytes)?)),
        }
    }
}

/// What stands at a snapshot's key, where something does.
pub(super) enum Standing {
    Root(Box<Root>),
    Tombstone(Tombstone),
}
