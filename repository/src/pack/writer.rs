//! Writing a pack: chunks are gathered as they come, compressed, and sealed all together where there is time for it.

use bytes::Bytes;

use super::{Encoded, MAX_CHUNKS, PackReference, Table, TableEntry};
use crate::{
    block::CHUNK_BLOCKS,
    crypto::{DataKey, PackCipher, TAG_LEN},
    format::{self, HEADER_LEN, Kind},
    id::{ChunkId, PackId},
};

/// Parts of a pack that are smaller are put together, up to this many bytes: each part costs a store something.
const PART_BYTES: usize = 64 << 10;

/// A pack being filled.
pub(crate) struct Writer {
    id: PackId,
    cipher: PackCipher,
    /// What is to be sealed, in the table's order.
    chunks: Vec<Vec<u8>>,
    table: Table,
    end: u32,
}

/// A pack whose table is sealed, and whose chunks are not.
pub(crate) struct Closed {
    writer: Writer,
    table: Vec<u8>,
}

impl Writer {
    /// Starts an empty pack; the id must never have been used before.
    pub(crate) fn new(key: &DataKey, id: PackId) -> Self {
        let end = u32::try_from(HEADER_LEN).expect("a header is a few bytes");
        Self { id, cipher: key.pack_cipher(id), chunks: Vec::new(), table: Table::default(), end }
    }

    /// Takes up a chunk and returns its ordinal.
    pub(crate) fn push(&mut self, id: ChunkId, blocks: u8, encoded: Encoded) -> u32 {
        assert!(self.chunks.len() < MAX_CHUNKS, "a pack is closed before it holds too many chunks");
        assert!((1..=CHUNK_BLOCKS).contains(&blocks.into()), "a chunk that readers would refuse must not be written");
        let ordinal = u32::try_from(self.chunks.len()).expect("a pack holds at most MAX_CHUNKS chunks");
        let Encoded { codec, bytes } = encoded;
        let stored = u32::try_from(bytes.len() + TAG_LEN).expect("a sealed chunk is at most 128 KiB and a tag");
        self.table.entries.push(TableEntry { id, offset: self.end, stored, blocks, codec });
        self.end = self.end.checked_add(stored).expect("a pack is closed long before it has 4 GiB");
        self.chunks.push(bytes);
        ordinal
    }

    /// How many bytes it has so far, the table aside.
    pub(crate) fn stored_bytes(&self) -> u32 {
        self.end
    }

    /// How many chunks it holds.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Seals the table and returns how to refer to the pack, and what is still to be sealed.
    pub(crate) fn close(self) -> (PackReference, Closed) {
        let mut table = self.table.encode();
        self.cipher.seal_table(&mut table);
        let table_bytes = u32::try_from(table.len()).expect("a table is at most some 300 KiB");
        let reference = PackReference {
            id: self.id,
            object_bytes: self.end.checked_add(table_bytes).expect("a pack is closed long before it has 4 GiB"),
            table_offset: self.end,
            table_hash: *blake3::hash(&table).as_bytes(),
        };
        (reference, Closed { writer: self, table })
    }

    /// Seals everything and returns the whole object, and how to refer to it.
    pub(crate) fn finish(self) -> (PackReference, Bytes) {
        let (reference, closed) = self.close();
        let parts = closed.seal();
        let mut object = Vec::with_capacity(parts.iter().map(Bytes::len).sum());
        for part in parts {
            object.extend_from_slice(&part);
        }
        (reference, object.into())
    }
}

impl Closed {
    /// Seals the chunks and returns the object, in parts.
    pub(crate) fn seal(self) -> Vec<Bytes> {
        let Self { writer: Writer { cipher, chunks, table, .. }, table: sealed_table } = self;
        let (mut parts, mut small) = (Vec::new(), Vec::new());
        format::put_header(&mut small, Kind::Pack);
        for ((mut chunk, entry), ordinal) in chunks.into_iter().zip(&table.entries).zip(0..) {
            cipher.seal_chunk(ordinal, &entry.id, &mut chunk);
            add(&mut parts, &mut small, chunk);
        }
        add(&mut parts, &mut small, sealed_table);
        if !small.is_empty() {
            parts.push(small.into());
        }
        parts
    }
}

/// Adds a part to those that are done; small ones are put together first.
fn add(parts: &mut Vec<Bytes>, small: &mut Vec<u8>, part: Vec<u8>) {
    if part.len() < PART_BYTES / 4 {
        small.extend_from_slice(&part);
        if small.len() >= PART_BYTES {
            parts.push(std::mem::take(small).into());
        }
        return;
    }
    if !small.is_empty() {
        parts.push(std::mem::take(small).into());
    }
    parts.push(part.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pack::{Compressor, Opener, open_table},
        seam::Seams,
    };

    #[test]
    fn parts_are_the_object_and_small_ones_are_put_together() {
        let key = DataKey::generate(&Seams::system());
        let mut writer = Writer::new(&key, PackId::from_bytes([1; 16]));
        let compressor = Compressor::new(None);
        let mut noise = vec![0; 32 * 4096];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let chunks: Vec<Vec<u8>> = (0..200_u8).map(|n| if n == 100 { noise.clone() } else { vec![n; 8192] }).collect();
        for chunk in &chunks {
            let blocks = u8::try_from(chunk.len() / 4096).unwrap();
            writer.push(key.chunk_id(chunk), blocks, compressor.encode(chunk.clone()));
        }
        let (reference, closed) = writer.close();
        let parts = closed.seal();
        assert_eq!(parts.len(), 3, "what is before the noise, the noise, what is behind it");
        let object = parts.concat();
        assert_eq!(object.len(), reference.object_bytes as usize);
        let table = open_table(&key, &reference, &object[reference.table_offset as usize..]).unwrap();
        let opener = Opener::new(&key, reference);
        for ((entry, chunk), ordinal) in table.entries.iter().zip(&chunks).zip(0..) {
            let sealed = &object[entry.offset as usize..entry.end() as usize];
            assert_eq!(&opener.open(&key, ordinal, entry, sealed).unwrap(), chunk);
        }
    }
}
