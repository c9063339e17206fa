//! How things stand on a node, in numbers, for whoever watches over it.

use jiff::Timestamp;

use super::{Agent, Severity};
use crate::cut::{State, Status};

/// One reading; each number is right for some moment of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The pool; `None` where it cannot be measured.
    pub pool: Option<PoolReading>,
    /// Volumes.
    pub volumes: usize,
    /// Cuts.
    pub cuts: CutCounts,
    /// What the cuts that wait for the repository still have to move, as far as that is known, in logical bytes.
    pub backlog_bytes: u64,
    /// When the oldest cut was made that is not in the repository and is to get there.
    pub oldest_waiting: Option<Timestamp>,
    /// What is the matter with the pool, by how bad it is.
    pub ailments: Vec<Severity>,
}

/// A pool; bytes throughout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolReading {
    /// All of it.
    pub capacity: u64,
    /// What can still be written.
    pub free: u64,
    /// What is promised to volumes.
    pub promised: u64,
    /// What may still be promised.
    pub provisionable: u64,
}

/// Cuts by what becomes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutCounts {
    /// Their turn is to come, or they are tried again.
    pub waiting: usize,
    /// They are on their way.
    pub offloading: usize,
    /// They need a person.
    pub failed: usize,
    /// They are to stay here and go nowhere.
    pub kept: usize,
    /// They are in the repository, and what the next ones are computed against.
    pub bases: usize,
}

impl Agent {
    /// Reads how things stand; blocks.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let mut reading = Reading {
            pool: self.pool_reading(),
            volumes: self.volumes().list().len(),
            ailments: self.pool_ailments().into_iter().map(|ailment| ailment.severity).collect(),
            ..Reading::default()
        };
        for cut in self.cuts().list() {
            let record = cut.record();
            let status = cut.status().borrow().clone();
            let counts = &mut reading.cuts;
            match (&status, &record.state) {
                (Status::Removed, _) => continue,
                (Status::Pending { .. }, _) => counts.waiting += 1,
                (Status::Offloading, _) => counts.offloading += 1,
                (Status::Failed { .. }, _) => counts.failed += 1,
                (Status::Ready, State::NodeOnly) => counts.kept += 1,
                (Status::Ready, _) => counts.bases += 1,
            }
            if matches!(status, Status::Pending { .. } | Status::Offloading) {
                let progress = cut.progress().read();
                reading.backlog_bytes += progress.total.saturating_sub(progress.done);
                let made = record.description.created_at;
                reading.oldest_waiting = Some(reading.oldest_waiting.map_or(made, |oldest| oldest.min(made)));
            }
        }
        reading
    }

    fn pool_reading(&self) -> Option<PoolReading> {
        let usage = self.pool().usage().ok()?;
        let limits = self.limits().ok()?;
        Some(PoolReading {
            capacity: usage.capacity,
            free: usage.free,
            promised: self.volumes().promises_in_all(),
            provisionable: self.volumes().provisionable(limits),
        })
    }
}
