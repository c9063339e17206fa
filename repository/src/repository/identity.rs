//! The `repository` object and its second copy.
//!
//! Everything hangs on this one small object: the sealed data key is nowhere else. So it stands twice, and one of the two
//! is enough to open the repository by.
//!
//! # Invariants
//!
//! A change of the slots raises the generation, and is made at `repository`, where the store arbitrates between rivals.
//! `repository.copy` only ever becomes what `repository` was. So of two records that differ, the one of the higher
//! generation is the later one, and counts, wherever it stands.
//!
//! # Crash consistency
//!
//! A crash may leave a copy that is older, and it counts if `repository` is lost before the two are made equal again. That
//! takes no answer back: a change makes them equal before it begins and before it is answered, so that a slot whose
//! removal was answered stands in neither.

use bytes::Bytes;
use object_store::UpdateVersion;
use uuid::Uuid;

use super::{
    Repository,
    names::{REPOSITORY, REPOSITORY_COPY},
};
use crate::{
    Error, Result,
    format::{
        envelope,
        header::{FORMAT_VERSION, Kind},
    },
    record::repository::RepositoryRecord,
    store::{Created, Store},
};

/// How often a change looks again after somebody else changed what it was about to change.
const ROUNDS: usize = 16;

/// What stands at one of the two keys.
struct Standing {
    key: &'static str,
    bytes: Bytes,
    version: UpdateVersion,
    record: Result<RepositoryRecord>,
}

impl Standing {
    async fn read(store: &Store, key: &'static str) -> Result<Option<Self>> {
        let Some((bytes, version)) = store.get(key).await? else { return Ok(None) };
        let record = parse(key, &bytes);
        Ok(Some(Self { key, bytes, version, record }))
    }
}

/// What stands at both.
struct Copies {
    first: Option<Standing>,
    second: Option<Standing>,
}

impl Copies {
    async fn read(store: &Store) -> Result<Self> {
        let (first, second) =
            futures::try_join!(Standing::read(store, REPOSITORY), Standing::read(store, REPOSITORY_COPY))?;
        Ok(Self { first, second })
    }

    /// Tells what counts from what stands at the other key; `None` where nothing stands at either.
    ///
    /// # Errors
    /// `FutureFormat` where `repository` is of one, `Corrupt` where neither can be read.
    fn rank(self) -> Result<Option<Ranked>> {
        let (counting, other) = match (self.first, self.second) {
            (None, None) => return Ok(None),
            (Some(only), None) | (None, Some(only)) => (only, None),
            (Some(first), Some(second)) => {
                let second_counts = match (&first.record, &second.record) {
                    // The program that wrote it knows better than this one what the copy is worth.
                    (Err(Error::FutureFormat { .. }), _) => false,
                    (Err(_), copy) => copy.is_ok(),
                    (Ok(record), Ok(copy)) => copy.uuid == record.uuid && copy.generation > record.generation,
                    (Ok(_), Err(_)) => false,
                };
                if second_counts { (second, Some(first)) } else { (first, Some(second)) }
            }
        };
        let record = match &counting.record {
            Ok(record) => record.clone(),
            Err(_) => return counting.record.map(|_| None),
        };
        Ok(Some(Ranked { record, counting, other }))
    }
}

/// What stands at both keys, by what it is worth.
struct Ranked {
    /// The record that counts.
    record: RepositoryRecord,
    counting: Standing,
    other: Option<Standing>,
}

/// Reads the record that a repository is to be opened by; `None` where there is no repository.
///
/// # Errors
/// `FutureFormat`, `Corrupt`, or the store's.
pub(super) async fn read(store: &Store) -> Result<Option<RepositoryRecord>> {
    let (first, second) = futures::join!(Standing::read(store, REPOSITORY), Standing::read(store, REPOSITORY_COPY));
    let first = first?;
    let second = match second {
        // A store need not let a copy be read for as long as it is not needed.
        Err(error) if first.as_ref().is_some_and(|first| first.record.is_ok()) => {
            tracing::debug!(object = REPOSITORY_COPY, %error, "the second copy cannot be looked at");
            None
        }
        second => second?,
    };
    let ranked = Copies { first, second }.rank()?;
    Ok(ranked.map(|ranked| {
        if ranked.counting.key != REPOSITORY {
            tracing::warn!(
                object = REPOSITORY,
                "missing, damaged or put back to an older state: opening by {REPOSITORY_COPY}; \
                 `varve repository key list` puts it right"
            );
        }
        ranked.record
    }))
}

/// Puts the record of a new repository; tells whose it is where another is there.
pub(super) async fn create(store: &Store, record: &RepositoryRecord) -> Result<Option<Uuid>> {
    let bytes = encode(record)?;
    // The uuid is the writer's name: of inits that race, one wins, and the others are told whose it is.
    let is_mine = |found: &[u8]| parse(REPOSITORY, found).is_ok_and(|found| found.uuid == record.uuid);
    match store.create(REPOSITORY, bytes, is_mine).await? {
        Created::Created => Ok(None),
        Created::Theirs(found) => Ok(Some(parse(REPOSITORY, &found)?.uuid)),
    }
}

