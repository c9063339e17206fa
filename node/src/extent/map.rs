//! One file's extent map, in blocks.

use std::{fs::File, io, mem};

use varve_repository::block::{BLOCK_SIZE, BlockRange, Blocks};

use crate::sys::fiemap::{self, BATCH, Buffer, Extent};

/// What is known of a run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Written, and its first block lies at this address, in bytes; the others follow.
    At(u64),
    /// Allocated and never written: reads as zeroes.
    Unwritten,
    /// Written, and where it lies is not told or not to be relied upon: compressed, kept within metadata, not yet placed, or
    /// not aligned to blocks.
    Unknown,
}

impl State {
    /// The state of what lies `blocks` further on in the same run.
    #[must_use]
    pub(super) fn after(self, blocks: u64) -> Self {
        match self {
            Self::At(address) => Self::At(address.saturating_add(blocks.saturating_mul(BLOCK_SIZE))),
            other => other,
        }
    }
}

/// A run of blocks that is not a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Which blocks.
    pub range: BlockRange,
    /// What is known of them.
    pub state: State,
}

/// Maps the blocks of `file` in `range`: ascending, without overlap, holes left out. It reads ahead at most [`BATCH`] extents.
#[must_use]
pub fn map(file: &File, range: BlockRange) -> Map<'_> {
    Map { batches: Batches::new(file), range, done: range.is_empty(), ready: Vec::new().into_iter() }
}

/// The iterator of [`map`].
#[derive(Debug)]
pub struct Map<'a> {
    batches: Batches<'a>,
    /// What is still to be asked for.
    range: BlockRange,
    done: bool,
    ready: std::vec::IntoIter<Mapped>,
}

impl Iterator for Map<'_> {
    type Item = io::Result<Mapped>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(mapped) = self.ready.next() {
                return Some(Ok(mapped));
            }
            if mem::replace(&mut self.done, true) {
                return None;
            }
            let batch = match self.batches.read(self.range) {
                Ok(batch) => batch,
                Err(error) => return Some(Err(error)),
            };
            self.range = BlockRange { first: batch.end, count: Blocks(self.range.end().0.saturating_sub(batch.end.0)) };
            self.done = self.range.is_empty();
            self.ready = batch.mapped.into_iter();
        }
    }
}

/// The map of a stretch, whole: between its extents and up to its end there are holes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) mapped: Vec<Mapped>,
    /// Where the stretch ends.
    pub(super) end: Blocks,
}

/// Reads maps batch by batch.
#[derive(Debug)]
pub(super) struct Batches<'a> {
    file: &'a File,
    buffer: Buffer,
}

impl<'a> Batches<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, buffer: Buffer::new() }
    }

    /// Reads the map of a stretch that begins where `range` does, and ends with it or before.
    pub(super) fn read(&mut self, range: BlockRange) -> io::Result<Batch> {
        let extents = fiemap::map(self.file, range.first.bytes(), range.count.bytes(), &mut self.buffer)?;
        stretch(range, extents, BATCH)
    }
}

/// Turns one answer of the kernel, full with `limit` extents, into the map of a stretch.
fn stretch(range: BlockRange, extents: &[Extent], limit: usize) -> io::Result<Batch> {
    let mut mapped: Vec<Mapped> = Vec::with_capacity(extents.len());
    let mut next = range.first.0;
    for extent in extents {
        let end = extent.logical.checked_add(extent.length).ok_or_else(malformed)?;
        let state = state_of(extent);
        // A state that covers whole blocks only does so exactly; any other spreads over every block that it touches.
        let first = (extent.logical / BLOCK_SIZE).max(next);
        let end = end.div_ceil(BLOCK_SIZE).min(range.end().0);
        if first >= end {
            continue;
        }
        let state = state.after(first - extent.logical / BLOCK_SIZE);
        mapped.push(Mapped { range: BlockRange::new(first, end - first), state });
        next = end;
    }
    let whole = extents.len() < limit || extents.last().is_some_and(|last| last.flags & Extent::LAST != 0);
    let end = if whole { range.end().0 } else { next };
    // Else the next call would ask the same again.
    if end <= range.first.0 && !range.is_empty() {
        return Err(malformed());
    }
    Ok(Batch { mapped, end: Blocks(end) })
}

fn state_of(extent: &Extent) -> State {
    let aligned = [extent.logical, extent.length, extent.physical].iter().all(|value| value.is_multiple_of(BLOCK_SIZE));
    if extent.flags & Extent::ADDRESS_UNKNOWN != 0 || !aligned {
        State::Unknown
    } else if extent.flags & Extent::UNWRITTEN != 0 {
        State::Unwritten
    } else {
        State::At(extent.physical)
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel answered an extent map that makes no sense")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(logical: u64, physical: u64, length: u64, flags: u32) -> Extent {
        let mut extent = Extent::default();
        (extent.logical, extent.physical, extent.length, extent.flags) = (logical, physical, length, flags);
        extent
    }

    fn mapped(first: u64, count: u64, state: State) -> Mapped {
        Mapped { range: BlockRange::new(first, count), state }
    }

    #[test]
    fn extents_are_clipped_to_the_range_and_keep_their_addresses() {
        let extents = [extent(0, 1 << 20, 10 * 4096, 0), extent(20 * 4096, 1 << 30, 10 * 4096, Extent::UNWRITTEN)];
        let batch = stretch(BlockRange::new(4, 20), &extents, 100).unwrap();
        let expected = vec![mapped(4, 6, State::At((1 << 20) + 4 * 4096)), mapped(20, 4, State::Unwritten)];
        assert_eq!(batch, Batch { mapped: expected, end: Blocks(24) });
    }

    #[test]
    fn a_full_answer_ends_the_stretch_with_its_last_extent() {
        let extents = [extent(0, 4096, 4096, 0), extent(8192, 4096 * 9, 4096, 0)];
        assert_eq!(stretch(BlockRange::new(0, 100), &extents, 2).unwrap().end, Blocks(3));
        assert_eq!(stretch(BlockRange::new(0, 100), &extents, 3).unwrap().end, Blocks(100));
    }

    #[test]
    fn the_last_extent_ends_the_range() {
        let extents = [extent(0, 4096, 4096, Extent::LAST)];
        assert_eq!(stretch(BlockRange::new(0, 100), &extents, 1).unwrap().end, Blocks(100));
    }

    #[test]
    fn what_is_not_aligned_or_has_no_address_is_unknown_and_covers_every_block_that_it_touches() {
        let extents = [
            extent(0, 0, 100, 0x200),
            extent(8192, 512, 4096, 0),
            extent(12288, 4096, 1000, 0),
            extent(13288, 4096, 4096, 0),
            extent(40960, 0, 8192, 0x6),
        ];
        let batch = stretch(BlockRange::new(0, 100), &extents, 100).unwrap();
        let expected = [(0, 1), (2, 1), (3, 1), (4, 1), (10, 2)];
        assert_eq!(batch.mapped, expected.map(|(first, count)| mapped(first, count, State::Unknown)));
    }

    #[test]
    fn an_answer_that_leads_nowhere_is_an_error() {
        assert!(stretch(BlockRange::new(5, 10), &[extent(0, 0, 4096, 0)], 1).is_err());
        assert!(stretch(BlockRange::new(5, 10), &[extent(u64::MAX, 0, 4096, 0)], 1).is_err());
    }
}
