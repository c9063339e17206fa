//! How far a long piece of work has come, readable from outside while it runs.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::stages::Stages;

/// Counters that the work advances and that anyone may read. Cloning shares them. All in bytes.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    total: AtomicU64,
    done: AtomicU64,
    moved: AtomicU64,
    stages: Stages,
}

/// One reading of a [`Progress`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Logical bytes to work through; 0 while unknown.
    pub total: u64,
    /// Logical bytes worked through.
    pub done: u64,
    /// Bytes sent to, or fetched from, the store.
    pub moved: u64,
}

impl Progress {
    /// Starts at zero; what is counted of stages counts in `total` as well.
    #[must_use]
    pub fn within(total: &Stages) -> Self {
        Self(Arc::new(Counters { stages: total.within(), ..Counters::default() }))
    }

    /// Sets how many logical bytes there are to work through.
    pub fn set_total(&self, bytes: u64) {
        self.0.total.store(bytes, Ordering::Relaxed);
    }

    /// Adds to the total, where it becomes known piece by piece.
    pub fn add_total(&self, bytes: u64) {
        self.0.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts logical bytes as worked through.
    pub fn add_done(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes as sent to, or fetched from, the store.
    pub fn add_moved(&self, bytes: u64) {
        self.0.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Where the time goes, stage by stage.
    #[must_use]
    pub fn stages(&self) -> &Stages {
        &self.0.stages
    }

    /// Reads all counters; each is right, the three need not be of one instant.
    #[must_use]
    pub fn read(&self) -> Reading {
        Reading {
            total: self.0.total.load(Ordering::Relaxed),
            done: self.0.done.load(Ordering::Relaxed),
            moved: self.0.moved.load(Ordering::Relaxed),
        }
    }
}
