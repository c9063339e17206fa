//! What differs between two snapshots, told by their runs alone: no data is read.
//!
//! Two snapshots of one repository share the chunks of everything that did not change between them. Where both say
//! that a block is at the same place of the same chunk it is the same; where one of them says otherwise it is taken for
//! changed. A block that was rewritten with the bytes that it had is therefore told as changed, now and then.
//!
//! A copy of a snapshot into another repository goes by this, and so does CSI's SnapshotMetadata service.
//!
//! # Invariants
//! No block that differs is left out. Memory: one page of each level of both snapshots, whatever their size.
//!
//! # Cancellation
//! A walk may be dropped at any point; it changes nothing.

mod walk;

pub(crate) use walk::Walk;

use futures::{Stream, stream};

use crate::{
    Repository, Result,
    block::{BlockRange, Blocks, Change},
    record::snapshot::Root,
    run::{Place, Segment},
};

/// A range is given out at this length, in blocks, even where it goes on: 1 GiB.
const LONGEST: u64 = 1 << 18;

/// Ranges of a snapshot, in ascending order and without overlap. Two that touch may be parts of one.
pub struct Ranges {
    walk: Walk,
    ahead: Option<Change>,
}

impl Repository {
    /// Tells which blocks of a snapshot hold data, from the block `from` on.
    #[must_use]
    pub fn allocated(&self, root: &Root, from: Blocks) -> Ranges {
        Ranges::new(Walk::new(self, None, root, from))
    }

    /// Tells which blocks of `target` may differ from those of `base`, from the block `from` on: those that hold data,
    /// and those that became zero. Past the end of `base` everything that holds data differs. The two need not be of
    /// one volume.
    #[must_use]
    pub fn changed(&self, base: &Root, target: &Root, from: Blocks) -> Ranges {
        Ranges::new(Walk::new(self, Some(base), target, from))
    }
}

impl Ranges {
    pub(crate) fn new(walk: Walk) -> Self {
        Self { walk, ahead: None }
    }

    /// Returns the next range.
    ///
    /// # Errors
    /// `Corrupt` naming a damaged run, or the store's.
    pub async fn next(&mut self) -> Result<Option<Change>> {
        let mut joined = self.ahead.take();
        loop {
            let next = self.walk.next().await?.map(change);
            joined = match (joined, next) {
                (None, None) => return Ok(None),
                (None, Some(range)) => Some(range),
                (Some(range), next) => match next.and_then(|next| join(range, next)) {
                    Some(longer) => Some(longer),
                    None => {
                        self.ahead = next;
                        return Ok(Some(range));
                    }
                },
            };
        }
    }

    /// Turns it into a stream, which ends behind its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Change>> + Send {
        stream::try_unfold(self, async |mut ranges| Ok(ranges.next().await?.map(|range| (range, ranges))))
    }
}

fn change(segment: Segment) -> Change {
    match segment.place {
        Place::Zero => Change::Zero(segment.range),
        Place::Chunk(_) => Change::Data(segment.range),
    }
}

/// Makes one range of two, if the second goes on where the first ends, is of its kind, and the two are not too long.
fn join(range: Change, next: Change) -> Option<Change> {
    let whole = BlockRange { first: range.range().first, count: range.range().count + next.range().count };
    let fits = range.range().end() == next.range().first && whole.count.0 <= LONGEST;
    match (range, next) {
        (Change::Data(_), Change::Data(_)) if fits => Some(Change::Data(whole)),
        (Change::Zero(_), Change::Zero(_)) if fits => Some(Change::Zero(whole)),
        _ => None,
    }
}
