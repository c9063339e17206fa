//! A local folder as an object store that keeps its word.
//!
//! The `object_store` crate's own local store does the reading and listing. Writing is done here, for what that one
//! leaves out: conditional updates, deletions that survive a power loss, and leftovers of a crash.
//!
//! ```text
//! <folder>/                   mode 0700, made by `init` alone
//!   .staging#0                locked shared by every put, exclusively by the sweep
//!   .update#0                 locked exclusively by every conditional update and deletion
//!   repository, snapshots/…   the objects, each a file
//!   snapshots/…#<digits>      an object being put; no listing shows a name of this form
//! ```
//!
//! # Crash consistency
//!
//! A put writes and syncs a staged file, then links or renames it to its name, then syncs the folder: what has been
//! answered is durable, and no reader ever sees a part of an object. A crash may leave a staged file;
//! [`Folder::sweep`] removes those that no living writer holds.
//!
//! # Concurrency
//!
//! Create-if-absent is `link(2)`, which the file system arbitrates. Conditional updates exclude each other, and
//! deletions, with `flock(2)`, between processes too. Both work over NFS version 4.
//!
//! # Invariants
//!
//! A handle never takes the empty folder that an unmounted file system leaves behind for the one it was opened on:
//! every snapshot would seem to be gone, and new ones would go where nobody looks for them.
//!
//! The version that a full read, or a put of anything but a pack, gives an object is the hash of its content. Times and
//! inode numbers would not do: a file system hands out the same inode again, and its clock may not have ticked in between.

mod staged;

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    ops::Range,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, local::LocalFileSystem,
    path::Path as ObjectPath,
};
use staged::{LARGE, Lock, Staged};

/// The object that tells a repository's folder from an empty one.
const REPOSITORY: &str = "repository";

/// Most deletions whose folders are synced together.
const DELETIONS: usize = 1000;

/// The object store.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Set once the folder has been found to be there.
    files: Arc<OnceLock<Files>>,
}

#[derive(Debug)]
struct Files {
    store: LocalFileSystem,
    /// The file system that the folder was found on.
    device: u64,
}

/// A failure of the local file system, with its place.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
struct Failure {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    let missing = source.kind() == io::ErrorKind::NotFound;
    let failure = Box::new(Failure { action, path: path.into(), source });
    if missing {
        return Error::NotFound { path: path.display().to_string(), source: failure };
    }
    Error::Generic { store: "folder", source: failure }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {}", self.root.display())
    }
}

