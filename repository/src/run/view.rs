//! What a snapshot holds: its levels merged, block by block the newest one that covers it.
//!
//! A view walks all levels at once in ascending order and yields segments that do not overlap. It holds one page of
//! each level and some read ahead, whatever the size of the volume.
//!
//! Where a page or a run cannot be read, all that it covers is [lost](Found::Lost), except where a newer level decides.
//! What an older level says of it is no substitute: it may be out of date.
//!
//! # Cancellation
//! A view may be dropped at any point; it changes nothing. After an error that may pass, it can be asked again.

use std::{collections::VecDeque, sync::Arc};

use futures::future::join_all;

use super::{Extent, Origin, Place, Reader, Segment, damaged, levels};
use crate::{
    Repository, Result,
    block::{BlockRange, Blocks},
    fault::Fault,
    record::snapshot::{Root, RunReference},
};

/// A walk over what levels hold, in ascending order.
pub(crate) struct View {
    repository: Repository,
    /// Whether runs are read from what is remembered of them.
    recalls: bool,
    levels: Vec<Level>,
    position: Blocks,
    end: Blocks,
}

/// What a view finds.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// Blocks, and where they are.
    Segment(Segment),
    /// Blocks of which nobody knows where they are, since this is damaged.
    Lost(BlockRange, Arc<Fault>),
}

/// The next blocks of one level.
#[derive(Clone, Debug)]
struct Head {
    /// Where they are; of those that are lost the range alone counts.
    segment: Segment,
    lost: Option<Arc<Fault>>,
}

/// One level, as far as it has been walked.
struct Level {
    waiting: VecDeque<Origin>,
    /// Where the run before ended.
    covered: Blocks,
    reader: Option<Reader>,
    next_page: usize,
    page: std::vec::IntoIter<Segment>,
    /// The first blocks that end after the position; cut to start at or after it.
    head: Option<Head>,
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
        let repository = repository.clone();
        Self { repository, recalls: false, levels: levels.collect(), position: range.first, end: range.end() }
    }

    /// The same walk from what this process remembers of the runs, where it does.
    pub(crate) fn recalling(self) -> Self {
        Self { recalls: true, ..self }
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

    /// Goes on at a position, if it has not come so far yet; pages that lie before are not read.
    pub(crate) fn skip_to(&mut self, position: Blocks) {
        self.position = self.position.max(position);
    }

    /// Returns the next segment; zero extents are among them.
    ///
    /// # Errors
    /// `Corrupt` naming the run where the next blocks are lost, or the store's.
    pub(crate) async fn next(&mut self) -> Result<Option<Segment>> {
        Ok(match self.next_found().await? {
            None => None,
            Some(Found::Segment(segment)) => Some(segment),
            Some(Found::Lost(_, fault)) => return Err((*fault).clone().into()),
        })
    }

    /// Returns the next blocks that some level covers.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn next_found(&mut self) -> Result<Option<Found>> {
        let (position, end) = (self.position, self.end);
        // Levels that must read do so at the same time: each costs a round trip of its own otherwise.
        let behind = self.levels.iter_mut().map(|level| !level.steps(position)).filter(|behind| *behind).count();
        if behind > 0 {
            let (repository, recalls) = (&self.repository, self.recalls);
            let read = self.levels.iter_mut().map(|level| level.advance(repository, recalls, position, end));
            // All of them to their end, so that whoever meets an error that passes finds them where they are.
            join_all(read).await.into_iter().collect::<Result<()>>()?;
        }
        let heads = self.levels.iter().filter_map(|level| level.head.as_ref());
        let first = heads.map(|head| head.segment.range.first).min().unwrap_or(end).min(end);
        if first >= self.end {
            return Ok(None);
        }
        // The newest level that covers `first` wins, up to where a newer one begins.
        let mut end = self.end;
        for head in self.levels.iter().filter_map(|level| level.head.as_ref()) {
            if head.segment.range.first > first {
                end = end.min(head.segment.range.first);
                continue;
            }
            let segment = head.segment.until(end);
            self.position = segment.range.end();
            return Ok(Some(match &head.lost {
                None => Found::Segment(segment),
                Some(fault) => Found::Lost(segment.range, Arc::clone(fault)),
            }));
        }
        Ok(None)
    }
}

