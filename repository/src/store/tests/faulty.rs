//! Stores that misbehave: answers that are lost or wrong, and conditions that are ignored.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

use crate::store::Store;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A put is applied, and its answer lost.
    AppliedUnanswered,
    /// A put is applied, its answer lost, and it is put again below: its writer is told that the condition failed.
    AppliedRefused,
    /// A put is refused as by a failed condition, and nothing is applied: S3's 409.
    RefusedUnapplied,
    /// A put fails and is not applied.
    Unapplied,
    /// A put is refused for want of permission.
    Denied,
    /// A read fails.
    Unread,
}

/// A store in memory whose next requests go wrong as told.
#[derive(Debug, Default)]
pub(crate) struct Faulty {
    inner: InMemory,
    puts: Mutex<VecDeque<Fault>>,
    gets: Mutex<VecDeque<Fault>>,
}

impl Faulty {
    /// Makes one, and a store over it.
    pub(crate) fn store() -> (Arc<Self>, Store) {
        let faulty = Arc::new(Self::default());
        (Arc::clone(&faulty), Store::new(Arc::clone(&faulty) as Arc<dyn ObjectStore>, "memory:///"))
    }

    /// Lets the next requests go wrong: puts by put faults, reads by read faults, in this order.
    pub(crate) fn fail(&self, faults: &[Fault]) {
        for fault in faults {
            let queue = if *fault == Fault::Unread { &self.gets } else { &self.puts };
            queue.lock().unwrap().push_back(*fault);
        }
    }

    /// Whether every fault has come to pass.
    pub(crate) fn is_spent(&self) -> bool {
        self.puts.lock().unwrap().is_empty() && self.gets.lock().unwrap().is_empty()
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty store")
    }
}

fn broken() -> Error {
    Error::Generic { store: "faulty", source: "the answer was lost".into() }
}

fn refused(location: &Path, mode: &PutMode) -> Error {
    let (path, source) = (location.to_string(), "the condition failed".into());
    match mode {
        PutMode::Update(_) => Error::Precondition { path, source },
        _ => Error::AlreadyExists { path, source },
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.puts.lock().unwrap().pop_front();
        let mode = options.mode.clone();
        match fault {
            None | Some(Fault::Unread) => self.inner.put_opts(location, payload, options).await,
            Some(Fault::Unapplied) => Err(broken()),
            Some(Fault::RefusedUnapplied) => Err(refused(location, &mode)),
            Some(Fault::Denied) => {
                Err(Error::PermissionDenied { path: location.to_string(), source: "not allowed".into() })
            }
            Some(Fault::AppliedUnanswered) => {
                self.inner.put_opts(location, payload, options).await?;
                Err(broken())
            }
            Some(Fault::AppliedRefused) => {
                self.inner.put_opts(location, payload, options).await?;
                Err(refused(location, &mode))
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.gets.lock().unwrap().pop_front();
        match fault {
            Some(_) => Err(broken()),
            None => self.inner.get_opts(location, options).await,
        }
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

/// What a store makes of the conditions of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conditions {
    /// It takes no notice of them.
    Ignored,
    /// It refuses such puts.
    Refused,
    /// It heeds create-if-absent, and takes no notice of versions.
    CreateOnly,
}

/// A store in memory that is unfit for a repository.
#[derive(Debug)]
pub(crate) struct Unfit {
    inner: InMemory,
    conditions: Conditions,
}

impl Unfit {
    /// Makes a store over one.
    pub(crate) fn store(conditions: Conditions) -> Store {
        Store::new(Arc::new(Self { inner: InMemory::new(), conditions }), "memory:///unfit")
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unfit store")
    }
}

#[async_trait]
impl ObjectStore for Unfit {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        match (self.conditions, &options.mode) {
            (_, PutMode::Overwrite) | (Conditions::CreateOnly, PutMode::Create) => {}
            (Conditions::Refused, _) => {
                return Err(Error::NotImplemented {
                    operation: "conditional put".into(),
                    implementer: self.to_string(),
                });
            }
            _ => options.mode = PutMode::Overwrite,
        }
        // Let rivals run between the decision and the put, as a network would.
        tokio::task::yield_now().await;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
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
