//! Reading packs: the table against its reference, each chunk against its id.

use super::{Encoded, PackReference, Table, TableEntry, chunk};
use crate::{
    Error, Result,
    crypto::{DataKey, PackCipher, Rejected, TAG_LEN},
    id::ChunkId,
    run::wire::Malformed,
};
use chunk::Codec;

const WRONG_ID: &str = "its bytes do not hash to its id";

/// What one thread opens chunks with.
#[derive(Default)]
pub(crate) struct Workspace {
    zstd: zstd::zstd_safe::DCtx<'static>,
    bytes: Vec<u8>,
}

/// Verifies and opens the sealed table of a pack.
pub(crate) fn open_table(key: &DataKey, reference: &PackReference, sealed: &[u8]) -> Result<Table> {
    if *blake3::hash(sealed).as_bytes() != reference.table_hash {
        return Err(reference.damaged("its table is not the one that was written: the hash differs"));
    }
    let mut table = sealed.to_vec();
    let opened = key.pack_cipher(reference.id).open_table(&mut table);
    opened.map_err(|rejected| reference.damaged(format!("its table cannot be opened: {rejected}")))?;
    Table::decode(&table, reference.table_offset)
        .map_err(|malformed| reference.damaged(format!("its table is malformed: {malformed}")))
}

/// Opens the chunks of one pack.
pub(crate) struct Opener {
    reference: PackReference,
    cipher: PackCipher,
}

impl Opener {
    /// Derives the pack's key.
    pub(crate) fn new(key: &DataKey, reference: PackReference) -> Self {
        Self { reference, cipher: key.pack_cipher(reference.id) }
    }

    /// Opens, decompresses and verifies the `ordinal`th chunk.
    ///
    /// # Errors
    /// `Corrupt` naming the pack and the chunk.
    pub(crate) fn open(&self, key: &DataKey, ordinal: u32, entry: &TableEntry, sealed: &[u8]) -> Result<Vec<u8>> {
        self.verify(key, ordinal, entry, self.decrypt(ordinal, entry, sealed)?)
    }

    /// Opens, decompresses and verifies the `ordinal`th chunk into a buffer that is as long as its blocks.
    ///
    /// # Errors
    /// `Corrupt` naming the pack and the chunk; what is in the buffer then is not to be used.
    pub(crate) fn open_into(
        &self,
        key: &DataKey,
        ordinal: u32,
        entry: &TableEntry,
        sealed: &[u8],
        workspace: &mut Workspace,
        plain: &mut [u8],
    ) -> Result<()> {
        let rejected = |rejected: Rejected| self.damaged(ordinal, &rejected.to_string());
        let malformed = |malformed: Malformed| self.damaged(ordinal, &malformed.to_string());
        let length = sealed.len().checked_sub(TAG_LEN).ok_or_else(|| rejected(Rejected))?;
        match entry.codec {
            // Not as long as it should be is not what was sealed.
            Codec::Raw if length == plain.len() => {
                self.cipher.open_chunk_into(ordinal, &entry.id, sealed, plain).map_err(rejected)?;
            }
            codec => {
                workspace.bytes.resize(length.max(workspace.bytes.len()), 0);
                let bytes = &mut workspace.bytes[..length];
                self.cipher.open_chunk_into(ordinal, &entry.id, sealed, bytes).map_err(rejected)?;
                chunk::decode_into(codec, bytes, &mut workspace.zstd, plain).map_err(malformed)?;
            }
        }
        if key.chunk_id(plain) == entry.id { Ok(()) } else { Err(self.damaged(ordinal, WRONG_ID)) }
    }

