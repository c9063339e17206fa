//! The packs that an offload refers to, by the positions that extents name them by while they are drafted.

use std::collections::{HashMap, HashSet};

use super::dedup::Known;
use crate::pack::PackReference;

/// The packs by position.
#[derive(Default)]
pub(super) struct Packs {
    references: Vec<Option<PackReference>>,
    positions: HashMap<PackReference, u32>,
    /// Stored by an interrupted attempt, in stretches that were lost: nobody has counted what is in them.
    uncounted: HashMap<u32, Uncounted>,
}

/// Of a pack that was stored in a stretch that was lost, what has not been met again yet.
struct Uncounted {
    ordinals: HashSet<u32>,
    met: bool,
}

/// How a chunk counts that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    /// It is stored once more, as it were.
    Deduplicated,
    /// This offload stored it, and the interruption came before that was counted.
    Stored,
    /// The same, and so with its pack, of so many bytes.
    StoredWithPack(u64),
}

impl Packs {
    /// Gives a pack that is being filled a position.
    pub(super) fn open(&mut self) -> u32 {
        self.references.push(None);
        u32::try_from(self.references.len() - 1).expect("an offload meets fewer than 4 billion packs")
    }

    /// Says what has become of the pack that was being filled.
    pub(super) fn close(&mut self, position: u32, pack: PackReference) {
        self.references[position as usize] = Some(pack);
    }

    /// Returns the position of a pack that is stored.
    pub(super) fn position(&mut self, pack: PackReference) -> u32 {
        if let Some(position) = self.positions.get(&pack) {
            return *position;
        }
        let position = self.open();
        self.close(position, pack);
        self.positions.insert(pack, position);
        position
    }

    /// The pack at a position.
    ///
    /// # Panics
    /// Where it is still being filled.
    pub(super) fn resolve(&self, position: u32) -> PackReference {
        self.references[position as usize].expect("a pack is closed with its stretch")
    }

    /// Says that so many chunks of a pack are to be counted when they are met.
    pub(super) fn uncount(&mut self, position: u32, chunks: u32) {
        self.uncounted.insert(position, Uncounted { ordinals: (0..chunks).collect(), met: false });
    }

    /// Tells how a chunk that was found counts, and counts it.
    pub(super) fn count(&mut self, known: Known) -> Counts {
        let Some(uncounted) = self.uncounted.get_mut(&known.pack) else { return Counts::Deduplicated };
        if !uncounted.ordinals.remove(&known.ordinal) {
            return Counts::Deduplicated;
        }
        if std::mem::replace(&mut uncounted.met, true) {
            Counts::Stored
        } else {
            Counts::StoredWithPack(self.resolve(known.pack).object_bytes.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{PackId, UploadId};

    #[test]
    fn what_an_interruption_left_uncounted_is_counted_once() {
        let mut packs = Packs::default();
        let id = PackId::of(UploadId::from_bytes([1; 8]), [2; 8]);
        let position =
            packs.position(PackReference { id, object_bytes: 5000, table_offset: 4000, table_hash: [3; 32] });
        packs.uncount(position, 2);
        let known = |ordinal| Known { pack: position, ordinal };
        assert_eq!(packs.count(known(1)), Counts::StoredWithPack(5000));
        assert_eq!(packs.count(known(1)), Counts::Deduplicated);
        assert_eq!(packs.count(known(0)), Counts::Stored);
        assert_eq!(packs.count(known(0)), Counts::Deduplicated);
        let other = packs.open();
        assert_eq!(packs.count(Known { pack: other, ordinal: 0 }), Counts::Deduplicated);
    }
}
