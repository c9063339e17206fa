//! What a check says in the end.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use super::Level;
use crate::id::{SnapshotId, VolumeId};

/// A damaged object, and what it hurts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The object's key in the bucket.
    pub object: String,
    /// What does not fit; the first such thing where there are several.
    pub reason: String,
    /// The snapshots that it hurts. None where nothing that a snapshot still shows lies in what is damaged.
    pub hurt: Vec<Hurt>,
}

/// What a damaged object takes from one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hurt {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its volume; absent where the damaged object is the root, which would name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeId>,
    /// Byte ranges (start, length) of the volume that cannot be restored, ascending; none where all of it is hurt.
    /// Where there are very many, neighbouring ones are given as one.
    pub ranges: Vec<(u64, u64)>,
}

/// Which part of the packs was read byte by byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Packs that were read.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that the runs refer to.
    pub of_packs: u64,
    /// Their bytes.
    pub of_bytes: u64,
}

/// How far a pass over all packs has come, this run included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PassReport {
    /// When its first run began.
    pub began_at: Timestamp,
    /// Packs looked at in it.
    pub packs: u64,
    /// Packs that the runs refer to.
    pub of_packs: u64,
    /// Whether that is all.
    pub complete: bool,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How deep it looked.
    pub level: Level,
    /// Roots checked.
    pub snapshots: u64,
    /// Runs checked.
    pub runs: u64,
    /// Packs checked; 0 below [`Level::Presence`].
    pub packs: u64,
    /// Chunks checked; 0 below [`Level::Content`].
    pub chunks: u64,
    /// Bytes of runs and packs read from the store.
    pub read_bytes: u64,
    /// Which part of the packs was read byte by byte; at [`Level::Content`] alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Coverage>,
    /// How far the pass has come that this run is a part of; where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<PassReport>,
    /// Everything damaged, ordered by key; empty when the repository is whole.
    pub damages: Vec<Damage>,
}

impl Report {
    /// The snapshots that damage hurts, ordered by id.
    #[must_use]
    pub fn hurt_snapshots(&self) -> BTreeSet<SnapshotId> {
        self.damages.iter().flat_map(|damage| &damage.hurt).map(|hurt| hurt.snapshot).collect()
    }

    /// Damage that takes nothing from any snapshot.
    pub fn harmless(&self) -> impl Iterator<Item = &Damage> {
        self.damages.iter().filter(|damage| damage.hurt.is_empty())
    }
}
