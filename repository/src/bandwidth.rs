//! Limits on bytes a second: of one offload, of all that a process sends, of all that it fetches.
//!
//! Limits form a tree. Whoever is to move bytes asks the limit next to him, and waits until that one and all above it have
//! let the bytes go: a volume's own limit and its node's are both kept.
//!
//! Bytes are paid for in advance: an object goes once the time that it takes at the limit's rate has passed since the one
//! before it. So an object is never a burst, and over any stretch of time no more goes than the rate allows, but for
//! what one object is too large; that is why objects are made [smaller](Bandwidth::object_bytes) under a limit. Time
//! in which nobody asked is not saved up.
//!
//! # Concurrency
//! Whoever asks first goes first. A limit may be shared by any number of tasks, and changed while they wait: that holds for
//! those who have not begun to wait.
//!
//! # Cancellation
//! Bytes whose waiting future was dropped are not counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};

/// Objects are made no larger than what may be sent in this time, so that a limit is kept within one part in twenty over
/// any five seconds.
const BURST: Duration = Duration::from_millis(200);

/// Objects are not made smaller than this, in bytes: each is a request that is paid for.
const SMALLEST_OBJECT: u64 = 1 << 20;

/// How late somebody may be and still go on as if he had been in time: what timers and other tasks take.
const LATENESS: Duration = Duration::from_millis(50);

/// The rate that stands for no limit.
const UNLIMITED: u64 = 0;

/// A limit on bytes a second. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Bandwidth(Arc<Limit>);

#[derive(Debug)]
struct Limit {
    /// Bytes a second, or [`UNLIMITED`].
    rate: AtomicU64,
    /// Until when the bytes that went have taken; held by whoever waits, so that others wait behind him in their order.
    taken_until: Mutex<Instant>,
    within: Option<Bandwidth>,
}

impl Default for Bandwidth {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Bandwidth {
    /// Limits to `rate` bytes a second, taking 0 for 1; or not at all.
    #[must_use]
    pub fn new(rate: Option<u64>) -> Self {
        Self::make(rate, None)
    }

    /// Makes a limit of its own, all of whose bytes count for this one as well.
    #[must_use]
    pub fn within(&self, rate: Option<u64>) -> Self {
        Self::make(rate, Some(self.clone()))
    }

    fn make(rate: Option<u64>, within: Option<Self>) -> Self {
        let limit = Limit { rate: AtomicU64::new(UNLIMITED), taken_until: Mutex::new(Instant::now()), within };
        let made = Self(Arc::new(limit));
        made.set(rate);
        made
    }

    /// Changes the rate, for whoever begins to wait from now on.
    pub fn set(&self, rate: Option<u64>) {
        self.0.rate.store(rate.map_or(UNLIMITED, |rate| rate.max(1)), Ordering::Relaxed);
    }

    /// Bytes a second that may go at most, by this limit and all above it; `None` where there is no limit.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        let own = match self.0.rate.load(Ordering::Relaxed) {
            UNLIMITED => None,
            rate => Some(rate),
        };
        let above = self.0.within.as_ref().and_then(Self::rate);
        own.into_iter().chain(above).min()
    }

    /// How large an object should be, in bytes, given how large it would be without a limit.
    #[must_use]
    pub fn object_bytes(&self, unlimited: u32) -> u32 {
        let Some(rate) = self.rate() else { return unlimited };
        let burst = u128::from(rate) * BURST.as_millis() / 1000;
        let burst = u64::try_from(burst).unwrap_or(u64::MAX).max(SMALLEST_OBJECT);
        u32::try_from(burst).map_or(unlimited, |burst| burst.min(unlimited))
    }

    /// Waits until `bytes` may go; at once where there is no limit.
    pub async fn acquire(&self, bytes: u64) {
        // From here upwards, so that nobody holds up those who share the limit above while his own keeps him.
        let mut limit = Some(self);
        while let Some(Self(one)) = limit {
            one.pay(bytes).await;
            limit = one.within.as_ref();
        }
    }
}

impl Limit {
    async fn pay(&self, bytes: u64) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == UNLIMITED {
            return;
        }
        // Counted in nanoseconds by 128 bits: no rate or size overflows it.
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut taken_until = self.taken_until.lock().await;
        let now = Instant::now();
        let begin = (*taken_until).max(now.checked_sub(LATENESS).unwrap_or(now));
        let end = begin.checked_add(cost).unwrap_or(begin);
        tokio::time::sleep_until(end).await;
        *taken_until = end;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::future::join_all;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// What went, and when, since the start.
    #[derive(Clone, Default)]
    struct Went(Arc<Mutex<Vec<(Duration, u64)>>>);

