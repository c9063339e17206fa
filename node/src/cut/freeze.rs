//! Holding writers: file systems are frozen together, and always thawed.
//!
//! Four things thaw a frozen file system: the guard, when it is dropped, whichever way the work ended; a watchdog thread,
//! once writers were held for longer than they may be; and, where the process is killed, its [sentinel](super::sentinel) and
//! its next start, see `agent::reconcile`.
//!
//! A freeze that ended before the guard did, by the watchdog or by a stranger, held nobody any more: [`Frozen::thaw`] says
//! so, and whatever was cut meanwhile is not to be trusted.
//!
//! # Concurrency
//!
//! The watchdog runs before the first file system is frozen, so that there is no freeze without one. It cannot end a
//! `FIFREEZE` that is still flushing; a file system whose freeze completes after the limit is thawed at once by whoever
//! froze it.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Something whose writers can be held.
pub trait Freezable: Send + Sync + 'static {
    /// Flushes it and holds its writers.
    ///
    /// # Errors
    /// The system's; writers are then not held.
    fn freeze(&self) -> io::Result<()>;

    /// Lets its writers go.
    ///
    /// # Errors
    /// `InvalidInput` where they were not held, else the system's.
    fn thaw(&self) -> io::Result<()>;

    /// Names it, for messages.
    fn name(&self) -> String;
}

