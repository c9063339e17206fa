//! The object store that a repository lies on.
//!
//! [`Store`] is what the rest of the crate sees: whole objects, ranges, listings, and puts that are conditional.
//! Below it is any [`ObjectStore`]: S3, Azure, Google, a [local folder](folder), or one that a test brings.
//!
//! # Consistency
//!
//! A put that has been answered is seen by every later read and listing. Every store that passes the
//! [probe](Store::probe) is of that kind.
//!
//! # Retries
//!
//! The store's own client retries, for some 15 seconds, reads, and requests of any kind that were refused for the moment
//! (503, 429) or never sent. What it does not, a connection that ends within an answer for one, is retried here, up to six
//! times in ten seconds: reads and deletions, which may be done twice, the beginnings of listings, and
//! [conditional puts](conditional), where an error, or even "already exists", is no verdict. What fails still is
//! `Unavailable`, and its caller decides whether to wait.
//!
//! # Cancellation
//!
//! Dropping a future of this module may leave its request under way: a put may still be applied. Records name their
//! writer for that reason.

mod backoff;
mod code;
mod conditional;
mod credentials;
mod deletion;
mod failure;
mod folder;
mod location;
mod probe;
mod ranges;
mod requests;

use std::{fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, UpdateVersion, path::Path};

use backoff::Patience;
pub(crate) use conditional::Created;
pub use failure::Cause;
pub use requests::Requests;

use crate::{
    Error, ErrorKind, Result,
    buffer::Buffers,
    seam::{Entropy, System},
};

/// An object store at a prefix, with retries, conditional puts that decide by what is there, and errors sorted.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    counters: requests::Counters,
    url: String,
    /// The folder that a repository would lie in, where the store is one.
    folder: Option<Arc<folder::Folder>>,
    /// What parts rivals in time.
    entropy: Arc<dyn Entropy>,
    /// Whether "already exists" is taken for a verdict, to show that tests would find it.
    #[cfg(feature = "mutation")]
    credulous: bool,
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its key, relative to the repository.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// Differs whenever its content does; an object's listed version need not be equal to the one it is read at.
    pub version: Option<String>,
    /// When it was put, by the store's clock, which nothing may be decided by: for telling what is likely to be of use.
    pub modified: jiff::Timestamp,
}

impl Entry {
    fn of(meta: ObjectMeta) -> Self {
        let (seconds, nanos) = (meta.last_modified.timestamp(), meta.last_modified.timestamp_subsec_nanos());
        let modified = i32::try_from(nanos).ok().and_then(|nanos| jiff::Timestamp::new(seconds, nanos).ok());
        Self {
            key: meta.location.into(),
            size: meta.size,
            version: meta.e_tag.or(meta.version),
            modified: modified.unwrap_or_default(),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store that a URL names: `file:///folder`, `s3://bucket/prefix`, `az://container/prefix`,
    /// `gs://bucket/prefix`. Credentials and endpoint come from the environment (`AWS_…`, `AZURE_…`,
    /// `GOOGLE_…`) or from `options`, never from the URL. Nothing is read or written yet.
    ///
    /// # Errors
    /// `Location`, saying which part of the URL is wrong.
    pub fn open(url: &str, options: &[(String, String)]) -> Result<Self> {
        location::open(url, options)
    }

    /// Takes a store as it is; for tests that bring their own.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, url: impl Into<String>) -> Self {
        let counters = requests::Counters::default();
        let inner = Arc::new(requests::Counted::new(inner, counters.clone()));
        Self {
            inner,
            counters,
            url: url.into(),
            folder: None,
            entropy: Arc::new(System),
            #[cfg(feature = "mutation")]
            credulous: false,
        }
    }

    /// Takes randomness from elsewhere than the machine; for tests.
    #[must_use]
    pub fn with_entropy(self, entropy: Arc<dyn Entropy>) -> Self {
        Self { entropy, ..self }
    }

    /// Breaks the protocol as [`Mutation::TrustsAlreadyExists`](crate::mutation::Mutation) says; for tests.
    #[cfg(feature = "mutation")]
    #[must_use]
    pub fn credulous(self) -> Self {
        Self { credulous: true, ..self }
    }

    /// The location, fit for messages: it holds no credentials.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How often the store was asked for what since it was opened, by all clones together.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.counters.read()
    }

    /// How many requests failed since the store was opened, by kind; those too that succeeded when they were tried again.
    #[must_use]
    pub fn failures(&self) -> [(ErrorKind, u64); ErrorKind::ALL.len()] {
        self.counters.failures()
    }

    /// Makes the place that a new repository will lie in, where that is the store user's to make: a local folder.
    pub(crate) async fn prepare(&self) -> Result<()> {
        match &self.folder {
            Some(folder) => folder.create().await.map_err(|source| self.failed("creating", "the folder", source)),
            None => Ok(()),
        }
    }

    /// Removes what crashed writers left behind in a local folder. Whether it can is of no consequence to anything else.
    pub(crate) async fn sweep(&self) {
        if let Some(folder) = &self.folder
            && let Err(error) = folder.sweep().await
        {
            tracing::debug!(url = self.url, %error, "leaving what a crash may have left behind");
        }
    }

