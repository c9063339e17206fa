//! Relocation records: where the chunks of repacked packs are.
//!
//! # Concurrency
//! A record is created once and replaced only if it is still as it was read, so that whoever takes a target out of it has
//! seen the one that stays.

use super::{Repository, Versioned, names::relocation_key};
use crate::{
    Error, Result,
    format::header::Kind,
    id::PackId,
    record::relocation::{Relocation, Target},
    store::Created,
};

/// How often an addition looks again after somebody else changed the record.
const ROUNDS: usize = 8;

impl Repository {
    /// Reads where the chunks of a pack are; `None` where it was not repacked.
    ///
    /// # Errors
    /// The store's, or `Corrupt`.
    pub(crate) async fn relocation(&self, pack: PackId) -> Result<Option<Versioned<Relocation>>> {
        let key = relocation_key(pack);
        match self.store().get(&key).await? {
            Some((bytes, version)) => Ok(Some(Versioned { value: self.open_relocation(pack, &bytes)?, version })),
            None => Ok(None),
        }
    }

    /// Adds a target to a pack's record, in front of those that are there; `known` is the record as it was read last, if it
    /// was. Returns the record where it was there already.
    ///
    /// # Errors
    /// `Conflict` where others keep changing it, and those of the store.
    pub(crate) async fn add_target(
        &self,
        pack: PackId,
        table: &[u8],
        target: Target,
        mut known: Option<Versioned<Relocation>>,
    ) -> Result<Option<Versioned<Relocation>>> {
        let key = relocation_key(pack);
        for _ in 0..ROUNDS {
            let Some(standing) = known.take() else {
                let relocation = Relocation { pack, table: table.to_vec(), targets: vec![target.clone()] };
                let bytes = self.seal(Kind::Relocation, &key, &relocation)?;
                let ours = bytes.clone();
                match self.store().create(&key, bytes, |found| found == ours).await? {
                    Created::Created => return Ok(None),
                    Created::Theirs(_) => known = self.relocation(pack).await?,
                }
                continue;
            };
            let mut relocation = standing.value.clone();
            relocation.targets.retain(|other| other.reference() != target.reference());
            relocation.targets.insert(0, target.clone());
            match self.replace_relocation(&standing, relocation).await {
                Err(Error::Conflict { .. }) => known = self.relocation(pack).await?,
                replaced => return replaced.map(Some),
            }
        }
        Err(Error::Conflict { object: key })
    }

    /// Replaces a record that is still as it was read.
    ///
    /// # Errors
    /// `Conflict` where it changed or vanished meanwhile, and those of the store.
    pub(crate) async fn replace_relocation(
        &self,
        current: &Versioned<Relocation>,
        relocation: Relocation,
    ) -> Result<Versioned<Relocation>> {
        let key = relocation_key(current.value.pack);
        let bytes = self.seal(Kind::Relocation, &key, &relocation)?;
        let ours = bytes.clone();
        let version = self.store().replace(&key, bytes, &current.version, |found| found == ours).await?;
        Ok(Versioned { value: relocation, version })
    }

    fn open_relocation(&self, pack: PackId, bytes: &[u8]) -> Result<Relocation> {
        let key = relocation_key(pack);
        let relocation: Relocation = self.unseal(Kind::Relocation, &key, bytes)?;
        let damaged = |reason: String| Error::Corrupt { object: key.clone(), reason };
        if relocation.pack != pack {
            return Err(damaged(format!("it speaks of pack {}", relocation.pack)));
        }
        relocation.validate().map_err(|malformed| damaged(malformed.to_string()))?;
        Ok(relocation)
    }
}
