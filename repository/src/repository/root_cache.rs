//! Roots and tombstones read before, so that listing every snapshot costs one listing and the few that are new.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{id::SnapshotId, record::snapshot::Root};

/// Most entries kept: some 100 MiB of roots.
const LIMIT: usize = 65_536;

/// What was read at a snapshot's key when a listing showed that version of it.
///
/// # Invariants
///
/// What stands at a snapshot's key changes once at most, from a root to a tombstone, so a version seen before stands
/// for the same record as before.
#[derive(Debug, Default)]
pub(super) struct RootCache(Mutex<HashMap<SnapshotId, Cached>>);

#[derive(Debug)]
struct Cached {
    version: String,
    /// `None` stands for a tombstone.
    root: Option<Arc<Root>>,
}

impl RootCache {
    /// Returns what was read at that version: a root, or `Some(None)` for a tombstone; `None` where it is not known.
    pub(super) fn get(&self, id: SnapshotId, version: Option<&str>) -> Option<Option<Arc<Root>>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(&id).filter(|cached| Some(cached.version.as_str()) == version).map(|cached| cached.root.clone())
    }

    /// Remembers what was read at that version, while there is room.
    pub(super) fn insert(&self, id: SnapshotId, version: Option<String>, root: Option<Arc<Root>>) {
        let Some(version) = version else { return };
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() < LIMIT || entries.contains_key(&id) {
            entries.insert(id, Cached { version, root });
        }
    }

    /// Forgets everything that a full listing did not show.
    pub(super) fn retain(&self, listed: &HashSet<SnapshotId>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| listed.contains(id));
    }
}
