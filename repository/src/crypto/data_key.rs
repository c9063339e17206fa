//! The data key: what a repository's content is sealed under, and what is derived from it.

use std::fmt;

use zeroize::Zeroizing;

use super::{
    Aes, KEY_LEN, NONCE_LEN, PackCipher, Rejected, RunCipher, derive,
    object_cipher::{PACK_CONTEXT, RUN_CONTEXT},
};
use crate::{
    id::{ChunkId, GroupId, PackId, RunId, SnapshotId, VolumeId},
    seam::Seams,
};

const CHUNK_ID_CONTEXT: &str = "varve format 1 chunk id";
const NAMES_CONTEXT: &str = "varve format 1 names";
const RECORD_CONTEXT: &str = "varve format 1 record";
/// No part of the format: nothing in the bucket depends on it.
const AGENT_AUTHORITY_CONTEXT: &str = "varve agent api 1 authority";

/// The key that a repository's content is sealed under.
pub(crate) struct DataKey {
    key: Zeroizing<[u8; KEY_LEN]>,
    chunk_ids: Zeroizing<[u8; KEY_LEN]>,
    names: Zeroizing<[u8; KEY_LEN]>,
    records: RecordKey,
}

impl DataKey {
    /// Makes a new one.
    pub(crate) fn generate(seams: &Seams) -> Self {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        seams.entropy.fill(&mut *key);
        Self::new(key)
    }

    /// Takes the bytes that a key slot held.
    pub(super) fn new(key: Zeroizing<[u8; KEY_LEN]>) -> Self {
        Self {
            chunk_ids: derive(CHUNK_ID_CONTEXT, &[&*key]),
            names: derive(NAMES_CONTEXT, &[&*key]),
            records: RecordKey(Aes::new(&derive(RECORD_CONTEXT, &[&*key]))),
            key,
        }
    }

    /// The key's bytes, for sealing them into a key slot alone.
    pub(super) fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.key
    }

    /// Tells whether both are the same key.
    pub(crate) fn is(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&*self.key, &*other.key).is_ok()
    }

    /// Names a chunk by its plain bytes.
    pub(crate) fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId::from_bytes(*blake3::keyed_hash(&self.chunk_ids, plain).as_bytes())
    }

    /// Derives the cipher of one pack.
    pub(crate) fn pack_cipher(&self, pack: PackId) -> PackCipher {
        PackCipher::new(&derive(PACK_CONTEXT, &[&*self.key, pack.as_bytes()]), pack)
    }

    /// Derives the cipher of one run.
    pub(crate) fn run_cipher(&self, run: RunId) -> RunCipher {
        RunCipher::new(&derive(RUN_CONTEXT, &[&*self.key, run.as_bytes()]), run)
    }

    /// The key that records are sealed with.
    pub(crate) fn records(&self) -> &RecordKey {
        &self.records
    }

    /// Derives the seed of the authority that certifies the processes of this repository to one another.
    pub(crate) fn authority_seed(&self) -> AuthoritySeed {
        AuthoritySeed(derive(AGENT_AUTHORITY_CONTEXT, &[&*self.key]))
    }

    /// Derives the id of the volume of that name.
    pub(crate) fn volume_id(&self, name: &str) -> VolumeId {
        VolumeId::from_bytes(self.name_id(&[b"volume\0", name.as_bytes()]))
    }

    /// Derives the id of the `generation`th snapshot of that name.
    pub(crate) fn snapshot_id(&self, name: &str, generation: u64) -> SnapshotId {
        SnapshotId::from_bytes(self.name_id(&[b"snapshot\0", name.as_bytes(), &generation.to_le_bytes()]))
    }

    /// Derives the id of the group snapshot of that name.
    pub(crate) fn group_id(&self, name: &str) -> GroupId {
        GroupId::from_bytes(self.name_id(&[b"group\0", name.as_bytes()]))
    }

    /// Derives the id of a volume's member of a group snapshot.
    pub(crate) fn member_id(&self, group: GroupId, volume: VolumeId) -> SnapshotId {
        SnapshotId::from_bytes(self.name_id(&[b"member\0", group.as_bytes(), volume.as_bytes()]))
    }

    /// Hashes a kind's tag and the parts of a name; the tags end in NUL, so no text of one kind is one of another.
    fn name_id(&self, parts: &[&[u8]]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.names);
        for part in parts {
            hasher.update(part);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        id
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}

/// What the key of a repository's own certificate authority is made of. All processes that opened the repository have the
/// same one, whatever master key they opened it with, and nobody else has it. It tells nothing of the data key.
pub struct AuthoritySeed(Zeroizing<[u8; KEY_LEN]>);

impl AuthoritySeed {
    /// The seed's bytes, for making the authority's key alone.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

/// The key that records are sealed with, each under a fresh random nonce.
///
/// Random nonces of 96 bits are safe for 2^32 records; a repository that writes a thousand a second gets there in 50 days
/// of doing nothing else, and its content would by then be under no more risk than one in 2^32.
pub(crate) struct RecordKey(Aes);

impl RecordKey {
    /// Seals a record's payload in place and appends the tag.
    pub(crate) fn seal(&self, nonce: [u8; NONCE_LEN], associated: &[u8], buffer: &mut Vec<u8>) {
        self.0.seal(nonce, associated, buffer);
    }

    /// Opens a record's payload in place and removes the tag.
    pub(crate) fn open(&self, nonce: [u8; NONCE_LEN], associated: &[u8], buffer: &mut Vec<u8>) -> Result<(), Rejected> {
        self.0.open(nonce, associated, buffer)
    }
}
