//! A volume in memory that is larger than the memory it takes: noise, of which blocks are written anew.

use std::{collections::BTreeMap, io, ops::Range, sync::Arc};

use anyhow::Context;
use varve_repository::block::{BLOCK_SIZE, BlockRange, BlockSource, Blocks, Change, ChangeSource};

use crate::image::{WINDOW_BYTES, fill_mixed, fill_noise, scrambled};

/// Compression level that repositories use unless told otherwise.
const ZSTD_LEVEL: i32 = 1;

/// The volume.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    blocks: u64,
    /// What was written since, by block.
    written: BTreeMap<u64, u64>,
    /// What was written since the volume was cut last; `None` where everything is new.
    changed: Option<BTreeMap<u64, u64>>,
    writes: u64,
}

impl Volume {
    /// Makes one of so many bytes, all of them new.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { blocks: bytes / BLOCK_SIZE, written: BTreeMap::new(), changed: None, writes: 0 }
    }

    /// Blocks that it has.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Takes what it is now, with what changed since it was cut last.
    pub(crate) fn cut(&mut self) -> Arc<Self> {
        let cut = Arc::new(self.clone());
        self.changed = Some(BTreeMap::new());
        cut
    }

    /// Takes what it is now, all of it new.
    pub(crate) fn whole(&self) -> Arc<Self> {
        Arc::new(Self { changed: None, ..self.clone() })
    }

    /// Writes so many blocks at random, of those in a range.
    pub(crate) fn write(&mut self, count: u64, within: Range<u64>) {
        let changed = self.changed.get_or_insert_default();
        for _ in 0..count {
            self.writes += 1;
            let random = scrambled(self.writes.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let block = within.start + random % (within.end - within.start);
            self.written.insert(block, self.writes);
            changed.insert(block, self.writes);
        }
    }

    /// What the blocks that were written since the last cut compress to, gathered as chunks are.
    pub(crate) fn compressed(&self) -> anyhow::Result<u64> {
        let mut bytes = Vec::new();
        for writing in self.changed.iter().flat_map(BTreeMap::values) {
            bytes.extend(written(*writing));
        }
        let compressed = bytes.chunks(WINDOW_BYTES).map(|chunk| zstd::bulk::compress(chunk, ZSTD_LEVEL));
        let lengths = compressed.map(|chunk| chunk.map(|chunk| chunk.len() as u64)).sum::<io::Result<u64>>();
        lengths.context("compressing the blocks that were written")
    }
}

/// What a write puts into its block: of the mix that volumes hold.
pub(crate) fn written(writing: u64) -> [u8; 4096] {
    let mut bytes = [0; 4096];
    fill_mixed(writing, writing, &mut bytes);
    bytes
}

impl BlockSource for Volume {
    fn capacity(&self) -> Blocks {
        Blocks(self.blocks)
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        for (bytes, block) in buffer.chunks_mut(4096).zip(first.0..) {
            match self.written.get(&block) {
                Some(writing) => bytes.copy_from_slice(&written(*writing)),
                None => fill_noise(7, block, bytes),
            }
        }
        Ok(())
    }
}

impl ChangeSource for Volume {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        let ranges: Vec<BlockRange> = match &self.changed {
            None => vec![BlockRange::new(0, self.blocks)],
            Some(changed) => changed.keys().map(|block| BlockRange::new(*block, 1)).collect(),
        };
        Ok(Box::new(ranges.into_iter().filter(move |range| range.end() > from).map(|range| Ok(Change::Data(range)))))
    }
}
