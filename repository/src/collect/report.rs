//! What a collection says: what it found, why, how much, and what that cost.

use std::{collections::BTreeMap, ops::AddAssign};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    id::{PackId, SnapshotId, UploadId, VolumeId},
    store::Requests,
};

/// A number of objects, and their bytes as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Objects.
    pub objects: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Amount {
    /// Counts one more object.
    pub(super) fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, more: Self) {
        self.objects += more.objects;
        self.bytes += more.bytes;
    }
}

/// What kind of object is garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `packs/<pack>`.
    Pack,
    /// `runs/<run>`.
    Run,
    /// `uploads/<snapshot>`.
    Intent,
    /// `relocated/<pack>`.
    Relocation,
}

/// Why an object is garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Of an attempt at a snapshot that another attempt committed, or that was cancelled.
    Abandoned,
    /// Of a snapshot that stands and refers to other objects now.
    Superseded,
    /// Of snapshots that were deleted, or of a writer, or repacker, of which nothing else is left.
    Unreferenced,
    /// A pack whose chunks are known to be in another.
    Repacked,
    /// The intent of a snapshot that is committed or cancelled.
    Decided,
    /// The relocation record of a pack that nobody refers to.
    Stale,
}

/// Objects of one kind that are garbage for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Garbage {
    /// What they are.
    pub kind: Kind,
    /// Why they are garbage.
    pub reason: Reason,
    /// How many.
    #[serde(flatten)]
    pub amount: Amount,
}

/// Garbage by kind and reason.
pub(super) type Tally = BTreeMap<(Kind, Reason), Amount>;

/// Lists a tally.
pub(super) fn listed(tally: &Tally) -> Vec<Garbage> {
    tally.iter().map(|((kind, reason), amount)| Garbage { kind: *kind, reason: *reason, amount: *amount }).collect()
}

/// A pack worth repacking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Repack {
    /// The pack that runs refer to.
    pub pack: PackId,
    /// The pack that its chunks are in: itself, or what it was repacked into before.
    pub at: PackId,
    /// How much of that is alive, in per cent of its chunks.
    pub utilisation: u8,
    /// What is to be copied, in bytes; an estimate.
    pub live_bytes: u64,
}

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Committed snapshots.
    pub snapshots: u64,
    /// Packs in the store.
    pub packs: Amount,
    /// Of their bytes, those of chunks that are alive; an estimate.
    pub live_bytes: u64,
    /// Runs in the store.
    pub runs: Amount,
    /// Relocation records in the store.
    pub relocations: Amount,
}

/// An attempt at a snapshot that is not decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UndecidedAttempt {
    /// The attempt.
    pub upload: UploadId,
    /// Who writes, or wrote.
    pub node: String,
    /// Since when, by the writer's clock.
    pub started_at: Timestamp,
}

/// A snapshot that is neither committed nor cancelled: it is being written, or its writer is gone, and then deleting it
/// frees what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UndecidedIntent {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its volume.
    pub volume: VolumeId,
    /// Everything that was tried to write it.
    pub attempts: Vec<UndecidedAttempt>,
    /// Packs and runs of these attempts; what they pin is not counted.
    pub held: Amount,
}

/// Who else holds objects: a repacker, or a repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// First half of the ids of what is held.
    pub upload: UploadId,
    /// Who it is.
    pub node: String,
    /// Since when, by its clock.
    pub started_at: Timestamp,
    /// How much it holds.
    pub held: Amount,
}

/// An object that could not be read, and might hold anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Its key in the bucket.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What a collection is to delete and repack, and what it found besides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What is garbage, by kind and reason.
    pub garbage: Vec<Garbage>,
    /// Packs to be repacked, in this order.
    pub repack: Vec<Repack>,
    /// What is kept.
    pub kept: Kept,
    /// Snapshots that are neither committed nor cancelled.
    pub undecided: Vec<UndecidedIntent>,
    /// Who repacks or repairs.
    pub repacking: Option<Held>,
    /// What could not be read. Packs, or packs and runs, are not deleted because of it.
    pub unreadable: Vec<Unreadable>,
    /// Whether snapshots were decided and deleted so fast that nothing could be told to be garbage; the next collection may
    /// have more luck.
    pub unsettled: bool,
    /// What finding it out took.
    pub cost: Requests,
}

/// What became of the packs that were to be repacked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repacked {
    /// Packs whose chunks are elsewhere now.
    pub packs: u64,
    /// Packs that they were copied into.
    pub into: Amount,
    /// Packs that were deleted afterwards.
    pub freed: Amount,
    /// Packs that were left as they are, because they changed meanwhile or cannot be read.
    pub skipped: Vec<Unreadable>,
    /// Why it ended before all was done.
    pub stopped: Option<String>,
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What it found.
    pub plan: Plan,
    /// What it deleted, by kind and reason.
    pub deleted: Vec<Garbage>,
    /// What the store refused to delete: it is under retention, or a permission is missing.
    pub locked: Amount,
    /// What it repacked.
    pub repacked: Repacked,
    /// What all of it took.
    pub cost: Requests,
}
