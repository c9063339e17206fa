//! Keys: the master key that a person keeps, the data key that it seals, and everything derived from that.
//!
//! ```text
//! master key ──(salt)──> key-encryption key ──opens a key slot──> data key
//!                                                                   ├─> chunk ids      keyed BLAKE3
//!                                                                   ├─> names          keyed BLAKE3: ids of volumes, snapshots, groups
//!                                                                   ├─> records        AES-256-GCM, random nonces
//!                                                                   ├─> one key a pack AES-256-GCM, ordinals as nonces
//!                                                                   ├─> one key a run  AES-256-GCM, ordinals as nonces
//!                                                                   └─> authority      seed of the key that certifies processes
//! ```
//!
//! # Invariants
//!
//! No key has a text form outside the master key's own file, none has `Debug` output, and each is wiped when it
//! is dropped. No (key, nonce) pair seals two different texts: the id that a pack's or run's key is derived from
//! is random and never used again, and an ordinal is used once in it.

mod data_key;
mod master_key;
mod object_cipher;
mod slot;

pub use data_key::AuthoritySeed;
pub use master_key::MasterKey;
pub use slot::{InvalidLabel, InvalidSlotId, Label, SlotId};

pub(crate) use data_key::{DataKey, RecordKey};
pub(crate) use object_cipher::{PackCipher, RunCipher};
pub(crate) use slot::KeySlot;

use aws_lc_rs::aead;
use zeroize::{Zeroize, Zeroizing};

/// Bytes of every symmetric key.
pub(crate) const KEY_LEN: usize = 32;

/// Bytes of an AES-256-GCM nonce.
pub(crate) const NONCE_LEN: usize = 12;

/// Bytes that sealing adds: the AES-256-GCM tag.
pub(crate) const TAG_LEN: usize = 16;

/// Says that sealed bytes are not what was sealed under this key, nonce and associated data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the authentication tag does not match")]
pub(crate) struct Rejected;

/// Derives a key from key material, in BLAKE3's `derive_key` mode; the parts count as one text.
fn derive(context: &'static str, material: &[&[u8]]) -> Zeroizing<[u8; KEY_LEN]> {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in material {
        hasher.update(part);
    }
    let mut hash = hasher.finalize();
    let key = Zeroizing::new(*hash.as_bytes());
    hasher.zeroize();
    hash.zeroize();
    key
}

/// AES-256-GCM under one key. The key schedule is wiped by the library when it is dropped.
struct Aes(aead::LessSafeKey);

impl Aes {
    fn new(key: &[u8; KEY_LEN]) -> Self {
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, key).expect("AES-256 takes a key of 32 bytes");
        Self(aead::LessSafeKey::new(key))
    }

    /// Seals in place and appends the tag.
    fn seal(&self, nonce: [u8; NONCE_LEN], associated: &[u8], buffer: &mut Vec<u8>) {
        self.0
            .seal_in_place_append_tag(aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(associated), buffer)
            .expect("a text far below 64 GiB can be sealed");
    }

    /// Opens into another buffer, which is as long as the text without its tag. What is there after a rejection is not to
    /// be read.
    fn open_into(
        &self,
        nonce: [u8; NONCE_LEN],
        associated: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), Rejected> {
        let (text, tag) = sealed.split_at_checked(plain.len()).ok_or(Rejected)?;
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        self.0.open_separate_gather(nonce, aead::Aad::from(associated), text, tag, plain).map_err(|_| Rejected)
    }

    /// Opens in place and removes the tag. What is left after a rejection is not to be read.
    fn open(&self, nonce: [u8; NONCE_LEN], associated: &[u8], buffer: &mut Vec<u8>) -> Result<(), Rejected> {
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let opened = self.0.open_in_place(nonce, aead::Aad::from(associated), buffer);
        let length = opened.map_err(|_| Rejected)?.len();
        buffer.truncate(length);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
