//! Creating a repository, and opening the one that is there.

use std::sync::Arc;

use uuid::Uuid;

use super::{Inner, Repository, names::REPOSITORY, root_cache::RootCache};
use crate::{
    Error, Result,
    crypto::{DataKey, KeySlot, MasterKey},
    format::{
        envelope,
        header::{FORMAT_VERSION, Kind},
    },
    pack::Relocations,
    record::repository::RepositoryRecord,
    seam::Seams,
    store::{Created, Store},
};

impl Repository {
    /// Creates a repository after probing that the store can hold one.
    ///
    /// # Errors
    /// `UnfitStore` where the probe finds a guarantee missing, `AlreadyInitialised` where another repository is.
    pub async fn init(store: Store, master: &MasterKey, seams: Seams) -> Result<Self> {
        store.prepare().await?;
        store.sweep().await;
        if let Some(record) = read(&store).await? {
            return Err(Error::AlreadyInitialised { url: store.url().into(), uuid: record.uuid });
        }
        store.probe(&seams).await?;
        let uuid = uuid::Builder::from_random_bytes(seams.random()).into_uuid();
        let data_key = DataKey::generate(&seams);
        let record = RepositoryRecord {
            format: FORMAT_VERSION,
            uuid,
            created_at: seams.clock.now(),
            slots: vec![KeySlot::seal(&data_key, master, uuid, &seams)],
        };
        let bytes = envelope::wrap_record(Kind::Repository, REPOSITORY, &record)?;
        // The uuid is the writer's name: of inits that race, one wins, and the others are told whose it is.
        let is_mine = |found: &[u8]| parse(found).is_ok_and(|found| found.uuid == uuid);
        match store.create(REPOSITORY, bytes, is_mine).await? {
            Created::Created => {
                let repository = Self::assemble(store, uuid, data_key, seams);
                if let Err(error) = repository.restore_reserve().await {
                    tracing::warn!(url = repository.store().url(), %error, "the reserve is left to the first collection");
                }
                Ok(repository)
            }
            Created::Theirs(found) => {
                Err(Error::AlreadyInitialised { url: store.url().into(), uuid: parse(&found)?.uuid })
            }
        }
    }

    /// Opens the repository that is there.
    ///
    /// # Errors
    /// `NoRepository`, `WrongKey`, `FutureFormat`, `Corrupt`, or the store's.
    pub async fn open(store: Store, master: &MasterKey, seams: Seams) -> Result<Self> {
        let Some(record) = read(&store).await? else {
            return Err(Error::NoRepository { url: store.url().into() });
        };
        let Some(data_key) = record.slots.iter().find_map(|slot| slot.open(master, record.uuid)) else {
            return Err(Error::WrongKey { slots: record.slots.len() });
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

    /// Reads the `repository` object anew: it is there, whole, and still of this repository.
    pub(crate) async fn reread(&self) -> Result<()> {
        let corrupt = |reason: &str| Error::Corrupt { object: REPOSITORY.into(), reason: reason.into() };
        match read(self.store()).await? {
            Some(record) if record.uuid == self.uuid() => Ok(()),
            Some(_) => Err(corrupt("it is of another repository")),
            None => Err(corrupt("it is missing")),
        }
    }

    fn assemble(store: Store, uuid: Uuid, data_key: DataKey, seams: Seams) -> Self {
        let (roots, relocations) = (RootCache::default(), Relocations::default());
        Self { inner: Arc::new(Inner { store, uuid, data_key, seams, roots, relocations }) }
    }
}

async fn read(store: &Store) -> Result<Option<RepositoryRecord>> {
    match store.get(REPOSITORY).await? {
        Some((bytes, _)) => parse(&bytes).map(Some),
        None => Ok(None),
    }
}

fn parse(bytes: &[u8]) -> Result<RepositoryRecord> {
    let record: RepositoryRecord = envelope::unwrap_record(Kind::Repository, REPOSITORY, bytes)?;
    if record.format > FORMAT_VERSION {
        return Err(Error::FutureFormat { object: REPOSITORY.into(), found: record.format, supported: FORMAT_VERSION });
    }
    Ok(record)
}
