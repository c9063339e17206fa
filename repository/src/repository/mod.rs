//! The repository handle: opening one, and its records.
//!
//! # Concurrency
//!
//! A repository has no lock and no leader. Every record but a volume's is decided once, by create-if-absent; what
//! replaces a record does so only if it is still as it was read. Any number of processes on any number of machines
//! may hold handles to one repository.
//!
//! # Crash consistency
//!
//! Each record is one object, put whole or not at all. The order of an offload's puts (intent, packs, runs, root) is
//! what makes several objects one snapshot; [`commit_root`](Repository::commit_root) is its single point of no return.

mod identity;
mod intents;
mod keys;
pub(crate) mod names;
mod opening;
mod readable;
mod recent;
mod relocations;
mod repacking;
mod reserve;
mod root_cache;
mod snapshots;
#[cfg(test)]
mod tests;
mod volumes;

pub use keys::Slot;
pub(crate) use readable::Found;
pub use readable::{DamagedRoot, Readable};
pub(crate) use recent::End;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use object_store::UpdateVersion;
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    Error, Result,
    bandwidth::Bandwidth,
    crypto::{AuthoritySeed, DataKey},
    format::{envelope, header::Kind},
    memory::Memory,
    pack,
    record::snapshot::{Root, Tombstone},
    seam::Seams,
    store::Store,
};

/// How many records are fetched at a time when all of a kind are wanted.
const FETCHES: usize = 64;

/// An open repository. Cloning is cheap and shares everything.
#[derive(Clone, Debug)]
pub struct Repository {
    inner: Arc<Inner>,
    memory: Memory,
}

struct Inner {
    store: Store,
    uuid: Uuid,
    data_key: DataKey,
    seams: Seams,
    roots: root_cache::RootCache,
    relocations: pack::Relocations,
    recent: recent::Recent,
    upload: Bandwidth,
    download: Bandwidth,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("store", &self.store).field("uuid", &self.uuid).finish_non_exhaustive()
    }
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
    version: UpdateVersion,
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

impl SnapshotState {
    /// The root, where the snapshot is committed.
    #[must_use]
    pub fn root(&self) -> Option<&Root> {
        match self {
            Self::Committed(root) => Some(root),
            Self::Absent | Self::Gone(_) => None,
        }
    }
}

/// The outcome of a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The root was replaced by a tombstone.
    Deleted(Box<Root>),
    /// There was no root, or none that could be read: a tombstone now stands in its way.
    Cancelled,
    /// A tombstone was there already.
    AlreadyGone,
}

impl Repository {
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

    /// Asks the store for the repository's own object, to find out whether it can be reached.
    ///
    /// # Errors
    /// The store's; `NoRepository` where it is not there.
    pub async fn reach(&self) -> Result<()> {
        let found = self.store().head(names::REPOSITORY).await?;
        found.map(drop).ok_or_else(|| Error::NoRepository { url: self.store().url().to_owned() })
    }

    /// The seed of the authority by which processes that opened this repository know one another. It stays the same
    /// when master keys change.
    #[must_use]
    pub fn authority_seed(&self) -> AuthoritySeed {
        self.inner.data_key.authority_seed()
    }

    /// The time and randomness it was opened with.
    #[must_use]
    pub fn seams(&self) -> &Seams {
        &self.inner.seams
    }

    /// Takes the memory of its offloads and hydrations from what others use too.
    #[must_use]
    pub fn with_memory(self, memory: Memory) -> Self {
        Self { memory, ..self }
    }

    /// The memory of its offloads and hydrations.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The limit on what all who share this handle send: packs and runs, of offloads and of repacking. There is none
    /// until it is [set](Bandwidth::set).
    #[must_use]
    pub fn upload_bandwidth(&self) -> &Bandwidth {
        &self.inner.upload
    }

    /// The limit on what hydrations by this handle fetch. There is none until it is [set](Bandwidth::set).
    #[must_use]
    pub fn download_bandwidth(&self) -> &Bandwidth {
        &self.inner.download
    }

    /// Repacked packs that were met.
    pub(crate) fn relocations(&self) -> &pack::Relocations {
        &self.inner.relocations
    }

    /// What this process put or read lately.
    pub(crate) fn recent(&self) -> &recent::Recent {
        &self.inner.recent
    }

    /// The key that everything in it is sealed with.
    pub(crate) fn data_key(&self) -> &DataKey {
        &self.inner.data_key
    }

    /// Seals a record for that key in the bucket.
    fn seal<T: Serialize>(&self, kind: Kind, object: &str, record: &T) -> Result<Bytes> {
        envelope::seal_record(self.data_key().records(), kind, object, self.seams().random(), record)
    }

    /// Opens a record that was read at that key in the bucket.
    fn unseal<T: DeserializeOwned>(&self, kind: Kind, object: &str, bytes: &[u8]) -> Result<T> {
        envelope::open_record(self.data_key().records(), kind, object, bytes)
    }
}
