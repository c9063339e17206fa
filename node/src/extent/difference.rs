//! What differs between two cuts of one image, told from their maps alone.
//!
//! A block differs where its address or its being written does; what reads as zeroes on both sides is the same whatever it is
//! called. Where an address is unknown, on either side, the block is held to have changed.
//!
//! # Concurrency
//! Equal addresses mean equal bytes only while nothing moves blocks between the two readings: a base's block could move away
//! and the cut's move to where it was. XFS moves no block of an immutable file. On btrfs a balance, a removal of a device or a
//! shrinking may move any; there the base's map is read again after the cut's, stretch by stretch, and the stretch is read
//! anew where the two disagree. Each stretch that has been answered is thus right by itself, so that an offload may go on
//! from any position later.

use std::{collections::VecDeque, fs::File, io, path::Path};

use varve_repository::block::{BlockRange, Blocks, Change, ChangeSource};

use super::{
    allocated::Coalesced,
    image::{blocks_of, open_buffered},
    map::{Batch, Batches, Mapped, State},
};
use crate::sys::Context;

/// How often a stretch is read anew while its blocks move.
const ATTEMPTS: u32 = 20;

/// `XFS_SUPER_MAGIC` of linux/magic.h
const XFS_MAGIC: u64 = 0x5846_5342;

/// What differs between a base and a later cut of the same image, by where their blocks lie.
#[derive(Debug)]
pub struct Difference {
    base: File,
    base_capacity: Blocks,
    cut: File,
    capacity: Blocks,
    /// Whether the file system may move blocks of immutable files.
    may_move: bool,
}

// === impl Difference ===

impl Difference {
    /// Opens the images at `base` and `cut`. The cut may be larger than its base.
    ///
    /// # Errors
    /// The system's; `InvalidData` where a length is not a whole number of blocks.
    pub fn new(base: &Path, cut: &Path) -> io::Result<Self> {
        let base_file = open_buffered(base)?;
        let cut_file = open_buffered(cut)?;
        let found = rustix::fs::fstatfs(&cut_file).during("inspect", cut)?;
        Ok(Self {
            base_capacity: blocks_of(&base_file, base)?,
            base: base_file,
            capacity: blocks_of(&cut_file, cut)?,
            cut: cut_file,
            may_move: u64::try_from(found.f_type).unwrap_or_default() & u64::from(u32::MAX) != XFS_MAGIC,
        })
    }
}

impl ChangeSource for Difference {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        let stretches = Stretches {
            difference: self,
            base: Batches::new(&self.base),
            cut: Batches::new(&self.cut),
            next: from,
            ready: VecDeque::new(),
            failed: false,
        };
        Ok(Box::new(Coalesced::new(stretches)))
    }
}

/// The changes, stretch by stretch; neighbours are not joined yet.
struct Stretches<'a> {
    difference: &'a Difference,
    base: Batches<'a>,
    cut: Batches<'a>,
    next: Blocks,
    ready: VecDeque<Change>,
    failed: bool,
}

// === impl Stretches ===

impl Stretches<'_> {
    /// Compares one more stretch.
    fn compare(&mut self) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            let base = self.read_base()?;
            let cut = self.cut.read(rest(self.next, self.difference.capacity))?;
            if self.difference.may_move && self.read_base()? != base {
                continue;
            }
            let end = base.end.min(cut.end);
            compare(self.next, end, &base, &cut, &mut self.ready);
            self.next = end;
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "the base's blocks keep moving while they are compared: a balance or a change of devices is under way",
        ))
    }

    fn read_base(&mut self) -> io::Result<Batch> {
        let end = self.difference.base_capacity.min(self.difference.capacity);
        if self.next >= end {
            // Past the base's end there was nothing.
            return Ok(Batch { mapped: Vec::new(), end: self.difference.capacity });
        }
        self.base.read(rest(self.next, end))
    }
}

impl Iterator for Stretches<'_> {
    type Item = io::Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(Ok(change));
            }
            if self.failed || self.next >= self.difference.capacity {
                return None;
            }
            if let Err(error) = self.compare() {
                self.failed = true;
                return Some(Err(error));
            }
        }
    }
}

fn rest(first: Blocks, end: Blocks) -> BlockRange {
    BlockRange { first, count: Blocks(end.0.saturating_sub(first.0)) }
}

