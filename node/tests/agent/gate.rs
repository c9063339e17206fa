//! A store with a gate: while it is shut, nobody gets to put or read a pack, and those who try wait.

use std::{fmt, ops::Range, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use tokio::sync::watch;

/// How the gate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    Open,
    Shut,
    /// Whoever puts a pack is refused for good.
    Refuses,
    /// Whoever puts a pack gets no answer.
    Silent,
}

/// The store.
#[derive(Debug)]
pub(crate) struct Gate {
    inner: InMemory,
    position: watch::Sender<Position>,
    waiting: watch::Sender<usize>,
    /// What was put, in that order.
    put: Mutex<Vec<String>>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            inner: InMemory::new(),
            position: watch::Sender::new(Position::Open),
            waiting: watch::Sender::new(0),
            put: Mutex::default(),
        }
    }

    pub(crate) fn set(&self, position: Position) {
        self.position.send_replace(position);
    }

    /// The keys below a folder that were put, in that order.
    pub(crate) fn put_below(&self, folder: &str) -> Vec<String> {
        let put = self.put.lock().expect("no holder panics");
        put.iter().filter(|key| key.starts_with(folder)).cloned().collect()
    }

    /// Waits until somebody stands before the shut gate.
    pub(crate) async fn somebody_waits(&self) {
        self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await.expect("the sender lives");
    }

    async fn pass(&self, location: &Path) -> Result<()> {
        if !location.as_ref().contains("packs/") {
            return Ok(());
        }
        struct Waits<'a>(&'a watch::Sender<usize>);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.send_modify(|waiting| *waiting -= 1);
            }
        }
        self.waiting.send_modify(|waiting| *waiting += 1);
        let _waits = Waits(&self.waiting);
        let mut position = self.position.subscribe();
        let position = *position.wait_for(|position| *position != Position::Shut).await.expect("the sender lives");
        match position {
            Position::Refuses => Err(object_store::Error::PermissionDenied {
                path: location.to_string(),
                source: "the gate refuses".into(),
            }),
            Position::Silent => Err(object_store::Error::Generic { store: "gate", source: "no answer".into() }),
            Position::Open | Position::Shut => Ok(()),
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.pass(location).await?;
        let put = self.inner.put_opts(location, payload, options).await?;
        self.put.lock().expect("no holder panics").push(location.to_string());
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.pass(location).await?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.pass(location).await?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.pass(location).await?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
