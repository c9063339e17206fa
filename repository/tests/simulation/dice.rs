//! Randomness and time from a seed.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use varve_repository::seam::{Clock, Entropy};

/// A stream of random numbers. Clones draw from the same stream.
#[derive(Clone)]
pub(crate) struct Dice(Arc<Mutex<u64>>);

impl Dice {
    /// Starts the stream of a seed; `purpose` makes streams of one seed differ.
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        let hash = blake3::Hasher::new().update(&seed.to_le_bytes()).update(purpose.as_bytes()).finalize();
        Self(Arc::new(Mutex::new(u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()))))
    }

    /// Starts another stream, which follows from where this one is.
    pub(crate) fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.next())))
    }

    fn next(&self) -> u64 {
        // SplitMix64.
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `end`, which is not among them.
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// An index into something that has `length` parts.
    pub(crate) fn index(&self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    /// True once in so many times; never for 0.
    pub(crate) fn one_in(&self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    /// A time between two, in milliseconds, as likely of one order of magnitude as of another.
    pub(crate) fn time(&self, least: u64, most: u64) -> Duration {
        let fraction = f64::from(u32::try_from(self.next() >> 32).unwrap()) / f64::from(u32::MAX);
        let (least, most) = (least.max(1) as f64, most.max(1) as f64);
        Duration::from_secs_f64(least * (most / least).powf(fraction) / 1000.0)
    }
}

impl Entropy for Dice {
    fn fill(&self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes()[..part.len()]);
        }
    }
}

/// A machine's clock: it runs, and shows whatever it shows.
pub(crate) struct Skewed {
    pub(crate) started: Instant,
    /// How far it is off, in milliseconds.
    pub(crate) off: i64,
}

impl Clock for Skewed {
    fn now(&self) -> jiff::Timestamp {
        let elapsed = i64::try_from(self.started.elapsed().as_millis()).unwrap();
        jiff::Timestamp::from_millisecond(1_700_000_000_000 + elapsed + self.off).unwrap()
    }
}
