//! What the engine takes from outside: the time, randomness and threads. Tests replace all three.

use std::{fmt, sync::Arc};

use crate::mutation::Mutation;

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

/// Where work is done that computes or blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// On threads of the runtime's blocking pool.
    Threads,
    /// On the spot, within the future that asks for it: what a simulation needs so that a seed alone decides what
    /// happens when. Everything that is scanned waits in memory; for small images only.
    Inline,
}

/// All of them together, as they are handed to a [`Repository`](crate::Repository).
#[derive(Clone)]
pub struct Seams {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Where work is done.
    pub work: Work,
    /// How the protocol is broken on purpose, so that a test can show that it would be found.
    #[cfg(feature = "mutation")]
    pub mutation: Option<Mutation>,
}

impl Seams {
    /// Takes everything from the machine.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Arc::new(System), Arc::new(System), Work::Threads)
    }

    /// Puts them together.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>, work: Work) -> Self {
        Self {
            clock,
            entropy,
            work,
            #[cfg(feature = "mutation")]
            mutation: None,
        }
    }

    /// Tells whether the protocol is to be broken in that way; never outside tests.
    #[must_use]
    #[cfg_attr(not(feature = "mutation"), expect(clippy::unused_self, reason = "only tests break anything"))]
    pub(crate) fn broken(&self, way: Mutation) -> bool {
        #[cfg(feature = "mutation")]
        return self.mutation == Some(way);
        #[cfg(not(feature = "mutation"))]
        {
            let _ = way;
            false
        }
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

    use super::{Clock, Entropy, Seams, Work};

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
        let entropy = Seeded { key: [seed; 32], calls: AtomicU64::new(0) };
        Seams::new(Arc::new(Still), Arc::new(entropy), Work::Threads)
    }
}