    impl Went {
        /// Sends objects of that size, one after the other.
        async fn send(&self, limit: &Bandwidth, objects: u64, bytes: u64, started: Instant) {
            for _ in 0..objects {
                limit.acquire(bytes).await;
                self.0.lock().unwrap().push((started.elapsed(), bytes));
            }
        }

        /// Bytes that went within the window.
        fn within(&self, from: Duration, to: Duration) -> u64 {
            let went = self.0.lock().unwrap();
            went.iter().filter(|(at, _)| *at > from && *at <= to).map(|(_, bytes)| bytes).sum()
        }

        fn last(&self) -> Duration {
            self.0.lock().unwrap().iter().map(|(at, _)| *at).max().unwrap()
        }

        /// Asserts that every window of five seconds holds to the rate, within five per cent.
        fn keeps_to(&self, rate: u64) {
            let (mut from, window) = (Duration::ZERO, Duration::from_secs(5));
            while from + window <= self.last() {
                let ratio = self.within(from, from + window) as f64 / (5 * rate) as f64;
                assert!((0.95..=1.05).contains(&ratio), "{ratio} of the rate from {from:?} on");
                from += Duration::from_millis(70);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn any_few_seconds_keep_to_the_rate_with_any_number_of_senders() {
        for senders in [1, 2, 7] {
            let limit = Bandwidth::new(Some(50 * MIB));
            let object = u64::from(limit.object_bytes(32 << 20));
            assert_eq!(object, 10 * MIB);
            let (went, started) = (Went::default(), Instant::now());
            // None of them sends whole objects alone.
            let sent = (0..senders).map(|n| went.send(&limit, 100 / senders, object / (n % 3 + 1), started));
            join_all(sent).await;
            went.keeps_to(50 * MIB);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_paid_for_before_it_goes() {
        let limit = Bandwidth::new(Some(10 * MIB));
        let started = Instant::now();
        limit.acquire(32 * MIB).await;
        assert!(started.elapsed() >= Duration::from_millis(3150), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_and_the_one_above_it_are_both_kept() {
        let node = Bandwidth::new(Some(30 * MIB));
        let (slow, free) = (node.within(Some(10 * MIB)), node.within(None));
        assert_eq!((slow.rate(), free.rate()), (Some(10 * MIB), Some(30 * MIB)));
        let (of_slow, of_free, started) = (Went::default(), Went::default(), Instant::now());
        futures::join!(of_slow.send(&slow, 200, MIB, started), of_free.send(&free, 400, MIB, started));
        of_slow.keeps_to(10 * MIB);
        of_free.keeps_to(20 * MIB);
        assert_eq!(of_slow.last().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asked_for_is_not_saved_up() {
        let limit = Bandwidth::new(Some(10 * MIB));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (went, started) = (Went::default(), Instant::now());
        went.send(&limit, 100, MIB, started).await;
        went.keeps_to(10 * MIB);
        assert!(went.last() >= Duration::from_millis(9900), "{:?}", went.last());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_has_sent_nothing_and_holds_nobody_up() {
        let limit = Bandwidth::new(Some(MIB));
        let given_up = tokio::time::timeout(Duration::from_secs(1), limit.acquire(1000 * MIB)).await;
        assert!(given_up.is_err());
        let started = Instant::now();
        limit.acquire(MIB).await;
        assert!(started.elapsed() <= Duration::from_secs(1), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits_and_a_limit_can_be_set_later() {
        let limit = Bandwidth::default();
        let started = Instant::now();
        limit.acquire(u64::MAX).await;
        assert_eq!((started.elapsed(), limit.rate(), limit.object_bytes(32 << 20)), (Duration::ZERO, None, 32 << 20));
        limit.set(Some(MIB));
        limit.acquire(10 * MIB).await;
        assert!(started.elapsed() >= Duration::from_millis(9950), "{:?}", started.elapsed());
    }

    #[test]
    fn objects_are_what_a_fifth_of_a_second_sends_and_never_tiny() {
        let bytes = |rate| Bandwidth::new(Some(rate)).object_bytes(32 << 20);
        assert_eq!((bytes(0), bytes(1), bytes(100 * MIB)), (1 << 20, 1 << 20, 20 << 20));
        assert_eq!((bytes(500 * MIB), bytes(u64::MAX)), (32 << 20, 32 << 20));
    }
}