impl Level {
    /// Makes `head` the first blocks that end after `position`, as far as the page in memory goes; tells whether that is
    /// all there is to do.
    fn steps(&mut self, position: Blocks) -> bool {
        loop {
            if let Some(head) = &mut self.head
                && head.segment.range.end() > position
            {
                head.segment = head.segment.from(position);
                return true;
            }
            self.head = self.page.next().map(|segment| Head { segment, lost: None });
            if self.head.is_none() {
                return self.reader.is_none() && self.waiting.is_empty();
            }
        }
    }

    /// Makes `head` the first blocks that end after `position`, if there are some before `end`.
    async fn advance(&mut self, repository: &Repository, recalls: bool, position: Blocks, end: Blocks) -> Result<()> {
        while !self.steps(position) {
            if !self.next_page(repository, recalls, position, end).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads the next page that has something between `position` and `end`, or makes `head` what is lost with it.
    async fn next_page(
        &mut self,
        repository: &Repository,
        recalls: bool,
        position: Blocks,
        end: Blocks,
    ) -> Result<bool> {
        loop {
            let Some(reader) = &mut self.reader else {
                let Some(origin) = self.waiting.front() else { return Ok(false) };
                let opened = match recalls {
                    true => Reader::recall(repository, origin.clone()).await,
                    false => Reader::open(repository, origin.clone()).await,
                };
                let opened = opened.and_then(|reader| {
                    if reader.index().pages.first().is_some_and(|page| page.range.first < self.covered) {
                        return Err(damaged(reader.reference().id, "it overlaps another run of its level"));
                    }
                    Ok(reader)
                });
                match Fault::sort(opened)? {
                    Ok(reader) => {
                        self.waiting.pop_front();
                        self.next_page = reader.index().page_after(position);
                        self.reader = Some(reader);
                    }
                    Err(fault) => {
                        if self.lose_runs(repository, position, end, Arc::new(fault)).await? {
                            return Ok(true);
                        }
                    }
                }
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
                Some(page) => {
                    let range = page.range;
                    match Fault::sort(reader.page(number, end).await)? {
                        Ok(extents) => {
                            let packs = &reader.index().packs;
                            // The page was decoded against the number of packs, so each position is one of theirs.
                            let segments = extents.into_iter().map(|extent| extent.map(|pack| packs[pack as usize]));
                            self.page = segments.collect::<Vec<_>>().into_iter();
                        }
                        Err(fault) => self.head = Some(Head::lost(range, Arc::new(fault))),
                    }
                    self.next_page += 1;
                    return Ok(true);
                }
            }
        }
    }

    /// Makes `head` what runs that cannot be opened may cover: from where the run before them ended to where the next
    /// one that can be opened begins. Tells whether that is anything after `position`.
    async fn lose_runs(
        &mut self,
        repository: &Repository,
        position: Blocks,
        end: Blocks,
        fault: Arc<Fault>,
    ) -> Result<bool> {
        let first = self.covered;
        // Nothing is taken from those that wait before all is known: whoever meets an error that passes asks again.
        let (mut lost, mut until) = (1, end);
        while let Some(origin) = self.waiting.get(lost) {
            if let Ok(reader) = Fault::sort(Reader::open(repository, origin.clone()).await)?
                && let Some(start) = reader.index().pages.first().map(|page| page.range.first)
                && start >= first
            {
                until = until.min(start);
                break;
            }
            lost += 1;
        }
        self.waiting.drain(..lost);
        self.covered = until;
        let covers = until > first && until > position;
        if covers {
            self.head = Some(Head::lost(BlockRange { first, count: until - first }, fault));
        }
        Ok(covers)
    }
}

impl Head {
    fn lost(range: BlockRange, fault: Arc<Fault>) -> Self {
        Self { segment: Extent { range, place: Place::Zero }, lost: Some(fault) }
    }
}

#[cfg(test)]
mod tests;
