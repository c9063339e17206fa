//! Runs: immutable sorted lists of extents, which say where a snapshot's blocks are stored.
//!
//! ```text
//! runs/<run>
//! +--------+--------+--------+-- - - --+--------------------+
//! | header | page 0 | page 1 |         | index              |
//! | 8      | sealed | sealed |         | sealed, to the end |
//! +--------+--------+--------+-- - - --+--------------------+
//! ```
//!
//! A page holds up to 4096 extents; the index holds where each page starts, what it covers and hashes to, and a
//! reference to every pack that the pages speak of.
//!
//! A root lists *levels*, newest first, as an LSM tree does. A level is one run, or, where one would become too
//! large, several in ascending order without overlap; runs next to one another whose ids begin with the same
//! upload make one level, and an upload never adds more than one. Where levels overlap the newer one counts:
//! that is what [`view`] computes. [`merge`] keeps the levels few.
//!
//! # Invariants
//!
//! 1. Extents within a level ascend and do not overlap; an extent of data lies within one chunk.
//! 2. Nothing of a page is used before it has matched the index, and nothing of the index before it has matched
//!    the reference in the root.
//! 3. The oldest level holds no zero extents: a block that no level covers is zero.

mod index;
pub(crate) mod merge;
mod page;
mod reader;
mod view;
pub(crate) mod wire;
mod writer;

pub(crate) use index::{Index, PageEntry};
pub(crate) use page::{decode as decode_extents, encode as encode_extents};
pub(crate) use reader::{Origin, Reader, remember};
pub(crate) use view::{Found, View};
pub(crate) use writer::{Finished, Writer};

use crate::{
    Error,
    block::{BlockRange, Blocks, CHUNK_BLOCKS},
    id::RunId,
    pack::PackReference,
    record::snapshot::RunReference,
};

/// Most extents in a page.
pub(crate) const PAGE_EXTENTS: usize = 4096;

/// Most blocks that an image can have, so that its size in bytes fits 64 bits.
const MAX_BLOCKS: u64 = 1 << 52;

/// Where the blocks of an extent are, as a page says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<P> {
    /// Nowhere: they are zero, whatever an older level says.
    Zero,
    /// In a chunk.
    Chunk(ChunkPlace<P>),
}

/// A run of blocks within a chunk. `P` names the pack: by its position in an index, or by its reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkPlace<P> {
    /// The pack.
    pub(crate) pack: P,
    /// Which of its chunks.
    pub(crate) ordinal: u32,
    /// How many of the chunk's blocks come before.
    pub(crate) skip: u8,
}

/// A run of blocks and where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent<P> {
    /// The blocks of the image.
    pub(crate) range: BlockRange,
    /// Where they are stored.
    pub(crate) place: Place<P>,
}

/// An extent that stands for itself, without the index that it was read by.
pub(crate) type Segment = Extent<PackReference>;

impl<P: Copy + PartialEq> Extent<P> {
    /// Returns the part at and after `first`, which must be before the end.
    pub(crate) fn from(self, first: Blocks) -> Self {
        if first <= self.range.first {
            return self;
        }
        let skipped = first - self.range.first;
        let range = BlockRange { first, count: self.range.count - skipped };
        let place = match self.place {
            Place::Zero => Place::Zero,
            Place::Chunk(chunk) => {
                let skipped = u8::try_from(skipped.0).expect("an extent of data lies within one chunk");
                Place::Chunk(ChunkPlace { skip: chunk.skip + skipped, ..chunk })
            }
        };
        Self { range, place }
    }

    /// Returns the part before `end`, which must be after the start.
    pub(crate) fn until(self, end: Blocks) -> Self {
        let count = self.range.count.min(end - self.range.first);
        Self { range: BlockRange { first: self.range.first, count }, ..self }
    }

    /// Takes `next` in, if the two are one extent that was cut in two.
    pub(crate) fn join(&mut self, next: &Self) -> bool {
        let fits = self.range.end() == next.range.first
            && match (self.place, next.place) {
                (Place::Zero, Place::Zero) => true,
                (Place::Chunk(chunk), Place::Chunk(other)) => {
                    chunk.pack == other.pack
                        && chunk.ordinal == other.ordinal
                        && u64::from(chunk.skip) + self.range.count.0 == u64::from(other.skip)
                }
                _ => false,
            };
        if fits {
            self.range.count += next.range.count;
        }
        fits
    }

    /// Returns the same extent with the pack named otherwise.
    pub(crate) fn map<Q>(self, pack: impl FnOnce(P) -> Q) -> Extent<Q> {
        let place = match self.place {
            Place::Zero => Place::Zero,
            Place::Chunk(ChunkPlace { pack: old, ordinal, skip }) => {
                Place::Chunk(ChunkPlace { pack: pack(old), ordinal, skip })
            }
        };
        Extent { range: self.range, place }
    }

    /// How many blocks of data it has: none where it is zero.
    pub(crate) fn data(&self) -> Blocks {
        match self.place {
            Place::Zero => Blocks::ZERO,
            Place::Chunk(_) => self.range.count,
        }
    }
}

/// Tells whether `count` blocks after `skip` lie within a chunk of the largest size.
const fn within_chunk(skip: u8, count: u64) -> bool {
    count <= CHUNK_BLOCKS && skip as u64 + count <= CHUNK_BLOCKS
}

/// Returns the key of a run's object.
pub(crate) fn key(id: RunId) -> String {
    format!("runs/{id}")
}

/// Makes the error that says what is wrong with a run.
pub(crate) fn damaged(id: RunId, reason: impl Into<String>) -> Error {
    Error::Corrupt { object: key(id), reason: reason.into() }
}

/// Parts the runs of a root into its levels, newest first.
pub(crate) fn levels(runs: &[RunReference]) -> impl Iterator<Item = &[RunReference]> {
    runs.chunk_by(|one, other| one.id.upload() == other.id.upload())
}
#[cfg(test)]
mod golden;
