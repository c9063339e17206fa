//! Every written extent of an image.

use std::{fs::File, io, path::Path};

use varve_repository::block::{BlockRange, Blocks, Change, ChangeSource};

use super::{
    image::{blocks_of, open_buffered},
    map::{State, map},
};

/// The written extents of an image: what a first snapshot has to read. Holes, and what was allocated and never written, are
/// left out.
#[derive(Debug)]
pub struct Allocated {
    file: File,
    capacity: Blocks,
}

impl Allocated {
    /// Opens the image at `path`.
    ///
    /// # Errors
    /// The system's; `InvalidData` where its length is not a whole number of blocks.
    pub fn new(path: &Path) -> io::Result<Self> {
        let file = open_buffered(path)?;
        let capacity = blocks_of(&file, path)?;
        Ok(Self { file, capacity })
    }
}

impl ChangeSource for Allocated {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        let count = Blocks(self.capacity.0.saturating_sub(from.0));
        let written = map(&self.file, BlockRange { first: from, count }).filter_map(|mapped| match mapped {
            Ok(mapped) if mapped.state == State::Unwritten => None,
            Ok(mapped) => Some(Ok(Change::Data(mapped.range))),
            Err(error) => Some(Err(error)),
        });
        Ok(Box::new(Coalesced::new(written)))
    }
}

/// Joins neighbours of the same sort.
pub(super) struct Coalesced<I> {
    inner: I,
    pending: Option<Change>,
}

impl<I: Iterator<Item = io::Result<Change>>> Coalesced<I> {
    pub(super) fn new(inner: I) -> Self {
        Self { inner, pending: None }
    }
}

impl<I: Iterator<Item = io::Result<Change>>> Iterator for Coalesced<I> {
    type Item = io::Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.inner.next() {
                Some(Ok(change)) => match self.pending.map(|pending| join(pending, change)) {
                    None => self.pending = Some(change),
                    Some(Some(joined)) => self.pending = Some(joined),
                    Some(None) => return self.pending.replace(change).map(Ok),
                },
                Some(Err(error)) => return Some(Err(error)),
                None => return self.pending.take().map(Ok),
            }
        }
    }
}

fn join(a: Change, b: Change) -> Option<Change> {
    if a.range().end() != b.range().first {
        return None;
    }
    let range = BlockRange { first: a.range().first, count: a.range().count + b.range().count };
    match (a, b) {
        (Change::Data(_), Change::Data(_)) => Some(Change::Data(range)),
        (Change::Zero(_), Change::Zero(_)) => Some(Change::Zero(range)),
        _ => None,
    }
}
