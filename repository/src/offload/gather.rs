//! Gathering changed blocks into chunks.
//!
//! The image is seen in windows of 32 blocks, aligned to multiples of 32. A window whose blocks are all changed and not
//! zero becomes a chunk by itself, so that equal content in equal alignment makes equal chunks wherever it is met. The
//! blocks of other windows are gathered, whole windows together, until the next would not fit: a thousand scattered
//! blocks make some thirty chunks, not a thousand.
//!
//! Where enough has been fed, a [`Mark`] is set at the next multiple of 1024 blocks: everything before it has been given
//! out, so that an offload can be taken up again behind it, and what comes after does not depend on what came before.
//!
//! # Invariants
//! Blocks are fed in ascending order. Zero blocks are never given out as data.

use bytes::Bytes;

use crate::block::{BLOCK_SIZE, BlockRange, Blocks, CHUNK_BLOCKS};

/// Distance of the positions at which a mark can be set, in blocks.
const MARK_BLOCKS: u64 = 1024;

const BLOCK_LEN: usize = 4096;
const _: () = assert!(BLOCK_LEN as u64 == BLOCK_SIZE);

/// Bytes of the largest chunk.
const CHUNK_LEN: usize = 32 * BLOCK_LEN;
const _: () = assert!(CHUNK_LEN as u64 == CHUNK_BLOCKS * BLOCK_SIZE);

static ZERO_BLOCK: [u8; BLOCK_LEN] = [0; BLOCK_LEN];

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gathered {
    /// Blocks that make one chunk.
    Chunk(Chunk),
    /// Blocks that are zero.
    Zero(BlockRange),
    /// Everything before a position has been given out.
    Mark(Mark),
}

/// The blocks of one chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Where they are in the image, in ascending order.
    pub(super) ranges: Vec<BlockRange>,
    /// Their bytes, in the same order.
    pub(super) bytes: Bytes,
}

/// Blocks that will be a part of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Gathering {
    ranges: Vec<BlockRange>,
    bytes: Vec<u8>,
}

impl Gathering {
    fn blocks(&self) -> u64 {
        self.bytes.len() as u64 / BLOCK_SIZE
    }

    fn push(&mut self, range: BlockRange, bytes: &[u8]) {
        match self.ranges.last_mut() {
            Some(last) if last.end() == range.first => last.count += range.count,
            _ => self.ranges.push(range),
        }
        // All at once: it would be copied several times as it grows.
        self.bytes.reserve_exact(if self.bytes.is_empty() { CHUNK_LEN } else { 0 });
        self.bytes.extend_from_slice(bytes);
    }

    fn take(&mut self) -> Gathered {
        let Self { ranges, bytes } = std::mem::take(self);
        Gathered::Chunk(Chunk { ranges, bytes: bytes.into() })
    }

    fn append(&mut self, other: &mut Self) {
        let mut bytes = &other.bytes[..];
        for range in other.ranges.drain(..) {
            let (these, rest) = bytes.split_at(usize::try_from(range.count.bytes()).unwrap_or(bytes.len()));
            self.push(range, these);
            bytes = rest;
        }
        other.bytes.clear();
    }
}

/// How far everything has been given out, and what it took since the mark before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The position past the last block fed.
    pub(super) position: Blocks,
    /// Blocks fed, zeroes included.
    pub(super) changed: Blocks,
    /// Blocks that were read to feed them.
    pub(super) read: Blocks,
}

/// Gathers blocks that are fed in ascending order.
#[derive(Debug, Default)]
pub(super) struct Gatherer {
    /// Whether an older level may cover blocks that are now zero, so that they must be given out.
    keep_zeroes: bool,
    window: Gathering,
    gathering: Gathering,
    zero: Option<BlockRange>,
    /// Blocks of data and ranges of zeroes fed since the last mark.
    fed: u64,
    mark: Mark,
}

impl Gatherer {
    pub(super) fn new(keep_zeroes: bool) -> Self {
        Self { keep_zeroes, ..Self::default() }
    }

    /// Takes blocks that were read. A window that is whole in them is given out as it is, without a copy.
    pub(super) fn data(&mut self, first: Blocks, bytes: &Bytes, out: &mut Vec<Gathered>) {
        let (mut position, mut offset) = (first, 0);
        while offset < bytes.len() {
            let rest = &bytes[offset..];
            if position.0.is_multiple_of(CHUNK_BLOCKS) && rest.len() >= CHUNK_LEN && !holds_zeroes(&rest[..CHUNK_LEN]) {
                let range = BlockRange { first: position, count: Blocks(CHUNK_BLOCKS) };
                self.mark.read += range.count;
                self.reach(range, out);
                self.end_window(out);
                self.fed += CHUNK_BLOCKS;
                out.push(Gathered::Chunk(Chunk {
                    ranges: vec![range],
                    bytes: bytes.slice(offset..offset + CHUNK_LEN),
                }));
                position += range.count;
                offset += CHUNK_LEN;
                continue;
            }
            let block = &rest[..BLOCK_LEN.min(rest.len())];
            self.mark.read += Blocks(1);
            let range = BlockRange { first: position, count: Blocks(1) };
            if block == ZERO_BLOCK {
                self.zero(range, out);
            } else {
                self.reach(range, out);
                self.window.push(range, block);
                self.fed += 1;
            }
            position += Blocks(1);
            offset += BLOCK_LEN;
        }
    }

