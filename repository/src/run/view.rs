//! What a snapshot holds: its levels merged, block by block the newest one that covers it.
//!
//! A view walks all levels at once in ascending order and yields segments that do not overlap. It holds one page of
//! each level and some read ahead, whatever the size of the volume.
//!
//! # Cancellation
//! A view may be dropped at any point; it changes nothing.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use super::{Origin, Reader, Segment, damaged, levels};
use crate::{
    Repository, Result,
    block::{BlockRange, Blocks},
    id::RunId,
    record::snapshot::{Root, RunReference},
};

/// Pages that are known to be damaged and are to be passed over as if nothing stood in them; for a check alone.
pub(crate) type Skip = HashSet<(RunId, usize)>;

/// A walk over what levels hold, in ascending order.
pub(crate) struct View {
    repository: Repository,
    levels: Vec<Level>,
    position: Blocks,
    end: Blocks,
    skip: Arc<Skip>,
}

/// One level, as far as it has been walked.
struct Level {
    waiting: VecDeque<Origin>,
    /// Where the run before ended.
    covered: Blocks,
    reader: Option<Reader>,
    next_page: usize,
    page: std::vec::IntoIter<Segment>,
    /// The first segment that ends after the position; cut to start at or after it.
    head: Option<Segment>,
}

impl View {
    /// Starts a walk over the levels given, newest first, from the start of `range` to its end.
    pub(crate) fn new(
        repository: &Repository,
        levels: impl IntoIterator<Item = Vec<Origin>>,
        range: BlockRange,
    ) -> Self {
        let levels = levels.into_iter().map(|runs| Level {
            waiting: runs.into(),
            covered: Blocks::ZERO,
            reader: None,
            next_page: 0,
            page: Vec::new().into_iter(),
            head: None,
        });
        Self {
            repository: repository.clone(),
            levels: levels.collect(),
            position: range.first,
            end: range.end(),
            skip: Arc::default(),
        }
    }

    /// Starts a walk over a committed snapshot's runs.
    pub(crate) fn of(repository: &Repository, runs: &[RunReference], range: BlockRange) -> Self {
        let levels = levels(runs).map(|level| level.iter().cloned().map(Origin::Stored).collect());
        Self::new(repository, levels, range)
    }

    /// Starts a walk over all of a committed snapshot.
    pub(crate) fn whole(repository: &Repository, root: &Root) -> Self {
        let capacity = root.description.capacity_bytes.div_ceil(crate::block::BLOCK_SIZE);
        Self::of(repository, &root.runs, BlockRange::new(0, capacity))
    }

    /// Passes over damaged pages instead of failing on them.
    pub(crate) fn skipping(mut self, skip: Arc<Skip>) -> Self {
        self.skip = skip;
        self
    }

    /// Goes on at a position, if it has not come so far yet; pages that lie before are not read.
    pub(crate) fn skip_to(&mut self, position: Blocks) {
        self.position = self.position.max(position);
    }

    /// Returns the next segment; zero extents are among them.
    ///
    /// # Errors
    /// `Corrupt` naming the run, or the store's.
    pub(crate) async fn next(&mut self) -> Result<Option<Segment>> {
        let mut first = self.end;
        for level in &mut self.levels {
            level.advance(&self.repository, self.position, self.end, &self.skip).await?;
            if let Some(head) = &level.head {
                first = first.min(head.range.first);
            }
        }
        if first >= self.end {
            return Ok(None);
        }
        // The newest level that covers `first` wins, up to where a newer one begins.
        let mut end = self.end;
        for head in self.levels.iter().filter_map(|level| level.head) {
            if head.range.first > first {
                end = end.min(head.range.first);
                continue;
            }
            let segment = head.until(end);
            self.position = segment.range.end();
            return Ok(Some(segment));
        }
        Ok(None)
    }
}

impl Level {
    /// Makes `head` the first segment that ends after `position`, if there is one before `end`.
    async fn advance(&mut self, repository: &Repository, position: Blocks, end: Blocks, skip: &Skip) -> Result<()> {
        loop {
            if let Some(head) = self.head
                && head.range.end() > position
            {
                self.head = Some(head.from(position));
                return Ok(());
            }
            self.head = self.page.next();
            if self.head.is_none() && !self.next_page(repository, position, end, skip).await? {
                return Ok(());
            }
        }
    }

    /// Reads the next page that has something between `position` and `end`.
    async fn next_page(&mut self, repository: &Repository, position: Blocks, end: Blocks, skip: &Skip) -> Result<bool> {
        loop {
            let Some(reader) = &mut self.reader else {
                let Some(origin) = self.waiting.pop_front() else { return Ok(false) };
                let reader = Reader::open(repository, origin).await?;
                if reader.index().pages.first().is_some_and(|page| page.range.first < self.covered) {
                    return Err(damaged(reader.reference().id, "it overlaps another run of its level"));
                }
                self.next_page = reader.index().page_after(position);
                self.reader = Some(reader);
                continue;
            };
            // Pages may lie wholly before the position where a newer level hid them.
            self.next_page = self.next_page.max(reader.index().page_after(position));
            let number = self.next_page;
            match reader.index().pages.get(number) {
                None => {
                    self.covered = reader.index().pages.last().map_or(self.covered, |page| page.range.end());
                    self.reader = None;
                }
                Some(page) if page.range.first >= end => {
                    self.reader = None;
                    self.waiting.clear();
                }
                Some(_) if skip.contains(&(reader.reference().id, number)) => self.next_page += 1,
                Some(_) => {
                    let extents = reader.page(number, end).await?;
                    self.next_page += 1;
                    let packs = &reader.index().packs;
                    // The page was decoded against the number of packs, so each position is one of theirs.
                    let segments = extents.into_iter().map(|extent| extent.map(|pack| packs[pack as usize]));
                    self.page = segments.collect::<Vec<_>>().into_iter();
                    return Ok(true);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