impl Folder {
    /// Names a folder, which need not be there yet.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, files: Arc::new(OnceLock::new()) }
    }

    /// Makes the folder, and those above it that are missing, durably; fine if it is there.
    pub(super) async fn create(&self) -> Result<()> {
        let root = self.root.clone();
        blocking(move || make_folders(&root)).await
    }

    /// Removes what crashed writers left behind, if no writer is at work; there is always a next time.
    pub(super) async fn sweep(&self) -> Result<()> {
        let root = self.root.clone();
        blocking(move || {
            staged::sweep(&root).map_err(|source| failed("removing what a crash left behind in", &root, source))
        })
        .await
    }

    /// Makes the name of an object durable, whoever put it.
    pub(super) async fn settle(&self, location: &ObjectPath) -> Result<()> {
        let (folder, location) = (self.clone(), location.clone());
        blocking(move || {
            let path = folder.path(&location)?;
            sync_parent(&path).map_err(|source| failed("syncing the folder of", &path, source))
        })
        .await
    }

    /// Reads and lists, once it is sure that the folder is there and the one it was.
    async fn files(&self) -> Result<LocalFileSystem> {
        let folder = self.clone();
        blocking(move || folder.found().map(|files| files.store.clone())).await
    }

    fn found(&self) -> Result<&Files> {
        let device = fs::metadata(&self.root).map_err(|source| failed("opening", &self.root, source))?.dev();
        if let Some(files) = self.files.get() {
            if device != files.device && !self.root.join(REPOSITORY).exists() {
                let source = io::Error::other("it is not the folder that it was: is its file system still mounted?");
                return Err(failed("opening", &self.root, source));
            }
            return Ok(files);
        }
        let store = LocalFileSystem::new_with_prefix(&self.root)?.with_fsync(true);
        Ok(self.files.get_or_init(|| Files { store, device }))
    }

    fn path(&self, location: &ObjectPath) -> Result<PathBuf> {
        self.found()?.store.path_to_filesystem(location)
    }

    fn publish(&self, path: &Path, payload: &PutPayload, mode: PutMode) -> Result<Option<String>> {
        let _staging = Lock::staging(&self.root).map_err(|source| failed("locking", &self.root, source))?;
        let staged = match Staged::write(path, payload) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_parents(path)?;
                Staged::write(path, payload)
            }
            written => written,
        };
        let staged = staged.map_err(|source| failed("writing", path, source))?;
        match mode {
            PutMode::Overwrite => staged.replace(path).map_err(|source| failed("replacing", path, source))?,
            PutMode::Create => match staged.link(path) {
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                    let failure = Failure { action: "creating", path: path.into(), source };
                    return Err(Error::AlreadyExists { path: path.display().to_string(), source: failure.into() });
                }
                linked => linked.map_err(|source| failed("creating", path, source))?,
            },
            PutMode::Update(version) => {
                let _update = Lock::update(&self.root).map_err(|source| failed("locking", &self.root, source))?;
                let standing = match fs::read(path) {
                    Ok(bytes) => Some(version_of(&bytes)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(source) => return Err(failed("reading", path, source)),
                };
                if standing.is_none() || standing != version.e_tag {
                    let reason = if standing.is_some() { "it has changed" } else { "it is gone" };
                    return Err(Error::Precondition { path: path.display().to_string(), source: reason.into() });
                }
                staged.replace(path).map_err(|source| failed("replacing", path, source))?;
            }
        }
        // What is so large is a pack, which is never updated: nobody asks for its version.
        Ok((payload.content_length() < LARGE).then(|| version_of_payload(payload)))
    }

    /// Makes the folders between the root and an object; never the root, which must not reappear after it is lost.
    fn make_parents(&self, path: &Path) -> Result<()> {
        let root = fs::canonicalize(&self.root).map_err(|source| failed("opening", &self.root, source))?;
        match path.parent() {
            Some(parent) if parent.starts_with(&root) => make_folders(parent),
            _ => Ok(()),
        }
    }

    fn remove(&self, locations: Vec<Result<ObjectPath>>) -> Vec<Result<ObjectPath>> {
        let lock = match Lock::update(&self.root) {
            Ok(lock) => lock,
            Err(source) => return vec![Err(failed("locking", &self.root, source))],
        };
        let mut parents = BTreeSet::new();
        let mut results: Vec<Result<ObjectPath>> = locations
            .into_iter()
            .map(|location| {
                let location = location?;
                let path = self.path(&location)?;
                fs::remove_file(&path).map_err(|source| failed("deleting", &path, source))?;
                parents.extend(path.parent().map(Path::to_owned));
                Ok(location)
            })
            .collect();
        drop(lock);
        for parent in parents {
            if let Err(source) = sync_folder(&parent) {
                results.push(Err(failed("syncing", &parent, source)));
            }
        }
        results
    }
}

#[async_trait]
impl ObjectStore for Folder {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (folder, location) = (self.clone(), location.clone());
        let e_tag = blocking(move || folder.publish(&folder.path(&location)?, &payload, options.mode)).await?;
        Ok(PutResult { e_tag, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &ObjectPath, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart uploads".into(), implementer: self.to_string() })
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        let whole = options.range.is_none() && !options.head;
        let found = self.files().await?.get_opts(location, options).await?;
        if !whole {
            return Ok(found);
        }
        let (range, attributes, mut meta) = (found.range.clone(), found.attributes.clone(), found.meta.clone());
        let bytes = found.bytes().await?;
        meta.e_tag = Some(version_of(&bytes));
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions: Default::default() })
    }

    async fn get_ranges(&self, location: &ObjectPath, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.files().await?.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        let folder = self.clone();
        locations
            .chunks(DELETIONS)
            .then(move |locations| {
                let folder = folder.clone();
                blocking(move || Ok(folder.remove(locations)))
            })
            .map_ok(stream::iter)
            .try_flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (folder, prefix) = (self.clone(), prefix.cloned());
        let listing = async move { folder.files().await.map(|files| files.list(prefix.as_ref())) };
        stream::once(listing).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.files().await?.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.files().await?.copy_opts(from, to, options).await
    }
}

/// Runs file system work where it may block.
fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> impl Future<Output = Result<T>> + Send {
    tokio::task::spawn_blocking(work).map(|done| done.unwrap_or_else(|source| Err(Error::JoinError { source })))
}

fn version_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn version_of_payload(payload: &PutPayload) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in payload {
        hasher.update(part);
    }
    hasher.finalize().to_hex().to_string()
}

/// Makes a folder and those above it that are missing, each durably in the one above.
fn make_folders(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    for folder in missing.into_iter().rev() {
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|source| failed("making", folder, source))?,
        }
        sync_parent(folder).map_err(|source| failed("syncing the folder of", folder, source))?;
    }
    let is_folder = fs::metadata(path).map_err(|source| failed("opening", path, source))?.is_dir();
    if is_folder { Ok(()) } else { Err(failed("using", path, io::ErrorKind::NotADirectory.into())) }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests;