    /// Takes blocks that are zero.
    pub(super) fn zero(&mut self, range: BlockRange, out: &mut Vec<Gathered>) {
        self.reach(range, out);
        if range.first.0 / CHUNK_BLOCKS != (range.end().0 - 1) / CHUNK_BLOCKS {
            // It reaches past the window that it begins in, and so do all blocks that follow.
            self.end_window(out);
        }
        if !self.keep_zeroes {
            return;
        }
        if let Some(zero) = &mut self.zero {
            if zero.end() == range.first {
                zero.count += range.count;
                return;
            }
            out.push(Gathered::Zero(*zero));
        }
        self.zero = Some(range);
        self.fed += 1;
    }

    /// Gives out all that is left, and a last mark.
    pub(super) fn finish(&mut self, out: &mut Vec<Gathered>) {
        self.end_window(out);
        self.set_mark(out);
    }

    /// Moves on to the blocks about to be taken: ends the window behind them, and sets a mark where one is due.
    fn reach(&mut self, range: BlockRange, out: &mut Vec<Gathered>) {
        // By the window's own blocks: zeroes fed since may have begun in it and ended in another.
        let window = self.window.ranges.first().map(|first| first.first.0 / CHUNK_BLOCKS);
        if window.is_some_and(|window| window != range.first.0 / CHUNK_BLOCKS) {
            self.end_window(out);
        }
        let crossed = range.first.0 / MARK_BLOCKS != self.mark.position.0.saturating_sub(1) / MARK_BLOCKS;
        if crossed && self.fed >= MARK_BLOCKS {
            self.set_mark(out);
        }
        self.mark.position = range.end();
        self.mark.changed += range.count;
    }

    fn end_window(&mut self, out: &mut Vec<Gathered>) {
        if self.window.blocks() == CHUNK_BLOCKS {
            out.push(self.window.take());
        } else if !self.window.ranges.is_empty() {
            if self.gathering.blocks() + self.window.blocks() > CHUNK_BLOCKS {
                out.push(self.gathering.take());
            }
            self.gathering.append(&mut self.window);
        }
    }

    fn set_mark(&mut self, out: &mut Vec<Gathered>) {
        if !self.gathering.ranges.is_empty() {
            out.push(self.gathering.take());
        }
        out.extend(self.zero.take().map(Gathered::Zero));
        out.push(Gathered::Mark(self.mark));
        self.mark = Mark { position: self.mark.position, ..Mark::default() };
        self.fed = 0;
    }
}

