//! What damage takes from which snapshots.
//!
//! Only snapshots that can be hurt are walked: those that list a damaged run, and those whose runs refer to a damaged
//! pack. What counts is what a snapshot still shows: a damaged chunk, page or run that newer levels hide hurts nobody.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use super::{Check, Hurt, Loss, runs::Runs};
use crate::{
    Result,
    block::BlockRange,
    fault::Fault,
    id::RunId,
    pack::PackReference,
    record::snapshot::Root,
    run::{Found, Origin, Place, Reader, View},
};

/// Most ranges given for one snapshot and object; a pack of single blocks could otherwise name thousands in each.
const MAX_RANGES: usize = 4096;

impl Check<'_> {
    /// Says of each damage which snapshots it hurts, and where.
    pub(super) async fn attribute(
        &mut self,
        roots: &[Arc<Root>],
        runs: &Runs,
        losses: &BTreeMap<PackReference, Loss>,
    ) -> Result<()> {
        let mut touched: HashSet<RunId> = runs.damaged.clone();
        if !losses.is_empty() {
            for reference in &runs.readable {
                // One that has become unreadable since is found by the walk of whoever else is touched, or next time.
                let opened = Reader::open(self.repository, Origin::Stored(reference.clone())).await;
                let Ok(reader) = Fault::sort(opened)? else { continue };
                if reader.index().packs.iter().any(|pack| losses.contains_key(pack)) {
                    touched.insert(reference.id);
                }
            }
        }
        for root in roots.iter().filter(|root| root.runs.iter().any(|run| touched.contains(&run.id))) {
            self.walk(root, losses).await?;
        }
        Ok(())
    }

    /// Walks a snapshot and notes what of it is lost, and to which object.
    async fn walk(&mut self, root: &Root, losses: &BTreeMap<PackReference, Loss>) -> Result<()> {
        let mut view = View::whole(self.repository, root);
        let mut hurt: BTreeMap<String, Ranges> = BTreeMap::new();
        let mut faults = BTreeSet::new();
        while let Some(found) = view.next_found().await? {
            match found {
                Found::Lost(range, fault) => {
                    hurt.entry(fault.object.clone()).or_default().add(range);
                    if !self.damages.contains_key(&fault.object) {
                        faults.insert((*fault).clone());
                    }
                }
                Found::Segment(segment) => {
                    if let Place::Chunk(place) = segment.place
                        && let Some(fault) = losses.get(&place.pack).and_then(|loss| loss.of(place.ordinal))
                    {
                        hurt.entry(fault.object.clone()).or_default().add(segment.range);
                    }
                }
            }
        }
        for fault in faults {
            self.note(fault);
        }
        let (snapshot, volume) = (root.description.id, Some(root.description.volume));
        for (object, ranges) in hurt {
            if let Some(damage) = self.damages.get_mut(&object) {
                damage.hurt.push(Hurt { snapshot, volume, ranges: ranges.bytes() });
            }
        }
        Ok(())
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
