//! A store in memory that counts what it is asked, by folder, and how much of it at once.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path as FilePath, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use varve_repository::store::Store;

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    inner: InMemory,
    /// How long a read takes, so that those that could run at once do.
    latency: Duration,
    reads: Mutex<BTreeMap<String, u64>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Observed {
    /// Makes an empty one.
    pub(crate) fn new(latency: Duration) -> Self {
        Self { latency, ..Self::default() }
    }

    /// Makes one that holds what another does.
    pub(crate) async fn copy_of(other: &Self, latency: Duration) -> anyhow::Result<Self> {
        let copy = Self::new(latency);
        let mut objects = other.inner.list(None);
        while let Some(meta) = objects.try_next().await? {
            let bytes = other.inner.get(&meta.location).await?.bytes().await?;
            copy.inner.put(&meta.location, bytes.into()).await?;
        }
        Ok(copy)
    }

    /// Opens it.
    pub(crate) fn store(self: &Arc<Self>) -> Store {
        Store::new(Arc::clone(self) as Arc<dyn ObjectStore>, "memory:///")
    }

    /// Copies everything into a local folder, as a repository there has it: a file for each object.
    pub(crate) async fn write_to(&self, folder: &FilePath) -> anyhow::Result<()> {
        let mut objects = self.inner.list(None);
        while let Some(meta) = objects.try_next().await.context("listing a store in memory")? {
            let bytes = self.inner.get(&meta.location).await?.bytes().await?;
            let path: PathBuf = folder.join(meta.location.as_ref());
            std::fs::create_dir_all(path.parent().unwrap_or(folder))
                .and_then(|()| std::fs::write(&path, &bytes))
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Bytes of all objects whose keys begin with a folder.
    pub(crate) async fn bytes(&self, folder: &str) -> anyhow::Result<u64> {
        let sizes = self.inner.list(Some(&Path::from(folder))).map_ok(|meta| meta.size);
        Ok(sizes.try_fold(0, async |sum, size| Ok(sum + size)).await?)
    }

    /// Forgets what was counted.
    pub(crate) fn forget(&self) {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.most.store(0, Ordering::SeqCst);
    }

    /// Reads of objects in a folder.
    pub(crate) fn reads(&self, folder: &str) -> u64 {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).get(folder).copied().unwrap_or_default()
    }

    /// The most reads that were under way at once.
    pub(crate) fn most_at_once(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("observed store in memory")
    }
}

#[async_trait]
impl ObjectStore for Observed {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let folder = location.as_ref().split('/').next().unwrap_or_default().to_owned();
        *self.reads.lock().unwrap_or_else(PoisonError::into_inner).entry(folder).or_default() += 1;
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        let found = self.inner.get_opts(location, options).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        found
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
