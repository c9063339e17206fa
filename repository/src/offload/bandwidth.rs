//! Holding an offload to a bandwidth.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Objects are made no larger than what may be sent in this time, so that a slow link is used evenly.
const BURST: Duration = Duration::from_secs(4);

/// A token bucket that lets an object go once the ones before it have been paid for.
#[derive(Debug)]
pub(super) struct Bandwidth {
    /// Bytes a second.
    rate: Option<u64>,
    paid_until: Mutex<Instant>,
}

impl Bandwidth {
    /// Limits to `rate` bytes a second; 0 is taken as 1.
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self { rate: rate.map(|rate| rate.max(1)), paid_until: Mutex::new(Instant::now()) }
    }

    /// How large an object should be, given how large it would be without a limit; a mebibyte at least.
    pub(super) fn object_bytes(&self, unlimited: u32) -> u32 {
        let burst = self.rate.map_or(u64::MAX, |rate| rate.saturating_mul(BURST.as_secs()));
        u32::try_from(burst).map_or(unlimited, |burst| burst.clamp(1 << 20, unlimited))
    }

    /// Waits until `bytes` may be sent.
    pub(super) async fn acquire(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        // Counted in nanoseconds by 128 bits: no rate or size overflows it.
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let start = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let start = (*paid_until).max(Instant::now());
            *paid_until = start.checked_add(cost).unwrap_or(start);
            start
        };
        tokio::time::sleep_until(start).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn later_objects_wait_for_earlier_ones() {
        let bandwidth = Bandwidth::new(Some(10_000_000));
        let started = Instant::now();
        for _ in 0..4 {
            bandwidth.acquire(500_000).await;
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(150) && took < Duration::from_secs(5), "{took:?}");
    }

    #[tokio::test]
    async fn without_a_limit_nothing_waits_and_objects_keep_their_size() {
        let bandwidth = Bandwidth::new(None);
        bandwidth.acquire(usize::MAX).await;
        assert_eq!(bandwidth.object_bytes(32 << 20), 32 << 20);
        assert_eq!(Bandwidth::new(Some(1)).object_bytes(32 << 20), 1 << 20);
        assert_eq!(Bandwidth::new(Some(1 << 20)).object_bytes(32 << 20), 4 << 20);
        assert_eq!(Bandwidth::new(Some(u64::MAX)).object_bytes(32 << 20), 32 << 20);
    }
}
