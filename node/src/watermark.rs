//! Watermarks: how little of the pool may be free before something goes, or is refused.
//!
//! ```text
//! free space   |<------ ample ------>|<--- low --->|<-- scarce -->|<- last ->|
//! of the pool  all             shed_bases_below   refuse_snapshots_below   half of that
//! ```
//!
//! Where space is *low*, bases go. Where it is *scarce*, nothing is cut and no volume made either: each block that is
//! overwritten after a cut takes up another one. At the *last* cuts go that are not in the repository yet.

use super::pool::Usage;

/// How much of a pool; at most half of it counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mark {
    /// A share of its capacity, from 0 to 1.
    Share(f64),
    /// Bytes.
    Bytes(u64),
}

impl Mark {
    /// What it comes to, in bytes.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a watermark needs no exactness; the cast saturates"
    )]
    pub fn of(self, capacity: u64) -> u64 {
        let bytes = match self {
            Self::Share(share) => (capacity as f64 * share).max(0.0) as u64,
            Self::Bytes(bytes) => bytes,
        };
        bytes.min(capacity / 2)
    }
}

/// The watermarks that are configured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Marks {
    /// With less than this free, bases go.
    pub shed_bases_below: Mark,
    /// With less than this free, nothing is cut; never more than the former.
    pub refuse_snapshots_below: Mark,
}

impl Default for Marks {
    /// A tenth and a twentieth: room for what is written while bases go, and for what a file system keeps for itself.
    fn default() -> Self {
        Self { shed_bases_below: Mark::Share(0.10), refuse_snapshots_below: Mark::Share(0.05) }
    }
}

/// How much of a pool is free, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Hardly anything: cuts go that are not in the repository yet.
    Last,
    /// Too little to cut anything: all bases go.
    Scarce,
    /// Less than there should be: bases go.
    Low,
    /// Enough.
    Ample,
}

/// The watermarks of one pool, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Levels {
    /// Below it space is low.
    pub(crate) shed: u64,
    /// Below it space is scarce.
    pub(crate) refuse: u64,
    /// Below it hardly anything is left.
    pub(crate) last: u64,
}

impl Marks {
    /// What the marks come to in a pool of `capacity` bytes.
    #[must_use]
    pub(crate) fn levels(self, capacity: u64) -> Levels {
        let shed = self.shed_bases_below.of(capacity);
        let refuse = self.refuse_snapshots_below.of(capacity).min(shed);
        Levels { shed, refuse, last: refuse / 2 }
    }

    /// Where a pool stands.
    #[must_use]
    pub(crate) fn level(self, usage: Usage) -> Level {
        self.levels(usage.capacity).of(usage.free)
    }
}

impl Levels {
    /// Where a pool with `free` bytes stands.
    #[must_use]
    pub(crate) fn of(self, free: u64) -> Level {
        match free {
            free if free < self.last => Level::Last,
            free if free < self.refuse => Level::Scarce,
            free if free < self.shed => Level::Low,
            _ => Level::Ample,
        }
    }

    /// How many bytes can be written before the next mark below `free` is reached.
    #[must_use]
    pub(crate) fn headroom(self, free: u64) -> u64 {
        let below = [self.shed, self.refuse, self.last].into_iter().find(|mark| *mark <= free).unwrap_or(0);
        free - below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_shares_or_sizes_and_never_more_than_half() {
        assert_eq!(Mark::Share(0.1).of(1000), 100);
        assert_eq!(Mark::Bytes(70).of(1000), 70);
        assert_eq!(Mark::Bytes(700).of(1000), 500);
        assert_eq!(Mark::Share(f64::NAN).of(1000), 0);
    }

    #[test]
    fn a_pool_stands_between_its_marks() {
        let marks = Marks { shed_bases_below: Mark::Bytes(100), refuse_snapshots_below: Mark::Share(0.06) };
        let level = |free| marks.level(Usage { capacity: 1000, free });
        assert_eq!([100, 99, 60].map(level), [Level::Ample, Level::Low, Level::Low]);
        assert_eq!([59, 30, 29, 0].map(level), [Level::Scarce, Level::Scarce, Level::Last, Level::Last]);
        let headroom = |free| marks.levels(1000).headroom(free);
        assert_eq!([150, 100, 80, 40, 29].map(headroom), [50, 0, 20, 10, 29]);
    }

    #[test]
    fn snapshots_are_not_refused_before_bases_go() {
        let marks = Marks { shed_bases_below: Mark::Bytes(10), refuse_snapshots_below: Mark::Bytes(40) };
        assert_eq!(marks.levels(1000), Levels { shed: 10, refuse: 10, last: 5 });
    }
}
