//! Catching up with writers before they are held, so that little is left to be cloned while they are.
//!
//! Where a clone takes time for every extent (XFS), even one that finds nearly all shared already walks the whole image: 40 to
//! 80 ms for 100,000 extents. What was written since the image was prepared is therefore asked of the device
//! ([`Written`]), and only that is cloned again: some rounds before writers are held, each shorter than the one before, and
//! the rest while they are.
//!
//! # Invariants
//! A cut made from what was written alone is the same as one of the whole image: [`Written`] is complete or fails. Where it
//! fails, or cannot be had, the whole image is cloned, and the pause is longer.

use std::{io, path::Path, thread};

use super::mounted::Use;
use crate::{device::Written, pool::PoolFilesystem};

/// Ranges that may be left for the time that writers are held: a millisecond or two.
const FEW: usize = 64;
/// Most rounds of catching up: where writers are faster than clones, more would not help.
const ROUNDS: usize = 6;

/// What was written to one volume since its clone was prepared, as far as that is known.
#[derive(Debug)]
pub(super) struct Tracker(Option<Written>);

impl Tracker {
    /// Begins, where it is worth it and possible.
    pub(super) fn of(used: &Use, filesystem: &dyn PoolFilesystem) -> Self {
        let Use::Mounted(_, device) = used else { return Self(None) };
        let written = filesystem.walks_extents().then(|| Written::begin(*device)).transpose();
        written.map_or_else(|error| Self(given_up(&error)), Self)
    }

    /// Takes up what the kernel recorded, before there is no more room for it.
    ///
    /// # Errors
    /// None: what fails is given up.
    pub(super) fn go_on(&mut self) -> io::Result<()> {
        self.ask(Written::drain);
        Ok(())
    }

    /// Flushes what uses the volume, and clones what was written, until little is left.
    ///
    /// # Errors
    /// The system's, of flushing and cloning.
    pub(super) fn catch_up(
        &mut self,
        filesystem: &dyn PoolFilesystem,
        used: &Use,
        data: &Path,
        into: &Path,
    ) -> io::Result<()> {
        for _ in 0..ROUNDS {
            used.flush()?;
            let Some(ranges) = self.ask(Written::take) else { break };
            filesystem.renew(data, into, &ranges)?;
            if ranges.len() <= FEW {
                break;
            }
        }
        Ok(())
    }

    /// Cuts the image while writers are held.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn cut(&mut self, filesystem: &dyn PoolFilesystem, data: &Path, into: &Path) -> io::Result<()> {
        match self.ask(Written::end) {
            Some(ranges) => filesystem.cut_written(data, into, &ranges),
            None => filesystem.cut(data, into),
        }
    }

    fn ask<T>(&mut self, question: impl FnOnce(&mut Written) -> io::Result<T>) -> Option<T> {
        match question(self.0.as_mut()?) {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.0 = given_up(&error);
                None
            }
        }
    }
}

fn given_up(error: &io::Error) -> Option<Written> {
    tracing::debug!(%error, "what is written is not known: the whole image is cloned while writers are held");
    None
}

/// Ends them in the background: the kernel takes some ten milliseconds to forget a tracepoint, and nobody waits for it.
pub(super) fn release(trackers: Vec<Tracker>) {
    if trackers.iter().all(|tracker| tracker.0.is_none()) {
        return;
    }
    // Where there is no thread, they end here.
    if let Err(error) = thread::Builder::new().name("varve-tracker".into()).spawn(move || drop(trackers)) {
        tracing::debug!(%error, "trackers end in the foreground");
    }
}