/// Tells whether a block of these is zero.
fn holds_zeroes(bytes: &[u8]) -> bool {
    // Blocks that are not zero rarely begin with so many zeroes: one word tells most of them.
    bytes.chunks_exact(BLOCK_LEN).any(|block| block[..8] == [0; 8] && block == ZERO_BLOCK)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn blocks(tag: u8, count: usize) -> Bytes {
        vec![tag; count * BLOCK_LEN].into()
    }

    fn chunks(out: &[Gathered]) -> Vec<Vec<BlockRange>> {
        let ranges = out.iter().filter_map(|gathered| match gathered {
            Gathered::Chunk(chunk) => Some(chunk.ranges.clone()),
            _ => None,
        });
        ranges.collect()
    }

    #[test]
    fn full_windows_stand_alone_and_scattered_blocks_are_gathered() {
        let mut gatherer = Gatherer::new(false);
        let mut out = Vec::new();
        gatherer.data(Blocks(5), &blocks(1, 1), &mut out);
        gatherer.data(Blocks(32), &blocks(2, 32), &mut out);
        gatherer.data(Blocks(100), &blocks(3, 2), &mut out);
        gatherer.finish(&mut out);
        let expected = vec![vec![BlockRange::new(32, 32)], vec![BlockRange::new(5, 1), BlockRange::new(100, 2)]];
        assert_eq!(chunks(&out), expected);
    }

    #[test]
    fn a_window_ends_where_zeroes_reach_past_it() {
        let mut gatherer = Gatherer::new(true);
        let mut out = Vec::new();
        gatherer.data(Blocks(20), &blocks(1, 11), &mut out);
        gatherer.zero(BlockRange::new(31, 70), &mut out);
        gatherer.data(Blocks(101), &blocks(2, 27), &mut out);
        gatherer.finish(&mut out);
        assert_eq!(chunks(&out), [vec![BlockRange::new(20, 11)], vec![BlockRange::new(101, 27)]]);
    }

    #[test]
    fn blocks_on_either_side_of_a_long_run_of_zeroes_share_no_window() {
        for keep_zeroes in [false, true] {
            let mut gatherer = Gatherer::new(keep_zeroes);
            let mut out = Vec::new();
            gatherer.data(Blocks(0), &blocks(1, 30), &mut out);
            gatherer.zero(BlockRange::new(30, 40), &mut out);
            gatherer.data(Blocks(70), &blocks(2, 20), &mut out);
            gatherer.finish(&mut out);
            assert_eq!(chunks(&out), [[BlockRange::new(0, 30)], [BlockRange::new(70, 20)]]);
        }
    }

    #[test]
    fn a_thousand_scattered_blocks_make_32_chunks() {
        let mut gatherer = Gatherer::new(true);
        let mut out = Vec::new();
        for n in 0..1000_u64 {
            gatherer.data(Blocks(n * 7919), &blocks(1, 1), &mut out);
        }
        gatherer.finish(&mut out);
        assert_eq!(chunks(&out).len(), 32);
    }

    #[test]
    fn equal_content_makes_equal_chunks_behind_a_difference() {
        let gather = |extra: bool| {
            let mut gatherer = Gatherer::new(false);
            let mut out = Vec::new();
            if extra {
                gatherer.data(Blocks(3), &blocks(1, 1), &mut out);
            }
            for n in 0..200_u64 {
                // Windows that are never full.
                gatherer.data(Blocks(64 + n * 32), &blocks(2, 20), &mut out);
            }
            gatherer.finish(&mut out);
            chunks(&out)
        };
        let (with, without) = (gather(true), gather(false));
        let same = with.iter().filter(|chunk| without.contains(chunk)).count();
        assert!(same + 2 >= without.len(), "{same} of {}", without.len());
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, u64, u8)>> {
        let count = prop_oneof![8 => 1..100_u64, 1 => 1000..1500_u64];
        prop::collection::vec((0..80_u64, count, 0..3_u8), 0..12)
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_marks_tell_the_truth(
            steps in steps(), keep_zeroes: bool,
        ) {
            let mut gatherer = Gatherer::new(keep_zeroes);
            let mut out = Vec::new();
            let mut model = BTreeMap::new();
            let mut position = 0;
            for (gap, count, kind) in steps {
                let range = BlockRange::new(position + gap, count);
                position = range.end().0;
                if kind == 2 {
                    gatherer.zero(range, &mut out);
                } else {
                    // Zero blocks are mixed in where the kind is 1.
                    let tag = |n: u64| if kind == 1 && n.is_multiple_of(3) { 0 } else { u8::try_from(n % 250).unwrap() + 1 };
                    let bytes: Vec<u8> = (range.first.0..position).flat_map(|n| vec![tag(n); BLOCK_LEN]).collect();
                    gatherer.data(range.first, &bytes.into(), &mut out);
                    model.extend((range.first.0..position).map(|n| (n, tag(n))));
                    continue;
                }
                model.extend((range.first.0..position).map(|n| (n, 0)));
            }
            gatherer.finish(&mut out);

            let mut seen = BTreeMap::new();
            let (mut mark, mut latest, mut changed) = (0, 0, 0);
            for gathered in &out {
                match gathered {
                    Gathered::Chunk(Chunk { ranges, bytes }) => {
                        prop_assert!(bytes.len() <= 32 * BLOCK_LEN && !bytes.is_empty());
                        let blocks = ranges.iter().flat_map(|range| range.first.0..range.end().0);
                        for (n, bytes) in blocks.zip(bytes.chunks(BLOCK_LEN)) {
                            prop_assert!(n >= mark && bytes.iter().all(|byte| *byte == bytes[0]));
                            prop_assert_eq!(seen.insert(n, bytes[0]), None);
                            latest = latest.max(n + 1);
                        }
                    }
                    Gathered::Zero(range) => {
                        prop_assert!(keep_zeroes && range.first.0 >= mark);
                        for n in range.first.0..range.end().0 {
                            prop_assert_eq!(seen.insert(n, 0), None);
                        }
                        latest = latest.max(range.end().0);
                    }
                    Gathered::Mark(this) => {
                        mark = this.position.0;
                        changed += this.changed.0;
                        prop_assert!(latest <= mark);
                    }
                }
            }
            prop_assert_eq!(changed, model.len() as u64);
            prop_assert_eq!(mark, position);
            if !keep_zeroes {
                model.retain(|_, tag| *tag != 0);
            }
            prop_assert_eq!(seen, model);
        }
    }
}
