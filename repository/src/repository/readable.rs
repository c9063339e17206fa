//! Roots for those who go on where one is damaged, and for those who put it right.

use std::sync::Arc;

use object_store::UpdateVersion;

use super::{Repository, names::snapshot_key, snapshots::Standing};
use crate::{
    Result,
    fault::Fault,
    format::header::{self, Kind},
    id::SnapshotId,
    record::snapshot::Root,
};

/// A root that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DamagedRoot {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What does not fit.
    pub reason: String,
}

/// Every snapshot that can be read, and those that cannot.
#[derive(Clone, Debug, Default)]
pub struct Readable {
    /// The roots that can be read, ordered by id.
    pub roots: Vec<Arc<Root>>,
    /// The others, ordered by id.
    pub damaged: Vec<DamagedRoot>,
}

/// What stands at a snapshot's key, damaged or not.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// Nothing.
    Absent,
    /// A root.
    Root(Box<Root>),
    /// A tombstone.
    Gone,
    /// What cannot be read; `tombstone` where it looks like one.
    Damaged { fault: Fault, tombstone: bool },
}

impl Repository {
    /// Reads every root that can be read. For people, and for restores of others; who decides by it what may be deleted
    /// needs [`snapshots`](Self::snapshots), which fails instead.
    ///
    /// # Errors
    /// The store's.
    pub async fn readable_snapshots(&self) -> Result<Readable> {
        let mut readable = Readable::default();
        for (snapshot, standing) in self.standings().await? {
            match Fault::sort(standing)? {
                Ok(root) => readable.roots.extend(root),
                Err(Fault { reason, .. }) => readable.damaged.push(DamagedRoot { snapshot, reason }),
            }
        }
        Ok(readable)
    }

    /// Reads what stands at a snapshot's key and, where something does, its version.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn find_snapshot(&self, id: SnapshotId) -> Result<(Found, Option<UpdateVersion>)> {
        let key = snapshot_key(id);
        let Some((bytes, version)) = self.store().get(&key).await? else { return Ok((Found::Absent, None)) };
        let found = match Fault::sort(self.open_standing(id, &bytes))? {
            Ok(Standing::Root(root)) => Found::Root(root),
            Ok(Standing::Tombstone(_)) => Found::Gone,
            Err(fault) => {
                Found::Damaged { fault, tombstone: matches!(header::read(&bytes, &key), Ok(Kind::Tombstone)) }
            }
        };
        Ok((found, Some(version)))
    }

    /// Replaces what stands at a snapshot's key by a root, if it still is as it was read.
    ///
    /// # Errors
    /// `Conflict` where it changed meanwhile, and the store's.
    pub(crate) async fn replace_root(&self, root: &Root, version: &UpdateVersion) -> Result<UpdateVersion> {
        let key = snapshot_key(root.description.id);
        let bytes = self.seal(Kind::Root, &key, root)?;
        let ours = bytes.clone();
        self.store().replace(&key, bytes, version, |found| found == ours).await
    }
}
