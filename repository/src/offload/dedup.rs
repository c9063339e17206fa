//! Which chunks are in the repository already, as far as one offload remembers.
//!
//! Chunks that the offload stored itself are entered as they are stored, those of [snapshots that it may refer
//! to](super::compare) as the scan comes near them.
//!
//! Memory is bounded: the index has two generations of 131,072 chunks, and the older one is forgotten when the newer one
//! is full. What is forgotten is at worst stored once more.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
};

use crate::id::ChunkId;

/// Most chunks in a generation, at about 40 bytes each.
const GENERATION: usize = 1 << 17;

/// How many chunks entered last are remembered at least.
pub(super) const REMEMBERED: usize = GENERATION;

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The pack, by its position in [`Packs`](super::packs::Packs).
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

    /// Enters a chunk; where it is known to be in one place already, that one stays.
    pub(super) fn enter(&self, id: &ChunkId, known: Known) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let generations = &mut *generations;
        let half = half(id);
        if generations.newer.contains_key(&half) {
            return;
        }
        let known = generations.older.get(&half).copied().unwrap_or(known);
        if generations.newer.len() >= GENERATION {
            generations.older = mem::take(&mut generations.newer);
        }
        generations.newer.insert(half, known);
    }
}

fn half(id: &ChunkId) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&id.as_bytes()[..16]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> ChunkId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        ChunkId::from_bytes(bytes)
    }

    #[test]
    fn the_index_forgets_the_oldest_and_stays_bounded() {
        let index = Index::default();
        let count = 3 * GENERATION as u64;
        for n in 0..count {
            index.enter(&id(n), Known { pack: 0, ordinal: 7 });
        }
        assert_eq!(index.find(&id(count - 1)), Some(Known { pack: 0, ordinal: 7 }));
        assert!(index.find(&id(count - REMEMBERED as u64)).is_some());
        assert!(index.find(&id(0)).is_none());
        let generations = index.0.lock().unwrap();
        assert!(generations.newer.len() + generations.older.len() <= 2 * GENERATION);
    }

    #[test]
    fn a_chunk_stays_where_it_was_met_first() {
        let index = Index::default();
        index.enter(&id(1), Known { pack: 1, ordinal: 1 });
        index.enter(&id(1), Known { pack: 2, ordinal: 2 });
        assert_eq!(index.find(&id(1)), Some(Known { pack: 1, ordinal: 1 }));
        // Met again, it is remembered as long as one that is new.
        (2..2 + GENERATION as u64).for_each(|n| index.enter(&id(n), Known { pack: 0, ordinal: 0 }));
        index.enter(&id(1), Known { pack: 3, ordinal: 3 });
        (2 + GENERATION as u64..2 * GENERATION as u64).for_each(|n| index.enter(&id(n), Known { pack: 0, ordinal: 0 }));
        assert_eq!(index.find(&id(1)), Some(Known { pack: 1, ordinal: 1 }));
    }
}
