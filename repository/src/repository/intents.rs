//! Intents: what offloads are under way, and what collectors must therefore keep.

use std::str::FromStr;

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    FETCHES, Repository, Versioned,
    names::{UPLOADS, intent_key},
};
use crate::{
    Error, Result,
    format::header::Kind,
    id::{SnapshotId, VolumeId},
    mutation::Mutation,
    record::intent::{Attempt, Intent},
    store::{Created, Entry},
};

/// How often an attempt tries to enter itself beside others that do so at the same time.
const ENTRY_ROUNDS: usize = 8;

impl Repository {
    /// Enters an attempt in the intent of its snapshot, before its first pack: in a new intent, or beside the attempts
    /// before it.
    ///
    /// # Errors
    /// `Conflict` where others keep changing it, and those of the store.
    pub(crate) async fn enter_attempt(&self, snapshot: SnapshotId, volume: VolumeId, attempt: &Attempt) -> Result<()> {
        let key = intent_key(snapshot);
        // That it is the first attempt is the rule, so nothing is read before.
        let mut standing: Option<Versioned<Intent>> = None;
        for _ in 0..ENTRY_ROUNDS {
            let outcome = match standing {
                None => self.create_intent(Intent { snapshot, volume, attempts: vec![attempt.clone()] }, attempt).await,
                Some(standing) if standing.value.attempt(attempt.upload).is_some() => return Ok(()),
                Some(standing) => {
                    let mut intent = standing.value.clone();
                    if self.seams().broken(Mutation::TakeoverForgets) {
                        intent.attempts.clear();
                    }
                    intent.attempts.push(attempt.clone());
                    self.replace_intent(&standing, intent).await
                }
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(Error::Conflict { .. }) => standing = self.read_intent(snapshot).await?,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict { object: key })
    }

    /// Reads the intent that stands for a snapshot.
    pub(crate) async fn read_intent(&self, snapshot: SnapshotId) -> Result<Option<Versioned<Intent>>> {
        let key = intent_key(snapshot);
        match self.store().get(&key).await? {
            Some((bytes, version)) => Ok(Some(Versioned { value: self.open_intent(&key, &bytes)?, version })),
            None => Ok(None),
        }
    }

    /// Creates the intent of an attempt.
    ///
    /// # Errors
    /// `Conflict` where there is one.
    async fn create_intent(&self, intent: Intent, attempt: &Attempt) -> Result<()> {
        let key = intent_key(intent.snapshot);
        let bytes = self.seal(Kind::Intent, &key, &intent)?;
        let is_mine =
            |found: &[u8]| self.open_intent(&key, found).is_ok_and(|found| found.attempt(attempt.upload).is_some());
        match self.store().create(&key, bytes, is_mine).await? {
            Created::Created => Ok(()),
            Created::Theirs(_) => Err(Error::Conflict { object: key }),
        }
    }

    /// Replaces an intent that is still as it was read.
    ///
    /// # Errors
    /// `Conflict` where it changed or vanished meanwhile.
    async fn replace_intent(&self, current: &Versioned<Intent>, intent: Intent) -> Result<()> {
        let key = intent_key(current.value.snapshot);
        let bytes = self.seal(Kind::Intent, &key, &intent)?;
        let ours = bytes.clone();
        self.store().replace(&key, bytes, &current.version, |found| found == ours).await?;
        Ok(())
    }

    /// Removes the intent of a snapshot that is committed or cancelled.
    pub(crate) async fn remove_intent(&self, snapshot: SnapshotId) -> Result<()> {
        self.store().delete(&intent_key(snapshot)).await
    }

    /// Reads every intent, ordered by snapshot: the offloads that are under way, or were when their writer died.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub async fn intents(&self) -> Result<Vec<Intent>> {
        let ids: Vec<SnapshotId> = self.list_ids(UPLOADS).await?.into_iter().map(|(id, _)| id).collect();
        let mut intents: Vec<Intent> = stream::iter(ids)
            .map(|id| async move { Ok::<_, crate::Error>(self.read_intent(id).await?.map(|intent| intent.value)) })
            .buffer_unordered(FETCHES)
            .try_filter_map(async |intent| Ok(intent))
            .try_collect()
            .await?;
        intents.sort_unstable_by_key(|intent| intent.snapshot);
        Ok(intents)
    }

    /// Lists a folder whose objects are named by ids, in their order. A name that is no id is not ours, and is passed over.
    pub(crate) async fn list_ids<I: FromStr + Ord>(&self, folder: &str) -> Result<Vec<(I, Entry)>> {
        let mut listed: Vec<(I, Entry)> = self
            .store()
            .list(folder)
            .try_filter_map(async |entry| {
                let id = entry.key.strip_prefix(folder).and_then(|name| name.parse().ok());
                if id.is_none() {
                    tracing::warn!(object = entry.key, "passing over an object that is not named as this folder's are");
                }
                Ok(id.map(|id| (id, entry)))
            })
            .try_collect()
            .await?;
        // A folder may show an object twice that is replaced while it is being listed.
        listed.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        listed.dedup_by(|(later, _), (earlier, _)| later == earlier);
        Ok(listed)
    }

    fn open_intent(&self, key: &str, bytes: &[u8]) -> Result<Intent> {
        self.unseal(Kind::Intent, key, bytes)
    }
}
