//! Conditional puts whose outcome is decided by what is there, not by what the store answered.
//!
//! Two hazards make an answer alone worthless at a commit point:
//!
//! 1. A put was applied and its answer lost. The client, or a proxy, puts again and is told that the object
//!    already exists, or changed: by its own hand.
//! 2. S3 answers 409 to conditional puts that cross, and neither need have been applied.
//!
//! So every record names its writer, and after any answer but success the key is read back: what stands there is
//! ours, theirs, or nothing, and nothing means try again.
//!
//! # Concurrency
//!
//! Of any number of writers that create at one key, exactly one gets [`Created::Created`]; a writer whose last
//! attempt ended with an error may still have won, and finds out by asking again.

use bytes::Bytes;
use object_store::{Error as StoreError, ObjectStore, PutMode, PutOptions, PutPayload, UpdateVersion, path::Path};

use super::{Store, backoff::Patience, failure};
use crate::{Error, ErrorKind, Result};

/// The outcome of creating an object that others may create too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// What stands there is ours.
    Created,
    /// What stands there is another's: this.
    Theirs(Bytes),
}

impl Store {
    /// Puts an object at a key that nothing else will ever be put at: a pack or a run. Putting it again is fine.
    ///
    /// # Errors
    /// `Conflict` where other bytes are there, `Unavailable` where it is unknown whether it was put.
    pub(crate) async fn put_new(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.put_new_parts(key, bytes.into()).await
    }

    /// Does the same with an object in parts.
    ///
    /// # Errors
    /// Those of [`put_new`](Self::put_new).
    pub(crate) async fn put_new_parts(&self, key: &str, parts: PutPayload) -> Result<()> {
        let expected = parts.clone();
        match self.create_parts(key, parts, |found| is(found, &expected)).await? {
            Created::Created => Ok(()),
            Created::Theirs(_) => Err(Error::Conflict { object: key.into() }),
        }
    }

    /// Puts an object, whatever stands at its key.
    ///
    /// # Errors
    /// Those of the store. After a transient one it is unknown whether it was put.
    pub(crate) async fn put_over(&self, key: &str, bytes: Bytes) -> Result<()> {
        let put = self.put(key, bytes.into(), PutMode::Overwrite).await;
        put.map(drop).map_err(|error| self.failed("writing", key, error))
    }

    /// Creates an object that others may create too, and says whose it is in the end.
    ///
    /// # Errors
    /// Those of the store. After a transient one it is unknown whether the object was created.
    pub(crate) async fn create(&self, key: &str, bytes: Bytes, is_mine: impl Fn(&[u8]) -> bool) -> Result<Created> {
        self.create_parts(key, bytes.into(), is_mine).await
    }

    async fn create_parts(&self, key: &str, payload: PutPayload, is_mine: impl Fn(&[u8]) -> bool) -> Result<Created> {
        let mut patience = Patience::new();
        loop {
            let Err(error) = self.put(key, payload.clone(), PutMode::Create).await else { return Ok(Created::Created) };
            #[cfg(feature = "mutation")]
            if self.credulous && matches!(error, StoreError::AlreadyExists { .. }) {
                return Ok(Created::Created);
            }
            let error = self.undecided(key, error)?;
            match self.read_back(key).await {
                Ok(Some((found, _))) if is_mine(&found) => return Ok(Created::Created),
                Ok(Some((found, _))) => return Ok(Created::Theirs(found)),
                Ok(None) => {}
                Err(unread) if unread.is_transient() => {}
                Err(unread) => return Err(unread),
            }
            if !patience.waits(self.entropy.as_ref()).await {
                return Err(error);
            }
        }
    }

    /// Replaces an object that is still as it was read, and returns the version it now has.
    ///
    /// # Errors
    /// `Conflict` where it changed or vanished meanwhile, and those of the store. After a transient one it is unknown
    /// whether the object was replaced.
    pub(crate) async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        version: &UpdateVersion,
        is_mine: impl Fn(&[u8]) -> bool,
    ) -> Result<UpdateVersion> {
        let mut patience = Patience::new();
        loop {
            let error = match self.put(key, bytes.clone().into(), PutMode::Update(version.clone())).await {
                Ok(version) => return Ok(version),
                Err(error) => self.undecided(key, error)?,
            };
            match self.read_back(key).await {
                Ok(Some((found, version))) if is_mine(&found) => return Ok(version),
                // As it was read: nothing was applied, by anybody.
                Ok(Some((_, found))) if found == *version => {}
                Ok(_) => return Err(Error::Conflict { object: key.into() }),
                Err(unread) if unread.is_transient() => {}
                Err(unread) => return Err(unread),
            }
            if !patience.waits(self.entropy.as_ref()).await {
                return Err(error);
            }
        }
    }

    async fn put(&self, key: &str, payload: PutPayload, mode: PutMode) -> Result<UpdateVersion, StoreError> {
        let options = PutOptions::from(mode);
        self.inner.put_opts(&Path::from(key), payload, options).await.map(UpdateVersion::from)
    }

    /// Reads what stands at a key, once it is sure to stay.
    async fn read_back(&self, key: &str) -> Result<Option<(Bytes, UpdateVersion)>> {
        let read = self.get(key).await?;
        if let (Some(folder), Some(_)) = (&self.folder, &read) {
            // Somebody's put may have been read between its link and its sync.
            folder.settle(&Path::from(key)).await.map_err(|source| self.failed("syncing", key, source))?;
        }
        Ok(read)
    }

    /// Passes on errors that leave open what stands at the key, as the error to give up with; returns the others.
    fn undecided(&self, key: &str, error: StoreError) -> Result<Error> {
        let refused = matches!(
            error,
            StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } | StoreError::NotModified { .. }
        );
        let kind = if refused || failure::is_missing(&error) { ErrorKind::Unavailable } else { failure::kind(&error) };
        let error = match self.failed("writing", key, error) {
            Error::Store { operation, object, source, .. } => Error::Store { operation, object, kind, source },
            other => other,
        };
        if error.is_transient() { Ok(error) } else { Err(error) }
    }
}

/// Tells whether bytes are what the parts of a payload are together.
fn is(bytes: &[u8], payload: &PutPayload) -> bool {
    let rest = payload.iter().try_fold(bytes, |rest, part| rest.strip_prefix(&part[..]));
    rest.is_some_and(<[u8]>::is_empty)
}
