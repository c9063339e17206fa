//! Which chunks are in the repository already, as far as one offload remembers.
//!
//! Chunks that the offload stored itself are entered as they are stored. An offload without a base also knows the
//! snapshot that it is compared with: as the scan moves through the image, the tables of the packs that hold the
//! snapshot's blocks thereabouts are read and entered, so that content that is still where it was is found however
//! large the volume is.
//!
//! Memory is bounded: the index has two generations of 131,072 chunks, and the older one is forgotten when the newer one
//! is full. What is forgotten is at worst stored once more.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Mutex, PoisonError},
};

use crate::{
    Repository, Result,
    block::{BlockRange, Blocks},
    id::{ChunkId, PackId},
    pack::{self, PackReference},
    record::snapshot::Root,
    run::{Place, Segment, View},
};

/// Most chunks in a generation, at about 40 bytes each.
const GENERATION: usize = 1 << 17;

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The pack, by its position in [`Packs`].
    pub(super) pack: u32,
    /// Which of its chunks.
    pub(super) ordinal: u32,
}

/// Chunks by id. The first half of an id stands for it: 128 bits of a keyed hash do not collide.
#[derive(Default)]
struct Generations {
    newer: HashMap<[u8; 16], Known>,
    older: HashMap<[u8; 16], Known>,
}

/// The chunks that are known to be in the repository. Shared with the threads that hash.
#[derive(Default)]
pub(super) struct Index(Mutex<Generations>);

impl Index {
    /// Looks a chunk up.
    pub(super) fn find(&self, id: &ChunkId) -> Option<Known> {
        let generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let half = half(id);
        generations.newer.get(&half).or_else(|| generations.older.get(&half)).copied()
    }

    /// Enters a chunk.
    pub(super) fn insert(&self, id: &ChunkId, known: Known) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if generations.newer.len() >= GENERATION {
            generations.older = mem::take(&mut generations.newer);
        }
        generations.newer.insert(half(id), known);
    }
}

fn half(id: &ChunkId) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&id.as_bytes()[..16]);
    half
}

/// A snapshot that an offload is compared with, walked as the scan goes.
pub(super) struct Comparison {
    view: View,
    ahead: Option<Segment>,
    done: bool,
    entered: HashSet<PackId>,
}

impl Comparison {
    /// Starts to compare from a position of the image.
    pub(super) fn new(repository: &Repository, root: &Root, from: Blocks) -> Self {
        let range = BlockRange { first: from, count: Blocks(u64::MAX - from.0) };
        let view = View::of(repository, &root.runs, range);
        Self { view, ahead: None, done: false, entered: HashSet::new() }
    }

    /// Enters the chunks of every pack that holds blocks of the snapshot before `end`; `position` names a pack that
    /// is met for the first time.
    ///
    /// # Errors
    /// `Corrupt` naming the run or pack, or the store's.
    pub(super) async fn advance(
        &mut self,
        repository: &Repository,
        end: Blocks,
        index: &Index,
        mut position: impl FnMut(PackReference) -> u32,
    ) -> Result<()> {
        while !self.done {
            let segment = match self.ahead.take() {
                Some(segment) => Some(segment),
                None => self.view.next().await?,
            };
            match segment {
                None => self.done = true,
                Some(segment) if segment.range.first >= end => {
                    self.ahead = Some(segment);
                    return Ok(());
                }
                Some(Segment { place: Place::Chunk(chunk), .. }) if self.entered.insert(chunk.pack.id) => {
                    let table = pack::read_table(repository, &chunk.pack).await?;
                    let pack = position(chunk.pack);
                    for (entry, ordinal) in table.entries.iter().zip(0..) {
                        index.insert(&entry.id, Known { pack, ordinal });
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_forgets_the_oldest_and_stays_bounded() {
        let index = Index::default();
        let id = |n: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            ChunkId::from_bytes(bytes)
        };
        let count = 3 * GENERATION as u64;
        for n in 0..count {
            index.insert(&id(n), Known { pack: 0, ordinal: 7 });
        }
        assert_eq!(index.find(&id(count - 1)), Some(Known { pack: 0, ordinal: 7 }));
        assert!(index.find(&id(count - GENERATION as u64)).is_some());
        assert!(index.find(&id(0)).is_none());
    }
}
