//! Key slots: the data key, sealed once under each master key that may open the repository.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Aes, DataKey, KEY_LEN, MasterKey, NONCE_LEN, TAG_LEN, derive};
use crate::seam::Seams;

const SLOT_CONTEXT: &str = "varve format 1 key slot";

/// Longest label of a slot, in bytes.
const LABEL_LIMIT: usize = 64;

/// Names a slot among those of its repository: the first bytes of its salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct SlotId([u8; 4]);

/// Says how a slot's id looks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a key slot's id: expected 8 lower-case hexadecimal digits, as `varve repository key list` shows them"
)]
pub struct InvalidSlotId(String);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for SlotId {
    type Err = InvalidSlotId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 4];
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) if hex::encode(bytes) == text => Ok(Self(bytes)),
            _ => Err(InvalidSlotId(text.into())),
        }
    }
}

impl From<SlotId> for String {
    fn from(id: SlotId) -> Self {
        id.to_string()
    }
}

/// What people call a key: where it is kept, or who has it. It stands in the bucket for everybody to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(String);

/// Says what a label may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a label has 1 to {LABEL_LIMIT} bytes and no control characters")]
pub struct InvalidLabel;

impl FromStr for Label {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = !text.is_empty() && text.len() <= LABEL_LIMIT && !text.chars().any(char::is_control);
        if fits { Ok(Self(text.into())) } else { Err(InvalidLabel) }
    }
}

/// One sealing of the data key, as it stands in the `repository` object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeySlot {
    /// Makes the key-encryption key of this slot differ from every other.
    #[serde(with = "hex::serde")]
    salt: [u8; 32],
    /// AES-256-GCM nonce; random.
    #[serde(with = "hex::serde")]
    nonce: [u8; NONCE_LEN],
    /// The data key and the tag.
    #[serde(with = "hex::serde")]
    sealed_key: [u8; KEY_LEN + TAG_LEN],
    /// When the slot was made; for people.
    created_at: Timestamp,
    /// What people call its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<String>,
}

impl KeySlot {
    /// Seals the data key under a master key. The repository's uuid is associated data: a slot fits no other.
    pub(crate) fn seal(
        data_key: &DataKey,
        master: &MasterKey,
        label: Option<&Label>,
        repository: Uuid,
        seams: &Seams,
    ) -> Self {
        let salt = seams.random();
        let nonce = seams.random();
        let mut buffer = Zeroizing::new(Vec::with_capacity(KEY_LEN + TAG_LEN));
        buffer.extend_from_slice(data_key.as_bytes());
        Self::cipher(master, &salt).seal(nonce, repository.as_bytes(), &mut buffer);
        let mut sealed_key = [0; KEY_LEN + TAG_LEN];
        sealed_key.copy_from_slice(&buffer);
        Self { salt, nonce, sealed_key, created_at: seams.clock.now(), label: label.map(|label| label.0.clone()) }
    }

    /// The slot's name.
    pub(crate) fn id(&self) -> SlotId {
        let [first, second, third, fourth, ..] = self.salt;
        SlotId([first, second, third, fourth])
    }

    /// When the slot was made.
    pub(crate) fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// What people call its key, with everything escaped that a terminal might act on.
    pub(crate) fn label(&self) -> Option<String> {
        self.label.as_ref().map(|label| label.escape_debug().to_string())
    }

    /// Opens the slot; `None` where it is sealed under another master key.
    pub(crate) fn open(&self, master: &MasterKey, repository: Uuid) -> Option<DataKey> {
        let mut buffer = Zeroizing::new(self.sealed_key.to_vec());
        Self::cipher(master, &self.salt).open(self.nonce, repository.as_bytes(), &mut buffer).ok()?;
        let mut key = Zeroizing::new([0; KEY_LEN]);
        key.copy_from_slice(&buffer);
        Some(DataKey::new(key))
    }

    fn cipher(master: &MasterKey, salt: &[u8; 32]) -> Aes {
        Aes::new(&derive(SLOT_CONTEXT, &[master.as_bytes(), salt]))
    }
}
