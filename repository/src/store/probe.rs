//! The probe: whether a store gives the guarantees that the format relies on, found out by trying.
//!
//! Stores differ in what they claim and in what they do; some take a conditional put and ignore the condition. So
//! writers race, as they will later at the commit point, and what they were told is compared with what is there.

use bytes::Bytes;
use futures::{TryStreamExt, future};
use object_store::UpdateVersion;

use super::{Created, Store};
use crate::{Error, ErrorKind, Result, seam::Seams};

/// How many writers race.
const WRITERS: u8 = 16;

/// Where the probe writes. Nothing stays there.
const FOLDER: &str = "probe/";

impl Store {
    /// Races writers, to find out whether the store can hold a repository.
    ///
    /// # Errors
    /// `UnfitStore`, saying which guarantee is missing; `Denied`, `Unavailable` and the like where it cannot be told.
    pub(crate) async fn probe(&self, seams: &Seams) -> Result<()> {
        let key = format!("{FOLDER}{}", hex::encode(seams.random::<16>()));
        let probed = self.probe_at(&key).await;
        let deleted = self.delete_many(vec![key.clone()]).await;
        probed.map_err(|error| match error {
            Error::Store { kind: ErrorKind::Unsupported, ref source, .. } => self.unfit(&source.to_string()),
            error => error,
        })?;
        deleted?;
        match self.get(&key).await? {
            Some(_) => Err(self.unfit("an object that was deleted can still be read")),
            None => Ok(()),
        }
    }

    async fn probe_at(&self, key: &str) -> Result<()> {
        let winner = self.race_creators(key).await?;
        let Some((found, version)) = self.get(key).await? else {
            return Err(self.unfit("an object that was put cannot be read"));
        };
        if found != winner {
            return Err(self.unfit("create-if-absent is missing: the winner of a race was overwritten"));
        }
        let length = u64::try_from(winner.len()).expect("a length fits 64 bits");
        if self.get_range(key, 1..length).await? != winner.slice(1..) {
            return Err(self.unfit("a part of an object is not what the whole object holds there"));
        }
        let listed: Vec<_> =
            self.list(FOLDER).try_filter(|entry| future::ready(entry.key == key)).try_collect().await?;
        if listed.len() != 1 || listed[0].size != length {
            return Err(self.unfit("a listing does not show an object that was put"));
        }
        self.race_updaters(key, &version).await
    }

    /// Creates one object from many writers at once, and returns what the winner wrote.
    async fn race_creators(&self, key: &str) -> Result<Bytes> {
        let writers = (0..WRITERS).map(|writer| async move {
            let mine = content("create", writer);
            let created = self.create(key, mine.clone(), |found| found == mine).await?;
            Ok::<_, Error>((mine, created))
        });
        let outcomes = future::try_join_all(writers).await?;
        let mut winners = outcomes.iter().filter(|(_, created)| *created == Created::Created);
        let (Some((winner, _)), rivals) = (winners.next(), winners.count()) else {
            return Err(self.unfit("create-if-absent is missing: nobody won a race"));
        };
        if rivals > 0 {
            let reason = format!("create-if-absent is missing: {} of {WRITERS} writers of one object won", rivals + 1);
            return Err(self.unfit(&reason));
        }
        Ok(winner.clone())
    }

    /// Updates one object from many writers that all read the same version.
    async fn race_updaters(&self, key: &str, version: &UpdateVersion) -> Result<()> {
        let writers = (0..WRITERS).map(|writer| async move {
            let mine = content("update", writer);
            match self.replace(key, mine.clone(), version, |found| found == mine).await {
                Ok(_) => Ok(Some(mine)),
                Err(Error::Conflict { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let winners: Vec<Bytes> = future::try_join_all(writers).await?.into_iter().flatten().collect();
        let [winner] = winners.as_slice() else {
            let reason =
                format!("conditional update is missing: {} of {WRITERS} updates of one version won", winners.len());
            return Err(self.unfit(&reason));
        };
        match self.get(key).await? {
            Some((found, _)) if found == *winner => Ok(()),
            _ => Err(self.unfit("conditional update is missing: the winner of a race was overwritten")),
        }
    }

    fn unfit(&self, reason: &str) -> Error {
        Error::UnfitStore { url: self.url.clone(), reason: reason.into() }
    }
}

fn content(act: &str, writer: u8) -> Bytes {
    format!("varve probes this store: {act} by writer {writer:02}").into()
}
