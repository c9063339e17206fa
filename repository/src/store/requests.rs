//! Counting requests: what a store is asked costs money, and collections say how much they asked.
//!
//! Requests are counted as the large providers charge for them: a listing for each thousand objects, deletions in batches
//! of a thousand. Retries below this layer, in the store's own client, are not seen.

use std::{
    fmt,
    ops::Sub,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, path::Path,
};
use serde::Serialize;

use crate::ErrorKind;

/// Objects that one request lists, or deletes.
const BATCH: u64 = 1000;

/// How often a store was asked for what, and how many bytes that moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Listings; one for each thousand objects.
    pub list: u64,
    /// Reads, of whole objects, of ranges and of what an object is.
    pub get: u64,
    /// Puts, conditional or not.
    pub put: u64,
    /// Deletions; one for each thousand objects.
    pub delete: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes that were put.
    pub written_bytes: u64,
}

impl Requests {
    /// All of them, whatever their kind.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.list + self.get + self.put + self.delete
    }
}

impl Sub for Requests {
    type Output = Self;

    /// What came after an earlier reading of the same counters.
    fn sub(self, earlier: Self) -> Self {
        Self {
            list: self.list.saturating_sub(earlier.list),
            get: self.get.saturating_sub(earlier.get),
            put: self.put.saturating_sub(earlier.put),
            delete: self.delete.saturating_sub(earlier.delete),
            read_bytes: self.read_bytes.saturating_sub(earlier.read_bytes),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
        }
    }
}

/// The counters; cloning shares them.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    list: AtomicU64,
    get: AtomicU64,
    put: AtomicU64,
    delete: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    /// Failures by kind, in the order of [`ErrorKind::ALL`].
    failures: [AtomicU64; ErrorKind::ALL.len()],
}

impl Counters {
    /// Counts a failure.
    pub(super) fn failed(&self, kind: ErrorKind) {
        add(&self.0.failures[kind as usize], 1);
    }

    /// Reads how many failures of each kind there were.
    pub(super) fn failures(&self) -> [(ErrorKind, u64); ErrorKind::ALL.len()] {
        ErrorKind::ALL.map(|kind| (kind, self.0.failures[kind as usize].load(Ordering::Relaxed)))
    }

    /// Reads all counters; each is right, they need not be of one instant.
    pub(super) fn read(&self) -> Requests {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            list: read(&self.0.list),
            get: read(&self.0.get),
            put: read(&self.0.put),
            delete: read(&self.0.delete),
            read_bytes: read(&self.0.read_bytes),
            written_bytes: read(&self.0.written_bytes),
        }
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// A store whose requests are counted.
#[derive(Debug)]
pub(super) struct Counted {
    inner: Arc<dyn ObjectStore>,
    counters: Counters,
}

impl Counted {
    /// Counts what a store is asked.
    pub(super) fn new(inner: Arc<dyn ObjectStore>, counters: Counters) -> Self {
        Self { inner, counters }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        add(&self.counters.0.put, 1);
        add(&self.counters.0.written_bytes, payload.content_length() as u64);
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        add(&self.counters.0.get, 1);
        let found = self.inner.get_opts(location, options).await?;
        if !head {
            add(&self.counters.0.read_bytes, found.range.end - found.range.start);
        }
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let counters = self.counters.clone();
        let counted = locations.enumerate().map(move |(number, location)| {
            if (number as u64).is_multiple_of(BATCH) {
                add(&counters.0.delete, 1);
            }
            location
        });
        self.inner.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let counters = self.counters.clone();
        add(&counters.0.list, 1);
        let listed = self.inner.list(prefix).enumerate().map(move |(number, entry)| {
            if number > 0 && (number as u64).is_multiple_of(BATCH) {
                add(&counters.0.list, 1);
            }
            entry
        });
        listed.boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        add(&self.counters.0.list, 1);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use object_store::memory::InMemory;

    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn requests_are_counted_by_kind_and_clones_share_the_count() {
        let store = Store::new(std::sync::Arc::new(InMemory::new()), "memory:///");
        let before = store.requests();
        for key in 0..1001 {
            store.put_new(&format!("packs/{key}"), bytes::Bytes::from_static(b"12345")).await.unwrap();
        }
        store.clone().get_range("packs/7", 1..3).await.unwrap();
        let keys: Vec<String> = store.list("packs/").map_ok(|entry| entry.key).try_collect().await.unwrap();
        store.delete_many(keys).await.unwrap();
        let asked = store.requests() - before;
        assert_eq!((asked.put, asked.get, asked.list, asked.delete), (1001, 1, 2, 2));
        assert_eq!((asked.written_bytes, asked.read_bytes), (5005, 2));
    }

    #[test]
    fn kinds_are_in_the_order_of_their_counters() {
        assert!(ErrorKind::ALL.iter().enumerate().all(|(number, kind)| *kind as usize == number));
    }
}
