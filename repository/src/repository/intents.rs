//! Intents: what offloads are under way, and what collectors must therefore keep.

use std::str::FromStr;

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Claim, FETCHES, Repository, Versioned,
    names::{UPLOADS, intent_key},
};
use crate::{
    Result,
    format::header::Kind,
    id::SnapshotId,
    record::intent::Intent,
    store::{Created, Entry},
};

impl Repository {
    /// Puts the intent of an offload before its first pack, and says whose stands there.
    pub(crate) async fn put_intent(&self, intent: Intent) -> Result<Claim<Intent>> {
        let key = intent_key(intent.snapshot);
        let bytes = self.seal(Kind::Intent, &key, &intent)?;
        let is_mine = |found: &[u8]| self.open_intent(&key, found).is_ok_and(|found| found.upload == intent.upload);
        match self.store().create(&key, bytes, is_mine).await? {
            Created::Created => Ok(Claim::Created(intent)),
            Created::Theirs(found) => Ok(Claim::AlreadyPresent(self.open_intent(&key, &found)?)),
        }
    }

    /// Reads the intent that stands for a snapshot.
    pub(crate) async fn read_intent(&self, snapshot: SnapshotId) -> Result<Option<Versioned<Intent>>> {
        let key = intent_key(snapshot);
        match self.store().get(&key).await? {
            Some((bytes, version)) => Ok(Some(Versioned { value: self.open_intent(&key, &bytes)?, version })),
            None => Ok(None),
        }
    }

    /// Replaces an intent that is still as it was read: another attempt takes over from one that ended.
    ///
    /// # Errors
    /// `Conflict` where it changed or vanished meanwhile.
    pub(crate) async fn replace_intent(
        &self,
        current: &Versioned<Intent>,
        intent: Intent,
    ) -> Result<Versioned<Intent>> {
        let key = intent_key(current.value.snapshot);
        let bytes = self.seal(Kind::Intent, &key, &intent)?;
        let ours = bytes.clone();
        let version = self.store().replace(&key, bytes, &current.version, |found| found == ours).await?;
        Ok(Versioned { value: intent, version })
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
