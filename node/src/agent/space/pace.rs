//! How soon the pool is measured again: before the next watermark can be reached.

use std::time::{Duration, Instant};

/// The shortest pause: a measurement costs microseconds.
const SHORTEST: Duration = Duration::from_millis(100);

/// The longest pause.
pub(super) const LONGEST: Duration = Duration::from_secs(5);

/// How fast space is taken to shrink at the least, in bytes a second: a writer may begin at any moment, and on XFS a small
/// write to a shared block takes 128 KiB.
const FASTEST_START: u64 = 1 << 30;

/// How fast free space shrinks.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<(Instant, u64)>,
    /// In bytes a second.
    rate: u64,
}

impl Pace {
    /// Takes note of what is free and returns the pause after which half of `headroom` may be gone.
    pub(super) fn next(&mut self, now: Instant, free: u64, headroom: u64) -> Duration {
        if let Some((then, before)) = self.last {
            let micros = now.saturating_duration_since(then).as_micros().max(1);
            let rate = u128::from(before.saturating_sub(free)) * 1_000_000 / micros;
            // A burst is remembered for a while.
            self.rate = u64::try_from(rate).unwrap_or(u64::MAX).max(self.rate / 2);
        }
        self.last = Some((now, free));
        let micros = u128::from(headroom) * 1_000_000 / u128::from(self.rate.max(FASTEST_START)) / 2;
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).clamp(SHORTEST, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_pause_follows_headroom_and_rate() {
        let mut pace = Pace::default();
        let start = Instant::now();
        assert_eq!(pace.next(start, 100 * GIB, 50 * GIB), LONGEST, "nothing is written yet");
        assert_eq!(pace.next(start, 100 * GIB, 2 * GIB), Duration::from_secs(1), "a writer may begin");
        assert_eq!(pace.next(start, 100 * GIB, 0), SHORTEST);
        let later = start + Duration::from_secs(1);
        assert_eq!(pace.next(later, 90 * GIB, 40 * GIB), Duration::from_secs(2), "at 10 GiB a second");
        let later = later + Duration::from_secs(2);
        assert_eq!(pace.next(later, 90 * GIB, 40 * GIB), Duration::from_secs(4), "the burst is remembered");
    }
}