    /// Opens and verifies the `ordinal`th chunk, and returns it as it was before it was sealed.
    ///
    /// # Errors
    /// `Corrupt` naming the pack and the chunk.
    pub(crate) fn unseal(&self, key: &DataKey, ordinal: u32, entry: &TableEntry, sealed: &[u8]) -> Result<Unsealed> {
        let bytes = self.decrypt(ordinal, entry, sealed)?;
        self.verify(key, ordinal, entry, bytes.clone())?;
        Ok(Unsealed { id: entry.id, blocks: entry.blocks, encoded: Encoded { codec: entry.codec, bytes } })
    }

    fn decrypt(&self, ordinal: u32, entry: &TableEntry, sealed: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = sealed.to_vec();
        let opened = self.cipher.open_chunk(ordinal, &entry.id, &mut bytes);
        opened.map_err(|rejected| self.damaged(ordinal, &rejected.to_string()))?;
        Ok(bytes)
    }

    fn verify(&self, key: &DataKey, ordinal: u32, entry: &TableEntry, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let plain = chunk::decode(entry.codec, bytes, entry.blocks);
        let plain = plain.map_err(|malformed| self.damaged(ordinal, &malformed.to_string()))?;
        if key.chunk_id(&plain) == entry.id { Ok(plain) } else { Err(self.damaged(ordinal, WRONG_ID)) }
    }

    fn damaged(&self, ordinal: u32, reason: &str) -> Error {
        self.reference.damaged(format!("chunk {ordinal}: {reason}"))
    }
}

/// A chunk as it was before it was sealed into a pack.
pub(crate) struct Unsealed {
    /// Its id.
    pub(crate) id: ChunkId,
    /// How many blocks it holds.
    pub(crate) blocks: u8,
    /// Its bytes, compressed as they were.
    pub(crate) encoded: Encoded,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::PackId,
        pack::{Compressor, Writer},
        seam::Seams,
    };

    #[test]
    fn what_was_written_opens_and_what_was_changed_does_not() {
        let key = DataKey::generate(&Seams::system());
        let mut writer = Writer::new(&key, PackId::from_bytes([1; 16]));
        let compressor = Compressor::new(None);
        let chunks: Vec<Vec<u8>> = (1..=5_u8).map(|n| vec![n; usize::from(n) * 4096]).collect();
        for (chunk, blocks) in chunks.iter().zip(1..) {
            writer.push(key.chunk_id(chunk), blocks, compressor.encode(chunk.clone()));
        }
        let (reference, object) = writer.finish();
        let offset = reference.table_offset as usize;
        let table = open_table(&key, &reference, &object[offset..]).unwrap();
        let opener = Opener::new(&key, reference);
        let mut workspace = Workspace::default();
        for (ordinal, (entry, chunk)) in (0..).zip(table.entries.iter().zip(&chunks)) {
            let sealed = &object[entry.offset as usize..entry.end() as usize];
            assert_eq!(&opener.open(&key, ordinal, entry, sealed).unwrap(), chunk);
            let mut plain = vec![0; chunk.len()];
            opener.open_into(&key, ordinal, entry, sealed, &mut workspace, &mut plain).unwrap();
            assert_eq!(&plain, chunk);
            let mut into = |ordinal, sealed: &[u8], length| {
                opener.open_into(&key, ordinal, entry, sealed, &mut workspace, &mut vec![0; length]).is_err()
            };
            assert!(into(ordinal + 1, sealed, chunk.len()) && into(ordinal, &sealed[1..], chunk.len()));
            assert!(into(ordinal, sealed, chunk.len() + 4096) && into(ordinal, sealed, 0) && into(ordinal, &[], 4096));
            assert!(opener.open(&key, ordinal + 1, entry, sealed).is_err(), "another chunk's place");
            let mut changed = sealed.to_vec();
            changed[3] ^= 1;
            assert!(opener.open(&key, ordinal, entry, &changed).is_err(), "a flipped bit");
        }
        let mut changed = object[offset..].to_vec();
        changed[0] ^= 0x80;
        assert!(open_table(&key, &reference, &changed).is_err());
        assert!(open_table(&key, &reference, &object[offset + 1..]).is_err());
    }
}
