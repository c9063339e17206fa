//! Walking two views side by side.

use crate::{
    Repository, Result,
    block::{BLOCK_SIZE, BlockRange, Blocks},
    pack::PackReference,
    record::snapshot::Root,
    run::{ChunkPlace, Extent, Place, Segment, View},
};

/// A walk over what a snapshot holds otherwise than its base, in ascending order; without a base, over all that it
/// holds.
///
/// What it yields says where the blocks are in the target: in a chunk, or nowhere, where they are zero and the base
/// holds data.
pub(crate) struct Walk {
    base: Option<Side>,
    target: Side,
    position: Blocks,
    end: Blocks,
}

/// One of the two views, as far as it has been walked.
struct Side {
    view: View,
    /// The first segment that ends after the walk's position, cut to start at or after it.
    head: Option<Segment>,
    ended: bool,
}

impl Side {
    fn new(repository: &Repository, root: &Root, range: BlockRange) -> Self {
        Self { view: View::of(repository, &root.runs, range), head: None, ended: false }
    }

    /// Makes `head` the first segment that ends after `position`.
    async fn advance(&mut self, position: Blocks) -> Result<()> {
        while !self.ended {
            if let Some(head) = self.head
                && head.range.end() > position
            {
                self.head = Some(head.from(position));
                return Ok(());
            }
            self.head = self.view.next().await?;
            self.ended = self.head.is_none();
        }
        Ok(())
    }

    /// Where the next segment starts; `end` where there is none.
    fn first(&self, end: Blocks) -> Blocks {
        self.head.map_or(end, |head| head.range.first)
    }
}

impl Walk {
    /// Starts at the block `from` of the target.
    pub(crate) fn new(repository: &Repository, base: Option<&Root>, target: &Root, from: Blocks) -> Self {
        let end = Blocks(target.description.capacity_bytes.div_ceil(BLOCK_SIZE));
        let first = from.min(end);
        let range = BlockRange { first, count: end - first };
        // What a base holds past its own end is nothing, whatever its runs may say.
        let base = base.map(|base| {
            let end = end.min(Blocks(base.description.capacity_bytes.div_ceil(BLOCK_SIZE))).max(first);
            Side::new(repository, base, BlockRange { first, count: end - first })
        });
        Self { base, target: Side::new(repository, target, range), position: first, end }
    }

    /// Returns the next segment that differs.
    ///
    /// # Errors
    /// `Corrupt` naming the run, or the store's.
    pub(crate) async fn next(&mut self) -> Result<Option<Segment>> {
        loop {
            self.target.advance(self.position).await?;
            if let Some(base) = &mut self.base {
                base.advance(self.position).await?;
            }
            let target_first = self.target.first(self.end);
            let base_first = self.base.as_ref().map_or(self.end, |base| base.first(self.end));
            let first = target_first.min(base_first);
            if first >= self.end {
                return Ok(None);
            }
            let target = self.target.head.filter(|head| head.range.first == first);
            let base = self.base.as_ref().and_then(|base| base.head).filter(|head| head.range.first == first);
            // Up to where either of them ends, or begins.
            let mut end = self.end;
            for (head, next) in [(target, target_first), (base, base_first)] {
                end = end.min(head.map_or(next, |head| head.range.end()));
            }
            self.position = end;
            if differ(base.map(|head| head.place), target.map(|head| head.place)) {
                let range = BlockRange { first, count: end - first };
                return Ok(Some(Extent { range, place: target.map_or(Place::Zero, |head| head.place) }));
            }
        }
    }
}

/// Tells whether two places can hold different bytes. The same bytes may be at two places: that is taken for a
/// difference.
fn differ(base: Option<Place<PackReference>>, target: Option<Place<PackReference>>) -> bool {
    let chunk = |place: Option<Place<PackReference>>| match place {
        Some(Place::Chunk(ChunkPlace { pack, ordinal, skip })) => Some((pack.id, ordinal, skip)),
        Some(Place::Zero) | None => None,
    };
    chunk(base) != chunk(target)
}
