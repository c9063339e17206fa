//! What is alive: a bit for each chunk of each pack that runs refer to.
//!
//! How many chunks a pack has follows from its reference, since the table has a fixed length for each; so no table is read.
//!
//! # Invariants
//! What contradicts itself is alive: a pack that runs refer to in different ways, or whose runs speak of a chunk that it
//! cannot hold.

use std::collections::BTreeMap;

use crate::{
    id::PackId,
    pack::{self, PackReference},
};

/// Bits in a word.
const WORD: usize = 64;

/// What is alive of one pack. Some 100 bytes and a bit for each chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    /// How runs refer to it.
    pub(super) reference: PackReference,
    /// All of it, since something about it cannot be told.
    whole: bool,
    bits: Box<[u64]>,
}

impl Marks {
    /// Starts with a pack of which nothing is known to be alive.
    pub(super) fn new(reference: PackReference) -> Self {
        let chunks = pack::chunk_count(&reference);
        Self { reference, whole: chunks.is_none(), bits: vec![0; chunks.unwrap_or(0).div_ceil(WORD)].into() }
    }

    /// Marks a chunk.
    pub(super) fn mark(&mut self, ordinal: u32) {
        let (ordinal, chunks) = (usize::try_from(ordinal).unwrap_or(usize::MAX), self.chunks());
        match self.bits.get_mut(ordinal / WORD) {
            Some(word) if ordinal < chunks => *word |= 1 << (ordinal % WORD),
            _ => self.whole = true,
        }
    }

    /// Marks all of it.
    pub(super) fn mark_whole(&mut self) {
        self.whole = true;
    }

    /// Takes over what another run marked of the same pack.
    fn join(&mut self, other: &Self) {
        self.whole |= other.whole || self.reference != other.reference;
        for (word, more) in self.bits.iter_mut().zip(&other.bits) {
            *word |= more;
        }
    }

    /// How many chunks it has.
    pub(super) fn chunks(&self) -> usize {
        pack::chunk_count(&self.reference).unwrap_or(0)
    }

    /// How many of them are alive; `None` where that cannot be told.
    pub(super) fn live(&self) -> Option<usize> {
        let live = self.bits.iter().map(|word| word.count_ones() as usize).sum();
        (!self.whole).then_some(live)
    }

    /// How many bytes of it are alive, if chunks are of equal size.
    pub(super) fn live_bytes(&self) -> u64 {
        let (live, chunks) = (self.live().unwrap_or(self.chunks()) as u64, self.chunks() as u64);
        u64::from(self.reference.table_offset).saturating_mul(live).checked_div(chunks).unwrap_or(0)
    }

    /// The chunks that are alive, in ascending order.
    pub(super) fn ordinals(&self) -> impl Iterator<Item = u32> + '_ {
        let ordinals = self.bits.iter().zip(0_u32..).flat_map(|(word, number)| {
            (0..u64::BITS).filter(move |bit| word >> bit & 1 == 1).map(move |bit| number * u64::BITS + bit)
        });
        ordinals.filter(|_| !self.whole)
    }
}

/// What is alive of all packs.
#[derive(Debug, Default)]
pub(super) struct Reach(BTreeMap<PackId, Marks>);

impl Reach {
    /// Takes up what one run marked.
    pub(super) fn join(&mut self, marks: Marks) {
        match self.0.get_mut(&marks.reference.id) {
            Some(known) => known.join(&marks),
            None => {
                self.0.insert(marks.reference.id, marks);
            }
        }
    }

    /// What is alive of a pack; `None` where no run refers to it.
    pub(super) fn marks(&self, pack: PackId) -> Option<&Marks> {
        self.0.get(&pack)
    }

    /// All packs that runs refer to, in the ids' order.
    pub(super) fn packs(&self) -> impl Iterator<Item = &Marks> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(number: u64, chunks: u32) -> PackReference {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        let table_offset = 8 + chunks * 100;
        let object_bytes = table_offset + 4 + chunks * 38 + 16;
        PackReference { id: PackId::from_bytes(id), object_bytes, table_offset, table_hash: [1; 32] }
    }

    #[test]
    fn what_any_run_marks_is_alive() {
        let mut reach = Reach::default();
        for ordinals in [vec![0, 63, 64], vec![64, 129]] {
            let mut marks = Marks::new(reference(1, 130));
            ordinals.into_iter().for_each(|ordinal| marks.mark(ordinal));
            reach.join(marks);
        }
        let marks = reach.marks(reference(1, 130).id).unwrap();
        assert_eq!((marks.chunks(), marks.live()), (130, Some(4)));
        assert_eq!(marks.ordinals().collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert_eq!(marks.live_bytes(), (8 + 13_000) * 4 / 130);
        assert!(reach.marks(reference(2, 1).id).is_none());
    }

    #[test]
    fn what_contradicts_itself_is_wholly_alive() {
        let mut beyond = Marks::new(reference(1, 130));
        beyond.mark(130);
        assert_eq!(beyond.live(), None);

        let mut reach = Reach::default();
        reach.join(Marks::new(reference(1, 130)));
        reach.join(Marks::new(PackReference { table_hash: [2; 32], ..reference(1, 130) }));
        assert_eq!(reach.marks(reference(1, 130).id).unwrap().live(), None);

        let odd = PackReference { object_bytes: 8 + 13_000 + 21, ..reference(1, 130) };
        assert_eq!(Marks::new(odd).live(), None);
        assert_eq!(Marks::new(odd).ordinals().count(), 0);
    }

    #[test]
    fn invariant_8_ten_million_chunks_take_a_few_megabytes() {
        let (packs, chunks) = (40_000, 256);
        let mut reach = Reach::default();
        for number in 0..packs {
            let mut marks = Marks::new(reference(number, chunks));
            (0..chunks).filter(|ordinal| ordinal % 3 == 0).for_each(|ordinal| marks.mark(ordinal));
            reach.join(marks);
        }
        let live: usize = reach.packs().filter_map(Marks::live).sum();
        assert_eq!(live as u64, packs * 86);
        let bytes: usize = reach.packs().map(|marks| size_of::<(PackId, Marks)>() + size_of_val(&*marks.bits)).sum();
        assert!(bytes < 8 << 20, "{bytes} bytes");
    }
}
