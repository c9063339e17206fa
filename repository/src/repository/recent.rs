//! What this process put or read lately, so that the next small offload need not ask the store for it: a round trip saved is
//! what a snapshot on a distant store takes least of.
//!
//! # Invariants
//! A root that is remembered is a hint: it may be a tombstone by now, or be repaired. Who builds on it looks behind its
//! intent whether it still stands, from the store. A run is immutable and its id is never used again, so what is
//! remembered of one is what it holds, whether or not it is still there.
//!
//! Memory: at most 512 roots of some kilobytes, and 8 MiB of runs.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use crate::{
    id::{RunId, SnapshotId},
    record::snapshot::Root,
};

/// Most roots remembered.
const ROOTS: usize = 512;

/// Most bytes of runs remembered.
const RUN_BYTES: usize = 8 << 20;

/// Most bytes of one run: an index of some ten thousand packs.
const LONGEST_RUN_BYTES: usize = 1 << 20;

/// What is remembered.
#[derive(Default)]
pub(crate) struct Recent {
    roots: Mutex<Lately<SnapshotId, Arc<Root>>>,
    runs: Mutex<Lately<RunId, End>>,
}

/// The end of a run's object.
#[derive(Clone)]
pub(crate) struct End {
    /// Where in the object it begins.
    pub(crate) offset: u64,
    /// Its bytes, to the end of the object.
    pub(crate) bytes: Bytes,
}

/// Values by key, the oldest forgotten first.
struct Lately<K, V> {
    values: HashMap<K, V>,
    /// Each key once, in the order in which they were entered last.
    order: VecDeque<K>,
    size: usize,
}

impl<K, V> Default for Lately<K, V> {
    fn default() -> Self {
        Self { values: HashMap::new(), order: VecDeque::new(), size: 0 }
    }
}

impl<K: Copy + Eq + Hash, V> Lately<K, V> {
    fn remove(&mut self, key: &K, size: impl Fn(&V) -> usize) {
        if let Some(removed) = self.values.remove(key) {
            self.size -= size(&removed);
            // Linear, as the entries are few.
            self.order.retain(|other| other != key);
        }
    }

    fn insert(&mut self, key: K, value: V, size: impl Fn(&V) -> usize, room: usize) {
        self.remove(&key, &size);
        self.size += size(&value);
        self.values.insert(key, value);
        self.order.push_back(key);
        while self.size > room
            && let Some(oldest) = self.order.front().copied()
        {
            self.remove(&oldest, &size);
        }
    }
}

impl Recent {
    /// Returns the root that stood at a snapshot's key when this process looked last, or put one.
    pub(crate) fn root(&self, id: SnapshotId) -> Option<Arc<Root>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner).values.get(&id).cloned()
    }

    /// Remembers what stands at a snapshot's key: a root, or none.
    pub(crate) fn saw(&self, id: SnapshotId, root: Option<&Root>) {
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        match root {
            Some(root) => roots.insert(id, Arc::new(root.clone()), |_| 1, ROOTS),
            None => roots.remove(&id, |_| 1),
        }
    }

    /// Returns the end of a run, if it is remembered from `offset` on.
    pub(crate) fn run(&self, id: RunId, offset: u64) -> Option<End> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.values.get(&id).filter(|end| end.offset <= offset).cloned()
    }

    /// Remembers the end of a run, unless it is too long.
    pub(crate) fn keep_run(&self, id: RunId, offset: u64, bytes: &[u8]) {
        if bytes.len() > LONGEST_RUN_BYTES {
            return;
        }
        // A copy: what is given may be a part of something larger that it would keep.
        let end = End { offset, bytes: Bytes::copy_from_slice(bytes) };
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.insert(id, end, |end| end.bytes.len(), RUN_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_entered_first_is_forgotten_first() {
        let recent = Recent::default();
        let id = |n: u8| RunId::from_bytes([n; 16]);
        let bytes = vec![7; LONGEST_RUN_BYTES];
        let room = u8::try_from(RUN_BYTES / LONGEST_RUN_BYTES).unwrap();
        (0..room).for_each(|n| recent.keep_run(id(n), 5, &bytes));
        recent.keep_run(id(0), 5, &bytes);
        recent.keep_run(id(room), 5, &bytes[1..]);
        assert!(recent.run(id(1), 5).is_none(), "it was the oldest");
        assert!(recent.run(id(0), 5).is_some(), "it was entered again");
        assert!(recent.run(id(room), 4).is_none(), "it is not remembered from there on");
        assert_eq!(recent.run(id(room), 9).unwrap().bytes.len(), LONGEST_RUN_BYTES - 1);
        recent.keep_run(id(99), 0, &vec![0; LONGEST_RUN_BYTES + 1]);
        assert!(recent.run(id(99), 0).is_none());
        assert!(recent.runs.lock().unwrap().size <= RUN_BYTES);
    }
}
