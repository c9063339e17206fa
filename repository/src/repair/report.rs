//! What a repair says in the end.

use serde::Serialize;

use crate::{
    block::{BlockRange, Blocks},
    check,
    id::{SnapshotId, VolumeId},
};

/// Most ranges given of one kind for one snapshot.
const MAX_RANGES: usize = 4096;

/// How it is known that bytes are the right ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// They hash to the id of the chunk that was lost.
    Chunk,
    /// Where they are from holds the very same snapshot, and vouches for it: the id of the chunk that was lost is lost too,
    /// or not all of the chunk is there.
    Source,
}

/// A part of a snapshot that was brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Where it starts, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// Where it is from: a pack, an image on the node, or the mirror.
    pub source: String,
    /// How it is known to be right.
    pub proof: Proof,
}

/// What became of a hurt snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All of it can be restored again.
    Whole,
    /// More of it can be restored than before.
    Partly,
    /// It is as it was.
    Unchanged,
    /// It was deleted meanwhile.
    Gone,
}

/// A snapshot that was hurt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mended {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its volume; absent where only its root would name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeId>,
    /// What became of it; of a dry run, what would.
    pub outcome: Outcome,
    /// What was brought back, in the order of the image. Where there are very many ranges, neighbouring ones are given as
    /// one.
    pub recovered: Vec<Recovered>,
    /// What was not, likewise; the whole snapshot, of unknown length, where its root is lost and found nowhere.
    pub lost: Vec<crate::hydrate::Lost>,
}

/// What a repair found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing was changed: it says what would be.
    pub dry_run: bool,
    /// What the check before it found.
    pub found: check::Report,
    /// What became of each snapshot that was hurt, ordered by id.
    pub snapshots: Vec<Mended>,
}

impl Report {
    /// Tells whether a snapshot is still hurt, or would be.
    #[must_use]
    pub fn is_anything_lost(&self) -> bool {
        self.snapshots.iter().any(|mended| matches!(mended.outcome, Outcome::Partly | Outcome::Unchanged))
    }
}

/// Ranges in ascending order, each with what is to be said of it; neighbours of which the same is said are one.
#[derive(Debug)]
pub(super) struct Spans<T>(Vec<(BlockRange, T)>);

impl<T> Default for Spans<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialEq> Spans<T> {
    pub(super) fn add(&mut self, range: BlockRange, what: T) {
        let full = self.0.len() >= MAX_RANGES;
        match self.0.last_mut() {
            Some((last, said)) if *said == what && (full || last.end() == range.first) => {
                last.count = range.end() - last.first;
            }
            _ => self.0.push((range, what)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns them as bytes: start, length, and what is to be said.
    pub(super) fn into_bytes(self) -> impl Iterator<Item = (u64, u64, T)> {
        self.0.into_iter().map(|(range, what)| (range.first.bytes(), Blocks(range.count.0).bytes(), what))
    }
}
