//! The table of a pack: which chunks it holds, in the order they lie in it.
//!
//! ```text
//! 0    4   number of chunks
//! 4   38   for each chunk:  0 32 chunk id
//!                          32  4 stored length in bytes, tag included
//!                          36  1 plain length in blocks, 1 to 32
//!                          37  1 codec: 0 as it is, 1 zstd
//! ```
//!
//! Chunks lie back to back from the end of the header, so that lengths give the offsets.

use std::ops::RangeInclusive;

use super::{MAX_CHUNKS, chunk::Codec};
use crate::{
    block::{BLOCK_SIZE, CHUNK_BLOCKS},
    crypto::TAG_LEN,
    format::HEADER_LEN,
    id::ChunkId,
    run::wire::{Cursor, Malformed},
};

/// Length of one chunk's entry, in bytes.
const ENTRY_LEN: usize = ChunkId::LEN + 4 + 1 + 1;

/// Length of the longest table as stored, in bytes.
pub(super) const MAX_SEALED_LEN: usize = 4 + MAX_CHUNKS * ENTRY_LEN + TAG_LEN;

/// Returns how many chunks a table is of that has so many bytes as stored; `None` where none has.
pub(super) fn chunk_count(sealed_bytes: usize) -> Option<usize> {
    let entries = sealed_bytes.checked_sub(4 + TAG_LEN)?;
    let count = entries / ENTRY_LEN;
    (entries.is_multiple_of(ENTRY_LEN) && count <= MAX_CHUNKS).then_some(count)
}

/// Length of the longest chunk as stored, in bytes.
#[expect(clippy::cast_possible_truncation, reason = "128 KiB fit 32 bits")]
const MAX_STORED_LEN: u32 = (CHUNK_BLOCKS * BLOCK_SIZE) as u32 + TAG_LEN as u32;

/// Lengths that a chunk may have as stored, in bytes: it is more than a tag.
#[expect(clippy::cast_possible_truncation, reason = "a tag has 16 bytes")]
const STORED_LEN: RangeInclusive<u32> = TAG_LEN as u32 + 1..=MAX_STORED_LEN;

/// One chunk of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableEntry {
    /// The chunk's id.
    pub(crate) id: ChunkId,
    /// Where it starts in the object, in bytes.
    pub(crate) offset: u32,
    /// How many bytes it takes there, tag included.
    pub(crate) stored: u32,
    /// How many blocks it holds.
    pub(crate) blocks: u8,
    /// How it is compressed.
    pub(crate) codec: Codec,
}

impl TableEntry {
    /// The position in the object just past it.
    pub(crate) fn end(&self) -> u32 {
        self.offset + self.stored
    }
}

/// The table of one pack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// The chunks, by ordinal.
    pub(crate) entries: Vec<TableEntry>,
}

impl Table {
    /// Returns the encoded form, not sealed yet.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.entries.len() * ENTRY_LEN + TAG_LEN);
        let count = u32::try_from(self.entries.len()).expect("a pack holds at most MAX_CHUNKS chunks");
        out.extend_from_slice(&count.to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(entry.id.as_bytes());
            out.extend_from_slice(&entry.stored.to_le_bytes());
            out.push(entry.blocks);
            out.push(entry.codec.into());
        }
        out
    }

    /// Reads the encoded form; `table_offset` is where the chunks must end.
    pub(super) fn decode(bytes: &[u8], table_offset: u32) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let count = usize::try_from(cursor.u32()?).map_err(|_| Malformed("it counts too many chunks"))?;
        if count > MAX_CHUNKS || cursor.left() != count * ENTRY_LEN {
            return Err(Malformed("its length does not fit the number of chunks"));
        }
        let mut entries = Vec::with_capacity(count);
        let mut offset = u32::try_from(HEADER_LEN).expect("a header is a few bytes");
        for _ in 0..count {
            let entry = TableEntry {
                id: ChunkId::from_bytes(cursor.array()?),
                offset,
                stored: cursor.u32()?,
                blocks: cursor.u8()?,
                codec: cursor.u8()?.try_into()?,
            };
            if !(1..=CHUNK_BLOCKS).contains(&u64::from(entry.blocks)) || !STORED_LEN.contains(&entry.stored) {
                return Err(Malformed("a chunk is smaller or larger than any may be"));
            }
            // Cannot overflow: at most MAX_CHUNKS of at most MAX_STORED_LEN bytes.
            offset += entry.stored;
            entries.push(entry);
        }
        cursor.finish()?;
        if offset != table_offset {
            return Err(Malformed("its chunks do not fill the pack"));
        }
        Ok(Self { entries })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{fuzz, id::PackId, pack::PackReference};

    fn table() -> impl Strategy<Value = Table> {
        let entry = (any::<[u8; 32]>(), 17..=MAX_STORED_LEN, 1..=32_u8, any::<bool>());
        prop::collection::vec(entry, 0..40).prop_map(|entries| {
            let mut offset = u32::try_from(HEADER_LEN).unwrap();
            let entries = entries.into_iter().map(|(id, stored, blocks, zstd)| {
                let codec = if zstd { Codec::Zstd } else { Codec::Raw };
                let entry = TableEntry { id: ChunkId::from_bytes(id), offset, stored, blocks, codec };
                offset += stored;
                entry
            });
            Table { entries: entries.collect() }
        })
    }

    proptest! {
        #![proptest_config(fuzz::config())]

        #[test]
        fn fuzzed(table in table(), damages in fuzz::damages(), noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let end = table.entries.last().map_or(8, TableEntry::end);
            for bytes in [fuzz::damaged(&table.encode(), &damages), noise] {
                let decoded = fuzz::bounded(4 * bytes.len() + 1024, || Table::decode(&bytes, end));
                let Ok(decoded) = decoded else { continue };
                prop_assert_eq!(decoded.encode(), bytes);
                prop_assert!(decoded.entries.iter().all(|entry| entry.end() <= end));
            }
        }

        #[test]
        fn fuzzed_references(bytes: [u8; 56], damages in fuzz::damages()) {
            let valid = PackReference {
                id: PackId::from_bytes([1; 16]),
                object_bytes: 100,
                table_offset: 50,
                table_hash: bytes[..32].try_into().unwrap(),
            };
            let mut encoded = Vec::new();
            valid.encode(&mut encoded);
            for bytes in [bytes.to_vec(), fuzz::damaged(&encoded, &damages)] {
                let mut cursor = Cursor::new(&bytes);
                let decoded = fuzz::bounded(0, || PackReference::decode(&mut cursor));
                let Ok(decoded) = decoded else { continue };
                let mut again = Vec::new();
                decoded.encode(&mut again);
                prop_assert_eq!(&again[..], &bytes[..PackReference::LEN]);
                let table = decoded.table_range();
                prop_assert!(table.start < table.end && table.end - table.start <= MAX_SEALED_LEN as u64);
            }
        }
    }

    proptest! {
        #[test]
        fn tables_round_trip(table in table()) {
            let end = table.entries.last().map_or(8, TableEntry::end);
            prop_assert_eq!(Table::decode(&table.encode(), end), Ok(table.clone()));
            prop_assert!(Table::decode(&table.encode(), end + 1).is_err());
        }

        #[test]
        fn no_input_makes_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), offset: u32) {
            let _ = Table::decode(&bytes, offset);
        }
    }
}
