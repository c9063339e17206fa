//! Taking over, proving and giving up `repacking`, which protects what a repacker or a repair is about to refer to.
//!
//! # Crash consistency
//! Whoever crashes leaves the record behind; the next one takes it over, and what only the record protected is garbage.

use super::{Repository, Versioned, names::REPACKING};
use crate::{
    Error, Result, format::header::Kind, id::UploadId, mutation::Mutation, record::repacking::Repacking, store::Created,
};

/// How often a taking over looks again after somebody else was faster. Rivals end after one taking over each.
const ROUNDS: usize = 16;

impl Repository {
    /// Takes `repacking` over under a fresh upload, from whoever has it: until another does the same, collectors keep all
    /// packs and runs of that upload.
    ///
    /// # Errors
    /// `Conflict` where others keep taking it over, and those of the store.
    pub(crate) async fn take_repacking(&self, node: &str) -> Result<UploadId> {
        let upload = UploadId::from_bytes(self.seams().random());
        let record = Repacking { upload, node: node.into(), started_at: self.seams().clock.now() };
        for _ in 0..ROUNDS {
            let bytes = self.seal(Kind::Repacking, REPACKING, &record)?;
            let ours = bytes.clone();
            let is_mine = |found: &[u8]| found == ours;
            let Some((_, version)) = self.store().get(REPACKING).await? else {
                match self.store().create(REPACKING, bytes, is_mine).await? {
                    Created::Created => return Ok(upload),
                    Created::Theirs(_) => continue,
                }
            };
            // One that is damaged protects nothing that could be told, and is taken over like any other.
            match self.store().replace(REPACKING, bytes, &version, is_mine).await {
                Ok(_) => return Ok(upload),
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict { object: REPACKING.into() })
    }

    /// Proves that `repacking` is still of that upload: every collector that does not keep what is of this upload came to
    /// the record after this moment, and so sees whatever was put before it.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub(crate) async fn proves_repacking(&self, upload: UploadId) -> Result<bool> {
        if self.seams().broken(Mutation::NoRepackCheck) {
            return Ok(true);
        }
        Ok(self.repacking().await?.is_some_and(|standing| standing.value.upload == upload))
    }

    /// Gives `repacking` up, if it still is of that upload.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub(crate) async fn give_up_repacking(&self, upload: UploadId) -> Result<()> {
        // Whoever takes it over between the look and the deletion finds out, and has wasted a copy.
        match self.repacking().await? {
            Some(standing) if standing.value.upload == upload => self.store().delete(REPACKING).await,
            _ => Ok(()),
        }
    }

    /// Reads who repacks.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub(crate) async fn repacking(&self) -> Result<Option<Versioned<Repacking>>> {
        match self.store().get(REPACKING).await? {
            Some((bytes, version)) => {
                Ok(Some(Versioned { value: self.unseal(Kind::Repacking, REPACKING, &bytes)?, version }))
            }
            None => Ok(None),
        }
    }
}
