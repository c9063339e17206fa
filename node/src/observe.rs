//! The seam to whoever counts what a node does.

use std::{fmt, time::Duration};

/// How a piece of work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It failed for now, and is tried again.
    Retried,
    /// It failed, and needs a person or another call.
    Failed,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Done, Self::Retried, Self::Failed];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retried => "retried",
            Self::Failed => "failed",
        }
    }
}

/// Is told of what a node does, as it is done. Must not block.
pub trait Observer: Send + Sync + fmt::Debug {
    /// Snapshots of one instant were cut, while writers were held for `pause`: no time at all where there were none.
    fn cut(&self, snapshots: usize, pause: Duration);

    /// Nothing was cut of snapshots that were asked for.
    fn not_cut(&self);

    /// An attempt to offload a cut has ended, after so much time.
    fn offloaded(&self, outcome: Outcome, duration: Duration);

    /// A hydration has ended, after so much time.
    fn hydrated(&self, outcome: Outcome, duration: Duration);
}

/// Nobody.
impl Observer for () {
    fn cut(&self, _: usize, _: Duration) {}

    fn not_cut(&self) {}

    fn offloaded(&self, _: Outcome, _: Duration) {}

    fn hydrated(&self, _: Outcome, _: Duration) {}
}
