//! What the engine takes from outside: the time and randomness. Tests replace both.

use std::{fmt, sync::Arc};

/// Tells the time of day; only ever recorded for people, never compared to decide anything.
pub trait Clock: Send + Sync {
    /// Returns the present moment.
    fn now(&self) -> jiff::Timestamp;
}

/// Gives random bytes fit for keys, nonces and ids.
pub trait Entropy: Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// The time and randomness of the machine.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Clock for System {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

impl Entropy for System {
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("the operating system gives random bytes");
    }
}

/// The two together, as they are handed to a [`Repository`](crate::Repository).
#[derive(Clone)]
pub struct Seams {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

impl Seams {
    /// Takes both from the machine.
    #[must_use]
    pub fn system() -> Self {
        Self { clock: Arc::new(System), entropy: Arc::new(System) }
    }

    /// Returns `N` random bytes.
    #[must_use]
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes);
        bytes
    }
}

impl fmt::Debug for Seams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seams").finish_non_exhaustive()
    }
}

/// Seams that give the same on every run: a clock that stands still and randomness from a seed.
#[cfg(test)]
pub(crate) mod fixed {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use super::{Clock, Entropy, Seams};

    /// The moment at which the clock stands.
    pub(crate) const NOW: &str = "2026-01-02T03:04:05Z";

    struct Still;

    impl Clock for Still {
        fn now(&self) -> jiff::Timestamp {
            NOW.parse().expect("it is a moment")
        }
    }

    struct Seeded {
        key: [u8; 32],
        calls: AtomicU64,
    }

    impl Entropy for Seeded {
        fn fill(&self, bytes: &mut [u8]) {
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            blake3::Hasher::new_keyed(&self.key).update(&call.to_le_bytes()).finalize_xof().fill(bytes);
        }
    }

    /// Makes seams that differ by seed alone.
    pub(crate) fn seams(seed: u8) -> Seams {
        Seams { clock: Arc::new(Still), entropy: Arc::new(Seeded { key: [seed; 32], calls: AtomicU64::new(0) }) }
    }
}
