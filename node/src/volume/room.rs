//! Admission: how much of the pool may be promised to volumes.
//!
//! Images are sparse, so a pool can promise more than it holds: `overcommit` says how many times. What is promised is the
//! capacity of every volume that is there, or is being made, or grown; nothing is promised twice, since a promise is
//! taken under one lock before any work and given back when the work ends.
//!
//! What `refuse_snapshots_below` keeps free is not promised. Bases and cuts are: they take up what volumes do not use, and go
//! when volumes need it (`agent::space`). So with an overcommit of at most 1 every byte that is promised can be written,
//! whatever becomes of snapshots; cuts that are `durability: node` apart, which never go by themselves.

use std::collections::HashMap;

use varve_repository::id::VolumeId;

use super::Volumes;
use crate::{
    pool::Usage,
    watermark::{Level, Marks},
};

/// Why a volume of the size asked for is not admitted. All in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// No pool state would make room for it.
    #[error("{bytes} bytes are more than the pool can ever hold: its capacity is {capacity} bytes")]
    LargerThanPool {
        /// What was asked for.
        bytes: u64,
        /// What the pool has.
        capacity: u64,
    },
    /// Too much is promised already.
    #[error(
        "{bytes} bytes are more than the pool can promise: {promised} of {limit} bytes are promised to other volumes; \
         delete volumes, or raise the overcommit"
    )]
    Promised {
        /// What was asked for.
        bytes: u64,
        /// What is promised to other volumes.
        promised: u64,
        /// What may be promised altogether.
        limit: u64,
    },
}

/// A promise for a volume that is being made or grown; dropping it gives it back.
#[derive(Debug)]
pub struct Reservation {
    volumes: Volumes,
    id: VolumeId,
}

/// What may be promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The pool's capacity, in bytes.
    pub(crate) capacity: u64,
    /// What may be promised altogether, in bytes.
    pub(crate) promises: u64,
    /// Hardly anything is free, whatever was promised: nothing new is promised.
    pub(crate) scarce: bool,
}

impl Limits {
    /// Takes a pool's sizes, how many times it may be promised, and its watermarks: what has to stay free is not promised.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a limit that is a product with a fraction needs no exactness; the cast saturates"
    )]
    pub(crate) fn new(usage: Usage, overcommit: f64, marks: Marks) -> Self {
        let capacity = usage.capacity;
        let usable = capacity - marks.levels(capacity).refuse;
        let promises = (usable as f64 * overcommit).max(0.0) as u64;
        Self { capacity, promises, scarce: marks.level(usage) <= Level::Scarce }
    }

    /// Decides on `bytes` for one volume, with `promised` bytes promised to the others.
    pub(crate) fn admit(self, bytes: u64, promised: u64) -> Result<(), NoRoom> {
        if bytes > self.capacity {
            return Err(NoRoom::LargerThanPool { bytes, capacity: self.capacity });
        }
        if promised.checked_add(bytes).is_none_or(|sum| sum > self.promises) {
            return Err(NoRoom::Promised { bytes, promised, limit: self.promises });
        }
        Ok(())
    }
}

/// What is promised to volumes that are being made or grown, in bytes.
#[derive(Debug, Default)]
pub(super) struct Promises(HashMap<VolumeId, u64>);

impl Promises {
    /// What is promised to the volume beyond its record, if anything.
    pub(super) fn of(&self, id: VolumeId) -> u64 {
        self.0.get(&id).copied().unwrap_or(0)
    }

    /// The volumes that something is promised to.
    pub(super) fn iter(&self) -> impl Iterator<Item = (VolumeId, u64)> + '_ {
        self.0.iter().map(|(id, bytes)| (*id, *bytes))
    }

    pub(super) fn insert(&mut self, id: VolumeId, bytes: u64) {
        self.0.insert(id, bytes);
    }

    fn remove(&mut self, id: VolumeId) {
        self.0.remove(&id);
    }
}

impl Reservation {
    pub(super) fn new(volumes: Volumes, id: VolumeId) -> Self {
        Self { volumes, id }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.volumes.promises().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watermark::Mark;

    /// With nothing set aside.
    fn limits(capacity: u64, overcommit: f64) -> Limits {
        let none = Mark::Bytes(0);
        let marks = Marks { shed_bases_below: none, refuse_snapshots_below: none };
        Limits::new(Usage { capacity, free: capacity }, overcommit, marks)
    }

    #[test]
    fn a_promise_is_kept_within_both_limits() {
        let limits = limits(100, 1.5);
        assert_eq!(limits.admit(100, 50), Ok(()));
        assert_eq!(limits.admit(100, 51), Err(NoRoom::Promised { bytes: 100, promised: 51, limit: 150 }));
        assert_eq!(limits.admit(101, 0), Err(NoRoom::LargerThanPool { bytes: 101, capacity: 100 }));
        assert_eq!(limits.admit(1, u64::MAX), Err(NoRoom::Promised { bytes: 1, promised: u64::MAX, limit: 150 }));
    }

    #[test]
    fn a_dropped_reservation_gives_its_room_back() {
        let volumes = Volumes::default();
        let limits = limits(100, 1.0);
        let (one, other) = (VolumeId::from_bytes([1; 16]), VolumeId::from_bytes([2; 16]));
        let reservation = volumes.reserve(one, 60, limits).expect("all is free");
        assert_eq!(volumes.provisionable(limits), 40);
        assert!(volumes.reserve(other, 60, limits).is_err());
        drop(reservation);
        assert!(volumes.reserve(other, 60, limits).is_ok());
    }

    #[test]
    fn a_nonsensical_overcommit_promises_nothing() {
        for overcommit in [-1.0, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(limits(100, overcommit).promises, 0, "{overcommit}");
        }
        assert_eq!(limits(100, f64::INFINITY).promises, u64::MAX);
    }

    #[test]
    fn what_has_to_stay_free_is_not_promised_and_a_full_pool_promises_nothing() {
        let marks = Marks { shed_bases_below: Mark::Bytes(20), refuse_snapshots_below: Mark::Bytes(10) };
        let limits = |free| Limits::new(Usage { capacity: 100, free }, 2.0, marks);
        let volumes = Volumes::default();
        assert_eq!([100, 10, 9, 0].map(|free| volumes.provisionable(limits(free))), [180, 180, 0, 0]);
    }
}
