//! Changes that are found once: where there are few, whoever asks again is told from memory.
//!
//! An offload asks several times: to measure what there is to do, to do it, and to sample what did not change. To find changes
//! is to walk the extent maps of two images, however few there are, and walks at the same time hinder one another in the
//! kernel: on XFS each takes the lock of an allocation group for every shared extent, and a lock that is handed from thread to
//! thread costs ten times what is done under it.
//!
//! # Concurrency
//! Whoever asks while the first walk is under way waits for it. Blocks.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use crate::block::{Blocks, Change, ChangeSource};

/// Most changes that are remembered: 1.5 MiB.
const MOST: usize = 1 << 16;

/// A source of changes that is asked once, or once more each time where there are many.
pub(super) struct Remembered {
    source: Arc<dyn ChangeSource>,
    known: Mutex<Known>,
}

/// What is known of the changes.
#[derive(Clone)]
enum Known {
    Nothing,
    /// All of them.
    All(Arc<[Change]>),
    /// That there are more than are remembered.
    Many,
}

impl Remembered {
    pub(super) fn new(source: Arc<dyn ChangeSource>) -> Self {
        Self { source, known: Mutex::new(Known::Nothing) }
    }

    /// Walks all changes, unless that has been done.
    fn known(&self) -> io::Result<Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*known, Known::Nothing) {
            let few: Vec<_> = self.source.changes(Blocks::ZERO)?.take(MOST + 1).collect::<io::Result<_>>()?;
            *known = if few.len() > MOST { Known::Many } else { Known::All(few.into()) };
        }
        Ok(known.clone())
    }
}

impl ChangeSource for Remembered {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        let Known::All(all) = self.known()? else { return self.source.changes(from) };
        let first = all.partition_point(|change| change.range().end() <= from);
        Ok(Box::new((first..all.len()).map(move |number| Ok(all[number]))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::block::BlockRange;

    /// So many changes of a block each, a block apart; counts who asks.
    struct Counted(u64, AtomicUsize);

    impl ChangeSource for Counted {
        fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let changes = (from.0.div_ceil(2)..self.0).map(|number| Ok(Change::Data(BlockRange::new(2 * number, 1))));
            Ok(Box::new(changes))
        }
    }

    #[test]
    fn few_changes_are_found_once_and_many_each_time() {
        for (count, asked) in [(0, 1), (3, 1), (MOST as u64, 1), (MOST as u64 + 1, 4)] {
            let counted = Arc::new(Counted(count, AtomicUsize::new(0)));
            let remembered = Remembered::new(Arc::clone(&counted) as Arc<dyn ChangeSource>);
            for from in [0, 1, 2] {
                let told: Vec<_> = remembered.changes(Blocks(from)).unwrap().map(|change| change.unwrap()).collect();
                let found: Vec<_> =
                    Counted(count, AtomicUsize::new(0)).changes(Blocks(from)).unwrap().map(Result::unwrap).collect();
                assert_eq!(told, found, "{count} changes from {from}");
            }
            assert_eq!(counted.1.load(Ordering::Relaxed), asked, "{count} changes");
        }
    }

    #[test]
    fn a_walk_that_failed_is_done_again() {
        struct Failing(AtomicUsize);
        impl ChangeSource for Failing {
            fn changes(&self, _: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
                match self.0.fetch_add(1, Ordering::Relaxed) {
                    0 => Ok(Box::new([Err(io::ErrorKind::Interrupted.into())].into_iter())),
                    _ => Ok(Box::new(std::iter::empty())),
                }
            }
        }
        let remembered = Remembered::new(Arc::new(Failing(AtomicUsize::new(0))));
        assert!(remembered.changes(Blocks::ZERO).is_err());
        assert_eq!(remembered.changes(Blocks::ZERO).unwrap().count(), 0);
    }
}
