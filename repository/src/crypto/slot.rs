//! Key slots: the data key, sealed once under each master key that may open the repository.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Aes, DataKey, KEY_LEN, MasterKey, NONCE_LEN, TAG_LEN, derive};
use crate::seam::Seams;

const SLOT_CONTEXT: &str = "varve format 1 key slot";

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
}

impl KeySlot {
    /// Seals the data key under a master key. The repository's uuid is associated data: a slot fits no other.
    pub(crate) fn seal(data_key: &DataKey, master: &MasterKey, repository: Uuid, seams: &Seams) -> Self {
        let salt = seams.random();
        let nonce = seams.random();
        let mut buffer = Zeroizing::new(Vec::with_capacity(KEY_LEN + TAG_LEN));
        buffer.extend_from_slice(data_key.as_bytes());
        Self::cipher(master, &salt).seal(nonce, repository.as_bytes(), &mut buffer);
        let mut sealed_key = [0; KEY_LEN + TAG_LEN];
        sealed_key.copy_from_slice(&buffer);
        Self { salt, nonce, sealed_key, created_at: seams.clock.now() }
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
