//! Statistics of a repository, from its roots and listings alone: no pack is read.

use serde::Serialize;
use uuid::Uuid;

use crate::{Repository, Result};

/// Counts and sizes; bytes throughout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The repository's identity.
    pub uuid: Uuid,
    /// Volume records.
    pub volumes: u64,
    /// Committed snapshots.
    pub snapshots: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Offloads under way.
    pub uploads: u64,
    /// Packs, referenced or not.
    pub packs: u64,
    /// Bytes of all packs as stored.
    pub pack_bytes: u64,
    /// Runs, referenced or not.
    pub runs: u64,
    /// Bytes of all runs as stored.
    pub run_bytes: u64,
    /// Sum over snapshots of the volume's size at the cut.
    pub logical_bytes: u64,
    /// Sum over snapshots of what each added before compression.
    pub stored_bytes: u64,
}

impl Repository {
    /// Counts what is there.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub async fn stats(&self) -> Result<Stats> {
        unimplemented!()
    }
}
