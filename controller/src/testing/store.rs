//! An object store in memory that can be told to refuse everything, as one does whose permissions were taken away, or to
//! lose an answer.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Breakable {
    inner: InMemory,
    refuses: AtomicBool,
    loses: AtomicBool,
}

impl Breakable {
    /// Refuses everything from now on, or nothing.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Does the next put, and loses its answer.
    pub(crate) fn lose_answer(&self) {
        self.loses.store(true, Ordering::SeqCst);
    }

    /// Loses an object.
    pub(crate) async fn remove(&self, key: &str) {
        self.inner.delete(&Path::from(key)).await.expect("it is there");
    }

    fn check(&self, path: &Path) -> Result<()> {
        if self.refuses.load(Ordering::SeqCst) {
            Err(Error::PermissionDenied { path: path.to_string(), source: "access denied".into() })
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for Breakable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("breakable memory")
    }
}

#[async_trait]
impl ObjectStore for Breakable {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.check(location)?;
        let put = self.inner.put_opts(location, payload, options).await?;
        if self.loses.swap(false, Ordering::SeqCst) {
            return Err(Error::Generic { store: "memory", source: "the connection was reset".into() });
        }
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.check(location)?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check(location)?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.check(&Path::default()) {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.check(&Path::default()) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.check(&Path::default())?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check(from)?;
        self.inner.copy_opts(from, to, options).await
    }
}
