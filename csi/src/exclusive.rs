//! One call at a time on one object: a second one is told `ABORTED`, as CSI allows.
//!
//! # Concurrency
//! The set is locked for the length of a lookup, never across an await. What is held is let go when its guard drops,
//! also when the call is cancelled or panics.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tonic::Status;

/// The objects that calls are working on.
#[derive(Clone, Debug, Default)]
pub struct Exclusive(Arc<Mutex<HashSet<String>>>);

/// Holds one object; dropping it lets the next call in.
#[derive(Debug)]
#[must_use = "the object is let go as soon as this is dropped"]
pub struct Held {
    set: Exclusive,
    key: String,
}

impl Exclusive {
    /// Takes an object for the length of a call.
    ///
    /// # Errors
    /// `ABORTED` where another call has it (CSI, "Error Scheme": operation pending).
    pub fn hold(&self, key: impl Into<String>) -> Result<Held, Status> {
        let key = key.into();
        if self.keys().insert(key.clone()) {
            Ok(Held { set: self.clone(), key })
        } else {
            Err(Status::aborted(format!("another call is working on {key}: try again")))
        }
    }

    /// Takes several objects, all of them or none; one that is named twice is taken once.
    ///
    /// # Errors
    /// `ABORTED` where another call has one of them, naming it.
    pub fn hold_all(&self, keys: impl IntoIterator<Item = impl Into<String>>) -> Result<Vec<Held>, Status> {
        let keys: BTreeSet<String> = keys.into_iter().map(Into::into).collect();
        // What was taken so far is let go by its guards when one is refused.
        keys.into_iter().map(|key| self.hold(key)).collect()
    }

    fn keys(&self) -> MutexGuard<'_, HashSet<String>> {
        // Each change of the set is a single insert or remove, so that it is whole even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set.keys().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tonic::Code;

    use super::*;

    #[test]
    fn a_second_call_is_aborted_until_the_first_ends() {
        let exclusive = Exclusive::default();
        let held = exclusive.hold("vol-1").unwrap();
        let error = exclusive.hold("vol-1").unwrap_err();
        assert_eq!(error.code(), Code::Aborted);
        assert_eq!(error.message(), "another call is working on vol-1: try again");
        let other = exclusive.hold("vol-2").unwrap();
        drop(held);
        drop(exclusive.hold("vol-1").unwrap());
        drop(other);
        assert!(exclusive.keys().is_empty());
    }

    #[test]
    fn several_are_taken_together_or_not_at_all() {
        let exclusive = Exclusive::default();
        let held = exclusive.hold("b").unwrap();
        assert!(exclusive.hold_all(["a", "b", "c"]).unwrap_err().message().contains(" b:"));
        assert_eq!(exclusive.keys().len(), 1, "a was let go");
        drop(held);
        let all = exclusive.hold_all(["a", "b", "a"]).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(exclusive.hold("a").unwrap_err().code(), Code::Aborted);
    }

    #[test]
    fn a_panic_lets_go() {
        let exclusive = Exclusive::default();
        let inner = exclusive.clone();
        let panicked = std::thread::spawn(move || {
            let _held = inner.hold("vol-1").unwrap();
            panic!("on purpose");
        })
        .join();
        assert!(panicked.is_err());
        drop(exclusive.hold("vol-1").unwrap());
    }

    #[test]
    fn of_many_threads_one_holds_at_a_time() {
        let exclusive = Exclusive::default();
        let inside = AtomicUsize::new(0);
        let entered = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        if let Ok(held) = exclusive.hold("vol-1") {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            entered.fetch_add(1, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(held);
                        }
                    }
                });
            }
        });
        assert!(entered.load(Ordering::SeqCst) > 0);
        assert!(exclusive.keys().is_empty());
    }
}
