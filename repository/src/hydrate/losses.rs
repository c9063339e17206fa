//! What a restore that keeps going could not write.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

use crate::{
    block::{BlockRange, Blocks},
    fault::Fault,
};

/// Most ranges kept; beyond, neighbouring ones are made one.
const LIMIT: usize = 1 << 18;

/// A part of the image that stays zero, since what it held cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Where it starts, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// The damaged object's key in the bucket.
    pub object: String,
    /// What does not fit.
    pub reason: String,
}

/// Collects what is lost, from several threads at once and in any order.
#[derive(Debug, Default)]
pub(crate) struct Losses(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    faults: BTreeMap<Fault, u32>,
    /// First block, the block past the last one, which fault.
    ranges: Vec<(u64, u64, u32)>,
}

impl Losses {
    /// Enters blocks that are lost, and why.
    pub(super) fn add(&self, range: BlockRange, fault: &Fault) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = u32::try_from(state.faults.len()).unwrap_or(u32::MAX);
        let number = match state.faults.get(fault) {
            Some(number) => *number,
            None => *state.faults.entry(fault.clone()).or_insert(next),
        };
        state.ranges.push((range.first.0, range.end().0, number));
        if state.ranges.len() > LIMIT {
            state.join(0);
            let mut gap = 1;
            while state.ranges.len() > LIMIT / 2 && gap <= 1 << 52 {
                state.join(gap);
                gap *= 4;
            }
        }
    }

    /// Returns all, in the order of the image.
    pub(super) fn into_list(self: Arc<Self>) -> Vec<Lost> {
        let mut state = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        state.join(0);
        let faults: BTreeMap<u32, Fault> = state.faults.into_iter().map(|(fault, number)| (number, fault)).collect();
        let ranges = state.ranges.into_iter().filter_map(|(first, end, number)| {
            let Fault { object, reason } = faults.get(&number)?.clone();
            Some(Lost { start: Blocks(first).bytes(), length: Blocks(end - first).bytes(), object, reason })
        });
        ranges.collect()
    }
}

impl State {
    /// Makes neighbours of one fault one range that are at most `gap` blocks apart.
    fn join(&mut self, gap: u64) {
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|later, earlier| {
            let joined = later.2 == earlier.2 && later.0 <= earlier.1.saturating_add(gap);
            if joined {
                earlier.1 = earlier.1.max(later.1);
            }
            joined
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(object: &str) -> Fault {
        Fault { object: object.into(), reason: "it is missing".into() }
    }

    #[test]
    fn ranges_come_in_order_and_those_that_touch_are_one() {
        let losses = Arc::new(Losses::default());
        for (first, count, object) in [(10, 2, "a"), (0, 3, "b"), (12, 1, "a"), (3, 1, "a"), (20, 1, "a")] {
            losses.add(BlockRange::new(first, count), &fault(object));
        }
        let list: Vec<_> = losses.into_list().into_iter().map(|lost| (lost.start, lost.length, lost.object)).collect();
        let expected = [(0, 3, "b"), (3, 1, "a"), (10, 3, "a"), (20, 1, "a")];
        assert_eq!(list, expected.map(|(first, count, object)| (first * 4096, count * 4096, object.to_owned())));
    }

    #[test]
    fn their_number_is_bounded_and_nothing_is_left_out() {
        let losses = Arc::new(Losses::default());
        let count = 2 * LIMIT as u64;
        for n in 0..count {
            losses.add(BlockRange::new(2 * n, 1), &fault("a"));
        }
        let list = losses.into_list();
        assert!(list.len() <= LIMIT, "{}", list.len());
        assert_eq!(
            (list[0].start, list.last().map(|lost| lost.start + lost.length)),
            (0, Some((2 * count - 1) * 4096))
        );
    }
}
