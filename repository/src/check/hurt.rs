//! What damage takes from which snapshots.
//!
//! Only snapshots that can be hurt are walked: those whose runs refer to a damaged pack. Where pages of a run are damaged
//! as well, the walk passes over them, as they have been noted with all that they cover.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{Check, Fault, Hurt, packs::Loss, runs::Runs};
use crate::{
    Result,
    block::BlockRange,
    id::RunId,
    pack::PackReference,
    record::snapshot::{Root, RunReference},
    run::{self, Origin, Place, Reader, View},
};

/// Most ranges given for one snapshot and object; a pack of single blocks could otherwise name thousands in each.
const MAX_RANGES: usize = 4096;

impl Check<'_> {
    /// Says of each damage which snapshots it hurts, and where.
    pub(super) async fn attribute(
        &mut self,
        roots: &[Arc<Root>],
        runs: &Runs,
        packs: &BTreeMap<PackReference, Loss>,
    ) -> Result<()> {
        for root in roots {
            for reference in &root.runs {
                if runs.lost.contains(reference) {
                    self.hurt(&run::key(reference.id), root, Vec::new());
                } else if let Some(pages) = runs.lost_pages.get(&reference.id) {
                    let mut ranges = Ranges::default();
                    pages.iter().for_each(|(_, range)| ranges.add(*range));
                    self.hurt(&run::key(reference.id), root, ranges.bytes());
                }
            }
        }
        if packs.is_empty() {
            return Ok(());
        }
        let touched = self.runs_that_refer_to(packs, runs).await?;
        let skip = runs.lost_pages.iter().flat_map(|(id, pages)| pages.iter().map(|(number, _)| (*id, *number)));
        let skip: Arc<run::view::Skip> = Arc::new(skip.collect());
        for root in roots.iter().filter(|root| root.runs.iter().any(|run| touched.contains(&run.id))) {
            self.walk(root, runs, packs, &skip).await?;
        }
        Ok(())
    }

    /// Finds the runs that refer to a damaged pack, by their indexes.
    async fn runs_that_refer_to(&self, packs: &BTreeMap<PackReference, Loss>, runs: &Runs) -> Result<HashSet<RunId>> {
        let mut touched = HashSet::new();
        for reference in &runs.readable {
            // One that has become unreadable since is no worse than what was noted.
            let opened = Reader::open(self.repository, Origin::Stored(reference.clone())).await;
            let Ok(reader) = Fault::sort(opened)? else { continue };
            if reader.index().packs.iter().any(|pack| packs.contains_key(pack)) {
                touched.insert(reference.id);
            }
        }
        Ok(touched)
    }

    /// Walks a snapshot and notes what of it lies in damaged chunks.
    async fn walk(
        &mut self,
        root: &Root,
        runs: &Runs,
        packs: &BTreeMap<PackReference, Loss>,
        skip: &Arc<run::view::Skip>,
    ) -> Result<()> {
        let readable: Vec<RunReference> =
            root.runs.iter().filter(|reference| !runs.lost.contains(reference)).cloned().collect();
        let capacity = BlockRange::new(0, root.description.capacity_bytes / crate::block::BLOCK_SIZE);
        let mut view = View::of(self.repository, &readable, capacity).skipping(Arc::clone(skip));
        let mut hurt: BTreeMap<PackReference, Ranges> = BTreeMap::new();
        let failed = loop {
            match Fault::sort(view.next().await)? {
                Err(fault) => break Some(fault),
                Ok(None) => break None,
                Ok(Some(segment)) => {
                    let Place::Chunk(place) = segment.place else { continue };
                    if packs.get(&place.pack).is_some_and(|loss| loss.takes(place.ordinal)) {
                        hurt.entry(place.pack).or_default().add(segment.range);
                    }
                }
            }
        };
        for (pack, ranges) in hurt {
            self.hurt(&pack.key(), root, ranges.bytes());
        }
        if let Some(fault) = failed {
            let object = self.note(fault).object.clone();
            self.hurt(&object, root, Vec::new());
        }
        Ok(())
    }

    fn hurt(&mut self, object: &str, root: &Root, ranges: Vec<(u64, u64)>) {
        let (snapshot, volume) = (root.description.id, Some(root.description.volume));
        if let Some(damage) = self.damages.get_mut(object)
            && damage.hurt.iter().all(|hurt| hurt.snapshot != snapshot)
        {
            damage.hurt.push(Hurt { snapshot, volume, ranges });
        }
    }
}

/// Ranges in ascending order, those that touch made one.
#[derive(Default)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn add(&mut self, range: BlockRange) {
        let (first, end) = (range.first.0, range.end().0);
        let full = self.0.len() >= MAX_RANGES;
        match self.0.last_mut() {
            Some(last) if last.1 >= first || full => last.1 = end,
            _ => self.0.push((first, end)),
        }
    }

    fn bytes(&self) -> Vec<(u64, u64)> {
        let ranges = self.0.iter().map(|(first, end)| BlockRange::new(*first, end - first));
        ranges.map(|range| (range.first.bytes(), range.count.bytes())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one_and_their_number_is_bounded() {
        let mut ranges = Ranges::default();
        for (first, count) in [(0, 2), (2, 1), (5, 1)] {
            ranges.add(BlockRange::new(first, count));
        }
        assert_eq!(ranges.bytes(), [(0, 3 * 4096), (5 * 4096, 4096)]);
        for n in 0..10_000 {
            ranges.add(BlockRange::new(10 + 2 * n, 1));
        }
        assert_eq!(ranges.bytes().len(), MAX_RANGES);
        let (start, length) = *ranges.bytes().last().unwrap();
        assert_eq!(start + length, (10 + 2 * 9999 + 1) * 4096);
    }
}
