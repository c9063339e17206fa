//! Creating a repository, and opening the one that is there.

use std::sync::Arc;

use uuid::Uuid;

use super::{Inner, Repository, identity, keys, root_cache::RootCache};
use crate::{
    Error, Result,
    bandwidth::Bandwidth,
    crypto::{DataKey, KeySlot, MasterKey},
    format::header::FORMAT_VERSION,
    memory::Memory,
    pack::Relocations,
    record::repository::RepositoryRecord,
    seam::Seams,
    store::Store,
};

impl Repository {
    /// Creates a repository after probing that the store can hold one.
    ///
    /// # Errors
    /// `UnfitStore` where the probe finds a guarantee missing, `AlreadyInitialised` where another repository is.
    pub async fn init(store: Store, master: &MasterKey, seams: Seams) -> Result<Self> {
        store.prepare().await?;
        store.sweep().await;
        if let Some(record) = identity::read(&store).await? {
            return Err(Error::AlreadyInitialised { url: store.url().into(), uuid: record.uuid });
        }
        store.probe(&seams).await?;
        let uuid = uuid::Builder::from_random_bytes(seams.random()).into_uuid();
        let data_key = DataKey::generate(&seams);
        let record = RepositoryRecord {
            format: FORMAT_VERSION,
            uuid,
            created_at: seams.clock.now(),
            generation: 1,
            slots: vec![KeySlot::seal(&data_key, master, None, uuid, &seams)],
        };
        if let Some(uuid) = identity::create(&store, &record).await? {
            return Err(Error::AlreadyInitialised { url: store.url().into(), uuid });
        }
        let repository = Self::assemble(store, uuid, data_key, seams);
        // It is a repository from here on. What is still to come is brought by any look at the keys, and by a collection.
        if let Err(error) = repository.settle_identity().await {
            tracing::warn!(url = repository.store().url(), %error, "there is no second copy of `repository` yet");
        }
        if let Err(error) = repository.restore_reserve().await {
            tracing::warn!(url = repository.store().url(), %error, "there is no reserve yet");
        }
        Ok(repository)
    }

    /// Opens the repository that is there.
    ///
    /// # Errors
    /// `NoRepository`, `WrongKey`, `FutureFormat`, `Corrupt`, or the store's.
    pub async fn open(store: Store, master: &MasterKey, seams: Seams) -> Result<Self> {
        let Some(record) = identity::read(&store).await? else {
            return Err(Error::NoRepository { url: store.url().into() });
        };
        let Some(data_key) = record.slots.iter().find_map(|slot| slot.open(master, record.uuid)) else {
            return Err(Error::WrongKey { slots: record.slots.iter().map(keys::describe).collect() });
        };
        store.sweep().await;
        Ok(Self::assemble(store, record.uuid, data_key, seams))
    }

    /// Opens the repository that is there, or creates one where there is none. Of callers that race, all get the
    /// same repository.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) and [`init`](Self::init).
    pub async fn open_or_init(store: Store, master: &MasterKey, seams: Seams) -> Result<Self> {
        match Self::open(store.clone(), master, seams.clone()).await {
            Err(Error::NoRepository { .. }) => {}
            opened => return opened,
        }
        match Self::init(store.clone(), master, seams.clone()).await {
            Err(Error::AlreadyInitialised { .. }) => Self::open(store, master, seams).await,
            created => created,
        }
    }

    fn assemble(store: Store, uuid: Uuid, data_key: DataKey, seams: Seams) -> Self {
        let (roots, relocations) = (RootCache::default(), Relocations::default());
        let recent = super::recent::Recent::default();
        let (upload, download) = (Bandwidth::default(), Bandwidth::default());
        let inner = Inner { store, uuid, data_key, seams, roots, relocations, recent, upload, download };
        Self { inner: Arc::new(inner), memory: Memory::default() }
    }
}
