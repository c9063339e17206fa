//! Writing a pack: chunks are sealed into one buffer, which is put whole.

use bytes::Bytes;

use super::{Encoded, MAX_CHUNKS, PackReference, Table, TableEntry};
use crate::{
    block::CHUNK_BLOCKS,
    crypto::{DataKey, PackCipher},
    format::{self, Kind},
    id::{ChunkId, PackId},
};

/// A pack being filled.
pub(crate) struct Writer {
    id: PackId,
    cipher: PackCipher,
    bytes: Vec<u8>,
    table: Table,
}

impl Writer {
    /// Starts an empty pack; the id must never have been used before.
    pub(crate) fn new(key: &DataKey, id: PackId) -> Self {
        let mut bytes = Vec::new();
        format::put_header(&mut bytes, Kind::Pack);
        Self { id, cipher: key.pack_cipher(id), bytes, table: Table::default() }
    }

    /// Seals a chunk into the pack and returns its ordinal.
    pub(crate) fn push(&mut self, id: ChunkId, blocks: u8, encoded: Encoded) -> u32 {
        assert!(self.table.entries.len() < MAX_CHUNKS, "a pack is closed before it holds too many chunks");
        assert!((1..=CHUNK_BLOCKS).contains(&blocks.into()), "a chunk that readers would refuse must not be written");
        let ordinal = u32::try_from(self.table.entries.len()).expect("a pack holds at most MAX_CHUNKS chunks");
        let Encoded { codec, bytes: mut sealed } = encoded;
        self.cipher.seal_chunk(ordinal, &id, &mut sealed);
        let stored = u32::try_from(sealed.len()).expect("a sealed chunk is at most 128 KiB and a tag");
        self.table.entries.push(TableEntry { id, offset: self.stored_bytes(), stored, blocks, codec });
        self.bytes.extend_from_slice(&sealed);
        ordinal
    }

    /// How many bytes it has so far, the table aside.
    pub(crate) fn stored_bytes(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("a pack is closed long before it has 4 GiB")
    }

    /// How many chunks it holds.
    pub(crate) fn chunks(&self) -> usize {
        self.table.entries.len()
    }

    /// Seals the table and returns the whole object, and how to refer to it.
    pub(crate) fn finish(mut self) -> (PackReference, Bytes) {
        let table_offset = self.stored_bytes();
        let mut table = self.table.encode();
        self.cipher.seal_table(&mut table);
        let table_hash = *blake3::hash(&table).as_bytes();
        self.bytes.extend_from_slice(&table);
        let reference = PackReference { id: self.id, object_bytes: self.stored_bytes(), table_offset, table_hash };
        (reference, self.bytes.into())
    }
}
