//! Key slots: which master keys open the repository, and how that changes.
//!
//! Every change seals the data key anew, or takes a sealing of it away; no data is touched, and an open handle goes on
//! with the data key that it holds. Removing a slot ends what its key can do with the `repository` object as it is from
//! then on, and not with a copy of it that somebody kept from before.
//!
//! # Concurrency
//!
//! Changes are conditional updates of one object, made again on what a rival left behind: of two keys added at once both
//! are in it.
//!
//! # Crash consistency
//!
//! Each change can be asked for again, and finds what of it was made: a key that is in is not added twice, a rotation
//! goes on where it ended. A rotation removes the old slot only after the new one was read back and opened.

use jiff::Timestamp;
use serde::Serialize;

use super::{Claim, Repository};
use crate::{
    Error, Result,
    crypto::{KeySlot, Label, MasterKey, SlotId},
    record::repository::RepositoryRecord,
};

/// A key slot, as people are shown it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Its id.
    pub id: SlotId,
    /// What its key is called, fit to be printed.
    pub label: Option<String>,
    /// When it was made, by its maker's clock.
    pub created_at: Timestamp,
}

impl From<&KeySlot> for Slot {
    fn from(slot: &KeySlot) -> Self {
        Self { id: slot.id(), label: slot.label(), created_at: slot.created_at() }
    }
}

/// Names a slot in a message.
pub(super) fn describe(slot: &KeySlot) -> String {
    match slot.label() {
        Some(label) => format!("{} \"{label}\"", slot.id()),
        None => slot.id().to_string(),
    }
}

impl Repository {
    /// Lists the key slots, in the order in which they were made.
    ///
    /// # Errors
    /// `Corrupt`, or the store's.
    pub async fn key_slots(&self) -> Result<Vec<Slot>> {
        Ok(self.identity().await?.slots.iter().map(Slot::from).collect())
    }

    /// Finds the slot that a master key opens.
    ///
    /// # Errors
    /// `Corrupt`, or the store's.
    pub async fn key_slot_of(&self, master: &MasterKey) -> Result<Option<Slot>> {
        let record = self.identity().await?;
        Ok(self.opened_by(&record, master).next().map(Slot::from))
    }

    /// Lets one more master key open the repository. A key that does already stays as it is.
    ///
    /// # Errors
    /// `Conflict` where others keep changing the slots, and the store's; asking again is safe.
    pub async fn add_key(&self, master: &MasterKey, label: Option<&Label>) -> Result<Claim<Slot>> {
        self.change_identity(|record| {
            if let Some(slot) = self.opened_by(record, master).next() {
                return Ok(Claim::AlreadyPresent(slot.into()));
            }
            let slot = loop {
                let slot = KeySlot::seal(self.data_key(), master, label, self.uuid(), self.seams());
                if record.slots.iter().all(|other| other.id() != slot.id()) {
                    break slot;
                }
            };
            let created = Slot::from(&slot);
            record.slots.push(slot);
            Ok(Claim::Created(created))
        })
        .await
    }

    /// Takes a slot away. `remaining` must open another one, so that nobody locks themselves out.
    ///
    /// # Errors
    /// `LockOut` where `remaining` opens no other slot, `NoKeySlot` where there is none of that id, and those of
    /// [`add_key`](Self::add_key).
    pub async fn remove_key(&self, id: SlotId, remaining: &MasterKey) -> Result<Slot> {
        self.change_identity(|record| {
            let Some(at) = record.slots.iter().position(|slot| slot.id() == id) else {
                return Err(Error::NoKeySlot { slot: id });
            };
            if record.slots.len() == 1 {
                let reason =
                    "it is the last one, and without it nobody could open the repository: add another key first";
                return Err(Error::LockOut { slot: id, reason });
            }
            if !self.opened_by(record, remaining).any(|slot| slot.id() != id) {
                let reason = "the key that is to remain opens no other slot: give one that does";
                return Err(Error::LockOut { slot: id, reason });
            }
            Ok(Slot::from(&record.slots.remove(at)))
        })
        .await
    }

    /// Puts a new master key in the place of an old one; returns the new slot, and the old one unless it was gone already.
    ///
    /// # Errors
    /// `LockOut` where both are the same key, `Corrupt` where the new slot does not read back, and those of
    /// [`add_key`](Self::add_key).
    pub async fn rotate_key(
        &self,
        old: &MasterKey,
        new: &MasterKey,
        label: Option<&Label>,
    ) -> Result<(Slot, Option<Slot>)> {
        let (Claim::Created(added) | Claim::AlreadyPresent(added)) = self.add_key(new, label).await?;
        // What the store has is what a restore will meet, so nothing is taken away before that was seen to open.
        let Some(standing) = self.key_slot_of(new).await? else {
            let reason = format!("key slot {} was put and does not open when it is read back", added.id);
            return Err(Error::Corrupt { object: super::names::REPOSITORY.into(), reason });
        };
        match self.key_slot_of(old).await? {
            None => Ok((standing, None)),
            Some(slot) if slot.id == standing.id => {
                Err(Error::LockOut { slot: slot.id, reason: "the new key is the old one: give another" })
            }
            Some(slot) => match self.remove_key(slot.id, new).await {
                Ok(removed) => Ok((standing, Some(removed))),
                Err(Error::NoKeySlot { .. }) => Ok((standing, None)),
                Err(error) => Err(error),
            },
        }
    }

    /// The slots that a master key opens; each must give the data key that the handle has.
    fn opened_by<'a>(
        &'a self,
        record: &'a RepositoryRecord,
        master: &'a MasterKey,
    ) -> impl Iterator<Item = &'a KeySlot> {
        let opens = |slot: &&KeySlot| slot.open(master, record.uuid).is_some_and(|key| key.is(self.data_key()));
        record.slots.iter().filter(opens)
    }
}
