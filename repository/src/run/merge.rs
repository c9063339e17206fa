//! Keeping levels few: small ones are merged as they pile up, size-tiered.
//!
//! A new level is merged with the levels below it for as long as the next one is at most twice as large as all above
//! it taken together. So each level that stays is more than twice as large as the one above it: a snapshot of `n`
//! extents has at most `log2(n / 64) + 2` levels. An extent that is rewritten ends up in a level at least half as large
//! again as the one it was in, so it is rewritten at most `log1.5(n / 64) + 1` times once its level has 64 extents.
//!
//! Levels below that size count as 64. Each level costs every snapshot some 500 bytes, in its root and in the intent
//! before it, and every reader a request. Rewriting costs some ten bytes an extent, and 56 for each pack; and many small
//! changes mean many small packs. So to keep two levels of 64 extents apart saves about what it costs; were it 1024,
//! each small snapshot would rewrite tens of kilobytes.
//!
//! Sizes are extents, since those are what a merge reads and writes. A merge drops extents that a newer level hides,
//! and, where it takes in the oldest level, zero extents.

use super::{Finished, Origin, Place, View, Writer};
use crate::{Repository, Result, block::BlockRange};

/// What a level counts as at least, in extents.
const LEAST_SIZE: u64 = 64;

/// Returns how many of the newest levels are to be merged into one, given their sizes in extents, newest first.
/// Below two there is nothing to merge.
pub(crate) fn plan(sizes: &[u64]) -> usize {
    let mut merged = sizes.first().copied().unwrap_or(0).max(LEAST_SIZE);
    let mut count = sizes.len().min(1);
    for size in &sizes[count..] {
        let size = (*size).max(LEAST_SIZE);
        if size > merged.saturating_mul(2) {
            break;
        }
        merged = merged.saturating_add(size);
        count += 1;
    }
    count
}

/// A walk over levels that are being merged, which yields the runs of the level that replaces them.
pub(crate) struct Merge {
    view: View,
    writer: Writer,
    oldest: bool,
    done: bool,
}

impl Merge {
    /// Starts merging levels, newest first; `oldest` says that none is below them.
    pub(crate) fn new(repository: &Repository, levels: Vec<Vec<Origin>>, writer: Writer, oldest: bool) -> Self {
        let everything = BlockRange::new(0, u64::MAX);
        Self { view: View::new(repository, levels, everything).recalling(), writer, oldest, done: false }
    }

    /// Returns the next run that is ready to be put.
    ///
    /// # Errors
    /// `Corrupt` naming the run that is damaged, or the store's.
    pub(crate) async fn next(&mut self) -> Result<Option<Finished>> {
        while !self.done {
            let Some(segment) = self.view.next().await? else {
                self.done = true;
                return Ok(self.writer.finish());
            };
            if self.oldest && segment.place == Place::Zero {
                continue;
            }
            self.writer.push(&segment)?;
            if self.writer.is_full() {
                return Ok(self.writer.finish());
            }
        }
        Ok(None)
    }

    /// How many blocks of data the merged level holds.
    pub(crate) fn data(&self) -> crate::block::Blocks {
        self.writer.data()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_levels_are_merged_and_large_ones_left_alone() {
        assert_eq!(plan(&[]), 0);
        assert_eq!(plan(&[5]), 1);
        assert_eq!(plan(&[5, 7]), 2);
        assert_eq!(plan(&[5, 1_000_000]), 1);
        assert_eq!(plan(&[5, 7, 1_000_000]), 2);
        assert_eq!(plan(&[5000, 4000, 18_000, 100_000]), 3);
        assert_eq!(plan(&[5000, 10_001, 1_000_000]), 1);
    }

    proptest! {
        #[test]
        fn levels_stay_few(sizes in prop::collection::vec(1..200_000_u64, 1..400)) {
            let mut levels: Vec<u64> = Vec::new();
            let (mut total, mut rewritten) = (0_u64, 0_u64);
            for size in sizes {
                levels.insert(0, size);
                total += size.max(LEAST_SIZE);
                let count = plan(&levels);
                let merged: u64 = levels[..count].iter().sum();
                rewritten += merged;
                levels.splice(..count, [merged]);
                prop_assert!(levels.len() <= (total / LEAST_SIZE).ilog2() as usize + 2, "{levels:?}");
            }
            // log1.5 is 1.71 times log2.
            let bound = 2 * u64::from((total / LEAST_SIZE).ilog2()) + 2;
            prop_assert!(rewritten <= total * bound, "{rewritten} of {total}");
        }
    }
}
