//! Cuts that are committed and could not be taken up, because the system refused to move or to read them.
//!
//! They are there and the next start finds them, so nobody may cut under their ids again: they are taken up first.
//!
//! # Concurrency
//!
//! While cuts are being taken up again, those who ask for any wait for the system as that does. It is rare, and short.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use varve_repository::id::SnapshotId;

use super::{Cut, making::Committed};
use crate::pool::Pool;

/// What is to be taken up.
#[derive(Debug, Default)]
pub struct Stranded(Mutex<Vec<Committed>>);

impl Stranded {
    /// Whether there is nothing to take up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Takes cuts up that were committed just now, and remembers those that cannot be; blocks. `known` is told of each cut
    /// once, before anybody else can find it stranded.
    ///
    /// # Errors
    /// The system's.
    pub fn take_up(&self, pool: &Pool, committed: Committed, mut known: impl FnMut(&Cut)) -> io::Result<Vec<Cut>> {
        match committed.take_up(pool) {
            Ok(cuts) => {
                cuts.iter().for_each(&mut known);
                Ok(cuts)
            }
            Err(error) => {
                tracing::warn!(cuts = ?committed.ids(), %error, "cuts are committed and cannot be taken up yet");
                self.lock().push(committed);
                Err(error)
            }
        }
    }

    /// Takes up what could not be before, as far as that goes now; blocks.
    ///
    /// # Errors
    /// Beside what was taken up: the system's, where something that `concerns` the caller still cannot be.
    pub fn retry(
        &self,
        pool: &Pool,
        concerns: impl Fn(&SnapshotId) -> bool,
        mut known: impl FnMut(&Cut),
    ) -> (Vec<Cut>, io::Result<()>) {
        // Held for the whole of it: two that move the same cuts would be in one another's way.
        let mut stranded = self.lock();
        let mut taken = Vec::new();
        let mut outcome = Ok(());
        stranded.retain(|committed| match committed.take_up(pool) {
            Ok(cuts) => {
                cuts.iter().for_each(&mut known);
                taken.extend(cuts);
                false
            }
            Err(error) => {
                tracing::warn!(cuts = ?committed.ids(), %error, "cuts are committed and still cannot be taken up");
                if committed.ids().iter().any(&concerns) {
                    outcome = Err(error);
                }
                true
            }
        });
        (taken, outcome)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Committed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
