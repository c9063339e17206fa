//! Memory: one budget for all that a process offloads and hydrates at once.
//!
//! What work must hold to come forward at all is leased once, before it begins; what would make it faster, a larger pack,
//! another pack on its way, another read under way, is leased only if it is there at once.
//!
//! # Concurrency
//! No deadlock: work waits for memory once, at its beginning, when it holds none. Whatever it takes later it takes without
//! waiting for others, and where there is none it goes on with what it has, or waits for what it put or fetched itself,
//! which needs no memory to end. So each holder ends, and gives back what it holds.
//!
//! No starvation: who waits is served in the order of arrival, and before anybody who takes more without waiting.
//!
//! # Cancellation
//! A lease is given back when it is dropped, and a future that waits for one may be dropped.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that one permit of the semaphore stands for.
const PAGE: usize = 64 << 10;

/// A bound on the memory of everything that is offloaded and hydrated through the handles that share it.
///
/// It bounds what grows with the speed of the work: buffers, packs being filled and put, reads under way. What a process
/// holds beside that is some 30 MiB.
#[derive(Clone, Debug)]
pub struct Memory {
    pages: Arc<Semaphore>,
    total: usize,
}

/// A part of the memory, held until dropped.
#[derive(Debug)]
pub(crate) struct Lease(OwnedSemaphorePermit);

impl Memory {
    /// The bound of a handle that nobody set one for, in bytes: a whole process stays below 128 MiB with it.
    pub const DEFAULT: usize = 96 << 20;

    /// The least that one offload can work with, in bytes.
    pub const LEAST: usize = 40 << 20;

    /// Bounds to so many bytes; less than [`LEAST`](Self::LEAST) is taken as that.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let pages = (bytes.max(Self::LEAST) / PAGE).min(u32::MAX as usize);
        Self { pages: Arc::new(Semaphore::new(pages)), total: pages * PAGE }
    }

    /// The bound, in bytes.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// How much of it is free, in bytes.
    #[must_use]
    pub fn free(&self) -> usize {
        self.pages.available_permits() * PAGE
    }

    /// Waits for so many bytes, or for all there are if that is less. To be called by who holds none.
    pub(crate) async fn lease(&self, bytes: usize) -> Lease {
        let pages = pages(bytes.min(self.total));
        Lease(Arc::clone(&self.pages).acquire_many_owned(pages).await.expect("the semaphore is never closed"))
    }

    /// Takes so many bytes if they are free and nobody waits.
    pub(crate) fn try_lease(&self, bytes: usize) -> Option<Lease> {
        Arc::clone(&self.pages).try_acquire_many_owned(pages(bytes)).ok().map(Lease)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

impl Lease {
    /// Adds another to it.
    pub(crate) fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    /// Gives back all but so many bytes.
    pub(crate) fn keep(&mut self, bytes: usize) {
        drop(self.0.split(self.0.num_permits().saturating_sub(pages(bytes) as usize)));
    }

    /// How many bytes it is for.
    pub(crate) fn bytes(&self) -> usize {
        self.0.num_permits() * PAGE
    }
}

fn pages(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PAGE)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_is_leased_is_not_free_until_it_is_dropped() {
        let memory = Memory::new(64 << 20);
        let mut lease = memory.lease(10 << 20).await;
        lease.merge(memory.try_lease(1).unwrap());
        assert_eq!(lease.bytes(), (10 << 20) + PAGE);
        assert_eq!(memory.free(), (54 << 20) - PAGE);
        assert!(memory.try_lease(54 << 20).is_none());
        lease.keep(4 << 20);
        assert_eq!((lease.bytes(), memory.free()), (4 << 20, 60 << 20));
        lease.keep(5 << 20);
        assert_eq!(lease.bytes(), 4 << 20, "it does not grow");
        drop(lease);
        assert_eq!(memory.free(), 64 << 20);
        assert!(memory.lease(usize::MAX).now_or_never().is_some(), "more than all is all");
    }

    #[tokio::test]
    async fn who_waits_comes_before_who_only_tries() {
        let memory = Memory::new(64 << 20);
        let held = memory.lease(60 << 20).await;
        let mut waiting = Box::pin(memory.lease(32 << 20));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(memory.try_lease(1 << 20).is_none(), "though 4 MiB were free");
        drop(held);
        assert_eq!(waiting.now_or_never().unwrap().bytes(), 32 << 20);
    }

    #[test]
    fn less_than_the_least_is_the_least() {
        assert_eq!(Memory::new(0).total(), Memory::LEAST);
    }
}
