//! Packs: objects of 16 MiB or so, and up to 32 where memory allows, that hold chunks and end in a sealed table of them.
//!
//! ```text
//! packs/<pack>
//! +--------+---------+---------+-- - - --+-----------+--------------------+
//! | header | chunk 0 | chunk 1 |         | chunk n-1 | table              |
//! | 8      | sealed  | sealed  |         | sealed    | sealed, to the end |
//! +--------+---------+---------+-- - - --+-----------+--------------------+
//! ```
//!
//! A chunk is up to 32 blocks, compressed where that helps, then sealed with its id as associated data. Whoever
//! refers to a pack does so with a [`PackReference`], which says where the table starts and what it hashes to.
//!
//! # Invariants
//!
//! A pack is written once, whole, under an id that is never used again. Nothing of it is used before the table
//! has matched its reference and the chunk its id.

mod cache;
mod chunk;
mod reader;
mod relocated;
mod table;
mod writer;

pub(crate) use cache::TableCache;
pub(crate) use chunk::{Compressor, Encoded};
pub(crate) use reader::{Opener, Unsealed, Workspace, open_table};
pub(crate) use relocated::{Chunks, Relocations, find_relocation, pick, read_chunks, read_table};
pub(crate) use table::{Table, TableEntry};
pub(crate) use writer::{Closed, Writer};

use std::ops::Range;

use crate::{
    Error,
    id::PackId,
    run::wire::{Cursor, Malformed},
};

/// Most chunks in a pack; what bounds its table, and so the memory for reading one.
pub(crate) const MAX_CHUNKS: usize = 8192;

/// A pack, as a run refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PackReference {
    /// The pack's id.
    pub(crate) id: PackId,
    /// The object's size in bytes.
    pub(crate) object_bytes: u32,
    /// Where the sealed table starts, in bytes from the object's start; it reaches to the end.
    pub(crate) table_offset: u32,
    /// BLAKE3 of the sealed table, as stored.
    pub(crate) table_hash: [u8; 32],
}

impl PackReference {
    /// Length of the encoded form, in bytes: id 16, object's size 4, table's offset 4, table's hash 32.
    pub(crate) const LEN: usize = PackId::LEN + 4 + 4 + 32;

    /// Appends the encoded form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(&self.object_bytes.to_le_bytes());
        out.extend_from_slice(&self.table_offset.to_le_bytes());
        out.extend_from_slice(&self.table_hash);
    }

    /// Takes the encoded form.
    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let reference = Self {
            id: PackId::from_bytes(cursor.array()?),
            object_bytes: cursor.u32()?,
            table_offset: cursor.u32()?,
            table_hash: cursor.array()?,
        };
        if reference.table_offset >= reference.object_bytes {
            return Err(Malformed("a pack's table lies outside the pack"));
        }
        let table_bytes = reference.object_bytes - reference.table_offset;
        if usize::try_from(table_bytes).is_ok_and(|bytes| bytes > table::MAX_SEALED_LEN) {
            return Err(Malformed("a pack's table is larger than any may be"));
        }
        Ok(reference)
    }

    /// Makes sure that no pack is referred to twice.
    pub(crate) fn distinct(references: &[Self]) -> Result<(), Malformed> {
        let mut ids: Vec<PackId> = references.iter().map(|reference| reference.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|two| two[0] == two[1]) {
            return Err(Malformed("it refers to a pack twice"));
        }
        Ok(())
    }

    /// The object's key.
    pub(crate) fn key(&self) -> String {
        key(self.id)
    }

    /// Where the sealed table lies.
    pub(crate) fn table_range(&self) -> Range<u64> {
        self.table_offset.into()..self.object_bytes.into()
    }

    /// Makes the error that says what is wrong with the pack.
    pub(crate) fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::Corrupt { object: self.key(), reason: reason.into() }
    }
}

/// Returns how many chunks a pack holds, as its reference tells; `None` where a table cannot have that length.
pub(crate) fn chunk_count(reference: &PackReference) -> Option<usize> {
    let table_bytes = usize::try_from(reference.object_bytes.checked_sub(reference.table_offset)?).ok()?;
    table::chunk_count(table_bytes)
}

/// Returns the key of a pack's object.
pub(crate) fn key(id: PackId) -> String {
    format!("packs/{id}")
}
