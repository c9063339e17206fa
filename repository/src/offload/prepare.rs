//! What the cores do with what was gathered, in any order: hash it, look it up, compress it.

use bytes::Bytes;

use super::{
    dedup::Index,
    gather::{Chunk, Gathered, Mark},
};
use crate::{
    Repository,
    block::{BLOCK_SIZE, BlockRange},
    id::ChunkId,
    pack::{Compressor, Encoded},
    stages::{Stage, Stages},
};

/// What the cores have made of what was gathered.
pub(super) enum Prepared {
    Chunk(PreparedChunk),
    Zero(BlockRange),
    Mark(Mark),
}

/// A chunk that can be placed.
pub(super) struct PreparedChunk {
    pub(super) id: ChunkId,
    /// Where it is in the image, in order.
    pub(super) ranges: Vec<BlockRange>,
    /// How many blocks it has.
    pub(super) blocks: u8,
    pub(super) body: Body,
}

/// A chunk's content.
pub(super) enum Body {
    Encoded(Encoded),
    /// The chunk was found, so that it was not compressed.
    Plain(Bytes),
}

/// Hashes and compresses what was gathered. A chunk that is known is not compressed.
pub(super) fn prepare(
    gathered: Gathered,
    repository: &Repository,
    index: &Index,
    compressor: &Compressor,
    stages: &Stages,
) -> Prepared {
    match gathered {
        Gathered::Zero(range) => Prepared::Zero(range),
        Gathered::Mark(mark) => Prepared::Mark(mark),
        Gathered::Chunk(Chunk { ranges, bytes }) => {
            let length = bytes.len() as u64;
            let id = stages.timed(Stage::Hash, length, || repository.data_key().chunk_id(&bytes));
            let blocks = u8::try_from(length / BLOCK_SIZE).expect("a chunk has at most 32 blocks");
            let body = match index.find(&id) {
                Some(_) => Body::Plain(bytes),
                None => Body::Encoded(stages.timed(Stage::Compress, length, || compressor.encode_slice(&bytes))),
            };
            Prepared::Chunk(PreparedChunk { id, ranges, blocks, body })
        }
    }
}