    /// Reads an object whole, with the version to update it by; `None` where there is none.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<(Bytes, UpdateVersion)>> {
        let read = async || {
            let result = self.inner.get(&Path::from(key)).await?;
            let version = UpdateVersion { e_tag: result.meta.e_tag.clone(), version: result.meta.version.clone() };
            Ok((result.bytes().await?, version))
        };
        let mut patience = Patience::new();
        loop {
            let error = match read().await {
                Ok(read) => return Ok(Some(read)),
                Err(error) if failure::is_missing(&error) => return Ok(None),
                Err(error) => self.failed("reading", key, error),
            };
            self.again(error, &mut patience).await?;
        }
    }

    /// Reads a part of an object that is known to be there.
    ///
    /// # Errors
    /// `Corrupt` where the object is missing or ends before the range does.
    pub(crate) async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let missing = || Error::Corrupt { object: key.into(), reason: "it is missing".into() };
        self.find_range(key, range).await?.ok_or_else(missing)
    }

    /// Reads a part of an object; `None` where the object is missing. An empty part is there in any case.
    ///
    /// # Errors
    /// `Corrupt` where the object ends before the range does.
    pub(crate) async fn find_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        self.find_range_into(key, range, None).await
    }

    /// Does the same with buffers that are used again, where the part fits one of them.
    ///
    /// # Errors
    /// As of [`find_range`](Self::find_range).
    pub(crate) async fn find_range_into(
        &self,
        key: &str,
        range: Range<u64>,
        buffers: Option<&Buffers>,
    ) -> Result<Option<Bytes>> {
        let corrupt = |reason: String| Error::Corrupt { object: key.into(), reason };
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Some(Bytes::new()));
        }
        let mut patience = Patience::new();
        loop {
            let error = match ranges::read(&*self.inner, &Path::from(key), range.clone(), buffers).await {
                Ok(bytes) if u64::try_from(bytes.len()) == Ok(wanted) => return Ok(Some(bytes)),
                Ok(bytes) => {
                    return Err(corrupt(format!("bytes {range:?} are wanted, and only {} are there", bytes.len())));
                }
                Err(error) if failure::is_missing(&error) => return Ok(None),
                // How a range past the end is refused differs by store; the size tells.
                Err(error) => match self.head(key).await? {
                    Some(entry) if entry.size < range.end => {
                        return Err(corrupt(format!("bytes {range:?} are wanted, and it has {} bytes", entry.size)));
                    }
                    Some(_) => self.failed("reading", key, error),
                    None => return Ok(None),
                },
            };
            self.again(error, &mut patience).await?;
        }
    }

    /// Looks an object up without reading it; `None` where there is none.
    pub(crate) async fn head(&self, key: &str) -> Result<Option<Entry>> {
        let mut patience = Patience::new();
        loop {
            let error = match self.inner.head(&Path::from(key)).await {
                Ok(meta) => return Ok(Some(Entry { key: key.into(), ..Entry::of(meta) })),
                Err(error) if failure::is_missing(&error) => return Ok(None),
                Err(error) => self.failed("reading", key, error),
            };
            self.again(error, &mut patience).await?;
        }
    }

    /// Deletes an object; one that is missing is as good as deleted.
    pub(crate) async fn delete(&self, key: &str) -> Result<()> {
        self.delete_many(vec![key.to_owned()]).await
    }

    /// Deletes objects in as few requests as the store allows; missing ones are as good as deleted.
    ///
    /// # Errors
    /// The first failure, after all have been tried.
    pub(crate) async fn delete_many(&self, keys: Vec<String>) -> Result<()> {
        let first = keys.first().cloned().unwrap_or_default();
        let mut patience = Patience::new();
        loop {
            let paths: Vec<_> = keys.iter().map(|key| Ok(Path::from(key.as_str()))).collect();
            let mut results = self.inner.delete_stream(futures::stream::iter(paths).boxed());
            let mut failed = None;
            while let Some(result) = results.next().await {
                match result {
                    Err(error) if !failure::is_missing(&error) => failed = failed.or(Some(error)),
                    _ => {}
                }
            }
            let Some(error) = failed.map(|error| self.failed("deleting", &first, error)) else { return Ok(()) };
            self.again(error, &mut patience).await?;
        }
    }

    /// Lists the objects whose keys begin with `prefix`, a folder such as `packs/`, in no particular order.
    pub(crate) fn list(&self, prefix: &str) -> BoxStream<'static, Result<Entry>> {
        let (store, entropy) = (self.clone(), Arc::clone(&self.entropy));
        let folder = prefix.trim_end_matches('/').to_owned();
        let path = Path::from(folder.as_str());
        let listing = async move {
            let mut patience = Patience::new();
            loop {
                let listing = store.inner.list(if path.as_ref().is_empty() { None } else { Some(&path) });
                let (store, folder) = (store.clone(), folder.clone());
                let mut listing = listing.map_err(move |error| store.failed("listing", &folder, error)).fuse();
                // Until it has shown something it may begin again.
                match listing.next().await {
                    Some(Err(error)) if error.is_transient() && patience.waits(entropy.as_ref()).await => {}
                    first => break futures::stream::iter(first).chain(listing),
                }
            }
        };
        listing.flatten_stream().map_ok(Entry::of).boxed()
    }

    /// Waits after a failure that may pass, while there is patience left.
    ///
    /// # Errors
    /// The failure, where it is to be given up with.
    async fn again(&self, error: Error, patience: &mut Patience) -> Result<()> {
        if error.is_transient() && patience.waits(self.entropy.as_ref()).await { Ok(()) } else { Err(error) }
    }

    /// Sorts a failure of the store, and names what it was about.
    fn failed(&self, operation: &'static str, object: &str, source: object_store::Error) -> Error {
        self.counters.failed(failure::kind(&source));
        if let Some(reason) = failure::missing_bucket(&source) {
            return Error::Location { url: self.url.clone(), reason: reason.into() };
        }
        Error::Store { operation, object: object.into(), kind: failure::kind(&source), source: Cause::of(&source) }
    }
}

#[cfg(test)]
pub(crate) mod tests;
