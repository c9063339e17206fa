//! Volume records: claimed once by name, then replaced only if they are still as they were read.

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Claim, FETCHES, Repository, Versioned,
    names::{VOLUMES, volume_key},
};
use crate::{Result, format::header::Kind, id::VolumeId, record::volume::VolumeRecord, store::Created};

impl Repository {
    /// Claims a volume's name with its record.
    ///
    /// # Errors
    /// The store's, or `Corrupt` where a record is there that cannot be read.
    pub async fn claim_volume(&self, record: VolumeRecord) -> Result<Claim<VolumeRecord>> {
        let key = volume_key(record.id);
        let bytes = self.seal(Kind::Volume, &key, &record)?;
        // The incarnation is the writer's name: random, and made for this claim.
        let is_mine =
            |found: &[u8]| self.open_volume(&key, found).is_ok_and(|found| found.incarnation == record.incarnation);
        match self.store().create(&key, bytes, is_mine).await? {
            Created::Created => Ok(Claim::Created(record)),
            Created::Theirs(found) => Ok(Claim::AlreadyPresent(self.open_volume(&key, &found)?)),
        }
    }

    /// Reads a volume's record.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub async fn volume(&self, id: VolumeId) -> Result<Option<Versioned<VolumeRecord>>> {
        let key = volume_key(id);
        match self.store().get(&key).await? {
            Some((bytes, version)) => Ok(Some(Versioned { value: self.open_volume(&key, &bytes)?, version })),
            None => Ok(None),
        }
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
        let key = volume_key(current.value.id);
        let bytes = self.seal(Kind::Volume, &key, &record)?;
        // Sealed under a fresh nonce, so that equal bytes are the very bytes of this update.
        let ours = bytes.clone();
        let version = self.store().replace(&key, bytes, &current.version, |found| found == ours).await?;
        Ok(Versioned { value: record, version })
    }

    /// Removes a volume's record; whether it was there does not matter.
    ///
    /// # Errors
    /// The store's.
    pub async fn remove_volume(&self, id: VolumeId) -> Result<()> {
        self.store().delete(&volume_key(id)).await
    }

    /// Reads every volume's record, ordered by id. A record that cannot be read fails the call, and is named.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub async fn volumes(&self) -> Result<Vec<VolumeRecord>> {
        let ids: Vec<VolumeId> = self.list_ids(VOLUMES).await?.into_iter().map(|(id, _)| id).collect();
        let mut volumes: Vec<VolumeRecord> = stream::iter(ids)
            .map(|id| async move { Ok::<_, crate::Error>(self.volume(id).await?.map(|volume| volume.value)) })
            .buffer_unordered(FETCHES)
            .try_filter_map(async |volume| Ok(volume))
            .try_collect()
            .await?;
        volumes.sort_unstable_by_key(|volume| volume.id);
        Ok(volumes)
    }

    fn open_volume(&self, key: &str, bytes: &[u8]) -> Result<VolumeRecord> {
        self.unseal(Kind::Volume, key, bytes)
    }
}
