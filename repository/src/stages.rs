//! Where the time of an offload or a hydration goes: busy time, bytes and waits of each stage, readable while it runs.
//!
//! ```text
//! offload   read -> gather -> hash -> compress -> seal -> put
//! hydrate   fetch -> open -> write
//! ```
//!
//! A few relaxed atomic additions for each mebibyte or so: they cost nothing that can be measured.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::id::SnapshotId;

/// A stage of the way from an image into the repository, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The image is read; waits are for the stages behind it.
    Read,
    /// Blocks are told from zeroes and gathered into chunks.
    Gather,
    /// Chunks are named.
    Hash,
    /// Chunks are compressed.
    Compress,
    /// Packs are encrypted.
    Seal,
    /// Packs and runs are put; waits are for the bandwidth limit.
    Put,
    /// Parts of packs are read; waits are for memory and for the bandwidth limit.
    Fetch,
    /// Chunks are decrypted, decompressed and verified.
    Open,
    /// The image is written.
    Write,
}

impl Stage {
    /// All of them, in the order in which bytes pass them.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Gather,
        Self::Hash,
        Self::Compress,
        Self::Seal,
        Self::Put,
        Self::Fetch,
        Self::Open,
        Self::Write,
    ];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Gather => "gather",
            Self::Hash => "hash",
            Self::Compress => "compress",
            Self::Seal => "seal",
            Self::Put => "put",
            Self::Fetch => "fetch",
            Self::Open => "open",
            Self::Write => "write",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Counters that the work advances and that anyone may read. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Stages(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    counters: [Counters; Stage::ALL.len()],
    /// Where all is counted once more.
    total: Option<Stages>,
}

#[derive(Debug, Default)]
struct Counters {
    busy_nanos: AtomicU64,
    waited_nanos: AtomicU64,
    bytes: AtomicU64,
}

/// What one stage has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// How long it was at work, on all threads together.
    pub busy: Duration,
    /// How long it waited for what its documentation says.
    pub waited: Duration,
    /// Bytes that went into it.
    pub bytes: u64,
}

impl Spent {
    /// Bytes a second while it was at work; 0 where it was not.
    #[must_use]
    pub fn rate(&self) -> u64 {
        let rate = (u128::from(self.bytes) * 1_000_000_000).checked_div(self.busy.as_nanos());
        rate.map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
    }
}

impl Stages {
    /// Makes counters that start at zero, all of which counts here as well.
    #[must_use]
    pub fn within(&self) -> Self {
        Self(Arc::new(Inner { total: Some(self.clone()), ..Inner::default() }))
    }

    /// Reads what a stage has done.
    #[must_use]
    pub fn read(&self, stage: Stage) -> Spent {
        let Counters { busy_nanos, waited_nanos, bytes } = self.of(stage);
        let nanos = |nanos: &AtomicU64| Duration::from_nanos(nanos.load(Ordering::Relaxed));
        Spent { busy: nanos(busy_nanos), waited: nanos(waited_nanos), bytes: bytes.load(Ordering::Relaxed) }
    }

    /// Reads all stages that have done anything, in the order in which bytes pass them.
    #[must_use]
    pub fn all(&self) -> Vec<(Stage, Spent)> {
        let read = Stage::ALL.map(|stage| (stage, self.read(stage)));
        read.into_iter().filter(|(_, spent)| *spent != Spent::default()).collect()
    }

    /// The stage that was at work longest, given how many threads it can use: what to make faster first.
    #[must_use]
    pub fn bottleneck(&self) -> Option<Stage> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = |stage| match stage {
            Stage::Read | Stage::Gather => 1,
            _ => cores,
        };
        let longest = self
            .all()
            .into_iter()
            .max_by_key(|(stage, spent)| spent.busy.as_nanos() / u128::try_from(threads(*stage)).unwrap_or(1));
        longest.map(|(stage, _)| stage)
    }

    /// Does a stage's work on so many bytes.
    pub(crate) fn timed<T>(&self, stage: Stage, bytes: u64, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        self.add(stage, started.elapsed(), bytes);
        result
    }

    /// Awaits a stage's work on so many bytes.
    pub(crate) async fn timed_async<T>(&self, stage: Stage, bytes: u64, work: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let result = work.await;
        self.add(stage, started.elapsed(), bytes);
        result
    }

    /// Does what a stage has to wait for.
    pub(crate) fn waited<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        self.add_waited(stage, started.elapsed());
        result
    }

    /// Awaits what a stage has to wait for.
    pub(crate) async fn waited_async<T>(&self, stage: Stage, work: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let result = work.await;
        self.add_waited(stage, started.elapsed());
        result
    }

    /// Writes to the log where the time went, for whoever asked to be told how things are done.
    pub(crate) fn log(&self, what: &'static str, snapshot: SnapshotId) {
        let bottleneck = self.bottleneck().map_or("none", Stage::as_str);
        tracing::debug!(%snapshot, what, bottleneck, stages = %self, "where the time went");
    }

    /// Counts work that was timed elsewhere.
    pub(crate) fn add(&self, stage: Stage, busy: Duration, bytes: u64) {
        let counters = self.of(stage);
        counters.busy_nanos.fetch_add(nanos(busy), Ordering::Relaxed);
        counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(total) = &self.0.total {
            total.add(stage, busy, bytes);
        }
    }

    fn add_waited(&self, stage: Stage, waited: Duration) {
        self.of(stage).waited_nanos.fetch_add(nanos(waited), Ordering::Relaxed);
        if let Some(total) = &self.0.total {
            total.add_waited(stage, waited);
        }
    }

    fn of(&self, stage: Stage) -> &Counters {
        &self.0.counters[stage as usize]
    }
}

impl fmt::Display for Stages {
    /// As in `read 1.2 s (900 MiB/s), compress 3.4 s, waited 0.1 s (310 MiB/s)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (stage, spent)) in self.all().into_iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{stage} {:.3} s", spent.busy.as_secs_f64())?;
            if spent.waited >= Duration::from_millis(1) {
                write!(f, ", waited {:.3} s", spent.waited.as_secs_f64())?;
            }
            write!(f, " ({} MiB/s)", spent.rate() >> 20)?;
        }
        Ok(())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_stage_is_found_and_shown() {
        let stages = Stages::default();
        stages.add(Stage::Read, Duration::from_millis(1500), 3 << 20);
        stages.add(Stage::Put, Duration::from_micros(20), 100);
        stages.add_waited(Stage::Put, Duration::from_secs(2));
        assert_eq!(stages.bottleneck(), Some(Stage::Read));
        assert_eq!(stages.to_string(), "read 1.500 s (2 MiB/s), put 0.000 s, waited 2.000 s (4 MiB/s)");
        assert_eq!(stages.read(Stage::Hash), Spent::default());
        assert_eq!(Stages::default().bottleneck(), None);
    }

    #[test]
    fn what_is_counted_within_others_counts_there_too() {
        let total = Stages::default();
        let (one, other) = (total.within(), total.within());
        one.add(Stage::Put, Duration::from_secs(1), 100);
        other.add(Stage::Put, Duration::from_secs(2), 10);
        other.add_waited(Stage::Put, Duration::from_secs(4));
        assert_eq!(one.read(Stage::Put).bytes, 100);
        let both = Spent { busy: Duration::from_secs(3), waited: Duration::from_secs(4), bytes: 110 };
        assert_eq!(total.read(Stage::Put), both);
    }

    #[test]
    fn stages_are_in_the_order_of_their_counters() {
        assert!(Stage::ALL.iter().enumerate().all(|(number, stage)| *stage as usize == number));
    }
}