impl Repository {
    /// Makes `repository` and its copy equal, from the one that counts. It does nothing where they are.
    ///
    /// # Errors
    /// `Corrupt` where neither can be read or they are another repository's, and the store's.
    pub async fn settle_identity(&self) -> Result<()> {
        self.settled().await.map(drop)
    }

    /// Reads both anew and tells what is the matter with one of them, if anything is.
    ///
    /// # Errors
    /// `Corrupt` or `FutureFormat` naming the object, and the store's.
    pub(crate) async fn reread(&self) -> Result<()> {
        let corrupt = |object: &str, reason: &str| Error::Corrupt { object: object.into(), reason: reason.into() };
        let copies = Copies::read(self.store()).await?;
        let Some(first) = copies.first else { return Err(corrupt(REPOSITORY, "it is missing")) };
        let first = first.record?;
        if first.uuid != self.uuid() {
            return Err(corrupt(REPOSITORY, "it is of another repository"));
        }
        match copies.second.map(|second| second.record).transpose()? {
            Some(second) if second.uuid != self.uuid() => Err(corrupt(REPOSITORY_COPY, "it is of another repository")),
            Some(second) if second.generation > first.generation => {
                Err(corrupt(REPOSITORY, "it was put back to an older state: its copy is later"))
            }
            None if first.generation > 0 => Err(corrupt(REPOSITORY_COPY, "it is missing")),
            // A copy that is older is what a change under way, or one that was interrupted, looks like.
            _ => Ok(()),
        }
    }

    /// Reads the record that counts.
    pub(super) async fn identity(&self) -> Result<RepositoryRecord> {
        match read(self.store()).await? {
            Some(record) => self.own(record),
            None => Err(Error::NoRepository { url: self.store().url().into() }),
        }
    }

    /// Changes the record, unless `change` leaves it as it is; returns what `change` made of it in the end.
    ///
    /// # Errors
    /// Those of `change`, `Conflict` where others keep changing it, and the store's. On a transient one it is unknown
    /// whether the change was made; asking again settles it.
    pub(super) async fn change_identity<T>(
        &self,
        mut change: impl FnMut(&mut RepositoryRecord) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..ROUNDS {
            let (before, version) = self.settled().await?;
            let mut record = before.clone();
            let outcome = change(&mut record)?;
            if record == before {
                return Ok(outcome);
            }
            record.generation = before.generation.checked_add(1).ok_or_else(|| Error::Corrupt {
                object: REPOSITORY.into(),
                reason: "its generation is beyond what can be counted".into(),
            })?;
            let bytes = encode(&record)?;
            let ours = bytes.clone();
            match self.store().replace(REPOSITORY, bytes, &version, |found| found == ours).await {
                Ok(_) => {
                    self.settled().await?;
                    return Ok(outcome);
                }
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict { object: REPOSITORY.into() })
    }

    /// Makes both equal; returns what they are, and the version of `repository`.
    async fn settled(&self) -> Result<(RepositoryRecord, UpdateVersion)> {
        for _ in 0..ROUNDS {
            let Some(Ranked { record, counting, other }) = Copies::read(self.store()).await?.rank()? else {
                return Err(Error::NoRepository { url: self.store().url().into() });
            };
            let record = self.own(record)?;
            let other_key = if counting.key == REPOSITORY { REPOSITORY_COPY } else { REPOSITORY };
            let bytes = counting.bytes;
            let put = match other {
                Some(other) if other.bytes == bytes => {
                    let first = if counting.key == REPOSITORY { counting.version } else { other.version };
                    return Ok((record, first));
                }
                Some(other) => {
                    let ours = bytes.clone();
                    self.store().replace(other_key, bytes, &other.version, |found| found == ours).await.map(drop)
                }
                None => {
                    let ours = bytes.clone();
                    self.store().create(other_key, bytes, |found| found == ours).await.map(drop)
                }
            };
            match put {
                // Looked at once more: somebody may have changed the other meanwhile.
                Ok(()) => tracing::info!(object = other_key, "put right from its other copy"),
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict { object: REPOSITORY.into() })
    }

    fn own(&self, record: RepositoryRecord) -> Result<RepositoryRecord> {
        if record.uuid == self.uuid() {
            return Ok(record);
        }
        Err(Error::Corrupt { object: REPOSITORY.into(), reason: "it is of another repository".into() })
    }
}

fn encode(record: &RepositoryRecord) -> Result<Bytes> {
    envelope::wrap_record(Kind::Repository, REPOSITORY, record)
}

fn parse(key: &str, bytes: &[u8]) -> Result<RepositoryRecord> {
    let record: RepositoryRecord = envelope::unwrap_record(Kind::Repository, key, bytes)?;
    if record.format > FORMAT_VERSION {
        return Err(Error::FutureFormat { object: key.into(), found: record.format, supported: FORMAT_VERSION });
    }
    Ok(record)
}
