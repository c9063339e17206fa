//! The stores that the engine sees: a process's way over the network, and a store that stands still.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, path::Path,
};

use crate::{
    bucket::{Bucket, generic, missing},
    network::{Network, Verb},
    process::Process,
};

/// Most keys that one request deletes; few, so that deletions take several.
const DELETED_AT_ONCE: usize = 4;

/// A process's connection to a store.
pub(crate) struct Link {
    pub(crate) network: Arc<Network>,
    pub(crate) process: Arc<Process>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated store")
    }
}

#[async_trait]
impl ObjectStore for Link {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (bytes, key, mode) = (Bytes::from(payload), location.to_string(), options.mode);
        let put = {
            let (key, mode) = (key.clone(), mode.clone());
            move |bucket: &mut Bucket| bucket.put(&key, bytes, &mode)
        };
        self.network.request(&self.process, (Verb::Put, &key), Some(&mode), put).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("nothing is put in parts")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let get = {
            let location = location.clone();
            move |bucket: &mut Bucket| bucket.get(&location, &options)
        };
        let found = self.network.request(&self.process, (Verb::Get, location.as_ref()), None, get).await?;
        Ok(found.answer(self.network.breaks()))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (network, process) = (Arc::clone(&self.network), Arc::clone(&self.process));
        let deleted = locations.ready_chunks(DELETED_AT_ONCE).then(move |batch| {
            let (network, process) = (Arc::clone(&network), Arc::clone(&process));
            async move {
                let batch: Vec<Path> = batch.into_iter().collect::<Result<_>>()?;
                let keys = batch.iter().map(Path::to_string).collect::<Vec<_>>();
                let named = keys.join(" ");
                // Some stores say that an object was not there, others do not; and of a batch a part may fail.
                let (told, spoilt) = (network.dice.one_in(2), network.breaks().then(|| network.dice.index(keys.len())));
                let delete = move |bucket: &mut Bucket| {
                    let one = |(number, key): (usize, &String)| match () {
                        () if spoilt == Some(number) => Err(generic("InternalError")),
                        () if bucket.delete(key) || !told => Ok(()),
                        () => Err(missing(key)),
                    };
                    Ok(keys.iter().enumerate().map(one).collect::<Vec<_>>())
                };
                let deleted = network.request(&process, (Verb::Delete, &named), None, delete).await?;
                Ok(batch.into_iter().zip(deleted).map(|(path, deleted)| deleted.map(|()| path)).collect::<Vec<_>>())
            }
        });
        deleted
            .flat_map(|batch: Result<Vec<Result<Path>>>| stream::iter(batch.unwrap_or_else(|error| vec![Err(error)])))
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (network, process) = (Arc::clone(&self.network), Arc::clone(&self.process));
        let folder = prefix.map_or_else(String::new, |prefix| format!("{prefix}/"));
        // Pages of a few keys, each as it is at its own moment.
        let pages = stream::try_unfold(Some(None::<String>), move |after| {
            let (network, process, folder) = (Arc::clone(&network), Arc::clone(&process), folder.clone());
            async move {
                let Some(after) = after else { return Ok(None) };
                let count = 1 + network.dice.index(6);
                let list = {
                    let folder = folder.clone();
                    move |bucket: &mut Bucket| Ok(bucket.page(&folder, after.as_deref(), count))
                };
                let page = network.request(&process, (Verb::List, &folder), None, list).await?;
                let next = (page.len() == count).then(|| page.last().map(|last| last.location.to_string()));
                Ok(Some((page, next)))
            }
        });
        let entries = pages.flat_map(|page: Result<Vec<ObjectMeta>>| {
            stream::iter(page.map_or_else(|error| vec![Err(error)], |page| page.into_iter().map(Ok).collect()))
        });
        entries.boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        panic!("nothing is listed by folders")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        panic!("nothing is copied")
    }
}

/// A store that holds what another held at one moment, and answers at once. Nothing can be written to it.
#[derive(Default)]
pub(crate) struct Still(pub(crate) Mutex<Bucket>);

impl fmt::Debug for Still {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Still {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that stands still")
    }
}

#[async_trait]
impl ObjectStore for Still {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        panic!("nothing is written here")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("nothing is written here")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.lock().unwrap().get(location, &options).map(|found| found.answer(false))
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        panic!("nothing is written here")
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let folder = prefix.map_or_else(String::new, |prefix| format!("{prefix}/"));
        let page = self.0.lock().unwrap().page(&folder, None, usize::MAX);
        stream::iter(page.into_iter().map(Ok)).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        panic!("nothing is listed by folders")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        panic!("nothing is written here")
    }
}
