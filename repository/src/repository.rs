//! The repository handle: opening one, and its records.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    Result,
    crypto::{DataKey, MasterKey},
    id::{GroupId, SnapshotId, VolumeId},
    record::{
        snapshot::{Root, Tombstone},
        volume::VolumeRecord,
    },
    seam::Seams,
    store::Store,
};

/// An open repository. Cloning is cheap and shares everything.
#[derive(Clone, Debug)]
pub struct Repository {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    uuid: Uuid,
    data_key: DataKey,
    seams: Seams,
}

/// The outcome of claiming a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim<T> {
    /// The record is new and as given.
    Created(T),
    /// A record is there already; compare it with what was wanted.
    AlreadyPresent(T),
}

/// A record together with the version it was read at, for a conditional update.
#[derive(Clone, Debug)]
pub struct Versioned<T> {
    /// The record.
    pub value: T,
    version: object_store::UpdateVersion,
}

/// What stands at a snapshot's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// Nothing: never committed, and not cancelled.
    Absent,
    /// The snapshot is committed.
    Committed(Box<Root>),
    /// The snapshot is gone for good.
    Gone(Tombstone),
}

/// The outcome of a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The root was replaced by a tombstone.
    Deleted(Box<Root>),
    /// There was no root: a tombstone now stands in its way.
    Cancelled,
    /// A tombstone was there already.
    AlreadyGone,
}

impl Repository {
    /// Creates a repository after probing that the store can hold one.
    ///
    /// # Errors
    /// `UnfitStore` where the probe finds a guarantee missing, `AlreadyInitialised` where another repository is.
    pub async fn init(store: Store, master: &MasterKey, seams: Seams) -> Result<Self> {
        let _ = (store, master, seams);
        unimplemented!()
    }

    /// Opens the repository that is there.
    ///
    /// # Errors
    /// `NoRepository`, `WrongKey`, `FutureFormat`, `Corrupt`, or the store's.
    pub async fn open(store: Store, master: &MasterKey, seams: Seams) -> Result<Self> {
        let _ = (store, master, seams);
        unimplemented!()
    }

    /// The repository's identity, for people and for telling two apart.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.inner.uuid
    }

    /// The store it is on.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The time and randomness it was opened with.
    #[must_use]
    pub fn seams(&self) -> &Seams {
        &self.inner.seams
    }

    /// The key that everything in it is sealed with.
    pub(crate) fn data_key(&self) -> &DataKey {
        &self.inner.data_key
    }

    /// Derives the id of the volume of that name.
    #[must_use]
    pub fn volume_id(&self, name: &str) -> VolumeId {
        let _ = name;
        unimplemented!()
    }

    /// Derives the id of the `generation`th snapshot of that name; a name is used again after a deletion.
    #[must_use]
    pub fn snapshot_id(&self, name: &str, generation: u64) -> SnapshotId {
        let _ = (name, generation);
        unimplemented!()
    }

    /// Derives the id of the group snapshot of that name.
    #[must_use]
    pub fn group_id(&self, name: &str) -> GroupId {
        let _ = name;
        unimplemented!()
    }

    /// Derives the id of a volume's member of a group snapshot.
    #[must_use]
    pub fn member_id(&self, group: GroupId, volume: VolumeId) -> SnapshotId {
        let _ = (group, volume);
        unimplemented!()
    }

    /// Finds the id under which a snapshot of that name stands or may be made: the first generation without a
    /// tombstone, and what is there.
    ///
    /// # Errors
    /// The store's.
    pub async fn current_snapshot(&self, name: &str) -> Result<(SnapshotId, Option<Box<Root>>)> {
        let _ = name;
        unimplemented!()
    }

    /// Claims a volume's name with its record.
    ///
    /// # Errors
    /// The store's, or `Corrupt` where a record is there that cannot be read.
    pub async fn claim_volume(&self, record: VolumeRecord) -> Result<Claim<VolumeRecord>> {
        let _ = record;
        unimplemented!()
    }

    /// Reads a volume's record.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub async fn volume(&self, id: VolumeId) -> Result<Option<Versioned<VolumeRecord>>> {
        let _ = id;
        unimplemented!()
    }

    /// Replaces a volume's record, if it is still as it was read.
    ///
    /// # Errors
    /// `Conflict` where it changed meanwhile, or the store's.
    pub async fn update_volume(
        &self,
        current: Versioned<VolumeRecord>,
        record: VolumeRecord,
    ) -> Result<Versioned<VolumeRecord>> {
        let _ = (current, record);
        unimplemented!()
    }

    /// Removes a volume's record; whether it was there does not matter.
    ///
    /// # Errors
    /// The store's.
    pub async fn remove_volume(&self, id: VolumeId) -> Result<()> {
        let _ = id;
        unimplemented!()
    }

    /// Reads every volume's record, ordered by id. A record that cannot be read fails the call, and is named.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub async fn volumes(&self) -> Result<Vec<VolumeRecord>> {
        unimplemented!()
    }

    /// Reads what stands at a snapshot's key.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub async fn snapshot(&self, id: SnapshotId) -> Result<SnapshotState> {
        let _ = id;
        unimplemented!()
    }

    /// Reads every root, ordered by id. Roots are immutable, so those read once are kept by their version.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub async fn snapshots(&self) -> Result<Vec<Arc<Root>>> {
        unimplemented!()
    }

    /// Deletes a snapshot, or cancels one that is being written: afterwards a tombstone stands at its key.
    ///
    /// # Errors
    /// The store's. On a transient one it is unknown whether the tombstone stands; calling again settles it.
    pub async fn delete_snapshot(&self, id: SnapshotId, reason: &str) -> Result<Deletion> {
        let _ = (id, reason);
        unimplemented!()
    }
}
