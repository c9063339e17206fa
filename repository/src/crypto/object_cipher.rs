//! The ciphers of packs and runs: one key an object, the part's ordinal as nonce.
//!
//! An object's key is derived from the data key and the object's random id, so a counter is a safe nonce: no other
//! object is sealed under the same key, and an ordinal is used once in each.

use super::{Aes, KEY_LEN, NONCE_LEN, Rejected};
use crate::id::{ChunkId, PackId, RunId};

pub(super) const PACK_CONTEXT: &str = "varve format 1 pack";
pub(super) const RUN_CONTEXT: &str = "varve format 1 run";

/// The ordinal of the part that describes the others: a pack's table, a run's index.
const DIRECTORY_ORDINAL: u32 = u32::MAX;

/// What packs and runs have in common.
struct ObjectCipher {
    aes: Aes,
    id: [u8; 16],
}

impl ObjectCipher {
    fn new(key: &[u8; KEY_LEN], id: [u8; 16]) -> Self {
        Self { aes: Aes::new(key), id }
    }

    fn nonce(ordinal: u32) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        nonce[..4].copy_from_slice(&ordinal.to_le_bytes());
        nonce
    }

    fn seal_part(&self, ordinal: u32, associated: &[u8], buffer: &mut Vec<u8>) {
        assert!(ordinal != DIRECTORY_ORDINAL, "the directory's nonce must not seal anything else");
        self.aes.seal(Self::nonce(ordinal), associated, buffer);
    }

    fn open_part(&self, ordinal: u32, associated: &[u8], buffer: &mut Vec<u8>) -> Result<(), Rejected> {
        if ordinal == DIRECTORY_ORDINAL {
            return Err(Rejected);
        }
        self.aes.open(Self::nonce(ordinal), associated, buffer)
    }

    fn open_part_into(&self, ordinal: u32, associated: &[u8], sealed: &[u8], plain: &mut [u8]) -> Result<(), Rejected> {
        if ordinal == DIRECTORY_ORDINAL {
            return Err(Rejected);
        }
        self.aes.open_into(Self::nonce(ordinal), associated, sealed, plain)
    }

    fn seal_directory(&self, buffer: &mut Vec<u8>) {
        self.aes.seal(Self::nonce(DIRECTORY_ORDINAL), &self.id, buffer);
    }

    fn open_directory(&self, buffer: &mut Vec<u8>) -> Result<(), Rejected> {
        self.aes.open(Self::nonce(DIRECTORY_ORDINAL), &self.id, buffer)
    }
}

/// Seals and opens the parts of one pack. Everything works in place; sealing appends the tag, opening removes it.
pub(crate) struct PackCipher(ObjectCipher);

impl PackCipher {
    pub(super) fn new(key: &[u8; KEY_LEN], pack: PackId) -> Self {
        Self(ObjectCipher::new(key, *pack.as_bytes()))
    }

    /// Seals the `ordinal`th chunk of the pack; an ordinal is used once.
    pub(crate) fn seal_chunk(&self, ordinal: u32, id: &ChunkId, buffer: &mut Vec<u8>) {
        self.0.seal_part(ordinal, id.as_bytes(), buffer);
    }

    /// Opens the `ordinal`th chunk of the pack into a buffer of its length.
    pub(crate) fn open_chunk_into(
        &self,
        ordinal: u32,
        id: &ChunkId,
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), Rejected> {
        self.0.open_part_into(ordinal, id.as_bytes(), sealed, plain)
    }

    /// Opens the `ordinal`th chunk of the pack.
    pub(crate) fn open_chunk(&self, ordinal: u32, id: &ChunkId, buffer: &mut Vec<u8>) -> Result<(), Rejected> {
        self.0.open_part(ordinal, id.as_bytes(), buffer)
    }

    /// Seals the table of the pack; once.
    pub(crate) fn seal_table(&self, buffer: &mut Vec<u8>) {
        self.0.seal_directory(buffer);
    }

    /// Opens the table of the pack.
    pub(crate) fn open_table(&self, buffer: &mut Vec<u8>) -> Result<(), Rejected> {
        self.0.open_directory(buffer)
    }
}

/// Seals and opens the parts of one run. Everything works in place; sealing appends the tag, opening removes it.
pub(crate) struct RunCipher(ObjectCipher);

impl RunCipher {
    pub(super) fn new(key: &[u8; KEY_LEN], run: RunId) -> Self {
        Self(ObjectCipher::new(key, *run.as_bytes()))
    }

    /// Seals the `ordinal`th page of the run; an ordinal is used once.
    pub(crate) fn seal_page(&self, ordinal: u32, buffer: &mut Vec<u8>) {
        self.0.seal_part(ordinal, &self.0.id, buffer);
    }

    /// Opens the `ordinal`th page of the run.
    pub(crate) fn open_page(&self, ordinal: u32, buffer: &mut Vec<u8>) -> Result<(), Rejected> {
        self.0.open_part(ordinal, &self.0.id, buffer)
    }

    /// Seals the index of the run; once.
    pub(crate) fn seal_index(&self, buffer: &mut Vec<u8>) {
        self.0.seal_directory(buffer);
    }

    /// Opens the index of the run.
    pub(crate) fn open_index(&self, buffer: &mut Vec<u8>) -> Result<(), Rejected> {
        self.0.open_directory(buffer)
    }
}