/// Compares two maps over `[first, end)`, which both cover.
fn compare(first: Blocks, end: Blocks, base: &Batch, cut: &Batch, changes: &mut VecDeque<Change>) {
    let (mut base, mut cut) = (Cursor::new(base), Cursor::new(cut));
    let mut position = first.0;
    while position < end.0 {
        let (before, before_end) = base.at(position);
        let (after, after_end) = cut.at(position);
        let next = before_end.min(after_end).min(end.0);
        let range = BlockRange::new(position, next - position);
        match (before, after) {
            (State::Unwritten, State::Unwritten) => {}
            (State::At(a), State::At(b)) if a == b => {}
            (_, State::Unwritten) => changes.push_back(Change::Zero(range)),
            _ => changes.push_back(Change::Data(range)),
        }
        position = next;
    }
}

/// Walks along a map; a hole counts as unwritten.
struct Cursor<'a> {
    rest: &'a [Mapped],
}

impl<'a> Cursor<'a> {
    fn new(batch: &'a Batch) -> Self {
        Self { rest: &batch.mapped }
    }

    /// Tells the state at `position` and up to where it lasts; positions never go back.
    fn at(&mut self, position: u64) -> (State, u64) {
        while let [first, rest @ ..] = self.rest
            && first.range.end().0 <= position
        {
            self.rest = rest;
        }
        match self.rest.first() {
            None => (State::Unwritten, u64::MAX),
            Some(next) if next.range.first.0 > position => (State::Unwritten, next.range.first.0),
            Some(here) => (here.state.after(position - here.range.first.0), here.range.end().0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(mapped: &[(u64, u64, State)]) -> Batch {
        let mapped = mapped
            .iter()
            .map(|(first, count, state)| Mapped { range: BlockRange::new(*first, *count), state: *state })
            .collect();
        Batch { mapped, end: Blocks(100) }
    }

    fn differ(base: &[(u64, u64, State)], cut: &[(u64, u64, State)]) -> Vec<Change> {
        let mut changes = VecDeque::new();
        compare(Blocks(0), Blocks(100), &batch(base), &batch(cut), &mut changes);
        Coalesced::new(changes.into_iter().map(Ok)).collect::<io::Result<_>>().unwrap()
    }

    fn data(first: u64, count: u64) -> Change {
        Change::Data(BlockRange::new(first, count))
    }

    fn zero(first: u64, count: u64) -> Change {
        Change::Zero(BlockRange::new(first, count))
    }

    #[test]
    fn equal_addresses_are_equal_however_the_maps_are_cut_up() {
        let base = [(10, 20, State::At(4096))];
        let cut = [(10, 5, State::At(4096)), (15, 15, State::At(4096 * 6))];
        assert_eq!(differ(&base, &cut), []);
    }

    #[test]
    fn an_overwritten_middle_is_one_change() {
        let base = [(0, 10, State::At(0))];
        let cut =
            [(0, 4, State::At(0)), (4, 1, State::At(1 << 30)), (5, 1, State::At(1 << 20)), (6, 4, State::At(6 * 4096))];
        assert_eq!(differ(&base, &cut), [data(4, 2)]);
    }

    #[test]
    fn holes_and_unwritten_extents_are_the_same() {
        assert_eq!(differ(&[(0, 10, State::Unwritten)], &[]), []);
        assert_eq!(differ(&[], &[(3, 10, State::Unwritten)]), []);
    }

    #[test]
    fn what_became_a_hole_is_zero_and_what_was_one_is_data() {
        let base = [(0, 10, State::At(0))];
        let cut = [(0, 2, State::At(0)), (2, 2, State::Unwritten), (10, 5, State::At(1 << 30))];
        assert_eq!(differ(&base, &cut), [zero(2, 8), data(10, 5)]);
    }

    #[test]
    fn an_unknown_address_is_a_change_on_either_side() {
        assert_eq!(differ(&[(0, 2, State::Unknown)], &[(0, 2, State::At(0))]), [data(0, 2)]);
        assert_eq!(differ(&[(0, 2, State::At(0))], &[(0, 2, State::Unknown)]), [data(0, 2)]);
        assert_eq!(differ(&[(0, 2, State::Unknown)], &[(0, 2, State::Unknown)]), [data(0, 2)]);
        assert_eq!(differ(&[(0, 2, State::Unknown)], &[]), [zero(0, 2)]);
    }
}