/// Why writers could not be held for as long as was needed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FreezeError {
    /// Freezing failed; everything frozen before is thawed.
    #[error("{name} cannot be frozen")]
    Freeze {
        /// What was to be frozen.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no thread to watch over the freeze; nothing was frozen.
    #[error("the watchdog of the freeze cannot be started")]
    Watchdog(#[source] io::Error),
    /// The work took longer than writers may be held.
    #[error("writers were held for the {0:?} that they may be, and let go before the cut was complete")]
    Expired(Duration),
    /// Somebody else thawed it.
    #[error("{0} was thawed by somebody else before the cut was complete")]
    Stolen(String),
    /// Thawing failed.
    #[error("{name} cannot be thawed")]
    Thaw {
        /// What was to be thawed.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// How often thawing is tried before it is given up, as nothing but a broken kernel makes it fail.
const THAW_ATTEMPTS: u32 = 3;

/// Writers that are held. Dropping it lets them go.
#[derive(Debug)]
pub struct Frozen<F: Freezable> {
    shared: Arc<Shared<F>>,
    watchdog: Option<JoinHandle<()>>,
    since: Instant,
    limit: Duration,
}

#[derive(Debug)]
struct Shared<F> {
    all: Vec<F>,
    held: Mutex<Held>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    /// Which of them are frozen, as positions.
    frozen: Vec<usize>,
    expired: bool,
    over: bool,
}

impl<F> Shared<F> {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no holder panics")
    }
}

impl<F: Freezable> Frozen<F> {
    /// Freezes all of them at the same time, for at most `limit`: a freeze waits for the kernel more than it works.
    ///
    /// # Errors
    /// `Freeze`, `Watchdog` or `Expired`; nothing is frozen then.
    pub fn freeze(all: Vec<F>, limit: Duration) -> Result<Self, FreezeError> {
        let positions: Vec<usize> = (0..all.len()).collect();
        let shared = Arc::new(Shared { all, held: Mutex::default(), over: Condvar::new() });
        let watched = Arc::clone(&shared);
        let since = Instant::now();
        let watchdog = thread::Builder::new()
            .name("varve-thaw".into())
            .spawn(move || watch(&watched, since, limit))
            .map_err(FreezeError::Watchdog)?;
        let frozen = Self { shared, watchdog: Some(watchdog), since, limit };
        let outcomes = at_once(&positions, |position| {
            let one = &frozen.shared.all[*position];
            // Not under the lock: flushing may take long, and the watchdog is to thaw the others meanwhile.
            one.freeze().map_err(|source| FreezeError::Freeze { name: one.name(), source })?;
            let mut held = frozen.shared.lock();
            held.frozen.push(*position);
            // Dropping the guard thaws what the watchdog could not yet see.
            if held.expired { Err(FreezeError::Expired(limit)) } else { Ok(()) }
        });
        outcomes.into_iter().collect::<Result<(), _>>().map(|()| frozen)
    }

    /// Lets writers go and tells how long they were held.
    ///
    /// # Errors
    /// `Expired` and `Stolen` where they were let go before; `Thaw` where they may still be held.
    pub fn thaw(mut self) -> Result<Duration, FreezeError> {
        let (expired, result) = self.release();
        let pause = self.since.elapsed();
        if expired {
            return Err(FreezeError::Expired(self.limit));
        }
        result.map(|()| pause)
    }

    /// Thaws everything and ends the watchdog; tells whether that was quicker.
    fn release(&mut self) -> (bool, Result<(), FreezeError>) {
        let (expired, result) = {
            let mut held = self.shared.lock();
            held.over = true;
            (held.expired, thaw_all(&self.shared.all, &mut held))
        };
        self.shared.over.notify_all();
        if let Some(watchdog) = self.watchdog.take()
            && watchdog.join().is_err()
        {
            tracing::error!("the watchdog of a freeze panicked");
        }
        (expired, result)
    }
}

impl<F: Freezable> Drop for Frozen<F> {
    fn drop(&mut self) {
        if self.watchdog.is_some()
            && let (_, Err(error)) = self.release()
        {
            tracing::error!(error = &error as &dyn std::error::Error, "thawing after a cut that failed");
        }
    }
}

/// Waits for the end of the freeze, or ends it at the limit.
fn watch<F: Freezable>(shared: &Shared<F>, since: Instant, limit: Duration) {
    let mut held = shared.lock();
    loop {
        if held.over {
            return;
        }
        let left = limit.saturating_sub(since.elapsed());
        if left.is_zero() {
            break;
        }
        held = shared.over.wait_timeout(held, left).expect("no holder panics").0;
    }
    held.expired = true;
    tracing::error!(?limit, "writers were held for too long: thawing; the cut under way will fail");
    if let Err(error) = thaw_all(&shared.all, &mut held) {
        tracing::error!(error = &error as &dyn std::error::Error, "thawing by the watchdog");
    }
}

/// Thaws all that are frozen, whatever happens to one of them; tells the first failure.
fn thaw_all<F: Freezable>(all: &[F], held: &mut Held) -> Result<(), FreezeError> {
    at_once(&std::mem::take(&mut held.frozen), |position| thaw(&all[*position])).into_iter().collect()
}

fn thaw<F: Freezable>(one: &F) -> Result<(), FreezeError> {
    let mut attempt = 1;
    loop {
        match one.thaw() {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(FreezeError::Stolen(one.name())),
            Err(_) if attempt < THAW_ATTEMPTS => attempt += 1,
            Err(source) => return Err(FreezeError::Thaw { name: one.name(), source }),
        }
    }
}

/// Does the same to all at the same time, each in a thread; those that get none are done here, one after another.
fn at_once<I: Sync, T: Send>(all: &[I], work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let Some((here, others)) = all.split_first() else { return Vec::new() };
    let work = &work;
    thread::scope(|scope| {
        let started: Vec<_> = others
            .iter()
            .map(|one| (one, thread::Builder::new().name("varve-freeze".into()).spawn_scoped(scope, || work(one))))
            .collect();
        let mut outcomes = vec![work(here)];
        outcomes.extend(started.into_iter().map(|(one, thread)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => work(one),
        }));
        outcomes
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// Counts its freezes, tells of its thaws, and fails on request.
    #[derive(Debug)]
    struct Fake {
        name: &'static str,
        refuses: bool,
        stolen: bool,
        events: mpsc::Sender<String>,
    }

    impl Freezable for Fake {
        fn freeze(&self) -> io::Result<()> {
            if self.refuses {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            self.events.send(format!("freeze {}", self.name)).map_err(io::Error::other)
        }

        fn thaw(&self) -> io::Result<()> {
            if self.stolen {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            self.events.send(format!("thaw {}", self.name)).map_err(io::Error::other)
        }

        fn name(&self) -> String {
            self.name.into()
        }
    }

    fn fakes(names: &[&'static str]) -> (Vec<Fake>, mpsc::Receiver<String>) {
        let (events, received) = mpsc::channel();
        let make = |name: &&'static str| Fake { name, refuses: false, stolen: false, events: events.clone() };
        (names.iter().map(make).collect(), received)
    }

    #[test]
    fn all_are_frozen_before_any_is_thawed() {
        let (all, events) = fakes(&["a", "b", "c"]);
        let frozen = Frozen::freeze(all, LONG).expect("frozen");
        let mut before: Vec<_> = events.try_iter().collect();
        before.sort();
        assert_eq!(before, ["freeze a", "freeze b", "freeze c"]);
        frozen.thaw().expect("thawed in time");
        let mut after: Vec<_> = events.iter().collect();
        after.sort();
        assert_eq!(after, ["thaw a", "thaw b", "thaw c"]);
    }

    #[test]
    fn invariant_4_a_dropped_guard_thaws() {
        let (all, events) = fakes(&["a"]);
        drop(Frozen::freeze(all, LONG).expect("frozen"));
        assert_eq!(events.iter().collect::<Vec<_>>(), ["freeze a", "thaw a"]);
    }

    #[test]
    fn invariant_4_one_that_refuses_leaves_none_frozen() {
        let (mut all, events) = fakes(&["a", "b"]);
        all[1].refuses = true;
        let error = Frozen::freeze(all, LONG).expect_err("b refuses");
        assert!(matches!(error, FreezeError::Freeze { ref name, .. } if name == "b"), "{error}");
        assert_eq!(events.iter().collect::<Vec<_>>(), ["freeze a", "thaw a"]);
    }

    #[test]
    fn invariant_4_the_watchdog_thaws_and_the_cut_is_not_trusted() {
        let (all, events) = fakes(&["a"]);
        let limit = Duration::from_millis(20);
        let frozen = Frozen::freeze(all, limit).expect("frozen");
        // The guard still lives: only the watchdog can send this.
        assert_eq!(events.recv().expect("frozen"), "freeze a");
        assert_eq!(events.recv().expect("thawed"), "thaw a");
        assert!(matches!(frozen.thaw(), Err(FreezeError::Expired(after)) if after == limit));
        assert_eq!(events.iter().count(), 0, "nothing is thawed twice");
    }

    #[test]
    fn a_freeze_ended_by_a_stranger_is_told() {
        let (mut all, _events) = fakes(&["a"]);
        all[0].stolen = true;
        let error = Frozen::freeze(all, LONG).expect("frozen").thaw().expect_err("stolen");
        assert!(matches!(error, FreezeError::Stolen(ref name) if name == "a"), "{error}");
    }
}
